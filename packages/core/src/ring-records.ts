/**
 * The key records that this process knows: merged from what the store held, verified by the KMSs, and the rule that chooses among
 * them (format 1.3, 5.3 to 5.5). The key ring decides when to read, publish and seal.
 */
import { equal, fromBase64url, latin1 } from "./bytes.js";
import { type DataKey, decodeRecord, type KeyRecord, keyIdOf, mergeRecords, RecordState } from "./data-key.js";
import { report } from "./diagnostics.js";
import { KEY_ID_BYTES } from "./envelope.js";
import { revoked, SealedSessionError } from "./errors.js";
import type { StoredKeyRecord } from "./key-ring-store.js";
import type { KmsSet } from "./kms-set.js";

/** Records that this process keeps: a ring holds a handful, and somebody else's junk must not fill the memory. */
const MAX_ENTRIES = 1024;
/** Records that one run of `verify` sends to the KMSs. */
const MAX_VERIFIED_AT_ONCE = 64;
const CONCURRENT_CALLS = 8;

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
  /** The bytes in the store when they were last read; `undefined` when they had gone from there. */
  stored: Uint8Array | undefined;
  /** The verified key; `undefined` while no KMS has opened it, and once it may not be used any more. */
  dataKey: DataKey | undefined;
  /** A KMS has opened the record once: what it says of the key, apart from its state, is true. */
  verified: boolean;
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
  /** Ids that an envelope names or that this process published, the oldest first: they come before what else lies in the store. */
  readonly #wanted = new Set<string>();
  /** Ids under which the store holds something that is no record, or none that may be used. */
  readonly #unreadable = new Set<string>();
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

  /**
   * Takes what the store holds into memory. What this process has verified is never replaced by what it has not, and a key that was
   * revoked or retired stays so, whatever is written under its id.
   */
  merge(stored: readonly StoredKeyRecord[], now: number): void {
    const found = new Set(stored.map(({ keyId }) => keyId));
    // What has gone makes room first.
    for (const [keyId, entry] of this.#entries) {
      if (found.has(keyId)) continue;
      if (entry.verified || entry.record.state !== RecordState.enabled) entry.stored = undefined;
      else this.#entries.delete(keyId);
    }
    this.#unreadable.clear();
    for (const { keyId, record } of stored) {
      if (!this.#mergeOne(keyId, record, now)) this.#unreadable.add(keyId);
    }
  }

  /** Makes room for a key that is needed, and lets it be verified first: nobody's junk may keep it out. */
  want(keyId: string): void {
    this.#wanted.delete(keyId);
    if (this.#wanted.size >= MAX_ENTRIES) this.#wanted.delete(this.#wanted.values().next().value as string);
    this.#wanted.add(keyId);
  }

  /** Whether the store holds something under this id that is no record which this process could use. */
  isUnreadable(keyId: string): boolean {
    return this.#unreadable.has(keyId);
  }

  /**
   * Asks the KMSs for the enabled records that are not verified yet, some at a time: first those that are needed, last those that were
   * refused before, else the newest first. Never rejects: failures stay with their entries.
   */
  async verify(): Promise<void> {
    const rank = (keyId: string, { refusedAt }: RingEntry) =>
      this.#wanted.has(keyId) ? 0 : refusedAt === undefined ? 1 : 2;
    const waiting = this.entries()
      .filter(([keyId, entry]) => this.#mayVerify(keyId, entry))
      .sort(([p, a], [q, b]) => rank(p, a) - rank(q, b) || b.record.activatesAt - a.record.activatesAt)
      .slice(0, MAX_VERIFIED_AT_ONCE);
    while (waiting.length > 0) {
      await Promise.all(waiting.splice(0, CONCURRENT_CALLS).map(([keyId, entry]) => this.#verify(keyId, entry)));
    }
  }

  /** Whether a KMS that gave no answer may yet open this record. */
  isPending(keyId: string, { record, dataKey, failure, refusedAt }: RingEntry): boolean {
    if (record.state !== RecordState.enabled || this.#options.revoked.has(keyId)) return false;
    return dataKey === undefined && failure !== undefined && refusedAt === undefined;
  }

  /** @returns Why a key is not at hand: the error of a KMS that gave no answer, or else of one that refused. */
  failure(): unknown {
    const closed = this.entries().filter(([, { dataKey, failure }]) => dataKey === undefined && failure !== undefined);
    return (closed.find(([keyId, entry]) => this.isPending(keyId, entry)) ?? closed[0])?.[1].failure;
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

  #mergeOne(keyId: string, bytes: Uint8Array, now: number): boolean {
    const known = this.#entries.get(keyId);
    if (known?.stored !== undefined && equal(known.stored, bytes)) return true;
    if (known !== undefined) known.stored = bytes;
    const record = decodeRecord(bytes);
    if (record === undefined || keyIdOf(record) !== keyId) return this.#refuse(keyId, "malformed");
    if (record.activatesAt > now + this.#options.maxAheadMs && record.state === RecordState.enabled) {
      return this.#refuse(keyId, "too far in the future");
    }
    if (known === undefined) {
      const room = this.#wanted.has(keyId) ? 2 * MAX_ENTRIES : MAX_ENTRIES;
      if (this.#entries.size >= room) return this.#refuse(keyId, "too many records");
      const entry = { record, stored: bytes, firstSeenAt: now, confirmed: false, verified: false, dataKey: undefined };
      this.#entries.set(keyId, { ...entry, refusedAt: undefined, failure: undefined, stranger: undefined });
      return true;
    }
    known.confirmed = false;
    const sameKey = equal(record.commitment, known.record.commitment);
    if (sameKey) {
      known.record = known.verified ? mergeRecords(known.record, record) : mergeRecords(record, known.record);
    } else if (known.dataKey !== undefined) {
      known.stranger = record;
    } else if (!known.verified && known.record.state === RecordState.enabled) {
      known.record = record;
    }
    if (known.dataKey === undefined) known.refusedAt = undefined;
    if (known.record.state !== RecordState.enabled) this.#drop(keyId, known);
    return true;
  }

  #refuse(keyId: string, reason: string): false {
    report({ type: "key-record-refused", ring: this.#ring, keyId, reason });
    return false;
  }

  #mayVerify(keyId: string, { record, dataKey, stranger, refusedAt }: RingEntry): boolean {
    if (stranger !== undefined) return true;
    if (dataKey !== undefined || record.state !== RecordState.enabled || this.#options.revoked.has(keyId)) return false;
    const { clock, refusedRetryMs } = this.#options;
    return refusedAt === undefined || elapsed(clock(), refusedAt) >= refusedRetryMs;
  }

  async #verify(keyId: string, entry: RingEntry): Promise<void> {
    if (entry.stranger !== undefined) return this.#verifyStranger(keyId, entry, entry.stranger);
    const outcome = await this.#kms.unwrap(entry.record);
    if (this.#closed) return outcome.dataKey?.wipe();
    entry.failure = outcome.failure;
    if (outcome.dataKey !== undefined) {
      entry.dataKey = outcome.dataKey;
      entry.verified = true;
      entry.refusedAt = undefined;
      this.#byBytes.set(latin1(outcome.dataKey.keyIdBytes, 0, KEY_ID_BYTES), outcome.dataKey);
    } else if (outcome.refused) {
      entry.refusedAt = this.#options.clock();
      this.#refuse(keyId, "no KMS opens it");
    }
  }

  /** Two verified records with one key id and different commitments are both refused (format 1.3); an unverified one changes nothing. */
  async #verifyStranger(keyId: string, entry: RingEntry, stranger: KeyRecord): Promise<void> {
    entry.stranger = undefined;
    const { dataKey } = await this.#kms.unwrap(stranger);
    this.#refuse(keyId, dataKey === undefined ? "another commitment" : "two keys with one id");
    if (dataKey === undefined) return;
    dataKey.wipe();
    entry.record = { ...entry.record, state: RecordState.revoked };
    this.#drop(keyId, entry);
  }
}

/** Time since then in milliseconds. A clock that was set back makes everything long ago: waiting for it to catch up could take days. */
export function elapsed(now: number, since: number): number {
  return since > now ? Number.POSITIVE_INFINITY : now - since;
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
