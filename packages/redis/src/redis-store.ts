/**
 * Envelopes in Redis Cluster or one Redis: one key each, one command a request.
 */
import {
  type BulkEnvelopeStore,
  type CompareAndSetOptions,
  type DestroyEnvelopeOptions,
  type EnvelopePage,
  type GetEnvelopeOptions,
  MAX_TTL_MS,
  type SetEnvelopeOptions,
  type WalkOptions,
} from "@sealed-session/core";
import { withinDeadline } from "./deadline.js";
import type { ViewTimes } from "./master-view.js";
import { askRedis } from "./redirection.js";
import { type RedisClient, type RedisCommands, readsFromMaster, requireClient } from "./redis-client.js";
import { requireEnvelope, requireStoredId, requireTimeout, requireTtl, sessionPrefix } from "./redis-key.js";
import { scanStoredIds } from "./scan.js";
import { runScript, script } from "./script.js";
import { estimateKeys, type WalkedKeys, walkPages } from "./walk.js";

/** Replies by which PTTL says that there is no key, or none that expires. */
const NO_KEY = -2;
const NO_EXPIRY = -1;

/** KEYS[1] envelope; ARGV: expected bytes, new bytes, time to live in ms or "". KEEPTTL (6.0) keeps the very millisecond. */
const COMPARE_AND_SET = script(`
local current = redis.call('GET', KEYS[1])
if current ~= ARGV[1] and current ~= ARGV[2] then return 0 end
if ARGV[3] ~= '' then
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
elseif current ~= ARGV[2] then
  redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
end
return 1`);

/** KEYS[1] envelope; ARGV: expected bytes. */
const COMPARE_AND_DESTROY = script(`
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('UNLINK', KEYS[1])`);

/** PTTL counts as a read, and ioredis may send it to a replica; a script goes to the master. */
const MASTER_PTTL = script("return redis.call('PTTL', KEYS[1])");

/** Options of {@link redisStore}. */
export interface RedisStoreOptions {
  /**
   * Goes before the keys: `eu` makes `eu:session:<stored id>`. 1 to 128 bytes of UTF-8 without braces.
   *
   * @defaultValue The keys are `session:<stored id>`.
   */
  readonly namespace?: string;
  /**
   * Deadline of every method, in milliseconds; for `scan`, of each of its commands. It should be well above `retryDelayOnFailover`
   * of the client.
   *
   * @defaultValue 1000
   */
  readonly commandTimeoutMs?: number;
  /**
   * Lets a `get` that does not slide ask a replica. Needs a `Cluster` with `scaleReads` other than "master". What a replica does not have
   * is asked of the master before it counts as missing; what it has may be older than the last write, and for the length of the
   * replication lag a destroyed envelope is still found.
   *
   * @defaultValue false
   */
  readonly replicaReads?: boolean;
  /**
   * How long `scan` waits for a master that does not answer to come back or be replaced, in milliseconds.
   *
   * @defaultValue 30000
   */
  readonly failoverTimeoutMs?: number;
}

/**
 * Keeps envelopes in Redis 6.2, Valkey 7.2, or later, under `session:<stored id>`.
 *
 * Commands: GET or GETEX, SET PX, PEXPIRE, PTTL, UNLINK, and for `compareAndSet` a script on the one key. The client stays the caller's:
 * nothing is set on it, and nothing is closed. Reads go to the master also when the client's `scaleReads` says otherwise, as GETEX without
 * options, which counts as a write; only `replicaReads` changes that.
 *
 * An outcome is unknown after `STORE_UNAVAILABLE`: ioredis may send the command later, when it has reconnected.
 *
 * @param client - `Redis` or `Cluster` of ioredis 6, without `keyPrefix`.
 * @throws TypeError or RangeError when an argument is wrong.
 */
export function redisStore(client: RedisClient, options: RedisStoreOptions = {}): BulkEnvelopeStore {
  return new RedisStore(client, options);
}

class RedisStore implements BulkEnvelopeStore {
  readonly #client: RedisClient;
  readonly #prefix: string;
  readonly #commandTimeoutMs: number;
  readonly #failoverTimeoutMs: number;
  readonly #readsFromMaster: boolean;
  readonly #replicaReads: boolean;

  constructor(client: RedisClient, options: RedisStoreOptions) {
    const { namespace, commandTimeoutMs = 1000, replicaReads = false, failoverTimeoutMs = 30_000 } = options;
    this.#client = requireClient(client);
    this.#prefix = sessionPrefix(namespace);
    this.#commandTimeoutMs = requireTimeout("commandTimeoutMs", commandTimeoutMs);
    this.#failoverTimeoutMs = requireTimeout("failoverTimeoutMs", failoverTimeoutMs);
    this.#readsFromMaster = readsFromMaster(client);
    this.#replicaReads = replicaReads;
    if (replicaReads && this.#readsFromMaster) {
      throw new TypeError('replicaReads needs a Cluster whose scaleReads is not "master"');
    }
  }

