/**
 * Seals all web sessions that another store wrote in clear, while the service goes on and takes over by itself what is asked for.
 */
import { requireInteger, requireMethods } from "./argument.js";
import { type EnvelopeStore, MAX_TTL_MS } from "./envelope-store.js";
import type { KeyRing } from "./key-ring.js";
import { type Adoption, PlaintextAdoption } from "./plaintext-adoption.js";
import type { BulkPlaintextSource } from "./plaintext-source.js";
import { type Schedule, systemSchedule } from "./schedule.js";
import type { Sealer } from "./sealer.js";
import { type StoredIdMode, storedIdOf } from "./session-id.js";
import { Rate, requireShard, type Shard, shardOf } from "./session-rotation.js";

const DEFAULT_IDLE_MS = 86_400_000;
/** Of one node. */
const SESSIONS_AT_ONCE = 64;

/** How far a walk is. */
export interface SealProgress {
  /** Sessions that were looked at. */
  readonly examined: number;
  /** Those that were sealed. */
  readonly sealed: number;
  /** About how many keys there are, also those of others. */
  readonly total: number;
}

/** Options of {@link sealPlaintextSessions}. */
export interface SealPlaintextOptions {
  /** The keys. */
  readonly ring: KeyRing;
  /** What seals; its namespace and purpose are those of the session store. */
  readonly sealer: Sealer;
  /** Where the envelopes are to lie. */
  readonly store: EnvelopeStore;
  /** The sessions in clear. */
  readonly from: BulkPlaintextSource;
  /** As in the session store. @defaultValue "digest" */
  readonly storedIds?: StoredIdMode;
  /** The plaintext lies where the envelopes belong, and they take its place. Needs `verbatim` stored ids. @defaultValue false */
  readonly inPlace?: boolean;
  /** Time to live of sessions that have no end, in milliseconds. @defaultValue 86400000 (24 h) */
  readonly idleMs?: number;
  /** Absolute life from now on, in milliseconds, where the session store has one: plaintext does not tell when it began. @defaultValue none */
  readonly absoluteMs?: number;
  /** Changes nothing, and counts what it would. @defaultValue false */
  readonly dryRun?: boolean;
  /** Most sessions that are looked at in a second, all nodes together: 1 to 10000000. @defaultValue no limit */
  readonly ratePerSecond?: number;
  /** Looks at one part of `count` only, so that several machines can share the work: `index` from 1 to `count`, at most 1024. @defaultValue all */
  readonly shard?: Shard;
  /** Is told after each page how far the run is. */
  readonly onProgress?: (progress: SealProgress) => void;
  /** Ends the run after the pages that are being visited. */
  readonly signal?: AbortSignal;
  /** Timers, for the rate. @defaultValue setTimeout */
  readonly schedule?: Schedule;
}

/** What a run has done. Times are in milliseconds since 1970-01-01T00:00:00Z. */
export interface SealReport {
  /** When the run began. */
  readonly startedAt: number;
  /** When it ended. */
  readonly endedAt: number;
  /** The signal has ended it. */
  readonly isInterrupted: boolean;
  /** Sessions that were looked at; one that came twice counts twice. */
  readonly examined: number;
  /** Sealed; in a dry run, what would have been. */
  readonly sealed: number;
  /** By a few words that say why; only what came up. */
  readonly skipped: Readonly<Record<string, number>>;
  /** Left as they are because they could not be read as sessions, or not be sealed. */
  readonly unreadable: number;
}

/** Why a session needs nothing. */
const SKIPPED: Readonly<Record<Exclude<Adoption, "sealed" | "refused">, string>> = {
  present: "sealed already",
  gone: "gone meanwhile",
};
const NO_SESSION_ID = "whose key holds no session id";

/**
 * Seals all sessions that lie in clear, each with what is left of its time to live. It may run as often as is wanted, and beside the service and other
 * such runs. Memory does not grow with the number of sessions.
 *
 * @throws SealedSessionError `KEY_UNAVAILABLE`, `STORE_UNAVAILABLE`, `CLOSED`.
 * @throws TypeError or RangeError when an option is wrong.
 */
export async function sealPlaintextSessions(options: SealPlaintextOptions): Promise<SealReport> {
  const { ring, sealer, store, from, storedIds = "digest", inPlace = false, signal, onProgress } = options;
  const { idleMs = DEFAULT_IDLE_MS, absoluteMs, dryRun = false, ratePerSecond, schedule = systemSchedule } = options;
  requireMethods("from", from, "walk", "estimate");
  requireMethods("sealer", sealer, "seal");
  requireMethods("store", store, "set", "compareAndSet", "destroy");
  if (absoluteMs !== undefined) requireInteger("absoluteMs", absoluteMs, 1, MAX_TTL_MS);
  if (inPlace && storedIds !== "verbatim") {
    throw new RangeError("inPlace needs verbatim storedIds: plaintext lies under session ids");
  }
  const { index, count } = requireShard(options.shard);
  const rate = ratePerSecond === undefined ? undefined : new Rate(ratePerSecond, ring.clock, schedule, signal);
  const adoption = new PlaintextAdoption({ ring, sealer, store, from, inPlace, idleMs, absoluteMs });
  const startedAt = ring.clock();
  await ring.ready();
  const total = await from.estimate();
  const counts = { examined: 0, sealed: 0, unreadable: 0, skipped: {} as Record<string, number> };

  const sealOne = async (sessionId: string) => {
    const storedId = storedIdOf(sessionId, storedIds);
    let result: Adoption | undefined;
    if (storedId !== undefined) {
      result = await (dryRun ? adoption.examine(sessionId, storedId) : adoption.adopt(sessionId, storedId));
    }
    counts.examined++;
    if (result === "sealed") counts.sealed++;
    else if (result === "refused") counts.unreadable++;
    else {
      const why = result === undefined ? NO_SESSION_ID : SKIPPED[result];
      counts.skipped[why] = (counts.skipped[why] ?? 0) + 1;
    }
  };
  const visit = async (sessionIds: readonly string[]) => {
    const ours = count === 1 ? sessionIds : sessionIds.filter((sessionId) => shardOf(sessionId, count) === index);
    for (let first = 0; first < ours.length; first += SESSIONS_AT_ONCE) {
      const some = ours.slice(first, first + SESSIONS_AT_ONCE);
      signal?.throwIfAborted();
      await rate?.take(some.length);
      await Promise.all(some.map(sealOne));
    }
    onProgress?.({ examined: counts.examined, sealed: counts.sealed, total });
  };
  try {
    await from.walk(visit, { signal });
  } catch (error) {
    if (!signal?.aborted || error !== signal.reason) throw error;
  }
  return { startedAt, endedAt: ring.clock(), isInterrupted: signal?.aborted ?? false, ...counts };
}
