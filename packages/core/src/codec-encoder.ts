/**
 * One pass over a value into the scratch buffer.
 *
 * Reading the application's objects may run its code, which may throw: every container catches what happens inside it, notes
 * the way there and throws on.
 */
import {
  BINARY_KINDS,
  bigIntToBytes,
  EXT_BIG_INT,
  EXT_BINARY,
  EXT_MAP,
  EXT_SET,
  EXT_TIMESTAMP,
  EXT_UNDEFINED,
  kindOf,
  toLittleEndian,
  UNDEFINED_HOLE,
  UNDEFINED_VALUE,
} from "./codec-extensions.js";
import { keyStep, Refusal } from "./codec-refusal.js";
import { extensionHeaderBytes, Scratch } from "./codec-scratch.js";

const MIN_INT64 = -(2n ** 63n);
const MAX_UINT64 = 2n ** 64n - 1n;
/** What is left free in front of a Map or Set until its length is known. A guess that is too long would pass the limit too early. */
const SHORTEST_HEADER_BYTES = 2;

const { entries } = Map.prototype;
const { values } = Set.prototype;
const { getTime } = Date.prototype;
const { propertyIsEnumerable: isEnumerable } = Object.prototype;
const byteLengthOf = Object.getOwnPropertyDescriptor(ArrayBuffer.prototype, "byteLength")?.get as () => number;

/** Encodes one value at a time; the bytes are on loan until {@link Encoder.wipe}. */
export class Encoder extends Scratch {
  #maxDepth = 0;
  #depth = 0;

  /**
   * @returns A view of the scratch buffer. The caller wipes when done with it, and also after an error.
   * @throws UnsupportedValueError `VALUE_UNSUPPORTED`, `VALUE_CYCLIC`, `VALUE_TOO_DEEP` or `VALUE_TOO_LARGE`.
   */
  encode(value: unknown, maxBytes: number, maxDepth: number): Uint8Array {
    this.start(maxBytes);
    this.#maxDepth = maxDepth;
    this.#depth = 0;
    try {
      if (ArrayBuffer.isView(value)) this.#encodeRootView(value);
      else this.#encodeValue(value, "");
      this.limit(0);
    } catch (error) {
      this.position = this.buffer.length; // Whatever was begun is wiped too.
      throw Refusal.from(error).toError();
    }
    return this.buffer.subarray(0, this.position);
  }

