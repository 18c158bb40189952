// Small changes that leave an example what it is. One is drawn each time an example is used, so that it stays one example.

const bell = (uniform) => uniform() + uniform() + uniform() - 1.5; // about -1.5 .. 1.5, mostly near 0

/** Turn, scale and shift a picture, (1, side, side), by a little. */
function picture(x, [, height, width], uniform) {
  const angle = 0.12 * bell(uniform);
  const scale = 1 + 0.07 * bell(uniform);
  const down = 0.03 * height * bell(uniform);
  const right = 0.03 * width * bell(uniform);
  const cos = Math.cos(angle) / scale;
  const sin = Math.sin(angle) / scale;
  const at = (row, column) => (row < 0 || column < 0 || row >= height || column >= width ? 0 : x[row * width + column]);
  const turned = new Float32Array(x.length);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const v = row - (height - 1) / 2 - down;
      const u = column - (width - 1) / 2 - right;
      const y = cos * v - sin * u + (height - 1) / 2;
      const z = sin * v + cos * u + (width - 1) / 2;
      const [top, left] = [Math.floor(y), Math.floor(z)];
      const [b, r] = [y - top, z - left];
      turned[row * width + column] = (1 - b) * ((1 - r) * at(top, left) + r * at(top, left + 1)) +
        b * ((1 - r) * at(top + 1, left) + r * at(top + 1, left + 1));
    }
  }
  return turned;
}

/** Shift a sound's features, (1, bands, frames), in time, and make it louder or softer. */
function sound(x, [, bands, frames], uniform) {
  const shift = Math.round(1.5 * bell(uniform));
  const louder = 0.03 * bell(uniform);
  const changed = new Float32Array(x.length);
  for (let band = 0; band < bands; band++) {
    for (let frame = 0; frame < frames; frame++) {
      const from = Math.min(frames - 1, Math.max(0, frame - shift));
      changed[band * frames + frame] = Math.max(0, x[band * frames + from] + louder);
    }
  }
  return changed;
}

/** Make a movement a little stronger or weaker. */
function movement(x, _, uniform) {
  const scale = 1 + 0.1 * bell(uniform);
  return x.map((value) => value * scale);
}

const WAYS = {draw: picture, speak: sound, move: movement};

/** Return a changed copy of an example. */
export const augment = (activity, x, shape, uniform) => WAYS[activity](x, shape, uniform);
