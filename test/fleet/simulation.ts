/**
 * A day of a fleet: every process starts, is restarted now and then and once more by a deploy, while data keys rotate and requests go on.
 * The same options give the same numbers.
 */
import { SimulatedFleet, type SimulatedFleetOptions } from "./simulation-fleet.js";
import type { SimulatedProcess } from "./simulation-process.js";
import type { SimulationNumbers } from "./simulation-tally.js";

const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;

/** In the middle of the day all processes are restarted within this time. */
const DEPLOY_MS = 30 * MINUTE_MS;
/** Each process is restarted once in each such part of the day as well, at any time. */
const RESTART_EVERY_MS = 8 * HOUR_MS;
/** From the end of one life to the start of the next. */
const SHORTEST_PAUSE_MS = SECOND_MS;
const LONGEST_PAUSE_MS = 5 * SECOND_MS;
const PROGRESS_EVERY_MS = 5 * MINUTE_MS;

/** Options of {@link simulate}. */
export interface SimulationOptions
  extends Pick<SimulatedFleetOptions, "requestEveryMs" | "sessionTtlMs" | "clockErrorMs" | "timersLateMs"> {
  readonly processes: number;
  /** Virtual hours. */
  readonly hours: number;
  readonly seed: number;
  /** Within what time all processes start first, in an empty ring; virtual milliseconds. @defaultValue 60000 */
  readonly firstStartsMs?: number;
  /** Told of the share of the time that has passed, from 0 to 1. */
  readonly onProgress?: (share: number) => void;
}

/** What came of a run. */
export interface SimulationResult extends SimulationNumbers {
  readonly processes: number;
  readonly hours: number;
  readonly seed: number;
  readonly rotationPeriodMs: number;
  readonly refreshIntervalMs: number;
  /** Events of the virtual time. */
  readonly events: number;
  /** Real time of the run, and the processor time that this process spent, in milliseconds. */
  readonly wallMs: number;
  readonly cpuMs: number;
}

/** Runs a fleet with a rotation every hour. */
export async function simulate(options: SimulationOptions): Promise<SimulationResult> {
  const startedAt = performance.now();
  const cpuBefore = process.cpuUsage();
  const { processes, hours, seed, firstStartsMs = MINUTE_MS, onProgress } = options;
  const ring = { rotationPeriodMs: HOUR_MS, refreshIntervalMs: MINUTE_MS };
  const fleet = new SimulatedFleet({ ...options, ring });
  const durationMs = hours * HOUR_MS;
  const startMs = fleet.time.clock();
  for (const member of fleet.processes) {
    fleet.time.schedule(() => void member.start(), fleet.random.between(0, firstStartsMs));
    planRestarts(fleet, member, durationMs);
  }
  for (let passedMs = 0; passedMs < durationMs; ) {
    passedMs = Math.min(durationMs, passedMs + PROGRESS_EVERY_MS);
    await fleet.time.run(startMs + passedMs);
    onProgress?.(passedMs / durationMs);
  }
  const numbers = fleet.tally.numbers();
  const { events } = fleet.time;
  await fleet.stop();
  const { user, system } = process.cpuUsage(cpuBefore);
  const cost = { wallMs: performance.now() - startedAt, cpuMs: (user + system) / 1000 };
  return { ...numbers, ...ring, processes, hours, seed, events, ...cost };
}

/** Sets the times at which a process is restarted. */
function planRestarts({ time, random }: SimulatedFleet, member: SimulatedProcess, durationMs: number): void {
  const restart = async () => {
    await member.stop();
    await time.delay(random.between(SHORTEST_PAUSE_MS, LONGEST_PAUSE_MS));
    await member.start();
  };
  time.schedule(() => void restart(), durationMs / 2 + random.between(0, DEPLOY_MS));
  const parts = Math.ceil(durationMs / RESTART_EVERY_MS);
  for (let part = 0; part < parts; part++) {
    time.schedule(() => void restart(), ((part + random.between(0, 1)) * durationMs) / parts);
  }
}
