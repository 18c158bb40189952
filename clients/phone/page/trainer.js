// Trains with the signatures of a training file, as clients/litert.py does: the same steps, in WebAssembly.

import {CompiledModel, loadAndCompile, loadLiteRt, Tensor} from './litert/core.js';

/** The runtime, the file, or the round cannot be used. */
export class TrainerError extends Error {
  name = 'TrainerError';
}

let runtime;

/** Load the runtime, once. */
export function loadRuntime(place) {
  if (!runtime) {
    globalThis.Module = {locateFile: (name) => place + name}; // in a worker, it would look beside the worker's script
    runtime = loadLiteRt(place).catch((error) => {
      runtime = undefined;
      throw new TrainerError(`the runtime cannot be loaded: ${error.message ?? error}`);
    });
  }
  return runtime;
}

/** Run a signature of a compiled model; give each output's values, and the runtime's memory back. */
async function run(signature, inputs) {
  const tensors = {};
  let outputs = {};
  try {
    for (const [name, {data, shape}] of Object.entries(inputs)) tensors[name] = new Tensor(data, shape);
    outputs = await signature.run(tensors);
    return Object.fromEntries(Object.entries(outputs).map(([name, tensor]) => [name, tensor.toTypedArray()]));
  } finally {
    for (const tensor of [...Object.values(tensors), ...Object.values(outputs)]) tensor.delete();
  }
}

const single = (value) => ({data: new Float32Array([value]), shape: [1]});
const isFiniteArray = (array) => array.every(Number.isFinite);

/** Bring one example, (channels, height, width), to the order of .tflite files; others are as they are. */
export function channelsLast(x, shape) {
  const [channels, height, width] = shape;
  if (shape.length !== 3 || channels === 1) return x;
  const turned = new Float32Array(x.length);
  const area = height * width;
  for (let c = 0; c < channels; c++) for (let i = 0; i < area; i++) turned[i * channels + c] = x[c * area + i];
  return turned;
}

/** A model for use: one signature, examples in, scores out. */
export class Predictor {
  /** @param {CompiledModel} compiled */
  constructor(compiled) {
    this.compiled = compiled;
    this.signature = Object.values(compiled.signatures)[0];
    [this.input] = this.signature.getInputDetails();
  }

  static async load(content) {
    return new Predictor(await loadAndCompile(content, {accelerator: 'wasm'}));
  }

  /** Return the scores of examples that lie one after the other; the file takes a fixed number at a time. */
  async scores(x, count) {
    const shape = [...this.input.shape];
    const size = x.length / count;
    const parts = [];
    for (let start = 0; start < count; start += shape[0]) {
      const data = new Float32Array(shape[0] * size);
      data.set(x.subarray(start * size, Math.min(count, start + shape[0]) * size));
      const [found] = Object.values(await run(this.signature, {[this.input.name]: {data, shape}}));
      const classes = found.length / shape[0];
      parts.push(...found.subarray(0, Math.min(shape[0], count - start) * classes));
    }
    return Float32Array.from(parts);
  }

  delete() {
    this.compiled.delete();
  }
}

/** Trains one client. */
export class Trainer {
  /**
   * @param {Uint8Array} content the training file
   * @param {object} facts what the file says of itself
   */
  static async load(content, facts) {
    const trainer = new Trainer();
    try {
      trainer.compiled = await loadAndCompile(content, {accelerator: 'wasm'});
    } catch (error) {
      throw new TrainerError(`the runtime refuses the training file: ${error.message ?? error}`);
    }
    trainer.signatures = trainer.compiled.signatures;
    trainer.facts = facts;
    trainer.batch = facts.batch;
    trainer.sizes = facts.parameters.map(({shape}) => shape.reduce((product, n) => product * n, 1));
    trainer.total = trainer.sizes.reduce((sum, size) => sum + size, 0);
    return trainer;
  }

  delete() {
    this.compiled.delete();
  }

