/**
 * A data key and its record (format sections 1 and 5.1): what is derived from it, how it names itself, and how it lies in a
 * ring. The key ring makes {@link DataKey}s; the sealer uses them.
 */
import { backend } from "#backend";
import { importAesKey, KEY_BYTES, type RandomFill, SENDER_BYTES } from "./aead.js";
import type { SecretKey } from "./backend/backend.js";
import { base64url, latin1, utf8 } from "./bytes.js";
import { decode, encode } from "./codec.js";
import { KEY_ID_BYTES, MAX_RECORD_BYTES } from "./envelope.js";
import { SealedSessionError } from "./errors.js";

/** The state of a key record (format 5.1). A merge of two copies takes the higher one. */
export const RecordState = {
  /** The key seals in its time and opens. */
  enabled: 0,
  /** The key neither seals nor opens: what it sealed counts as gone. */
  revoked: 1,
  /** A tombstone: nothing is sealed under the key any more, and its wraps are gone. */
  retired: 2,
} as const;
/** One of the numbers of {@link RecordState}: 0 enabled, 1 revoked, 2 retired. */
export type RecordState = (typeof RecordState)[keyof typeof RecordState];

/** A data key wrapped by one KMS: part of a {@link KeyRecord}. */
export interface WrappedKey {
  /** Which KMS: its {@link Kms.name}. */
  readonly kms: string;
  /** What it returned: 1 to 4096 bytes. */
  readonly wrapped: Uint8Array;
}

/** A key record: a data key at rest (format 5.1). */
export interface KeyRecord {
  /** What names the data key without telling it (HKDF-SHA256, format 1.2): 32 bytes; the first 12 are the key id. */
  readonly commitment: Uint8Array;
  /** From when on the key seals, in milliseconds since 1970-01-01T00:00:00Z. */
  readonly activatesAt: number;
  /** 0 enabled, 1 revoked, 2 retired. Not authenticated: see format 5.1. */
  readonly state: RecordState;
  /** The data key wrapped by each KMS: 1 to 8; none in a tombstone. */
  readonly wraps: readonly WrappedKey[];
}

/** Latest `activatesAt`: the end of the year 9999, in milliseconds. */
export const MAX_ACTIVATES_AT = 253_402_300_799_999;
/** Most wraps in a record. */
export const MAX_WRAPS = 8;
/** Longest name of a KMS in bytes of UTF-8. */
export const MAX_KMS_NAME_BYTES = 64;
/** Longest wrapped key in bytes. */
const MAX_WRAPPED_BYTES = 4096;

const RECORD_VERSION = 1;
const COMMITMENT_BYTES = 32;
const MAX_UINT32 = 0xffff_ffff;
/** SP 800-38D allows 2^32 random nonces under one AES key; half of that is format 2.2. */
const MAX_MESSAGES_PER_SENDER = 2 ** 31;
const DEFAULT_MAX_SENDERS = 1024;

const NO_SALT = new Uint8Array(0);
const INFO_COMMITMENT = utf8("sealed-session/v1/commitment");
const INFO_SEAL = utf8("sealed-session/v1/seal");
const INFO_INDEX = utf8("sealed-session/v1/index");
const INFO_CLIENT = utf8("sealed-session/v1/client");

/**
 * What the data keys of a ring are for: `sealing` makes envelopes, `index` the blind names of principals (format 1.4). A data key never does both.
 */
export type KeyPurpose = "sealing" | "index";

/** How a {@link DataKey} behaves; the defaults are the format's. */
export interface DataKeyOptions {
  /** What it is for: nothing else is derived from it. @defaultValue "sealing" */
  readonly purpose?: KeyPurpose;
  /** Source of senders. */
  readonly random: RandomFill;
  /** Senders of other processes whose AES key is kept for opening. @defaultValue 1024 */
  readonly maxSenders?: number;
  /** Messages after which a new sender is drawn. @defaultValue 2^31 */
  readonly maxMessagesPerSender?: number;
}

