/**
 * The key records that this process knows: merged from what the store held, verified by the KMSs, and the rule that chooses among
 * them (format 1.3, 5.3 to 5.5). The key ring decides when to read, publish and seal.
 */
import { equal, fromBase64url, latin1 } from "./bytes.js";
import { type DataKey, decodeRecord, type KeyRecord, keyIdOf, mergeRecords, RecordState } from "./data-key.js";
import { report } from "./diagnostics.js";
import { KEY_ID_BYTES } from "./envelope.js";
import { SealedSessionError } from "./errors.js";
import type { StoredKeyRecord } from "./key-ring-store.js";
import type { KmsSet } from "./kms-set.js";

/**
 * Where a key stands in its life, as one process sees it: `pre-active` before its time; `current` while it seals; `open-only` when its time
 * has come and another key seals, or it waits for a second copy to be confirmed; `revoked` and `retired` as its record or the
 * configuration says; `unverified` while no KMS has opened its record.
 */
export type KeyState = "pre-active" | "current" | "open-only" | "revoked" | "retired" | "unverified";

/** What this process knows of one key. */
export interface RingEntry {
  /** The record, merged from all copies seen. */
  record: KeyRecord;
  /** The bytes in the store when they were last read. */
  stored: Uint8Array;
  /** The verified key; `undefined` while no KMS has opened it, and once it may not be used any more. */
  dataKey: DataKey | undefined;
  /** When this process first saw the record, by its clock. */
  readonly firstSeenAt: number;
  /** The stored bytes were read back from the primary and confirmed by a second copy. */
  confirmed: boolean;
  /** When every KMS refused the stored bytes; they are sent again only after a while. */
  refusedAt: number | undefined;
  /** Why it did not open. */
  failure: unknown;
  /** A record with the same key id and another commitment than the verified one, to be looked into. */
  stranger: KeyRecord | undefined;
}

/** How {@link RingRecords} behaves. Times are in milliseconds. */
export interface RingRecordsOptions {
  /** Milliseconds since 1970-01-01T00:00:00Z. */
  readonly clock: () => number;
  /** Enabled records further ahead than this are ignored. */
  readonly maxAheadMs: number;
  /** For how long a record that every KMS refused is not sent to them again. */
  readonly refusedRetryMs: number;
  /** Key ids that count as revoked whatever their record says. */
  readonly revoked: ReadonlySet<string>;
}

/** The records of one ring in this process, by key id in base64url. */
export class RingRecords {
  readonly #ring: string;
  readonly #kms: KmsSet;
  readonly #options: RingRecordsOptions;
  readonly #entries = new Map<string, RingEntry>();
  /** The verified keys by the 12 bytes of their id as latin1, for the warm path. */
  readonly #byBytes = new Map<string, DataKey>();
  #closed = false;

  constructor(ring: string, kms: KmsSet, options: RingRecordsOptions) {
    this.#ring = ring;
    this.#kms = kms;
    this.#options = options;
  }

