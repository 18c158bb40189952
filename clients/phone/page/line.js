// The line to the gateway: it comes back by itself, and lists all that was sent.

import {pack, unpack, VERSION} from './frames.js';

const FIRST_WAIT = 1000;
const LONGEST_WAIT = 30000;
const CODES = {REFUSED: 4401, GARBAGE: 4400, LEFT: 4410, ELSEWHERE: 4409};

/** A connection that is made again until `stop`. Events: `open`, `frame` (type, facts, arrays), `away`, `refused`, `sent`. */
export class Line extends EventTarget {
  /** @param {(first: boolean) => object} hello gives the facts of the first frame */
  constructor(hello) {
    super();
    this.hello = hello;
    this.wait = FIRST_WAIT;
    this.stopped = false;
    this.welcomed = false;
    this.connect();
  }

  async connect() {
    if (this.stopped || this.connecting) return;
    this.connecting = true;
    let facts;
    try {
      facts = await this.hello();
    } catch (error) {
      this.#tell('refused', {reason: String(error.message ?? error)});
      return;
    } finally {
      this.connecting = false;
    }
    if (this.stopped) return;
    const socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/line`);
    socket.binaryType = 'arraybuffer';
    this.socket = socket;
    this.welcomed = false;
    let refusal;
    socket.onopen = () => this.send('hello', {protocol: VERSION, ...facts});
    socket.onmessage = ({data}) => {
      if (this.socket !== socket) return;
      let frame;
      try {
        frame = unpack(data);
      } catch (error) {
        refusal = {reason: error.message, code: CODES.GARBAGE};
        socket.close();
        return;
      }
      if (frame.type === 'refused') refusal = frame.facts;
      if (frame.type === 'welcome') {
        this.welcomed = true;
        this.wait = FIRST_WAIT;
      }
      this.#tell('frame', frame);
    };
    socket.onclose = ({code}) => {
      if (this.socket !== socket || this.stopped) return;
      this.welcomed = false;
      const final = code === CODES.REFUSED || code === CODES.LEFT || code === CODES.ELSEWHERE || refusal?.code === CODES.REFUSED;
      if (final) {
        this.stopped = true;
        this.#tell('refused', {code: refusal?.code ?? code, reason: refusal?.reason ?? ''});
        return;
      }
      if (refusal) this.wait = LONGEST_WAIT; // it did not understand us: not at once again
      this.#tell('away', {reason: refusal?.reason ?? ''});
      this.timer = setTimeout(() => this.connect(), this.wait * (0.5 + Math.random() / 2));
      this.wait = Math.min(2 * this.wait, LONGEST_WAIT);
    };
  }

  /** Try again now, instead of after the wait. */
  hurry() {
    if (this.stopped || this.connecting || this.socket?.readyState === WebSocket.OPEN || this.socket?.readyState === WebSocket.CONNECTING) return;
    clearTimeout(this.timer);
    this.wait = FIRST_WAIT;
    this.connect();
  }

  /** Send a frame; return whether there was a line to send it on. */
  send(type, facts = {}, arrays = {}) {
    if (this.socket?.readyState !== WebSocket.OPEN) return false;
    const content = pack(type, facts, arrays);
    this.socket.send(content);
    this.#tell('sent', {type, facts, bytes: content.byteLength});
    return true;
  }

  stop() {
    this.stopped = true;
    clearTimeout(this.timer);
    this.socket?.close();
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, {detail}));
  }
}
