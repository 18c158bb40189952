// Drawings: a pad for finger, pen, mouse and keyboard, and the picture that a network takes.

const FINE = 8; // points per pixel of the picture that is made
const STEP = 0.06; // of the pad's side, for an arrow key

/** A pad to draw on. Event: `change`. */
export class Pad extends EventTarget {
  constructor(canvas) {
    super();
    this.canvas = canvas;
    this.strokes = [];
    this.pen = {x: 0.5, y: 0.5, down: false, shown: false};
    canvas.width = canvas.height = 440;
    canvas.tabIndex = 0;
    canvas.addEventListener('pointerdown', (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#begin(this.#place(event));
    });
    canvas.addEventListener('pointermove', (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      for (const part of event.getCoalescedEvents?.() ?? [event]) this.strokes.at(-1).push(this.#place(part));
      this.#show();
    });
    canvas.addEventListener('pointerup', () => this.dispatchEvent(new Event('change')));
    canvas.addEventListener('keydown', (event) => this.#key(event));
    canvas.addEventListener('focus', () => this.#showPen(canvas.matches(':focus-visible')));
    canvas.addEventListener('blur', () => this.#showPen(false));
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => this.#show());
    this.#show();
  }

  get empty() {
    return !this.strokes.length;
  }

  clear() {
    this.strokes = [];
    this.pen.down = false;
    this.#show();
  }

  /** Return the drawing as a network takes it: (side, side), 0 for paper and 1 for ink. */
  picture(side) {
    return rasterise(this.strokes, side);
  }

  #begin(place) {
    this.strokes.push([place]);
    this.#show();
  }

  #key(event) {
    const moves = {ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP]};
    const {pen} = this;
    if (event.key in moves) {
      const [dx, dy] = moves[event.key];
      pen.x = Math.min(1, Math.max(0, pen.x + dx));
      pen.y = Math.min(1, Math.max(0, pen.y + dy));
      if (pen.down) this.strokes.at(-1).push([pen.x, pen.y]);
    } else if (event.key === ' ') {
      pen.down = !pen.down;
      if (pen.down) this.#begin([pen.x, pen.y]);
      else this.dispatchEvent(new Event('change'));
    } else {
      return;
    }
    event.preventDefault();
    pen.shown = true;
    this.#show();
  }

  #showPen(on) {
    this.pen.shown = on;
    this.#show();
  }

  #place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  #show() {
    const {canvas, pen} = this;
    const context = canvas.getContext('2d');
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.strokeStyle = getComputedStyle(canvas).color;
    stroke(context, this.strokes, canvas.width, 0, 0, canvas.width / 14);
    if (pen.shown) {
      context.lineWidth = 3;
      context.beginPath();
      context.arc(pen.x * canvas.width, pen.y * canvas.height, pen.down ? 12 : 20, 0, 2 * Math.PI);
      context.stroke();
    }
  }
}

function stroke(context, strokes, scale, right, down, width) {
  context.lineWidth = width;
  context.lineCap = context.lineJoin = 'round';
  for (const points of strokes) {
    context.beginPath();
    for (const [x, y] of points.length > 1 ? points : [points[0], points[0]]) context.lineTo(scale * x + right, scale * y + down);
    context.stroke();
  }
}

/**
 * Turn strokes, points of 0..1, into a picture. Small sides as in scikit-learn's digits (the drawing fills the picture),
 * larger ones as in MNIST (it fills 20 of 28, with its centre of mass in the middle).
 */
export function rasterise(strokes, side) {
  const points = strokes.flat();
  if (!points.length) return new Float32Array(side * side);
  const [xs, ys] = [points.map(([x]) => x), points.map(([, y]) => y)];
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const [width, height] = [Math.max(...xs) - left, Math.max(...ys) - top];
  const fills = side <= 16;
  const thick = fills ? side / 7.5 : side / 11;
  const room = (fills ? side : (20 / 28) * side) - thick;
  const scale = room / Math.max(width, height, 0.05);
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = side * FINE;
  const context = canvas.getContext('2d', {willReadFrequently: true});
  const draw = (right, down) => {
    context.clearRect(0, 0, canvas.width, canvas.height);
    stroke(context, strokes, scale * FINE, FINE * (right - scale * left), FINE * (down - scale * top), thick * FINE);
    return averaged(context.getImageData(0, 0, canvas.width, canvas.height).data, side);
  };
  const [right, down] = [(side - scale * width) / 2, (side - scale * height) / 2];
  const found = draw(right, down);
  if (fills) return found;
  let [sum, x, y] = [0, 0, 0];
  found.forEach((ink, i) => {
    sum += ink;
    x += ink * ((i % side) + 0.5);
    y += ink * (Math.floor(i / side) + 0.5);
  });
  return draw(right + side / 2 - x / sum, down + side / 2 - y / sum);
}

function averaged(pixels, side) {
  const found = new Float32Array(side * side);
  for (let row = 0; row < side * FINE; row++) {
    for (let column = 0; column < side * FINE; column++) {
      found[Math.floor(row / FINE) * side + Math.floor(column / FINE)] += pixels[4 * (row * side * FINE + column) + 3];
    }
  }
  return found.map((sum) => sum / (255 * FINE * FINE));
}
