/**
 * Seals all sessions anew that are not under the key which seals now, while the service goes on (format 5.6).
 *
 * Live writes win: an envelope is replaced only if it still is the one that was read, and its time to live stays as it is. What was destroyed stays
 * destroyed, and what does not open is left alone.
 */
import { requireInteger, requireMethods } from "./argument.js";
import type { BulkEnvelopeStore, EnvelopeChange, EnvelopePage, WalkPosition } from "./bulk-store.js";
import { base64url, equal } from "./bytes.js";
import type { DataKey } from "./data-key.js";
import { PEEK_BYTES, peekEnvelope } from "./envelope.js";
import { codeOf, type ErrorCode, hasCode } from "./errors.js";
import type { KeyRing } from "./key-ring.js";
import { type Schedule, systemSchedule } from "./schedule.js";
import type { Sealer } from "./sealer.js";

/** With at least so much to do the next ones are read whole at once, and not peeked at first. */
const MOSTLY_TO_DO = 0.5;
/** Envelopes of one node that are peeked at with one call, and that are read. More at once keep node and process waiting for each other. */
const PEEKED_AT_ONCE = 256;
const READ_AT_ONCE = 64;
/** Bytes that are read with one call, about: they have to come within the store's time-out, and to fit into memory. */
const BYTES_AT_ONCE = 1_048_576;
/** As long as an envelope is taken to be before any was seen. */
const FIRST_BYTES_EACH = 16_384;
/** While a node works on one call this process works on the other. */
const DEFAULT_CONCURRENCY = 2;
const MAX_CONCURRENCY = 64;
/** With a rate, as much as it allows in this time is visited at once. */
const RATED_MS = 100;

/** What a walk has found and done so far. */
export interface RotationCounts {
  /** Envelopes that were looked at; one that came twice counts twice. */
  examined: number;
  /** Sealed anew; in a dry run, what would have been. */
  resealed: number;
  /** Under the current key already. */
  current: number;
  /** Under a key that is younger than `olderThanMs`. */
  younger: number;
  /** Bound to their clients: only a request with the cookie can seal them anew. */
  clientBound: number;
  /** Changed, or destroyed, by somebody else meanwhile: what was written then is under the current key. */
  overtaken: number;
  /** Gone before they were read. */
  gone: number;
  /** Past the end of their absolute life. */
  expired: number;
  /** No envelope of this format. */
  foreign: number;
  /** Envelopes that do not open. */
  unopened: number;
  /** What was found under each key, before it was sealed anew, by key id in base64url. */
  byKey: Record<string, number>;
}

/** How far a walk is. */
export interface RotationProgress extends Readonly<RotationCounts> {
  /** About how many envelopes there are. */
  readonly total: number;
}

/** One part of the work, for one machine of several. */
export interface Shard {
  /** Which part: from 1 to `count`. */
  readonly index: number;
  /** How many parts there are: 1 to 1024. */
  readonly count: number;
}

/** Options of {@link rotateSessions}. */
export interface RotateSessionsOptions {
  /** The keys. */
  readonly ring: KeyRing;
  /** What opens and seals; its namespace and purpose are those of the session store. */
  readonly sealer: Sealer;
  /** Where the envelopes lie. */
  readonly store: BulkEnvelopeStore;
  /** Only sessions whose key began to seal longer ago than this many milliseconds. @defaultValue 0: all that are not under the current key */
  readonly olderThanMs?: number;
  /** Changes nothing, and counts what it would. @defaultValue false */
  readonly dryRun?: boolean;
  /** Most envelopes that are looked at in a second, all nodes together: 1 to 10000000. @defaultValue no limit */
  readonly ratePerSecond?: number;
  /** Calls for each node that are under way at a time: 1 to 64. @defaultValue 2 */
  readonly concurrency?: number;
  /** Looks at one part of `count` only, so that several machines can share the work: `index` from 1 to `count`, at most 1024. @defaultValue all */
  readonly shard?: Shard;
  /** Goes on from where an interrupted run stood. */
  readonly position?: WalkPosition;
  /** The counts of that run. */
  readonly counts?: RotationCounts;
  /** Is told after each page where the run stands: to be kept for `position` and `counts`. */
  readonly onPosition?: (position: WalkPosition, counts: RotationCounts) => void;
  /** Is told how far the run is, whenever it has looked at some more. */
  readonly onProgress?: (progress: RotationProgress) => void;
  /** Is told of each envelope that does not open. */
  readonly onUnopened?: (storedId: string, code: ErrorCode | undefined) => void;
  /** Ends the run after the pages that are being visited; where it waits for its rate, at once. */
  readonly signal?: AbortSignal;
  /** Timers, for the rate. @defaultValue setTimeout */
  readonly schedule?: Schedule;
}

