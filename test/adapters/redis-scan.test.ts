/**
 * The walk over all envelopes of a Redis Cluster that changes meanwhile.
 */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { type EnvelopeStore, hasCode } from "@sealed-session/core";
import { redisStore } from "@sealed-session/redis";
import {
  killNode,
  pauseNode,
  type RedisCluster,
  type RedisServer,
  resumeNode,
  startRedis,
  startRedisCluster,
  untilNothingMissing,
} from "@sealed-session/test/servers";
import type { Cluster, Redis } from "ioredis";
import { afterEach, beforeEach, describe, it } from "vitest";
import { ClusterAdmin, callsOf, type Master } from "./redis-cluster-admin.js";
import { clusterAt, freshNamespace, redisAt } from "./redis-deployment.js";

const HOUR_MS = 3_600_000;
const ENVELOPES = 4_000;

describe("scan of a Redis Cluster", () => {
  let cluster: RedisCluster;
  let admin: ClusterAdmin;
  let client: Cluster;
  let store: EnvelopeStore;
  let prefix: string;
  let ids: string[];
  beforeEach(async () => {
    cluster = await startRedisCluster();
    admin = await ClusterAdmin.connect(cluster.nodes.filter(({ role }) => role === "master"));
    client = clusterAt(cluster.addresses());
    const namespace = freshNamespace();
    prefix = `${namespace}:session:`;
    store = redisStore(client, { namespace });
    ids = await fill(store, ENVELOPES);
  });
  afterEach(async () => {
    client.disconnect();
    admin.close();
    await cluster.stop();
  });

  const ownerOf = (id: string) => admin.ownerOf(prefix + id);

  /** Walks; when ids of the second master come up, the first one is done and the third still to come. */
  async function* walk(change: (walked: Master, unwalked: Master) => Promise<void>): AsyncGenerator<string> {
    const order: Master[] = [];
    for await (const id of store.scan()) {
      if (order.length < 2) {
        const owner = await ownerOf(id);
        if (!order.includes(owner)) order.push(owner);
        const unwalked = admin.masters.find((master) => !order.includes(master));
        if (order.length === 2 && order[0] && unwalked) await change(order[0], unwalked);
      }
      yield id;
    }
    assert.equal(order.length, 2);
  }

  async function walkWith(change: (walked: Master, unwalked: Master) => Promise<void>): Promise<string[]> {
    const met: string[] = [];
    for await (const id of walk(change)) met.push(id);
    return met;
  }

  function assertAllOnce(met: readonly string[]): void {
    assert.equal(new Set(met).size, met.length, "an id was met twice");
    assert.deepEqual([...met].sort(), [...ids].sort());
  }

  it("meets every id once when slots move from a master still to be walked to one that has been", async () => {
    const met = await walkWith(async (walked, unwalked) => {
      const slots = (await admin.slotsWithKeysOf(unwalked)).slice(0, 100);
      await admin.move(slots, unwalked, walked);
    });
    assertAllOnce(met);
  });

  it("meets every id once when slots move from a master that has been walked", async () => {
    const met = await walkWith(async (walked, unwalked) => {
      const slots = (await admin.slotsWithKeysOf(walked)).slice(0, 100);
      await admin.move(slots, walked, unwalked);
    });
    assertAllOnce(met);
  });

  it("meets every id once when slots move to a master that has been walked, and back when theirs has been", async () => {
    const away = { slots: [] as number[], keys: 0, goBack: async () => {} };
    const met: string[] = [];
    const leave = async (walked: Master, unwalked: Master) => {
      away.slots = (await admin.slotsWithKeysOf(unwalked)).slice(0, 100);
      away.keys = await admin.countKeys(away.slots, unwalked);
      away.goBack = () => admin.move(away.slots, walked, unwalked);
      await admin.move(away.slots, unwalked, walked);
    };
    for await (const id of walk(leave)) {
      if (met.push(id) === ids.length - away.keys) await away.goBack();
    }
    assert.ok(away.keys > 0);
    assertAllOnce(met);
  });

  it("meets every id once when slots are still on their way at the end", async () => {
    const met = await walkWith(async (walked, unwalked) => {
      for (const slot of (await admin.slotsWithKeysOf(unwalked)).slice(0, 20)) {
        await admin.beginMove(slot, unwalked, walked);
        await admin.moveKeys(slot, unwalked, walked);
      }
    });
    assertAllOnce(met);
  });

  it("meets every id once when keys go on moving in slots that were on their way before and after", async () => {
    const moves: { readonly slot: number; readonly from: Master; readonly to: Master }[] = [];
    for (const from of admin.masters) {
      const slots = await admin.slotsWithKeysOf(from);
      for (const [index, to] of admin.masters.filter((master) => master !== from).entries()) {
        for (const slot of slots.slice(index * 20, index * 20 + 20)) {
          moves.push({ slot, from, to });
          await admin.beginMove(slot, from, to);
        }
      }
    }
    const met = await walkWith(async (walked, unwalked) => {
      const ready = moves.filter(({ from, to }) => from === unwalked && to === walked);
      for (const { slot, from, to } of ready) await admin.moveKeys(slot, from, to);
    });
    assertAllOnce(met);
  });

  it("waits for a new master that slots are moving to until it owns one", async () => {
    const added = await startEmptyMaster();
    const joined = await ClusterAdmin.connect([added]);
    const [newcomer] = joined.masters as [Master];
    try {
      await join(newcomer);
      let ending: Promise<void> | undefined;
      const met = await walkWith(async (_walked, unwalked) => {
        const [slot = 0] = await admin.slotsWithKeysOf(unwalked);
        await admin.beginMove(slot, unwalked, newcomer);
        await admin.moveKeys(slot, unwalked, newcomer);
        const asked = await callsOf(unwalked.redis, "cluster(?:\\|nodes)?");
        ending = (async () => {
          await untilNothingMissing("a walk that waits", async () => {
            return (await callsOf(unwalked.redis, "cluster(?:\\|nodes)?")) > asked + 4 ? undefined : "its questions";
          });
          await admin.endMove(slot, unwalked, newcomer);
        })();
        // Awaited below, unless the walk fails first.
        ending.catch(() => {});
      });
      await ending;
      assertAllOnce(met);
    } finally {
      joined.close();
      await added.stop();
    }
  });

  it("meets every id once when a master fails over before its turn", async () => {
    await cluster.waitForReplicas();
    const met = await walkWith(async (_walked, unwalked) => killNode(nodeOf(unwalked)));
    assertAllOnce(met);
  });

  it("meets every id once when a master fails over while it is walked", async () => {
    await cluster.waitForReplicas();
    const met: string[] = [];
    for await (const id of store.scan()) {
      if (met.push(id) === 1) await killNode(nodeOf(await ownerOf(id)));
    }
    assertAllOnce(met);
  });

  it("goes on when a master that was silent for a while answers again", async () => {
    const patient = redisStore(client, { namespace: prefix.split(":")[0] ?? "", commandTimeoutMs: 200 });
    const met: string[] = [];
    let resuming: Promise<void> | undefined;
    for await (const id of patient.scan()) {
      if (met.push(id) !== 1) continue;
      const node = nodeOf(await ownerOf(id));
      await pauseNode(node);
      resuming = untilSilent(node.port).then(() => resumeNode(node));
    }
    await resuming;
    assertAllOnce(met);
  });

  it("rejects with STORE_UNAVAILABLE when a master stays away for longer than failoverTimeoutMs", async () => {
    for (const { redis } of admin.masters) await redis.config("SET", "cluster-node-timeout", "600000");
    const impatient = redisStore(client, { namespace: "other", commandTimeoutMs: 100, failoverTimeoutMs: 300 });
    const node = nodeOf(admin.masters[0] as Master);
    await pauseNode(node);
    try {
      await assert.rejects(fromScan(impatient), (error: unknown) => hasCode(error, "STORE_UNAVAILABLE"));
    } finally {
      await resumeNode(node);
    }
  });

  const nodeOf = (master: Master) => {
    const node = cluster.nodes.find(({ port }) => port === master.port);
    assert.ok(node !== undefined);
    return node;
  };

  async function join(newcomer: Master): Promise<void> {
    const [first] = admin.masters as [Master];
    await newcomer.redis.cluster("MEET", first.host, first.port);
    await untilNothingMissing("a new node", async () => {
      for (const { redis } of admin.masters) {
        const row = String(await redis.cluster("NODES"))
          .split("\n")
          .find((line) => line.startsWith(newcomer.id));
        if (row === undefined || !row.includes(" connected")) return "its row in CLUSTER NODES";
      }
      return String(await newcomer.redis.cluster("INFO")).includes("cluster_state:ok") ? undefined : "its own view";
    });
  }
});

function startEmptyMaster(): Promise<RedisServer> {
  return startRedis({
    config: { "cluster-enabled": "yes", "cluster-config-file": "nodes.conf", "cluster-announce-ip": "127.0.0.1" },
  });
}

async function untilSilent(port: number): Promise<void> {
  const redis: Redis = redisAt({ host: "127.0.0.1", port });
  try {
    await untilNothingMissing("silence", async () => {
      const answer = await Promise.race([redis.ping(), new Promise((resolve) => setTimeout(resolve, 300, "silence"))]);
      return answer === "silence" ? undefined : "it answers";
    });
  } finally {
    redis.disconnect();
  }
}

async function fill(store: EnvelopeStore, count: number): Promise<string[]> {
  const ids = Array.from({ length: count }, () => randomUUID());
  await Promise.all(ids.map((id) => store.set(id, Uint8Array.of(1), { ttlMs: HOUR_MS })));
  return ids;
}

async function fromScan(store: EnvelopeStore): Promise<string[]> {
  const met: string[] = [];
  for await (const id of store.scan()) met.push(id);
  return met;
}
