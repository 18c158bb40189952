// The page: it joins, hears what the gateway says, and begins.

import {work} from './asking.js';
import {addExample, count, nextLabel} from './examples.js';
import {kept} from './keeping.js';
import {held} from './leaving.js';
import {Line} from './line.js';
import {fill} from './makers.js';
import {begin, delivered, keepAwake, load, pause, round, tellReady, terms} from './part.js';
import {listSent, sent, wasSent} from './sent.js';
import {show} from './show.js';
import {$, LEAST, state} from './state.js';
import * as store from './store.js';
import {TEXT} from './strings.js';
import {tryAgain} from './trying.js';
import {notice, quietly, showLine} from './words.js';

const ROOM = 1 << 20; // bytes that there must be room for

async function hello() {
  const identity = await store.get('facts', 'identity');
  const task = await store.get('files', 'task');
  const has = task ? {has: task.name} : {};
  const ticket = new URLSearchParams(location.hash.slice(1)).get('t');
  if (identity) return {...identity, ...has};
  if (!ticket) {
    notice(TEXT.wrong.noScan);
    throw new Error(TEXT.wrong.noScan[1]);
  }
  // Made here and kept before it is said: a welcome that is lost on the way costs no code.
  let pending = await store.get('facts', 'pending');
  if (pending?.ticket !== ticket) {
    const secret = [...crypto.getRandomValues(new Uint8Array(32))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
    pending = {ticket, secret};
    await store.put('facts', 'pending', pending);
  }
  return {...pending, agent: agent(), ...has};
}

/** What this is, in two words: shown to whoever runs the group. */
function agent() {
  const words = navigator.userAgent;
  const system = ['Android', 'iPhone', 'iPad', 'Windows', 'Mac', 'Linux'].find((name) => words.includes(name)) ?? '';
  const browser = ['Firefox', 'Edg', 'Chrome', 'Safari'].find((name) => words.includes(name)) ?? '';
  return `${system} ${browser.replace('Edg', 'Edge')}`.trim();
}

const heard = {
  async welcome({facts}) {
    const pending = await store.get('facts', 'pending');
    const came = pending && !(await store.get('facts', 'identity'));
    if (came && !(await kept(() => store.put('facts', 'identity', {phone: facts.phone, secret: pending.secret})))) {
      return state.line.stop(); // without it, nobody would know this phone again
    }
    if (pending) await store.remove('facts', 'pending');
    if (location.hash) history.replaceState(null, '', location.pathname); // the ticket is used up
    state.told = state.offline = false;
    quietly();
    showLine(TEXT.here, true);
    return undefined;
  },

  async task({facts: {name, task, training}, arrays: {graph}}) {
    state.wanted = name;
    const kept = (await store.get('files', 'task')) ?? {};
    const content = graph ? graph.data.slice() : kept.name === name && kept.graph;
    if (!content) return state.line.send('want');
    if (graph) await keepTask({name, facts: task, training, graph: content});
    await useTask({name, facts: task, training, graph: content});
    return undefined;
  },

  progress({facts: {progress, task}}) {
    state.progress = progress;
    if (task && task !== state.wanted) state.line.send('want');
    state.wanted = task;
    tellReady();
    show();
  },

  train: round,
  deliver: delivered,
  left() {},
  refused() {},
};

const keepTask = (task) => kept(() => store.put('files', 'task', task));

/** A task is here, kept or new. */
async function useTask(task) {
  const changed = state.task?.name !== task.name;
  state.task = task;
  await count();
  state.consent = state.consented === terms();
  if (state.consent) state.watching = false;
  if (state.going && (!state.consent || state.examples < LEAST)) await pause('');
  else if (changed && state.told) {
    state.told = false; // until the new task is loaded
    state.line.send('pause');
  }
  if (!task.facts.activity) {
    notice(TEXT.wrong.activity, [TEXT.watch, () => { quietly(); state.watching = true; show(); }]);
    return show();
  }
  if (changed) {
    Object.assign(state, {weights: null, before: null, probe: null});
    nextLabel();
    const {facts} = task;
    const wrong = (problem) => (problem ? notice(problem) : quietly());
    fill($('maker'), facts, TEXT.keep, addExample, wrong);
    $('try-task').textContent = TEXT.try[facts.activity];
    fill($('tester'), facts, TEXT.guess, async (x) => {
      state.probe = x;
      if (!(state.weights || state.finished)) $('try-task').textContent = TEXT.tryFirst;
      else if (await load()) tryAgain();
    }, wrong);
    if (state.finished?.run !== facts.run) state.finished = null;
  }
  if (state.going) await begin();
  return show();
}

/** See what this browser lacks; give [title, what to do], or nothing. */
async function lacking() {
  if (!globalThis.isSecureContext) return TEXT.wrong.noContext;
  if (typeof WebAssembly !== 'object') return TEXT.wrong.noWasm;
  try { // before the code is used up: what joining gives must be kept
    await store.put('facts', 'room', new Uint8Array(ROOM));
    await store.remove('facts', 'room');
  } catch (error) {
    return error.message === 'full' ? TEXT.wrong.full : TEXT.wrong.noStore;
  }
  return undefined;
}

async function main() {
  showLine(TEXT.connecting, false);
  const problem = await lacking();
  if (problem) {
    showLine(TEXT.away, false);
    notice(problem, [TEXT.reload, () => location.reload()]);
    return;
  }
  const alone = await new Promise((resolve) => {
    if (!navigator.locks) return resolve(true);
    return navigator.locks.request('edgekit', {ifAvailable: true}, (lock) => {
      resolve(Boolean(lock));
      return lock ? new Promise((done) => { held.letGo = done; }) : undefined; // held until this phone leaves
    });
  });
  if (!alone) {
    showLine(TEXT.away, false);
    notice(TEXT.wrong.elsewhere, [TEXT.reload, () => location.reload()]);
    return;
  }
  navigator.serviceWorker?.register('sw.js').catch(() => {}); // with a certificate of our own, browsers refuse it: no offline use then
  state.consented = (await store.get('facts', 'consent')) ?? '';
  state.going = Boolean(await store.get('facts', 'going'));
  state.practising = Boolean(await store.get('facts', 'practising'));
  Object.assign(sent, await store.get('facts', 'sent'));
  if (sent.count) listSent(...sent.lines);
  state.finished = await work('recall').catch(() => null);
  const task = await store.get('files', 'task');
  state.line = new Line(hello);
  state.line.addEventListener('frame', ({detail}) => heard[detail.type]?.(detail));
  state.line.addEventListener('sent', ({detail}) => wasSent(detail));
  state.line.addEventListener('away', ({detail: {reason}}) => {
    state.offline = true;
    showLine(TEXT.away, false);
    if (reason) notice(TEXT.wrong.unclear(reason), [TEXT.reload, () => location.reload()]);
    show();
  });
  state.line.addEventListener('refused', async ({detail: {code, reason}}) => {
    showLine(TEXT.ended, false);
    state.refused = true;
    show();
    if (code === 4409) return notice(TEXT.wrong.elsewhere, [TEXT.reload, () => location.reload()]);
    if (code !== 4401) return undefined;
    const ticket = new URLSearchParams(location.hash.slice(1)).get('t');
    if (ticket && (await store.get('facts', 'identity'))) {
      await store.remove('facts', 'identity'); // forgotten there: come in anew, by the code that was scanned
      return location.reload();
    }
    await store.remove('facts', 'identity');
    return notice(TEXT.wrong.refused(reason));
  });
  if (task && state.consented) {
    state.wanted = task.name;
    await useTask(task);
  }
  show();
}

addEventListener('hashchange', () => { // another code was scanned
  if (location.hash.includes('t=')) location.reload();
});
addEventListener('online', () => state.line?.hurry());
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState !== 'visible') return;
  state.line?.hurry();
  if (state.going) keepAwake();
});

main();
