/**
 * The layout of an envelope (format sections 3 and 4): where each field stands, and what is authenticated. No crypto here.
 */
import { NONCE_BYTES, TAG_BYTES } from "./aead.js";
import { utf8 } from "./bytes.js";

/** The first byte of every envelope; JSON never begins with it. */
const MAGIC = 0xe5;
/** The version that this file writes and reads. */
const VERSION = 1;
/** Length of a key id in bytes. */
export const KEY_ID_BYTES = 12;
/** Longest key record in bytes (format 3 and 5.1). */
export const MAX_RECORD_BYTES = 8192;
/** Longest envelope in bytes, unless configured otherwise: 1 MiB. */
export const DEFAULT_MAX_ENVELOPE_BYTES = 1_048_576;

const FLAG_INLINE_KEY = 1;
const FLAG_NOT_AFTER = 2;
const FLAG_CLIENT_BOUND = 8;
const KNOWN_FLAGS = FLAG_INLINE_KEY | FLAG_NOT_AFTER | FLAG_CLIENT_BOUND;

const KEY_ID_OFFSET = 2;
/** Where the nonce stands. */
export const NONCE_OFFSET = KEY_ID_OFFSET + KEY_ID_BYTES;
const FIXED_HEADER_BYTES = NONCE_OFFSET + NONCE_BYTES;
const NOT_AFTER_BYTES = 4;
const RECORD_LENGTH_BYTES = 2;
const MIN_CIPHERTEXT_BYTES = 1;
const MAX_PART_BYTES = 0xffff;

/** The fields of a header, apart from the nonce. */
export interface EnvelopeHeader {
  /** Which data key: 12 bytes. */
  readonly keyId: Uint8Array;
  /** Absolute end of life in seconds since 1970-01-01T00:00:00Z, 0 to 4294967295; without it there is none. */
  readonly notAfter?: number | undefined;
  /** Needs the client's session id to be opened (format 3.4). */
  readonly clientBound?: boolean;
  /** The key record that travels with the envelope: 1 to 8192 bytes. */
  readonly inlineRecord?: Uint8Array | undefined;
}

/** The parts of an envelope. The arrays are views of its bytes. */
export interface Envelope extends EnvelopeHeader {
  /** Needs the client's session id to be opened (format 3.4). */
  readonly clientBound: boolean;
  /** 24 bytes: sender and random part. */
  readonly nonce: Uint8Array;
  /** All bytes before the ciphertext. */
  readonly header: Uint8Array;
  /** Ciphertext, at least one byte, and tag. */
  readonly sealed: Uint8Array;
}

/** @returns The length of the header that {@link writeHeader} will write, in bytes. */
export function headerBytes(header: EnvelopeHeader): number {
  return (
    FIXED_HEADER_BYTES +
    (header.notAfter === undefined ? 0 : NOT_AFTER_BYTES) +
    (header.inlineRecord === undefined ? 0 : RECORD_LENGTH_BYTES + header.inlineRecord.length)
  );
}

/** Writes a header to the start of `target`; the 24 bytes of the nonce at {@link NONCE_OFFSET} are left to the caller. */
export function writeHeader(target: Uint8Array, header: EnvelopeHeader): void {
  let flags = 0;
  let offset = FIXED_HEADER_BYTES;
  if (header.clientBound) flags |= FLAG_CLIENT_BOUND;
  if (header.notAfter !== undefined) {
    flags |= FLAG_NOT_AFTER;
    const value = header.notAfter;
    target[offset++] = value >>> 24;
    target[offset++] = value >>> 16;
    target[offset++] = value >>> 8;
    target[offset++] = value;
  }
  if (header.inlineRecord !== undefined) {
    flags |= FLAG_INLINE_KEY;
    target[offset++] = header.inlineRecord.length >>> 8;
    target[offset++] = header.inlineRecord.length;
    target.set(header.inlineRecord, offset);
  }
  target[0] = MAGIC;
  target[1] = (VERSION << 4) | flags;
  target.set(header.keyId, KEY_ID_OFFSET);
}

