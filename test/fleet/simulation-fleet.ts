/** A fleet in virtual time: processes that share a KMS, a ring store and the sessions that they seal. */
import type { KeyRingOptions } from "@sealed-session/core";
import { SimulatedEnvelopes } from "./simulation-envelopes.js";
import { SimulatedKms } from "./simulation-kms.js";
import { SimulatedProcess } from "./simulation-process.js";
import { SeededRandom } from "./simulation-random.js";
import { type PublishedKey, SimulatedStore } from "./simulation-store.js";
import { SimulationTally } from "./simulation-tally.js";
import { VirtualTime } from "./virtual-time.js";

/** How long before a new key's time, and after the refresh interval that follows it, all processes seal every second. */
const WATCH_BEFORE_MS = 3000;
const WATCH_AFTER_MS = 5000;

/** Options of {@link SimulatedFleet}. Times are virtual milliseconds. */
export interface SimulatedFleetOptions {
  readonly processes: number;
  readonly seed: number;
  /** For every ring, beside what the fleet sets itself. */
  readonly ring: Partial<KeyRingOptions> & Required<Pick<KeyRingOptions, "refreshIntervalMs">>;
  /** How long the KMS takes for an answer. @defaultValue 50 */
  readonly kmsAnswerMs?: number;
  /** How long the ring's store takes on average. @defaultValue 1 */
  readonly storeAnswerMs?: number;
  /** Average time between the moments in which a process has requests. @defaultValue 60000 */
  readonly requestEveryMs?: number;
  /** How long a session lives. @defaultValue 10800000 (3 h) */
  readonly sessionTtlMs?: number;
  /** How far the clock of a process is off at most, either way. @defaultValue 1000 */
  readonly clockErrorMs?: number;
  /** How much later than they should the timers of all rings go off. @defaultValue 0 */
  readonly timersLateMs?: number;
}

/** What the processes of a fleet have in common. */
export class SimulatedFleet {
  readonly time = new VirtualTime();
  readonly random: SeededRandom;
  readonly tally: SimulationTally;
  readonly kms: SimulatedKms;
  readonly store: SimulatedStore;
  readonly envelopes: SimulatedEnvelopes;
  readonly processes: readonly SimulatedProcess[];
  readonly requestEveryMs: number;
  readonly sessionTtlMs: number;
  readonly clockErrorMs: number;
  readonly ringOptions: SimulatedFleetOptions["ring"];

  constructor(options: SimulatedFleetOptions) {
    const { time } = this;
    const { kmsAnswerMs = 50, storeAnswerMs = 1, timersLateMs = 0 } = options;
    const random = new SeededRandom(options.seed);
    const tally = new SimulationTally(time);
    this.random = random;
    this.tally = tally;
    this.kms = new SimulatedKms({ time, random, answerMs: kmsAnswerMs, observer: tally });
    const published = (key: PublishedKey) => {
      tally.published(key);
      this.#watchHandover(key);
    };
    this.store = new SimulatedStore({
      time,
      random,
      answerMs: storeAnswerMs,
      observer: { read: () => tally.read(), published, retired: (keyId) => tally.retired(keyId) },
    });
    this.sessionTtlMs = options.sessionTtlMs ?? 3 * 3_600_000;
    this.envelopes = new SimulatedEnvelopes(time, random, this.sessionTtlMs);
    this.requestEveryMs = options.requestEveryMs ?? 60_000;
    this.clockErrorMs = options.clockErrorMs ?? 1000;
    this.ringOptions = {
      ...options.ring,
      schedule: (task, delayMs) => time.schedule(task, delayMs + timersLateMs),
    };
    this.processes = Array.from({ length: options.processes }, () => new SimulatedProcess(this));
  }

  /** Has all processes seal so often around the time of a new key that none which is late goes unseen. */
  #watchHandover({ activatesAt }: PublishedKey): void {
    const untilMs = activatesAt + this.ringOptions.refreshIntervalMs + WATCH_AFTER_MS;
    for (const process of this.processes) process.sealEachSecond(activatesAt - WATCH_BEFORE_MS, untilMs);
  }

  /** Ends all processes. */
  async stop(): Promise<void> {
    await this.time.runUntilSettled(Promise.all(this.processes.map((process) => process.stop())));
  }
}
