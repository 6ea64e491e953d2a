/**
 * Looks for many values in many bytes at once, each value in all of its forms.
 *
 * A table of the hashes of the first eight bytes of every form tells at each place whether one may begin there: a hundred thousand forms
 * cost one pass.
 */
import { formsOf } from "./needle-forms.js";

const WINDOW_BYTES = 8;
/** A bit table of 512 KiB stays in the processor's cache. */
const TABLE_BITS = 22;

/** A value that is looked for. */
export interface Needle {
  /** What it is, for people: "email". */
  readonly kind: string;
  /** Of a text the first 16 characters are looked for, of bytes the first 16, of a number all. */
  readonly value: string | number | Uint8Array;
}

/** What was found, and in which forms. */
export type Finds = ReadonlyMap<Needle, ReadonlySet<string>>;

interface Pattern {
  readonly needle: Needle;
  readonly form: string;
  readonly bytes: Buffer;
}

/** A search for a fixed set of needles. */
export class NeedleSearch {
  readonly #table = new Uint32Array(2 ** (TABLE_BITS - 5));
  readonly #patterns = new Map<number, Pattern[]>();

  constructor(needles: Iterable<Needle>) {
    for (const needle of needles) {
      for (const [form, bytes] of formsOf(needle.value)) this.#add({ needle, form, bytes });
    }
  }

  /** @returns what is in any of `haystacks`. */
  find(haystacks: Iterable<Uint8Array>): Finds {
    const finds = new Map<Needle, Set<string>>();
    for (const haystack of haystacks)
      this.#scan(Buffer.from(haystack.buffer, haystack.byteOffset, haystack.length), finds);
    return finds;
  }

  #add(pattern: Pattern): void {
    const { bytes } = pattern;
    if (bytes.length < WINDOW_BYTES) throw new RangeError(`a ${pattern.needle.kind} is too short to be looked for`);
    const hash = hashOf(bytes.readInt32BE(0), bytes.readInt32BE(4));
    const place = hash >>> (32 - TABLE_BITS);
    this.#table[place >>> 5] = (this.#table[place >>> 5] ?? 0) | (1 << (place & 31));
    const others = this.#patterns.get(hash);
    if (others === undefined) this.#patterns.set(hash, [pattern]);
    else others.push(pattern);
  }

  #scan(haystack: Buffer, finds: Map<Needle, Set<string>>): void {
    const table = this.#table;
    let high = 0;
    let low = 0;
    for (let end = 0; end < haystack.length; end++) {
      high = (high << 8) | (low >>> 24);
      low = (low << 8) | (haystack[end] as number);
      if (end < WINDOW_BYTES - 1) continue;
      const hash = hashOf(high, low);
      const place = hash >>> (32 - TABLE_BITS);
      if (((table[place >>> 5] as number) & (1 << (place & 31))) === 0) continue;
      const start = end - WINDOW_BYTES + 1;
      for (const { needle, form, bytes } of this.#patterns.get(hash) ?? []) {
        if (bytes.compare(haystack, start, Math.min(start + bytes.length, haystack.length)) !== 0) continue;
        const forms = finds.get(needle);
        if (forms === undefined) finds.set(needle, new Set([form]));
        else forms.add(form);
      }
    }
  }
}

function hashOf(high: number, low: number): number {
  const mixed = Math.imul(high, 0x9e3779b1) ^ Math.imul(low, 0x85ebca6b);
  return Math.imul(mixed ^ (mixed >>> 15), 0xc2b2ae35);
}
