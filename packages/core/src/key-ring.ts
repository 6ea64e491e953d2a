/**
 * The ring: which data keys there are, which one seals now, and their unwrapped forms in this process (format section 5).
 *
 * A warm request asks only `currentIfWarm` and `byIdIfWarm`, which never wait. Everything that waits for the store or the KMS
 * happens in `refresh` and `publish`, each at most once at a time.
 */
import { backend } from "#backend";
import type { RandomFill } from "./aead.js";
import { requireInteger, requireMethods, requireUtf8 } from "./argument.js";
import { base64url, equal, fromBase64url } from "./bytes.js";
import { type DataKey, decodeRecord, encodeRecord, type KeyRecord, keyIdOf, mergeRecords } from "./data-key.js";
import { report } from "./diagnostics.js";
import { KEY_ID_BYTES } from "./envelope.js";
import { codeOf, rejected, SealedSessionError } from "./errors.js";
import { isKeyId, type KeyRingStore } from "./key-ring-store.js";
import type { Kms } from "./kms.js";
import { KmsSet } from "./kms-set.js";
import { chooseCurrent, elapsed, type KeyState, type RingEntry, RingRecords } from "./ring-records.js";

const DAY_MS = 86_400_000;
const MAX_RING_NAME_BYTES = 128;
const MAX_UNKNOWN_IDS = 1024;
const PUBLISH_ATTEMPTS = 3;
const NEVER = Number.NEGATIVE_INFINITY;
/** Refresh intervals after which a process that was idle asks the ring before it goes on. */
const STALE_INTERVALS = 5;
/** Refresh intervals for which a record that every KMS refused is left alone. */
const REFUSED_INTERVALS = 5;

/** Options of {@link KeyRing}. Times are in milliseconds. */
export interface KeyRingOptions {
  /** Name of the ring, 1 to 128 bytes of UTF-8 without braces. It is bound into every wrapped key: a record of another ring does not open. */
  readonly name: string;
  /** The KMS, or up to eight in the order of preference: every data key is wrapped under all, and opened by the first that answers. */
  readonly kms: Kms | readonly Kms[];
  /** Where the records lie. */
  readonly store: KeyRingStore;
  /**
   * How often new keys are meant to come, 1 ms to 3650 days. Whoever rotates keys calls {@link KeyRing.publish} in this rhythm; by itself the ring only
   * publishes when no key may seal.
   *
   * @defaultValue 86400000 (24 h)
   */
  readonly rotationPeriodMs?: number;
  /**
   * How old the current key may get when it has no successor, from one rotation period to 7300 days. Then it only opens.
   *
   * @defaultValue two rotation periods
   */
  readonly maxSealingAgeMs?: number;
  /**
   * Age at which a call finds this process's view of the ring too old and has it read anew, in the background; from 1 ms to one rotation period.
   *
   * @defaultValue 60000 (1 min), or the rotation period where that is shorter
   */
  readonly refreshIntervalMs?: number;
  /**
   * After how long without an answer a call to a KMS counts as `KMS_UNREACHABLE`, its own retries included: 1 ms to 10 minutes.
   *
   * @defaultValue 5000
   */
  readonly kmsTimeoutMs?: number;
  /** Key ids (base64url) that count as revoked whatever the ring says. @defaultValue none */
  readonly revokedKeyIds?: readonly string[];
  /** For each data key, senders of other processes whose derived AES key is kept: 1 to 1000000. @defaultValue 1024 */
  readonly maxCachedSenders?: number;
  /** Milliseconds since 1970-01-01T00:00:00Z. @defaultValue Date.now */
  readonly clock?: () => number;
  /** Source of random bytes. @defaultValue the system's CSPRNG */
  readonly random?: RandomFill;
}

/** Options of {@link KeyRing.publish}. */
export interface PublishOptions {
  /**
   * From when on the key seals, in milliseconds from now: 0 to two rotation periods.
   *
   * @defaultValue two refresh intervals, so that all processes know it by then
   */
  readonly delayMs?: number;
}

/** One key, as {@link KeyRing.status} shows it. */
export interface KeyStatus {
  /** The key id in base64url. */
  readonly keyId: string;
  /** Where it stands in this process. */
  readonly state: KeyState;
  /** From when on it seals, in milliseconds since 1970-01-01T00:00:00Z. */
  readonly activatesAt: number;
  /** Names of the KMSs that wrap it. */
  readonly kms: readonly string[];
}

