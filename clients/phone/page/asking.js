// The worker, which trains, asked by name.

export const worker = new Worker('worker.js');
const waiting = new Map();
let asked = 0;
worker.onmessage = ({data: {id, result, error, step}}) => {
  const entry = waiting.get(id);
  if (step) return entry?.step(step);
  waiting.delete(id);
  return error ? entry?.reject(Object.assign(new Error(error.message), {name: error.name})) : entry?.resolve(result);
};
export function work(action, given = {}, transfer = [], step = () => {}) {
  return new Promise((resolve, reject) => {
    waiting.set(++asked, {resolve, reject, step});
    worker.postMessage({id: asked, action, given}, transfer);
  });
}