  /** At the root a Buffer is raw bytes, like any Uint8Array. */
  #encodeRootView(view: ArrayBufferView): void {
    const prototype: object | null = Object.getPrototypeOf(view);
    if (prototype !== null && kindOf(prototype) === "Buffer") this.putBin(bytesOf(view));
    else this.#encodeObject(view);
  }

  /** @param key - What a `toJSON` is called with. */
  #encodeValue(value: unknown, key: string | number): void {
    if (typeof value === "object" && value !== null) {
      const form = formOf(value, key);
      if (form === value) this.#encodeObject(value);
      else this.#encodeForm(value, form);
    } else {
      this.#encodePrimitive(value);
    }
  }

  /** Encodes what `toJSON` returned for `value`. A `toJSON` of that does not count, as in JSON. */
  #encodeForm(value: object, form: unknown): void {
    try {
      if (typeof form === "object" && form !== null) this.#encodeObject(form);
      else this.#encodePrimitive(form);
    } catch (error) {
      throw Refusal.from(error).inside(value, "");
    }
  }

  #encodePrimitive(value: unknown): void {
    if (typeof value === "string") {
      this.putText(value);
      return;
    }
    this.reserve();
    if (typeof value === "number") this.putNumber(value);
    else if (typeof value === "boolean") this.putByte(value ? 0xc3 : 0xc2);
    else if (value === null) this.putByte(0xc0);
    else if (value === undefined) this.#encodeUndefined(UNDEFINED_VALUE);
    else if (typeof value === "bigint") this.#encodeBigInt(value);
    else throw unsupported(`a ${typeof value}`);
  }

  #encodeObject(value: object): void {
    this.reserve();
    const prototype: object | null = Object.getPrototypeOf(value);
    if (Array.isArray(value)) {
      if (prototype !== Array.prototype && (prototype === null || kindOf(prototype) !== "Array")) throw derived();
      this.#encodeArray(value);
    } else if (prototype === Object.prototype || prototype === null) {
      this.#encodePlain(value as Record<string, unknown>);
    } else {
      this.#encodeInstance(value, prototype);
    }
  }

  #encodePlain(object: Record<string, unknown>): void {
    let key: string | undefined;
    try {
      this.#enter();
      const keys = Object.keys(object);
      if (Object.getOwnPropertySymbols(object).length !== 0) refuseSymbols(object);
      this.putMapHeader(keys.length);
      for (key of keys) {
        this.putText(key);
        this.#encodeValue(object[key], key);
      }
      this.#depth--;
    } catch (error) {
      throw Refusal.from(error).inside(object, key === undefined ? "" : keyStep(key));
    }
  }

  #encodeArray(array: readonly unknown[]): void {
    let index = -1;
    try {
      this.#enter();
      const { length } = array;
      this.limit(length);
      // Cheaper than its keys by far, and there is one for each element and each other enumerable property.
      let found = Object.values(array).length;
      if (Object.getOwnPropertySymbols(array).length !== 0) refuseSymbols(array);
      this.putArrayHeader(length);
      for (index = 0; index < length; index++) {
        const item = array[index];
        if (item === undefined && !Object.hasOwn(array, index)) {
          this.reserve();
          this.#encodeUndefined(UNDEFINED_HOLE);
          found++;
        } else {
          this.#encodeValue(item, index);
        }
      }
      index = -1;
      if (found !== length) throw unsupported("an array with properties that are not elements");
      this.#depth--;
    } catch (error) {
      throw Refusal.from(error).inside(array, index < 0 ? "" : `[${index}]`);
    }
  }

  #encodeInstance(value: object, prototype: object): void {
    const kind = kindOf(prototype);
    switch (kind) {
      case "Object":
        this.#encodePlain(value as Record<string, unknown>);
        return;
      case "Map":
        this.#encodeMap(value as Map<unknown, unknown>);
        return;
      case "Set":
        this.#encodeSet(value as Set<unknown>);
        return;
      case "Date":
        refuseProperties(value);
        this.#encodeTimestamp(getTime.call(value));
        return;
      case "ArrayBuffer":
        refuseProperties(value);
        byteLengthOf.call(value); // Throws where only the prototype is that of an ArrayBuffer.
        this.#encodeBinary(BINARY_KINDS.indexOf(kind), new Uint8Array(value as ArrayBuffer), 1);
        return;
      case "derived":
        throw derived();
      case "Array":
      case "instance":
        throw unsupported("an instance of a class without toJSON");
      default:
        if (kind === "Uint8Array") this.putBin(bytesOf(value as Uint8Array));
        else this.#encodeBinary(BINARY_KINDS.indexOf(kind), bytesOf(value as ArrayBufferView), elementBytes(value));
    }
  }

  #encodeMap(map: Map<unknown, unknown>): void {
    let index = 0;
    let part = "";
    try {
      this.#enter();
      refuseProperties(map);
      const list = Array.from(entries.call(map));
      const start = this.#openCollection(list.length * 2);
      const forms = new Set<unknown>();
      for (const [key, value] of list) {
        part = "key";
        this.#encodeDistinct(key, map, forms);
        part = "value";
        this.#encodeValue(value, "");
        index++;
      }
      part = "";
      this.#closeCollection(EXT_MAP, start);
      this.#depth--;
    } catch (error) {
      throw Refusal.from(error).inside(map, part === "" ? "" : `<map ${part} ${index}>`);
    }
  }

  #encodeSet(set: Set<unknown>): void {
    let index = -1;
    try {
      this.#enter();
      refuseProperties(set);
      const list = Array.from(values.call(set));
      const start = this.#openCollection(list.length);
      const forms = new Set<unknown>();
      for (const item of list) {
        index++;
        this.#encodeDistinct(item, set, forms);
      }
      index = -1;
      this.#closeCollection(EXT_SET, start);
      this.#depth--;
    } catch (error) {
      throw Refusal.from(error).inside(set, index < 0 ? "" : `<set ${index}>`);
    }
  }

  /** Encodes a key or an element. Two objects may have the same `toJSON` form: a reader would refuse the second. */
  #encodeDistinct(value: unknown, all: { has(value: unknown): boolean }, forms: Set<unknown>): void {
    if (typeof value !== "object" || value === null) {
      this.#encodePrimitive(value);
      return;
    }
    const form = formOf(value, "");
    if (form === value) {
      this.#encodeObject(value);
      return;
    }
    if (typeof form !== "object" || form === null) {
      if (all.has(form) || forms.has(form)) throw unsupported("its toJSON form is there already");
      forms.add(form);
    }
    this.#encodeForm(value, form);
  }

  #openCollection(length: number): number {
    this.limit(length);
    const start = this.position;
    this.position += SHORTEST_HEADER_BYTES;
    this.putArrayHeader(length);
    return start;
  }

  #closeCollection(type: number, start: number): void {
    this.reserve();
    const payload = start + SHORTEST_HEADER_BYTES;
    const length = this.position - payload;
    const shift = extensionHeaderBytes(length) - SHORTEST_HEADER_BYTES;
    if (shift > 0) this.buffer.copyWithin(payload + shift, payload, this.position);
    this.position = start;
    this.putExtension(type, length);
    this.position += length;
  }

  #encodeUndefined(payload: number): void {
    this.putExtension(EXT_UNDEFINED, 1);
    this.putByte(payload);
  }

  #encodeBigInt(value: bigint): void {
    if (value >= MIN_INT64 && value <= MAX_UINT64) {
      this.putBigInt(value);
      return;
    }
    const beyondLimit = value >> BigInt(8 * this.maxBytes);
    if (beyondLimit !== 0n && beyondLimit !== -1n) this.limit(Number.POSITIVE_INFINITY);
    const bytes = bigIntToBytes(value);
    this.putExtension(EXT_BIG_INT, bytes.length);
    this.putBytes(bytes);
    bytes.fill(0);
  }

  #encodeTimestamp(ms: number): void {
    if (Number.isNaN(ms)) throw unsupported("an invalid Date");
    const seconds = Math.floor(ms / 1000);
    const nanoseconds = (ms - seconds * 1000) * 1_000_000;
    const high = Math.floor(seconds / 2 ** 32);
    if (high === 0 && nanoseconds === 0) {
      this.putExtension(EXT_TIMESTAMP, 4);
    } else if (high >= 0 && high < 4) {
      this.putExtension(EXT_TIMESTAMP, 8);
      this.putUint32(nanoseconds * 4 + high);
    } else {
      this.putExtension(EXT_TIMESTAMP, 12);
      this.putUint32(nanoseconds);
      this.putUint32(high);
    }
    this.putUint32(seconds);
  }

  #encodeBinary(kind: number, bytes: Uint8Array, bytesPerElement: number): void {
    this.putExtension(EXT_BINARY, bytes.length + 1);
    this.putByte(kind);
    const start = this.position;
    this.putBytes(bytes);
    toLittleEndian(this.buffer.subarray(start, this.position), bytesPerElement);
  }

  #enter(): void {
    if (++this.#depth > this.#maxDepth) throw new Refusal("VALUE_TOO_DEEP", `more than ${this.#maxDepth} levels deep`);
  }
}

