/**
 * Which node of a Redis Cluster answers what: reads from replicas, and redirections of commands that were sent together.
 */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import type { EnvelopeStore } from "@sealed-session/core";
import { redisKeyRingStore, redisStore } from "@sealed-session/redis";
import {
  pauseNode,
  type RedisCluster,
  type RedisClusterNode,
  resumeNode,
  startRedisCluster,
  untilNothingMissing,
} from "@sealed-session/test/servers";
import type { Cluster, Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, describe, it } from "vitest";
import { ClusterAdmin, callsOf, type Master } from "./redis-cluster-admin.js";
import { type ClusterSettings, clusterAt, freshNamespace, redisAt } from "./redis-deployment.js";

const MINUTE_MS = 60_000;
const [FIRST, SECOND] = [Uint8Array.of(1), Uint8Array.of(2)] as const;

describe("a Redis Cluster", () => {
  let cluster: RedisCluster;
  let admin: ClusterAdmin;
  let opened: { disconnect(): void }[] = [];
  beforeAll(async () => {
    cluster = await startRedisCluster();
    admin = await ClusterAdmin.connect(cluster.nodes.filter(({ role }) => role === "master"));
  });
  afterEach(() => {
    for (const client of opened) client.disconnect();
    opened = [];
  });
  afterAll(async () => {
    admin.close();
    await cluster.stop();
  });

  const open = <T extends { disconnect(): void }>(client: T): T => {
    opened.push(client);
    return client;
  };
  const connect = (options: ClusterSettings): Cluster => open(clusterAt(cluster.addresses(), options));

  /** An id with its key, its master and the replica of that. */
  async function place(namespace: string) {
    const id = randomUUID();
    const key = `${namespace}:session:${id}`;
    const master = await admin.ownerOf(key);
    const [, port] = /slave0:.*port=(\d+)/.exec(await master.redis.info("replication")) ?? [];
    const node = cluster.nodes.find((candidate) => candidate.port === Number(port)) as RedisClusterNode;
    return { id, key, master, node, replica: open(redisAt(node)) };
  }

  /** How often the replica and the master were asked for a value by `body`. */
  async function readsDuring(replica: Redis, master: Master, body: () => Promise<void>) {
    const count = async (redis: Redis) => (await callsOf(redis, "get")) + (await callsOf(redis, "getex"));
    const before = [await count(replica), await count(master.redis)] as const;
    await body();
    return { replica: (await count(replica)) - before[0], master: (await count(master.redis)) - before[1] };
  }

  for (const scaleReads of ["master", "slave", "all"] as const) {
    it(`answers from the master where scaleReads is "${scaleReads}" and replicaReads is not asked for`, async () => {
      const namespace = freshNamespace();
      const client = connect({ scaleReads });
      const store = redisStore(client, { namespace });
      const { id, key, master, replica } = await place(namespace);
      await untilReplicasKnown(client, await admin.slotOf(key));
      await store.set(id, FIRST, { ttlMs: MINUTE_MS });
      const pttlBefore = await callsOf(replica, "pttl");
      const reads = await readsDuring(replica, master, async () => {
        for (let count = 0; count < 10; count++) assert.deepEqual(plain(await store.get(id)), FIRST);
        assert.ok(((await store.ttlMs(id)) ?? 0) > 0);
      });
      assert.deepEqual(reads, { replica: 0, master: 10 });
      assert.equal(await callsOf(replica, "pttl"), pttlBefore);
    });
  }

  it("answers from a replica where replicaReads is asked for", async () => {
    const namespace = freshNamespace();
    const client = connect({ scaleReads: "slave" });
    const store = redisStore(client, { namespace, replicaReads: true });
    const { id, key, master, replica } = await place(namespace);
    await store.set(id, FIRST, { ttlMs: MINUTE_MS });
    await cluster.waitForReplicas();
    await untilReplicasKnown(client, await admin.slotOf(key));
    const reads = await readsDuring(replica, master, async () => {
      for (let count = 0; count < 10; count++) assert.deepEqual(plain(await store.get(id)), FIRST);
    });
    assert.deepEqual(reads, { replica: 10, master: 0 });
  });

  it("asks the master for what a replica does not have", async () => {
    const namespace = freshNamespace();
    const client = connect({ scaleReads: "slave" });
    const store = redisStore(client, { namespace, replicaReads: true });
    const { id, key, master, replica } = await place(namespace);
    await untilReplicasKnown(client, await admin.slotOf(key));
    const restore = await cutReplication(replica, master);
    try {
      await store.set(id, FIRST, { ttlMs: MINUTE_MS });
      const reads = await readsDuring(replica, master, async () => {
        assert.deepEqual(plain(await store.get(id)), FIRST);
      });
      assert.deepEqual(reads, { replica: 1, master: 1 });
      assert.equal(await store.get(randomUUID()), undefined);
    } finally {
      await restore();
    }
  });

  it("asks the master when a replica hangs", async () => {
    const namespace = freshNamespace();
    const client = connect({ scaleReads: "slave" });
    const store = redisStore(client, { namespace, replicaReads: true, commandTimeoutMs: 2_000 });
    const { id, key, node } = await place(namespace);
    await untilReplicasKnown(client, await admin.slotOf(key));
    await store.set(id, FIRST, { ttlMs: MINUTE_MS });
    await store.get(id);
    await pauseNode(node);
    try {
      assert.deepEqual(plain(await store.get(id)), FIRST);
    } finally {
      await resumeNode(node);
    }
  });

  it("slides on the master where replicaReads is asked for", async () => {
    const namespace = freshNamespace();
    const store = redisStore(connect({ scaleReads: "slave" }), { namespace, replicaReads: true });
    const { id, master } = await place(namespace);
    await store.set(id, FIRST, { ttlMs: MINUTE_MS });
    const before = await callsOf(master.redis, "getex");
    assert.deepEqual(plain(await store.get(id, { slideMs: 2 * MINUTE_MS })), FIRST);
    assert.equal(await callsOf(master.redis, "getex"), before + 1);
  });

  it("reads a ring from its master where scaleReads is not", async () => {
    const namespace = freshNamespace();
    const store = redisKeyRingStore(connect({ scaleReads: "slave" }), { namespace });
    const { master, replica } = await place(namespace);
    const rings: string[] = [];
    while (rings.length < 5) {
      const ring = randomUUID();
      if ((await admin.ownerOf(`${namespace}:session-keys:${ring}`)) === master) rings.push(ring);
    }
    const restore = await cutReplication(replica, master);
    try {
      for (const ring of rings) {
        assert.deepEqual(await store.write(ring, "A".repeat(16), FIRST), { written: true, durable: false });
        assert.equal((await store.read(ring)).length, 1);
      }
    } finally {
      await restore();
      await store.close();
    }
  });

  for (const enableAutoPipelining of [false, true]) {
    it(`is followed through redirections of many commands at once, auto-pipelining ${enableAutoPipelining}`, async () => {
      const namespace = freshNamespace();
      const store = redisStore(connect({ enableAutoPipelining }), { namespace });
      const ids = Array.from({ length: 300 }, () => randomUUID());
      await Promise.all(ids.map((id) => store.set(id, FIRST, { ttlMs: MINUTE_MS })));
      const [from, to] = admin.masters as [Master, Master];
      const slots = (await admin.slotsWithKeysOf(from)).slice(0, 60);
      for (const slot of slots) {
        await admin.beginMove(slot, from, to);
        await admin.moveKeys(slot, from, to);
      }
      await assertRoundTrips(store, ids, FIRST, SECOND);
      for (const slot of slots) await admin.endMove(slot, from, to);
      await assertRoundTrips(store, ids, SECOND, FIRST);
      await admin.move(slots, to, from);
      await assertRoundTrips(store, ids, FIRST, SECOND);
    });
  }
});

