/**
 * The MessagePack extensions of the codec (format 6.1): what they mean by number, and which objects they stand for.
 *
 * | type | payload                                                                                         | value               |
 * |------|-------------------------------------------------------------------------------------------------|---------------------|
 * | -1   | 4, 8 or 12 bytes, as MessagePack defines them                                                   | Date                |
 * | 0    | `00`                                                                                            | undefined           |
 * | 0    | `01`, only as an element of an array                                                            | a hole of the array |
 * | 1    | one array: key, value, key, value …                                                             | Map                 |
 * | 2    | one array: the elements                                                                         | Set                 |
 * | 3    | two's complement, big-endian, as short as possible; only what fits neither int 64 nor uint 64   | BigInt              |
 * | 4    | kind (one byte, see {@link BINARY_KINDS}), then the bytes, every element little-endian          | binary data         |
 * | 5    | UTF-16 code units, big-endian; only what has an unpaired surrogate                              | string              |
 */

/** Extension types, as the byte that is written. */
export const EXT_TIMESTAMP = 0xff;
export const EXT_UNDEFINED = 0;
export const EXT_MAP = 1;
export const EXT_SET = 2;
export const EXT_BIG_INT = 3;
export const EXT_BINARY = 4;
export const EXT_TEXT = 5;

/** Payloads of {@link EXT_UNDEFINED}. */
export const UNDEFINED_VALUE = 0;
export const UNDEFINED_HOLE = 1;

/** The classes of {@link EXT_BINARY}; the place in the list is the kind byte. An Uint8Array is an ordinary MessagePack bin. */
export const BINARY_KINDS = [
  "ArrayBuffer",
  "DataView",
  "Buffer",
  "Int8Array",
  "Uint8ClampedArray",
  "Int16Array",
  "Uint16Array",
  "Int32Array",
  "Uint32Array",
  "Float32Array",
  "Float64Array",
  "BigInt64Array",
  "BigUint64Array",
] as const;

type BinaryKind = (typeof BINARY_KINDS)[number];

/** What the encoder makes of an object: one of the built-in classes, a class derived from one, or any other class. */
export type Kind = "Object" | "Array" | "Map" | "Set" | "Date" | "Uint8Array" | BinaryKind | "derived" | "instance";

const BUILT_IN: ReadonlySet<string> = new Set([
  "Array",
  "Map",
  "Set",
  "Date",
  "Uint8Array",
  ...BINARY_KINDS,
] satisfies Kind[]);
const NATIVE_CLASS = /^function (\w+)\(\)\s*\{\s*\[native code\]\s*\}$/;
const LITTLE_ENDIAN = new Uint8Array(Uint16Array.of(1).buffer)[0] === 1;

const NodeBuffer: typeof Buffer | undefined = typeof Buffer === "undefined" ? undefined : Buffer;
const kinds = new WeakMap<object, Kind>();
if (NodeBuffer) kinds.set(NodeBuffer.prototype, "Buffer");

/** @returns The kind of the objects with this prototype. Built-in classes are known in whatever realm they were made. */
export function kindOf(prototype: object): Kind {
  let kind = kinds.get(prototype);
  if (kind === undefined) {
    kind = builtInKind(prototype) ?? (isDerived(prototype) ? "derived" : "instance");
    kinds.set(prototype, kind);
  }
  return kind;
}

function builtInKind(prototype: object): Kind | undefined {
  if (Object.getPrototypeOf(prototype) === null) {
    return Object.hasOwn(prototype, "isPrototypeOf") ? "Object" : undefined;
  }
  const maker: unknown = Object.getOwnPropertyDescriptor(prototype, "constructor")?.value;
  if (typeof maker !== "function" || maker.prototype !== prototype) return undefined;
  // No function of a program has this source text, whatever its name.
  const name = NATIVE_CLASS.exec(Function.prototype.toString.call(maker))?.[1];
  return name !== undefined && BUILT_IN.has(name) ? (name as Kind) : undefined;
}

function isDerived(prototype: object): boolean {
  let ancestor: object | null = Object.getPrototypeOf(prototype);
  while (ancestor !== null) {
    const kind = kindOf(ancestor);
    if (kind !== "instance") return kind !== "Object";
    ancestor = Object.getPrototypeOf(ancestor);
  }
  return false;
}

/**
 * Makes the object of an {@link EXT_BINARY} payload.
 *
 * @param kind - The kind byte.
 * @param bytes - The bytes after it, in a buffer of their own that the object takes over.
 * @returns `undefined` when there is no such kind or the bytes are no whole number of elements.
 */
export function binaryOf(kind: number, bytes: Uint8Array<ArrayBuffer>): object | undefined {
  const name = BINARY_KINDS[kind];
  if (name === undefined) return undefined;
  if (name === "ArrayBuffer") return bytes.buffer;
  if (name === "DataView") return new DataView(bytes.buffer);
  if (name === "Buffer") return NodeBuffer ? NodeBuffer.from(bytes.buffer) : bytes;
  const ElementArray = globalThis[name];
  if (bytes.length % ElementArray.BYTES_PER_ELEMENT !== 0) return undefined;
  toLittleEndian(bytes, ElementArray.BYTES_PER_ELEMENT);
  return new ElementArray(bytes.buffer);
}

/** Turns elements between the machine's byte order and little-endian, in place. */
export function toLittleEndian(bytes: Uint8Array, elementBytes: number, littleEndian: boolean = LITTLE_ENDIAN): void {
  if (littleEndian) return;
  for (let start = 0; start < bytes.length; start += elementBytes) {
    bytes.subarray(start, start + elementBytes).reverse();
  }
}

/** @returns The shortest two's complement form, big-endian. */
export function bigIntToBytes(value: bigint): Uint8Array {
  const magnitude = value < 0n ? ~value : value;
  const digits = magnitude.toString(16);
  // One bit more than the magnitude has, for the sign.
  const length = Math.floor((digits.length * 4 - Math.clz32(Number.parseInt(digits[0] as string, 16)) + 28) / 8) + 1;
  const padded = digits.padStart(length * 2, "0");
  const flip = value < 0n ? 0xff : 0;
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = Number.parseInt(padded.slice(2 * i, 2 * i + 2), 16) ^ flip;
  return bytes;
}

/** @returns `undefined` when the bytes are not the shortest form, or of a number that int 64 or uint 64 holds. */
export function bigIntOf(bytes: Uint8Array): bigint | undefined {
  const first = bytes[0];
  if (first === undefined || bytes.length < 9 || (bytes.length === 9 && first === 0)) return undefined;
  const negative = first >= 0x80;
  if (first === (negative ? 0xff : 0) && (bytes[1] as number) >= 0x80 === negative) return undefined;
  const flip = negative ? 0xff : 0;
  let digits = "0x";
  for (const byte of bytes) digits += (byte ^ flip).toString(16).padStart(2, "0");
  try {
    const magnitude = BigInt(digits);
    return negative ? ~magnitude : magnitude;
  } catch {
    return undefined; // Longer than this engine's BigInt: none like it was ever encoded here.
  }
}
