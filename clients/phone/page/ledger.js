// What the phone lets be spent of its owner's privacy: clients/budget.py and the accountant `rdp-integer`, in the page.

const LEAST_NOISE = 1e-3;
const ORDERS = [...Array.from({length: 63}, (_, i) => i + 2), 80, 96, 128, 192, 256, 512];
const LOG_FACTORIAL = [0];
for (let n = 1; n <= 512; n++) LOG_FACTORIAL.push(LOG_FACTORIAL[n - 1] + Math.log(n));

/** Something would spend more than may be spent, or cannot be counted. */
export class PrivacyError extends Error {
  name = 'PrivacyError';
}

const known = new Map();

/** A subsampled Gaussian mechanism's Renyi divergence at an integer order (Mironov et al. 2019, section 3.3). */
function renyi(noise, rate, order) {
  const key = `${noise} ${rate} ${order}`;
  if (!known.has(key)) known.set(key, divergence(noise, rate, order));
  return known.get(key);
}

function divergence(noise, rate, order) {
  const variance = noise * noise;
  if (rate === 1) return order / (2 * variance);
  const terms = [];
  for (let k = 0; k <= order; k++) {
    terms.push(LOG_FACTORIAL[order] - LOG_FACTORIAL[k] - LOG_FACTORIAL[order - k] + (order - k) * Math.log1p(-rate) +
      k * Math.log(rate) + (k * k - k) / (2 * variance));
  }
  const largest = Math.max(...terms);
  return (largest + Math.log(terms.reduce((sum, term) => sum + Math.exp(term - largest), 0))) / (order - 1);
}

/** Add up the steps of mechanisms that are alike: hundreds of rounds are one stretch. */
function grouped(history) {
  const parts = new Map();
  for (const [noise, rate, steps] of history) {
    const key = `${noise} ${rate}`;
    parts.set(key, [noise, rate, (parts.get(key)?.[2] ?? 0) + steps]);
  }
  return [...parts.values()];
}

/**
 * Return the epsilon that a history spends at this delta.
 * @param {[number, number, number][]} history noise multiplier, sample rate and steps of each stretch
 */
export function epsilon(history, delta) {
  history = history.filter(([, , steps]) => steps);
  if (!history.length) return 0;
  if (!(delta > 0 && delta < 1)) return Infinity;
  const counts = ([noise, rate, steps]) => noise >= LEAST_NOISE && Number.isFinite(noise) && rate > 0 && rate <= 1 && steps >= 0;
  if (!history.every(counts)) return Infinity;
  // Balle et al. 2020, theorem 21: from Renyi divergence to (epsilon, delta).
  const parts = grouped(history);
  const found = ORDERS.map((order) =>
    parts.reduce((sum, [noise, rate, steps]) => sum + steps * renyi(noise, rate, order), 0) -
    (Math.log(delta) + Math.log(order)) / (order - 1) + Math.log1p(-1 / order));
  const best = Math.min(...found);
  return Number.isNaN(best) ? Infinity : Math.max(0, best);
}

/** What a round spends by noise that the page adds, as [noise multiplier, sample rate, steps]; undefined if it adds none. */
export function chargeOf(settings) {
  if (settings.work === 'dp-sgd' && settings.noise_multiplier > 0) return [settings.noise_multiplier, settings.sample_rate, settings.steps];
  if (settings.work === 'sgd' && settings.update_clip && settings.update_noise) {
    return [settings.update_noise / (2 * settings.update_clip), 1, 1]; // as server and gateway reckon: one client replaced
  }
  return undefined;
}

/** The most that a plan takes. */
export function limitOf(planned) {
  const history = [[planned.noise_multiplier, planned.sample_rate, planned.steps]];
  return epsilon(history, planned.delta) * (1 + 1e-9);
}

/**
 * See what a round would spend, and that this is not too much.
 * @param {[number, number, number][]} spent what was charged before
 * @returns {{charge: [number, number, number], after: number, limit: number}}
 * @throws {PrivacyError} it protects nothing, or spends too much
 */
export function affordable(settings, planned, spent) {
  const charge = chargeOf(settings);
  if (!charge) throw new PrivacyError('the round asks for an update without noise of this phone\'s own');
  const limit = limitOf(planned);
  const after = epsilon([...spent, charge], planned.delta);
  if (!(after <= limit)) {
    throw new PrivacyError(`this phone spends epsilon ${limit.toPrecision(4)} and no more; with this round it would be ${after.toPrecision(4)}`);
  }
  return {charge, after, limit};
}
