/**
 * Seals all sessions anew that are not under the key which seals now, while the service goes on (format 5.6).
 *
 * Live writes win: an envelope is replaced only if it still is the one that was read, and its time to live stays as it is. What was destroyed stays
 * destroyed, and what does not open is left alone.
 */
import { requireInteger, requireMethods } from "./argument.js";
import type { BulkEnvelopeStore, EnvelopePage, WalkPosition } from "./bulk-store.js";
import { base64url } from "./bytes.js";
import { PEEK_BYTES, peekEnvelope } from "./envelope.js";
import { codeOf, type ErrorCode, hasCode } from "./errors.js";
import type { KeyRing } from "./key-ring.js";
import { type Schedule, systemSchedule } from "./schedule.js";
import type { Sealer } from "./sealer.js";

/** With at least so much of a page to do the next one is read whole at once, and not peeked at first. */
const MOSTLY_TO_DO = 0.5;

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
  /** Looks at one part of `count` only, so that several machines can share the work: `index` from 1 to `count`, at most 1024. @defaultValue all */
  readonly shard?: Shard;
  /** Goes on from where an interrupted run stood. */
  readonly position?: WalkPosition;
  /** The counts of that run. */
  readonly counts?: RotationCounts;
  /** Is told after each page where the run stands: to be kept for `position` and `counts`. */
  readonly onPosition?: (position: WalkPosition, counts: RotationCounts) => void;
  /** Is told after each page how far the run is. */
  readonly onProgress?: (progress: RotationProgress) => void;
  /** Is told of each envelope that does not open. */
  readonly onUnopened?: (storedId: string, code: ErrorCode | undefined) => void;
  /** Ends the run after the pages that are being visited. */
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
  requireMethods("store", store, "walk", "estimate");
  requireMethods("sealer", options.sealer, "reseal");
  requireInteger("olderThanMs", options.olderThanMs ?? 0, 0, Number.MAX_SAFE_INTEGER);
  const { index, count } = options.shard ?? { index: 1, count: 1 };
  requireInteger("shard.count", count, 1, 1024);
  requireInteger("shard.index", index, 1, count);
  const startedAt = ring.clock();
  // Everything that can be opened is opened now: no page waits for the KMS.
  await ring.ready();
  const { keyId } = await ring.current();
  const run = new Run(options, keyId, await store.estimate());
  await store.walk((page) => run.visit(page), {
    position,
    signal,
    onPosition: (reached) => onPosition?.(reached, run.counts),
  });
  return {
    keyId,
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
  readonly #keyId: string;
  readonly #total: number;
  readonly #isYounger: (keyId: string) => boolean;
  readonly #rate: Rate | undefined;
  #isMostlyDone = true;

  constructor(options: RotateSessionsOptions, keyId: string, total: number) {
    const { ring, olderThanMs = 0, ratePerSecond, schedule = systemSchedule } = options;
    this.#options = options;
    this.#keyId = keyId;
    this.#total = total;
    const since = ring.clock() - olderThanMs;
    const younger = new Set(ring.status().flatMap((key) => (key.activatesAt > since ? [key.keyId] : [])));
    this.#isYounger = (id) => olderThanMs > 0 && younger.has(id);
    this.#rate = ratePerSecond === undefined ? undefined : new Rate(ratePerSecond, ring.clock, schedule);
    this.counts = options.counts === undefined ? noCounts() : structuredClone(options.counts);
  }

  async visit(page: EnvelopePage): Promise<void> {
    const { shard, onProgress } = this.#options;
    const storedIds =
      shard === undefined
        ? page.storedIds
        : page.storedIds.filter((storedId) => shardOf(storedId, shard.count) === shard.index);
    if (storedIds.length === 0) return;
    await this.#rate?.take(storedIds.length);
    // Finished ones cost a look at their first bytes; where most have to be read anyway, that look would be wasted.
    const unfinished = this.#isMostlyDone ? await this.#peek(page, storedIds) : storedIds;
    const changed = unfinished.length === 0 ? 0 : await this.#reseal(page, unfinished);
    this.#isMostlyDone = changed < MOSTLY_TO_DO * storedIds.length;
    this.counts.examined += storedIds.length;
    onProgress?.({ ...this.counts, total: this.#total });
  }

  /** @returns Those that have to be read. */
  async #peek(page: EnvelopePage, storedIds: readonly string[]): Promise<string[]> {
    const heads = await page.peek(storedIds, PEEK_BYTES);
    return storedIds.filter((_, index) => this.#isToDo(heads[index]));
  }

  /** Counts what needs nothing. */
  #isToDo(bytes: Uint8Array | undefined): boolean {
    const { counts } = this;
    if (bytes === undefined || bytes.length === 0) return note(counts, "gone");
    const head = peekEnvelope(bytes);
    if (head === undefined) return note(counts, "foreign");
    const keyId = base64url(head.keyId);
    const isCurrent = keyId === this.#keyId || keyId === this.#options.ring.currentIfWarm()?.keyId;
    if (isCurrent) {
      counts.byKey[keyId] = (counts.byKey[keyId] ?? 0) + 1;
      return note(counts, "current");
    }
    return true;
  }

  /** @returns How many there were to seal anew. */
  async #reseal(page: EnvelopePage, storedIds: readonly string[]): Promise<number> {
    const { sealer, dryRun = false } = this.#options;
    const found = await page.get(storedIds);
    const changes: { storedId: string; expected: Uint8Array; envelope: Uint8Array }[] = [];
    for (const [index, storedId] of storedIds.entries()) {
      const expected = found[index];
      if (expected === undefined || !this.#isToReseal(expected)) continue;
      const envelope = await sealer.reseal(expected, storedId).catch((error: unknown) => {
        this.#noteFailure(storedId, error);
        return undefined;
      });
      if (envelope !== undefined) changes.push({ storedId, expected, envelope });
    }
    const made = dryRun || changes.length === 0 ? changes.map(() => true) : await page.change(changes);
    const resealed = made.filter(Boolean).length;
    this.counts.resealed += resealed;
    this.counts.overtaken += made.length - resealed;
    this.counts.gone += found.filter((bytes) => bytes === undefined).length;
    return changes.length;
  }

  #isToReseal(bytes: Uint8Array): boolean {
    const { counts } = this;
    if (!this.#isToDo(bytes)) return false;
    const head = peekEnvelope(bytes);
    if (head === undefined) return false;
    const keyId = base64url(head.keyId);
    counts.byKey[keyId] = (counts.byKey[keyId] ?? 0) + 1;
    if (head.clientBound) return note(counts, "clientBound");
    return this.#isYounger(keyId) ? note(counts, "younger") : true;
  }

  #noteFailure(storedId: string, error: unknown): void {
    // Without a key to seal with every other one would fail as well.
    if (hasCode(error, "CLOSED") || this.#options.ring.currentIfWarm() === undefined) throw error;
    if (hasCode(error, "ENVELOPE_EXPIRED")) {
      this.counts.expired++;
      return;
    }
    this.counts.unopened++;
    this.#options.onUnopened?.(storedId, codeOf(error));
  }
}

/** Spreads work evenly over time. */
export class Rate {
  readonly #perSecond: number;
  readonly #clock: () => number;
  readonly #schedule: Schedule;
  /** When what was taken so far is worked off. */
  #busyUntil = Number.NEGATIVE_INFINITY;

  constructor(perSecond: number, clock: () => number, schedule: Schedule) {
    this.#perSecond = requireInteger("ratePerSecond", perSecond, 1, 10_000_000);
    this.#clock = clock;
    this.#schedule = schedule;
  }

  async take(count: number): Promise<void> {
    const now = this.#clock();
    const startsAt = Math.max(now, this.#busyUntil);
    this.#busyUntil = startsAt + (1000 * count) / this.#perSecond;
    if (startsAt > now) await new Promise<void>((resolve) => this.#schedule(resolve, Math.ceil(startsAt - now)));
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

/** Counts one and says that there is nothing to do. */
function note(counts: RotationCounts, what: Exclude<keyof RotationCounts, "byKey">): false {
  counts[what]++;
  return false;
}

/** @returns From 1 to `count`: the same for an id on every machine (FNV-1a). */
export function shardOf(storedId: string, count: number): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < storedId.length; index++) {
    hash = Math.imul(hash ^ storedId.charCodeAt(index), 0x01000193);
  }
  return ((hash >>> 0) % count) + 1;
}
