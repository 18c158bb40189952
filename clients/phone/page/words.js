// What the page says to people. All words are in strings.js.

import {$} from './state.js';
import {TEXT} from './strings.js';

for (const element of document.querySelectorAll('[data-text]')) element.textContent = TEXT[element.dataset.text];

/** Say what is wrong and what to do; `action` is [words, function] of a button. */
export function notice([title, text], action) {
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

export const quietly = () => { $('notice').hidden = true; };

export function sure(question, yes) {
  const dialog = $('sure');
  $('sure-text').textContent = question;
  $('sure-yes').textContent = yes;
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), {once: true});
  });
}

export function showLine(text, on) {
  const pill = $('line');
  if (pill.textContent !== text) pill.textContent = text;
  pill.classList.toggle('on', on);
}