/**
 * A ring of data keys, shared by all processes that use the same name, store and KMS.
 *
 * All methods that wait reject with `KEY_UNAVAILABLE` when the key cannot be had now (its `cause` tells why), and with `CLOSED` after
 * {@link KeyRing.close}.
 */
export class KeyRing {
  /** The ring's name. */
  readonly name: string;
  /** Source of random bytes of everything that seals with this ring. */
  readonly random: RandomFill;
  /** The clock of everything that seals with this ring. */
  readonly clock: () => number;

  readonly #kms: KmsSet;
  readonly #store: KeyRingStore;
  readonly #rotationPeriodMs: number;
  readonly #maxSealingAgeMs: number;
  readonly #refreshIntervalMs: number;
  readonly #records: RingRecords;
  /** Ids that a reload did not find, and when that was. */
  readonly #unknown = new Map<string, number>();
  #current: DataKey | undefined;
  #chooseAgainAt = 0;
  #chosenAt = 0;
  /** When the ring was last asked, with or without success. */
  #checkedAt = NEVER;
  #refreshing: Promise<void> | undefined;
  #starting: Promise<DataKey> | undefined;
  #lastPublish: Promise<unknown> = Promise.resolve();
  #publishedAt = NEVER;
  /** For how long no further key is published after one that did not become current. */
  #publishPauseMs = 0;
  #storedIds: readonly string[] = [];
  #closed = false;

