// The page: who is here, what is learnt, and what the person wants. All words are in strings.js.

import * as store from './store.js';
import {draw as drawCurve} from './curve.js';
import {fill} from './makers.js';
import {fitting} from './fitting.js';
import {limitOf} from './ledger.js';
import {Line} from './line.js';
import {practice} from './practice.js';
import {TEXT} from './strings.js';

const LEAST = 10; // examples to start with
const MOST_SENT = 200; // lines of what was sent
const GOODBYE = 5000; // ms that the gateway may take to forget this phone
const ROOM = 1 << 20; // bytes that there must be room for
const $ = (name) => document.getElementById(name);

const state = {
  task: null, // {name, facts, training, graph}
  wanted: '', // name of the task that the gateway has
  loaded: '', // and of the one that the worker has
  told: false, // whether the gateway knows that this phone is ready
  progress: {},
  consent: false, // to this task, in these words
  consented: '', // what the person agreed to last
  watching: false,
  going: false, // the person pressed Start
  practising: false,
  examples: 0,
  label: '',
  weights: null, // of the newest round
  before: null, // and of the one before
  probe: null, // the example to try
  phase: '', // what learning is at, in words
  trouble: false, // learning cannot go on
  finished: null, // the model that was delivered
  spent: null,
  refused: false, // the group does not let this phone in
  offline: false, // the connection was lost
  over: false, // this phone has left
};
let line;
let wakeLock;
let letGo = () => {};

// The worker, asked by name.
const worker = new Worker('worker.js');
const waiting = new Map();
let asked = 0;
worker.onmessage = ({data: {id, result, error, step}}) => {
  const entry = waiting.get(id);
  if (step) return entry?.step(step);
  waiting.delete(id);
  return error ? entry?.reject(Object.assign(new Error(error.message), {name: error.name})) : entry?.resolve(result);
};
function work(action, given = {}, transfer = [], step = () => {}) {
  return new Promise((resolve, reject) => {
    waiting.set(++asked, {resolve, reject, step});
    worker.postMessage({id: asked, action, given}, transfer);
  });
}

// Words.

for (const element of document.querySelectorAll('[data-text]')) element.textContent = TEXT[element.dataset.text];

/** Say what is wrong and what to do; `action` is [words, function] of a button. */
function notice([title, text], action) {
  const card = $('notice');
  card.querySelector('h2').textContent = title;
  card.querySelector('p').textContent = text;
  const button = card.querySelector('button');
  button.hidden = !action;
  if (action) {
    [button.textContent, button.onclick] = action;
  }
  card.hidden = false;
}

const quietly = () => { $('notice').hidden = true; };

function sure(question, yes) {
  const dialog = $('sure');
  $('sure-text').textContent = question;
  $('sure-yes').textContent = yes;
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), {once: true});
  });
}

function showLine(text, on) {
  const pill = $('line');
  if (pill.textContent !== text) pill.textContent = text;
  pill.classList.toggle('on', on);
}

// What is shown.

const list = (classes) => (classes.length > 12 ? `${classes.slice(0, 10).join(', ')} … ${classes.at(-1)}` : classes.join(', '));

function show() {
  if (state.over) return;
  const {task, progress, consent, watching} = state;
  const facts = task?.facts;
  const fits = facts?.activity;
  $('about').hidden = consent || watching || state.refused || Boolean(facts && !fits);
  if (!$('about').hidden) showAbout();
  $('learn').hidden = !(consent || watching);
  $('examples').hidden = !(consent && fits);
  $('try').hidden = !(fits && (consent || state.finished));
  $('take-part').hidden = !(watching && fits);
  $('sent').hidden = $('going').hidden = !(consent || watching);
  $('start').hidden = !consent || state.going || state.trouble;
  $('start').disabled = !fits || state.examples < LEAST;
  $('pause').hidden = !state.going || state.trouble || Boolean(progress.finished);
  $('state').textContent = phase();
  const done = progress.done ?? [];
  const last = done.findLast?.(({accuracy}) => accuracy !== null);
  $('curve').hidden = !last;
  if (last) {
    drawCurve($('curve').querySelector('svg'), done, progress.rounds);
    $('curve').querySelector('figcaption').textContent = TEXT.curve(last.accuracy, last.round, progress.rounds);
  }
  $('spent').hidden = !(state.spent && consent);
  if (state.spent) {
    $('spent-label').textContent = TEXT.spent(state.spent.epsilon, state.spent.limit);
    $('spent-meter').value = Math.min(1, state.spent.epsilon / state.spent.limit);
  }
  if (!$('examples').hidden) showExamples();
}

