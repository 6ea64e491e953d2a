/**
 * The Redis adapter when servers hang, die or lose their replicas.
 */
import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import { type EnvelopeStore, hasCode, type KeyRingStore } from "@sealed-session/core";
import { type RedisKeyRingStore, redisKeyRingStore, redisStore } from "@sealed-session/redis";
import {
  killNode,
  pauseNode,
  type RedisCluster,
  type RedisNode,
  type RedisServer,
  resumeNode,
  startRedis,
  startRedisCluster,
  untilNothingMissing,
} from "@sealed-session/test/servers";
import type { Cluster, Redis } from "ioredis";
import { afterEach, beforeEach, describe, it } from "vitest";
import { ClusterAdmin, callsOf } from "./redis-cluster-admin.js";
import { clusterAt, freshNamespace, redisAt } from "./redis-deployment.js";

const MINUTE_MS = 60_000;
/** Deadline of a command, and what a test allows for it on a machine that is busy. */
const COMMAND_TIMEOUT_MS = 300;
const GENEROUS_MS = 10_000;
const [FIRST, SECOND] = [Uint8Array.of(1), Uint8Array.of(2)] as const;
const unavailable = (error: unknown) => hasCode(error, "STORE_UNAVAILABLE");
const keyId = () => randomBytes(12).toString("base64url");

describe("one Redis that hangs", () => {
  let server: RedisServer;
  let client: Redis;
  let ring: RedisKeyRingStore;
  beforeEach(async () => {
    server = await startRedis();
    client = redisAt(server);
    ring = redisKeyRingStore(client, { commandTimeoutMs: COMMAND_TIMEOUT_MS });
  });
  afterEach(async () => {
    await ring.close();
    client.disconnect();
    await server.stop();
  });

  it("makes every method reject with STORE_UNAVAILABLE in time, and serves again when it goes on", async () => {
    const store = redisStore(client, { commandTimeoutMs: COMMAND_TIMEOUT_MS, failoverTimeoutMs: COMMAND_TIMEOUT_MS });
    await store.set("id", FIRST, { ttlMs: MINUTE_MS });
    await ring.write("main", keyId(), FIRST);
    await pauseNode(server);
    await assertAllReject(store, ring, "id");
    await resumeNode(server);
    await untilServes(store, "id");
    assert.equal((await ring.read("main")).length, 1);
    await untilNothingMissing("a write", async () => {
      return await ring.write("main", keyId(), FIRST).then(() => undefined, String);
    });
  });
});

describe("one Redis that was demoted", () => {
  it("does not serve a ring from its old copy, nor take a write", async () => {
    const [primary, demoted] = [await startRedis(), await startRedis()];
    const client = redisAt(demoted);
    const ring = redisKeyRingStore(client);
    try {
      await ring.write("main", keyId(), FIRST);
      await client.replicaof(primary.host, primary.port);
      const readOnly = (error: unknown) => unavailable(error) && /READONLY/.test(String(error));
      await assert.rejects(ring.read("main"), readOnly);
      await assert.rejects(ring.write("main", keyId(), FIRST), readOnly);
    } finally {
      await ring.close();
      client.disconnect();
      await primary.stop();
      await demoted.stop();
    }
  });

  it("waits for the replica of a server outside a cluster", async () => {
    const [primary, replica] = [await startRedis(), await startRedis()];
    const [client, replicaClient] = [redisAt(primary), redisAt(replica)];
    const ring = redisKeyRingStore(client, { waitTimeoutMs: COMMAND_TIMEOUT_MS });
    try {
      assert.deepEqual(await ring.write("main", keyId(), FIRST), { written: true, durable: true });
      assert.equal(await callsOf(client, "wait"), 0);
      await replicaClient.replicaof(primary.host, primary.port);
      await untilNothingMissing("a replica in step", async () => {
        return (await client.wait(1, 50)) === 1 ? undefined : "its acknowledgement";
      });
      const before = await callsOf(client, "wait");
      assert.deepEqual(await ring.write("main", keyId(), FIRST), { written: true, durable: true });
      assert.equal(await callsOf(client, "wait"), before + 1);
      await pauseNode(replica);
      assert.deepEqual(await ring.write("main", keyId(), FIRST), { written: true, durable: false });
      await resumeNode(replica);
    } finally {
      await ring.close();
      client.disconnect();
      replicaClient.disconnect();
      await primary.stop();
      await replica.stop();
    }
  });
});

