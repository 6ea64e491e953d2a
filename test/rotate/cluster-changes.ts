/**
 * What befalls a cluster while its sessions are re-sealed: slots move, a master hands over to its replica, dies with writes that only it had, or is started
 * again.
 */
import {
  killNode,
  pauseNode,
  type RedisCluster,
  type RedisClusterNode,
  restartNode,
  resumeNode,
  untilNothingMissing,
} from "@sealed-session/test/servers";
import type { Redis } from "ioredis";
import { ClusterAdmin, type Master } from "../adapters/redis-cluster-admin.js";
import { SeededRandom } from "../fleet/chaos-random.js";
import { ask } from "../servers/connection.js";
import { keyIdOf } from "./stored-sessions.js";
import type { DisturbedRun } from "./under-load.js";

/** @returns the masters of now, in the order of the nodes. */
export async function mastersOf(cluster: RedisCluster): Promise<RedisClusterNode[]> {
  const roles = await Promise.all(cluster.nodes.map((node) => roleOf(node)));
  return cluster.nodes.filter((_, index) => roles[index]?.name === "master");
}

/** Moves slots with sessions from one master to another. @returns which */
export async function moveSlots(
  cluster: RedisCluster,
  count: number,
  [from, to]: readonly [RedisClusterNode, RedisClusterNode],
): Promise<number[]> {
  const admin = await ClusterAdmin.connect([from, to, ...(await mastersOf(cluster))].filter(isFirst));
  try {
    const [source, target] = admin.masters as [Master, Master];
    const slots = new SeededRandom("slots").shuffle(await admin.slotsWithKeysOf(source)).slice(0, count);
    await admin.move(slots, source, target);
    // A replica that has not heard of it would take the slots back with the rest when it takes over.
    await untilNothingMissing("slots at their new owner", async () => {
      for (const node of cluster.nodes) {
        const ranges = await ask(node, (redis) => redis.cluster("SLOTS"));
        if (!slots.every((slot) => portOfOwner(slot, ranges) === to.port)) return `the view of ${node.port}`;
      }
      return undefined;
    });
    return slots;
  } finally {
    admin.close();
  }
}

/**
 * Half of the slots move from the first master to the second, the third one hands over to its replica, and the other half move from there to the first. It
 * is over before the re-sealing is.
 *
 * @param slotCount - How many slots move.
 * @param from - How many sessions have been looked at when it begins.
 */
export async function moveAndHandOver(
  { cluster, child }: DisturbedRun,
  slotCount: number,
  from: number,
): Promise<ReadonlySet<number>> {
  const [first, second, third] = (await mastersOf(cluster)) as [RedisClusterNode, RedisClusterNode, RedisClusterNode];
  await child.untilExamined(from);
  const some = await moveSlots(cluster, slotCount / 2, [first, second]);
  const heir = await handOver(cluster, third);
  const others = await moveSlots(cluster, slotCount / 2, [heir, first]);
  if (!child.isRunning) throw new Error("re-sealing was over before the cluster had changed");
  return new Set([...some, ...others]);
}

/** A master hands over to its replica, and nothing is lost. @returns the replica */
async function handOver(cluster: RedisCluster, master: RedisClusterNode): Promise<RedisClusterNode> {
  const replica = await replicaOf(cluster, master);
  await ask(replica, (redis) => redis.cluster("FAILOVER"));
  await untilTakenOver(cluster, master, replica);
  await cluster.waitUntilWhole();
  return replica;
}

/**
 * Kills a master with sessions that it has re-sealed, and said so, and that its replica knows under their old key only. No request is lost: none is
 * under way then. The dead master comes back as a replica.
 *
 * @returns How many sessions were re-sealed in vain.
 */
