// What is kept on this phone.

import * as store from './store.js';
import {TEXT} from './strings.js';
import {notice} from './words.js';

/** Do something with the store; say so if there is no room. */
export async function kept(action) {
  try {
    await action();
    return true;
  } catch (error) {
    if (!(error instanceof store.StoreError)) throw error;
    notice(error.message === 'full' ? TEXT.wrong.full : TEXT.wrong.noStore, [TEXT.reload, () => location.reload()]);
    return false;
  }
}
