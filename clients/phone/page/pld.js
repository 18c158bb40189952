// Privacy loss distributions of Gaussian mechanisms: privacy/pld.py, in the page, step by step. Its sources stand there.

const POINTS = 1 << 15;
const MANY = 20_000;
const CUT = 1e-4;
const LARGEST = 500;
const TILTS = Array.from({length: 16}, (_, i) => 2 ** (i - 4));

/** The complementary error function: a series of positive terms near zero, a continued fraction beyond. */
function erfc(x) {
  if (x < 0) return 2 - erfc(-x);
  if (x < 2.5) {
    let [term, sum] = [x, x];
    for (let n = 1; term > 1e-17 * sum; n++) {
      term *= (2 * x * x) / (2 * n + 1);
      sum += term;
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
  }
  let fraction = x;
  for (let n = 60; n > 0; n--) fraction = x + n / 2 / fraction;
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / fraction;
}

/** A standard normal's chance to be above z. */
const above = (z) => erfc(z / Math.SQRT2) / 2;

const logAbove = (z) => (z < 30 ? Math.log(above(z)) : (-z * z) / 2 - Math.log(z * Math.sqrt(2 * Math.PI)) + Math.log1p(-1 / (z * z + 3)));

/** Epsilon of a mechanism that tells N(0, 1) from N(mu, 1), exactly. */
export function gaussianEpsilon(mu, delta) {
  if (!mu) return 0;
  if (mu > 1e6) return Infinity;
  const spent = (epsilon) => above(epsilon / mu - mu / 2) - Math.exp(epsilon + logAbove(epsilon / mu + mu / 2));
  if (spent(0) <= delta) return 0;
  let [low, high] = [0, 1];
  while (spent(high) > delta) [low, high] = [high, 2 * high];
  while (high - low > 1e-9 * high) {
    const middle = (low + high) / 2;
    [low, high] = spent(middle) > delta ? [middle, high] : [low, middle];
  }
  return high;
}

/** Delta of one step at an epsilon: of N(0) and the mixture with N(1), in this order if `adding`. */
function hockeyStick(loss, noise, rate, adding) {
  const grown = Math.expm1(adding ? -loss : loss) + rate;
  if (!(grown > 0)) return adding ? 0 : -Math.expm1(loss);
  const at = noise * noise * Math.log(grown / rate) + 0.5;
  if (adding) {
    const [none, sampled] = [above(-at / noise), above((1 - at) / noise)];
    return Math.max(0, none - Math.exp(loss) * ((1 - rate) * none + rate * sampled));
  }
  const [none, sampled] = [above(at / noise), above((at - 1) / noise)];
  return Math.max(0, (1 - rate) * none + rate * sampled - Math.exp(loss) * none);
}

/** Between which losses one step is, but for a chance at either end. */
function range(noise, rate, chance, adding) {
  const reach = noise * (Math.sqrt(2 * Math.log(1 / chance)) + 0.1);
  const loss = (x) => {
    const beyond = (2 * x - 1) / (2 * noise * noise);
    if (rate === 1) return beyond;
    return beyond < 700 ? Math.log1p(rate * Math.expm1(beyond)) : Math.log(rate) + beyond;
  };
  const [low, high] = [loss(-reach), loss(1 + reach)];
  return adding ? [-high, -low] : [low, high];
}

/** One step's losses on a grid: masses from `first` on, and what counts as infinite. */
function stepOf([noise, rate], spacing, [from, to], adding) {
  const first = Math.floor(from / spacing);
  const last = Math.max(first + 1, Math.ceil(to / spacing));
  const delta = new Float64Array(last - first + 1);
  for (let i = 0; i < delta.length; i++) delta[i] = hockeyStick(spacing * (first + i), noise, rate, adding);
  const [up, down] = [1 / Math.expm1(spacing), -1 / Math.expm1(-spacing)];
  const masses = new Float64Array(delta.length);
  for (let i = 0; i + 1 < delta.length; i++) {
    const falls = delta[i] - delta[i + 1];
    masses[i] -= up * falls;
    masses[i + 1] += down * falls;
  }
  masses[0] += 1 - delta[0];
  for (let i = 0; i < masses.length; i++) masses[i] = Math.max(0, masses[i]);
  return {first, masses, lost: delta[delta.length - 1]};
}

function logMoment({first, masses}, tilt, spacing) {
  let largest = -Infinity;
  for (let i = 0; i < masses.length; i++) if (masses[i]) largest = Math.max(largest, Math.log(masses[i]) + tilt * spacing * (first + i));
  let sum = 0;
  for (let i = 0; i < masses.length; i++) if (masses[i]) sum += Math.exp(Math.log(masses[i]) + tilt * spacing * (first + i) - largest);
  return largest + Math.log(sum);
}

/** Between which losses the sum of all steps is, but for a share of delta at either end (Chernoff's bound). */
function windowOf(kinds, steps, spacing, delta) {
  const margin = Math.log(1 / (CUT * delta));
  const bound = (sign) => Math.min(...TILTS.map((tilt) =>
    (kinds.reduce((sum, kind, i) => sum + kind[2] * logMoment(steps[i], sign * tilt, spacing), 0) + margin) / tilt));
  return [-bound(-1), bound(1)];
}

/** Fourier transform in place, of a power of two complex numbers. */
function fourier(re, im, inverse) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [re[i], re[j], im[i], im[j]] = [re[j], re[i], im[j], im[i]];
  }
  const [cos, sin] = [new Float64Array(n / 2), new Float64Array(n / 2)];
  for (let k = 0; k < n / 2; k++) {
    cos[k] = Math.cos((2 * Math.PI * k) / n);
    sin[k] = (inverse ? 1 : -1) * Math.sin((2 * Math.PI * k) / n);
  }
  for (let size = 2; size <= n; size <<= 1) {
    const [half, stride] = [size >> 1, n / size];
    for (let start = 0; start < n; start += size) {
      for (let k = 0; k < half; k++) {
        const [a, b] = [start + k, start + k + half];
        const [c, s] = [cos[k * stride], sin[k * stride]];
        const x = re[b] * c - im[b] * s;
        const y = re[b] * s + im[b] * c;
        re[b] = re[a] - x;
        im[b] = im[a] - y;
        re[a] += x;
        im[a] += y;
      }
    }
  }
  if (inverse) for (let i = 0; i < n; i++) [re[i], im[i]] = [re[i] / n, im[i] / n];
}