export async function crash({ cluster, load, place, keyId }: DisturbedRun, atLeast: number): Promise<number> {
  await load.pause();
  await cluster.waitForReplicas();
  const [master] = (await mastersOf(cluster)) as [RedisClusterNode];
  const replica = await replicaOf(cluster, master);
  const prefix = `${place.namespace}:session:`;
  const resealedAt = (node: RedisClusterNode) => ask(node, (redis) => countUnder(redis, prefix, keyId));
  let resealed = 0;
  await pauseNode(replica);
  try {
    // What the master writes from now on does not even lie in a buffer of the connection.
    await ask(master, (redis) => redis.call("CLIENT", "KILL", "TYPE", "REPLICA"));
    const before = await resealedAt(master);
    await untilNothingMissing("sessions that only one master has re-sealed", async () => {
      resealed = await resealedAt(master);
      return resealed >= before + atLeast ? undefined : `${before + atLeast - resealed}`;
    });
    await killNode(master);
  } finally {
    await resumeNode(replica);
  }
  const lost = resealed - (await resealedAt(replica));
  load.resume();
  await untilTakenOver(cluster, master, replica);
  await restartNode(master);
  await cluster.waitUntilWhole();
  return lost;
}

/**
 * Kills a master and starts it again at once: it comes back as what it was, with what it had, but SCAN goes through its keys in another order. No request is
 * under way when it dies, since its replica may be quicker.
 */
export async function blink({ cluster, load }: DisturbedRun): Promise<void> {
  await load.pause();
  await cluster.waitForReplicas();
  const [master] = (await mastersOf(cluster)) as [RedisClusterNode];
  await killNode(master);
  await restartNode(master);
  load.resume();
  await cluster.waitUntilWhole();
}

/** Until then a master that is started again would be master again. */
async function untilTakenOver(cluster: RedisCluster, old: RedisClusterNode, heir: RedisClusterNode): Promise<void> {
  const others = cluster.nodes.filter((node) => node !== old);
  await untilNothingMissing("a failover", async () => {
    if ((await roleOf(heir)).name !== "master") return "a new master";
    for (const node of others) {
      const info = await ask(node, async (redis) => String(await redis.cluster("INFO")));
      if (!info.includes("cluster_state:ok")) return `${node.port} to call the cluster well`;
    }
    return undefined;
  });
}

/** @param ranges - The answer to CLUSTER SLOTS: first slot, last slot, master, replicas. */
function portOfOwner(slot: number, ranges: readonly (readonly [number, number, ...(readonly unknown[])[]])[]): unknown {
  return ranges.find(([first, last]) => slot >= first && slot <= last)?.[2]?.[1];
}

function isFirst<T>(item: T, index: number, items: readonly T[]): boolean {
  return items.indexOf(item) === index;
}

async function replicaOf(cluster: RedisCluster, master: RedisClusterNode): Promise<RedisClusterNode> {
  for (const node of cluster.nodes) {
    const { name, masterPort } = await roleOf(node);
    if (name === "slave" && masterPort === master.port) return node;
  }
  throw new Error(`the master on port ${master.port} has no replica`);
}

async function roleOf(node: RedisClusterNode): Promise<{ readonly name: string; readonly masterPort: number }> {
  const [name, , port] = (await ask(node, (redis) => redis.role())) as [string, string, number];
  return { name, masterPort: Number(port) };
}

/** @returns how many sessions this very node holds under a key, master or not. */
async function countUnder(redis: Redis, prefix: string, keyId: string): Promise<number> {
  await redis.readonly();
  let count = 0;
  let cursor = "0";
  do {
    const [next, keys] = await redis.scan(cursor, "MATCH", `${prefix}*`, "COUNT", 1000);
    cursor = next;
    const pipeline = redis.pipeline();
    for (const key of keys) pipeline.getBuffer(key);
    for (const [, bytes] of (await pipeline.exec()) ?? []) {
      if (bytes instanceof Uint8Array && keyIdOf(bytes) === keyId) count++;
    }
  } while (cursor !== "0");
  return count;
}
