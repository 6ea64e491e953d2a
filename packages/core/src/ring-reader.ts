/**
 * Keeps what this process knows and what the ring's store holds in step: reads, has the records merged and verified, and puts back what was
 * lost or altered there (format 5.3 and 5.4).
 */
import { equal } from "./bytes.js";
import { decodeRecord, encodeRecord, mergeRecords } from "./data-key.js";
import { report } from "./diagnostics.js";
import { codeOf, SealedSessionError } from "./errors.js";
import { isKeyId, type KeyRingStore } from "./key-ring-store.js";
import { Pace } from "./pace.js";
import { elapsed, inGroups, type RingEntry, type RingRecords } from "./ring-records.js";
import type { Schedule } from "./schedule.js";

/** Reloads that unknown key ids may cause in one refresh interval, and how many of them at once. */
const RELOADS_PER_INTERVAL = 60;
const RELOAD_BURST = 5;
/** Longer than any store's own deadlines by default. */
const READ_TIMEOUT_MS = 30_000;

/** How a {@link RingReader} behaves. Times are in milliseconds. */
export interface RingReaderOptions {
  /** The ring's name. */
  readonly name: string;
  /** Where the records lie. */
  readonly store: KeyRingStore;
  /** What this process knows. */
  readonly records: RingRecords;
  /** Milliseconds since 1970-01-01T00:00:00Z. */
  readonly clock: () => number;
  /** How time passes. */
  readonly schedule: Schedule;
  /** How often the ring is read. */
  readonly refreshIntervalMs: number;
  /** How old a key may be that seals. */
  readonly maxSealingAgeMs: number;
  /** Called when what was read has been merged, and again when it is verified and secured. */
  readonly onChange: () => void;
}

/** Reads one ring, for {@link KeyRing}. */
export class RingReader {
  readonly #options: RingReaderOptions;
  #reading: Promise<void> | undefined;
  #isPartial = false;
  #nextReload: Promise<void> | undefined;
  /** Key ids for which somebody waits. */
  #missing = new Set<string>();
  readonly #pace: Pace;
  #storedIds: readonly string[] = [];
  #readAt = Number.NEGATIVE_INFINITY;

  constructor(options: RingReaderOptions) {
    this.#options = options;
    this.#pace = new Pace(options.clock, options.refreshIntervalMs / RELOADS_PER_INTERVAL, RELOAD_BURST);
  }

  /** The key ids in the store when it was last read. */
  get storedIds(): readonly string[] {
    return this.#storedIds;
  }

  /** When the store was last asked, with or without success; -Infinity before that. */
  get readAt(): number {
    return this.#readAt;
  }

  /** Reads the ring. Callers at the same time share one run. @throws SealedSessionError `KEY_UNAVAILABLE` when it cannot be read. */
  refresh(): Promise<void> {
    return this.#refresh("all");
  }

  /** Reads the ring, by a read that begins now: one that is under way may have read it already. */
  async refreshAnew(): Promise<void> {
    await this.#reading?.catch(() => {});
    await this.refresh();
  }

