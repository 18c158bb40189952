// What the phone keeps, in the browser's own database: nothing of it leaves the phone by itself.

const NAME = 'edgekit';
const VERSION = 1;
const STORES = ['facts', 'examples', 'ledger', 'files'];

/** The phone cannot keep something. */
export class StoreError extends Error {
  name = 'StoreError';
}

let opened;

function open() {
  opened ??= new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, VERSION);
    request.onupgradeneeded = () => {
      for (const name of STORES) request.result.createObjectStore(name, name === 'examples' ? {autoIncrement: true} : undefined);
    };
    request.onsuccess = () => {
      request.result.onversionchange = () => request.result.close();
      resolve(request.result);
    };
    request.onerror = () => reject(new StoreError(String(request.error)));
  });
  return opened;
}

/** Do something in one store, whole or not at all; give its result once it is on the disk. */
async function work(name, mode, action) {
  const database = await open();
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(name, mode, {durability: 'strict'});
    const failed = (error) => reject(new StoreError(error?.name === 'QuotaExceededError' ? 'full' : String(error)));
    transaction.onabort = () => failed(transaction.error);
    transaction.onerror = (event) => failed(event.target.error ?? transaction.error);
    try {
      const request = action(transaction.objectStore(name));
      transaction.oncomplete = () => resolve(request?.result);
    } catch (error) {
      failed(error);
    }
  });
}

export const get = (store, key) => work(store, 'readonly', (s) => s.get(key));
export const all = (store) => work(store, 'readonly', (s) => s.getAll());
export const keys = (store) => work(store, 'readonly', (s) => s.getAllKeys());
export const count = (store) => work(store, 'readonly', (s) => s.count());
export const put = (store, key, value) => work(store, 'readwrite', (s) => s.put(value, key));
export const add = (store, value) => work(store, 'readwrite', (s) => s.add(value));
export const remove = (store, key) => work(store, 'readwrite', (s) => s.delete(key));

/** Put one thing into a store and drop all others there. */
export const only = (store, key, value) => work(store, 'readwrite', (s) => {
  s.clear();
  return s.put(value, key);
});

/** Delete everything that this phone keeps. */
export async function wipe() {
  for (const name of STORES) await work(name, 'readwrite', (s) => s.clear());
}
