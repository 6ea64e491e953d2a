/**
 * `tsx test/fleet/chaos.ts [--seconds 60] [--seed 1] [--strict] [--store forgetful] [--history]`: four processes on one Redis Cluster die and start
 * again while keys rotate and masters are killed. Ends with 0 when every envelope could be opened and all agreed on their key.
 */
import { parseArgs } from "node:util";
import { startRedisCluster } from "@sealed-session/test/servers";
import { type ChaosReport, runChaos } from "./chaos-run.js";

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "60" },
    seed: { type: "string", default: String(Date.now() % 1_000_000) },
    store: { type: "string", default: "redis" },
    strict: { type: "boolean", default: false },
    history: { type: "boolean", default: false },
  },
});
const { store, strict } = values;
if (store !== "redis" && store !== "forgetful") throw new RangeError("--store must be redis or forgetful");

const startedAt = Date.now();
const say = (line: string) => console.log(`${((Date.now() - startedAt) / 1000).toFixed(1).padStart(6)} s  ${line}`);
const cluster = await startRedisCluster({ config: { "cluster-node-timeout": "1000" } });
try {
  say(`${cluster.source}, seed ${values.seed}`);
  const seconds = Number(values.seconds);
  const report = await runChaos({ cluster, seconds, seed: Number(values.seed), strict, store, say });
  print(report);
  if (values.history) console.log(report.history().join("\n"));
  process.exitCode = report.failures.length === 0 ? 0 : 1;
} finally {
  await cluster.stop();
}

function print(report: ChaosReport): void {
  const back = report.recordsLost.map(({ backAfterMs }) => (backAfterMs === undefined ? "never" : `${backAfterMs} ms`));
  const rows: readonly [string, string | number][] = [
    ["envelopes sealed", report.envelopes],
    ["envelopes opened, on the way and in the end", report.opened],
    ["envelopes opened by a fresh process in the end", report.openedAfresh],
    ["opens that were tried again", report.retried],
    ["refusals until a lost record was back", report.gapRefusals],
    ["processes killed", `${report.deaths.reduce((sum, deaths) => sum + deaths, 0)} (${report.deaths.join(" + ")})`],
    ["masters killed", report.mastersKilled],
    ["records lost with a master, back after", back.join(", ") || "none"],
    ["keys that sealed", report.keys],
    ["rotations in calms, all processes as one", report.agreedSwitches],
    ["longest that a process took to seal", `${report.longestSealMs} ms`],
    ["failures", report.failures.length],
  ];
  console.log();
  for (const [name, value] of rows) console.log(`${name.padEnd(48)} ${value}`);
  const keyIds = new Set(report.failures.flatMap(({ keyId }) => (keyId === undefined ? [] : [keyId])));
  for (const { what } of report.failures.slice(0, 20)) console.log(`\nFAILURE  ${what}`);
  for (const keyId of [...keyIds].slice(0, 3)) {
    console.log(`\nthe history of ${keyId}:\n  ${report.historyOf(keyId).join("\n  ")}`);
  }
}