  /**
   * Reads the ring for whoever has met a key id that this process does not know. All who wait share the next read, and reads keep a distance:
   * so junk ids make no load, and the reload that a new key needs comes soon however much junk there is.
   *
   * @param keyId - In base64url. Its record is opened before others, where the ring has one.
   */
  reload(keyId: string): Promise<void> {
    this.#missing.add(keyId);
    this.#nextReload ??= this.#untilReloadIsDue().then(() => {
      // From here on this read may miss a key that is published now.
      this.#nextReload = undefined;
      return this.#refresh("wanted");
    });
    return this.#nextReload;
  }

  /** When a record has been in sight for so long that it counts as copied (format 5.4). */
  settlesAt({ record, firstSeenAt }: RingEntry): number {
    return Math.min(record.activatesAt, firstSeenAt) + 2 * this.#options.refreshIntervalMs;
  }

  /** Whether a key may seal: it is verified, and a second copy of its record is confirmed or can be assumed. */
  maySeal(entry: RingEntry): boolean {
    return entry.dataKey !== undefined && (entry.confirmed || this.#options.clock() >= this.settlesAt(entry));
  }

  #refresh(which: "all" | "wanted"): Promise<void> {
    // One that opens only what somebody waits for is not enough for whoever wants all.
    if (this.#reading !== undefined && which === "all" && this.#isPartial) {
      return this.#reading.catch(() => {}).then(() => this.#refresh(which));
    }
    if (this.#reading === undefined) {
      this.#isPartial = which === "wanted";
      this.#reading = this.#read(which).finally(() => {
        this.#reading = undefined;
      });
    }
    return this.#reading;
  }

  async #read(which: "all" | "wanted"): Promise<void> {
    const { name, store, records, clock, onChange } = this.#options;
    if (records.isClosed) return;
    // Whoever comes now may need a key that this read does not see.
    const missing = this.#missing;
    this.#missing = new Set();
    let stored: Awaited<ReturnType<KeyRingStore["read"]>>;
    try {
      stored = (await this.#inTime(store.read(name))).filter(({ keyId }) => isKeyId(keyId));
    } catch (cause) {
      throw new SealedSessionError("KEY_UNAVAILABLE", `ring ${name}: the ring cannot be read`, { cause });
    } finally {
      this.#readAt = clock();
    }
    this.#storedIds = [...new Set(stored.map(({ keyId }) => keyId))];
    // Only ids that the ring has: junk ids must not push a key out that somebody needs.
    for (const keyId of this.#storedIds) if (missing.has(keyId)) records.want(keyId);
    records.merge(stored, clock());
    // A key that the ring has just revoked must not seal while the KMS is asked about others.
    onChange();
    await records.verify(which);
    await inGroups(records.entries(), ([keyId, entry]) => this.#secure(keyId, entry));
    onChange();
  }

  /** A store that never answers must not stop everything that waits for a read. */
  async #inTime<T>(answer: Promise<T>): Promise<T> {
    let cancel = () => {};
    const late = new Promise<never>((_, reject) => {
      const error = new SealedSessionError(
        "STORE_UNAVAILABLE",
        `the ring store gave no answer within ${READ_TIMEOUT_MS} ms`,
      );
      cancel = this.#options.schedule(() => reject(error), READ_TIMEOUT_MS);
    });
    return await Promise.race([answer, late]).finally(() => cancel());
  }

  async #untilReloadIsDue(): Promise<void> {
    await this.#reading?.catch(() => {});
    await this.#pace.take(this.#options.schedule);
  }

  /**
   * Puts a verified record back where it was lost or altered, and makes sure, once, that one which may soon seal lies in more than one place
   * (format 5.4).
   */
  async #secure(keyId: string, entry: RingEntry): Promise<void> {
    if (!entry.verified) return this.#spreadState(keyId, entry);
    const { name, records } = this.#options;
    const altered = entry.copies.filter((copy) => !records.covers(copy, entry));
    const [intact] = entry.copies.filter((copy) => !altered.includes(copy));
    try {
      if (intact === undefined && altered.length === 0) await this.#write(keyId, entry, undefined);
      for (const copy of altered) await this.#write(keyId, entry, copy);
      if (altered.length > 0 || intact === undefined || !this.#needsConfirmation(entry)) return;
      // Written once more as it is: the store then tells whether a second copy has it.
      const { written, durable } = await this.#options.store.write(name, keyId, intact, { expected: intact });
      if (written) entry.confirmed = durable;
    } catch (error) {
      report({ type: "ring-refresh-failed", ring: name, code: codeOf(error) });
    }
  }

  /**
   * Takes a revocation or tombstone to the copies that it has not reached, also by a process that never opened the key: nothing else would, once
   * those that had are gone.
   */
  async #spreadState(keyId: string, { record, copies }: RingEntry): Promise<void> {
    const { name, store } = this.#options;
    try {
      for (const expected of copies) {
        const copy = decodeRecord(expected);
        if (copy === undefined || copy.state >= record.state || !equal(copy.commitment, record.commitment)) continue;
        const { written } = await store.write(name, keyId, encodeRecord(mergeRecords(copy, record)), { expected });
        if (written) report({ type: "key-record-restored", ring: name, keyId });
      }
    } catch (error) {
      report({ type: "ring-refresh-failed", ring: name, code: codeOf(error) });
    }
  }

  async #write(keyId: string, entry: RingEntry, expected: Uint8Array | undefined): Promise<void> {
    const { name, store } = this.#options;
    const bytes = encodeRecord(entry.record);
    const { written, durable } = await store.write(name, keyId, bytes, expected === undefined ? {} : { expected });
    if (!written) return;
    entry.copies = [bytes, ...entry.copies.filter((copy) => copy !== expected)];
    entry.confirmed = durable;
    report({ type: "key-record-restored", ring: name, keyId });
  }

  #needsConfirmation(entry: RingEntry): boolean {
    const { clock, maxSealingAgeMs } = this.#options;
    const { activatesAt } = entry.record;
    const isYoung = activatesAt > clock() || elapsed(clock(), activatesAt) <= maxSealingAgeMs;
    return entry.dataKey !== undefined && isYoung && !entry.confirmed && clock() < this.settlesAt(entry);
  }
}
