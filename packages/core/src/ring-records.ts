/**
 * The key records that this process knows: merged from what the store held, verified by the KMSs, and asked about again from time to time
 * (format 1.3, 5.3 and 5.4). Nothing here reads or writes the store.
 */
import { base64url, equal, fromBase64url, latin1 } from "./bytes.js";
import {
  type DataKey,
  decodeRecord,
  type KeyRecord,
  keyIdOf,
  mergeRecords,
  RecordState,
  type WrappedKey,
} from "./data-key.js";
import { report } from "./diagnostics.js";
import { KEY_ID_BYTES } from "./envelope.js";
import { denied, revoked, SealedSessionError } from "./errors.js";
import type { StoredKeyRecord } from "./key-ring-store.js";
import type { KmsSet, UnwrapOutcome } from "./kms-set.js";

/** Records that no KMS has opened and this process keeps: a ring holds a handful, and somebody else's junk must not fill the memory. */
const MAX_UNVERIFIED = 1024;
/** Records that one run of `verify` sends to the KMSs. */
const MAX_VERIFIED_AT_ONCE = 64;
const CONCURRENT_CALLS = 8;
const NEVER = Number.NEGATIVE_INFINITY;
/** Wraps of one record whose outcome is remembered. */
const MAX_JUDGED_WRAPS = 64;

/**
 * Where a key stands in its life, as one process sees it: `pre-active` before its time; `current` while it seals; `open-only` when its time
 * has come and another key seals, or it waits for a second copy to be confirmed; `revoked` and `retired` as its record or the
 * configuration says; `denied` when the KMS that had opened it refuses it now; `unverified` while no KMS has opened its record, or none
 * has answered for the outage limit.
 */
export type KeyState = "pre-active" | "current" | "open-only" | "revoked" | "retired" | "denied" | "unverified";

/** What this process knows of one key. */
export interface RingEntry {
  /** The record, merged from all copies seen. */
  record: KeyRecord;
  /** What the copies in the store say, while none of them is verified. */
  candidates: readonly KeyRecord[];
  /** The different bytes in the store when it was last read: none when they had gone from there, several where its places differ. */
  copies: readonly Uint8Array[];
  /** The verified key; `undefined` while no KMS has opened it, and once it may not be used any more. */
  dataKey: DataKey | undefined;
  /** A KMS has opened the record once: what it says of the key, apart from its state, is true. */
  verified: boolean;
  /** The KMS that opened it last. */
  openedBy: string | undefined;
  /** When a KMS last said that this process may use the key. */
  allowedAt: number;
  /** The KMSs refuse the wraps that they had opened before. */
  denied: boolean;
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
  /** Other wraps of the verified key by KMSs of ours, in base64url, and whether they open; `undefined` while that is not known. */
  readonly otherWraps: Map<string, { readonly kms: string; readonly wrapped: Uint8Array; opens: boolean | undefined }>;
}

/** How {@link RingRecords} behaves. Times are in milliseconds. */
export interface RingRecordsOptions {
  /** Milliseconds since 1970-01-01T00:00:00Z. */
  readonly clock: () => number;
  /** Enabled records further ahead than this are ignored. */
  readonly maxAheadMs: number;
  /** For how long a record that every KMS refused is not sent to them again. */
  readonly refusedRetryMs: number;
  /** For how long a key serves without a KMS saying that it may. */
  readonly outageLimitMs: number;
  /** Key ids that count as revoked whatever their record says. */
  readonly revoked: ReadonlySet<string>;
  /** Names of KMSs whose wraps are ignored. */
  readonly droppedKms: ReadonlySet<string>;
  /** Revoked keys are opened as well: in an index ring they name nothing new, and what they named must be found (format 1.4). @defaultValue false */
  readonly opensRevoked?: boolean;
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
  /** Entries that no KMS has opened. */
  #unverified = 0;
  #allowedSince = Number.POSITIVE_INFINITY;
  #verifying: Promise<void> = Promise.resolve();
  #closed = false;

