/**
 * A ring in two to four places, such as Redis and PostgreSQL: deleting one of them loses nothing.
 *
 * No home is trusted more than another. What one lacks is copied there from the others; where two differ every copy is returned, since only
 * the ring can tell which is right, by asking the KMS.
 */
import { requireInteger, requireMethods } from "./argument.js";
import { equal } from "./bytes.js";
import { report } from "./diagnostics.js";
import { MAX_RECORD_BYTES } from "./envelope.js";
import { codeOf, SealedSessionError } from "./errors.js";
import {
  isKeyId,
  type KeyRingStore,
  requireRing,
  requireWrite,
  type StoredKeyRecord,
  type WriteKeyRecordOptions,
  type WriteKeyRecordResult,
} from "./key-ring-store.js";
import { type Schedule, systemSchedule } from "./schedule.js";

/** Up to this size a home is filled from the others: whoever fills one home with junk must not fill them all (a file holds 16 MiB). */
const MAX_REFILLED_BYTES = 8 * 1024 * 1024;
/** What a record takes besides its bytes, at least. */
const RECORD_OVERHEAD_BYTES = 64;
const NOT_WRITTEN: WriteKeyRecordResult = { written: false, durable: false };

/** Options of {@link mirroredKeyRingStore}. */
export interface MirroredKeyRingStoreOptions {
  /**
   * After how long without an answer a home counts as failed, in milliseconds: 1 to 600000. More than its own deadlines, so that it is asked
   * to the end.
   *
   * @defaultValue 2000
   */
  readonly homeTimeoutMs?: number;
  /** Sets the deadlines: calls `task` once after `delayMs`, and returns what cancels it. @defaultValue an unref'ed setTimeout */
  readonly schedule?: Schedule;
}

/**
 * Keeps rings in several stores at once. Methods reject with `STORE_UNAVAILABLE` when no home answers; its `cause` is an
 * `AggregateError` of what each of them said. Each failure of a home is the event `key-ring-home-failed`.
 *
 * - `read` asks all homes, and copies to each that answers what it lacks, never over what it has. One id comes several times where homes differ.
 * - `write` of a new record: the first home, in their order, that answers decides about the conditions; the others then get the record too.
 *   A home that answered too late may have written all the same.
 * - `write` with `expected` replaces in each home that holds these bytes (or the new ones) and leaves the others; the first of them decides who wins
 *   of several writers. Where two overlap, one of which has not reached every home yet, homes may be left with a copy of each.
 * - `durable`: two homes hold the record, or one says so itself.
 * - `now` is the clock of the first home that answers.
 *
 * While homes hang a read takes at most twice `homeTimeoutMs`, a write one `homeTimeoutMs` more than there are homes.
 *
 * @param homes - Two to four different stores, in the same order in every process.
 * @throws TypeError or RangeError when an argument is wrong.
 */
export function mirroredKeyRingStore(
  homes: readonly KeyRingStore[],
  { homeTimeoutMs = 2000, schedule = systemSchedule }: MirroredKeyRingStoreOptions = {},
): KeyRingStore {
  if (!Array.isArray(homes)) throw new TypeError("homes must be an array");
  requireInteger("homes.length", homes.length, 2, 4);
  for (const [index, home] of homes.entries()) requireMethods(`homes[${index}]`, home, "read", "write", "now");
  if (new Set(homes).size < homes.length) throw new RangeError("homes must be different stores");
  requireInteger("homeTimeoutMs", homeTimeoutMs, 1, 600_000);
  if (typeof schedule !== "function") throw new TypeError("schedule must be a function");
  return new MirroredKeyRingStore([...homes], homeTimeoutMs, schedule);
}

/** What a home said. */
interface Answer<T> {
  readonly home: KeyRingStore;
  readonly value: T;
}

/** Asks one home; nobody waits any more once the signal has aborted. */
type Question<T> = (home: KeyRingStore, signal: AbortSignal) => Promise<T>;

class MirroredKeyRingStore implements KeyRingStore {
  readonly #homes: readonly KeyRingStore[];
  readonly #homeTimeoutMs: number;
  readonly #schedule: Schedule;

  constructor(homes: readonly KeyRingStore[], homeTimeoutMs: number, schedule: Schedule) {
    this.#homes = homes;
    this.#homeTimeoutMs = homeTimeoutMs;
    this.#schedule = schedule;
  }