function composed(kinds, delta, adding) {
  const total = kinds.reduce((sum, [, , steps]) => sum + steps, 0);
  let reaches = kinds.map(([noise, rate]) => range(noise, rate, (CUT * delta) / total, adding));
  reaches = reaches.map(([low, high]) => [Math.max(low, -LARGEST), Math.min(high, LARGEST)]);
  const stepsAt = (spacing) => kinds.map((kind, i) => stepOf(kind, spacing, reaches[i], adding));
  const coarse = Math.max(...reaches.map(([low, high]) => high - low)) / 2048;
  const [low, high] = windowOf(kinds, stepsAt(coarse), coarse, delta);
  const points = POINTS * (total > MANY ? 4 : 1);
  const spacing = (high - low) / (points - 8);
  reaches = reaches.map(([a, b]) => [Math.max(a, Math.min(low, -spacing)), Math.min(b, Math.max(high, spacing))]);
  const made = stepsAt(spacing);
  const start = Math.floor(windowOf(kinds, made, spacing, delta)[0] / spacing);
  const size = 2 * points;
  const [re, im] = [new Float64Array(size).fill(1), new Float64Array(size)];
  let logKept = 0;
  made.forEach(({first, masses, lost}, which) => {
    const steps = kinds[which][2];
    const [a, b] = [new Float64Array(size), new Float64Array(size)];
    for (let i = 0; i < masses.length; i++) a[(((first + i) % size) + size) % size] += masses[i];
    fourier(a, b, false);
    for (let i = 0; i < size; i++) {
      const length = Math.hypot(a[i], b[i]) ** steps;
      const angle = Math.atan2(b[i], a[i]) * steps;
      const [c, s] = [length * Math.cos(angle), length * Math.sin(angle)];
      [re[i], im[i]] = [re[i] * c - im[i] * s, re[i] * s + im[i] * c];
    }
    logKept += steps * Math.log1p(-Math.min(lost, 1 - 1e-16));
  });
  fourier(re, im, true);
  const sums = new Float64Array(size);
  for (let i = 0; i < size; i++) sums[i] = Math.max(0, re[(((start + i) % size) + size) % size]);
  return epsilonOf(spacing, start, sums, -Math.expm1(logKept) + CUT * delta, delta);
}

/** The least epsilon >= 0 at which the losses above it, each less e^(epsilon - loss), and what is lost are at most delta. */
function epsilonOf(spacing, start, masses, lost, delta) {
  if (lost >= delta) return Infinity;
  let [tail, weighted] = [0, 0];
  for (let i = masses.length - 1; i >= 0; i--) {
    const loss = spacing * (start + i);
    if (loss <= 0) break;
    const [more, lighter] = [tail + masses[i], weighted + masses[i] * Math.exp(-loss)];
    if (more - Math.exp(loss) * lighter + lost > delta) return tail ? Math.log((tail + lost - delta) / weighted) : Infinity;
    [tail, weighted] = [more, lighter];
  }
  return tail + lost > delta ? Math.max(0, Math.log((tail + lost - delta) / weighted)) : 0;
}

/**
 * Return the epsilon that a history spends at this delta.
 * @param {[number, number, number][]} history noise multiplier, sample rate and steps of each stretch, within range
 */
export function pldEpsilon(history, delta) {
  const grouped = new Map();
  for (const [noise, rate, steps] of history) {
    const key = `${noise} ${rate}`;
    grouped.set(key, [noise, rate, (grouped.get(key)?.[2] ?? 0) + steps]);
  }
  const kinds = [...grouped.values()].filter(([, , steps]) => steps);
  const mu = Math.sqrt(kinds.reduce((sum, [noise, rate, steps]) => sum + (rate === 1 ? steps / (noise * noise) : 0), 0));
  const sampled = kinds.filter(([, rate]) => rate < 1);
  if (!sampled.length) return gaussianEpsilon(mu, delta);
  if (mu) sampled.push([1 / mu, 1, 1]);
  return Math.max(composed(sampled, delta, false), composed(sampled, delta, true));
}
