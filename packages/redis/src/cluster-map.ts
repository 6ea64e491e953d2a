/**
 * Which master of a Redis Cluster owns a key, by the slot map that ioredis keeps.
 */
import slotOf from "cluster-key-slot";
import type { ClusterRedis, RedisServer } from "./redis-client.js";
import { unavailable } from "./store-error.js";

/** Slots of a Redis Cluster. */
export const SLOT_COUNT = 16_384;

/** @returns the master that owns `key` to the best of ioredis's knowledge, or another one where it has none. */
export async function ownerOf(client: ClusterRedis, key: string): Promise<RedisServer> {
  await connected(client, key);
  const name = client.slots[slotOf(key)]?.[0];
  const server = findNode(client, name) ?? client.nodes("master")[0];
  if (server === undefined) throw unavailable("the cluster has no master");
  return server;
}

/** @returns the master to which the error reply `moved` of another one leads. */
export async function movedTo(client: ClusterRedis, key: string, moved: unknown): Promise<RedisServer> {
  const name = String(moved).trim().split(" ").at(-1);
  const known = findNode(client, name);
  if (known !== undefined) return known;
  // A new node, or one that ioredis knows under another address (natMap).
  await refreshSlots(client);
  return findNode(client, name) ?? (await ownerOf(client, key));
}

/** Resolves when `client` knows the slots, connecting it where that is still to be done. */
export async function connected(client: ClusterRedis, key: string): Promise<void> {
  // Any command does: it waits in the client's queue, or starts a client that is lazy.
  if (client.slots.length === 0) await client.pttl(key);
}

/** Makes ioredis ask for the slot map anew. Resolves also when no node answered: the old map is then as good as any. */
export async function refreshSlots(client: ClusterRedis): Promise<void> {
  await new Promise<void>((resolve) => client.refreshSlotsCache(() => resolve()));
}

/** @returns how ioredis names a node. */
export function nodeName({ options }: RedisServer): string {
  return `${options.host}:${options.port}`;
}

function findNode(client: ClusterRedis, name: string | undefined): RedisServer | undefined {
  return client.nodes("all").find((node) => nodeName(node) === name);
}
