/**
 * An envelope store in the process's memory: for tests, development and a single process whose sessions may end with it.
 *
 * It has no timers. An expired envelope is gone for every reader at once; its memory is given back by the next writes.
 */
import { requireInteger, requireUtf8 } from "./argument.js";
import { equal } from "./bytes.js";
import {
  type CompareAndSetOptions,
  type DestroyEnvelopeOptions,
  type EnvelopeStore,
  type GetEnvelopeOptions,
  MAX_TTL_MS,
  type SetCondition,
  type SetEnvelopeOptions,
} from "./envelope-store.js";
import { SealedSessionError } from "./errors.js";

const MAX_STORED_ID_BYTES = 512;
const CONDITIONS: readonly SetCondition[] = ["always", "absent", "present"];
/** Entries that each write looks at: more than one, so that the sweep overtakes what is added. */
const SWEEP_STEP = 4;

/** Options of {@link memoryStore}. */
export interface MemoryStoreOptions {
  /**
   * Judges expiry: milliseconds since 1970-01-01T00:00:00Z.
   *
   * @defaultValue Date.now
   */
  readonly clock?: () => number;
  /**
   * How many envelopes the store keeps, 1 to 2^24. A further one is refused with `STORE_UNAVAILABLE`: dropping another
   * one instead would log somebody out.
   *
   * @defaultValue 1000000
   */
  readonly maxEntries?: number;
}

/**
 * Makes an {@link EnvelopeStore} in memory, for tests, development and a single process whose web sessions may end with it.
 *
 * @throws TypeError or RangeError when an option is wrong.
 */
export function memoryStore(options: MemoryStoreOptions = {}): EnvelopeStore {
  return new MemoryStore(options);
}

interface Entry {
  bytes: Uint8Array;
  /** Lives while the clock is below this. */
  expiresAt: number;
}

class MemoryStore implements EnvelopeStore {
  readonly #entries = new Map<string, Entry>();
  readonly #clock: () => number;
  readonly #maxEntries: number;
  #sweep: Iterator<[string, Entry]> = this.#entries.entries();
  /** Before this, a full store need not be searched again for something that has expired. */
  #fullUntil = Number.NEGATIVE_INFINITY;

  constructor({ clock = Date.now, maxEntries = 1_000_000 }: MemoryStoreOptions) {
    if (typeof clock !== "function") throw new TypeError("clock must be a function");
    this.#clock = clock;
    this.#maxEntries = requireInteger("maxEntries", maxEntries, 1, 2 ** 24);
  }

  async get(storedId: string, { slideMs }: GetEnvelopeOptions = {}): Promise<Uint8Array | undefined> {
    requireStoredId(storedId);
    if (slideMs !== undefined) requireTtl("slideMs", slideMs);
    const entry = this.#living(storedId);
    if (entry === undefined) return undefined;
    if (slideMs !== undefined) entry.expiresAt = this.#expiry(slideMs);
    return new Uint8Array(entry.bytes);
  }

  async set(storedId: string, envelope: Uint8Array, options: SetEnvelopeOptions): Promise<boolean> {
    requireStoredId(storedId);
    requireBytes("envelope", envelope);
    const { ttlMs, condition = "always" } = options;
    requireTtl("ttlMs", ttlMs);
    if (!CONDITIONS.includes(condition)) throw new RangeError(`condition must be one of ${CONDITIONS.join(", ")}`);
    const entry = this.#living(storedId);
    if (condition === "absent" && entry !== undefined) return equal(entry.bytes, envelope);
    if (condition === "present" && entry === undefined) return false;
    this.#sweepSome(SWEEP_STEP);
    if (entry === undefined) this.#makeRoom();
    this.#entries.set(storedId, { bytes: new Uint8Array(envelope), expiresAt: this.#expiry(ttlMs) });
    return true;
  }

