// Random numbers of the browser's own secure source: batches and noise, as edgekit/data/batches.py draws them.

const POOL = 16384; // words at a time: getRandomValues gives at most 65,536 bytes
let words = new Uint32Array(POOL);
let place = POOL;

function word() {
  if (place === POOL) {
    crypto.getRandomValues(words);
    place = 0;
  }
  return words[place++];
}

/** A number in [0, 1), of 53 random bits. */
export const uniform = () => ((word() >>> 5) * 67108864 + (word() >>> 6)) / 9007199254740992;

/** A whole number in [0, limit), each as likely as the others. */
export function below(limit) {
  const most = Math.floor(4294967296 / limit) * limit;
  for (;;) {
    const found = word();
    if (found < most) return found % limit;
  }
}

/** Independent Gaussian noise (Box and Muller 1958). */
export function normal(count, deviation) {
  const noise = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const radius = deviation * Math.sqrt(-2 * Math.log(1 - uniform()));
    const angle = 2 * Math.PI * uniform();
    noise[i] = radius * Math.cos(angle);
    if (i + 1 < count) noise[i + 1] = radius * Math.sin(angle);
  }
  return noise;
}

/** Draw all batches of a round: shuffled ones for `sgd`, Poisson ones for private work. */
export function plan(count, settings) {
  if (settings.work === 'sgd') {
    const batches = [];
    for (let epoch = 0; epoch < settings.epochs; epoch++) {
      const order = Array.from({length: count}, (_, i) => i);
      for (let i = count - 1; i > 0; i--) {
        const j = below(i + 1);
        [order[i], order[j]] = [order[j], order[i]];
      }
      for (let start = 0; start < count; start += settings.batch_size) batches.push(order.slice(start, start + settings.batch_size));
    }
    return batches.slice(0, settings.most_steps || undefined);
  }
  const steps = settings.work === 'dp-sgd' ? settings.steps : 1;
  return Array.from({length: steps}, () => {
    const batch = [];
    for (let i = 0; i < count; i++) if (uniform() < settings.sample_rate) batch.push(i);
    return batch;
  });
}
