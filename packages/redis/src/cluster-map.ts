/**
 * Which master of a Redis Cluster owns a key, by the slot map that ioredis keeps.
 */
import type { ClusterRedis, RedisServer } from "./redis-client.js";
import { unavailable } from "./store-error.js";

/** Slots of a Redis Cluster. */
export const SLOT_COUNT = 16_384;

const CRC16_XMODEM_POLYNOMIAL = 0x1021;

/** @returns the slot of a key without braces: its CRC16 (XMODEM) modulo 16384, as in the Redis Cluster specification. */
export function slotOf(key: string): number {
  let crc = 0;
  for (const byte of Buffer.from(key)) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = crc & 0x8000 ? (crc << 1) ^ CRC16_XMODEM_POLYNOMIAL : crc << 1;
    crc &= 0xffff;
  }
  return crc % SLOT_COUNT;
}

/** @returns the master that owns `key`, to the best of ioredis's knowledge. */
export async function ownerOf(client: ClusterRedis, key: string): Promise<RedisServer> {
  await connected(client, key);
  const known = findOwner(client, key);
  if (known !== undefined) return known;
  await refreshSlots(client);
  const found = findOwner(client, key);
  if (found === undefined) throw unavailable("the cluster names no master for a slot");
  return found;
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

function findOwner(client: ClusterRedis, key: string): RedisServer | undefined {
  const name = client.slots[slotOf(key)]?.[0];
  return client.nodes("all").find((node) => nodeName(node) === name);
}
