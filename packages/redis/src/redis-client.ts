/**
 * What this package uses of ioredis 6. Its `Redis` and `Cluster` fit without a cast; nothing is imported at run time, so that the
 * application's copy of ioredis is the only one.
 */

/** The commands on keys that `Redis` and `Cluster` share. */
export interface RedisCommands {
  getBuffer(key: string): Promise<Buffer | null>;
  getexBuffer(key: string): Promise<Buffer | null>;
  getexBuffer(key: string, px: "PX", ms: number): Promise<Buffer | null>;
  set(key: string, value: Buffer, px: "PX", ms: number): Promise<string | null>;
  set(key: string, value: Buffer, px: "PX", ms: number, condition: "NX"): Promise<string | null>;
  set(key: string, value: Buffer, px: "PX", ms: number, condition: "XX"): Promise<string | null>;
  pexpire(key: string, ms: number): Promise<number>;
  pttl(key: string): Promise<number>;
  unlink(key: string): Promise<number>;
  eval(script: string, keyCount: number, ...keysAndArguments: (string | Buffer)[]): Promise<unknown>;
  evalsha(sha1: string, keyCount: number, ...keysAndArguments: (string | Buffer)[]): Promise<unknown>;
  /** `eval` with replies as bytes; ioredis has it and leaves it out of its types. */
  evalBuffer?(script: string, keyCount: number, ...keysAndArguments: (string | Buffer)[]): Promise<unknown>;
}

/** One server: a `Redis`, or a node of a `Cluster`. */
export interface RedisServer {
  readonly options: RedisServerOptions;
  readonly status: string;
  info(section: string): Promise<string>;
  cluster(subcommand: "NODES"): Promise<unknown>;
  scanBuffer(
    cursor: string,
    match: "MATCH",
    pattern: string,
    count: "COUNT",
    keys: number,
  ): Promise<[cursor: Buffer, keys: Buffer[]]>;
  duplicate(options: DuplicateOptions): RedisConnection;
}

/** The options of a server's client that are looked at. */
export interface RedisServerOptions {
  readonly host?: string | undefined;
  readonly port?: number | undefined;
  readonly keyPrefix?: string | undefined;
}

/** How a connection of our own differs from the one it duplicates. */
export interface DuplicateOptions {
  lazyConnect: boolean;
  readOnly: boolean;
  enableOfflineQueue: boolean;
  enableAutoPipelining: boolean;
  autoResendUnfulfilledCommands: boolean;
  connectTimeout: number;
  commandTimeout: undefined;
  reconnectOnError: null;
  retryStrategy: () => null;
}

/** A connection that this package opened and closes. */
export interface RedisConnection {
  readonly status: string;
  on(event: "error", listener: (error: Error) => void): unknown;
  info(section: string): Promise<string>;
  cluster(subcommand: "NODES"): Promise<unknown>;
  pipeline(): RedisPipeline;
  disconnect(): void;
}

/** Commands that leave in one write, and whose replies come in the same order. */
export interface RedisPipeline {
  eval(script: string, keyCount: number, ...keysAndArguments: (string | Buffer)[]): unknown;
  wait(replicas: number, timeoutMs: number): unknown;
  exec(): Promise<[error: Error | null, reply: unknown][] | null>;
}

/** A single server, or a primary found by Sentinel: `Redis` of ioredis. */
export interface SingleRedis extends RedisCommands, RedisServer {
  readonly isCluster: boolean;
}

/** A Redis Cluster: `Cluster` of ioredis. */
export interface ClusterRedis extends RedisCommands {
  readonly isCluster: boolean;
  readonly options: {
    readonly scaleReads?: unknown;
    readonly keyPrefix?: string | undefined;
    readonly redisOptions?: { readonly keyPrefix?: string | undefined } | undefined;
  };
  /** For each slot the nodes that serve it as "host:port", its master first. */
  readonly slots: readonly (readonly string[] | undefined)[];
  nodes(role: "all" | "master"): RedisServer[];
  pipeline(): Pick<RedisPipeline, "exec">;
  refreshSlotsCache(callback: (error?: Error | null) => void): void;
}

/** `Redis` or `Cluster` of ioredis 6. */
export type RedisClient = SingleRedis | ClusterRedis;

/** @returns whether `client` is a `Cluster`. */
export function isCluster(client: RedisClient): client is ClusterRedis {
  return client.isCluster;
}

/**
 * @returns `client`, checked.
 * @throws TypeError when it is no client of ioredis, or has a `keyPrefix`: SCAN would not see it and braces in it would steer slots.
 */
export function requireClient<T extends RedisClient>(client: T): T {
  if (typeof client !== "object" || client === null || typeof client.evalBuffer !== "function") {
    throw new TypeError("client must be a Redis or Cluster of ioredis");
  }
  const { options } = client;
  const ofNodes = "redisOptions" in options ? options.redisOptions?.keyPrefix : undefined;
  if (options.keyPrefix || ofNodes) throw new TypeError("client must have no keyPrefix; use the option namespace");
  return client;
}

/** @returns whether plain reads of `client` go to a primary. */
export function readsFromMaster(client: RedisClient): boolean {
  if (!isCluster(client)) return true;
  const { scaleReads } = client.options;
  return scaleReads === undefined || scaleReads === "master";
}
