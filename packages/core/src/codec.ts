/**
 * What is sealed, as bytes: the web session object to plaintext and back (format section 6).
 *
 * The bytes are standard MessagePack, but the one-pass encoder and the strict decoder are our own. No configuration makes
 * msgpackr 2.1 faithful (functions become undefined, class instances plain objects, -0 becomes 0, unpaired surrogates U+FFFD,
 * `__proto__` another key) or strict (it takes the unused byte 0xc1 and invalid UTF-8), so it would need a whole pass of ours
 * before and after it. It is the peer in the tests. What standard MessagePack has no form for: see `codec-extensions.ts`.
 */
import { requireInteger } from "./argument.js";
import { Decoder, malformed } from "./codec-decoder.js";
import { Encoder } from "./codec-encoder.js";

const DEFAULT_MAX_BYTES = 1_048_576;
const DEFAULT_MAX_DEPTH = 100;
/** Lengths in MessagePack have 32 bits, and typed arrays of this size exist on every platform. */
const HIGHEST_MAX_BYTES = 2 ** 30;
/** Encoder and decoder call themselves for each level: at this one, Maps take half of the stack that Node has by default. */
const HIGHEST_MAX_DEPTH = 1000;

/** How much one value may take. */
export interface CodecLimits {
  /** The longest encoded form, in bytes: 0 to 1073741824. @defaultValue 1048576 (1 MiB) */
  readonly maxBytes: number;
  /** How many objects, arrays, Maps and Sets may stand inside each other: 0 to 1000. @defaultValue 100 */
  readonly maxDepth: number;
}

/** Options of {@link decode}. */
export interface DecodeOptions extends Partial<CodecLimits> {
  /** Takes floating-point numbers for malformed, also whole ones: for key records, whose numbers are integers (format 5.1). @defaultValue false */
  readonly integersOnly?: boolean;
}

/** Kept for its scratch buffer; a value that is encoded while another one is gets an encoder of its own. */
let idleEncoder: Encoder | undefined;

/**
 * Encodes a value as one standard MessagePack value. The same value always gives the same bytes.
 *
 * It takes what {@link decode} gives back as it was: null, undefined, booleans, numbers, BigInts, strings, arrays with their
 * holes, plain objects, Map, Set, Date, ArrayBuffer, DataView, typed arrays and Buffer. At the root a Buffer is raw bytes, and comes
 * back as an Uint8Array. An object of any other class, and a plain object or array, is taken in the form that its `toJSON` returns,
 * if it has one. Prototype null becomes `Object.prototype`, properties that are not enumerable are left out, and an object that
 * stands in two places comes back as two; everything else that would not come back as it was is refused.
 *
 * @param value - The value. Its getters and `toJSON` methods run, and may call `encode` in turn.
 * @param limits - See {@link CodecLimits}.
 * @returns The bytes, in a buffer of their own.
 * @throws UnsupportedValueError With the path to what is wrong. `VALUE_UNSUPPORTED`: it cannot be kept, or reading it threw an error
 *   (then the `cause`). `VALUE_CYCLIC`: a container inside itself. `VALUE_TOO_DEEP`, `VALUE_TOO_LARGE`: over a limit.
 * @throws RangeError When a limit is out of range.
 */
export function encode(value: unknown, limits: Partial<CodecLimits> = {}): Uint8Array {
  return encodeBorrowed(value, limits, (bytes) => bytes.slice());
}

/**
 * Encodes like {@link encode}, without a copy: lends the bytes and overwrites them afterwards. For the sealer, once for each seal.
 *
 * @param value - The value.
 * @param limits - See {@link CodecLimits}.
 * @param use - Called with the bytes, which are all zero as soon as it returns or throws; so it must not be asynchronous.
 * @returns What `use` returns.
 * @throws What {@link encode} and `use` throw.
 */
export function encodeBorrowed<T>(value: unknown, limits: Partial<CodecLimits>, use: (bytes: Uint8Array) => T): T {
  const { maxBytes = DEFAULT_MAX_BYTES, maxDepth = DEFAULT_MAX_DEPTH } = limits;
  requireLimits(maxBytes, maxDepth);
  const encoder = idleEncoder ?? new Encoder();
  idleEncoder = undefined;
  try {
    return use(encoder.encode(value, maxBytes, maxDepth));
  } finally {
    if (encoder.wipe()) idleEncoder = encoder;
  }
}

/**
 * Decodes what {@link encode} returned, or any other MessagePack of the same values: longer forms and 32-bit floats are fine.
 *
 * @param bytes - Exactly one value. Nothing in the result refers to them.
 * @param options - See {@link DecodeOptions}.
 * @returns The value. Integers of 64 bits are BigInts, all other numbers are numbers; objects have the prototype `Object.prototype`
 *   and whatever keys they had as properties of their own, also `__proto__`. Without a global `Buffer` an Uint8Array stands for one.
 * @throws SealedSessionError `PAYLOAD_MALFORMED`, always with the same message: the bytes are no such value, or over a limit.
 * @throws TypeError When `bytes` is not binary data.
 * @throws RangeError When a limit is out of range.
 */
export function decode(bytes: Uint8Array, options: DecodeOptions = {}): unknown {
  const { maxBytes = DEFAULT_MAX_BYTES, maxDepth = DEFAULT_MAX_DEPTH, integersOnly = false } = options;
  requireLimits(maxBytes, maxDepth);
  if (!ArrayBuffer.isView(bytes)) throw new TypeError("bytes must be an Uint8Array");
  if (bytes.byteLength > maxBytes) throw malformed();
  // Never a Buffer beyond this point: one class of array keeps the loops fast, and `subarray` cheap.
  const isPlain = Object.getPrototypeOf(bytes) === Uint8Array.prototype;
  const view = isPlain ? bytes : new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return new Decoder(view, maxDepth, integersOnly).decode();
}

function requireLimits(maxBytes: number, maxDepth: number): void {
  requireInteger("maxBytes", maxBytes, 0, HIGHEST_MAX_BYTES);
  requireInteger("maxDepth", maxDepth, 0, HIGHEST_MAX_DEPTH);
}
