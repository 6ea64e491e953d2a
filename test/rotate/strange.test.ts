import { KeyRing, localKms, memoryKeyRingStore, Sealer, SessionStore } from "@sealed-session/core";
import { redisStore } from "@sealed-session/redis";
import { rotateSessions } from "@sealed-session/redis/rotate";
import { type RedisCluster, startRedisCluster } from "@sealed-session/test/servers";
import type { Cluster } from "ioredis";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { clusterAt } from "../adapters/redis-deployment.js";

process.env["STRANGE_KEY"] = Buffer.alloc(32, 7).toString("base64url");

describe("re-sealing", () => {
  let cluster: RedisCluster;
  let client: Cluster;
  let ring: KeyRing;
  beforeAll(async () => {
    cluster = await startRedisCluster();
    client = clusterAt(cluster.addresses());
    ring = new KeyRing({
      name: "web",
      kms: localKms({ keyVariable: "STRANGE_KEY" }),
      store: memoryKeyRingStore(),
      rotation: "manual",
    });
    await ring.publish({ delayMs: 0 });
    const sessions = new SessionStore({ ring, store: redisStore(client) });
    for (let n = 0; n < 50; n++) await sessions.create({ n });
    for (let n = 0; n < 10; n++) await client.hset(`session:hash-${n}`, "field", "value");
  });
  afterAll(async () => {
    ring?.close();
    client?.disconnect();
    await cluster?.stop();
  });

  const rotate = (options: { onPosition?: () => void } = {}) =>
    rotateSessions({ client, ring, sealer: new Sealer({ ring, counted: true }), ...options });

  it("fails at once with what a callback throws, on all nodes", async () => {
    await ring.publish({ delayMs: 0 });
    let calls = 0;
    const failure = new Error("the disk is full");
    await expect(
      rotate({
        onPosition: () => {
          calls++;
          throw failure;
        },
      }),
    ).rejects.toBe(failure);
    expect(calls).toBeLessThanOrEqual(3);
  });

  it("passes over values of another type under its prefix, and counts them", async () => {
    await ring.publish({ delayMs: 0 });
    const { counts } = await rotate();
    expect(counts).toMatchObject({ examined: 60, resealed: 50, foreign: 10 });
    expect(await client.hget("session:hash-3", "field")).toBe("value");
    expect((await rotate()).counts).toMatchObject({ examined: 60, current: 50, foreign: 10, resealed: 0 });
  });
});
