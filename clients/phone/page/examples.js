// The examples that people make.

import {fitting} from './fitting.js';
import {pause, sendReady} from './part.js';
import {practice} from './practice.js';
import {show} from './show.js';
import {$, LEAST, state} from './state.js';
import * as store from './store.js';
import {TEXT} from './strings.js';
import {kept} from './keeping.js';
import {notice, quietly} from './words.js';

export async function count() {
  const kept = await store.all('examples');
  state.examples = state.task ? fitting(kept, state.task.facts).length : 0;
}

export function nextLabel() {
  const {classes} = state.task.facts;
  state.label = classes[state.examples % classes.length];
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

export const addExample = (x) => change(async () => {
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
