/**
 * What this package uses of ioredis 6. Its `Redis` and `Cluster` fit without a cast; nothing is imported at run time, so that the
 * application's copy of ioredis is the only one.
 */

/** The commands on keys that `Redis` and `Cluster` share. */
export interface RedisCommands {
  /** GET. */
  getBuffer(key: string): Promise<Buffer | null>;
  /** GETEX without options: a read that goes to the master. */
  getexBuffer(key: string): Promise<Buffer | null>;
  /** GETEX PX: reads and sets the time to live, in milliseconds. */
  getexBuffer(key: string, px: "PX", ms: number): Promise<Buffer | null>;
  /** SET PX. */
  set(key: string, value: Buffer, px: "PX", ms: number): Promise<string | null>;
  /** SET PX NX: only where there is no key. */
  set(key: string, value: Buffer, px: "PX", ms: number, condition: "NX"): Promise<string | null>;
  /** SET PX XX: only over a key. */
  set(key: string, value: Buffer, px: "PX", ms: number, condition: "XX"): Promise<string | null>;
  /** PEXPIRE, in milliseconds. */
  pexpire(key: string, ms: number): Promise<number>;
  /** PTTL, in milliseconds; -1 without expiry, -2 without a key. */
  pttl(key: string): Promise<number>;
  /** UNLINK. */
  unlink(key: string): Promise<number>;
  /** EVAL, of a script on one key. */
  eval(script: string, keyCount: number, ...keysAndArguments: (string | Buffer)[]): Promise<unknown>;
  /** EVALSHA, of a script that the server knows. */
  evalsha(sha1: string, keyCount: number, ...keysAndArguments: (string | Buffer)[]): Promise<unknown>;
  /** `eval` with replies as bytes; ioredis has it and leaves it out of its types. */
  evalBuffer?(script: string, keyCount: number, ...keysAndArguments: (string | Buffer)[]): Promise<unknown>;
}

/** One server: a `Redis`, or a node of a `Cluster`. */
export interface RedisServer {
  /** What the client was made with. */
  readonly options: RedisServerOptions;
  /** The state of the connection, in ioredis's words. */
  readonly status: string;
  /** INFO of one section. */
  info(section: string): Promise<string>;
  /** CLUSTER NODES. */
  cluster(subcommand: "NODES"): Promise<unknown>;
  /** SCAN MATCH COUNT. */
  scanBuffer(
    cursor: string,
    match: "MATCH",
    pattern: string,
    count: "COUNT",
    keys: number,
  ): Promise<[cursor: Buffer, keys: Buffer[]]>;
  /** DBSIZE. */
  dbsize(): Promise<number>;
  /** EVALSHA, of a script that the server knows; replies as bytes. ioredis has it and leaves it out of its types. */
  evalshaBuffer?(sha1: string, keyCount: 0, ...args: (string | Buffer)[]): Promise<unknown>;
  /** SCRIPT LOAD. */
  script(subcommand: "LOAD", lua: string): Promise<unknown>;
  /** Begins a pipeline. */
  pipeline(): BulkPipeline;
  /** Makes another connection to the same server. */
  duplicate(options: DuplicateOptions): RedisConnection;
}

/** The options of a server's client that are looked at. */
export interface RedisServerOptions {
  /** Where the server is. */
  readonly host?: string | undefined;
  /** Where the server listens. */
  readonly port?: number | undefined;
  /** Refused: use the option `namespace` of the stores. */
  readonly keyPrefix?: string | undefined;
}

/** How a connection of our own differs from the one it duplicates. */
export interface DuplicateOptions {
  /** Connect at the first command. */
  lazyConnect: boolean;
  /** Send READONLY, as for replicas. */
  readOnly: boolean;
  /** Keep commands until the connection is up. */
  enableOfflineQueue: boolean;
  /** Send commands of one tick together. */
  enableAutoPipelining: boolean;
  /** Send what had no reply again after a reconnection. */
  autoResendUnfulfilledCommands: boolean;
  /** Deadline of connecting, in milliseconds. */
  connectTimeout: number;
  /** No deadline of ioredis's own: ours covers the WAIT too. */
  commandTimeout: undefined;
  /** Do not reconnect for an error reply. */
  reconnectOnError: null;
  /** Do not reconnect at all: a pipeline must not be torn. */
  retryStrategy: () => null;
}

/** A connection that this package opened and closes. */
export interface RedisConnection {
  /** The state of the connection, in ioredis's words. */
  readonly status: string;
  /** Registers a listener. */
  on(event: "error", listener: (error: Error) => void): unknown;
  /** INFO of one section. */
  info(section: string): Promise<string>;
  /** CLUSTER NODES. */
  cluster(subcommand: "NODES"): Promise<unknown>;
  /** Begins a pipeline. */
  pipeline(): RedisPipeline;
  /** Closes the connection at once. */
  disconnect(): void;
}

/** Commands that leave in one write, and whose replies come in the same order. */
export interface RedisPipeline {
  /** EVAL, of a script on one key. */
  eval(script: string, keyCount: number, ...keysAndArguments: (string | Buffer)[]): unknown;
  /** WAIT: for how many replicas, and how long, in milliseconds. */
  wait(replicas: number, timeoutMs: number): unknown;
  /** Sends the commands and resolves to their replies. */
  exec(): Promise<[error: Error | null, reply: unknown][] | null>;
}

/** A pipeline of scripts that work on many keys of one node. */
export interface BulkPipeline extends Pick<RedisPipeline, "exec"> {
  /** EVALSHA, of a script that the server knows; replies as bytes. ioredis has it and leaves it out of its types. */
  evalshaBuffer?(sha1: string, keyCount: 0, ...args: (string | Buffer)[]): unknown;
}

/** A single server, or a primary found by Sentinel: `Redis` of ioredis. */
export interface SingleRedis extends RedisCommands, RedisServer {
  /** `false`. */
  readonly isCluster: boolean;
}

/** A Redis Cluster: `Cluster` of ioredis. */
export interface ClusterRedis extends RedisCommands {
  /** `true`. */
  readonly isCluster: boolean;
  /** What the client was made with. */
  readonly options: {
    /** Where plain reads go; "master" where it is not set. */
    readonly scaleReads?: unknown;
    /** Refused: use the option `namespace` of the stores. */
    readonly keyPrefix?: string | undefined;
    /** Options of the connections to the nodes; a `keyPrefix` among them is refused as well. */
    readonly redisOptions?:
      | {
          /** Refused: use the option `namespace` of the stores. */
          readonly keyPrefix?: string | undefined;
        }
      | undefined;
  };
  /** For each slot the nodes that serve it as "host:port", its master first. */
  readonly slots: readonly (readonly string[] | undefined)[];
  /** The clients of the nodes. */
  nodes(role: "all" | "master"): RedisServer[];
  /** Begins a pipeline. */
  pipeline(): Pick<RedisPipeline, "exec">;
  /** CLUSTER SLOTS: asks for the slot map anew. */
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
