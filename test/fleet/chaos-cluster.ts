/**
 * What befalls the Redis Cluster: masters die, with or without records that nobody else has.
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
import { ask } from "../servers/connection.js";

const NONE: readonly string[] = [];

/** A cluster whose ring is watched. */
export class ChaosCluster {
  readonly #cluster: RedisCluster;
  /** The key of the ring. */
  readonly #key: string;
  #mastersKilled = 0;

  constructor(cluster: RedisCluster, ring: string) {
    this.#cluster = cluster;
    this.#key = `session-keys:${ring}`;
  }

  /** Masters that were killed so far. */
  get mastersKilled(): number {
    return this.#mastersKilled;
  }

  /** Kills the ring's master; a replica that has everything takes over. */
  async killOwner(): Promise<void> {
    await this.#failOver(await this.#owner());
  }

  /** Kills a master that does not have the ring. */
  async killOther(pick: (nodes: readonly RedisClusterNode[]) => RedisClusterNode | undefined): Promise<void> {
    const owner = await this.#owner();
    const others = (await this.#rows()).filter(({ isMaster, node }) => isMaster && node !== owner);
    const victim = pick(others.map(({ node }) => node));
    if (victim === undefined) throw new Error("no other master");
    await this.#failOver(victim);
  }

  /** Kills the ring's master and starts it again at once: it comes back as what it was, or another one is quicker. */
  async blinkOwner(): Promise<void> {
    const owner = await this.#owner();
    await this.#kill(owner);
    await this.#revive(owner);
  }

  /**
   * Cuts the ring's master off from its replica, waits until `lonelyKey` names a key that came to the ring since, and kills the master: its
   * record is gone from all servers, though the master had acknowledged it. Resolves when another master has the ring.
   *
   * @param lonelyKey - Is given ids of keys that only this master has, and returns one to lose.
   * @returns the key that was lost, and what brings the dead master back as a replica.
   */
  async loseRecord(
    lonelyKey: (keyIds: readonly string[]) => string | undefined,
  ): Promise<{ keyId: string; revive: () => Promise<void> }> {
    const owner = await this.#owner();
    const replica = await this.#replicaOf(owner);
    let keyId = "";
    await pauseNode(replica);
    try {
      // What the master writes from now on does not even lie in a buffer of the connection.
      await ask(owner, (redis) => redis.call("CLIENT", "KILL", "TYPE", "REPLICA"));
      const before = new Set(await keyIdsAt(owner, this.#key));
      await untilNothingMissing("a key that only one master has", async () => {
        const now = await keyIdsAt(owner, this.#key).catch(() => NONE);
        const found = lonelyKey(now.filter((id) => !before.has(id)));
        if (found !== undefined) keyId = found;
        return found === undefined ? "such a key" : undefined;
      });
      await this.#kill(owner);
    } finally {
      await resumeNode(replica);
    }
    // Once the cluster is down it does not tell.
    const copied = await keyIdsOfReplica(replica, this.#key).catch(() => NONE);
    if (copied.includes(keyId)) throw new Error("the replica has the key all the same");
    await this.#untilTakenOver(owner);
    return { keyId, revive: () => this.#revive(owner) };
  }

  /** @returns the ids of the keys that the ring's master has now. */
  async keyIds(): Promise<readonly string[]> {
    return await keyIdsAt(await this.#owner(), this.#key);
  }

  /** @returns of `keyIds` those that the ring's master or its replica does not have. */
  async missingOf(keyIds: ReadonlySet<string>): Promise<string[]> {
    const owner = await this.#owner();
    const copies = await Promise.all(
      [owner, await this.#replicaOf(owner)].map(async (node) => new Set(await keyIdsAt(node, this.#key))),
    );
    return [...keyIds].filter((keyId) => !copies.every((copy) => copy.has(keyId)));
  }

  /** Resolves when all servers run and agree on it. */
  async waitUntilWhole(): Promise<void> {
    await this.#cluster.waitUntilWhole();
  }

  async #failOver(master: RedisClusterNode): Promise<void> {
    await this.#cluster.waitForReplicas();
    await this.#kill(master);
    await this.#untilTakenOver(master);
    await this.#revive(master);
  }

  async #kill(master: RedisClusterNode): Promise<void> {
    await killNode(master);
    this.#mastersKilled++;
  }

  async #revive(node: RedisClusterNode): Promise<void> {
    await restartNode(node);
    await this.#cluster.waitUntilWhole();
  }

  /** Until then a master that is started again would be master again. */
  async #untilTakenOver(dead: RedisClusterNode): Promise<void> {
    const heirs = this.#cluster.nodes.filter((node) => node !== dead);
    await untilNothingMissing("a failover", async () => {
      const answers = heirs.map((heir) => this.#missingTakeOver(heir, dead).catch(String));
      return (await Promise.all(answers)).find((answer) => answer !== undefined);
    });
  }

  async #missingTakeOver(heir: RedisClusterNode, dead: RedisClusterNode): Promise<string | undefined> {
    const info = await ask(heir, async (redis) => String(await redis.cluster("INFO")));
    const rows = await this.#rowsAt(heir);
    if (rows.some(({ node, slots }) => node === dead && slots > 0)) return `${heir.port} without the dead master`;
    return info.includes("cluster_state:ok") ? undefined : `${heir.port} to call the cluster well`;
  }

  async #owner(): Promise<RedisClusterNode> {
    let owner: RedisClusterNode | undefined;
    await untilNothingMissing("a master for the ring", async () => {
      for (const { node } of (await this.#rows()).filter(({ isMaster }) => isMaster)) {
        const answer = await keyIdsAt(node, this.#key).catch(() => undefined);
        if (answer !== undefined) owner = node;
      }
      return owner === undefined ? "a master that has its slot" : undefined;
    });
    return owner as RedisClusterNode;
  }

  async #replicaOf(master: RedisClusterNode): Promise<RedisClusterNode> {
    const rows = await this.#rows();
    const { id } = rows.find(({ node }) => node === master) ?? {};
    const replica = rows.find(({ masterId }) => masterId === id)?.node;
    if (replica === undefined) throw new Error(`the master on port ${master.port} has no replica`);
    return replica;
  }

  /** The cluster as the first node sees it that answers. */
  async #rows(): Promise<ClusterRow[]> {
    for (const node of this.#cluster.nodes) {
      const rows = await this.#rowsAt(node).catch(() => undefined);
      if (rows !== undefined) return rows;
    }
    throw new Error("no node of the cluster answers");
  }

  async #rowsAt(node: RedisClusterNode): Promise<ClusterRow[]> {
    const lines = String(await ask(node, (redis) => redis.cluster("NODES")));
    return lines
      .trim()
      .split("\n")
      .flatMap((line) => {
        const [id = "", address = "", flags = "", masterId = "", , , , , ...slots] = line.split(" ");
        const port = Number(/:(\d+)@/.exec(address)?.[1]);
        const found = this.#cluster.nodes.find((candidate) => candidate.port === port);
        const isMaster = flags.split(",").includes("master") && !/fail/.test(flags);
        return found === undefined ? [] : [{ id, node: found, isMaster, masterId, slots: slots.length }];
      });
  }
}

/** A line of CLUSTER NODES. */
interface ClusterRow {
  readonly id: string;
  readonly node: RedisClusterNode;
  readonly isMaster: boolean;
  readonly masterId: string;
  readonly slots: number;
}

/** @returns the key ids that this very node holds, master or not. */
async function keyIdsAt(node: RedisClusterNode, key: string): Promise<string[]> {
  return await ask(node, async (redis) => {
    await redis.readonly();
    return await redis.hkeys(key);
  });
}

/** @returns the same, and none when the node is master by now: then somebody may have put keys back. */
async function keyIdsOfReplica(node: RedisClusterNode, key: string): Promise<readonly string[]> {
  const keyIds = await keyIdsAt(node, key);
  const [role] = (await ask(node, (redis) => redis.role())) as [string];
  return role === "slave" ? keyIds : NONE;
}