  constructor(ring: string, kms: KmsSet, options: RingRecordsOptions) {
    this.#ring = ring;
    this.#kms = kms;
    this.#options = options;
  }

  /** When the first key at hand has been without an answer of its KMS for the outage limit, in milliseconds since 1970-01-01T00:00:00Z. */
  get servesUntil(): number {
    return this.#allowedSince + this.#options.outageLimitMs;
  }

  /** When a KMS last said so of the key for which that is longest ago; Infinity without any key. */
  get allowedSince(): number {
    return this.#allowedSince;
  }

  /** Whether the ring was closed. */
  get isClosed(): boolean {
    return this.#closed;
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
    if (entry?.denied) throw denied(entry.failure);
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
    if (this.#closed) return;
    const found = new Map<string, Uint8Array[]>();
    for (const { keyId, record } of stored) {
      const copies = found.get(keyId) ?? [];
      if (!copies.some((copy) => equal(copy, record))) found.set(keyId, [...copies, record]);
    }
    // What has gone makes room first.
    for (const [keyId, entry] of this.#entries) {
      if (found.has(keyId)) continue;
      if (entry.verified || entry.record.state !== RecordState.enabled) entry.copies = [];
      else this.#forgetEntry(keyId);
    }
    this.#unreadable.clear();
    const room = new Room(this.#entries, this.#wanted, MAX_UNVERIFIED - this.#unverified);
    for (const [keyId, copies] of found) {
      if (!this.#mergeCopies(keyId, copies, now, room)) this.#unreadable.add(keyId);
    }
    if (room.firstRefused !== undefined) this.#refuse(room.firstRefused, "too many records");
  }

  /** Makes room for a key that is needed, and lets it be verified first: nobody's junk may keep it out. */
  want(keyId: string): void {
    this.#wanted.delete(keyId);
    if (this.#wanted.size >= MAX_UNVERIFIED) this.#wanted.delete(this.#wanted.values().next().value as string);
    this.#wanted.add(keyId);
  }

  /** Revokes a key in this process. */
  revoke(keyId: string): void {
    const entry = this.#entries.get(keyId);
    if (entry === undefined || entry.record.state !== RecordState.enabled) return;
    entry.record = { ...entry.record, state: RecordState.revoked };
    if (!this.#mayHold(entry.record.state)) this.#drop(keyId, entry);
  }

  /** Whether the store holds something under this id that is no record which this process could use. */
  isUnreadable(keyId: string): boolean {
    return this.#unreadable.has(keyId);
  }

  /**
   * Asks the KMSs for the enabled records that are not verified yet, some at a time: first those that are needed, last those that did
   * not open before, else the newest first. Never rejects: failures stay with their entries.
   *
   * @param which - `wanted` leaves out what nobody has asked for.
   */
  verify(which: "all" | "wanted" = "all"): Promise<void> {
    // One run after the other: two would open a key twice.
    this.#verifying = this.#verifying.then(() => this.#verifySome(which));
    return this.#verifying;
  }

  async #verifySome(which: "all" | "wanted"): Promise<void> {
    const rank = (keyId: string, { dataKey, failure }: RingEntry) =>
      this.#wanted.has(keyId) ? 0 : dataKey === undefined && failure === undefined ? 1 : 2;
    const waiting = this.entries()
      .filter(([keyId, entry]) => (which === "all" || this.#wanted.has(keyId)) && this.#mayVerify(keyId, entry))
      .sort(([p, a], [q, b]) => rank(p, a) - rank(q, b) || b.record.activatesAt - a.record.activatesAt)
      .slice(0, MAX_VERIFIED_AT_ONCE);
    await inGroups(waiting, ([keyId, entry]) => this.#verify(keyId, entry));
    this.#limit();
  }

  /**
   * Asks each KMS that has opened keys whether it still does, by the wrap of one of them. Where it refuses, the keys that no other KMS opens are
   * forgotten; where it gives no answer they serve on until the outage limit.
   */
  async recheck(): Promise<void> {
    const held = this.entries()
      .filter(([, { dataKey }]) => dataKey !== undefined)
      .sort(([, a], [, b]) => b.record.activatesAt - a.record.activatesAt);
    for (const kms of this.#kms.names) {
      const opened = held.filter(([, { openedBy, dataKey }]) => openedBy === kms && dataKey !== undefined);
      const [probe] = opened;
      if (probe === undefined) continue;
      const [, { record }] = probe;
      const outcome = await this.#kms.unwrap(onlyBy(record, (name) => name === kms));
      outcome.dataKey?.wipe();
      if (outcome.dataKey !== undefined) {
        for (const [, entry] of opened) entry.allowedAt = this.#options.clock();
      } else if (outcome.refused && outcome.failure !== undefined) {
        await inGroups(opened, ([keyId, entry]) => this.#openElsewhere(keyId, entry, kms, outcome));
      } else {
        // That one is out: another one may say that the keys may be used.
        const other = await this.#kms.unwrap(onlyBy(record, (name) => name !== kms));
        other.dataKey?.wipe();
        for (const [, entry] of opened) {
          const isWrapped = entry.record.wraps.some((wrap) => wrap.kms === other.kms);
          if (other.dataKey !== undefined && isWrapped) entry.allowedAt = this.#options.clock();
        }
      }
    }
    this.#limit();
  }

  /** Forgets the keys whose KMS has given no answer for the outage limit. */
  enforceOutageLimit(): void {
    const now = this.#options.clock();
    for (const [keyId, entry] of this.#entries) {
      if (entry.dataKey === undefined || now < entry.allowedAt + this.#options.outageLimitMs) continue;
      this.#drop(keyId, entry);
      report({ type: "key-suspended", ring: this.#ring, keyId });
    }
    this.#limit();
  }

  /**
   * Whether a copy in the store says all that a record says and it has room for, and perhaps more. Of a wrap by a KMS that is not ours nobody
   * here knows which of two is right, and of two that both open none is better: processes that insisted would write for ever.
   */
  covers(copy: Uint8Array, { record, otherWraps }: RingEntry): boolean {
    const read = this.#decode(copy);
    return (
      read !== undefined &&
      read.state === record.state &&
      read.activatesAt === record.activatesAt &&
      equal(read.commitment, record.commitment) &&
      mergeRecords(read, record).wraps.length === read.wraps.length &&
      record.wraps.every(({ kms }) => !this.#kms.has(kms) || read.wraps.some((wrap) => wrap.kms === kms)) &&
      read.wraps
        .filter(({ kms }) => this.#kms.has(kms))
        .every(
          ({ kms, wrapped }) =>
            record.wraps.some((wrap) => wrap.kms === kms && equal(wrap.wrapped, wrapped)) ||
            otherWraps.get(base64url(wrapped))?.opens !== false,
        )
    );
  }

  /** Whether a KMS that gave no answer may yet open this record. */
  isPending(keyId: string, { record, dataKey, failure, refusedAt }: RingEntry): boolean {
    if (!this.#mayHold(record.state, keyId)) return false;
    return dataKey === undefined && failure !== undefined && refusedAt === undefined;
  }

  /** Whether a key is revoked, by its record or by configuration: it seals nothing, whether it is at hand or not. */
  isRevoked(keyId: string, { record }: RingEntry): boolean {
    return record.state === RecordState.revoked || this.#options.revoked.has(keyId);
  }

  /** Whether this record was not sent to the KMSs yet. */
  isUntried(keyId: string, entry: RingEntry): boolean {
    const { dataKey, failure, refusedAt } = entry;
    return dataKey === undefined && failure === undefined && refusedAt === undefined && this.#mayVerify(keyId, entry);
  }

  /** @returns Why a key is not at hand: the error of a KMS that gave no answer, or else of one that refused. */
  failure(): unknown {
    const closed = this.entries().filter(([, { dataKey, failure }]) => dataKey === undefined && failure !== undefined);
    return (closed.find(([keyId, entry]) => this.isPending(keyId, entry)) ?? closed[0])?.[1].failure;
  }

  /** @returns Where a key stands, given the one that seals. */
  stateOf(keyId: string, entry: RingEntry, current: DataKey | undefined): KeyState {
    const { record, dataKey, denied } = entry;
    if (record.state === RecordState.retired) return "retired";
    if (this.isRevoked(keyId, entry)) return "revoked";
    if (denied) return "denied";
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

  #take(keyId: string, entry: RingEntry, { dataKey, kms }: UnwrapOutcome): void {
    if (dataKey === undefined) return;
    // Revoked while the KMS was asked, or opened by another run.
    if (!this.#mayHold(entry.record.state) || entry.dataKey !== undefined) {
      dataKey.wipe();
      return;
    }
    if (!entry.verified) this.#unverified--;
    entry.dataKey = dataKey;
    entry.verified = true;
    entry.openedBy = kms;
    entry.allowedAt = this.#options.clock();
    entry.denied = false;
    entry.refusedAt = undefined;
    this.#byBytes.set(latin1(dataKey.keyIdBytes, 0, KEY_ID_BYTES), dataKey);
    this.#wanted.delete(keyId);
  }

  /** Whether a key whose record has this state may be at hand. */
  #mayHold(state: RecordState, keyId?: string): boolean {
    if (this.#options.opensRevoked) return state !== RecordState.retired;
    return state === RecordState.enabled && !(keyId !== undefined && this.#options.revoked.has(keyId));
  }

  #drop(keyId: string, entry: RingEntry): void {
    entry.dataKey?.wipe();
    entry.dataKey = undefined;
    this.#byBytes.delete(latin1(fromBase64url(keyId) as Uint8Array, 0, KEY_ID_BYTES));
  }

  #limit(): void {
    const now = this.#options.clock();
    this.#allowedSince = Number.POSITIVE_INFINITY;
    for (const entry of this.#entries.values()) {
      if (entry.dataKey === undefined) continue;
      // A clock that was set back must not lengthen the limit.
      entry.allowedAt = Math.min(entry.allowedAt, now);
      this.#allowedSince = Math.min(this.#allowedSince, entry.allowedAt);
    }
  }

  /** @returns Whether any of the copies is a record that may be used. */
  #mergeCopies(keyId: string, copies: readonly Uint8Array[], now: number, room: Room): boolean {
    const known = this.#entries.get(keyId);
    // Before anything is decoded: there may be many.
    if (known === undefined && !room.isThereFor(keyId)) return false;
    const isNew = copies.filter((copy) => !known?.copies.some((old) => equal(old, copy)));
    if (known !== undefined && isNew.length === 0 && copies.length === known.copies.length) return true;
    const records = copies.map((copy) => this.#read(keyId, copy, now)).filter((record) => record !== undefined);
    const [first] = records;
    const entry = known ?? (first === undefined ? undefined : this.#add(keyId, first, now, room));
    if (entry === undefined) return false;
    entry.copies = copies;
    if (first === undefined) return false;
    // What lay there before was confirmed as it was; what is new has to be.
    if (isNew.length > 0) entry.confirmed = false;
    if (entry.verified) {
      for (const record of records) this.#mergeVerified(entry, record);
    } else if (this.#mayHold(entry.record.state)) {
      entry.candidates = records;
      entry.record = { ...first, state: Math.max(...records.map(({ state }) => state)) as RecordState };
    }
    if (entry.dataKey === undefined) entry.refusedAt = undefined;
    if (this.#mayHold(entry.record.state)) return true;
    if (entry.dataKey !== undefined) {
      const state = entry.record.state === RecordState.retired ? "retired" : "revoked";
      report({ type: "key-ended", ring: this.#ring, keyId, state });
    }
    this.#drop(keyId, entry);
    return true;
  }

  #decode(bytes: Uint8Array): KeyRecord | undefined {
    const record = decodeRecord(bytes);
    if (record === undefined || this.#options.droppedKms.size === 0) return record;
    const wraps = record.wraps.filter(({ kms }) => !this.#options.droppedKms.has(kms));
    // With nothing left it is a key that nobody opens any more, and not a record without wraps.
    return wraps.length === 0 ? record : { ...record, wraps };
  }

  #read(keyId: string, bytes: Uint8Array, now: number): KeyRecord | undefined {
    const record = this.#decode(bytes);
    if (record === undefined || keyIdOf(record) !== keyId) return this.#refuse(keyId, "malformed");
    if (record.activatesAt > now + this.#options.maxAheadMs && record.state === RecordState.enabled) {
      return this.#refuse(keyId, "too far in the future");
    }
    return record;
  }

  #mergeVerified(entry: RingEntry, record: KeyRecord): void {
    if (equal(record.commitment, entry.record.commitment)) {
      this.#noteOtherWraps(entry, record);
      // A wrap by a KMS of ours is taken once it has opened: until then it must not stand between a denial and the key.
      const isKnown = ({ kms }: WrappedKey) => entry.record.wraps.some((wrap) => wrap.kms === kms);
      const wraps = record.wraps.filter((wrap) => !this.#kms.has(wrap.kms) || isKnown(wrap));
      entry.record = mergeRecords(entry.record, { ...record, wraps });
    } else {
      entry.stranger = record;
    }
  }

  #add(keyId: string, record: KeyRecord, now: number, room: Room): RingEntry | undefined {
    const victim = room.take(keyId, record.state);
    if (victim === "none") return undefined;
    if (victim !== undefined) this.#forgetEntry(victim);
    this.#unverified++;
    const entry: RingEntry = {
      record,
      candidates: [],
      copies: [],
      dataKey: undefined,
      verified: false,
      openedBy: undefined,
      allowedAt: now,
      denied: false,
      firstSeenAt: now,
      confirmed: false,
      refusedAt: undefined,
      failure: undefined,
      stranger: undefined,
      otherWraps: new Map(),
    };
    this.#entries.set(keyId, entry);
    return entry;
  }

  #forgetEntry(keyId: string): void {
    if (this.#entries.delete(keyId)) this.#unverified--;
  }

  #noteOtherWraps(known: RingEntry, { wraps }: KeyRecord): void {
    for (const { kms, wrapped } of wraps) {
      const own = known.record.wraps.find((wrap) => wrap.kms === kms);
      if (!this.#kms.has(kms) || (own !== undefined && equal(own.wrapped, wrapped))) continue;
      const name = base64url(wrapped);
      if (known.otherWraps.has(name)) continue;
      if (known.otherWraps.size >= MAX_JUDGED_WRAPS) known.otherWraps.clear();
      known.otherWraps.set(name, { kms, wrapped, opens: undefined });
    }
  }

  #refuse(keyId: string, reason: string): undefined {
    report({ type: "key-record-refused", ring: this.#ring, keyId, reason });
  }

  #mayVerify(keyId: string, entry: RingEntry): boolean {
    const { record, dataKey, stranger, refusedAt, otherWraps } = entry;
    if (stranger !== undefined) return true;
    if (!this.#mayHold(record.state, keyId)) return false;
    if (dataKey !== undefined) return [...otherWraps.values()].some(({ opens }) => opens === undefined);
    if (!(entry.verified ? [record] : entry.candidates).some((candidate) => this.#isOurs(candidate))) return false;
    const { clock, refusedRetryMs } = this.#options;
    return refusedAt === undefined || elapsed(clock(), refusedAt) >= refusedRetryMs;
  }

  /** Whether a KMS of this process could open the record. */
  #isOurs({ wraps }: KeyRecord): boolean {
    return wraps.some(({ kms }) => this.#kms.has(kms));
  }

  async #verify(keyId: string, entry: RingEntry): Promise<void> {
    if (entry.stranger !== undefined) return this.#verifyStranger(keyId, entry, entry.stranger);
    if (entry.dataKey !== undefined) return this.#verifyOtherWraps(keyId, entry);
    // Where the places of a ring differ, whichever copy opens is right.
    const candidates = entry.verified ? [entry.record] : entry.candidates;
    let allRefused = true;
    for (const candidate of candidates) {
      if (!this.#isOurs(candidate)) continue;
      const outcome = await this.#kms.unwrap(candidate);
      // Gone meanwhile: a key that nobody keeps could be taken away by nobody.
      if (this.#closed || this.#entries.get(keyId) !== entry) {
        outcome.dataKey?.wipe();
        return;
      }
      entry.failure = outcome.failure ?? entry.failure;
      if (outcome.dataKey !== undefined) {
        entry.failure = undefined;
        entry.record = { ...candidate, state: entry.record.state };
        this.#take(keyId, entry, outcome);
        for (const other of candidates) this.#mergeVerified(entry, other);
        entry.candidates = [];
        return;
      }
      allRefused &&= outcome.refused;
    }
    if (!allRefused) return;
    entry.refusedAt = this.#options.clock();
    this.#refuse(keyId, "no KMS opens it");
    // What was opened before and is refused now was taken from us; what never opened may as well be a permission that is missing.
    entry.denied = entry.verified;
  }

  /** A wrap that opens to the same key takes the place of the one that was known: somebody has wrapped the key anew. */
  async #verifyOtherWraps(keyId: string, entry: RingEntry): Promise<void> {
    for (const other of entry.otherWraps.values()) {
      if (other.opens !== undefined) continue;
      const { kms, wrapped } = other;
      const outcome = await this.#kms.unwrap({ ...entry.record, wraps: [{ kms, wrapped }] });
      outcome.dataKey?.wipe();
      if (outcome.dataKey !== undefined) {
        other.opens = true;
        const { state, wraps } = entry.record;
        if (state === RecordState.retired) continue;
        entry.record = { ...entry.record, wraps: [...wraps.filter((wrap) => wrap.kms !== kms), { kms, wrapped }] };
      } else if (outcome.refused && (await this.#opensOwn(entry, kms))) {
        other.opens = false;
        this.#refuse(keyId, "another wrap that does not open");
      }
    }
  }

  /** Whether a KMS still opens what it opened before. One that has taken our permission away says nothing about other wraps. */
  async #opensOwn(entry: RingEntry, kms: string): Promise<boolean> {
    if (entry.record.wraps.every((wrap) => wrap.kms !== kms)) return true;
    const { dataKey } = await this.#kms.unwrap(onlyBy(entry.record, (name) => name === kms));
    dataKey?.wipe();
    return dataKey !== undefined;
  }

  /** Two verified records with one key id and different commitments are both refused (format 1.3); an unverified one changes nothing. */
  async #verifyStranger(keyId: string, entry: RingEntry, stranger: KeyRecord): Promise<void> {
    entry.stranger = undefined;
    const { dataKey } = await this.#kms.unwrap(stranger);
    if (this.#closed) return dataKey?.wipe();
    this.#refuse(keyId, dataKey === undefined ? "another commitment" : "two keys with one id");
    if (dataKey === undefined) return;
    dataKey.wipe();
    entry.record = { ...entry.record, state: RecordState.revoked };
    this.#drop(keyId, entry);
  }

  /** A key that one KMS refuses stays where another opens it, and where another gives no answer: that is an outage. */
  async #openElsewhere(keyId: string, entry: RingEntry, kms: string, { failure }: UnwrapOutcome): Promise<void> {
    const elsewhere = onlyBy(entry.record, (name) => name !== kms && this.#kms.has(name));
    const outcome = elsewhere.wraps.length === 0 ? undefined : await this.#kms.unwrap(elsewhere);
    outcome?.dataKey?.wipe();
    if (entry.dataKey === undefined || this.#closed) return;
    if (outcome?.dataKey !== undefined) {
      entry.openedBy = outcome.kms;
      entry.allowedAt = this.#options.clock();
    } else if (outcome === undefined || outcome.refused) {
      this.#drop(keyId, entry);
      entry.denied = true;
      entry.failure = failure;
      entry.refusedAt = this.#options.clock();
      report({ type: "key-denied", ring: this.#ring, keyId, kms });
    }
  }
}

/**
 * The places for records that no KMS has opened, during one merge. A ring collects tombstones over the years, and somebody may fill it with junk: what
 * has ended or was refused gives way. A key that this process had opened needs no place: it can say for sure what became of it.
 */
class Room {
  /** The first key id for which there was none, of a key that is enabled or may be. */
  firstRefused: string | undefined;
  readonly #entries: ReadonlyMap<string, RingEntry>;
  readonly #wanted: ReadonlySet<string>;
  #free: number;
  #victims: string[] | undefined;
  #replaced = 0;

  constructor(entries: ReadonlyMap<string, RingEntry>, wanted: ReadonlySet<string>, free: number) {
    this.#entries = entries;
    this.#wanted = wanted;
    this.#free = free;
  }

  /** Whether a record that is not known yet is worth being decoded. */
  isThereFor(keyId: string): boolean {
    if (this.#free > 0 || this.#wanted.has(keyId)) return true;
    if (this.#replaced < MAX_VERIFIED_AT_ONCE && this.#nextVictim() !== undefined) return true;
    this.firstRefused ??= keyId;
    return false;
  }

  /** @returns The key id that gives way, `undefined` where a place is free, or `none`. */
  take(keyId: string, state: RecordState): string | undefined | "none" {
    if (this.#free-- > 0) return undefined;
    const isWanted = this.#wanted.has(keyId);
    // Old tombstones are no reason for an alarm: one that is needed is found all the same.
    if (state !== RecordState.enabled && !isWanted) return "none";
    // For a key that is needed also one that was not asked about yet.
    const victim = this.#nextVictim() ?? (isWanted ? this.#anyUnwanted() : undefined);
    if (victim === undefined) {
      this.firstRefused ??= keyId;
      return "none";
    }
    if (victim === this.#victims?.[0]) this.#victims.shift();
    this.#replaced++;
    this.#free++;
    return victim;
  }

  #anyUnwanted(): string | undefined {
    for (const [id, { verified }] of this.#entries) if (!verified && !this.#wanted.has(id)) return id;
    return undefined;
  }

  #nextVictim(): string | undefined {
    this.#victims ??= [...this.#entries]
      .filter(([id, entry]) => !entry.verified && !this.#wanted.has(id) && rankOf(entry) !== undefined)
      .sort(([, a], [, b]) => (rankOf(a) as number) - (rankOf(b) as number))
      .map(([id]) => id);
    return this.#victims[0];
  }
}

/** What gives way first: ended and gone from the store, ended, refused longest ago. @returns `undefined` for what may yet turn out to be a key. */
function rankOf({ record, copies, refusedAt }: RingEntry): number | undefined {
  if (record.state !== RecordState.enabled) return copies.length === 0 ? NEVER : -1 / (1 + record.activatesAt);
  return refusedAt;
}

/** Time since then in milliseconds. A clock that was set back makes everything long ago: waiting for it to catch up could take days. */
export function elapsed(now: number, since: number): number {
  return since > now ? Number.POSITIVE_INFINITY : now - since;
}

function onlyBy(record: KeyRecord, isMeant: (kms: string) => boolean): KeyRecord {
  return { ...record, wraps: record.wraps.filter(({ kms }) => isMeant(kms)) };
}

/** Runs something for each item, a few at a time: neither a KMS nor a store is to be flooded. */
export async function inGroups<T>(items: readonly T[], run: (item: T) => Promise<void>): Promise<void> {
  for (let from = 0; from < items.length; from += CONCURRENT_CALLS) {
    await Promise.all(items.slice(from, from + CONCURRENT_CALLS).map(run));
  }
}
