/**
 * The cluster changes while its sessions are re-sealed under load: 500 slots move, and a master hands over. Nothing is lost, and nothing is left under the old
 * key.
 */
import { type RedisCluster, type RedisClusterNode, startRedisCluster } from "@sealed-session/test/servers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { ask } from "../servers/connection.js";
import { mastersOf, moveAndHandOver, moveSlots } from "./cluster-changes.js";
import { rotateUnderLoad, type UnderLoadOptions } from "./under-load.js";

const SESSIONS = 6000;
/** Slow enough that the changes come in the midst of it. */
const RATE = 800;
const LANES = 2;
const SLOTS = 500;

let cluster: RedisCluster;
beforeAll(async () => {
  cluster = await startRedisCluster({ config: { "cluster-node-timeout": "1000" } });
});
afterAll(async () => {
  await cluster?.stop();
});

const run = (seed: string, options: Partial<UnderLoadOptions>) =>
  rotateUnderLoad({ cluster, sessions: SESSIONS, ratePerSecond: RATE, lanes: LANES, seed, ...options });

const firstTwo = async () => (await mastersOf(cluster)).slice(0, 2) as [RedisClusterNode, RedisClusterNode];

describe("re-sealing while the cluster changes", () => {
  it("leaves nothing out when slots move and a master hands over", async () => {
    // It is above the others already and need not rise when slots come to it: nothing but they tell that it has gained any.
    const [, second] = await firstTwo();
    await ask(second, (redis) => redis.call("CLUSTER", "BUMPEPOCH"));
    let moved = 0;
    const report = await run("moves", {
      disturb: async (run) => {
        const slots = await moveAndHandOver(run, SLOTS, 0.3 * SESSIONS);
        moved = slots.size;
        return slots;
      },
    });
    const { problems, differences, deviationMs, result } = report;
    expect({ problems, differences, unknown: report.unknown }).toEqual({ problems: [], differences: {}, unknown: 0 });
    expect(deviationMs).toBeLessThanOrEqual(1);
    expect(moved).toBe(SLOTS);
    // Masters that slots came to, and the heir, were walked again.
    expect(result.report.counts.examined).toBeGreaterThan(SESSIONS);
    expect(report.untouched).toBeGreaterThan(0.7 * SESSIONS);
    console.info({ ...report, result: { ...result.report.counts, elapsedMs: result.elapsedMs }, moved });
  });

  it("is found out when it walks each master only once", async () => {
    const { differences, problems } = await run("moves", {
      lie: "walks once",
      disturb: async ({ child, sessions }) => {
        await child.untilExamined(0.3 * sessions);
        return new Set(await moveSlots(cluster, SLOTS, await firstTwo()));
      },
    });
    expect(differences["under an old key"]).toBeGreaterThan(0);
    expect({ lost: differences.lost, problems }).toEqual({ lost: undefined, problems: [] });
  });
});
