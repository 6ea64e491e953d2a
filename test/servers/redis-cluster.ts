/**
 * A Redis Cluster: by default three masters with a replica each, on loopback.
 */

import { formCluster, missingReplication, readRole, untilWhole } from "./cluster-formation.js";
import { untilNothingMissing } from "./condition.js";
import { ask } from "./connection.js";
import { type LaunchedRedis, launchOnFreePort, type RedisConfig } from "./lane.js";
import type { Address, RedisNode } from "./redis-node.js";
import { BASE_CONFIG, givenNode } from "./redis-server.js";
import { chooseSource, type SourceOptions, sourceCandidates } from "./source.js";

/** Options of {@link startRedisCluster}. */
export interface StartRedisClusterOptions extends SourceOptions {
  /** @default 3 */
  readonly masters?: number;
  /** @default 1 */
  readonly replicasPerMaster?: number;
  /**
   * Directives of redis.conf for every node, such as `cluster-node-timeout` in milliseconds (2000). Servers that are
   * given by the environment are then not used.
   *
   * @default {}
   */
  readonly config?: RedisConfig;
}

/** A node and what it was when the cluster had formed; a failover may have changed that. */
export interface RedisClusterNode extends RedisNode {
  readonly role: "master" | "replica";
}

/** A cluster that is ready for use. */
export interface RedisCluster {
  readonly nodes: readonly RedisClusterNode[];
  /** Where it comes from, for people: "redis-server 7.0.15 from the PATH". */
  readonly source: string;
  /** @returns where the nodes listen, for `new Cluster(...)`. */
  addresses(): Address[];
  /** Resolves when every replica that runs is linked to its master and holds all that was written before the call. */
  waitForReplicas(): Promise<void>;
  /** Resolves when all nodes run again and agree on it, and replicas hold all that was written before. */
  waitUntilWhole(): Promise<void>;
  /** Ends all nodes, waits until they are gone and removes their directories. A cluster that was given goes on. */
  stop(): Promise<void>;
}

const CLUSTER_CONFIG: RedisConfig = {
  ...BASE_CONFIG,
  "cluster-enabled": "yes",
  "cluster-config-file": "nodes.conf",
  "cluster-node-timeout": "2000",
  "cluster-announce-ip": "127.0.0.1",
  // Redis waits five seconds for more replicas to come before it sends the data to the first.
  "repl-diskless-sync-delay": "0",
};

/**
 * Starts a cluster, or takes the one that SEALED_SESSION_TEST_REDIS_CLUSTER (host:port,host:port,…) names.
 *
 * @throws NoRedisSourceError if there are no servers to be had.
 * @throws Error with the tail of a server's log if it does not start, or with what was missing at the deadline.
 */
export async function startRedisCluster(options: StartRedisClusterOptions = {}): Promise<RedisCluster> {
  const { masters = 3, replicasPerMaster = 1, config, ...choice } = options;
  const candidates = sourceCandidates("SEALED_SESSION_TEST_REDIS_CLUSTER", config !== undefined);
  const chosen = await chooseSource(candidates, choice);
  if ("given" in chosen) {
    const nodes = await Promise.all(chosen.given.map(async (address) => withRole(givenNode(address))));
    return cluster(
      nodes,
      chosen.description,
      async () => nodes,
      async () => {},
    );
  }
  const size = masters * (1 + replicasPerMaster);
  const launched = await launchAll(size, () => launchOnFreePort(chosen, { ...CLUSTER_CONFIG, ...config }));
  const stop = () => stopAll(launched);
  try {
    await formCluster(launched.slice(0, masters), launched.slice(masters));
  } catch (error) {
    await stop();
    throw error;
  }
  const nodes = launched.map((node, index) =>
    Object.assign(node, { role: index < masters ? ("master" as const) : ("replica" as const) }),
  );
  const running = async () => {
    const states = await Promise.all(nodes.map((node) => node.isRunning()));
    return nodes.filter((_, index) => states[index]);
  };
  return cluster(nodes, chosen.description, running, stop);
}

function cluster(
  nodes: readonly RedisClusterNode[],
  source: string,
  running: () => Promise<readonly RedisNode[]>,
  stop: () => Promise<void>,
): RedisCluster {
  return {
    nodes,
    source,
    stop,
    addresses: () => nodes.map(({ host, port }) => ({ host, port })),
    waitForReplicas: async () => {
      const missing = await missingReplication(await running());
      await untilNothingMissing("replicas in step", missing);
    },
    waitUntilWhole: () => {
      // A failover changes roles, but not how many nodes have them.
      const masters = nodes.filter(({ role }) => role === "master").length;
      return untilWhole(nodes, masters, nodes.length - masters);
    },
  };
}

async function withRole(node: RedisNode): Promise<RedisClusterNode> {
  return Object.assign(node, { role: await ask(node, readRole) });
}

/** All or none: if one does not start, those that did are stopped. */
async function launchAll(count: number, launch: () => Promise<LaunchedRedis>): Promise<LaunchedRedis[]> {
  const results = await Promise.allSettled(Array.from({ length: count }, launch));
  const launched = results.flatMap((result) => (result.status === "fulfilled" ? [result.value] : []));
  const failed = results.find((result) => result.status === "rejected");
  if (failed === undefined) return launched;
  await stopAll(launched);
  throw failed.reason;
}

async function stopAll(nodes: readonly LaunchedRedis[]): Promise<void> {
  await Promise.all(nodes.map((node) => node.stop()));
}