  async compareAndSet(
    storedId: string,
    expected: Uint8Array,
    envelope: Uint8Array,
    { ttlMs }: CompareAndSetOptions = {},
  ): Promise<boolean> {
    requireStoredId(storedId);
    requireBytes("expected", expected);
    requireBytes("envelope", envelope);
    if (ttlMs !== undefined) requireTtl("ttlMs", ttlMs);
    const entry = this.#living(storedId);
    if (entry === undefined) return false;
    if (!equal(entry.bytes, expected) && !equal(entry.bytes, envelope)) return false;
    entry.bytes = new Uint8Array(envelope);
    if (ttlMs !== undefined) entry.expiresAt = this.#expiry(ttlMs);
    return true;
  }

  async touch(storedId: string, ttlMs: number): Promise<boolean> {
    requireStoredId(storedId);
    requireTtl("ttlMs", ttlMs);
    const entry = this.#living(storedId);
    if (entry !== undefined) entry.expiresAt = this.#expiry(ttlMs);
    return entry !== undefined;
  }

  async destroy(storedId: string, { expected }: DestroyEnvelopeOptions = {}): Promise<boolean> {
    requireStoredId(storedId);
    if (expected !== undefined) requireBytes("expected", expected);
    const entry = this.#living(storedId);
    if (entry === undefined || (expected !== undefined && !equal(entry.bytes, expected))) return false;
    return this.#entries.delete(storedId);
  }

  async ttlMs(storedId: string): Promise<number | undefined> {
    requireStoredId(storedId);
    const entry = this.#living(storedId);
    return entry === undefined ? undefined : Math.ceil(entry.expiresAt - this.#clock());
  }

  async *scan(): AsyncIterable<string> {
    // Not the living map: an id that is removed and written anew during the walk would be met twice.
    for (const storedId of [...this.#entries.keys()]) if (this.#living(storedId) !== undefined) yield storedId;
  }

  #living(storedId: string): Entry | undefined {
    const entry = this.#entries.get(storedId);
    return entry !== undefined && this.#clock() < entry.expiresAt ? entry : undefined;
  }

  #expiry(ttlMs: number): number {
    const expiresAt = this.#clock() + ttlMs;
    this.#fullUntil = Math.min(this.#fullUntil, expiresAt);
    return expiresAt;
  }

  #makeRoom(): void {
    if (this.#entries.size < this.#maxEntries) return;
    const now = this.#clock();
    if (now >= this.#fullUntil) {
      this.#sweepSome(this.#entries.size + 1);
      if (this.#entries.size < this.#maxEntries) return;
      this.#fullUntil = this.#earliestExpiry();
    }
    throw new SealedSessionError("STORE_UNAVAILABLE", `the memory store is full: maxEntries is ${this.#maxEntries}`);
  }

  #earliestExpiry(): number {
    let earliest = Number.POSITIVE_INFINITY;
    for (const { expiresAt } of this.#entries.values()) earliest = Math.min(earliest, expiresAt);
    return earliest;
  }

  /** Goes on where the last sweep stopped: a map's iterator survives changes of the map. */
  #sweepSome(steps: number): void {
    const now = this.#clock();
    for (let step = 0; step < steps; step++) {
      const next = this.#sweep.next();
      if (next.done) {
        this.#sweep = this.#entries.entries();
      } else if (now >= next.value[1].expiresAt) {
        this.#entries.delete(next.value[0]);
      }
    }
  }
}

function requireStoredId(storedId: string): void {
  requireUtf8("storedId", storedId, 1, MAX_STORED_ID_BYTES);
  if (/[{}]/.test(storedId)) throw new RangeError("storedId must not hold braces");
}

function requireBytes(field: string, bytes: Uint8Array): void {
  if (!(bytes instanceof Uint8Array)) throw new TypeError(`${field} must be a Uint8Array`);
  if (bytes.length === 0) throw new RangeError(`${field} must not be empty`);
}

function requireTtl(field: string, ttlMs: number): void {
  requireInteger(field, ttlMs, 1, MAX_TTL_MS);
}