  /** All entries with their key ids. */
  entries(): [keyId: string, entry: RingEntry][] {
    return [...this.#entries];
  }

  /** @returns The entry of a key id. */
  get(keyId: string): RingEntry | undefined {
    return this.#entries.get(keyId);
  }

  /** A verified key that may be used; throws for one that must not; `undefined` for one that is not at hand. */
  find(keyId: string): DataKey | undefined {
    const entry = this.#entries.get(keyId);
    if (this.#options.revoked.has(keyId) || entry?.record.state === RecordState.revoked) throw revoked();
    if (entry?.record.state === RecordState.retired) {
      throw new SealedSessionError("KEY_RETIRED", "the data key of this envelope was retired");
    }
    return entry?.dataKey;
  }

  /** @returns The verified key with these 12 bytes as its id. Called once for each envelope. */
  byBytes(keyId: Uint8Array): DataKey | undefined {
    return this.#byBytes.get(latin1(keyId, 0, KEY_ID_BYTES));
  }

  /** Takes what the store holds under a key id into memory. What this process has verified is never replaced by what it has not. */
  merge({ keyId, record: bytes }: StoredKeyRecord, now: number): void {
    const known = this.#entries.get(keyId);
    if (known !== undefined && equal(known.stored, bytes)) return;
    const record = decodeRecord(bytes);
    if (record === undefined || keyIdOf(record) !== keyId) {
      report({ type: "key-record-refused", ring: this.#ring, keyId, reason: "malformed" });
      return;
    }
    if (record.activatesAt > now + this.#options.maxAheadMs && record.state === RecordState.enabled) {
      report({ type: "key-record-refused", ring: this.#ring, keyId, reason: "too far in the future" });
      return;
    }
    if (known === undefined) {
      const entry = { record, stored: bytes, firstSeenAt: now, confirmed: false, dataKey: undefined };
      this.#entries.set(keyId, { ...entry, refusedAt: undefined, failure: undefined, stranger: undefined });
      return;
    }
    known.confirmed = false;
    known.stored = bytes;
    known.refusedAt = undefined;
    const sameKey = equal(record.commitment, known.record.commitment);
    if (known.dataKey !== undefined) {
      if (sameKey) known.record = mergeRecords(known.record, record);
      else known.stranger = record;
    } else {
      known.record = sameKey ? mergeRecords(record, known.record) : record;
    }
    if (known.record.state !== RecordState.enabled) this.#drop(keyId, known);
  }

  /** Asks the KMSs for every enabled record that is not verified yet. Never rejects: failures stay with their entries. */
  async verify(): Promise<void> {
    await Promise.all(this.entries().map(([keyId, entry]) => this.#verify(keyId, entry)));
  }

  /** @returns Where a key stands, given the one that seals. */
  stateOf(keyId: string, { record, dataKey }: RingEntry, current: DataKey | undefined): KeyState {
    if (record.state === RecordState.retired) return "retired";
    if (record.state === RecordState.revoked || this.#options.revoked.has(keyId)) return "revoked";
    if (dataKey === undefined) return "unverified";
    if (dataKey === current) return "current";
    return record.activatesAt > this.#options.clock() ? "pre-active" : "open-only";
  }

  /** Forgets all keys, also those that a KMS is just opening. */
  close(): void {
    this.#closed = true;
    for (const { dataKey } of this.#entries.values()) dataKey?.wipe();
    this.#entries.clear();
    this.#byBytes.clear();
  }

  #drop(keyId: string, entry: RingEntry): void {
    entry.dataKey?.wipe();
    entry.dataKey = undefined;
    this.#byBytes.delete(latin1(fromBase64url(keyId) as Uint8Array, 0, KEY_ID_BYTES));
  }

  /** Unwraps an enabled record that is not verified yet, unless these very bytes were refused before. */
  async #verify(keyId: string, entry: RingEntry): Promise<void> {
    if (entry.stranger !== undefined) return this.#verifyStranger(keyId, entry, entry.stranger);
    if (entry.dataKey !== undefined || entry.record.state !== RecordState.enabled || this.#options.revoked.has(keyId))
      return;
    if (entry.refusedAt !== undefined && this.#options.clock() - entry.refusedAt < this.#options.refusedRetryMs) return;
    const outcome = await this.#kms.unwrap(entry.record);
    if (this.#closed) return outcome.dataKey?.wipe();
    entry.failure = outcome.failure;
    if (outcome.dataKey !== undefined) {
      entry.dataKey = outcome.dataKey;
      entry.refusedAt = undefined;
      this.#byBytes.set(latin1(outcome.dataKey.keyIdBytes, 0, KEY_ID_BYTES), outcome.dataKey);
    } else if (outcome.refused) {
      entry.refusedAt = this.#options.clock();
      report({ type: "key-record-refused", ring: this.#ring, keyId, reason: "no KMS opens it" });
    }
  }

  /** Two verified records with one key id and different commitments are both refused (format 1.3); an unverified one changes nothing. */
  async #verifyStranger(keyId: string, entry: RingEntry, stranger: KeyRecord): Promise<void> {
    entry.stranger = undefined;
    const { dataKey } = await this.#kms.unwrap(stranger);
    const reason = dataKey === undefined ? "another commitment" : "two keys with one id";
    report({ type: "key-record-refused", ring: this.#ring, keyId, reason });
    if (dataKey === undefined) return;
    dataKey.wipe();
    entry.record = { ...entry.record, state: RecordState.revoked };
    this.#drop(keyId, entry);
  }
}

/** How {@link chooseCurrent} decides. Times are in milliseconds. */
export interface CurrentPolicy {
  /** How old the current key may be. */
  readonly maxSealingAgeMs: number;
}

/**
 * The rule of format 5.5: the latest that is enabled, not in the future and not too old; of two of one time the smaller key id.
 *
 * @param records - Verified records.
 * @param now - In milliseconds since 1970-01-01T00:00:00Z.
 */
export function chooseCurrent(
  records: readonly KeyRecord[],
  now: number,
  policy: CurrentPolicy,
): KeyRecord | undefined {
  let chosen: KeyRecord | undefined;
  for (const record of records) {
    if (record.state !== RecordState.enabled || record.activatesAt > now) continue;
    if (now - record.activatesAt > policy.maxSealingAgeMs) continue;
    const later = chosen === undefined || record.activatesAt > chosen.activatesAt;
    const sameTime = record.activatesAt === chosen?.activatesAt;
    if (later || (sameTime && isSmaller(record.commitment, chosen?.commitment as Uint8Array))) chosen = record;
  }
  return chosen;
}

/** Compares key ids as unsigned bytes. */
function isSmaller(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < KEY_ID_BYTES; i++) {
    if (a[i] !== b[i]) return (a[i] as number) < (b[i] as number);
  }
  return false;
}

/** @returns The error for an envelope under a revoked key. */
export function revoked(): SealedSessionError {
  return new SealedSessionError("KEY_REVOKED", "the data key of this envelope was revoked");
}