/** What a run has done. Times are in milliseconds since 1970-01-01T00:00:00Z. */
export interface RotationReport {
  /** The key that seals now, and under which everything lies that was sealed anew. */
  readonly keyId: string;
  /** When the run began. */
  readonly startedAt: number;
  /** When it ended. */
  readonly endedAt: number;
  /** The signal has ended it. */
  readonly isInterrupted: boolean;
  /** It changed nothing. */
  readonly isDryRun: boolean;
  /** What it found and did. */
  readonly counts: Readonly<RotationCounts>;
}

/**
 * Seals all sessions anew that are not under the key which seals now. Memory does not grow with their number; a run that was interrupted goes on
 * with `position`.
 *
 * @throws SealedSessionError `KEY_UNAVAILABLE`, `STORE_UNAVAILABLE`, `CLOSED`.
 * @throws TypeError or RangeError when an option is wrong.
 */
export async function rotateSessions(options: RotateSessionsOptions): Promise<RotationReport> {
  const { ring, store, position, onPosition, signal } = options;
  requireMethods("ring", ring, "ready", "current", "currentIfWarm", "status");
  requireMethods("store", store, "walk", "estimate");
  requireMethods("sealer", options.sealer, "reseal", "resealSync");
  requireInteger("concurrency", options.concurrency ?? DEFAULT_CONCURRENCY, 1, MAX_CONCURRENCY);
  requireInteger("olderThanMs", options.olderThanMs ?? 0, 0, Number.MAX_SAFE_INTEGER);
  requireShard(options.shard);
  const run = new Run(options);
  const startedAt = ring.clock();
  // Everything that can be opened is opened now: no page waits for the KMS.
  await ring.ready();
  const current = await ring.current();
  run.begin(current, await store.estimate());
  try {
    await store.walk((page) => run.visit(page), {
      position,
      signal,
      peekBytes: () => run.peekBytes,
      // A copy: the counts go on while the caller may still be writing them.
      onPosition: (reached) => onPosition?.(reached, structuredClone(run.counts)),
    });
  } catch (error) {
    if (!signal?.aborted || error !== signal.reason) throw error;
  }
  return {
    keyId: current.keyId,
    startedAt,
    endedAt: ring.clock(),
    isInterrupted: signal?.aborted ?? false,
    isDryRun: options.dryRun ?? false,
    counts: run.counts,
  };
}

class Run {
  readonly counts: RotationCounts;
  readonly #options: RotateSessionsOptions;
  readonly #rate: Rate | undefined;
  readonly #mostAtOnce: number;
  #first: Uint8Array = new Uint8Array(0);
  #total = 0;
  #younger: ReadonlySet<string> = new Set();
  #isMostlyDone = true;
  #bytesEach = FIRST_BYTES_EACH;
  #lastKey: { readonly bytes: Uint8Array; readonly keyId: string } = { bytes: this.#first, keyId: "" };

  /** @throws TypeError or RangeError when the rate is wrong. */
  constructor(options: RotateSessionsOptions) {
    const { ring, ratePerSecond, schedule = systemSchedule, signal, counts } = options;
    this.#options = options;
    this.#rate = ratePerSecond === undefined ? undefined : new Rate(ratePerSecond, ring.clock, schedule, signal);
    this.#mostAtOnce = Math.ceil(((ratePerSecond ?? Number.POSITIVE_INFINITY) * RATED_MS) / 1000);
    this.counts = { ...noCounts(), ...structuredClone(counts) };
  }

  /**
   * @param current - The key that seals now.
   * @param total - How many envelopes there are, about.
   */
  begin(current: DataKey, total: number): void {
    const { ring, olderThanMs = 0 } = this.#options;
    this.#first = current.keyIdBytes;
    this.#total = total;
    const since = ring.clock() - olderThanMs;
    const younger = olderThanMs > 0 ? ring.status().filter(({ activatesAt }) => activatesAt > since) : [];
    this.#younger = new Set(younger.map(({ keyId }) => keyId));
  }

