/**
 * Four real processes on one Redis Cluster that die and start again while keys rotate and a master dies with a record that only it had.
 * `npx pnpm@12 chaos` runs the same for a minute.
 */
import { type RedisCluster, startRedisCluster } from "@sealed-session/test/servers";
import { afterAll, beforeAll, expect, test } from "vitest";
import { runChaos } from "./chaos-run.js";

const SECONDS = 8;
const SEED = 20_260_101;

let cluster: RedisCluster;
beforeAll(async () => {
  cluster = await startRedisCluster({ config: { "cluster-node-timeout": "1000" } });
});
afterAll(async () => {
  await cluster?.stop();
});

test("every envelope opens, and all seal under one key, whatever dies", async () => {
  const report = await runChaos({ cluster, seconds: SECONDS, seed: SEED, ring: "kept" });
  const failures = report.failures.map(({ what }) => what);
  expect(failures, report.history().join("\n")).toEqual([]);
  expect(report.openedAfresh).toBe(report.envelopes);
  expect(report.envelopes).toBeGreaterThan(100);
  // Not by luck: this much happens in every run.
  expect(report.mastersKilled).toBeGreaterThan(0);
  expect(report.recordsLost.length).toBeGreaterThan(0);
  expect(Math.min(...report.deaths)).toBeGreaterThan(1);
  expect(report.agreedSwitches).toBeGreaterThan(1);
});

test("envelopes are missed whose key was lost with its master and not put back", async () => {
  const report = await runChaos({ cluster, seconds: 1, seed: SEED, ring: "forgotten", store: "forgetful" });
  expect(report.recordsLost.map(({ backAfterMs }) => backAfterMs)).toContain(undefined);
  expect(report.openedAfresh).toBeLessThan(report.envelopes);
  const lost = report.recordsLost.map(({ keyId }) => keyId);
  expect(report.failures.some(({ keyId }) => keyId !== undefined && lost.includes(keyId))).toBe(true);
});
