/**
 * The Redis deployments on which the adapter's tests run, and clients for them.
 */
import { randomUUID } from "node:crypto";
import {
  type Address,
  type Source,
  startRedis,
  startRedisCluster,
  untilNothingMissing,
} from "@sealed-session/test/servers";
import { Cluster, Redis, type RedisOptions } from "ioredis";

/** Where servers come from: what this machine has, and containers where they are asked for. */
const SOURCES: readonly (Source | undefined)[] =
  process.env["SEALED_SESSION_TEST_DOCKER"] === "1" ? [undefined, "docker"] : [undefined];

/** Servers that are up. */
export interface Deployment {
  /** Connects to them in one of {@link Kind.clients}' ways, by default the first; the caller disconnects. */
  connect(client?: string): Redis | Cluster;
  stop(): Promise<void>;
}

/** A kind of deployment. */
export interface Kind {
  readonly name: string;
  /** Ways in which an application may have set up its client. */
  readonly clients: readonly string[];
  start(): Promise<Deployment>;
}

/** Options of `Redis`, as its constructor wants them. */
type NodeSettings = RedisOptions & { replyMapping?: "legacy" | "resp3" };

/** Options of `Cluster`, as its constructor wants them. */
export type ClusterSettings = NonNullable<ConstructorParameters<typeof Cluster>[1]>;

const NODE_OPTIONS: Readonly<Record<string, NodeSettings>> = {
  "a client": {},
  "a client with auto-pipelining": { enableAutoPipelining: true },
  "a client with other replies": { replyMapping: "resp3", stringNumbers: true },
  "a client of RESP2": { protocol: 2 },
};

const CLUSTER_OPTIONS: Readonly<Record<string, ClusterSettings>> = {
  "a client": {},
  "a client with auto-pipelining": { enableAutoPipelining: true },
  "a client with other replies": { redisOptions: { replyMapping: "resp3", stringNumbers: true } },
  "a client that reads from replicas": { scaleReads: "slave" },
};

/** The kinds on which all tests run. */
export const KINDS: readonly Kind[] = SOURCES.flatMap((source) => {
  const choice = source === undefined ? {} : { source };
  const suffix = source === undefined ? "" : ` from ${source}`;
  return [
    {
      name: `one Redis${suffix}`,
      clients: Object.keys(NODE_OPTIONS),
      start: async () => {
        const server = await startRedis(choice);
        const connect = (client = "a client") => redisAt(server, NODE_OPTIONS[client]);
        return { connect, stop: () => server.stop() };
      },
    },
    {
      name: `Redis Cluster${suffix}`,
      clients: Object.keys(CLUSTER_OPTIONS),
      start: async () => {
        const cluster = await startRedisCluster(choice);
        const connect = (client = "a client") => clusterAt(cluster.addresses(), CLUSTER_OPTIONS[client]);
        return { connect, stop: () => cluster.stop() };
      },
    },
  ];
});

/** Connects to one server. */
export function redisAt({ host, port }: Address, options: NodeSettings = {}): Redis {
  return quiet(new Redis({ ...options, host, port }));
}

/** Connects to a cluster. */
export function clusterAt(addresses: readonly Address[], options: ClusterSettings = {}): Cluster {
  return quiet(new Cluster([...addresses], options));
}

/** @returns a namespace that no other test has. */
export function freshNamespace(): string {
  return `test-${randomUUID()}`;
}

/** @returns what moves a store's clock on: it waits until a server of `client` has come that far. */
export function advanceOf(client: Redis | Cluster): (ms: number) => Promise<void> {
  const now = async () => {
    const [seconds, microseconds] = await client.time();
    return Number(seconds) * 1000 + Number(microseconds) / 1000;
  };
  return async (ms) => {
    const goal = (await now()) + ms;
    await untilNothingMissing("the server's clock", async () => ((await now()) >= goal ? undefined : "time"), {
      intervalMs: 1,
    });
  };
}

/** What goes wrong shows in the commands; without a listener ioredis prints it too. */
function quiet<T extends Redis | Cluster>(client: T): T {
  client.on("error", () => {});
  return client;
}
