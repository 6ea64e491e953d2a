/** Arguments for the mutation test: mostly as they should be, often wrong in one way. */
import { randomFillSync } from "node:crypto";
import { types } from "node:util";

/** A small generator (mulberry32): the same seed gives the same run. */
export function generator(seed) {
  let state = seed >>> 0;
  const next = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (limit) => Math.floor(next() * limit);
  return { next, below, chance: (p) => next() < p, pick: (list) => list[below(list.length)] };
}

/** Memory of every kind that a Uint8Array can lie in. */
export function backing(random, size) {
  const kind = random.pick(["plain", "plain", "plain", "shared", "resizable", "growable"]);
  if (kind === "shared") return new SharedArrayBuffer(size);
  if (kind === "growable") return new SharedArrayBuffer(size, { maxByteLength: 2 * size });
  if (kind === "resizable") return new ArrayBuffer(size, { maxByteLength: 2 * size });
  return new ArrayBuffer(size);
}

/** A view of `length` bytes, now and then of another length, of `arena` or of memory of its own. */
export function bytes(random, arena, length) {
  const size = random.chance(0.04) ? Math.max(0, length + random.pick([-17, -16, -1, 1, 15, 16, 64])) : length;
  if (random.chance(0.03)) return wrong(random, size);
  if (random.chance(0.03)) return outOfBounds(random, size);
  if (random.chance(0.1)) return random.pick([new Uint8Array(size), Buffer.alloc(size), Buffer.alloc(size, 7)]);
  const memory = random.chance(0.7) && size <= arena.byteLength ? arena : backing(random, size + 64);
  const offset = random.below(memory.byteLength - size + 1);
  if (memory !== arena) fill(memory);
  return random.chance(0.5) ? Buffer.from(memory, offset, size) : new Uint8Array(memory, offset, size);
}

/** A number that is a length or an offset, or is none. */
export function number(random, value) {
  if (random.chance(0.95)) return value;
  const others = [
    -1,
    -0,
    0,
    1,
    value + 1,
    value - 1,
    0.5,
    2 ** 31,
    2 ** 32,
    2 ** 32 + value,
    2 ** 53,
    2 ** 64,
    Number.NaN,
    -Infinity,
    Infinity,
  ];
  return random.pick([...others, 1e300, "0", null, undefined, 0n, {}, [value], Symbol("n")]);
}

/** Whether the addon is to take this as bytes. */
export const isBytes = (value) => types.isUint8Array(value);

/** Whether it is to take this as a length. */
export const isLength = (value) => typeof value === "number" && value >= 0 && Number.isSafeInteger(value);

/** Random content. `randomFillSync` takes no memory that is shared. */
export function fill(memory) {
  const target = new Uint8Array(memory);
  target.set(randomFillSync(Buffer.alloc(target.length)));
}

function wrong(random, size) {
  const lists = [
    Int8Array,
    Uint8ClampedArray,
    Uint16Array,
    Float64Array,
    BigInt64Array,
    globalThis.Float16Array ?? Float32Array,
  ];
  return random.pick([
    () => new (random.pick(lists))(size),
    () => new DataView(new ArrayBuffer(size)),
    () => new ArrayBuffer(size),
    () => new SharedArrayBuffer(size),
    () => new Proxy(new Uint8Array(size), {}),
    () => Object.create(Uint8Array.prototype),
    () => Object.setPrototypeOf({ length: size, byteLength: size, byteOffset: 0 }, Buffer.prototype),
    () => new Array(size).fill(0),
    () => "x".repeat(size),
    () => random.pick([undefined, null, true, size, BigInt(size), Symbol("bytes"), () => size]),
  ])();
}

/** A view whose memory has gone: detached, or shrunk below it. */
function outOfBounds(random, size) {
  const memory = new ArrayBuffer(size + 64, { maxByteLength: size + 128 });
  const view = random.chance(0.5) ? new Uint8Array(memory, 32, size) : new Uint8Array(memory, 32);
  if (random.chance(0.5)) structuredClone(memory, { transfer: [memory] });
  else memory.resize(random.below(size + 64));
  return view;
}