function showAbout() {
  const facts = state.task?.facts;
  const known = Boolean(facts?.activity);
  $('about').querySelector('dl').hidden = $('about').querySelector('.row').hidden = !known;
  $('about-title').textContent = known ? TEXT.aboutTitle(facts.run) : TEXT.connecting;
  $('about-what').textContent = known ? TEXT.what[facts.activity](list(facts.classes)) : TEXT.noTask;
  if (!known) return;
  $('about-stays').textContent = TEXT.stays[facts.activity];
  $('about-leaves').textContent = TEXT.leaves(facts.counts);
  $('about-privacy').textContent = facts.planned ? TEXT.protected(limitOf(facts.planned)) : `${facts.privacy}.`;
  $('about-cost').textContent = TEXT.cost(4 * numbers(state.task.training));
}

function showExamples() {
  const {facts} = state.task;
  $('examples-title').textContent = TEXT.makeTitle[facts.activity];
  $('examples-task').textContent = TEXT.make[facts.activity](state.label);
  $('examples-count').textContent = state.practising ? TEXT.practising(state.examples) : TEXT.have(state.examples, LEAST);
  $('practise').hidden = state.practising || state.examples >= LEAST;
  $('forget-last').hidden = state.practising || !state.examples;
}

function phase() {
  if (state.offline && !state.progress.finished && !state.trouble) return TEXT.stateOffline;
  if (state.watching) return TEXT.stateWatching;
  if (state.phase) return state.phase;
  if (state.progress.finished) return TEXT.stateFinished(state.progress.finished.accuracy);
  if (state.examples < LEAST) return TEXT.stateMake(LEAST);
  return state.going ? TEXT.stateWaiting : TEXT.stateReady;
}

const numbers = (training) => training.parameters.reduce((sum, {shape}) => sum + shape.reduce((a, b) => a * b, 1), 0);

// Examples.

async function count() {
  const kept = await store.all('examples');
  state.examples = state.task ? fitting(kept, state.task.facts).length : 0;
}

function nextLabel() {
  const {classes} = state.task.facts;
  state.label = classes[state.examples % classes.length];
}

/** Do something with the store; say so if there is no room. */
async function kept(action) {
  try {
    await action();
    return true;
  } catch (error) {
    if (!(error instanceof store.StoreError)) throw error;
    notice(error.message === 'full' ? TEXT.wrong.full : TEXT.wrong.noStore, [TEXT.reload, () => location.reload()]);
    return false;
  }
}

/** Change the examples: what was learnt from the old ones is other work than what is learnt from the new. */
async function change(action) {
  const done = await kept(async () => {
    await action();
    await store.put('facts', 'examples-version', crypto.randomUUID());
  });
  await count();
  nextLabel();
  if (state.going && state.examples < LEAST) await pause('');
  else if (state.told && done) sendReady();
  show();
}

const addExample = (x) => change(async () => {
  quietly();
  if (state.practising) {
    for (const key of await store.keys('examples')) await store.remove('examples', key);
    state.practising = false;
    await store.put('facts', 'practising', false);
  }
  await store.add('examples', {x, label: state.label, task: state.task.name});
});

$('practise').onclick = () => change(async () => {
  const found = await practice(state.task.facts).catch(() => []);
  if (!found.length) {
    notice([TEXT.makeTitle[state.task.facts.activity], TEXT.noPractice]);
    return;
  }
  quietly();
  for (const key of await store.keys('examples')) await store.remove('examples', key);
  for (const example of found) await store.add('examples', {...example, task: state.task.name});
  state.practising = true;
  await store.put('facts', 'practising', true);
});

$('forget-last').onclick = () => change(async () => {
  const keys = await store.keys('examples');
  if (keys.length) await store.remove('examples', keys.at(-1));
});

// Taking part.

$('consent').onclick = async () => {
  const agreed = terms();
  if (!(await kept(() => store.put('facts', 'consent', agreed)))) return;
  state.consent = true;
  state.consented = agreed;
  state.watching = false;
  navigator.storage?.persist?.();
  show();
  $('examples-title').scrollIntoView({block: 'nearest'});
};