  /** When it rejects, everything that it began has ended. */
  async visit(page: EnvelopePage): Promise<void> {
    const { shard, signal, concurrency = DEFAULT_CONCURRENCY } = this.#options;
    const storedIds =
      shard === undefined
        ? page.storedIds
        : page.storedIds.filter((storedId) => shardOf(storedId, shard.count) === shard.index);
    let next = 0;
    let failed = false;
    const lane = async () => {
      while (next < storedIds.length && !failed) {
        const isPeeking = this.#isMostlyDone;
        const size = Math.min(this.#mostAtOnce, isPeeking ? PEEKED_AT_ONCE : this.#readAtOnce);
        const some = storedIds.slice(next, next + size);
        next += some.length;
        try {
          signal?.throwIfAborted();
          await this.#rate?.take(some.length);
          await this.#visitSome(page, some, isPeeking);
        } catch (error) {
          failed = true;
          throw error;
        }
      }
    };
    const outcomes = await Promise.allSettled(Array.from({ length: concurrency }, lane));
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  }

  /** Finished ones cost a look at their first bytes; where most have to be read anyway, that look would be wasted. */
  get peekBytes(): number {
    return this.#isMostlyDone ? PEEK_BYTES : 0;
  }

  get #readAtOnce(): number {
    return Math.min(READ_AT_ONCE, Math.ceil(BYTES_AT_ONCE / this.#bytesEach));
  }

  async #visitSome(page: EnvelopePage, storedIds: readonly string[], isPeeking: boolean): Promise<void> {
    const unfinished = isPeeking ? await this.#peek(page, storedIds) : storedIds;
    let changed = 0;
    for (let from = 0; from < unfinished.length; ) {
      const some = unfinished.slice(from, from + this.#readAtOnce);
      changed += await this.#reseal(page, some);
      from += some.length;
    }
    this.#isMostlyDone = changed < MOSTLY_TO_DO * storedIds.length;
  }

  /** @returns Those that have to be read; the others are counted. */
  async #peek(page: EnvelopePage, storedIds: readonly string[]): Promise<string[]> {
    const counts = noCounts();
    const isCurrent = this.#currentKeys();
    const heads = await page.peek(storedIds, PEEK_BYTES);
    const unfinished = storedIds.filter((_, index) => this.#isDue(heads[index], counts, isCurrent) !== undefined);
    this.#add(counts, storedIds.length - unfinished.length);
    return unfinished;
  }

  /** Counts all of them, or none when it fails. @returns How many there were to seal anew. */
  async #reseal(page: EnvelopePage, storedIds: readonly string[]): Promise<number> {
    const { sealer, dryRun = false, onUnopened } = this.#options;
    const counts = noCounts();
    const isCurrent = this.#currentKeys();
    const changes: EnvelopeChange[] = [];
    const unopened: [storedId: string, code: ErrorCode | undefined][] = [];
    const found = await page.get(storedIds);
    let bytes = 0;
    const noteFailure = (storedId: string, error: unknown) => {
      if (this.#isUnopened(error, counts)) unopened.push([storedId, codeOf(error)]);
    };
    const waiting: Promise<unknown>[] = [];
    for (let index = 0; index < storedIds.length; index++) {
      const storedId = storedIds[index] as string;
      const expected = found[index];
      const keyId = this.#isDue(expected, counts, isCurrent);
      if (expected === undefined || keyId === undefined) continue;
      bytes += expected.length;
      counts.byKey[keyId] = (counts.byKey[keyId] ?? 0) + 1;
      try {
        changes.push({ storedId, expected, envelope: sealer.resealSync(expected, storedId) });
      } catch (error) {
        if (!hasCode(error, "KEY_UNAVAILABLE")) {
          noteFailure(storedId, error);
          continue;
        }
        const resealed = sealer.reseal(expected, storedId);
        waiting.push(
          resealed.then(
            (envelope) => changes.push({ storedId, expected, envelope }),
            (reason: unknown) => noteFailure(storedId, reason),
          ),
        );
      }
    }
    // All at once: those whose keys this process does not know wait together for the ring to be read.
    await Promise.all(waiting);
    this.#bytesEach = Math.max(1, bytes / storedIds.length);
    const made = dryRun || changes.length === 0 ? changes.map(() => true) : await page.change(changes);
    counts.resealed = made.filter(Boolean).length;
    counts.overtaken = made.length - counts.resealed;
    this.#add(counts, storedIds.length);
    for (const [storedId, code] of unopened) onUnopened?.(storedId, code);
    return changes.length;
  }

  /** Counts what needs nothing. @returns The key id of what is to be sealed anew. */
  #isDue(bytes: Uint8Array | undefined, counts: RotationCounts, isCurrent: KeyTest): string | undefined {
    if (bytes === undefined || bytes.length === 0) return note(counts, "gone");
    const head = peekEnvelope(bytes);
    if (head === undefined) return note(counts, "foreign");
    const keyId = this.#textOf(head.keyId);
    const reason = this.#reasonToLeave(keyId, isCurrent(head.keyId), head.clientBound ?? false);
    if (reason === undefined) return keyId;
    counts.byKey[keyId] = (counts.byKey[keyId] ?? 0) + 1;
    return note(counts, reason);
  }

  #reasonToLeave(keyId: string, isCurrent: boolean, isClientBound: boolean): Count | undefined {
    if (isCurrent) return "current";
    if (isClientBound) return "clientBound";
    return this.#younger.has(keyId) ? "younger" : undefined;
  }

