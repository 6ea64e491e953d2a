/**
 * The port to the place where a ring's key records lie, and its implementation in memory.
 *
 * Records are bytes here (format 5.1); what they mean is the key ring's matter. `keyRingStoreSuite` of
 * `@sealed-session/core/testing` proves an implementation.
 */
import { requireUtf8 } from "./argument.js";
import { equal, fromBase64url } from "./bytes.js";

const MAX_RING_BYTES = 128;
const KEY_ID_BYTES = 12;
const MAX_RECORD_BYTES = 8192;

/** One key record as it is stored. */
export interface StoredKeyRecord {
  /** The key id (12 bytes) in base64url: 16 characters. */
  readonly keyId: string;
  /** The record's bytes, at most 8192. */
  readonly record: Uint8Array;
}

/** Options of {@link KeyRingStore.write}. */
export interface WriteKeyRecordOptions {
  /**
   * Replace these bytes, and only these. They may be of any length, since somebody else may have put them there.
   *
   * @defaultValue The record is written only where there is none.
   */
  readonly expected?: Uint8Array;
  /**
   * Write only while the ring holds exactly these key ids, so that two processes that publish at once make one key.
   *
   * @defaultValue No such condition.
   */
  readonly onlyIfKeyIds?: readonly string[];
}

/** What became of a {@link KeyRingStore.write}. */
export interface WriteKeyRecordResult {
  /** The store now holds these bytes. `false`: a condition did not hold, and nothing was changed. */
  readonly written: boolean;
  /**
   * The bytes would survive the loss of the machine that took them: flushed to disk, or confirmed by a replica. `true` also where
   * the store has no second copy to wait for.
   */
  readonly durable: boolean;
}

/**
 * Keeps key records by ring and key id. A record has no expiry and is never deleted. Methods reject with `STORE_UNAVAILABLE`
 * when the store cannot be asked.
 *
 * A ring's name is 1 to 128 bytes of well-formed UTF-8 without `{` and `}`. Methods reject with a `TypeError` or `RangeError` on
 * another name, on a key id that is not 12 bytes in base64url, and on a new record that is empty or longer than 8192 bytes.
 */
export interface KeyRingStore {
  /**
   * Reads a ring.
   *
   * @returns All its records, from the primary copy and never from a replica; empty for an unknown ring. A store that keeps a ring in several
   *   places returns every distinct copy: a key id then comes more than once. It trusts none of them; the reader verifies which is right, and
   *   replaces each of the others with `expected` set to that copy.
   */
  read(ring: string): Promise<readonly StoredKeyRecord[]>;

  /**
   * Writes one record, atomically with its conditions. Bytes that are already there are written again and count as written
   * whatever the conditions say: this is how a reader makes sure that they are durable, and a client may have sent the command
   * twice.
   */
  write(
    ring: string,
    keyId: string,
    record: Uint8Array,
    options?: WriteKeyRecordOptions,
  ): Promise<WriteKeyRecordResult>;

  /**
   * Reads the clock that all publishers go by.
   *
   * @returns The store's time, in milliseconds since 1970-01-01T00:00:00Z.
   */
  now(): Promise<number>;
}

/** Options of {@link memoryKeyRingStore}. */
export interface MemoryKeyRingStoreOptions {
  /**
   * The store's clock: milliseconds since 1970-01-01T00:00:00Z.
   *
   * @defaultValue Date.now
   */
  readonly clock?: () => number;
}

/**
 * Keeps rings in memory, for tests and for a single process whose web sessions may end with it.
 *
 * @throws TypeError when an option is wrong.
 */
export function memoryKeyRingStore({ clock = Date.now }: MemoryKeyRingStoreOptions = {}): KeyRingStore {
  if (typeof clock !== "function") throw new TypeError("clock must be a function");
  const rings = new Map<string, Map<string, Uint8Array>>();
  return {
    async read(ring) {
      requireRing(ring);
      return [...(rings.get(ring) ?? [])].map(([keyId, record]) => ({ keyId, record: new Uint8Array(record) }));
    },
    async write(ring, keyId, record, options = {}) {
      requireWrite(ring, keyId, record, options);
      const records = rings.get(ring) ?? new Map<string, Uint8Array>();
      if (!mayWrite(records, keyId, record, options)) return { written: false, durable: false };
      rings.set(ring, records.set(keyId, new Uint8Array(record)));
      return { written: true, durable: true };
    },
    async now() {
      return clock();
    },
  };
}

/**
 * The conditions of {@link KeyRingStore.write}, for stores in this package.
 *
 * @returns whether `record` may be written into the ring that now holds `records`.
 */
export function mayWrite(
  records: ReadonlyMap<string, Uint8Array>,
  keyId: string,
  record: Uint8Array,
  { expected, onlyIfKeyIds }: WriteKeyRecordOptions,
): boolean {
  const current = records.get(keyId);
  if (current !== undefined && equal(current, record)) return true;
  const asExpected = expected === undefined ? current === undefined : current !== undefined && equal(current, expected);
  if (!asExpected || onlyIfKeyIds === undefined) return asExpected;
  const wanted = new Set(onlyIfKeyIds);
  return wanted.size === records.size && [...wanted].every((id) => records.has(id));
}

/** Checks the arguments of {@link KeyRingStore.write}, for stores in this package. */
export function requireWrite(
  ring: string,
  keyId: string,
  record: Uint8Array,
  { expected, onlyIfKeyIds = [] }: WriteKeyRecordOptions,
): void {
  requireRing(ring);
  requireKeyId("keyId", keyId);
  requireRecord("record", record);
  // Of any length: what somebody has put there has to be replaced as well.
  if (expected !== undefined && !(expected instanceof Uint8Array)) throw new TypeError("expected must be a Uint8Array");
  for (const id of onlyIfKeyIds) requireKeyId("onlyIfKeyIds", id);
}

/** Checks the name of a ring, for stores in this package. */
export function requireRing(ring: string): void {
  requireUtf8("ring", ring, 1, MAX_RING_BYTES);
  if (/[{}]/.test(ring)) throw new RangeError("ring must not hold braces");
}

/** @returns whether `text` is a key id: 12 bytes in base64url. */
export function isKeyId(text: unknown): text is string {
  return typeof text === "string" && fromBase64url(text)?.length === KEY_ID_BYTES;
}

function requireKeyId(field: string, keyId: unknown): void {
  if (!isKeyId(keyId)) throw new RangeError(`${field} must be ${KEY_ID_BYTES} bytes in base64url`);
}

function requireRecord(field: string, record: Uint8Array): void {
  if (!(record instanceof Uint8Array)) throw new TypeError(`${field} must be a Uint8Array`);
  if (record.length < 1 || record.length > MAX_RECORD_BYTES) {
    throw new RangeError(`${field} must have 1 to ${MAX_RECORD_BYTES} bytes`);
  }
}
