/**
 * All sessions are re-sealed by a process of its own while requests read, write, touch, create and destroy them; then each is compared with a model.
 * `npx pnpm@12 rotate:bar` runs the same with a million sessions.
 */
import { type RedisCluster, startRedisCluster } from "@sealed-session/test/servers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { MOST_GROWTH_BYTES } from "./bars.js";
import { rotateUnderLoad, type UnderLoadOptions } from "./under-load.js";

const SESSIONS = 10_000;
const FEW = 2000;
/** Of each kind of collision. */
const COLLISIONS = 25;

let cluster: RedisCluster;
beforeAll(async () => {
  cluster = await startRedisCluster();
});
afterAll(async () => {
  await cluster?.stop();
});

const run = (options: Partial<UnderLoadOptions> = {}) =>
  rotateUnderLoad({ cluster, sessions: SESSIONS, seed: "under load", contended: 4 * COLLISIONS, ...options });

describe("re-sealing under load", () => {
  it("leaves every session under the new key, as the model has it, and every time to live as it was", async () => {
    const { problems, differences, deviationMs, result, ...report } = await run();
    expect({ problems, differences }).toEqual({ problems: [], differences: {} });
    expect(deviationMs).toBeLessThanOrEqual(1);
    const { counts, isInterrupted } = result.report;
    expect({ isInterrupted, unopened: counts.unopened, foreign: counts.foreign, expired: counts.expired }).toEqual({
      isInterrupted: false,
      unopened: 0,
      foreign: 0,
      expired: 0,
    });
    const { first, last } = result.memory;
    expect(last.rss - first.rss).toBeLessThan(MOST_GROWTH_BYTES);
    expect(last.held - first.held).toBeLessThan(MOST_GROWTH_BYTES);

    // Not by luck: this much happens in every run.
    expect(counts.overtaken).toBeGreaterThanOrEqual(3 * COLLISIONS);
    expect(counts.resealed).toBeGreaterThanOrEqual(report.untouched);
    expect(report.untouched).toBeGreaterThan(0.7 * SESSIONS);
    for (const what of ["get", "set", "update", "touch", "destroy", "create", "increment", "look again"]) {
      expect(report.load[what], what).toBeGreaterThan(0);
    }
    expect(report.unknown).toBe(0);
    console.info({ ...report, deviationMs, counts, elapsedMs: result.elapsedMs, memory: result.memory });
  });

  describe("is found out", () => {
    const few = (options: Partial<UnderLoadOptions>) => run({ sessions: FEW, ...options });

    it("when it overwrites what was changed meanwhile, and brings back what was destroyed", async () => {
      const { differences } = await few({ lie: "overwrites" });
      expect(differences["came back"]).toBeGreaterThanOrEqual(COLLISIONS);
      expect(differences["other content"]).toBeGreaterThanOrEqual(2 * COLLISIONS);
    });

    it("when it takes the time to live away", async () => {
      const { differences } = await few({ lie: "drops the time to live" });
      expect(differences["other expiry, untouched"]).toBeGreaterThan(0.7 * FEW);
      expect(differences["other expiry, touched"]).toBeGreaterThanOrEqual(COLLISIONS);
    });

    it("when it undoes a touch that came meanwhile", async () => {
      const { differences } = await few({ lie: "restores the time to live" });
      expect(differences["other expiry, touched"]).toBeGreaterThanOrEqual(COLLISIONS);
      expect(differences["other expiry, untouched"]).toBeUndefined();
    });

    it("when it keeps what it has seen", async () => {
      const { first, last } = (await run({ lie: "hoards" })).result.memory;
      expect(last.rss - first.rss).toBeGreaterThan(MOST_GROWTH_BYTES);
      expect(last.held - first.held).toBeGreaterThan(MOST_GROWTH_BYTES);
    });
  });
});
