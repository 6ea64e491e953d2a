/** What is counted in a simulated fleet, and the numbers that come of it. */
import { parseEnvelope } from "@sealed-session/core";
import type { KmsClient, KmsMethod, KmsObserver } from "./simulation-kms.js";
import type { PublishedKey, StoreObserver } from "./simulation-store.js";
import type { VirtualTime } from "./virtual-time.js";

/** Calls in each virtual second. */
class Rate {
  readonly #time: VirtualTime;
  readonly #startMs: number;
  readonly #seconds: number[] = [];
  total = 0;

  constructor(time: VirtualTime) {
    this.#time = time;
    this.#startMs = time.clock();
  }

  add(): void {
    const second = Math.floor((this.#time.clock() - this.#startMs) / 1000);
    this.#seconds[second] = (this.#seconds[second] ?? 0) + 1;
    this.total++;
  }

  summary(): RateSummary {
    const seconds = (this.#time.clock() - this.#startMs) / 1000;
    const peak = this.#seconds.reduce((highest, count) => Math.max(highest, count ?? 0), 0);
    return { total: this.total, perSecond: this.total / seconds, peakPerSecond: peak };
  }
}

/** How often something was called. */
export interface RateSummary {
  readonly total: number;
  /** Calls a virtual second on average. */
  readonly perSecond: number;
  /** Calls in the busiest virtual second. */
  readonly peakPerSecond: number;
}

/** What was seen of one data key. Times are virtual milliseconds. */
interface KeyHistory {
  readonly activatesAt: number;
  readonly publishedAt: number;
  /** Processes that were ready when it was published, still run and have not opened it. */
  readonly waiting: Set<KmsClient>;
  /** When the last of them opened it. */
  spreadAt: number;
  firstSealAt: number | undefined;
  lastSealAt: number;
}

/** The numbers of a run. Times are virtual milliseconds. */
export interface SimulationNumbers {
  readonly durationMs: number;
  /** Starts of processes, and those of them that became ready. */
  readonly lives: number;
  readonly readyLives: number;
  /** Calls of `ready()` that were rejected. */
  readonly failedStarts: number;
  readonly slowestReadyMs: number;
  readonly seals: number;
  readonly opens: number;
  /** Seals and opens that failed, by error code. */
  readonly failed: Readonly<Record<string, number>>;
  /** Seals and opens in ready processes that could not be done at once, and those in whose wait the process called the KMS. */
  readonly waits: number;
  readonly waitsWithKmsCall: number;
  /** Pairs of a process life and a data key that it asked the KMS for. */
  readonly met: number;
  /** Calls for a data key which that process life had not opened yet. */
  readonly firstUnwraps: number;
  /** Calls for a data key which that process life had opened already. */
  readonly rechecks: number;
  readonly generates: number;
  readonly ringReads: RateSummary;
  readonly kmsCalls: RateSummary;
  readonly published: number;
  /** Keys of which a tombstone is left. */
  readonly retired: number;
  /** Published keys that have had their time and never sealed. */
  readonly wasted: number;
  /** Times from one key to the next, and the longest one in which both sealed somewhere. */
  readonly handovers: number;
  readonly longestHandoverMs: number;
  /** From the publication of a key to when every process that was ready had opened it: the longest time. */
  readonly slowestSpreadMs: number;
  /** From then to the time from which the key seals: the shortest time, of keys that were published ahead. */
  readonly shortestLeadMs: number | undefined;
}

/** Counts. */
export class SimulationTally implements KmsObserver, StoreObserver {
  readonly #time: VirtualTime;
  readonly #startMs: number;
  readonly #ringReads: Rate;
  readonly #kmsCalls: Rate;
  readonly #keys = new Map<string, KeyHistory>();
  readonly #keysByWrap = new Map<string, KeyHistory>();
  readonly #ready = new Set<KmsClient>();
  readonly #failed = new Map<string, number>();
  readonly #counts = { met: 0, firstUnwraps: 0, rechecks: 0, generates: 0 };
  #lives = 0;
  #readyLives = 0;
  #failedStarts = 0;
  #retired = 0;
  #slowestReadyMs = 0;
  #seals = 0;
  #opens = 0;
  #waits = 0;
  #waitsWithKmsCall = 0;

  constructor(time: VirtualTime) {
    this.#time = time;
    this.#startMs = time.clock();
    this.#ringReads = new Rate(time);
    this.#kmsCalls = new Rate(time);
  }

  /** Seals and opens that failed so far. */
  get failures(): number {
    return [...this.#failed.values()].reduce((sum, count) => sum + count, 0);
  }

  called(client: KmsClient, method: KmsMethod, wrapped: string | undefined): void {
    this.#kmsCalls.add();
    if (method === "generate") this.#counts.generates++;
    if (wrapped === undefined) return;
    if (!client.asked.has(wrapped)) this.#counts.met++;
    if (client.opened.has(wrapped)) this.#counts.rechecks++;
    else this.#counts.firstUnwraps++;
  }

  opened(client: KmsClient, wrapped: string): void {
    const key = this.#keysByWrap.get(wrapped);
    if (key?.waiting.delete(client)) key.spreadAt = this.#time.clock();
  }

  read(): void {
    this.#ringReads.add();
  }

  published({ keyId, activatesAt, wraps }: PublishedKey): void {
    const now = this.#time.clock();
    // Whoever is ready has to open it; its publisher too.
    const waiting = new Set(this.#ready);
    const key = { activatesAt, publishedAt: now, waiting, spreadAt: now, firstSealAt: undefined, lastSealAt: 0 };
    this.#keys.set(keyId, key);
    for (const wrap of wraps) this.#keysByWrap.set(wrap, key);
  }

  retired(_keyId: string): void {
    this.#retired++;
  }

  /** Which keys have sealed sessions that still live, as a walk over all sessions would tell. */
  sessionsByKey(ttlMs: number): ReadonlyMap<string, number> {
    const since = this.#time.clock() - ttlMs;
    const living = [...this.#keys].filter(([, { lastSealAt }]) => lastSealAt >= since);
    return new Map(living.map(([keyId]) => [keyId, 1]));
  }

  started(): void {
    this.#lives++;
  }

  becameReady(client: KmsClient, afterMs: number): void {
    this.#readyLives++;
    this.#ready.add(client);
    this.#slowestReadyMs = Math.max(this.#slowestReadyMs, afterMs);
  }

  startFailed(): void {
    this.#failedStarts++;
  }

  stopped(client: KmsClient): void {
    this.#ready.delete(client);
    for (const { waiting } of this.#keys.values()) waiting.delete(client);
  }

  sealed(envelope: Uint8Array): void {
    this.#seals++;
    const parsed = parseEnvelope(envelope);
    if (parsed === undefined) throw new Error("what was sealed is no envelope");
    const key = this.#keys.get(Buffer.from(parsed.keyId).toString("base64url"));
    if (key === undefined) throw new Error("sealed under a key that never came to the ring");
    key.lastSealAt = this.#time.clock();
    key.firstSealAt ??= key.lastSealAt;
  }

  openedEnvelope(): void {
    this.#opens++;
  }

  failedWith(code: string): void {
    this.#failed.set(code, (this.#failed.get(code) ?? 0) + 1);
  }

  waited(): void {
    this.#waits++;
  }

  waitedForKms(): void {
    this.#waitsWithKmsCall++;
  }

  numbers(): SimulationNumbers {
    const now = this.#time.clock();
    const keys = [...this.#keys.values()].sort((a, b) => a.activatesAt - b.activatesAt);
    const ahead = keys.filter(({ activatesAt, publishedAt }) => activatesAt > publishedAt);
    return {
      durationMs: now - this.#startMs,
      lives: this.#lives,
      readyLives: this.#readyLives,
      failedStarts: this.#failedStarts,
      slowestReadyMs: this.#slowestReadyMs,
      seals: this.#seals,
      opens: this.#opens,
      failed: Object.fromEntries(this.#failed),
      waits: this.#waits,
      waitsWithKmsCall: this.#waitsWithKmsCall,
      ...this.#counts,
      ringReads: this.#ringReads.summary(),
      kmsCalls: this.#kmsCalls.summary(),
      published: keys.length,
      retired: this.#retired,
      wasted: keys.filter(({ firstSealAt, activatesAt }) => firstSealAt === undefined && activatesAt < now - 60_000)
        .length,
      ...handoversOf(keys),
      slowestSpreadMs: Math.max(0, ...keys.map((key) => spreadEnd(key, now) - key.publishedAt)),
      shortestLeadMs:
        ahead.length === 0 ? undefined : Math.min(...ahead.map((key) => key.activatesAt - spreadEnd(key, now))),
    };
  }
}

/** When everybody had opened a key; now, where somebody has not. */
function spreadEnd({ waiting, spreadAt }: KeyHistory, now: number): number {
  return waiting.size === 0 ? spreadAt : now;
}

/** From the first seal under any later key to the last one under this key both sealed. Keys stand in the order of their times. */
function handoversOf(keys: readonly KeyHistory[]): { handovers: number; longestHandoverMs: number } {
  let handovers = 0;
  let longestHandoverMs = 0;
  let laterSealAt: number | undefined;
  for (const { firstSealAt, lastSealAt } of [...keys].reverse()) {
    if (firstSealAt === undefined) continue;
    if (laterSealAt !== undefined) {
      handovers++;
      longestHandoverMs = Math.max(longestHandoverMs, lastSealAt - laterSealAt);
    }
    laterSealAt = Math.min(laterSealAt ?? firstSealAt, firstSealAt);
  }
  return { handovers, longestHandoverMs };
}
