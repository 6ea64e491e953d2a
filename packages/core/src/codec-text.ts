/**
 * Strings from bytes, at the least cost: property names are remembered by their bytes, short ASCII is made by a loop, and
 * TextDecoder does the rest.
 *
 * Sessions of one application have the same few property names. Only short ones in ASCII are remembered, a few hundred at most.
 */

/** Up to this length, in bytes, a loop beats the call of TextDecoder. */
const MAX_LOOP_BYTES = 32;
const FIXSTR = 0xa0;
const MAX_FIXSTR_BYTES = 31;
/** The most names that are remembered. */
const SLOTS = 512;

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The remembered names, each in the one slot that its bytes lead to. */
const names: (string | undefined)[] = new Array<string | undefined>(SLOTS).fill(undefined);
/** The first and last four bytes of each name: all of it up to eight bytes, and hardly ever equal for two names of an application. */
const heads = new Int32Array(SLOTS);
const tails = new Int32Array(SLOTS);

/** @returns The text whose UTF-8 form stands there, or `undefined` when it is not well-formed. */
export function textOf(bytes: Uint8Array, start: number, end: number): string | undefined {
  if (end - start <= MAX_LOOP_BYTES) {
    const text = asciiText(bytes, start, end);
    if (text !== undefined) return text;
  }
  try {
    return utf8.decode(bytes.subarray(start, end));
  } catch {
    return undefined;
  }
}

/**
 * Looks up the name at a place in a payload, and remembers it for the next time.
 *
 * @returns `undefined` when the name is not there in full, not short, not ASCII, or also one of `Object.prototype`.
 */
export function cachedKey(bytes: Uint8Array, position: number, end: number): string | undefined {
  if (position >= end) return undefined;
  const length = (bytes[position] as number) ^ FIXSTR;
  const start = position + 1;
  if (length > MAX_FIXSTR_BYTES || length === 0 || start + length > end) return undefined;
  const stop = start + length;
  let head = 0;
  let tail = 0;
  if (length >= 4) {
    head = word(bytes, start);
    tail = word(bytes, stop - 4);
  } else {
    for (let at = start; at < stop; at++) head = (head << 8) | (bytes[at] as number);
  }
  const mixed = Math.imul(head ^ Math.imul(tail, 0x2c1b3c6d), 0x297a2d39) + length;
  const slot = (mixed ^ (mixed >>> 15)) & (SLOTS - 1);
  const name = names[slot];
  if (name === undefined || name.length !== length || heads[slot] !== head || tails[slot] !== tail) {
    return remember(bytes, start, stop, slot, head, tail);
  }
  for (let at = start + 4, i = 4; at < stop - 4; at++, i++) {
    if (name.charCodeAt(i) !== bytes[at]) return remember(bytes, start, stop, slot, head, tail);
  }
  return name;
}

/** @returns `undefined` when a byte is not ASCII. Characters made eight at a time cost half as much as one by one. */
function asciiText(bytes: Uint8Array, start: number, end: number): string | undefined {
  let text = "";
  let at = start;
  for (; at + 8 <= end; at += 8) {
    const a = bytes[at] as number;
    const b = bytes[at + 1] as number;
    const c = bytes[at + 2] as number;
    const d = bytes[at + 3] as number;
    const e = bytes[at + 4] as number;
    const f = bytes[at + 5] as number;
    const g = bytes[at + 6] as number;
    const h = bytes[at + 7] as number;
    if ((a | b | c | d | e | f | g | h) > 0x7f) return undefined;
    text += String.fromCharCode(a, b, c, d, e, f, g, h);
  }
  for (; at + 3 <= end; at += 3) {
    const a = bytes[at] as number;
    const b = bytes[at + 1] as number;
    const c = bytes[at + 2] as number;
    if ((a | b | c) > 0x7f) return undefined;
    text += String.fromCharCode(a, b, c);
  }
  for (; at < end; at++) {
    const unit = bytes[at] as number;
    if (unit > 0x7f) return undefined;
    text += String.fromCharCode(unit);
  }
  return text;
}

function remember(
  bytes: Uint8Array,
  start: number,
  stop: number,
  slot: number,
  head: number,
  tail: number,
): string | undefined {
  const units = bytes.subarray(start, stop);
  if (units.some((unit) => unit > 0x7f)) return undefined;
  // The name as the engine keeps it for properties: the quickest to look up with.
  const name = Object.keys({ [String.fromCharCode(...units)]: true })[0] as string;
  if (name in Object.prototype) return undefined;
  names[slot] = name;
  heads[slot] = head;
  tails[slot] = tail;
  return name;
}

function word(bytes: Uint8Array, at: number): number {
  return (
    ((bytes[at] as number) << 24) |
    ((bytes[at + 1] as number) << 16) |
    ((bytes[at + 2] as number) << 8) |
    (bytes[at + 3] as number)
  );
}
