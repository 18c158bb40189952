// What the page knows: who is here, and what is learnt.

export const LEAST = 10; // examples to start with
export const $ = (name) => document.getElementById(name);

export const state = {
  task: null, // {name, facts, training, graph}
  wanted: '', // name of the task that the gateway has
  loaded: '', // and of the one that the worker has
  told: false, // whether the gateway knows that this phone is ready
  progress: {},
  consent: false, // to this task, in these words
  consented: '', // what the person agreed to last
  watching: false,
  going: false, // the person pressed Start
  practising: false,
  examples: 0,
  label: '',
  weights: null, // of the newest round
  before: null, // and of the one before
  probe: null, // the example to try
  phase: '', // what learning is at, in words
  trouble: false, // learning cannot go on
  finished: null, // the model that was delivered
  spent: null,
  refused: false, // the group does not let this phone in
  offline: false, // the connection was lost
  over: false, // this phone has left
  line: null, // to the gateway
};
