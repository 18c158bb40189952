// What the phone lets be spent of its owner's privacy: clients/budget.py and the accountant `pld-numpy`, in the page.

import {pldEpsilon} from './pld.js';

const LEAST_NOISE = 1e-3;

/** Something would spend more than may be spent, or cannot be counted. */
export class PrivacyError extends Error {
  name = 'PrivacyError';
}

const known = new Map();

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
  const key = JSON.stringify([history, delta]);
  if (!known.has(key)) known.set(key, pldEpsilon(history, delta));
  const found = known.get(key);
  return Number.isNaN(found) ? Infinity : found;
}

/** A plan as it stands in the ledger: what it says counts together, whole from its first round on. */
export const planText = (run, {noise_multiplier: noise, sample_rate: rate, steps}) => JSON.stringify([run, [[noise, rate, steps]]]);

/** What counts together, in the order in which it was begun; a charge that is part of no plan by itself. */
function histories(entries) {
  const found = new Map();
  const earlier = new Map(); // as the page wrote it once: without plans
  [...entries].sort((a, b) => (a.when ?? 0) - (b.when ?? 0)).forEach(({charge: [noise, rate, steps], plan}, i) => {
    if (plan === undefined) {
      const kind = `${noise} ${rate}`;
      earlier.set(kind, [noise, rate, (earlier.get(kind)?.[2] ?? 0) + steps]);
      found.set('earlier', [...earlier.values()].sort((a, b) => a[0] - b[0] || a[1] - b[1]));
    } else {
      found.set(plan || `alone ${i}`, plan ? JSON.parse(plan)[1] : [[noise, rate, steps]]);
    }
  });
  return [...found.values()];
}

/** Return what was spent: epsilons add up, the first at `delta`, each further one at half the delta of that before it. */
export function spentBy(entries, delta) {
  return histories(entries).reduce((sum, history, place) => sum + epsilon(history, delta / 2 ** place), 0);
}

/** What a plan has steps left for is part of it; all else counts by itself. */
function planOf(charge, run, planned, entries) {
  const alike = ([noise, rate]) => rate === planned.sample_rate && Math.abs(noise / planned.noise_multiplier - 1) < 1e-6;
  const text = planText(run, planned);
  const made = entries.reduce((sum, {charge: one, plan}) => sum + (plan === text && alike(one) ? one[2] : 0), 0);
  return alike(charge) && made + charge[2] <= planned.steps ? text : '';
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
 * @param {{charge: [number, number, number], plan?: string}[]} entries what was charged before
 * @returns {{charge: [number, number, number], plan: string, after: number, limit: number}}
 * @throws {PrivacyError} it protects nothing, or spends too much
 */
export function affordable(settings, run, planned, entries) {
  const charge = chargeOf(settings);
  if (!charge) throw new PrivacyError('the round asks for an update without noise of this phone\'s own');
  const limit = limitOf(planned);
  const plan = planOf(charge, run, planned, entries);
  if (plan) charge[0] = Math.min(charge[0], planned.noise_multiplier); // rounding may have moved its last digit
  const after = spentBy([...entries, {charge, plan, when: Infinity}], planned.delta);
  if (!(after <= limit)) {
    throw new PrivacyError(`this phone spends epsilon ${limit.toPrecision(4)} and no more; with this round it would be ${after.toPrecision(4)}, all that was planned with it`);
  }
  return {charge, plan, after, limit};
}