/** @returns What stands for an object: the result of its `toJSON`, if it has one and no form of its own, or the object itself. */
function formOf(value: object, key: string | number): unknown {
  const { toJSON } = value as { toJSON?: unknown };
  if (typeof toJSON !== "function" || hasOwnForm(value)) return value;
  return toJSON.call(value, String(key));
}

/** @returns Whether a `toJSON` does not count: Date and Buffer inherit one that would alter them. */
function hasOwnForm(value: object): boolean {
  const prototype: object | null = Object.getPrototypeOf(value);
  if (prototype === null || Array.isArray(value)) return false;
  const kind = kindOf(prototype);
  return kind !== "Object" && kind !== "instance";
}

/** @throws TypeError When it is no view, or one of memory that is gone. */
function bytesOf(view: ArrayBufferView): Uint8Array {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

function elementBytes(view: object): number {
  return "BYTES_PER_ELEMENT" in view ? (view.BYTES_PER_ELEMENT as number) : 1;
}

function refuseSymbols(object: object): void {
  if (Object.getOwnPropertySymbols(object).some((symbol) => isEnumerable.call(object, symbol))) {
    throw unsupported("an object with symbol keys");
  }
}

function refuseProperties(object: object): void {
  if (Object.keys(object).length !== 0) throw unsupported("a built-in object with properties of its own");
  refuseSymbols(object);
}

function derived(): Refusal {
  return unsupported("an instance of a class derived from a built-in one");
}

function unsupported(what: string): Refusal {
  return new Refusal("VALUE_UNSUPPORTED", `${what} cannot be stored faithfully`);
}
