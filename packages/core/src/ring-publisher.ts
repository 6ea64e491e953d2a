/**
 * What changes a ring in its store: new keys, revocations and tombstones (format 5.4 to 5.6). Each is written on a condition, and read back.
 */
import { equal } from "./bytes.js";
import { type DataKey, encodeRecord, type KeyRecord, keyIdOf, RecordState, type WrappedKey } from "./data-key.js";
import { report } from "./diagnostics.js";
import { SealedSessionError } from "./errors.js";
import type { KeyRingStore } from "./key-ring-store.js";
import type { KmsSet } from "./kms-set.js";
import type { RingReader } from "./ring-reader.js";
import { elapsed, type RingEntry, type RingRecords } from "./ring-records.js";

const ATTEMPTS = 3;
/** Calls in a row that make no key, after which the next one waits. */
const FREE_FAILURES = 2;

/** How a {@link RingPublisher} behaves. Times are in milliseconds. */
export interface RingPublisherOptions {
  /** The ring's name. */
  readonly name: string;
  /** What makes data keys. */
  readonly kms: KmsSet;
  /** Where the records lie. */
  readonly store: KeyRingStore;
  /** What this process knows. */
  readonly records: RingRecords;
  /** Reads the ring. */
  readonly reader: RingReader;
  /** Milliseconds since 1970-01-01T00:00:00Z. */
  readonly clock: () => number;
  /** How far this process's clock and the store's may differ. */
  readonly refreshIntervalMs: number;
  /** Longest pause between two keys that do not open. */
  readonly maxPauseMs: number;
  /** The key that seals now. */
  readonly current: () => DataKey | undefined;
  /** Called when the state of a key was changed here. */
  readonly onChange: () => void;
}

/** When a new key is to seal. */
export interface PublishPlan {
  /** @returns The key that makes a new one needless, as the ring is once it has been read anew. */
  readonly unless?: () => string | undefined;
  /** Not before this many milliseconds from now. */
  readonly delayMs: number;
  /** Not before this time, in milliseconds since 1970-01-01T00:00:00Z. */
  readonly notBefore?: number;
}

/** Writes into one ring, for {@link KeyRing}. */
export class RingPublisher {
  readonly #options: RingPublisherOptions;
  #last: Promise<unknown> = Promise.resolve();
  #publishedAt = Number.NEGATIVE_INFINITY;
  /** For how long no further key is published after one that did not open, or could not be made. */
  #pauseMs = 0;
  #failures = 0;

  constructor(options: RingPublisherOptions) {
    this.#options = options;
  }

