/**
 * Web sessions in clear as connect-redis and its like keep them: text under `sess:<session id>`, one key each.
 */
import type { BulkPlaintextSource, PlaintextRemoval, PlaintextSession } from "@sealed-session/core";
import type { ViewTimes } from "./master-view.js";
import { askRedis } from "./redirection.js";
import { type RedisClient, type RedisCommands, requireClient } from "./redis-client.js";
import { requireEnvelope, requireTimeout } from "./redis-key.js";
import { runScript, script } from "./script.js";
import { estimateKeys, type WalkedKeys, walkKeys } from "./walk.js";

const MAX_PREFIX_BYTES = 256;
/**
 * What takes the place of a session that was taken over, for a while: JSON of no session. A store that still reads it finds none, and says so.
 */
const REMOVED = "null";
/** How long it lies there, in milliseconds, at least; longer than any command that is still under way. */
const REMOVED_MS = 30_000;

/** KEYS[1] session; ARGV: what stands for a removed one. Keys of other types are no sessions. */
const READ = `
local session = redis.pcall('GET', KEYS[1])
if type(session) ~= 'string' or session == '' or session == ARGV[1] then return false end
return {session, redis.call('PTTL', KEYS[1])}`;

/** KEYS[1] session; ARGV: expected bytes, what is to stand for a removed one, for how long in ms. */
const REMOVE = script(`
local session = redis.pcall('GET', KEYS[1])
if session == ARGV[2] then return 'removed' end
if type(session) ~= 'string' then return 'gone' end
if session ~= ARGV[1] then return 'changed' end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 'removed'`);

/** KEYS[1] session; ARGV: what stands for a removed one. */
const DESTROY = script(`
local session = redis.pcall('GET', KEYS[1])
if type(session) ~= 'string' then return 0 end
redis.call('UNLINK', KEYS[1])
if session == ARGV[1] then return 0 end
return 1`);

/** Options of {@link plaintextSessions}. */
export interface PlaintextSessionsOptions {
  /** What stands before the session ids: 1 to 256 bytes of UTF-8. @defaultValue "sess:" */
  readonly prefix?: string;
  /** Makes a session of the text of a key; throws when it is none. @defaultValue JSON.parse */
  readonly parse?: (text: string) => unknown;
  /** Deadline of every method, in milliseconds; for `walk`, of each of its commands. @defaultValue 1000 */
  readonly commandTimeoutMs?: number;
  /** How long `walk` waits for a master that does not answer to come back or be replaced, in milliseconds. @defaultValue 30000 */
  readonly failoverTimeoutMs?: number;
}

/**
 * Reads the sessions that connect-redis and its like wrote, for the option `adopt` of a `SessionStore` and for `sealPlaintextSessions`.
 *
 * What was taken over leaves the text `null` under its key for 30 seconds, or ten times `commandTimeoutMs` where that is longer: a command that is sent
 * twice, and another process, can then tell it from a session that somebody has ended.
 *
 * @param client - `Redis` or `Cluster` of ioredis 6, without `keyPrefix`.
 * @throws TypeError or RangeError when an argument is wrong.
 */
export function plaintextSessions(client: RedisClient, options: PlaintextSessionsOptions = {}): BulkPlaintextSource {
  return new PlaintextSessions(client, options);
}

class PlaintextSessions implements BulkPlaintextSource {
  readonly #client: RedisClient;
  readonly #prefix: string;
  readonly #parse: (text: string) => unknown;
  readonly #times: ViewTimes;
  readonly #removedMs: string;

  constructor(client: RedisClient, options: PlaintextSessionsOptions) {
    const { prefix = "sess:", parse = JSON.parse, commandTimeoutMs = 1000, failoverTimeoutMs = 30_000 } = options;
    this.#client = requireClient(client);
    this.#prefix = requirePrefix(prefix);
    if (typeof parse !== "function") throw new TypeError("parse must be a function");
    this.#parse = (text) => parse(text);
    this.#times = {
      commandTimeoutMs: requireTimeout("commandTimeoutMs", commandTimeoutMs),
      failoverTimeoutMs: requireTimeout("failoverTimeoutMs", failoverTimeoutMs),
    };
    this.#removedMs = String(Math.max(REMOVED_MS, 10 * commandTimeoutMs));
  }

  async read(sessionId: string): Promise<PlaintextSession | undefined> {
    // Bytes and not text: what is not UTF-8 must not look like something else.
    const key = this.#prefix + sessionId;
    const reply = await this.#ask(async (redis) => redis.evalBuffer?.(READ, 1, key, REMOVED));
    if (!Array.isArray(reply)) return undefined;
    const [raw, ttl] = reply as [Uint8Array, unknown];
    const ttlMs = Number(ttl);
    return { raw, ttlMs: ttlMs < 0 ? undefined : ttlMs };
  }

  parse(raw: Uint8Array): unknown {
    return this.#parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(raw));
  }

  async remove(sessionId: string, raw: Uint8Array): Promise<PlaintextRemoval> {
    const args = [requireEnvelope("raw", raw), REMOVED, this.#removedMs];
    const reply = await this.#ask((redis) => runScript(redis, REMOVE, this.#prefix + sessionId, ...args));
    return String(reply) as PlaintextRemoval;
  }

  async destroy(sessionId: string): Promise<boolean> {
    const reply = await this.#ask((redis) => runScript(redis, DESTROY, this.#prefix + sessionId, REMOVED));
    return Number(reply) === 1;
  }

  walk(
    visit: (sessionIds: readonly string[]) => Promise<void>,
    { signal }: { readonly signal?: AbortSignal | undefined } = {},
  ): Promise<void> {
    // Any text may stand after the prefix; what is no session id is counted by whoever walks.
    return walkKeys(
      this.#walked,
      (_, { storedIds }) => visit(storedIds),
      { signal },
      () => true,
    );
  }

  /** By DBSIZE: counts all keys of the servers, also those of others. */
  estimate(): Promise<number> {
    return estimateKeys(this.#walked);
  }

  get #walked(): WalkedKeys {
    return { client: this.#client, prefix: this.#prefix, times: this.#times };
  }

  #ask<T>(work: (redis: RedisCommands) => Promise<T>): Promise<T> {
    return askRedis(this.#client, this.#times.commandTimeoutMs, work);
  }
}

function requirePrefix(prefix: string): string {
  if (typeof prefix !== "string") throw new TypeError("prefix must be a string");
  if (!prefix.isWellFormed()) throw new RangeError("prefix must be well-formed Unicode");
  const length = Buffer.byteLength(prefix);
  if (length < 1 || length > MAX_PREFIX_BYTES)
    throw new RangeError(`prefix must have 1 to ${MAX_PREFIX_BYTES} bytes of UTF-8`);
  return prefix;
}
