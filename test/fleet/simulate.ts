/**
 * Runs a simulated fleet for a day and prints what came of it. Ends with exit code 1 when a bar is missed.
 *
 * `--processes 1000 --hours 24 --seed 1` are the defaults; `--write` puts the table into docs/fleet.md.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { SingleBar } from "cli-progress";
import Table from "cli-table3";
import { type SimulationOptions, simulate } from "./simulation.js";
import { markdownOf, missedBars, type ReportRow, reportOf } from "./simulation-report.js";

const PAGE = new URL("../../docs/fleet.md", import.meta.url);
const BEGIN = "<!-- fleet: begin -->";
const END = "<!-- fleet: end -->";
const LINE_EVERY_MS = 5000;

const { values } = parseArgs({
  options: {
    processes: { type: "string", default: "1000" },
    hours: { type: "string", default: "24" },
    seed: { type: "string", default: "1" },
    write: { type: "boolean", default: false },
  },
});
const processes = positive("processes", values.processes);
const hours = positive("hours", values.hours);
const seed = positive("seed", values.seed);

const rows = reportOf(await withProgress({ processes, hours, seed }));
console.log(tableOf(rows));
if (values.write) writePage(rows);
const missed = missedBars(rows);
for (const { measure, value, bar } of missed) console.error(`missed: ${measure}: ${value}, must be ${bar}`);
process.exitCode = missed.length === 0 ? 0 : 1;

function positive(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new RangeError(`--${name} must be a whole number from 1 on`);
  return value;
}

/** A bar on a terminal, else a line every few seconds. */
async function withProgress(options: SimulationOptions) {
  const title = `${options.processes} processes, ${options.hours} h`;
  if (process.stderr.isTTY) {
    const bar = new SingleBar({ format: `${title}  {bar} {percentage} %  {duration_formatted}`, hideCursor: true });
    bar.start(1, 0);
    try {
      return await simulate({ ...options, onProgress: (share) => bar.update(share) });
    } finally {
      bar.stop();
    }
  }
  let lineAt = performance.now();
  const onProgress = (share: number) => {
    if (performance.now() - lineAt < LINE_EVERY_MS) return;
    lineAt = performance.now();
    console.error(`${title}: ${(share * options.hours).toFixed(1)} h have passed`);
  };
  return simulate({ ...options, onProgress });
}

function tableOf(report: readonly ReportRow[]): string {
  const table = new Table({ head: ["measure", "result", "bar", ""], style: { head: [], border: [] } });
  for (const { measure, value, bar = "", met } of report) {
    table.push([measure, value, bar, bar === "" ? "" : met ? "met" : "missed"]);
  }
  return table.toString();
}

function writePage(report: readonly ReportRow[]): void {
  const page = readFileSync(PAGE, "utf8");
  const [begin, end] = [page.indexOf(BEGIN), page.indexOf(END)];
  if (begin < 0 || end < begin) throw new Error(`docs/fleet.md must hold ${BEGIN} and ${END}`);
  writeFileSync(PAGE, `${page.slice(0, begin + BEGIN.length)}\n${markdownOf(report)}\n${page.slice(end)}`);
}
