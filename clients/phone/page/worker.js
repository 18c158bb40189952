// The phone's training, beside the page, so that the page never freezes. A classic worker, since the runtime's loader asks
// for importScripts.

const modules = Promise.all(['./trainer.js', './random.js', './ledger.js', './store.js', './augment.js', './fitting.js'].map((name) => import(name)));
let task; // {name, task, training, trainer}
let predictor; // of the delivered model

const hex = (buffer) => [...new Uint8Array(buffer)].map((byte) => byte.toString(16).padStart(2, '0')).join('');

/** What changes when the work, the weights or the examples do. */
async function digestOf(parts) {
  const text = new TextEncoder();
  const pieces = parts.map((part) => (typeof part === 'string' ? text.encode(part) : new Uint8Array(part.buffer, part.byteOffset, part.byteLength)));
  const whole = new Uint8Array(pieces.reduce((sum, piece) => sum + piece.length + 4, 0));
  let place = 0;
  for (const piece of pieces) {
    new DataView(whole.buffer).setUint32(place, piece.length, true);
    whole.set(piece, place + 4);
    place += piece.length + 4;
  }
  return hex(await crypto.subtle.digest('SHA-256', whole));
}

/** Keep the runtime for being offline: it was fetched before the service worker watched. */
async function keepRuntime() {
  const cache = await caches.open('edgekit-page');
  for (const {name} of performance.getEntriesByType('resource')) {
    if (name.includes('litert_wasm') && !(await cache.match(name))) await cache.add(name).catch(() => {});
  }
}

const actions = {
  /** Load the runtime and a task's training graph; nothing is loaded twice. */
  async load({name, facts, training, graph, offline}) {
    const [{Trainer, loadRuntime}] = await modules;
    await loadRuntime(new URL('./litert/', self.location.href).href);
    if (offline) await keepRuntime();
    if (task?.name === name) return;
    const trainer = await Trainer.load(new Uint8Array(graph), training);
    task?.trainer.delete();
    task = {name, task: facts, training, trainer};
  },

  /** Train for a round: charged before it is done, and done once however often it is asked for. */
  async train({name, settings, w, planned}, step) {
    const [, random, ledger, store, {augment}, {fitting}] = await modules;
    if (task?.name !== name) throw new Error('the page has another task');
    const {trainer} = task;
    const {shape, classes, activity} = task.task;
    const kept = fitting(await store.all('examples'), task.task);
    const obstacle = trainer.obstacle(w, kept.length, settings);
    if (obstacle) throw new Error(obstacle);
    const made = String(await store.get('facts', 'examples-version') ?? 0);
    const digest = await digestOf([task.name, JSON.stringify(settings), made, w]);
    const before = await store.get('files', 'reply');
    if (before?.digest === digest) return before.reply; // asked again: nothing new is told, nothing is charged
    let [spent, key, entry] = [undefined, digest, undefined];
    if (planned) {
      // Work that was answered, and whose reply is not kept any more, would be told a second time, with other noise.
      for (let again = 1; (entry = await store.get('ledger', key))?.answered; again++) key = `${digest}:${again}`;
      if (!entry) {
        const entries = await store.all('ledger');
        const {charge, plan, after, limit} = ledger.affordable(settings, task.task.run, planned, entries);
        entry = {charge, plan, when: Date.now(), run: task.task.run, answered: false};
        await store.put('ledger', key, entry);
        spent = {epsilon: after, limit};
      } // else it was cut off before its reply was kept, so nothing of it was ever sent
    } else if (ledger.chargeOf(settings)) {
      throw new Error('the round adds noise on the phone, but the task plans none');
    }
    const examples = {
      count: kept.length,
      x: (i) => augment(activity, kept[i].x, shape, random.uniform),
      y: (i) => classes.indexOf(kept[i].label),
    };
    const plan = random.plan(kept.length, settings);
    let done = 0;
    const draws = {plan, normal: random.normal, step: () => step({done: ++done, of: plan.length})};
    const {w: after, loss} = await trainer.train(w, examples, settings, draws);
    if (!after.every(Number.isFinite)) throw new Error('training gave numbers that are not finite');
    const reply = {w: after, loss, examples: kept.length, spent};
    if (entry) await store.put('ledger', key, {...entry, answered: true});
    await store.put('files', 'reply', {digest, reply}); // before it is sent: a reply that is not here never left
    return reply;
  },

  /** How the federated model sees an example: the chance of each class. */
  async look({w, x, shape}) {
    const [{channelsLast}] = await modules;
    const scores = w ? await task.trainer.scores(w, x, 1) : await predictor.scores(channelsLast(x, shape), 1);
    const largest = Math.max(...scores);
    const powers = [...scores].map((score) => Math.exp(score - largest));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((power) => power / sum);
  },

  /** What has been spent of the privacy, and what may be. */
  async spent({planned}) {
    const [, , ledger, store] = await modules;
    return {epsilon: ledger.spentBy(await store.all('ledger'), planned.delta), limit: ledger.limitOf(planned)};
  },

  /** Take a finished model into use if it does here what it did at the coordinator. */
  async deliver({model, probe, scores, tolerance, facts}) {
    const [{Predictor, loadRuntime}, , , store] = await modules;
    await loadRuntime(new URL('./litert/', self.location.href).href);
    const count = probe.shape[0];
    const made = await Predictor.load(model);
    const found = await made.scores(probe.data, count);
    const largest = Math.max(...scores.data.map(Math.abs)) || 1;
    const off = Math.max(...found.map((value, i) => Math.abs(value - scores.data[i]))) / largest;
    if (found.length !== scores.data.length || !(off <= tolerance)) {
      made.delete();
      throw new Error(`its scores are off by ${(100 * off).toFixed(1)} % of the largest`);
    }
    await store.put('files', 'model', {content: model, ...facts});
    predictor?.delete();
    predictor = made;
  },

  /** Load the model that was delivered before, if there is one; give what it is. */
  async recall() {
    const [{Predictor, loadRuntime}, , , store] = await modules;
    const kept = await store.get('files', 'model');
    if (!kept) return null;
    await loadRuntime(new URL('./litert/', self.location.href).href);
    predictor ??= await Predictor.load(kept.content);
    return {run: kept.run, version: kept.version, accuracy: kept.accuracy};
  },
};

let queue = Promise.resolve(); // one thing at a time: the runtime is not for two
self.onmessage = ({data: {id, action, given}}) => {
  queue = queue.then(async () => {
    try {
      const result = await actions[action](given, (step) => self.postMessage({id, step}));
      self.postMessage({id, result});
    } catch (error) {
      self.postMessage({id, error: {name: error.name, message: String(error.message ?? error)}});
    }
  });
};
