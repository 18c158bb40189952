// What gateway and phone say to each other: see docs/phone-protocol.md and clients/phone/frames.py.

export const VERSION = 1;
const MAGIC = 0x48504b45; // "EKPH", little-endian
const PREFIX = 12;
const ALIGNMENT = 8;
const MOST_HEADER_BYTES = 1 << 20;
const MOST_ARRAYS = 16;
const MOST_DIMENSIONS = 8;
const KINDS = {float32: Float32Array, int32: Int32Array, uint8: Uint8Array};

/** Something came that is no frame. */
export class FrameError extends Error {}

const up = (size) => Math.ceil(size / ALIGNMENT) * ALIGNMENT;

/**
 * Return a frame as an ArrayBuffer.
 * @param {string} type what it is about
 * @param {object} facts JSON values by name
 * @param {Object<string, {shape: number[], data: TypedArray}>} arrays by name
 */
export function pack(type, facts = {}, arrays = {}) {
  const listed = Object.entries(arrays).map(([name, {shape, data}]) => {
    const kind = Object.keys(KINDS).find((dtype) => data instanceof KINDS[dtype]);
    if (!kind) throw new FrameError(`${name} is no ${Object.keys(KINDS).join(', ')}`);
    return [name, kind, shape];
  });
  const header = new TextEncoder().encode(JSON.stringify({type, ...facts, arrays: listed}));
  let size = PREFIX + header.length;
  for (const {data} of Object.values(arrays)) size = up(size) + data.byteLength;
  const content = new Uint8Array(size);
  const view = new DataView(content.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint8(4, VERSION);
  view.setUint32(8, header.length, true);
  content.set(header, PREFIX);
  let place = PREFIX + header.length;
  for (const {data} of Object.values(arrays)) {
    place = up(place);
    content.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), place);
    place += data.byteLength;
  }
  return content.buffer;
}

/**
 * Read a frame.
 * @param {ArrayBuffer} buffer
 * @returns {{type: string, facts: object, arrays: Object<string, {shape: number[], data: TypedArray}>}} The arrays look
 *   into the buffer.
 */
export function unpack(buffer) {
  if (buffer.byteLength < PREFIX) throw new FrameError('a frame has at least twelve bytes');
  const view = new DataView(buffer);
  if (view.getUint32(0, true) !== MAGIC || (view.getUint32(4, true) >>> 8) !== 0) throw new FrameError('this is not a frame of edgekit\'s');
  if (view.getUint8(4) !== VERSION) throw new FrameError(`this frame is of version ${view.getUint8(4)}, this side speaks version ${VERSION}`);
  const size = view.getUint32(8, true);
  if (size > MOST_HEADER_BYTES || PREFIX + size > buffer.byteLength) throw new FrameError('a frame\'s header is too long');
  let header;
  try {
    header = JSON.parse(new TextDecoder('utf-8', {fatal: true}).decode(new Uint8Array(buffer, PREFIX, size)));
  } catch {
    throw new FrameError('a frame\'s header cannot be read');
  }
  if (header === null || typeof header !== 'object' || typeof header.type !== 'string' || !Array.isArray(header.arrays) ||
      header.arrays.length > MOST_ARRAYS) {
    throw new FrameError('a frame\'s header lacks its type or its arrays');
  }
  const {type, arrays: listed, ...facts} = header;
  const arrays = {};
  let place = PREFIX + size;
  for (const entry of listed) {
    if (!Array.isArray(entry) || entry.length !== 3 || typeof entry[0] !== 'string' || entry[0].length > 64 ||
        !Object.hasOwn(KINDS, entry[1]) || !Array.isArray(entry[2])) {
      throw new FrameError('an array is described by name, dtype and shape');
    }
    const [name, dtype, shape] = entry;
    if (shape.length > MOST_DIMENSIONS || !shape.every((n) => Number.isInteger(n) && n >= 0 && n < 2 ** 31)) {
      throw new FrameError(`array ${name} has an impossible shape`);
    }
    if (Object.hasOwn(arrays, name)) throw new FrameError(`a frame names array ${name} twice`);
    place = up(place);
    const length = shape.reduce((product, n) => product * n, 1);
    const bytes = length * KINDS[dtype].BYTES_PER_ELEMENT;
    if (place + bytes > buffer.byteLength) throw new FrameError(`a frame ends within its array ${name}`);
    const data = new KINDS[dtype](buffer, place, length);
    if (dtype === 'float32' && !data.every(Number.isFinite)) throw new FrameError(`array ${name} holds values that are not finite`);
    arrays[name] = {shape, data};
    place += bytes;
  }
  if (place !== buffer.byteLength) throw new FrameError('a frame has bytes too many');
  return {type, facts, arrays};
}