  /** The key that the run began with, and the one that has become current meanwhile. */
  #currentKeys(): KeyTest {
    const first = this.#first;
    const now = this.#options.ring.currentIfWarm()?.keyIdBytes ?? first;
    return (keyId) => equal(keyId, first) || equal(keyId, now);
  }

  /** A key id in base64url. As a rule it is the same as the last one. */
  #textOf(bytes: Uint8Array): string {
    if (!equal(bytes, this.#lastKey.bytes)) this.#lastKey = { bytes: Uint8Array.from(bytes), keyId: base64url(bytes) };
    return this.#lastKey.keyId;
  }

  /** Counts an envelope that was not sealed anew. @returns `false` when its life has ended. */
  #isUnopened(error: unknown, counts: RotationCounts): boolean {
    // Without a key to seal with every other one would fail as well.
    if (hasCode(error, "CLOSED") || this.#options.ring.currentIfWarm() === undefined) throw error;
    const isUnopened = !hasCode(error, "ENVELOPE_EXPIRED");
    note(counts, isUnopened ? "unopened" : "expired");
    return isUnopened;
  }

  #add({ byKey, ...counts }: RotationCounts, examined: number): void {
    if (examined === 0) return;
    const sum = this.counts;
    for (const [what, count] of Object.entries({ ...counts, examined })) sum[what as Count] += count;
    for (const [keyId, count] of Object.entries(byKey)) sum.byKey[keyId] = (sum.byKey[keyId] ?? 0) + count;
    this.#options.onProgress?.({ ...structuredClone(sum), total: this.#total });
  }
}

type Count = Exclude<keyof RotationCounts, "byKey">;
type KeyTest = (keyId: Uint8Array) => boolean;

/** Spreads work evenly over time. */
export class Rate {
  readonly #perSecond: number;
  readonly #clock: () => number;
  readonly #schedule: Schedule;
  readonly #signal: AbortSignal | undefined;
  /** When what was taken so far is worked off. */
  #busyUntil = Number.NEGATIVE_INFINITY;
  #takenAt = Number.NEGATIVE_INFINITY;

  /** @param signal - Ends every wait. */
  constructor(perSecond: number, clock: () => number, schedule: Schedule, signal?: AbortSignal) {
    this.#perSecond = requireInteger("ratePerSecond", perSecond, 1, 10_000_000);
    this.#clock = clock;
    this.#schedule = schedule;
    this.#signal = signal;
  }

  /** Resolves when it is the turn of so many; rejects with the signal's reason when that comes first. */
  async take(count: number): Promise<void> {
    this.#signal?.throwIfAborted();
    const now = this.#clock();
    // A clock that was set back does not make anybody wait.
    if (now < this.#takenAt) this.#busyUntil -= this.#takenAt - now;
    this.#takenAt = now;
    const startsAt = Math.max(now, this.#busyUntil);
    this.#busyUntil = startsAt + (1000 * count) / this.#perSecond;
    if (startsAt > now) await this.#wait(Math.ceil(startsAt - now));
    this.#signal?.throwIfAborted();
  }

  #wait(delayMs: number): Promise<void> {
    const signal = this.#signal;
    return new Promise((resolve) => {
      const end = () => {
        cancel();
        signal?.removeEventListener("abort", end);
        resolve();
      };
      const cancel = this.#schedule(end, delayMs);
      signal?.addEventListener("abort", end);
    });
  }
}

function noCounts(): RotationCounts {
  return {
    examined: 0,
    resealed: 0,
    current: 0,
    younger: 0,
    clientBound: 0,
    overtaken: 0,
    gone: 0,
    expired: 0,
    foreign: 0,
    unopened: 0,
    byKey: {},
  };
}

/** Counts one, and says that it needs no key. */
function note(counts: RotationCounts, what: Count): undefined {
  counts[what]++;
}

/** @returns The shard, or all as one. @throws TypeError or RangeError when it is wrong. */
export function requireShard(shard: Shard = { index: 1, count: 1 }): Shard {
  requireInteger("shard.count", shard.count, 1, 1024);
  requireInteger("shard.index", shard.index, 1, shard.count);
  return shard;
}

/** @returns From 1 to `count`: the same for an id on every machine (FNV-1a). */
export function shardOf(storedId: string, count: number): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < storedId.length; index++) {
    hash = Math.imul(hash ^ storedId.charCodeAt(index), 0x01000193);
  }
  return ((hash >>> 0) % count) + 1;
}
