// Taking part: what the person agreed to, rounds, and the finished model.

import {work} from './asking.js';
import {kept} from './keeping.js';
import {show} from './show.js';
import {$, state} from './state.js';
import * as store from './store.js';
import {TEXT} from './strings.js';
import {tryAgain} from './trying.js';
import {notice} from './words.js';

let wakeLock;

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
export function terms() {
  const {run, activity, privacy, planned, counts, classes} = state.task.facts;
  return JSON.stringify([run, activity, privacy, planned, counts, classes]);
}

$('start').onclick = () => begin();

export async function begin() {
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
export function tellReady() {
  const same = state.loaded === state.task?.name && state.wanted === state.task?.name;
  if (state.going && same && !state.told) sendReady();
}

$('pause').onclick = () => pause(TEXT.statePaused);

export async function pause(words) {
  state.going = state.told = false;
  state.phase = words;
  state.line.send('pause');
  mayRest();
  show();
  await kept(() => store.put('facts', 'going', false));
}

export function mayRest() {
  wakeLock?.release().catch(() => {});
  wakeLock = undefined;
}

export async function keepAwake() {
  if (wakeLock && !wakeLock.released) return;
  try {
    wakeLock = await navigator.wakeLock?.request('screen');
  } catch {
    wakeLock = undefined; // the phone may sleep then; rounds go on without it
  }
}

/** Load runtime and training graph; give whether this phone can train. */
export async function load() {
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
  state.line.send('pause');
  show();
}

export function sendReady() {
  const {facts} = state.task;
  state.told = true;
  const model = state.finished ? {model: {run: state.finished.run, version: state.finished.version}} : {};
  state.line.send('ready', {...(facts.counts ? {examples: state.examples} : {}), ...model});
}

/** A round: train in the worker, send what was learnt. */
export async function round({facts: {id, round: number, task, settings}, arrays: {w}}) {
  const answer = (type, facts, arrays) => state.line.send(type, {id, round: number, ...facts}, arrays);
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
export async function delivered({facts, arrays}) {
  const {id, run, version, accuracy, tolerance} = facts;
  try {
    await work('deliver', {model: arrays.model.data, probe: arrays.probe, scores: arrays.scores, tolerance, facts: {run, version, accuracy}});
    state.finished = {run, version, accuracy};
    [state.before, state.weights] = [state.weights ?? state.before, null]; // now the delivered model is what is tried
    state.line.send('delivered', {id});
  } catch (error) {
    state.line.send('delivered', {id, problem: error.message});
  }
  state.phase = '';
  if (state.progress.finished) mayRest();
  tryAgain();
  show();
}