  async read(ring: string): Promise<readonly StoredKeyRecord[]> {
    requireRing(ring);
    const failures: unknown[] = [];
    const answers = await this.#readHomes(ring, failures);
    // Missing is not unavailable: an empty ring would get a new key, and all sessions under the others would be refused.
    if (answers.every(({ value }) => value.length === 0) && failures.length > 0) {
      throw unavailable(
        "a home of the ring does not answer, and the others hold nothing",
        new AggregateError(failures),
      );
    }
    const copies = new Map<string, StoredKeyRecord[]>();
    for (const stored of answers.flatMap(({ value }) => value)) {
      const known = copies.get(stored.keyId) ?? [];
      if (!known.some(({ record }) => equal(record, stored.record))) copies.set(stored.keyId, [...known, stored]);
    }
    const union = [...copies.values()].flat();
    // Waited for: a writer's `onlyIfKeyIds` is what it has read, and the home that decides should hold the same.
    await Promise.all(answers.map((answer) => this.#refill(ring, answer, union)));
    return union;
  }

  async write(
    ring: string,
    keyId: string,
    record: Uint8Array,
    options: WriteKeyRecordOptions = {},
  ): Promise<WriteKeyRecordResult> {
    requireWrite(ring, keyId, record, options);
    const bytes = new Uint8Array(record);
    const { expected } = options;
    const homes = expected === undefined ? this.#homes : await this.#homesWith(ring, keyId, [expected, bytes]);
    if (homes.length === 0) return NOT_WRITTEN;
    const first = await this.#askInTurn(ring, homes, (home) => home.write(ring, keyId, bytes, options));
    if (!first.value.written) return NOT_WRITTEN;
    const condition = expected === undefined ? {} : { expected };
    const rest = homes.slice(homes.indexOf(first.home) + 1);
    const others = await this.#ask(ring, rest, (home) => home.write(ring, keyId, bytes, condition));
    return { written: true, durable: first.value.durable || others.some(({ value }) => value.written) };
  }

  async now(): Promise<number> {
    return (await this.#askInTurn(undefined, this.#homes, (home) => home.now())).value;
  }

  async #readHomes(ring: string, failures: unknown[] = []): Promise<Answer<readonly StoredKeyRecord[]>[]> {
    const answers = await this.#ask(ring, this.#homes, (home) => home.read(ring), failures);
    if (answers.length === 0) throw noneAnswers(failures);
    return answers;
  }

  async #homesWith(ring: string, keyId: string, wanted: readonly Uint8Array[]): Promise<KeyRingStore[]> {
    const isWanted = (stored: StoredKeyRecord) =>
      stored.keyId === keyId && wanted.some((bytes) => equal(bytes, stored.record));
    return (await this.#readHomes(ring)).filter(({ value }) => value.some(isWanted)).map(({ home }) => home);
  }

  /** Copies to a home what it lacks, one after the other, until its time is over; the next read goes on. */
  async #refill(ring: string, { home, value }: Answer<readonly StoredKeyRecord[]>, union: readonly StoredKeyRecord[]) {
    const held = new Set(value.map(({ keyId }) => keyId));
    let size = value.reduce((sum, { record }) => sum + sizeOf(record), 0);
    const missing = union.filter(({ keyId, record }) => {
      if (held.has(keyId) || !isKeyId(keyId) || record.length === 0 || record.length > MAX_RECORD_BYTES) return false;
      size += sizeOf(record);
      return size <= MAX_REFILLED_BYTES;
    });
    if (missing.length === 0) return;
    await this.#ask(ring, [home], async (_, signal) => {
      for (const { keyId, record } of missing) if (!signal.aborted) await home.write(ring, keyId, record.slice());
    });
  }

  /** Asks one home after the other until one answers. */
  async #askInTurn<T>(
    ring: string | undefined,
    homes: readonly KeyRingStore[],
    question: Question<T>,
  ): Promise<Answer<T>> {
    const failures: unknown[] = [];
    for (const home of homes) {
      const [answer] = await this.#ask(ring, [home], question, failures);
      if (answer !== undefined) return answer;
    }
    throw noneAnswers(failures);
  }

  /** Asks all these homes at once. Never rejects: what fails is reported, added to `failures`, and left out of the answers. */
  async #ask<T>(
    ring: string | undefined,
    homes: readonly KeyRingStore[],
    question: Question<T>,
    failures: unknown[] = [],
  ): Promise<Answer<T>[]> {
    const answers = homes.map(async (home): Promise<Answer<T>[]> => {
      try {
        return [{ home, value: await this.#inTime((signal) => question(home, signal)) }];
      } catch (error) {
        failures.push(error);
        const index = this.#homes.indexOf(home);
        if (ring !== undefined) report({ type: "key-ring-home-failed", ring, home: index, code: codeOf(error) });
        return [];
      }
    });
    return (await Promise.all(answers)).flat();
  }

  async #inTime<T>(call: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const controller = new AbortController();
    let cancel = () => {};
    const late = new Promise<never>((_, reject) => {
      cancel = this.#schedule(() => {
        controller.abort();
        reject(unavailable(`a home of the ring gave no answer within ${this.#homeTimeoutMs} ms`));
      }, this.#homeTimeoutMs);
    });
    try {
      return await Promise.race([call(controller.signal), late]);
    } finally {
      cancel();
    }
  }
}

function sizeOf(record: Uint8Array): number {
  return record.length + RECORD_OVERHEAD_BYTES;
}

function noneAnswers(failures: readonly unknown[]): SealedSessionError {
  return unavailable("no home of the ring answers", new AggregateError(failures));
}

function unavailable(message: string, cause?: unknown): SealedSessionError {
  return new SealedSessionError("STORE_UNAVAILABLE", message, cause === undefined ? undefined : { cause });
}