$('watch').onclick = () => {
  state.watching = true;
  show();
};

$('take-part').onclick = () => {
  state.watching = false;
  show();
};

/** What a person agrees to: another task, or other privacy, is asked about anew. */
function terms() {
  const {run, activity, privacy, planned, counts, classes} = state.task.facts;
  return JSON.stringify([run, activity, privacy, planned, counts, classes]);
}

$('start').onclick = () => begin();

async function begin() {
  state.going = true;
  state.phase = TEXT.stateLoading;
  show();
  if (!(await kept(() => store.put('facts', 'going', true)))) {
    state.going = false;
    state.phase = '';
    return show();
  }
  keepAwake();
  if (await load()) {
    state.phase = '';
    state.loaded = state.task.name;
    tellReady();
  }
  return show();
}

/** Say once on each connection that this phone is ready, as soon as both sides mean the same task. */
function tellReady() {
  const same = state.loaded === state.task?.name && state.wanted === state.task?.name;
  if (state.going && same && !state.told) sendReady();
}

$('pause').onclick = () => pause(TEXT.statePaused);

async function pause(words) {
  state.going = state.told = false;
  state.phase = words;
  line.send('pause');
  mayRest();
  show();
  await kept(() => store.put('facts', 'going', false));
}

function mayRest() {
  wakeLock?.release().catch(() => {});
  wakeLock = undefined;
}

async function keepAwake() {
  if (wakeLock && !wakeLock.released) return;
  try {
    wakeLock = await navigator.wakeLock?.request('screen');
  } catch {
    wakeLock = undefined; // the phone may sleep then; rounds go on without it
  }
}

/** Load runtime and training graph; give whether this phone can train. */
async function load() {
  const {name, facts, training, graph} = state.task;
  try {
    await work('load', {name, facts, training, graph, offline: Boolean(navigator.serviceWorker?.controller)});
    if (facts.planned) state.spent = await work('spent', {planned: facts.planned});
    return true;
  } catch (error) {
    cannot(TEXT.wrong.model(error.message));
    return false;
  }
}

function cannot(problem) {
  state.trouble = true;
  state.going = state.told = false;
  state.phase = problem[0];
  mayRest();
  notice(problem);
  line.send('pause');
  show();
}

function sendReady() {
  const {facts} = state.task;
  state.told = true;
  const model = state.finished ? {model: {run: state.finished.run, version: state.finished.version}} : {};
  line.send('ready', {...(facts.counts ? {examples: state.examples} : {}), ...model});
}

/** A round: train in the worker, send what was learnt. */
async function round({facts: {id, round: number, task, settings}, arrays: {w}}) {
  const answer = (type, facts, arrays) => line.send(type, {id, round: number, ...facts}, arrays);
  if (!state.going) return answer('declined', {problem: 'paused'});
  if (task !== state.task?.name) return answer('failed', {problem: 'the page has another task'});
  state.before = state.weights;
  state.weights = w.data;
  state.phase = TEXT.stateTraining(number);
  show();
  tryAgain();
  const bar = $('steps');
  bar.hidden = false;
  try {
    const {planned, counts} = state.task.facts;
    const reply = await work('train', {name: task, settings, w: w.data, planned}, [], ({done, of}) => { bar.value = done / of; });
    if (reply.spent) state.spent = reply.spent;
    if (!state.going) return answer('declined', {problem: 'paused'}); // it is kept, and sent when it is asked for again
    const figures = counts && settings.work === 'sgd' && !settings.update_clip ? {examples: reply.examples, loss: reply.loss} : {};
    answer('update', figures, {w: {shape: [reply.w.length], data: reply.w}});
    state.phase = TEXT.stateSent(number);
  } catch (error) {
    answer('failed', {problem: error.message});
    if (error.name === 'PrivacyError') return cannot(TEXT.wrong.spent);
    if (error.name === 'StoreError') return cannot(error.message === 'full' ? TEXT.wrong.full : TEXT.wrong.noStore);
    state.phase = TEXT.stateFailed(error.message);
  } finally {
    bar.hidden = true;
    bar.value = 0;
    show();
  }
  return undefined;
}

