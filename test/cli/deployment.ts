/**
 * A ring and sessions in real Redis servers, as an application made them, and a folder from which the command is run.
 */
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KeyRing, type KeyRingOptions, localKms, SessionStore } from "@sealed-session/core";
import { redisKeyRingStore, redisStore } from "@sealed-session/redis";
import { type Address, startRedis, startRedisCluster } from "@sealed-session/test/servers";
import { Cluster, Redis } from "ioredis";

/** Servers that are up. */
export interface Servers {
  readonly redis: { readonly url: string } | { readonly nodes: readonly string[] };
  connect(): Redis | Cluster;
  stop(): Promise<void>;
}

/** What the sessions hold here. */
interface Session {
  readonly n: number;
}

/** The kinds of servers on which the command runs. */
export const KINDS: readonly { readonly name: string; start(): Promise<Servers> }[] = [
  {
    name: "one Redis",
    start: async () => {
      const server = await startRedis();
      return {
        redis: { url: `redis://${server.host}:${server.port}` },
        connect: () => new Redis({ host: server.host, port: server.port }),
        stop: () => server.stop(),
      };
    },
  },
  {
    name: "Redis Cluster",
    start: async () => {
      const cluster = await startRedisCluster();
      const addresses: Address[] = cluster.addresses();
      return {
        redis: { nodes: addresses.map(({ host, port }) => `${host}:${port}`) },
        connect: () => new Cluster(addresses),
        stop: () => cluster.stop(),
      };
    },
  },
];

/** An application and a folder with the configuration that fits it. */
export interface Application {
  readonly ring: KeyRing;
  readonly sessions: SessionStore<Session>;
  /** Where the command is run. */
  readonly folder: string;
  readonly client: Redis | Cluster;
  /** Of its keys in Redis. */
  readonly namespace: string;
  /** Starts sessions. @returns their ids */
  create(count: number): Promise<string[]>;
  /** @returns how many of these sessions hold what they were made with. */
  intact(ids: readonly string[]): Promise<number>;
  close(): Promise<void>;
}

/** Short enough that a key's whole life passes in a test. */
export const REFRESH_MS = 250;
export const POLICY = { rotationPeriodMs: 3000, maxSealingAgeMs: 3000, refreshIntervalMs: REFRESH_MS } as const;
const AT_ONCE = 200;

/** Starts an application with a ring of its own. It rotates nothing itself: that is for the command. */
export async function startApplication(servers: Servers, policy: Partial<KeyRingOptions> = {}): Promise<Application> {
  const folder = mkdtempSync(join(tmpdir(), "sealed-session-cli-"));
  const keyFile = join(folder, "local.key");
  const namespace = `cli-${randomBytes(6).toString("hex")}`;
  const client = servers.connect();
  const keys = redisKeyRingStore(client, { namespace, onWarning: () => {} });
  const ring = new KeyRing({ name: "web", kms: localKms({ keyFile }), store: keys, rotation: "manual", ...policy });
  const store = redisStore(client, { namespace, commandTimeoutMs: 10_000 });
  const sessions = new SessionStore<Session>({ ring, store });
  const config = {
    redis: { ...servers.redis, namespace },
    ring: { name: "web", kms: { type: "local", keyFile: "local.key" }, ...policy },
  };
  writeFileSync(join(folder, "sealed-session.config.json"), JSON.stringify(config));
  await ring.publish({ delayMs: 0 });
  return {
    ring,
    sessions,
    folder,
    client,
    namespace,
    async create(count) {
      const ids: string[] = [];
      for (let from = 0; from < count; from += AT_ONCE) {
        const some = Array.from({ length: Math.min(AT_ONCE, count - from) }, (_, index) => from + index);
        ids.push(...(await Promise.all(some.map((n) => sessions.create({ n })))));
      }
      return ids;
    },
    async intact(ids) {
      let count = 0;
      for (const [n, id] of ids.entries()) if ((await sessions.get(id))?.n === n) count++;
      return count;
    },
    async close() {
      ring.close();
      await keys.close();
      client.disconnect();
      rmSync(folder, { recursive: true });
    },
  };
}

/** Makes a folder whose `node_modules` has the command beside what is named, and nothing else. */
export function installedFolder(
  packages: Readonly<Record<string, string>>,
  link: (target: string, path: string) => void,
): string {
  const folder = mkdtempSync(join(tmpdir(), "sealed-session-installed-"));
  for (const [name, target] of Object.entries(packages)) {
    const path = join(folder, "node_modules", name);
    mkdirSync(join(path, ".."), { recursive: true });
    link(target, path);
  }
  return folder;
}