/**
 * Reads the layout of an envelope; nothing in it is authenticated yet.
 *
 * @param bytes - What lay in the store.
 * @param maxBytes - The longest envelope to accept, in bytes. Default: 1048576 (1 MiB).
 * @returns The parts, or `undefined` when this is no envelope of a version and with flags that this reader knows.
 */
export function parseEnvelope(bytes: Uint8Array, maxBytes: number = DEFAULT_MAX_ENVELOPE_BYTES): Envelope | undefined {
  if (bytes.length > maxBytes || bytes.length < FIXED_HEADER_BYTES + MIN_CIPHERTEXT_BYTES + TAG_BYTES) return undefined;
  const [magic, second] = bytes as unknown as [number, number];
  const flags = second & 0x0f;
  if (magic !== MAGIC || second >> 4 !== VERSION || (flags & ~KNOWN_FLAGS) !== 0) return undefined;

  let offset = FIXED_HEADER_BYTES;
  let notAfter: number | undefined;
  if (flags & FLAG_NOT_AFTER) {
    notAfter = readUint(bytes, offset, NOT_AFTER_BYTES);
    offset += NOT_AFTER_BYTES;
  }
  let inlineRecord: Uint8Array | undefined;
  if (flags & FLAG_INLINE_KEY) {
    const length = readUint(bytes, offset, RECORD_LENGTH_BYTES);
    offset += RECORD_LENGTH_BYTES;
    if (length < 1 || length > MAX_RECORD_BYTES) return undefined;
    inlineRecord = bytes.subarray(offset, offset + length);
    offset += length;
  }
  // Also covers a field that runs past the end: missing bytes were read as 0 and are not used.
  if (bytes.length - offset < MIN_CIPHERTEXT_BYTES + TAG_BYTES) return undefined;
  return {
    keyId: bytes.subarray(KEY_ID_OFFSET, NONCE_OFFSET),
    nonce: bytes.subarray(NONCE_OFFSET, FIXED_HEADER_BYTES),
    notAfter,
    clientBound: (flags & FLAG_CLIENT_BOUND) !== 0,
    inlineRecord,
    header: bytes.subarray(0, offset),
    sealed: bytes.subarray(offset),
  };
}

/**
 * Writes a context (format 4.2): each part as a 16-bit length and its UTF-8 bytes.
 *
 * @returns The bytes, or `undefined` when a part is ill-formed Unicode or longer than 65535 bytes.
 */
export function writeContext(...parts: readonly string[]): Uint8Array | undefined {
  const encoded: Uint8Array[] = [];
  let length = 0;
  for (const part of parts) {
    if (part.length > MAX_PART_BYTES || !part.isWellFormed()) return undefined;
    const bytes = utf8(part);
    if (bytes.length > MAX_PART_BYTES) return undefined;
    encoded.push(bytes);
    length += 2 + bytes.length;
  }
  const context = new Uint8Array(length);
  let offset = 0;
  for (const bytes of encoded) {
    context[offset++] = bytes.length >>> 8;
    context[offset++] = bytes.length;
    context.set(bytes, offset);
    offset += bytes.length;
  }
  return context;
}

function readUint(bytes: Uint8Array, offset: number, length: number): number {
  let value = 0;
  for (let i = offset; i < offset + length; i++) value = value * 256 + (bytes[i] ?? 0);
  return value;
}

/** Bytes of an envelope that {@link peekEnvelope} looks at. */
export const PEEK_BYTES = KEY_ID_OFFSET + KEY_ID_BYTES;

/**
 * Reads what the beginning of an envelope tells, without the rest.
 *
 * @param head - At least the first {@link PEEK_BYTES} of it.
 * @returns `undefined` when this is the beginning of no envelope.
 */
export function peekEnvelope(head: Uint8Array): Pick<EnvelopeHeader, "keyId" | "clientBound"> | undefined {
  const [magic, second = 0] = head;
  if (head.length < PEEK_BYTES || magic !== MAGIC || second >> 4 !== VERSION) return undefined;
  return { keyId: head.subarray(KEY_ID_OFFSET, PEEK_BYTES), clientBound: (second & FLAG_CLIENT_BOUND) !== 0 };
}