describe("a Redis Cluster in trouble", () => {
  let cluster: RedisCluster;
  let admin: ClusterAdmin;
  let client: Cluster;
  let store: EnvelopeStore;
  let ring: RedisKeyRingStore;
  let namespace: string;
  beforeEach(async () => {
    cluster = await startRedisCluster();
    admin = await ClusterAdmin.connect(cluster.nodes.filter(({ role }) => role === "master"));
    client = clusterAt(cluster.addresses());
    namespace = freshNamespace();
    const commandTimeoutMs = COMMAND_TIMEOUT_MS;
    store = redisStore(client, { namespace, commandTimeoutMs, failoverTimeoutMs: commandTimeoutMs });
    ring = redisKeyRingStore(client, { namespace, commandTimeoutMs, waitTimeoutMs: commandTimeoutMs });
  });
  afterEach(async () => {
    await ring.close();
    client.disconnect();
    admin.close();
    await cluster.stop();
  });

  const masterOf = async (key: string) => nodeAt((await admin.ownerOf(`${namespace}:${key}`)).port);
  const nodeAt = (port: number) => {
    const node = cluster.nodes.find((candidate) => candidate.port === port);
    assert.ok(node !== undefined);
    return node;
  };

  it("rejects with STORE_UNAVAILABLE in time when a master hangs, and serves again when it goes on", async () => {
    for (const { redis } of admin.masters) await redis.config("SET", "cluster-node-timeout", "600000");
    const [id, name] = [randomUUID(), "main"];
    await store.set(id, FIRST, { ttlMs: MINUTE_MS });
    await ring.write(name, keyId(), FIRST);
    const masters = await Promise.all([
      masterOf(`session:${id}`),
      masterOf(`session-keys:${name}`),
      masterOf("session-keys:"),
    ]);
    for (const node of new Set(masters)) await pauseNode(node);
    await assertAllReject(store, ring, id);
    for (const node of new Set(masters)) await resumeNode(node);
    await untilServes(store, id);
    await untilNothingMissing("a ring", async () => await ring.read(name).then(() => undefined, String));
  });

  it("goes on with the replica when a master dies, scripts included", async () => {
    const ids = Array.from({ length: 50 }, () => randomUUID());
    for (const id of ids) {
      await store.set(id, FIRST, { ttlMs: MINUTE_MS });
      // The script is known to the masters that are, and to no replica.
      assert.equal(await store.compareAndSet(id, FIRST, SECOND), true);
    }
    const rings = Array.from({ length: 10 }, () => randomUUID());
    for (const name of rings) await ring.write(name, keyId(), FIRST);
    await cluster.waitForReplicas();
    await killNode(await masterOf(`session:${ids[0]}`));
    for (const id of ids) {
      await untilNothingMissing("an answer", async () => {
        try {
          assert.deepEqual(new Uint8Array((await store.get(id)) ?? []), SECOND);
          assert.equal(await store.compareAndSet(id, SECOND, FIRST), true);
          return undefined;
        } catch (error) {
          if (!unavailable(error)) throw error;
          return String(error);
        }
      });
      assert.deepEqual(new Uint8Array((await store.get(id)) ?? []), FIRST);
    }
    for (const name of rings) {
      assert.equal((await ring.read(name)).length, 1);
      await untilNothingMissing("a write", async () => {
        return await ring.write(name, keyId(), SECOND).then(({ written }) => (written ? undefined : "written"), String);
      });
    }
  });

  it("never says that a session is missing while its master is dead", async () => {
    const id = randomUUID();
    await store.set(id, FIRST, { ttlMs: MINUTE_MS });
    await cluster.waitForReplicas();
    await killNode(await masterOf(`session:${id}`));
    let refusals = 0;
    await untilNothingMissing("the replica", async () => {
      try {
        assert.deepEqual(new Uint8Array((await store.get(id)) ?? []), FIRST);
        return undefined;
      } catch (error) {
        if (!unavailable(error)) throw error;
        return `an answer instead of refusal ${++refusals}`;
      }
    });
    assert.ok(refusals > 0);
  });

  it("calls a ring's record durable only when a replica has confirmed it", async () => {
    const [name, id] = ["main", keyId()];
    assert.deepEqual(await ring.write(name, id, FIRST), { written: true, durable: true });
    const master = await masterOf(`session-keys:${name}`);
    const replica = await replicaOf(master);
    await pauseNode(replica);
    assert.deepEqual(await ring.write(name, id, SECOND, { expected: FIRST }), { written: true, durable: false });
    assert.deepEqual(await ring.write(name, id, SECOND, { expected: SECOND }), { written: true, durable: false });
    await resumeNode(replica);
    await untilNothingMissing("a confirmation", async () => {
      const { durable } = await ring.write(name, id, SECOND, { expected: SECOND });
      return durable ? undefined : "a replica's";
    });
    await killNode(replica);
    const redis = redisAt(master);
    try {
      await untilNothingMissing("a master without replicas", async () => {
        return /connected_slaves:0/.test(await redis.info("replication")) ? undefined : "that it notices";
      });
      const waits = await callsOf(redis, "wait");
      assert.deepEqual(await ring.write(name, id, FIRST, { expected: SECOND }), { written: true, durable: false });
      assert.equal(await callsOf(redis, "wait"), waits, "it waits for nobody");
    } finally {
      redis.disconnect();
    }
  });

  it("does not hold session commands up while a ring's record waits for a replica", async () => {
    const name = "main";
    const master = await masterOf(`session-keys:${name}`);
    const ids = await idsAt(master, 20);
    await pauseNode(await replicaOf(master));
    const patient = redisKeyRingStore(client, { namespace, waitTimeoutMs: 2_000 });
    let waiting = true;
    const write = patient.write(name, keyId(), FIRST).finally(() => {
      waiting = false;
    });
    const redis = redisAt(master);
    try {
      await untilNothingMissing("a connection that waits", async () => {
        return /blocked_clients:1/.test(await redis.info("clients")) ? undefined : "WAIT";
      });
      for (const id of ids) await store.set(id, FIRST, { ttlMs: MINUTE_MS });
      assert.equal(waiting, true);
      assert.deepEqual(await write, { written: true, durable: false });
    } finally {
      redis.disconnect();
      await patient.close();
    }
  });

  it("follows a ring to the master that its slot moves to", async () => {
    const name = "main";
    const key = `${namespace}:session-keys:${name}`;
    const ids = [keyId(), keyId(), keyId(), keyId()] as const;
    await ring.write(name, ids[0], FIRST);
    const from = await admin.ownerOf(key);
    const to = admin.masters.find((master) => master !== from);
    assert.ok(to !== undefined);
    const slot = await admin.slotOf(key);
    await admin.beginMove(slot, from, to);
    assert.equal((await ring.write(name, ids[1], FIRST)).written, true);
    await admin.moveKeys(slot, from, to);
    // The key has gone ahead of its slot: it can be written, but nobody can wait for a replica there.
    assert.deepEqual(await ring.write(name, ids[2], FIRST), { written: true, durable: false });
    await admin.endMove(slot, from, to);
    assert.deepEqual(await ring.write(name, ids[3], FIRST), { written: true, durable: true });
    assert.deepEqual((await ring.read(name)).map((stored) => stored.keyId).sort(), [...ids].sort());
  });

  async function replicaOf(master: RedisNode): Promise<RedisNode> {
    const redis = redisAt(master);
    const [, port] = /slave0:.*port=(\d+)/.exec(await redis.info("replication")) ?? [];
    redis.disconnect();
    return nodeAt(Number(port));
  }

  async function idsAt(master: RedisNode, count: number): Promise<string[]> {
    const ids: string[] = [];
    while (ids.length < count) {
      const id = randomUUID();
      if ((await masterOf(`session:${id}`)) === master) ids.push(id);
    }
    return ids;
  }
});