  /** Say why a round cannot be trained; undefined if it can. Asked before anything is spent for it. */
  obstacle(w, count, settings) {
    const {facts} = this;
    if (w.length !== this.total) return `the weights are ${w.length} numbers, the network has ${this.total}`;
    if (!count) return 'there are no examples yet';
    if (!['sgd', 'dp-sgd', 'clipped-sum'].includes(settings.work)) return `the round asks for unknown work`;
    if (settings.work === 'sgd' && settings.batch_size > this.batch) {
      return `the training file takes batches of at most ${this.batch}, the round wants ${settings.batch_size}`;
    }
    if (settings.work !== 'sgd' && !facts.private) return 'the training file was made without a private step';
    if (settings.work !== 'sgd' && Math.abs(settings.clip / facts.clip - 1) > 1e-6) {
      return `the training file clips at ${facts.clip}, the round wants ${settings.clip}`;
    }
    if (settings.momentum && !facts.momentum) return 'the training file was made without momentum';
    if (settings.proximal_mu && !facts.proximal) return 'the training file was made without FedProx\'s term';
    return undefined;
  }

  /**
   * Train from the global weights.
   * @param {Float32Array} w all weights
   * @param {{count: number, x: (i: number) => Float32Array, y: (i: number) => number}} examples
   * @param {object} settings the round's
   * @param {{plan: number[][], normal: (count: number, deviation: number) => Float32Array, step?: () => void}} draws
   *   batches and noise; `step` is called after each batch
   * @returns {Promise<{w: Float32Array, loss?: number}>}
   */
  async train(w, examples, settings, draws) {
    if (settings.work === 'clipped-sum') return {w: await this._sum(w, draws.plan[0], examples)};
    if (settings.work === 'sgd') {
      const {w: after, loss} = await this._sgd(w, examples, settings, draws);
      return {w: this._bounded(after, w, settings, draws), loss};
    }
    return {w: this._bounded(await this._dpSgd(w, examples, settings, draws), w, settings, draws)};
  }

  /** Return the network's scores for examples that lie one after the other. */
  async scores(w, x, count) {
    const size = x.length / count;
    const parts = [];
    for (let start = 0; start < count; start += this.batch) {
      const data = new Float32Array(this.batch * size);
      const part = x.subarray(start * size, Math.min(count, start + this.batch) * size);
      for (let i = 0; i < part.length; i += size) data.set(channelsLast(part.subarray(i, i + size), this.facts.shape), i);
      for (let i = part.length; i < data.length; i++) data[i] = data[i % size]; // a network need not be defined at zero
      const inputs = {w: this._weights(w), x: {data, shape: [this.batch, ...this._shape()]}};
      const [found] = Object.values(await run(this.signatures.infer, inputs));
      parts.push(...found.subarray(0, (part.length / size) * this.facts.classes));
    }
    return Float32Array.from(parts);
  }

  async _sgd(w, examples, settings, draws) {
    const more = this._more(w, settings, 1);
    let total = 0;
    for (const indices of draws.plan) {
      const inputs = {w: this._weights(w), lr: single(settings.learning_rate), ...this._filled(examples, indices), ...more};
      const result = await run(this.signatures.train, inputs);
      w = result.w;
      if (more.velocity) more.velocity.data = result.velocity;
      total += result.loss[0];
      draws.step?.();
    }
    return {w, loss: total / draws.plan.length};
  }

  async _dpSgd(w, examples, settings, draws) {
    const expected = settings.sample_rate * (settings.expected_examples || examples.count);
    const rate = single(settings.learning_rate / expected);
    const more = this._more(w, settings, expected);
    for (const indices of draws.plan) {
      const noise = this._noise(settings.noise_multiplier * this.facts.clip, draws);
      const [after, velocity] = await this._clipped(w, indices, examples, rate, noise, more);
      w = after;
      if (more.velocity) more.velocity.data = velocity;
      draws.step?.();
    }
    return w;
  }

  /** Return the sum of the clipped gradients of a Poisson batch: the step, at rate 1 and without noise. */
  async _sum(w, indices, examples) {
    const step = {noise: this._weights(new Float32Array(this.total)), ...this._more(w, {}, 1)};
    const total = new Float32Array(this.total);
    for (const part of this._parts(indices)) {
      const {w: after} = await this._privateStep(w, part, examples, single(1), step);
      for (let i = 0; i < total.length; i++) total[i] += w[i] - after[i];
    }
    return total;
  }

  /** One private step over a Poisson batch of any size: in parts, of which the first has noise and terms. */
  async _clipped(w, indices, examples, rate, noise, more) {
    const quiet = {noise: this._weights(new Float32Array(this.total)), ...this._more(w, {}, 1)};
    let step = {noise: this._weights(noise), ...more};
    const after = Float32Array.from(w);
    const velocity = new Float32Array(this.total);
    for (const part of this._parts(indices)) {
      const result = await this._privateStep(w, part, examples, rate, step);
      for (let i = 0; i < after.length; i++) {
        after[i] += Math.fround(result.w[i] - w[i]);
        if (result.velocity) velocity[i] += result.velocity[i];
      }
      step = quiet;
    }
    return [after, velocity];
  }