/** The finished model comes: it is tested here before it counts. */
async function delivered({facts, arrays}) {
  const {id, run, version, accuracy, tolerance} = facts;
  try {
    await work('deliver', {model: arrays.model.data, probe: arrays.probe, scores: arrays.scores, tolerance, facts: {run, version, accuracy}});
    state.finished = {run, version, accuracy};
    [state.before, state.weights] = [state.weights ?? state.before, null]; // now the delivered model is what is tried
    line.send('delivered', {id});
  } catch (error) {
    line.send('delivered', {id, problem: error.message});
  }
  state.phase = '';
  if (state.progress.finished) mayRest();
  tryAgain();
  show();
}

// Trying the network.

async function tryAgain() {
  if (!state.probe || !(state.weights || state.finished)) return;
  const look = (w) => work('look', {w, x: state.probe, shape: state.task.facts.shape});
  try {
    const now = await look(state.weights);
    const before = state.before ? await look(state.before) : null;
    const {classes} = state.task.facts;
    const order = classes.map((_, i) => i).sort((a, b) => now[b] - now[a]).slice(0, 5);
    const table = $('guess');
    table.querySelector('caption').textContent = TEXT.guessed(classes[order[0]]);
    table.querySelector('tbody').replaceChildren(...order.map((i) => {
      const tr = document.createElement('tr');
      const th = document.createElement('th');
      th.scope = 'row';
      th.textContent = classes[i];
      tr.append(th, cell(before?.[i]), cell(now[i]));
      return tr;
    }));
    table.hidden = false;
  } catch (error) {
    notice(TEXT.wrong.model(error.message));
  }
}

function cell(share) {
  const td = document.createElement('td');
  if (share === undefined) {
    td.textContent = '–';
    return td;
  }
  const bar = document.createElement('span');
  bar.style.width = `${Math.max(2, 70 * share)}%`;
  td.append(bar, `${Math.round(100 * share)} %`);
  return td;
}

// What was sent.

const sent = {count: 0, bytes: 0, lines: []};

function wasSent({type, facts, bytes}) {
  const words = TEXT.sent[type];
  const clock = new Date().toLocaleTimeString();
  sent.count += 1;
  sent.bytes += bytes;
  sent.lines.push(`${clock} ${typeof words === 'function' ? words(facts) : words} (${TEXT.size(bytes)})`);
  sent.lines.splice(0, sent.lines.length - MOST_SENT);
  listSent(sent.lines.at(-1));
  store.put('facts', 'sent', {...sent}).catch(() => {}); // for people: what it says happened all the same
}

function listSent(...lines) {
  $('sent-sum').textContent = TEXT.sentSum(sent.count, sent.bytes);
  for (const line of lines) $('sent-list').prepend(Object.assign(document.createElement('li'), {textContent: line}));
  while ($('sent-list').children.length > MOST_SENT) $('sent-list').lastChild.remove();
}

// Leaving.

$('leave').onclick = async () => {
  if (!line.welcomed) return notice(TEXT.wrong.leaveOffline);
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
    line.addEventListener('frame', ({detail}) => { if (detail.type === 'left') resolve(true); });
    setTimeout(() => resolve(false), GOODBYE);
    if (!line.send('leave')) resolve(false);
  });
  line.stop();
  for (const name of ['about', 'learn', 'examples', 'try', 'sent', 'going']) $(name).hidden = true;
  showLine(TEXT.ended, false);
  await kept(async () => notice(await forget(told)));
  letGo();
}

// The line.

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
      return line.stop(); // without it, nobody would know this phone again
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
    if (!content) return line.send('want');
    if (graph) await keepTask({name, facts: task, training, graph: content});
    await useTask({name, facts: task, training, graph: content});
    return undefined;
  },

  progress({facts: {progress, task}}) {
    state.progress = progress;
    if (task && task !== state.wanted) line.send('want');
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
    line.send('pause');
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
      return lock ? new Promise((done) => { letGo = done; }) : undefined; // held until this phone leaves
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
  line = new Line(hello);
  line.addEventListener('frame', ({detail}) => heard[detail.type]?.(detail));
  line.addEventListener('sent', ({detail}) => wasSent(detail));
  line.addEventListener('away', ({detail: {reason}}) => {
    state.offline = true;
    showLine(TEXT.away, false);
    if (reason) notice(TEXT.wrong.unclear(reason), [TEXT.reload, () => location.reload()]);
    show();
  });
  line.addEventListener('refused', async ({detail: {code, reason}}) => {
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
addEventListener('online', () => line?.hurry());
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState !== 'visible') return;
  line?.hurry();
  if (state.going) keepAwake();
});

main();