/** Asserts that every method rejects, and how soon. */
async function assertAllReject(store: EnvelopeStore, ring: KeyRingStore, id: string): Promise<void> {
  const scan = async () => {
    for await (const _ of store.scan());
  };
  const calls: Record<string, () => Promise<unknown>> = {
    get: () => store.get(id),
    slide: () => store.get(id, { slideMs: MINUTE_MS }),
    set: () => store.set(id, SECOND, { ttlMs: MINUTE_MS }),
    absent: () => store.set(id, FIRST, { ttlMs: MINUTE_MS, condition: "absent" }),
    present: () => store.set(id, FIRST, { ttlMs: MINUTE_MS, condition: "present" }),
    compareAndSet: () => store.compareAndSet(id, SECOND, FIRST),
    touch: () => store.touch(id, MINUTE_MS),
    ttlMs: () => store.ttlMs(id),
    scan,
    read: () => ring.read("main"),
    write: () => ring.write("main", keyId(), FIRST),
    now: () => ring.now(),
  };
  for (const [name, call] of Object.entries(calls)) {
    const startedAt = performance.now();
    await assert.rejects(call, unavailable, name);
    assert.ok(performance.now() - startedAt < GENEROUS_MS, `${name} took too long`);
  }
}

async function untilServes(store: EnvelopeStore, id: string): Promise<void> {
  await untilNothingMissing("an answer", async () => {
    return await store.get(id).then((found) => (found === undefined ? "the envelope" : undefined), String);
  });
}
