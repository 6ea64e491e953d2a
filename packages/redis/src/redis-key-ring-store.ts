/**
 * The key ring in Redis: one hash for each ring (format 5.7), always read from and written to its master.
 */
import {
  type KeyRingStore,
  SealedSessionError,
  type StoredKeyRecord,
  type WriteKeyRecordOptions,
  type WriteKeyRecordResult,
} from "@sealed-session/core";
import { nodeName, ownerOf } from "./cluster-map.js";
import { withinDeadline } from "./deadline.js";
import { evictionWarning } from "./eviction.js";
import { askRedis } from "./redirection.js";
import { isCluster, type RedisClient, requireClient } from "./redis-client.js";
import { isKeyId, requireKeyId, requireRecord, requireRing, requireTimeout, ringPrefix } from "./redis-key.js";
import { ReplicatedWriter } from "./replicated-write.js";
import { unavailable } from "./store-error.js";
import { emitWarning, type RedisWarning } from "./warning.js";

/** A ring holds some kilobytes. Whoever fills it must not fill the memory of every process that reads it. */
const MAX_RING_BYTES = 16 * 1_048_576;
const MAX_RECORDS = 65_536;

/**
 * KEYS[1] hash. As a script it goes to the master whatever the client's `scaleReads`. PERSIST does nothing to a key without expiry; it is
 * here because a server that was demoted refuses it, and so does not answer from an old copy. Any other refusal (a disk that is full, too
 * few replicas) does not keep anybody from reading.
 */
const READ = `
local persisted = redis.pcall('PERSIST', KEYS[1])
if type(persisted) == 'table' and persisted.err and string.find(persisted.err, 'READONLY', 1, true) then return persisted end
if redis.call('HLEN', KEYS[1]) > ${MAX_RECORDS} then return redis.error_reply('RINGTOOLARGE') end
local fields = redis.call('HKEYS', KEYS[1])
local size = 0
for _, field in ipairs(fields) do size = size + #field + redis.call('HSTRLEN', KEYS[1], field) end
if size > ${MAX_RING_BYTES} then return redis.error_reply('RINGTOOLARGE') end
return redis.call('HGETALL', KEYS[1])`;

/**
 * KEYS[1] hash; ARGV: key id, record, "1" and the expected bytes or "0" and "", "1" and the key ids that the ring must hold or "0".
 * Fields that are no key ids do not count: a reader does not see them either.
 */
const WRITE = `
local current = redis.call('HGET', KEYS[1], ARGV[1])
if current ~= ARGV[2] then
  if ARGV[3] == '1' then
    if current ~= ARGV[4] then return 0 end
  elseif current then
    return 0
  end
  if ARGV[5] == '1' then
    local wanted = {}
    local missing = 0
    for i = 6, #ARGV do wanted[ARGV[i]] = true; missing = missing + 1 end
    for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
      if #field == 16 and not string.find(field, '[^%w_-]') then
        if not wanted[field] then return 0 end
        missing = missing - 1
      end
    end
    if missing ~= 0 then return 0 end
  end
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1`;

/** KEYS[1] says whose clock. */
const TIME = "return redis.call('TIME')";

/** Options of {@link redisKeyRingStore}. */
export interface RedisKeyRingStoreOptions {
  /**
   * Goes before the keys: `eu` makes `eu:session-keys:<ring>`. 1 to 128 bytes of UTF-8 without braces.
   *
   * @defaultValue The keys are `session-keys:<ring>`.
   */
  readonly namespace?: string;
  /**
   * Deadline of every method, in milliseconds; a write also has `waitTimeoutMs`.
   *
   * @defaultValue 1000
   */
  readonly commandTimeoutMs?: number;
  /**
   * How long a write waits for one replica to confirm it, in milliseconds.
   *
   * @defaultValue 1000
   */
  readonly waitTimeoutMs?: number;
  /**
   * Is told once of each thing that works and should not stay as it is.
   *
   * @defaultValue process.emitWarning
   */
  readonly onWarning?: (warning: RedisWarning) => void;
}

/** A {@link KeyRingStore} with connections of its own. */
export interface RedisKeyRingStore extends KeyRingStore {
  /** Closes the connections for writing; the caller's client stays open. Methods then reject with `CLOSED`. */
  close(): Promise<void>;
}

/**
 * Keeps rings in Redis 6.2, Valkey 7.2, or later, as hashes `session-keys:<ring>`.
 *
 * Reading is one script on the master. A write is a script and `WAIT 1` in one pipeline, on a connection of its own to the master that owns
 * the ring. `durable` means that a replica confirmed, or that there is none to confirm: a server outside a cluster to which no replica is
 * connected, or a master for which the cluster lists none. A cluster that lists replicas which are all down makes it `false`.
 *
 * `now()` is the clock of the master that owns the key `session-keys:`, so that all processes ask the same one.
 *
 * @param client - `Redis` or `Cluster` of ioredis 6, without `keyPrefix`.
 * @throws TypeError or RangeError when an argument is wrong.
 */
