/**
 * Re-seals a million sessions under load in a local cluster of three masters with a replica each, compares every one with the model, and prints what came
 * of it. Ends with exit code 1 when a bar is missed.
 *
 * `--sessions 1000000 --lanes 4 --seed 1` are the defaults; `--changes` moves 500 slots and lets a master hand over meanwhile; `--write` puts the table
 * into docs/rotation-results.md.
 */
import { parseArgs } from "node:util";
import { startRedisCluster } from "@sealed-session/test/servers";
import { markdownOf, missedBars, type ReportRow } from "../fleet/simulation-report.js";
import { MOST_GROWTH_BYTES } from "./bars.js";
import { moveAndHandOver } from "./cluster-changes.js";
import { barred, count, mebibytes, plain, positive, versionsRow, writeResults } from "./results-page.js";
import { type DisturbedRun, rotateUnderLoad, type UnderLoadReport } from "./under-load.js";

const LINE_EVERY_MS = 5000;
const SLOTS = 500;
const MOST_DEVIATION_MS = 1;

const { values } = parseArgs({
  options: {
    sessions: { type: "string", default: "1000000" },
    lanes: { type: "string", default: "4" },
    seed: { type: "string", default: "1" },
    changes: { type: "boolean", default: false },
    write: { type: "boolean", default: false },
  },
});
const sessions = positive("sessions", values.sessions);
const lanes = positive("lanes", values.lanes);
const disturb = values.changes ? { disturb: (run: DisturbedRun) => moveAndHandOver(run, SLOTS, 0.1 * sessions) } : {};

const startedAt = Date.now();
const cluster = await startRedisCluster();
try {
  const report = await rotateUnderLoad({ cluster, sessions, lanes, seed: values.seed, say: lineTeller(), ...disturb });
  const changes = values.changes ? " --changes" : "";
  const rows = [...rowsOf(report), versionsRow(`rotate:bar --sessions ${sessions}${changes}`, cluster.source)];
  console.log(markdownOf(rows));
  for (const problem of report.problems.slice(0, 20)) console.error(`a request: ${problem}`);
  const missed = missedBars(rows);
  for (const { measure, value, bar } of missed) console.error(`missed: ${measure}: ${value}, must be ${bar}`);
  if (values.write) writeResults("under load", markdownOf(rows));
  process.exitCode = missed.length === 0 ? 0 : 1;
} finally {
  await cluster.stop();
}

/** A line for each thing that begins, and every few seconds. */
function lineTeller(): (what: string, done: number, total: number) => void {
  let toldAt = 0;
  let told = "";
  return (what, done, total) => {
    if (what === told && Date.now() - toldAt < LINE_EVERY_MS) return;
    [told, toldAt] = [what, Date.now()];
    const elapsed = ((Date.now() - startedAt) / 1000).toFixed(0).padStart(4);
    console.error(`${elapsed} s  ${what}: ${count(done)} of ${count(total)}`);
  };
}

function rowsOf(report: UnderLoadReport): ReportRow[] {
  const { result, load, differences, problems, shifted } = report;
  const { first, last, most } = result.memory;
  const { counts } = result.report;
  const requests = Object.entries(load).map(([what, total]) => `${what} ${count(total)}`);
  const total = Object.values(load).reduce((sum, number) => sum + number, 0);
  const [rss, held] = [last.rss - first.rss, last.held - first.held];
  const wrong = Object.entries(differences).map(([what, number]) => `${count(number)} ${what}`);
  const rate = (1000 * counts.resealed) / result.elapsedMs;
  return [
    plain("Sessions at the start", count(report.sessions)),
    plain(
      "Re-sealed",
      `${count(counts.resealed)} in ${(result.elapsedMs / 1000).toFixed(1)} s: ${count(Math.round(rate))}/s`,
    ),
    plain("Looked at", `${count(counts.examined)}, ${count(counts.current)} of them under the new key already`),
    plain("Requests meanwhile", `${count(total)}: ${requests.join(", ")}`),
    barred("Answers to them that were wrong", count(problems.length), "0", problems.length === 0),
    barred("Requests without an answer", count(report.unknown), "0", report.unknown === 0),
    barred(
      "Overtaken between the read and the change of an envelope",
      `${count(counts.overtaken)}; ${count(report.contended)} were written, touched or destroyed just then`,
      "more than 0",
      counts.overtaken > 0,
    ),
    plain("Created, destroyed in the run", `${count(report.created)}, ${count(report.destroyed)}`),
    barred("Sessions that differ from the model", wrong.join(", ") || "0", "0", wrong.length === 0),
    barred(
      "Change of the end of life, where no request touched it",
      `at most ${report.deviationMs} ms in ${count(report.untouched - shifted.count)} sessions`,
      `at most ${MOST_DEVIATION_MS} ms`,
      report.deviationMs <= MOST_DEVIATION_MS,
    ),
    ...(shifted.count > 0
      ? [
          plain(
            "The same, where Redis moved the session",
            `at most ${shifted.mostMs} ms in ${count(shifted.count)} sessions`,
          ),
        ]
      : []),
    barred(
      "Growth of the resident set",
      `${mebibytes(rss)} (${mebibytes(first.rss)} to ${mebibytes(last.rss)}, at most ${mebibytes(most.rss)})`,
      `less than ${mebibytes(MOST_GROWTH_BYTES)}`,
      rss < MOST_GROWTH_BYTES,
    ),
    barred(
      "Growth of what is alive on the heap and outside",
      `${mebibytes(held)} (${mebibytes(first.held)} to ${mebibytes(last.held)}, at most ${mebibytes(most.held)})`,
      `less than ${mebibytes(MOST_GROWTH_BYTES)}`,
      held < MOST_GROWTH_BYTES,
    ),
  ];
}
