// How a person makes an example of each activity, in the page.

import {Pad} from './draw.js';
import {logMel, record as hear, SpeakError} from './speak.js';
import {MoveError, record as feel} from './move.js';
import {TEXT} from './strings.js';

function button(text, quiet = false) {
  const made = document.createElement('button');
  made.type = 'button';
  made.textContent = text;
  made.classList.toggle('quiet', quiet);
  return made;
}

function row(...children) {
  const made = document.createElement('div');
  made.className = 'row';
  made.append(...children);
  return made;
}

/**
 * Fill a place with what makes examples.
 * @param {Element} place
 * @param {{activity: string, shape: number[], audio: object}} task
 * @param {string} verb what the main button says
 * @param {(x: Float32Array) => void} made called with each example
 * @param {(problem?: [string, string]) => void} wrong called with a title and what to do; with nothing, when it is tried again
 */
export function fill(place, task, verb, made, wrong) {
  place.replaceChildren();
  if (task.activity === 'draw') {
    const canvas = document.createElement('canvas');
    canvas.className = 'pad';
    canvas.setAttribute('role', 'img');
    canvas.setAttribute('aria-label', TEXT.pad);
    const pad = new Pad(canvas);
    const keep = button(verb);
    const clear = button(TEXT.clear, true);
    keep.onclick = () => {
      if (pad.empty) return;
      const x = pad.picture(task.shape[1]);
      if (verb !== TEXT.guess) pad.clear();
      made(x);
    };
    canvas.addEventListener('keydown', (event) => { if (event.key === 'Enter') keep.click(); });
    clear.onclick = () => pad.clear();
    place.append(canvas, row(keep, clear));
    return;
  }
  const start = button(TEXT.record);
  const level = document.createElement('div');
  level.className = 'level';
  const bar = document.createElement('span');
  level.append(bar);
  start.onclick = async () => {
    start.disabled = true;
    start.textContent = TEXT.recording;
    wrong();
    try {
      if (task.activity === 'speak') {
        made(logMel(await hear(task.audio, (value) => { bar.style.width = `${100 * value}%`; }), task.audio));
      } else {
        made(await feel(task.shape));
      }
    } catch (error) {
      if (!(error instanceof SpeakError || error instanceof MoveError)) throw error;
      wrong(error.message === 'silent' ? TEXT.wrong.silent : TEXT.wrong.permission[task.activity]);
    } finally {
      start.disabled = false;
      start.textContent = TEXT.record;
      bar.style.width = '0';
    }
  };
  place.append(...(task.activity === 'speak' ? [level] : []), row(start));
}
