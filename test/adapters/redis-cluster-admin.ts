/**
 * What an operator does to a Redis Cluster, for tests.
 */
import type { Address } from "@sealed-session/test/servers";
import { untilNothingMissing } from "@sealed-session/test/servers";
import type { Redis } from "ioredis";
import { redisAt } from "./redis-deployment.js";

const SLOT_COUNT = 16_384;

/** A master that an {@link ClusterAdmin} talks to. */
export interface Master extends Address {
  readonly id: string;
  readonly redis: Redis;
}

/** Connections to the masters of a cluster, and commands that change it. */
export class ClusterAdmin {
  readonly masters: readonly Master[];

  private constructor(masters: readonly Master[]) {
    this.masters = masters;
  }

  /** Connects to nodes that are masters. */
  static async connect(addresses: readonly Address[]): Promise<ClusterAdmin> {
    const masters = addresses.map(async (address) => {
      const redis = redisAt(address);
      return { ...address, redis, id: String(await redis.cluster("MYID")) };
    });
    return new ClusterAdmin(await Promise.all(masters));
  }

  /** Closes the connections. */
  close(): void {
    for (const { redis } of this.masters) redis.disconnect();
  }

  /** @returns the master that owns the slot of `key`. */
  async ownerOf(key: string): Promise<Master> {
    const slot = await this.slotOf(key);
    for (const master of this.masters) if ((await this.slotsOf(master)).includes(slot)) return master;
    throw new Error(`slot ${slot} has no owner`);
  }

  /** @returns the slot of `key`. */
  async slotOf(key: string): Promise<number> {
    const [{ redis }] = this.masters as [Master];
    return Number(await redis.cluster("KEYSLOT", key));
  }

  /** @returns the slots that `master` owns and has keys in. */
  async slotsWithKeysOf(master: Master): Promise<number[]> {
    const counts = await Promise.all(
      (await this.slotsOf(master)).map(async (slot) => {
        return Number(await master.redis.cluster("COUNTKEYSINSLOT", slot)) > 0 ? [slot] : [];
      }),
    );
    return counts.flat();
  }

  /** @returns how many keys `master` has in `slots`. */
  async countKeys(slots: readonly number[], { redis }: Master): Promise<number> {
    const counts = await Promise.all(slots.map(async (slot) => Number(await redis.cluster("COUNTKEYSINSLOT", slot))));
    return counts.reduce((sum, count) => sum + count, 0);
  }

  /** Moves slots with all their keys. */
  async move(slots: readonly number[], from: Master, to: Master): Promise<void> {
    for (const slot of slots) {
      await this.beginMove(slot, from, to);
      await this.moveKeys(slot, from, to);
      await this.endMove(slot, from, to);
    }
    await this.untilAllKnow(slots, to);
  }

  /** Announces that a slot is about to move. */
  async beginMove(slot: number, from: Master, to: Master): Promise<void> {
    await to.redis.cluster("SETSLOT", slot, "IMPORTING", from.id);
    await from.redis.cluster("SETSLOT", slot, "MIGRATING", to.id);
  }

  /** Moves up to `count` keys of a slot. */
  async moveKeys(slot: number, from: Master, to: Master, count = SLOT_COUNT): Promise<void> {
    const keys = (await from.redis.cluster("GETKEYSINSLOT", slot, count)) as string[];
    if (keys.length > 0) await from.redis.migrate(to.host, to.port, "", 0, 5_000, "KEYS", ...keys);
  }

  /** Gives a slot whose keys have moved to its new owner. */
  async endMove(slot: number, from: Master, to: Master): Promise<void> {
    const others = this.masters.filter((master) => master !== from && master !== to);
    for (const { redis } of [to, from, ...others]) await redis.cluster("SETSLOT", slot, "NODE", to.id);
  }

  /** Resolves when every master names `owner` as the owner of `slots`. */
  async untilAllKnow(slots: readonly number[], owner: Master): Promise<void> {
    await untilNothingMissing("slots at their new owner", async () => {
      for (const { redis, port } of this.masters) {
        const owned = ownedSlots(String(await redis.cluster("NODES")), (row) => row.startsWith(owner.id));
        if (!slots.every((slot) => owned.has(slot))) return `the view of port ${port}`;
      }
      return undefined;
    });
  }

  private async slotsOf({ redis }: Master): Promise<number[]> {
    return [...ownedSlots(String(await redis.cluster("NODES")), (row) => row.includes("myself"))];
  }
}

/** @returns what the server has counted of a command since it started; 0 for one that was never called. */
export async function callsOf(redis: Redis, command: string): Promise<number> {
  const stats = await redis.info("commandstats");
  return Number(new RegExp(`^cmdstat_${command}:calls=(\\d+)`, "m").exec(stats)?.[1] ?? 0);
}

function ownedSlots(nodes: string, isWanted: (row: string) => boolean): ReadonlySet<number> {
  const row = nodes.split("\n").find(isWanted) ?? "";
  const ranges = row.trim().split(" ").slice(8);
  return new Set(
    ranges.flatMap((range) => {
      const [first = Number.NaN, last = first] = range.startsWith("[") ? [] : range.split("-").map(Number);
      return Number.isNaN(first) ? [] : Array.from({ length: last - first + 1 }, (_, index) => first + index);
    }),
  );
}