export function redisKeyRingStore(client: RedisClient, options: RedisKeyRingStoreOptions = {}): RedisKeyRingStore {
  return new HashKeyRingStore(client, options);
}

class HashKeyRingStore implements RedisKeyRingStore {
  readonly #client: RedisClient;
  readonly #prefix: string;
  readonly #commandTimeoutMs: number;
  readonly #writer: ReplicatedWriter;
  readonly #onWarning: (warning: RedisWarning) => void;
  readonly #warned = new Set<string>();
  /** Masters whose eviction policy was looked at. */
  readonly #inspected = new Set<string>();
  #closed = false;

  constructor(client: RedisClient, options: RedisKeyRingStoreOptions) {
    const { namespace, commandTimeoutMs = 1000, waitTimeoutMs = 1000, onWarning = emitWarning } = options;
    if (typeof onWarning !== "function") throw new TypeError("onWarning must be a function");
    this.#client = requireClient(client);
    this.#prefix = ringPrefix(namespace);
    this.#commandTimeoutMs = requireTimeout("commandTimeoutMs", commandTimeoutMs);
    this.#writer = new ReplicatedWriter(client, {
      commandTimeoutMs,
      waitTimeoutMs: requireTimeout("waitTimeoutMs", waitTimeoutMs),
    });
    this.#onWarning = onWarning;
  }

  async read(ring: string): Promise<readonly StoredKeyRecord[]> {
    const key = this.#key(ring);
    const reply = await this.#ask(READ, key);
    this.#inspect(key);
    if (!Array.isArray(reply)) throw unavailable("a ring is not of the known form");
    const records: StoredKeyRecord[] = [];
    for (let index = 0; index < reply.length; index += 2) {
      const keyId = String(reply[index]);
      // A copy: the reply is part of a larger buffer, and a ring keeps its records for long.
      if (isKeyId(keyId)) records.push({ keyId, record: new Uint8Array(reply[index + 1]) });
      else this.#warn({ code: "RING_FIELD_IGNORED", message: "a key ring in Redis has a field that is no key id" });
    }
    return records;
  }

  async write(
    ring: string,
    keyId: string,
    record: Uint8Array,
    { expected, onlyIfKeyIds }: WriteKeyRecordOptions = {},
  ): Promise<WriteKeyRecordResult> {
    const key = this.#key(ring);
    requireKeyId("keyId", keyId);
    const bytes = Buffer.from(requireRecord("record", record));
    if (expected !== undefined && !(expected instanceof Uint8Array))
      throw new TypeError("expected must be a Uint8Array");
    const expectation = expected === undefined ? ["0", ""] : ["1", Buffer.from(expected)];
    const wanted = [...new Set(onlyIfKeyIds)];
    for (const id of wanted) requireKeyId("onlyIfKeyIds", id);
    this.#requireOpen();
    const args = [keyId, bytes, ...expectation, onlyIfKeyIds === undefined ? "0" : "1", ...wanted];
    const { reply, replicated } = await this.#writer.run(WRITE, key, args);
    const written = Number(reply) === 1;
    return { written, durable: written && replicated };
  }

  async now(): Promise<number> {
    const reply = await this.#ask(TIME, this.#prefix);
    const [seconds, microseconds] = Array.isArray(reply) ? reply.map((part) => Number(String(part))) : [];
    const now = (seconds ?? Number.NaN) * 1000 + Math.floor((microseconds ?? Number.NaN) / 1000);
    if (!Number.isSafeInteger(now)) throw unavailable("TIME is not of the known form");
    return now;
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#writer.close();
  }

  #key(ring: string): string {
    requireRing(ring);
    return this.#prefix + ring;
  }

  #requireOpen(): void {
    if (this.#closed) throw new SealedSessionError("CLOSED", "the key ring store was closed");
  }

  async #ask(lua: string, key: string): Promise<unknown> {
    this.#requireOpen();
    return await askRedis(this.#client, this.#commandTimeoutMs, async (redis) => await redis.evalBuffer?.(lua, 1, key));
  }

  /** Looks at the eviction policy of the master that owns `key`, once; nobody waits for it. */
  #inspect(key: string): void {
    const inspection = async () => {
      const server = isCluster(this.#client) ? await ownerOf(this.#client, key) : this.#client;
      const name = nodeName(server);
      if (this.#inspected.has(name)) return;
      const warning = await evictionWarning(server);
      this.#inspected.add(name);
      if (warning !== undefined) this.#warn(warning);
    };
    // A server that does not answer now is asked at the next read.
    withinDeadline(this.#commandTimeoutMs, inspection).catch(() => {});
  }

  #warn(warning: RedisWarning): void {
    if (this.#warned.has(warning.code)) return;
    this.#warned.add(warning.code);
    this.#onWarning(warning);
  }
}