  /** @throws TypeError or RangeError when an option is wrong. */
  constructor(options: KeyRingOptions) {
    this.name = requireUtf8("name", options.name, 1, MAX_RING_NAME_BYTES);
    if (/[{}]/.test(this.name)) throw new RangeError("name must not hold braces");
    this.#store = requireMethods("store", options.store, "read", "write", "now");
    this.#rotationPeriodMs = requireInteger("rotationPeriodMs", options.rotationPeriodMs ?? DAY_MS, 1, 3650 * DAY_MS);
    this.#maxSealingAgeMs = requireInteger(
      "maxSealingAgeMs",
      options.maxSealingAgeMs ?? 2 * this.#rotationPeriodMs,
      this.#rotationPeriodMs,
      7300 * DAY_MS,
    );
    this.#refreshIntervalMs = requireInteger(
      "refreshIntervalMs",
      options.refreshIntervalMs ?? Math.min(60_000, this.#rotationPeriodMs),
      1,
      this.#rotationPeriodMs,
    );
    const revokedKeyIds = new Set(options.revokedKeyIds ?? []);
    for (const keyId of revokedKeyIds) {
      if (fromBase64url(keyId)?.length !== KEY_ID_BYTES) {
        throw new RangeError(`revokedKeyIds must hold key ids: ${KEY_ID_BYTES} bytes in base64url`);
      }
    }
    this.clock = options.clock ?? Date.now;
    this.random = options.random ?? backend.randomFill;
    const maxSenders = requireInteger("maxCachedSenders", options.maxCachedSenders ?? 1024, 1, 1_000_000);
    const kmsTimeoutMs = requireInteger("kmsTimeoutMs", options.kmsTimeoutMs ?? 5000, 1, 600_000);
    this.#kms = new KmsSet(this.name, options.kms, kmsTimeoutMs, { random: this.random, maxSenders });
    this.#records = new RingRecords(this.name, this.#kms, {
      clock: this.clock,
      maxAheadMs: 2 * this.#rotationPeriodMs,
      refusedRetryMs: REFUSED_INTERVALS * this.#refreshIntervalMs,
      revoked: revokedKeyIds,
    });
  }

  /**
   * Finds the key that seals now, for everything that seals. Publishes one, active at once, when none in the ring may seal: in an empty ring,
   * or when the last one is past its sealing age.
   *
   * @returns The key; the ring owns it.
   * @throws SealedSessionError `KEY_UNAVAILABLE`, `CLOCK_SKEW`, `CLOSED`.
   */
  async current(): Promise<DataKey> {
    this.#refuseClosed();
    const warm = this.currentIfWarm();
    if (warm !== undefined) return warm;
    // Many requests may find the ring cold at once.
    this.#starting ??= this.#start().finally(() => {
      this.#starting = undefined;
    });
    return this.#starting;
  }

  /** As {@link KeyRing.current}, without waiting: `undefined` when the ring must be asked. Reads the ring anew in the background when its time has come. */
  currentIfWarm(): DataKey | undefined {
    const now = this.clock();
    if (this.#isStale(now)) return undefined;
    // Also when the clock was set back: what was current may now lie in the future.
    if (now >= this.#chooseAgainAt || now < this.#chosenAt) this.#choose(now);
    this.#refreshWhenDue(now);
    return this.#current;
  }

  /**
   * Finds the key that an envelope names.
   *
   * @param keyId - 12 bytes.
   * @returns The key; the ring owns it.
   * @throws SealedSessionError `KEY_REVOKED`, `KEY_RETIRED`; `ENVELOPE_REJECTED` when the ring has no such key; `KEY_UNAVAILABLE`.
   */
  async byId(keyId: Uint8Array): Promise<DataKey> {
    this.#refuseClosed();
    const id = base64url(keyId);
    if (this.#isStale(this.clock())) await this.#refreshOrReport();
    const warm = this.#records.find(id);
    if (warm !== undefined) return warm;
    const missedAt = this.#unknown.get(id);
    if (missedAt === undefined || elapsed(this.clock(), missedAt) >= this.#refreshIntervalMs) {
      this.#records.want(id);
      // A refresh that is already under way may have read the ring before this key came to it.
      if (this.#refreshing !== undefined) await this.refresh();
      if (this.#records.find(id) === undefined) await this.refresh();
    }
    const found = this.#records.find(id);
    if (found !== undefined) return found;
    const entry = this.#records.get(id);
    if (entry !== undefined) throw this.#unavailable("no KMS has opened the key's record", entry.failure);
    if (this.#records.isUnreadable(id)) throw this.#unavailable("the key's record cannot be used");
    if (this.#unknown.size >= MAX_UNKNOWN_IDS) this.#unknown.delete(this.#unknown.keys().next().value as string);
    this.#unknown.set(id, this.clock());
    throw rejected();
  }

  /** As {@link KeyRing.byId}, without waiting: `undefined` when the key is not at hand. */
  byIdIfWarm(keyId: Uint8Array): DataKey | undefined {
    const now = this.clock();
    if (this.#isStale(now)) return undefined;
    this.#refreshWhenDue(now);
    return this.#records.byBytes(keyId);
  }

  /**
   * Opens a key record that travelled with an envelope (format 3.5). It never enters the ring.
   *
   * @returns A key that the caller wipes.
   * @throws SealedSessionError `KEY_REVOKED`, `ENVELOPE_REJECTED` when it does not verify, `KEY_UNAVAILABLE`.
   */
  async openInline(record: KeyRecord): Promise<DataKey> {
    this.#refuseClosed();
    this.#records.find(keyIdOf(record));
    const { dataKey, refused, failure } = await this.#kms.unwrap(record);
    if (dataKey !== undefined) return dataKey;
    // It opened, but to another key than it says. A denial may as well mean that this process lacks a permission.
    if (refused && failure === undefined) throw rejected();
    throw this.#unavailable("no KMS has opened the record in the envelope", failure);
  }

  /**
   * Encodes the record of a key, to travel with an envelope (format 3.5).
   *
   * @param dataKey - A key of this ring.
   * @returns The record's bytes.
   * @throws SealedSessionError `KEY_UNAVAILABLE` when the ring no longer holds the key; `KEY_RECORD_INVALID`.
   */
  inlineRecordOf(dataKey: DataKey): Uint8Array {
    const entry = this.#records.get(dataKey.keyId);
    if (entry === undefined) throw this.#unavailable("the key has left the ring");
    // Without what others may have added to the record in the ring.
    const wraps = entry.record.wraps.filter(({ kms }) => this.#kms.has(kms));
    return encodeRecord({ ...entry.record, wraps });
  }

  /**
   * Reads the ring, merges it with what this process knows, and unwraps what it can. Callers at the same time share one run. The ring
   * does so by itself; to be called before a look at {@link KeyRing.status}, or at start, so that the first request is warm.
   *
   * @throws SealedSessionError `KEY_UNAVAILABLE` when the ring cannot be read, `CLOSED`. A record that no KMS opens is no error here.
   */
  async refresh(): Promise<void> {
    this.#refuseClosed();
    this.#refreshing ??= this.#refresh().finally(() => {
      this.#refreshing = undefined;
    });
    return this.#refreshing;
  }

  /**
   * Adds a data key to the ring, for whoever rotates keys. Processes that publish at the same time add one between them.
   *
   * @returns The id of the newest key that is enabled: the new one, or the one that another process was first with.
   * @throws SealedSessionError `CLOCK_SKEW` when this process's clock and the store's differ by more than a refresh interval; `KEY_UNAVAILABLE`
   *   when the ring cannot be read or written, or no KMS makes a key; `CLOSED`.
   * @throws RangeError when `delayMs` is out of range.
   */
  async publish(options: PublishOptions = {}): Promise<string> {
    this.#refuseClosed();
    const delayMs = requireInteger(
      "delayMs",
      options.delayMs ?? 2 * this.#refreshIntervalMs,
      0,
      2 * this.#rotationPeriodMs,
    );
    return this.#enqueuePublish(delayMs, false);
  }

  /**
   * Tells of all keys that this process knows, for operators and for whoever rotates keys. Reads nothing anew.
   *
   * @returns The keys, the newest first.
   */
  status(): KeyStatus[] {
    return this.#records
      .entries()
      .map(([keyId, entry]) => ({
        keyId,
        state: this.#records.stateOf(keyId, entry, this.#current),
        activatesAt: entry.record.activatesAt,
        kms: entry.record.wraps.map(({ kms }) => kms),
      }))
      .sort((a, b) => b.activatesAt - a.activatesAt);
  }

  /** To be called when the process image was copied or restored from a snapshot, before it seals again (format 2.4). */
  reseed(): void {
    for (const [, { dataKey }] of this.#records.entries()) dataKey?.reseed();
  }

  /** Forgets all keys. The ring cannot be used afterwards; the store and the KMS are left alone. */
  close(): void {
    this.#closed = true;
    this.#records.close();
    this.#current = undefined;
    this.#chooseAgainAt = Number.POSITIVE_INFINITY;
  }

  /** One after the other: an emergency must not be answered with a key that somebody else ordered for later. */
  #enqueuePublish(delayMs: number, unlessCurrent: boolean): Promise<string> {
    const published = this.#lastPublish.then(() => this.#publish(delayMs, unlessCurrent));
    this.#lastPublish = published.catch(() => undefined);
    return published;
  }

  async #start(): Promise<DataKey> {
    try {
      await this.refresh();
    } catch (error) {
      // The ring cannot be read: what this process knows goes on.
      if (this.#chooseNow() === undefined) throw error;
    }
    if (this.#current === undefined && this.#mayPublish()) {
      await this.#enqueuePublish(0, true);
      // Where new keys do not open either, more of them would only fill the ring.
      if (this.#current === undefined) {
        this.#publishPauseMs = Math.min(
          Math.max(2 * this.#publishPauseMs, this.#refreshIntervalMs),
          this.#rotationPeriodMs,
        );
      } else {
        this.#publishPauseMs = 0;
      }
    }
    if (this.#current === undefined) {
      throw this.#unavailable(
        "no key may seal yet: none is both opened by a KMS and confirmed by a second copy",
        this.#records.failure(),
      );
    }
    return this.#current;
  }

  async #refresh(): Promise<void> {
    const read = this.#fromStore("the ring cannot be read", () => this.#store.read(this.name));
    const stored = (
      await read.finally(() => {
        this.#checkedAt = this.clock();
      })
    ).filter(({ keyId }) => isKeyId(keyId));
    this.#refuseClosed();
    this.#storedIds = stored.map(({ keyId }) => keyId);
    this.#records.merge(stored, this.clock());
    // A key that the ring has just revoked must not seal while the KMS is asked about others.
    this.#chooseNow();
    await this.#records.verify();
    await Promise.all(this.#records.entries().map(([keyId, entry]) => this.#secure(keyId, entry)));
    this.#refuseClosed();
    for (const { keyId } of stored) this.#unknown.delete(keyId);
    this.#chooseNow();
  }

  async #refreshOrReport(): Promise<void> {
    try {
      await this.refresh();
    } catch (error) {
      report({ type: "ring-refresh-failed", ring: this.name, code: codeOf((error as Error).cause ?? error) });
    }
  }

  /** Only once the ring was read at all, and not again before a whole interval, whatever comes of it. */
  #refreshWhenDue(now: number): void {
    if (this.#checkedAt === NEVER || elapsed(now, this.#checkedAt) < this.#refreshIntervalMs) return;
    if (this.#refreshing === undefined && !this.#closed) void this.#refreshOrReport();
  }

  /** After a long idle time the first call reads the ring before it trusts what it knew: a key may have been revoked meanwhile. */
  #isStale(now: number): boolean {
    return this.#checkedAt !== NEVER && elapsed(now, this.#checkedAt) > STALE_INTERVALS * this.#refreshIntervalMs;
  }

  /**
   * Puts a verified record back where it was lost or altered, and makes sure, once, that one which may soon seal lies in more than one place
   * (format 5.4).
   */
  async #secure(keyId: string, entry: RingEntry): Promise<void> {
    if (!entry.verified) return;
    const { record, stored } = entry;
    const copy = stored === undefined ? undefined : decodeRecord(stored);
    const intact = copy !== undefined && this.#covers(copy, record);
    const isYoung =
      elapsed(this.clock(), record.activatesAt) <= this.#maxSealingAgeMs || record.activatesAt > this.clock();
    const needed = entry.dataKey !== undefined && isYoung && !entry.confirmed && !this.#hasSettled(entry);
    if (intact && !needed) return;
    try {
      const bytes = intact ? (stored as Uint8Array) : encodeRecord(record);
      const condition = stored === undefined ? {} : { expected: stored };
      const { written, durable } = await this.#store.write(this.name, keyId, bytes, condition);
      if (!written) return;
      entry.stored = bytes;
      entry.confirmed = durable;
      if (!intact) report({ type: "key-record-restored", ring: this.name, keyId });
    } catch (error) {
      report({ type: "ring-refresh-failed", ring: this.name, code: codeOf(error) });
    }
  }

  /**
   * Whether a copy says all that a record says and it has room for, and perhaps more. Of a wrap by a KMS that is not ours nobody here knows which
   * of two is right: two processes that both insisted would write for ever.
   */
  #covers(copy: KeyRecord, record: KeyRecord): boolean {
    return (
      copy.state === record.state &&
      copy.activatesAt === record.activatesAt &&
      equal(copy.commitment, record.commitment) &&
      mergeRecords(copy, record).wraps.length === copy.wraps.length &&
      record.wraps
        .filter(({ kms }) => this.#kms.has(kms))
        .every(({ kms, wrapped }) => copy.wraps.some((wrap) => wrap.kms === kms && equal(wrap.wrapped, wrapped)))
    );
  }

  #hasSettled(entry: RingEntry): boolean {
    return this.clock() >= this.#settlesAt(entry);
  }

  /** When a record has been in sight for so long that it counts as copied. */
  #settlesAt({ record, firstSeenAt }: RingEntry): number {
    return Math.min(record.activatesAt, firstSeenAt) + 2 * this.#refreshIntervalMs;
  }

  #chooseNow(): DataKey | undefined {
    this.#choose(this.clock());
    return this.#current;
  }

  #choose(now: number): void {
    const entries = this.#records.entries().map(([, entry]) => entry);
    const chosen = this.#chooseAmong(
      entries.filter((entry) => entry.dataKey !== undefined && (entry.confirmed || this.#hasSettled(entry))),
      now,
    );
    if (chosen?.dataKey !== undefined && chosen.dataKey !== this.#current) {
      report({ type: "key-current", ring: this.name, keyId: chosen.dataKey.keyId });
    }
    this.#current = chosen?.dataKey;
    this.#chosenAt = now;
    // Nothing changes before the next key's time, the settling of one that is not confirmed, or the end of the current one's.
    const end = chosen === undefined ? Number.POSITIVE_INFINITY : chosen.record.activatesAt + this.#maxSealingAgeMs + 1;
    this.#chooseAgainAt = end;
    for (const entry of entries) {
      for (const time of [entry.record.activatesAt, this.#settlesAt(entry)]) {
        if (time > now && time < this.#chooseAgainAt) this.#chooseAgainAt = time;
      }
    }
  }

  #chooseAmong(entries: readonly RingEntry[], now: number): RingEntry | undefined {
    const records = entries.map(({ record }) => record);
    const chosen = chooseCurrent(records, now, { maxSealingAgeMs: this.#maxSealingAgeMs });
    return entries.find(({ record }) => record === chosen);
  }

  async #publish(delayMs: number, unlessCurrent: boolean): Promise<string> {
    for (let attempt = 1; attempt <= PUBLISH_ATTEMPTS; attempt++) {
      await this.#refreshAnew();
      if (unlessCurrent && this.#current !== undefined) return this.#current.keyId;
      // Taken before the KMS is asked: whoever publishes meanwhile is noticed. The condition only avoids duplicates, so the last attempt goes
      // without: somebody who keeps changing the ring must not be able to stop a rotation.
      const before = this.#storedIds;
      const condition = attempt < PUBLISH_ATTEMPTS ? { onlyIfKeyIds: before } : {};
      const activatesAt = (await this.#earliestActivation()) + delayMs;
      const record = await this.#kms.generate(activatesAt);
      this.#refuseClosed();
      const keyId = keyIdOf(record);
      const bytes = encodeRecord(record);
      const { written } = await this.#fromStore("the ring cannot be written", () =>
        this.#store.write(this.name, keyId, bytes, condition),
      );
      if (written) {
        this.#publishedAt = this.clock();
        this.#records.want(keyId);
        report({ type: "key-published", ring: this.name, keyId, activatesAt });
      }
      // Read back from the primary, also to learn who was first.
      await this.#refreshAnew();
      if (written) return keyId;
      // Not one that was there already, perhaps the very key to be replaced; nor, in an emergency, one that does not seal yet.
      const other = this.status().find(
        (key) =>
          (key.state === "current" || (key.state === "pre-active" && delayMs > 0)) &&
          !before.includes(key.keyId) &&
          Math.abs(key.activatesAt - activatesAt) <= this.#refreshIntervalMs,
      );
      if (other !== undefined) return other.keyId;
    }
    throw this.#unavailable("the ring store did not take the new key");
  }

  /**
   * Not while a young key only waits to be confirmed, or for a KMS that gives no answer now; and not again and again where new keys do not
   * open either.
   */
  #mayPublish(): boolean {
    const now = this.clock();
    const hopeful = this.#records
      .entries()
      .filter(([keyId, entry]) => entry.dataKey !== undefined || this.#records.isPending(keyId, entry));
    if (
      this.#chooseAmong(
        hopeful.map(([, entry]) => entry),
        now,
      ) !== undefined
    )
      return false;
    return elapsed(now, this.#publishedAt) >= this.#publishPauseMs;
  }

  /** Whatever keeps the store from answering means that the key is not to be had. */
  async #fromStore<T>(failure: string, call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (cause) {
      throw this.#unavailable(failure, cause);
    }
  }

  async #refreshAnew(): Promise<void> {
    // One that is under way may have read the ring already.
    if (this.#refreshing !== undefined) await this.refresh();
    await this.refresh();
  }

  /**
   * The time by the store's clock (format 5.5), and later than that of the key which seals now, so that the new one follows it. In a ring without
   * a key our own clock counts when it is behind, so that the first key is not in our future.
   */
  async #earliestActivation(): Promise<number> {
    const storeNow = await this.#fromStore("the ring store's clock cannot be read", () => this.#store.now());
    const now = this.clock();
    if (Math.abs(now - storeNow) > this.#refreshIntervalMs) {
      throw new SealedSessionError(
        "CLOCK_SKEW",
        `this process's clock and the ring store's differ by more than ${this.#refreshIntervalMs} ms`,
      );
    }
    if (this.#current === undefined) return Math.min(now, storeNow);
    const { activatesAt } = this.#records.get(this.#current.keyId)?.record ?? { activatesAt: 0 };
    return Math.max(storeNow, activatesAt + 1);
  }

  #unavailable(reason: string, cause?: unknown): SealedSessionError {
    return new SealedSessionError("KEY_UNAVAILABLE", `ring ${this.name}: ${reason}`, { cause });
  }

  #refuseClosed(): void {
    if (this.#closed) throw new SealedSessionError("CLOSED", `ring ${this.name}: it was closed`);
  }
}
