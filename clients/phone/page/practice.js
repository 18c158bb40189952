// Practice examples, for those who only want to see it work: they come with the page and are nobody's secret.

import {unpack} from './frames.js';

const SHARE = 80; // of the set, for one phone

/** Return practice examples for a task, [{x, label}], or [] if there are none. */
export async function practice(task) {
  const names = {digits: 'practice-digits.bin', gestures: 'practice-gestures.bin'};
  const drawn = task.activity === 'draw' && task.classes.every((label) => /^\d$/.test(label));
  const name = drawn ? names.digits : names[task.source];
  if (!name) return [];
  const response = await fetch(name);
  if (!response.ok) return [];
  const {arrays: {x, y}, facts} = unpack(await response.arrayBuffer());
  const [count, ...shape] = x.shape;
  const size = x.data.length / count;
  const chosen = Array.from({length: count}, (_, i) => i).filter((i) => task.classes.includes(facts.classes[y.data[i]]));
  for (let i = chosen.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [chosen[i], chosen[j]] = [chosen[j], chosen[i]];
  }
  return chosen.slice(0, SHARE).map((i) => {
    const raw = Float32Array.from(x.data.subarray(i * size, (i + 1) * size), (value) => (value - facts.offset) / facts.scale);
    return {x: drawn ? enlarged(raw, shape.at(-1), task.shape[1]) : raw, label: facts.classes[y.data[i]]};
  });
}

/** Bring a picture of one side to another; larger ones get the margin of MNIST. */
function enlarged(x, from, side) {
  if (from === side) return x;
  const margin = side > 16 ? Math.round((side * 4) / 28) : 0;
  const inner = side - 2 * margin;
  const found = new Float32Array(side * side);
  const at = (row, column) => x[Math.min(from - 1, Math.max(0, row)) * from + Math.min(from - 1, Math.max(0, column))];
  for (let row = 0; row < inner; row++) {
    for (let column = 0; column < inner; column++) {
      const [v, u] = [((row + 0.5) * from) / inner - 0.5, ((column + 0.5) * from) / inner - 0.5];
      const [top, left] = [Math.floor(v), Math.floor(u)];
      const [b, r] = [v - top, u - left];
      found[(row + margin) * side + column + margin] = (1 - b) * ((1 - r) * at(top, left) + r * at(top, left + 1)) +
        b * ((1 - r) * at(top + 1, left) + r * at(top + 1, left + 1));
    }
  }
  return found;
}