  async get(storedId: string, { slideMs }: GetEnvelopeOptions = {}): Promise<Uint8Array | undefined> {
    const key = this.#key(storedId);
    if (slideMs !== undefined) requireTtl("slideMs", slideMs);
    const found = await this.#ask((redis) => {
      if (slideMs !== undefined) return redis.getexBuffer(key, "PX", slideMs);
      return this.#replicaReads ? this.#readReplica(redis, key) : this.#readMaster(redis, key);
    });
    return found ?? undefined;
  }

  async set(storedId: string, envelope: Uint8Array, options: SetEnvelopeOptions): Promise<boolean> {
    const key = this.#key(storedId);
    const bytes = requireEnvelope("envelope", envelope);
    const ttlMs = requireTtl("ttlMs", options.ttlMs);
    switch (options.condition ?? "always") {
      case "always":
        return (await this.#ask((redis) => redis.set(key, bytes, "PX", ttlMs))) !== null;
      case "present":
        return (await this.#ask((redis) => redis.set(key, bytes, "PX", ttlMs, "XX"))) !== null;
      case "absent":
        return await this.#ask(async (redis) => {
          if ((await redis.set(key, bytes, "PX", ttlMs, "NX")) !== null) return true;
          // ioredis sends a command anew after it has reconnected: the first one may have been carried out.
          return (await this.#readMaster(redis, key))?.equals(bytes) ?? false;
        });
      default:
        throw new RangeError("condition must be one of always, absent, present");
    }
  }

  async compareAndSet(
    storedId: string,
    expected: Uint8Array,
    envelope: Uint8Array,
    { ttlMs }: CompareAndSetOptions = {},
  ): Promise<boolean> {
    const key = this.#key(storedId);
    const args = [requireEnvelope("expected", expected), requireEnvelope("envelope", envelope)];
    const ttl = ttlMs === undefined ? "" : String(requireTtl("ttlMs", ttlMs));
    return Number(await this.#ask((redis) => runScript(redis, COMPARE_AND_SET, key, ...args, ttl))) === 1;
  }

  async touch(storedId: string, ttlMs: number): Promise<boolean> {
    const key = this.#key(storedId);
    requireTtl("ttlMs", ttlMs);
    return Number(await this.#ask((redis) => redis.pexpire(key, ttlMs))) === 1;
  }

  async destroy(storedId: string, { expected }: DestroyEnvelopeOptions = {}): Promise<boolean> {
    const key = this.#key(storedId);
    if (expected !== undefined) {
      const argument = requireEnvelope("expected", expected);
      return Number(await this.#ask((redis) => runScript(redis, COMPARE_AND_DESTROY, key, argument))) === 1;
    }
    return Number(await this.#ask((redis) => redis.unlink(key))) === 1;
  }

  async ttlMs(storedId: string): Promise<number | undefined> {
    const key = this.#key(storedId);
    const reply = await this.#ask<unknown>((redis) =>
      this.#readsFromMaster ? redis.pttl(key) : runScript(redis, MASTER_PTTL, key),
    );
    const ttlMs = Number(reply);
    if (ttlMs === NO_KEY) return undefined;
    return ttlMs === NO_EXPIRY ? MAX_TTL_MS : ttlMs;
  }

  /**
   * Walks with SCAN over all masters. It remembers a fingerprint of every id, 17 to 34 MB for a million of them, since SCAN may return
   * a key twice and slots may move meanwhile; it goes back to masters that took slots over, until the slots have come to rest.
   */
  scan(): AsyncIterable<string> {
    return scanStoredIds(this.#client, this.#prefix, this.#times);
  }

  /**
   * As `scan`, all masters side by side, by scripts that work on many keys of a master at a time. It remembers no ids, so one may be visited
   * again.
   */
  walk(visit: (page: EnvelopePage) => Promise<void>, options: WalkOptions = {}): Promise<void> {
    return walkPages(this.#walked, visit, options);
  }

  /** By DBSIZE: counts all keys of the servers, also those of others. */
  estimate(): Promise<number> {
    return estimateKeys(this.#walked);
  }

  get #walked(): WalkedKeys {
    return { client: this.#client, prefix: this.#prefix, times: this.#times };
  }

  get #times(): ViewTimes {
    return { commandTimeoutMs: this.#commandTimeoutMs, failoverTimeoutMs: this.#failoverTimeoutMs };
  }

  #key(storedId: string): string {
    requireStoredId(storedId);
    return this.#prefix + storedId;
  }

  #readMaster(redis: RedisCommands, key: string): Promise<Buffer | null> {
    return this.#readsFromMaster ? redis.getBuffer(key) : redis.getexBuffer(key);
  }

  async #readReplica(redis: RedisCommands, key: string): Promise<Buffer | null> {
    try {
      // Half the time, so that the master can still answer when the replica hangs.
      const found = await withinDeadline(this.#commandTimeoutMs / 2, () => redis.getBuffer(key));
      if (found !== null) return found;
    } catch {
      // A replica that is loading, or cut off from its master, says nothing about the session.
    }
    return await redis.getexBuffer(key);
  }

  #ask<T>(work: (redis: RedisCommands) => Promise<T>): Promise<T> {
    return askRedis(this.#client, this.#commandTimeoutMs, work);
  }
}