  _parts(indices) {
    const parts = [];
    for (let start = 0; start < Math.max(1, indices.length); start += this.batch) parts.push(indices.slice(start, start + this.batch));
    return parts;
  }

  /**
   * Call `train_dp`. An example whose gradient is not finite counts as zero: it would make the whole sum not finite,
   * which no clipping bounds and which tells of it.
   */
  async _privateStep(w, indices, examples, rate, step) {
    const stepped = (chosen) =>
      run(this.signatures.train_dp, {w: this._weights(w), lr: rate, ...this._filled(examples, chosen), ...step});
    if (indices.length) {
      const result = await stepped(indices);
      if (isFiniteArray(result.w)) return result;
      const fit = [];
      for (const i of indices) if (isFiniteArray((await stepped([i])).w)) fit.push(i);
      if (fit.length) return stepped(fit);
    }
    return this._nobodysStep(w, rate, step);
  }

  /** What `train_dp` gives for an empty Poisson batch. */
  _nobodysStep(w, rate, step) {
    const direction = Float32Array.from(step.noise.data);
    for (let i = 0; i < direction.length; i++) {
      if (step.anchor) direction[i] += step.mu.data[0] * (w[i] - step.anchor.data[i]);
      if (step.velocity) direction[i] += step.momentum.data[0] * step.velocity.data[i];
    }
    return {w: w.map((value, i) => value - Math.fround(rate.data[0] * direction[i])), velocity: direction};
  }

  /** The inputs of momentum and FedProx, as far as the file has them; `scale` is that of the gradients. */
  _more(w, settings, scale) {
    const more = {};
    if (this.facts.momentum) {
      more.momentum = single(settings.momentum ?? 0);
      more.velocity = this._weights(new Float32Array(this.total));
    }
    if (this.facts.proximal) {
      more.mu = single((settings.proximal_mu ?? 0) * scale);
      more.anchor = this._weights(Float32Array.from(w));
    }
    return more;
  }

  _noise(deviation, draws) {
    const noise = new Float32Array(this.total);
    let place = 0;
    this.facts.parameters.forEach(({trainable}, i) => {
      if (trainable) noise.set(draws.normal(this.sizes[i], deviation), place);
      place += this.sizes[i];
    });
    return noise;
  }

  /** A batch in the file's layout, filled up with an example that the mask leaves out. */
  _filled(examples, indices) {
    const {batch} = this;
    const shape = this._shape();
    const size = shape.reduce((product, n) => product * n, 1);
    const x = new Float32Array(batch * size);
    const y = new Float32Array(batch * this.facts.classes);
    const mask = new Float32Array(batch);
    indices.forEach((index, place) => {
      x.set(channelsLast(examples.x(index), this.facts.shape), place * size);
      y[place * this.facts.classes + examples.y(index)] = 1;
      mask[place] = 1;
    });
    if (indices.length < batch) { // a real one, since a network need not be defined at zero
      const fill = channelsLast(examples.x(indices[0] ?? 0), this.facts.shape);
      for (let place = indices.length; place < batch; place++) x.set(fill, place * size);
    }
    return {
      x: {data: x, shape: [batch, ...shape]},
      y: {data: y, shape: [batch, this.facts.classes]},
      mask: {data: mask, shape: [batch]},
    };
  }

  _shape() {
    const {shape} = this.facts;
    return shape.length === 3 ? [shape[1], shape[2], shape[0]] : shape;
  }

  _weights(data) {
    return {data, shape: [this.total]};
  }

  /** Clip the whole update to `update_clip` and add `update_noise`, if the round asks for it. */
  _bounded(after, w, settings, draws) {
    if (!settings.update_clip) return after;
    const difference = after.map((value, i) => value - w[i]);
    const norm = Math.sqrt(difference.reduce((sum, value) => sum + value * value, 0));
    const factor = Math.min(1, settings.update_clip / (norm + 1e-12));
    const noise = settings.update_noise ? draws.normal(this.total, settings.update_noise) : new Float32Array(this.total);
    return w.map((value, i) => value + Math.fround(Math.fround(factor * difference[i]) + noise[i]));
  }
}
