// Trying the network, as it is and as it was.

import {work} from './asking.js';
import {$, state} from './state.js';
import {TEXT} from './strings.js';
import {notice} from './words.js';

export async function tryAgain() {
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
