// How the group is doing, for a screen on the wall: read only, no names.

import {draw} from './curve.js';
import {TEXT} from './strings.js';

const EVERY = 2000;
const MOST_ROUNDS = 12;
const $ = (name) => document.getElementById(name);
const words = TEXT.board;

for (const element of document.querySelectorAll('[data-text]')) element.textContent = words[element.dataset.text];

function row(first, ...cells) {
  const tr = document.createElement('tr');
  const th = document.createElement('th');
  th.scope = 'row';
  th.textContent = first;
  tr.append(th, ...cells.map((text) => Object.assign(document.createElement('td'), {textContent: text})));
  return tr;
}

function show({run, rounds, done = [], here = {}, privacy, finished}) {
  $('title').textContent = run ?? words.notYet;
  $('privacy').textContent = privacy ? `${privacy}.` : '';
  const newest = done.at(-1);
  const measured = done.findLast(({accuracy}) => accuracy !== null);
  $('round').textContent = newest ? `${newest.round} of ${rounds}` : '–';
  $('accuracy').textContent = measured ? words.percent(finished?.accuracy ?? measured.accuracy) : '–';
  $('epsilon').textContent = newest?.epsilon != null ? newest.epsilon.toFixed(2) : words.none;
  $('here').textContent = String(Object.values(here).reduce((sum, count) => sum + count, 0));
  draw($('curve').querySelector('svg'), done, rounds ?? 1);
  $('curve').querySelector('figcaption').textContent = measured ? TEXT.curve(measured.accuracy, measured.round, rounds) : words.notYet;
  $('kinds').replaceChildren(...Object.entries(here).map(([kind, count]) => row(words.kinds[kind] ?? kind, String(count))));
  const last = done.slice(-MOST_ROUNDS).reverse();
  $('rounds').replaceChildren(...last.map(({round, accuracy, replies, seconds}) =>
    row(String(round), accuracy === null ? '–' : words.percent(accuracy), String(replies), seconds.toFixed(1))));
}

async function look() {
  try {
    const response = await fetch('/progress');
    show(await response.json());
    $('line').textContent = TEXT.here;
    $('line').classList.add('on');
  } catch {
    $('line').textContent = TEXT.away;
    $('line').classList.remove('on');
  }
  setTimeout(look, EVERY);
}

look();