/** What seals the next message: format 2.2. */
export interface SealingSender {
  /** 12 bytes: the first half of the nonce. */
  readonly sender: Uint8Array;
  /** The AES-256-GCM key that belongs to it. */
  readonly aesKey: SecretKey;
}

/**
 * An unwrapped and verified data key in this process, as {@link KeyRing.current} and {@link KeyRing.byId} hand it out. Holds only what is
 * derived from it; the ring owns it and wipes it.
 */
export class DataKey {
  /** The key id in base64url: 16 characters. */
  readonly keyId: string;
  /** The key id: 12 bytes. */
  readonly keyIdBytes: Uint8Array;
  /** The key's commitment, 32 bytes: what its {@link KeyRecord} holds. */
  readonly commitment: Uint8Array;

  readonly #purpose: KeyPurpose;
  /** The sealing key, or the index key of a ring for that. */
  readonly #derived: SecretKey;
  readonly #random: RandomFill;
  readonly #maxSenders: number;
  readonly #maxMessages: number;
  #wiped = false;
  #sealing: SealingSender | undefined;
  #messages = 0;
  // Two generations: a hit in the old one moves up, and a full young one becomes the old one. No list to maintain on a hit.
  #young = new Map<string, SecretKey>();
  #old = new Map<string, SecretKey>();

  /**
   * @param bytes - The data key, 32 bytes; the caller wipes it afterwards.
   * @param options - See {@link DataKeyOptions}.
   * @throws RangeError when `bytes` has another length.
   */
  constructor(bytes: Uint8Array, options: DataKeyOptions) {
    const { commitment, sealingKey } = deriveKeys(bytes);
    this.commitment = commitment;
    this.keyIdBytes = commitment.slice(0, KEY_ID_BYTES);
    this.keyId = base64url(this.keyIdBytes);
    this.#purpose = options.purpose ?? "sealing";
    const derived = this.#purpose === "index" ? deriveIndexKey(bytes) : sealingKey;
    this.#derived = backend.importKey(derived);
    sealingKey.fill(0);
    derived.fill(0);
    this.#random = options.random;
    this.#maxSenders = options.maxSenders ?? DEFAULT_MAX_SENDERS;
    this.#maxMessages = options.maxMessagesPerSender ?? MAX_MESSAGES_PER_SENDER;
  }

  /**
   * Called once a message.
   *
   * @returns The sender for one message of this process.
   * @throws SealedSessionError `KEY_UNAVAILABLE` once the key is wiped.
   * @internal
   */
  nextSender(): SealingSender {
    if (this.#sealing === undefined || this.#messages >= this.#maxMessages) {
      const sender = this.#drawSender();
      this.#sealing?.aesKey.wipe();
      this.#sealing = { sender, aesKey: importAesKey(backend, this.#key(), sender) };
      this.#messages = 0;
    }
    this.#messages++;
    return this.#sealing;
  }

  /** Makes the next message draw a new sender: a process image that was copied or restored must not go on with the old one. */
  reseed(): void {
    this.#sealing?.aesKey.wipe();
    this.#sealing = undefined;
  }

