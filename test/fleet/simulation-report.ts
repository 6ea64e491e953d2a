/** The numbers of a simulated fleet as a table, and the bars that they have to clear. */
import type { SimulationResult } from "./simulation.js";
import type { RateSummary } from "./simulation-tally.js";

/** One line of the table. */
export interface ReportRow {
  readonly measure: string;
  readonly value: string;
  /** What the value has to be, where that is asked for. */
  readonly bar?: string;
  /** Whether it is; `true` where nothing is asked for. */
  readonly met: boolean;
}

/** Calls for an unopened data key, for each pair of a process life and a data key. */
const MOST_FIRST_UNWRAPS = 1.1;

/** The table of a run. */
export function reportOf(result: SimulationResult): ReportRow[] {
  const { handovers, longestHandoverMs, refreshIntervalMs, failed, firstUnwraps, met, waits } = result;
  const rotations = Math.floor(result.durationMs / result.rotationPeriodMs) - 1;
  const failures = Object.values(failed).reduce((sum, count) => sum + count, 0);
  const codes = Object.entries(failed).map(([code, count]) => `${code}: ${count}`);
  const firstUnwrapsEach = met === 0 ? Number.POSITIVE_INFINITY : firstUnwraps / met;
  const start = `${result.processes} processes, ${result.hours} h, seed ${result.seed}`;
  return [
    plain("Fleet", start),
    plain("Process lives", `${count(result.lives)}, each ready within ${seconds(result.slowestReadyMs)}`),
    barred("Starts that failed at first", count(result.failedStarts), "0", result.failedStarts === 0),
    plain("Seals and opens", `${count(result.seals)} and ${count(result.opens)}`),
    barred("Seals and opens that failed", [count(failures), ...codes].join(", "), "0", failures === 0),
    barred(
      "Seals and opens that waited, after `ready()`",
      `${count(waits)}, ${count(result.waitsWithKmsCall)} of them for the KMS`,
      "0",
      waits === 0,
    ),
    barred(
      "First unwraps for each process life and data key",
      `${firstUnwrapsEach.toFixed(3)} (${count(firstUnwraps)} calls for ${count(met)} pairs)`,
      `at most ${MOST_FIRST_UNWRAPS}`,
      firstUnwrapsEach <= MOST_FIRST_UNWRAPS,
    ),
    plain("Re-checks of opened data keys", `${count(result.rechecks)} calls`),
    plain(
      "Data keys published",
      `${count(result.published)}, ${count(result.wasted)} of them never used; ${count(result.generates)} generate calls`,
    ),
    plain("Data keys retired", count(result.retired)),
    barred(
      "Handovers from one data key to the next",
      count(handovers),
      `at least ${rotations}`,
      handovers >= rotations,
    ),
    barred(
      "Longest time in which two keys sealed",
      seconds(longestHandoverMs),
      `at most ${seconds(refreshIntervalMs)}`,
      longestHandoverMs <= refreshIntervalMs,
    ),
    plain("From publication until everybody has opened the key", `at most ${seconds(result.slowestSpreadMs)}`),
    plain(
      "From then until the key seals",
      result.shortestLeadMs === undefined ? "no key was published ahead" : `at least ${seconds(result.shortestLeadMs)}`,
    ),
    plain("Ring reads", rate(result.ringReads)),
    plain("KMS calls", rate(result.kmsCalls)),
    plain(
      "Run",
      `${count(result.events)} events in ${seconds(result.cpuMs)} of processor time, ${seconds(result.wallMs)} of real time`,
    ),
  ];
}

/** @returns The lines whose bar was missed. */
export function missedBars(rows: readonly ReportRow[]): ReportRow[] {
  return rows.filter(({ met }) => !met);
}

/** The table in Markdown. */
export function markdownOf(rows: readonly ReportRow[]): string {
  const lines = rows.map(({ measure, value, bar = "" }) => `| ${measure} | ${value} | ${bar} |`);
  return ["| measure | result | bar |", "|---|---|---|", ...lines].join("\n");
}

function plain(measure: string, value: string): ReportRow {
  return { measure, value, met: true };
}

function barred(measure: string, value: string, bar: string, met: boolean): ReportRow {
  return { measure, value, bar, met };
}

function count(number: number): string {
  return number.toLocaleString("en-US");
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 0)} s`;
}

function rate({ total, perSecond, peakPerSecond }: RateSummary): string {
  return `${count(total)}; ${perSecond.toFixed(1)} a second, ${count(peakPerSecond)} at the peak`;
}
