// What is shown, by what the page knows.

import {draw as drawCurve} from './curve.js';
import {limitOf} from './ledger.js';
import {$, LEAST, state} from './state.js';
import {TEXT} from './strings.js';

const list = (classes) => (classes.length > 12 ? `${classes.slice(0, 10).join(', ')} … ${classes.at(-1)}` : classes.join(', '));

export function show() {
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
