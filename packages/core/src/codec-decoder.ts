/**
 * One pass over bytes, trusting none of them: what is not exactly one value of the codec is malformed, for whatever reason.
 *
 * Lengths are compared with what is left before anything is allocated for them.
 */
import {
  bigIntOf,
  binaryOf,
  EXT_BIG_INT,
  EXT_BINARY,
  EXT_MAP,
  EXT_SET,
  EXT_TEXT,
  EXT_TIMESTAMP,
  EXT_UNDEFINED,
  UNDEFINED_HOLE,
  UNDEFINED_VALUE,
} from "./codec-extensions.js";
import { cachedKey, textOf } from "./codec-text.js";
import { SealedSessionError } from "./errors.js";

/** Stands for an array's hole until the array leaves it out. */
const HOLE = Symbol("hole");

const MAX_TIME_MS = 8.64e15;
const MAX_NANOSECONDS = 999_999_999;
/** The most entries that a Map or Set of JavaScript takes. */
const MAX_ENTRIES = 2 ** 24;

const float = new DataView(new ArrayBuffer(8));

/** Decodes the value in its bytes, once. */
export class Decoder {
  readonly #bytes: Uint8Array;
  readonly #maxDepth: number;
  readonly #integersOnly: boolean;
  #position = 0;
  #end: number;
  #depth = 0;
  /** How many elements arrays may still announce. Each takes a byte, but nested headers could each promise all the rest. */
  #elementsLeft: number;

  constructor(bytes: Uint8Array, maxDepth: number, integersOnly: boolean) {
    this.#bytes = bytes;
    this.#end = bytes.length;
    this.#elementsLeft = bytes.length;
    this.#maxDepth = maxDepth;
    this.#integersOnly = integersOnly;
  }

  /** @throws SealedSessionError `PAYLOAD_MALFORMED`. */
  decode(): unknown {
    const value = this.#decodeValue();
    if (this.#position !== this.#end) throw malformed();
    return value;
  }

  #decodeValue(): unknown {
    const value = this.#decodeElement();
    if (value === HOLE) throw malformed();
    return value;
  }

