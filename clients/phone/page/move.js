// Movements: two seconds of the phone's accelerometer, as edgekit/data/gestures.py describes them.

const SECONDS = 2;
const SCALE = 20; // m/s² that become 1
const LARGEST = 3;
const PATIENCE = 1500; // ms without a single reading: there is no sensor

/** The sensors may not be used, or are not there. */
export class MoveError extends Error {}

/** Record a movement: (3, rows, columns), axis by axis, one sample after the other. */
export async function record(shape) {
  const ask = globalThis.DeviceMotionEvent?.requestPermission;
  if (!globalThis.DeviceMotionEvent || (ask && (await ask.call(DeviceMotionEvent).catch(() => 'denied')) !== 'granted')) {
    throw new MoveError('permission');
  }
  const readings = [];
  const listen = ({accelerationIncludingGravity: a}) => {
    if (a && a.x !== null) readings.push([performance.now(), a.x, a.y, a.z]);
  };
  addEventListener('devicemotion', listen);
  const begun = performance.now();
  try {
    while (!readings.length && performance.now() - begun < PATIENCE) await new Promise((resolve) => setTimeout(resolve, 50));
    if (!readings.length) throw new MoveError('permission');
    await new Promise((resolve) => setTimeout(resolve, 1000 * SECONDS));
  } finally {
    removeEventListener('devicemotion', listen);
  }
  return sampled(readings, shape);
}

/** Bring readings, [ms, x, y, z], to evenly spaced samples. */
export function sampled(readings, [axes, rows, columns]) {
  const samples = rows * columns;
  const found = new Float32Array(axes * samples);
  const start = readings[0][0];
  let after = 0;
  for (let i = 0; i < samples; i++) {
    const when = start + (1000 * SECONDS * i) / samples;
    while (after < readings.length - 1 && readings[after][0] < when) after++;
    const before = Math.max(0, after - 1);
    const [t0, t1] = [readings[before][0], readings[after][0]];
    const part = t1 > t0 ? Math.min(1, Math.max(0, (when - t0) / (t1 - t0))) : 0;
    for (let axis = 0; axis < axes; axis++) {
      const value = readings[before][axis + 1] * (1 - part) + readings[after][axis + 1] * part;
      found[axis * samples + i] = Math.min(LARGEST, Math.max(-LARGEST, value / SCALE));
    }
  }
  return found;
}
