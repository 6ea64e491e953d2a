/**
 * Connects to Redis as the configuration says.
 */
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import type { ConnectionOptions } from "node:tls";
import type { RedisClient } from "@sealed-session/redis";
import { Cluster, Redis } from "ioredis";
import { CliError } from "./cli-error.js";
import type { RedisSettings, TlsSettings } from "./config-schema.js";

const CONNECT_TIMEOUT_MS = 5000;
const DEFAULT_PORT = 6379;

/** A connection that is up. */
export interface RedisConnection {
  readonly client: RedisClient;
  /** Closes it at once: nothing is under way any more. */
  close(): void;
}

/** The part of an ioredis client, or of one that a configuration file made, that is used beside the stores. */
type Connectable = RedisClient & {
  readonly status?: string;
  connect?(): Promise<unknown>;
  disconnect?(): void;
  on?(event: "error", listener: (error: unknown) => void): unknown;
};

/**
 * Connects.
 *
 * @throws CliError `REDIS_UNREACHABLE` when nobody answers within five seconds, or refuses; `CONFIG_INVALID` when `redis.client` returns something
 *   else or a file cannot be read.
 */
export async function connectRedis(settings: RedisSettings): Promise<RedisConnection> {
  const client = (await makeClient(settings)) as Connectable;
  let reason: unknown;
  // Without a listener ioredis writes every failure to the console.
  client.on?.("error", (error) => {
    reason = (error as { readonly lastNodeError?: unknown }).lastNodeError ?? error;
  });
  const close = () => client.disconnect?.();
  try {
    // One that a configuration file made may be connected, or be about to.
    if (client.status === "wait" || client.status === undefined) await within(CONNECT_TIMEOUT_MS, client.connect?.());
  } catch (error) {
    close();
    throw new CliError("REDIS_UNREACHABLE", `Redis cannot be reached: ${harmless(reason ?? error)}`);
  }
  return { client, close };
}

async function makeClient(settings: RedisSettings): Promise<RedisClient> {
  const { client, nodes, username, password } = settings;
  if (client !== undefined) {
    const made: unknown = await client();
    if (typeof (made as { evalBuffer?: unknown } | undefined)?.evalBuffer === "function") return made as RedisClient;
    throw new CliError("CONFIG_INVALID", "redis.client must return a Redis or Cluster of ioredis");
  }
  const url = settings.url === undefined ? undefined : new URL(settings.url);
  const tls = tlsOptions(settings.tls ?? url?.protocol === "rediss:");
  const shared = {
    connectTimeout: CONNECT_TIMEOUT_MS,
    connectionName: "sealed-session",
    ...(username !== undefined && { username }),
    ...(password !== undefined && { password }),
    ...(tls !== undefined && { tls }),
  };
  if (nodes !== undefined) {
    return new Cluster(nodes.map(addressOf), {
      lazyConnect: true,
      slotsRefreshTimeout: CONNECT_TIMEOUT_MS,
      redisOptions: shared,
      // A certificate is for a name: ioredis would connect to what the name stands for.
      ...(tls !== undefined && { dnsLookup: (address, callback) => callback(null, address) }),
    });
  }
  const { hostname, port, username: user, password: word, pathname } = url as URL;
  return new Redis({
    host: hostname.replace(/^\[|\]$/g, ""),
    port: port === "" ? DEFAULT_PORT : Number(port),
    db: Number(pathname.slice(1)),
    ...(user !== "" && { username: decodeURIComponent(user) }),
    ...(word !== "" && { password: decodeURIComponent(word) }),
    // What is given on its own counts before what stands in the URL.
    ...shared,
    lazyConnect: true,
  });
}

function addressOf(text: string): { host: string; port: number } {
  const colon = text.lastIndexOf(":");
  return { host: text.slice(0, colon).replace(/^\[|\]$/g, ""), port: Number(text.slice(colon + 1)) };
}

function tlsOptions(tls: boolean | TlsSettings): ConnectionOptions | undefined {
  if (tls === false) return undefined;
  if (tls === true) return {};
  const read = (field: "caFile" | "certFile" | "keyFile") => {
    const path = tls[field];
    try {
      return path === undefined ? undefined : readFileSync(path);
    } catch (error) {
      throw new CliError(
        "CONFIG_INVALID",
        `redis.tls.${field} must name a file that can be read (${(error as NodeJS.ErrnoException).code})`,
      );
    }
  };
  const [ca, cert, key] = [read("caFile"), read("certFile"), read("keyFile")];
  return {
    ...(ca !== undefined && { ca }),
    ...(cert !== undefined && { cert }),
    ...(key !== undefined && { key }),
    ...(tls.serverName !== undefined && { servername: tls.serverName }),
  };
}

async function within(timeoutMs: number, work: Promise<unknown> | undefined): Promise<void> {
  const timer = new AbortController();
  const expired = delay(timeoutMs, undefined, { signal: timer.signal }).then(() => {
    throw new Error(`no answer within ${timeoutMs} ms`);
  });
  expired.catch(() => {});
  try {
    await Promise.race([work, expired]);
  } finally {
    timer.abort();
  }
}

/** A reply of Redis may quote what it was sent: only its first word goes on. */
function harmless(error: unknown): string {
  if (!(error instanceof Error)) return "something failed that is no error";
  if (error.name === "ReplyError") return `it answered ${/^[A-Z]+/.exec(error.message)?.[0] ?? "with an error"}`;
  return error.message;
}
