/** Tables of results, and the page that keeps those of the last full runs. */
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import type { ReportRow } from "../fleet/simulation-report.js";

const PAGE = new URL("../../docs/rotation-results.md", import.meta.url);

/** Writes a table into its place on the page. */
export function writeResults(name: "under load" | "speed", markdown: string): void {
  const [begin, end] = [`<!-- ${name}: begin -->`, `<!-- ${name}: end -->`];
  const page = readFileSync(PAGE, "utf8");
  const [from, to] = [page.indexOf(begin), page.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`docs/rotation-results.md must hold ${begin} and ${end}`);
  writeFileSync(PAGE, `${page.slice(0, from + begin.length)}\n${markdown}\n${page.slice(to)}`);
}

/** @returns With what a result was made. */
export function versionsRow(command: string, redisSource: string): ReportRow {
  const { version } = createRequire(import.meta.url)("ioredis/package.json") as { version: string };
  const machine = `${availableParallelism()} processors for servers, requests and re-sealing`;
  const value = `\`npx pnpm@12 ${command}\`; Node ${process.version}, ${redisSource}, ioredis ${version}, ${machine}`;
  return { measure: "Made by", value, met: true };
}

/** A line that only tells. */
export function plain(measure: string, value: string): ReportRow {
  return { measure, value, met: true };
}

/** A line with a bar. */
export function barred(measure: string, value: string, bar: string, met: boolean): ReportRow {
  return { measure, value, bar, met };
}

/** As 1,000,000. */
export function count(number: number): string {
  return number.toLocaleString("en-US");
}

/** Bytes as MiB. */
export function mebibytes(bytes: number): string {
  return `${(bytes / 1_048_576).toFixed(1)} MiB`;
}

/** @returns the value of a flag that is a whole number from 1 on. */
export function positive(name: string, text: string): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1) throw new RangeError(`--${name} must be a whole number from 1 on`);
  return value;
}
