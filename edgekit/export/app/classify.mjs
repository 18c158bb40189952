// What a model of edgekit says of new examples, in a browser, with LiteRT.js (npm install @litertjs/core).
//
//   import {loadLiteRt, loadAndCompile, Tensor} from '@litertjs/core';
//   await loadLiteRt('wasm/');                       // the folder with LiteRT's .wasm files
//   const model = await open({loadAndCompile, Tensor}, 'model.tflite', await (await fetch('preprocessing.json')).json());
//   console.log(await model.classify(pixels(canvas, model.facts)));

/** Open a model; `litert` has loadAndCompile and Tensor of @litertjs/core. */
export async function open(litert, url, facts) {
  const content = new Uint8Array(await (await fetch(url)).arrayBuffer());
  const compiled = await litert.loadAndCompile(content, {accelerator: 'wasm'});
  const signature = Object.values(compiled.signatures)[0], [{name}] = signature.getInputDetails();
  return {
    facts,
    /** Scores of one example, prepared: numbers in the order of `facts.input.layout`. */
    async scores(values) {
      const input = new litert.Tensor(Float32Array.from(values), facts.input.shape);
      const outputs = Object.values(await signature.run({[name]: input}));
      const found = Float32Array.from(outputs[0].toTypedArray());
      for (const one of [input, ...outputs]) one.delete(); // what WebAssembly holds is not collected
      return found;
    },
    /** The likeliest label and its chance; of other models than of classes, numbers by their names. */
    async classify(values) {
      const found = await this.scores(values), {labels, classes} = facts.output;
      if (!classes) return Object.fromEntries(labels.map((label, place) => [label, found[place]]));
      const chances = softmax(found), best = chances.indexOf(Math.max(...chances));
      return {label: labels[best], score: chances[best]};
    },
  };
}

/** Softmax: scores to chances. */
export function softmax(scores) {
  const most = Math.max(...scores), raised = Array.from(scores, (score) => Math.exp(score - most));
  const sum = raised.reduce((one, other) => one + other, 0);
  return raised.map((one) => one / sum);
}

/** A canvas or image as the model takes it; browsers resize a little otherwise than Pillow. */
export function pixels(source, facts) {
  const {width, height, channels, divide_by: scale} = facts.image;
  const canvas = new OffscreenCanvas(width, height), context = canvas.getContext('2d');
  context.drawImage(source, 0, 0, width, height);
  const {data} = context.getImageData(0, 0, width, height), found = [];
  for (let place = 0; place < data.length; place += 4) {
    const [red, green, blue] = [data[place], data[place + 1], data[place + 2]];
    if (channels === 1) found.push((0.299 * red + 0.587 * green + 0.114 * blue) / scale);
    else found.push(red / scale, green / scale, blue / scale);
  }
  return found;
}