describe("redisStore", () => {
  it("refuses replicaReads on a client that reads from masters alone", () => {
    const cluster = clusterAt([{ host: "127.0.0.1", port: 1 }], { lazyConnect: true });
    assert.throws(() => redisStore(cluster, { replicaReads: true }), TypeError);
    cluster.disconnect();
  });
});

async function assertRoundTrips(store: EnvelopeStore, ids: readonly string[], from: Uint8Array, to: Uint8Array) {
  const results = await Promise.all(
    ids.flatMap((id) => [
      store.get(id, { slideMs: MINUTE_MS }).then((found) => found !== undefined),
      store.compareAndSet(id, from, to),
      store.touch(id, MINUTE_MS),
      store.ttlMs(id).then((ttlMs) => ttlMs !== undefined),
    ]),
  );
  assert.ok(results.every(Boolean));
}

/** CLUSTER SLOTS leaves a replica out until it has had something to copy, and ioredis asks once. */
async function untilReplicasKnown(client: Cluster, slot: number): Promise<void> {
  await untilNothingMissing("a replica for reading", async () => {
    await new Promise<void>((resolve) => client.refreshSlotsCache(() => resolve()));
    return (client.slots[slot]?.length ?? 0) > 1 ? undefined : "its place in CLUSTER SLOTS";
  });
}

/** Keeps the replica from following its master, which goes on to answer reads. @returns what ends that. */
async function cutReplication(replica: Redis, { redis }: Master): Promise<() => Promise<void>> {
  const linked = async () => /master_link_status:up/.test(await replica.info("replication"));
  // A password that the master does not know of.
  await replica.config("SET", "masterauth", "wrong");
  await redis.call("CLIENT", "KILL", "TYPE", "replica");
  await untilNothingMissing("a replica on its own", async () => ((await linked()) ? "a cut link" : undefined));
  return async () => {
    await replica.config("SET", "masterauth", "");
    await untilNothingMissing("a replica that follows", async () => ((await linked()) ? undefined : "its link"));
  };
}

function plain(bytes: Uint8Array | undefined): Uint8Array {
  return new Uint8Array(bytes ?? []);
}