  #decodeElement(): unknown {
    const tag = this.#takeByte();
    if (tag < 0x80) return tag;
    if (tag < 0x90) return this.#decodeObject(tag & 0x0f);
    if (tag < 0xa0) return this.#decodeArray(tag & 0x0f);
    if (tag < 0xc0) return this.#decodeText(tag & 0x1f);
    if (tag >= 0xe0) return tag - 0x100;
    switch (tag) {
      case 0xc0:
        return null;
      case 0xc2:
        return false;
      case 0xc3:
        return true;
      case 0xc4:
        return this.#takeCopy(this.#takeByte());
      case 0xc5:
        return this.#takeCopy(this.#takeUint16());
      case 0xc6:
        return this.#takeCopy(this.#takeUint32());
      case 0xc7:
        return this.#decodeExtension(this.#takeByte());
      case 0xc8:
        return this.#decodeExtension(this.#takeUint16());
      case 0xc9:
        return this.#decodeExtension(this.#takeUint32());
      case 0xca:
        return this.#decodeFloat32();
      case 0xcb:
        return this.#decodeFloat64();
      case 0xcc:
        return this.#takeByte();
      case 0xcd:
        return this.#takeUint16();
      case 0xce:
        return this.#takeUint32();
      case 0xcf:
        return this.#takeUint64();
      case 0xd0:
        return (this.#takeByte() << 24) >> 24;
      case 0xd1:
        return (this.#takeUint16() << 16) >> 16;
      case 0xd2:
        return this.#takeUint32() | 0;
      case 0xd3:
        return BigInt.asIntN(64, this.#takeUint64());
      case 0xd4:
      case 0xd5:
      case 0xd6:
      case 0xd7:
      case 0xd8:
        return this.#decodeExtension(1 << (tag - 0xd4));
      case 0xd9:
        return this.#decodeText(this.#takeByte());
      case 0xda:
        return this.#decodeText(this.#takeUint16());
      case 0xdb:
        return this.#decodeText(this.#takeUint32());
      case 0xdc:
        return this.#decodeArray(this.#takeUint16());
      case 0xdd:
        return this.#decodeArray(this.#takeUint32());
      case 0xde:
        return this.#decodeObject(this.#takeUint16());
      case 0xdf:
        return this.#decodeObject(this.#takeUint32());
      default:
        throw malformed();
    }
  }

  #decodeObject(size: number): Record<string, unknown> {
    this.#enter();
    this.#need(size * 2);
    const object: Record<string, unknown> = {};
    for (let i = 0; i < size; i++) {
      const cached = cachedKey(this.#bytes, this.#position, this.#end);
      if (cached !== undefined) {
        this.#position += cached.length + 1;
        object[cached] = this.#decodeValue();
      } else {
        const key = this.#decodeElement();
        if (typeof key !== "string") throw malformed();
        const value = this.#decodeValue();
        // A property of Object.prototype, such as __proto__, may have a setter or be read-only: assigning is not enough.
        if (key in Object.prototype)
          Object.defineProperty(object, key, { value, writable: true, enumerable: true, configurable: true });
        else object[key] = value;
      }
    }
    if (Object.keys(object).length !== size) throw malformed(); // A key came twice.
    this.#depth--;
    return object;
  }

  #decodeArray(length: number): unknown[] {
    this.#enter();
    this.#need(length);
    this.#elementsLeft -= length;
    if (this.#elementsLeft < 0) throw malformed();
    const array = new Array<unknown>(length);
    for (let i = 0; i < length; i++) {
      const value = this.#decodeElement();
      if (value !== HOLE) array[i] = value;
    }
    this.#depth--;
    return array;
  }

  #decodeText(length: number): string {
    this.#need(length);
    const start = this.#position;
    this.#position += length;
    return wellFormed(textOf(this.#bytes, start, this.#position));
  }

  #decodeFloat32(): number {
    if (this.#integersOnly) throw malformed();
    float.setUint32(0, this.#takeUint32());
    return float.getFloat32(0);
  }

  #decodeFloat64(): number {
    if (this.#integersOnly) throw malformed();
    this.#need(8);
    float.setUint32(0, this.#takeUint32());
    float.setUint32(4, this.#takeUint32());
    return float.getFloat64(0);
  }

  #decodeExtension(length: number): unknown {
    const type = this.#takeByte();
    this.#need(length);
    switch (type) {
      case EXT_TIMESTAMP:
        return this.#decodeTimestamp(length);
      case EXT_UNDEFINED:
        return this.#decodeUndefined(length);
      case EXT_MAP:
        return this.#decodeMap(length);
      case EXT_SET:
        return this.#decodeSet(length);
      case EXT_BIG_INT:
        return wellFormed(bigIntOf(this.#takeCopy(length)));
      case EXT_BINARY:
        return this.#decodeBinary(length);
      case EXT_TEXT:
        return this.#decodeIllFormedText(length);
      default:
        throw malformed();
    }
  }

  #decodeTimestamp(length: number): Date {
    let nanoseconds = 0;
    let high = 0;
    if (length === 8) {
      const word = this.#takeUint32();
      nanoseconds = word >>> 2;
      high = word & 3;
    } else if (length === 12) {
      nanoseconds = this.#takeUint32();
      high = this.#takeUint32() | 0;
    } else if (length !== 4) {
      throw malformed();
    }
    const seconds = high * 2 ** 32 + this.#takeUint32();
    const ms = seconds * 1000 + Math.floor(nanoseconds / 1_000_000);
    if (nanoseconds > MAX_NANOSECONDS || Math.abs(ms) > MAX_TIME_MS) throw malformed();
    return new Date(ms);
  }

  #decodeUndefined(length: number): symbol | undefined {
    if (length !== 1) throw malformed();
    const payload = this.#takeByte();
    if (payload === UNDEFINED_HOLE) return HOLE;
    if (payload !== UNDEFINED_VALUE) throw malformed();
    return undefined;
  }

  #decodeMap(length: number): Map<unknown, unknown> {
    const end = this.#openCollection(length);
    const items = this.#takeArrayHeader();
    if (items % 2 !== 0) throw malformed();
    const map = new Map<unknown, unknown>();
    for (let i = 0; i < items; i += 2) {
      const key = this.#decodeValue();
      if (map.has(key)) throw malformed();
      map.set(key, this.#decodeValue());
    }
    this.#closeCollection(end);
    return map;
  }

  #decodeSet(length: number): Set<unknown> {
    const end = this.#openCollection(length);
    const items = this.#takeArrayHeader();
    const set = new Set<unknown>();
    for (let i = 0; i < items; i++) set.add(this.#decodeValue());
    if (set.size !== items) throw malformed();
    this.#closeCollection(end);
    return set;
  }

  /** Enters a payload: until it is closed, its end is the end of all. @returns What closeCollection needs. */
  #openCollection(length: number): number {
    this.#enter();
    const end = this.#end;
    this.#end = this.#position + length;
    return end;
  }

  #closeCollection(end: number): void {
    if (this.#position !== this.#end) throw malformed();
    this.#end = end;
    this.#depth--;
  }

  #takeArrayHeader(): number {
    const tag = this.#takeByte();
    let length: number;
    if (tag >> 4 === 0x9) length = tag & 0x0f;
    else if (tag === 0xdc) length = this.#takeUint16();
    else if (tag === 0xdd) length = this.#takeUint32();
    else throw malformed();
    this.#need(length);
    if (length > MAX_ENTRIES) throw malformed();
    return length;
  }

  #decodeBinary(length: number): object {
    if (length === 0) throw malformed();
    const kind = this.#takeByte();
    return wellFormed(binaryOf(kind, this.#takeCopy(length - 1)));
  }

  #decodeIllFormedText(length: number): string {
    if (length % 2 !== 0) throw malformed();
    const units = new Uint16Array(length / 2);
    for (let i = 0; i < units.length; i++) units[i] = this.#takeUint16();
    let text = "";
    for (let i = 0; i < units.length; i += 4096) text += String.fromCharCode(...units.subarray(i, i + 4096));
    if (text.isWellFormed()) throw malformed();
    return text;
  }

  #takeCopy(length: number): Uint8Array<ArrayBuffer> {
    this.#need(length);
    const copy = new Uint8Array(length);
    copy.set(this.#bytes.subarray(this.#position, this.#position + length));
    this.#position += length;
    return copy;
  }

  #takeByte(): number {
    if (this.#position >= this.#end) throw malformed();
    return this.#bytes[this.#position++] as number;
  }

  #takeUint16(): number {
    this.#need(2);
    const at = this.#position;
    this.#position += 2;
    return uint16(this.#bytes, at);
  }

  #takeUint32(): number {
    this.#need(4);
    const at = this.#position;
    this.#position += 4;
    return ((uint16(this.#bytes, at) << 16) | uint16(this.#bytes, at + 2)) >>> 0;
  }

  #takeUint64(): bigint {
    const high = this.#takeUint32();
    return (BigInt(high) << 32n) | BigInt(this.#takeUint32());
  }

  #need(length: number): void {
    if (length > this.#end - this.#position) throw malformed();
  }

  #enter(): void {
    if (++this.#depth > this.#maxDepth) throw malformed();
  }
}

function uint16(bytes: Uint8Array, at: number): number {
  return ((bytes[at] as number) << 8) | (bytes[at + 1] as number);
}

function wellFormed<T>(value: T | undefined): T {
  if (value === undefined) throw malformed();
  return value;
}

/** @returns The one error for everything that is wrong with a payload: more would tell about the plaintext. */
export function malformed(): SealedSessionError {
  return new SealedSessionError("PAYLOAD_MALFORMED", "the payload is malformed");
}