  /** Not again and again where no key can be made, nor where new keys do not open: more of them would only fill the ring. */
  get isPausing(): boolean {
    return elapsed(this.#options.clock(), this.#publishedAt) < this.#pauseMs;
  }

  /**
   * Adds a data key. One call after the other: an emergency must not be answered with a key that somebody else ordered for later.
   *
   * @returns Its id, or that of the key which another process was first with.
   * @throws SealedSessionError `CLOCK_SKEW`, `KEY_UNAVAILABLE`.
   */
  publish(plan: PublishPlan): Promise<string> {
    const published = this.#last.then(() => this.#publish(plan));
    this.#last = published.catch(() => undefined);
    return published;
  }

  /**
   * Writes a state into the record of a key. A revocation counts in this process from the first moment, a tombstone when it is written.
   *
   * @throws RangeError when the ring has no such key; SealedSessionError `KEY_UNAVAILABLE` when the store does not take it.
   */
  async setState(keyId: string, state: Exclude<RecordState, 0>): Promise<void> {
    const { name, records, reader, onChange } = this.#options;
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      await reader.refreshAnew();
      if (state === RecordState.revoked) records.revoke(keyId);
      onChange();
      const { record, copies } = this.#entry(keyId);
      const isRetired = Math.max(record.state, state) === RecordState.retired;
      const bytes = encodeRecord(isRetired ? { ...record, state: RecordState.retired, wraps: [] } : record);
      const conditions = copies.length === 0 ? [{}] : copies.map((expected) => ({ expected }));
      let isWritten = true;
      for (const condition of conditions) {
        const { written } = await this.#fromStore("the ring cannot be written", (store) =>
          store.write(name, keyId, bytes, condition),
        );
        isWritten &&= written;
      }
      if (isWritten) return reader.refreshAnew();
    }
    throw this.#unavailable("the ring store did not take the key's new state");
  }

  /**
   * Writes the record of a key with other wraps.
   *
   * @param change - Gets the record as it is after a fresh look, and returns its wraps, or `undefined` to leave it.
   * @returns Whether it was written.
   * @throws SealedSessionError `KEY_UNAVAILABLE` when the store does not take it; whatever `change` throws.
   */
  async setWraps(
    keyId: string,
    change: (record: KeyRecord) => Promise<readonly WrappedKey[] | undefined>,
  ): Promise<boolean> {
    const { name, reader } = this.#options;
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      await reader.refreshAnew();
      const { record, copies } = this.#entry(keyId);
      const wraps = await change(record);
      if (wraps === undefined) return false;
      const bytes = encodeRecord({ ...record, wraps });
      const results = await Promise.all(
        copies.map((expected) =>
          this.#fromStore("the ring cannot be written", (store) => store.write(name, keyId, bytes, { expected })),
        ),
      );
      // Read back, so that this process takes the new wraps over.
      await reader.refreshAnew();
      if (results.length > 0 && results.every(({ written }) => written)) return true;
    }
    throw this.#unavailable("the ring store did not take the key's new wraps");
  }

  /** Writes a record as this process sees it, without the wraps that it ignores. @throws SealedSessionError `KEY_UNAVAILABLE`. */
  async rewriteWithout(keyId: string): Promise<void> {
    await this.setWraps(keyId, async (record) => {
      const { copies } = this.#entry(keyId);
      const bytes = encodeRecord(record);
      return copies.every((copy) => equal(copy, bytes)) ? undefined : record.wraps;
    });
  }

  /**
   * The time by the store's clock (format 5.5).
   *
   * @throws SealedSessionError `CLOCK_SKEW` when ours differs by more than a refresh interval; `KEY_UNAVAILABLE`.
   */
  async now(): Promise<number> {
    const { clock, refreshIntervalMs } = this.#options;
    const storeNow = await this.#fromStore("the ring store's clock cannot be read", (store) => store.now());
    if (Math.abs(clock() - storeNow) <= refreshIntervalMs) return storeNow;
    const message = `this process's clock and the ring store's differ by more than ${refreshIntervalMs} ms`;
    throw new SealedSessionError("CLOCK_SKEW", message);
  }

  async #publish({ unless, delayMs, notBefore = 0 }: PublishPlan): Promise<string> {
    const { name, records, reader, refreshIntervalMs } = this.#options;
    for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
      await reader.refreshAnew();
      const needless = unless?.();
      if (needless !== undefined) return needless;
      // Taken before the KMS is asked: whoever publishes meanwhile is noticed. The condition only avoids duplicates, so the last attempt goes
      // without: somebody who keeps changing the ring must not be able to stop a rotation.
      const before = reader.storedIds;
      const condition = attempt < ATTEMPTS ? { onlyIfKeyIds: before } : {};
      const activatesAt = Math.max(await this.#activation(delayMs), notBefore);
      const record = await this.#generate(activatesAt);
      if (records.isClosed) break;
      const keyId = keyIdOf(record);
      const bytes = encodeRecord(record);
      const { written } = await this.#fromStore("the ring cannot be written", (store) =>
        store.write(name, keyId, bytes, condition),
      );
      if (written) {
        records.want(keyId);
        report({ type: "key-published", ring: name, keyId, activatesAt });
      }
      // Read back from the primary, also to learn who was first.
      await reader.refreshAnew();
      if (written) {
        this.#notePublished(records.get(keyId)?.dataKey !== undefined);
        return keyId;
      }
      // Not one that was there already, perhaps the very key to be replaced; nor, in an emergency, one that does not seal yet.
      const other = records
        .entries()
        .find(
          ([id, entry]) =>
            entry.dataKey !== undefined &&
            (entry.dataKey === this.#options.current() || delayMs > 0) &&
            !before.includes(id) &&
            Math.abs(entry.record.activatesAt - activatesAt) <= refreshIntervalMs,
        );
      if (other !== undefined) return other[0];
    }
    throw this.#unavailable("the ring store did not take the new key");
  }

  /** A KMS that answers with a denial opens no circuit: a fleet must not go on asking it at full speed. */
  async #generate(activatesAt: number): Promise<KeyRecord> {
    const { kms, clock, refreshIntervalMs } = this.#options;
    try {
      const record = await kms.generate(activatesAt);
      this.#failures = 0;
      return record;
    } catch (error) {
      if (++this.#failures > FREE_FAILURES) {
        this.#publishedAt = clock();
        this.#pauseMs = Math.min(Math.max(2 * this.#pauseMs, refreshIntervalMs / 60), refreshIntervalMs / 2);
      }
      throw error;
    }
  }

  #notePublished(opens: boolean): void {
    const { clock, refreshIntervalMs, maxPauseMs } = this.#options;
    this.#publishedAt = clock();
    this.#pauseMs = opens ? 0 : Math.min(Math.max(2 * this.#pauseMs, refreshIntervalMs), maxPauseMs);
  }

  /**
   * The time by the store's clock, and later than that of every key whose time has come, so that the new one follows them. For a key that is to seal at once our
   * own clock counts when it is behind, so that the key is not in our future.
   */
  async #activation(delayMs: number): Promise<number> {
    const storeNow = await this.now();
    const notAhead = Math.min(this.#options.clock(), storeNow);
    const current = this.#options.current();
    // Nothing seals here: a key that follows those of others would be in our future as well.
    if (current === undefined) return notAhead + delayMs;
    // Also those whose time has come by the store's clock and not yet by ours.
    const active = this.#options.records
      .entries()
      .filter(([, { dataKey, record }]) => dataKey !== undefined && record.activatesAt <= storeNow)
      .map(([, { record }]) => record.activatesAt);
    active.push(this.#entry(current.keyId).record.activatesAt);
    const time = delayMs === 0 ? notAhead : storeNow + delayMs;
    return Math.max(time, ...active.map((activatesAt) => activatesAt + 1));
  }

  #entry(keyId: string): RingEntry {
    const entry = this.#options.records.get(keyId);
    if (entry === undefined) throw new RangeError("keyId must name a key of the ring");
    return entry;
  }

  /** Whatever keeps the store from answering means that the key is not to be had. */
  async #fromStore<T>(failure: string, call: (store: KeyRingStore) => Promise<T>): Promise<T> {
    try {
      return await call(this.#options.store);
    } catch (cause) {
      throw this.#unavailable(failure, cause);
    }
  }

  #unavailable(reason: string, cause?: unknown): SealedSessionError {
    return new SealedSessionError("KEY_UNAVAILABLE", `ring ${this.#options.name}: ${reason}`, { cause });
  }
}
