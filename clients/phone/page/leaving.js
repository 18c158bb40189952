// Leaving the group, and deleting everything.

import {worker} from './asking.js';
import {kept} from './keeping.js';
import {mayRest} from './part.js';
import {$, state} from './state.js';
import * as store from './store.js';
import {TEXT} from './strings.js';
import {notice, showLine, sure} from './words.js';

const GOODBYE = 5000; // ms that the gateway may take to forget this phone

/** Lets another page of this phone take its place. */
export const held = {letGo: () => {}};

$('leave').onclick = async () => {
  if (!state.line.welcomed) return notice(TEXT.wrong.leaveOffline);
  if (!(await sure(TEXT.sureLeave, TEXT.yesLeave))) return undefined;
  return leave(async (told) => {
    for (const key of ['identity', 'consent', 'going']) await store.remove('facts', key);
    return told ? TEXT.wrong.left : TEXT.wrong.leftUntold;
  });
};

$('delete').onclick = async () => {
  if (!(await sure(TEXT.sureDelete, TEXT.yesDelete))) return;
  await leave(async (told) => {
    await store.wipe();
    for (const name of await globalThis.caches?.keys() ?? []) await caches.delete(name);
    for (const registered of await navigator.serviceWorker?.getRegistrations() ?? []) await registered.unregister();
    return told ? TEXT.wrong.deleted : TEXT.wrong.deletedUntold;
  });
};

/** End: the worker first, so that nothing is learnt or kept any more; then the group is told; then `forget`. */
async function leave(forget) {
  state.over = true;
  state.going = false;
  mayRest();
  worker.terminate();
  const told = await new Promise((resolve) => {
    state.line.addEventListener('frame', ({detail}) => { if (detail.type === 'left') resolve(true); });
    setTimeout(() => resolve(false), GOODBYE);
    if (!state.line.send('leave')) resolve(false);
  });
  state.line.stop();
  for (const name of ['about', 'learn', 'examples', 'try', 'sent', 'going']) $(name).hidden = true;
  showLine(TEXT.ended, false);
  await kept(async () => notice(await forget(told)));
  held.letGo();
}