  /**
   * Opens with the AES key of the nonce's sender, which is kept for later once a tag verified under it (format 2.3).
   *
   * @returns The plaintext, or `undefined` when the tag does not verify.
   * @throws SealedSessionError `KEY_UNAVAILABLE` once the key is wiped.
   * @internal
   */
  open(nonce: Uint8Array, aad: Uint8Array, sealed: Uint8Array): Uint8Array | undefined {
    const name = latin1(nonce, 0, SENDER_BYTES);
    const known = this.#young.get(name) ?? this.#old.get(name);
    const aesKey = known ?? importAesKey(backend, this.#key(), nonce);
    const plaintext = backend.openGcm(aesKey, nonce.subarray(SENDER_BYTES), aad, sealed);
    if (plaintext === undefined) {
      if (known === undefined) aesKey.wipe();
    } else if (!this.#young.has(name)) {
      this.#remember(name, aesKey);
    }
    return plaintext;
  }

  /**
   * The sealing key of one client-bound session (format 3.4), never cached.
   *
   * @param sessionId - The session id in UTF-8.
   * @returns A key that the caller wipes.
   * @throws SealedSessionError `KEY_UNAVAILABLE` once the key is wiped.
   * @internal
   */
  clientKey(sessionId: Uint8Array): SecretKey {
    const info = new Uint8Array(INFO_CLIENT.length + sessionId.length);
    info.set(INFO_CLIENT);
    info.set(sessionId, INFO_CLIENT.length);
    const bytes = backend.hkdfSha256(this.#key(), NO_SALT, info, KEY_BYTES);
    const key = backend.importKey(bytes);
    bytes.fill(0);
    info.fill(0);
    return key;
  }

  /**
   * The index key of a data key of an index ring.
   *
   * @returns What the data key owns and wipes.
   * @throws TypeError when the ring seals; SealedSessionError `KEY_UNAVAILABLE` once the key is wiped.
   * @internal
   */
  indexKey(): SecretKey {
    return this.#key("index");
  }

  /** Forgets everything; the key cannot be used afterwards. */
  wipe(): void {
    this.#wiped = true;
    this.#derived.wipe();
    this.reseed();
    for (const generation of [this.#young, this.#old]) {
      for (const key of generation.values()) key.wipe();
      generation.clear();
    }
  }

  #key(purpose: KeyPurpose = "sealing"): SecretKey {
    if (this.#purpose !== purpose) throw wrongPurpose(this.#purpose);
    if (this.#wiped) throw new SealedSessionError("KEY_UNAVAILABLE", "the data key is no longer held by this process");
    return this.#derived;
  }

  #drawSender(): Uint8Array {
    this.#key();
    const sender = new Uint8Array(SENDER_BYTES);
    this.#random(sender);
    return sender;
  }

  #remember(name: string, aesKey: SecretKey): void {
    this.#old.delete(name);
    if (this.#young.size >= Math.ceil(this.#maxSenders / 2)) {
      for (const key of this.#old.values()) key.wipe();
      this.#old = this.#young;
      this.#young = new Map();
    }
    this.#young.set(name, aesKey);
  }
}

/**
 * Derives what format 1.2 says from the 32 bytes of a data key.
 *
 * @returns The commitment (public) and the sealing key (to be wiped), 32 bytes each.
 */
export function deriveKeys(dataKey: Uint8Array): { commitment: Uint8Array; sealingKey: Uint8Array } {
  if (dataKey.length !== KEY_BYTES) throw new RangeError(`a data key must have ${KEY_BYTES} bytes`);
  const key = backend.importKey(dataKey);
  const commitment = backend.hkdfSha256(key, NO_SALT, INFO_COMMITMENT, COMMITMENT_BYTES);
  const sealingKey = backend.hkdfSha256(key, NO_SALT, INFO_SEAL, KEY_BYTES);
  key.wipe();
  return { commitment, sealingKey };
}

/** Derives the index key of a data key of an index ring: 32 bytes, to be wiped. */
export function deriveIndexKey(dataKey: Uint8Array): Uint8Array {
  const key = backend.importKey(dataKey);
  const indexKey = backend.hkdfSha256(key, NO_SALT, INFO_INDEX, KEY_BYTES);
  key.wipe();
  return indexKey;
}

/** @returns The error for a ring that is used for what it is not for. */
export function wrongPurpose(purpose: KeyPurpose): TypeError {
  return new TypeError(
    purpose === "index"
      ? "an index ring seals nothing"
      : 'an index needs a ring of its own, whose name begins with "index:"',
  );
}

/** @returns The key id of a record in base64url. */
export function keyIdOf(record: KeyRecord): string {
  return base64url(record.commitment.subarray(0, KEY_ID_BYTES));
}

/** Writes a record as MessagePack. @throws SealedSessionError `KEY_RECORD_INVALID` when it would break a limit of format 5.1. */
export function encodeRecord(record: KeyRecord): Uint8Array {
  const activatesAt = record.activatesAt > MAX_UINT32 ? BigInt(record.activatesAt) : record.activatesAt;
  const wraps = record.wraps.map(({ kms, wrapped }) => [kms, Uint8Array.from(wrapped)]);
  const bytes = encode([RECORD_VERSION, Uint8Array.from(record.commitment), activatesAt, record.state, wraps]);
  if (decodeRecord(bytes) === undefined) {
    throw new SealedSessionError("KEY_RECORD_INVALID", "the key record breaks a limit of the format (5.1)");
  }
  return bytes;
}

/** Reads a record. @returns `undefined` when the bytes are not one (format 5.1). */
export function decodeRecord(bytes: Uint8Array): KeyRecord | undefined {
  if (bytes.length > MAX_RECORD_BYTES) return undefined;
  let value: unknown;
  try {
    value = decode(bytes, { integersOnly: true });
  } catch {
    return undefined;
  }
  if (!Array.isArray(value) || value.length !== 5) return undefined;
  const [version, commitment, time, stateNumber, list] = value as unknown[];
  const activatesAt = narrow(time);
  const state = narrow(stateNumber);
  if (narrow(version) !== RECORD_VERSION || !isBytes(commitment, COMMITMENT_BYTES, COMMITMENT_BYTES)) return undefined;
  if (!isInteger(activatesAt, MAX_ACTIVATES_AT) || !isInteger(state, RecordState.retired) || !Array.isArray(list)) {
    return undefined;
  }
  if (list.length > MAX_WRAPS || (list.length === 0 && state !== RecordState.retired)) return undefined;
  const wraps: WrappedKey[] = [];
  for (const wrap of list as unknown[]) {
    if (!Array.isArray(wrap) || wrap.length !== 2) return undefined;
    const [kms, wrapped] = wrap as unknown[];
    if (!isKmsName(kms) || !isBytes(wrapped, 1, MAX_WRAPPED_BYTES)) return undefined;
    if (wraps.some((other) => other.kms === kms)) return undefined;
    wraps.push({ kms, wrapped });
  }
  return { commitment, activatesAt, state: state as RecordState, wraps };
}

/**
 * Merges two copies of one key's record (format 5.4): the higher state wins, and wraps are never dropped, except by
 * retirement. Where both have a wrap of one KMS, or differ in time, `first` is kept.
 */
export function mergeRecords(first: KeyRecord, second: KeyRecord): KeyRecord {
  const state = Math.max(first.state, second.state) as RecordState;
  if (state === RecordState.retired) return { ...first, state, wraps: [] };
  const wraps = [...first.wraps];
  for (const wrap of second.wraps) {
    // What somebody else has added must not make the record one that nobody can write.
    const fits = wraps.length < MAX_WRAPS && sizeOf([...wraps, wrap]) <= MAX_RECORD_BYTES;
    if (fits && wraps.every(({ kms }) => kms !== wrap.kms)) wraps.push(wrap);
  }
  return { ...first, state, wraps };
}

/** At least the length of a record with these wraps, in bytes. */
function sizeOf(wraps: readonly WrappedKey[]): number {
  return wraps.reduce((size, { kms, wrapped }) => size + utf8(kms).length + wrapped.length + 6, 50);
}

/** An integer of MessagePack as a number: forms of 64 bits are read as BigInts. */
function narrow(value: unknown): unknown {
  return typeof value === "bigint" ? Number(value) : value;
}

function isBytes(value: unknown, min: number, max: number): value is Uint8Array {
  // A bin is exactly this class; a Buffer would be extension 4.
  if (!(value instanceof Uint8Array) || Object.getPrototypeOf(value) !== Uint8Array.prototype) return false;
  return value.length >= min && value.length <= max;
}

function isInteger(value: unknown, max: number): value is number {
  return Number.isInteger(value) && (value as number) >= 0 && (value as number) <= max;
}

function isKmsName(value: unknown): value is string {
  if (typeof value !== "string" || !value.isWellFormed()) return false;
  const { length } = utf8(value);
  return length >= 1 && length <= MAX_KMS_NAME_BYTES;
}
