/**
 * The principal index in Redis Cluster or one Redis: one hash for each entry, one script on it for each step.
 *
 * A hash has the entry's epoch under `epoch`, a counter under `last`, and each member under its stored id, which is longer than either.
 */
import type {
  AddMemberOptions,
  IndexMember,
  MemberToRemove,
  PrincipalIndexStore,
  RenewOptions,
} from "@sealed-session/core";
import type { ViewTimes } from "./master-view.js";
import { askRedis } from "./redirection.js";
import { type RedisClient, type RedisCommands, requireClient } from "./redis-client.js";
import { requireStoredId, requireTimeout, requireTtl, sessionPrefix } from "./redis-key.js";
import { scanStoredIds } from "./scan.js";
import { runScript, script } from "./script.js";
import { unavailable } from "./store-error.js";

const ENTRY = /^[\w-]{16,64}$/;
const TOKEN = /^[\w-]{1,64}$/;
const MIN_STORED_ID_BYTES = 16;
const MAX_DATA_BYTES = 8192;
/** Three numbers, two tokens, five colons. */
const MAX_HEAD_BYTES = 256;
/** New members after which those that have ended are looked for. */
const SWEEP_EVERY = 64;
/** `order:added at:ends at:epoch:ticket:`, times in ms by the server's clock, without an epoch when it was called off; the data follows. */
const HEAD = "^(%d+):(%d+):(%d+):([%w_-]*):([%w_-]+):";
const HEAD_OF_REPLY = /^(\d+):(\d+):\d+:([\w-]*):([\w-]+):/;

const NOW = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)`;

/** Whether a member holds in an epoch: `false` for the epoch of an entry that has none. */
const HOLDS_IN = `
local function holds(field, epoch)
  local member = epoch and redis.call('HGET', KEYS[1], field)
  if not member then return false end
  local _, _, _, _, ends, of = string.find(member, '${HEAD}')
  return of == epoch and tonumber(ends) > now
end`;

/** Moves a member to another epoch. */
const MOVE = `
local function move(field, epoch)
  local member = redis.call('HGET', KEYS[1], field)
  local _, last, times = string.find(member, '^(%d+:%d+:%d+:)[%w_-]*')
  redis.call('HSET', KEYS[1], field, times .. epoch .. string.sub(member, last + 1))
end`;

/**
 * KEYS[1] entry; ARGV: stored id, ticket, time to live in ms, epoch where there is none, data, stored id that it replaces or "". The entry lives as long as
 * the member that ends last.
 */
const ADD = script(`${NOW}${HOLDS_IN}
local epoch = redis.call('HGET', KEYS[1], 'epoch')
local known = redis.call('HGET', KEYS[1], ARGV[1])
if known then
  local _, _, _, _, _, of, ticket = string.find(known, '${HEAD}')
  if ticket == ARGV[2] then return of ~= '' and of end
end
if ARGV[6] ~= '' and not holds(ARGV[6], epoch) then return false end
if not epoch then
  epoch = ARGV[4]
  redis.call('HSET', KEYS[1], 'epoch', epoch)
end
local order = redis.call('HINCRBY', KEYS[1], 'last', 1)
if order % ${SWEEP_EVERY} == 0 then
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if #field >= ${MIN_STORED_ID_BYTES} then
      local _, _, _, _, ends = string.find(redis.call('HGET', KEYS[1], field), '${HEAD}')
      if (tonumber(ends) or 0) <= now then redis.call('HDEL', KEYS[1], field) end
    end
  end
end
local head = string.format('%.0f:%.0f:%.0f:%s:%s:', order, now, now + ARGV[3], epoch, ARGV[2])
redis.call('HSET', KEYS[1], ARGV[1], head .. ARGV[5])
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[3]) then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return epoch`);

/** KEYS[1] entry; ARGV: stored id, epoch. A script goes to the master whatever the client's `scaleReads`. */
const HOLDS = script(`${NOW}${HOLDS_IN}
local epoch = redis.call('HGET', KEYS[1], 'epoch')
return epoch == ARGV[2] and holds(ARGV[1], epoch) and 1 or 0`);

const MEMBERS = `${NOW}
local reply = {string.format('%.0f', now), redis.call('HGET', KEYS[1], 'epoch') or ''}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if #all[i] >= ${MIN_STORED_ID_BYTES} then
    local _, _, _, _, ends = string.find(all[i + 1], '${HEAD}')
    if (tonumber(ends) or 0) > now then
      reply[#reply + 1] = all[i]
      reply[#reply + 1] = all[i + 1]
    end
  end
end
return reply`;

/** KEYS[1] entry; ARGV: epoch, stored id that is not called off or "". */
const RENEW = `${NOW}${HOLDS_IN}${MOVE}
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if ARGV[2] ~= '' and holds(ARGV[2], epoch) then move(ARGV[2], ARGV[1]) end
if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'epoch', ARGV[1]) end
${MEMBERS}`;

/** KEYS[1] entry; ARGV: stored id. */
const CALL_OFF = script(`${NOW}${MOVE}
local member = redis.call('HGET', KEYS[1], ARGV[1])
if not member then return 0 end
local _, _, _, _, ends = string.find(member, '${HEAD}')
if (tonumber(ends) or 0) <= now then return 0 end
move(ARGV[1], '')
return 1`);

/** KEYS[1] entry; ARGV: stored id, ticket or "", and so on. */
const REMOVE = script(`${NOW}
local removed = 0
for i = 1, #ARGV, 2 do
  local member = redis.call('HGET', KEYS[1], ARGV[i])
  if member then
    local _, _, _, _, ends, _, ticket = string.find(member, '${HEAD}')
    if ARGV[i + 1] == '' or ticket == ARGV[i + 1] then
      redis.call('HDEL', KEYS[1], ARGV[i])
      if (tonumber(ends) or 0) > now then removed = removed + 1 end
    end
  end
end
return removed`);

/** Options of {@link redisPrincipalIndex}. */
export interface RedisPrincipalIndexOptions {
  /**
   * Goes before the keys: `eu` makes `eu:session-index:<entry>`. 1 to 128 bytes of UTF-8 without braces.
   *
   * @defaultValue The keys are `session-index:<entry>`.
   */
  readonly namespace?: string;
  /**
   * Deadline of every method, in milliseconds; for `scan`, of each of its commands.
   *
   * @defaultValue 1000
   */
  readonly commandTimeoutMs?: number;
  /**
   * How long `scan` waits for a master that does not answer to come back or be replaced, in milliseconds.
   *
   * @defaultValue 30000
   */
  readonly failoverTimeoutMs?: number;
}

/**
 * Keeps the principal index in Redis 6.2, Valkey 7.2, or later, as hashes `session-index:<entry>`, which expire with the session that ends last. Every step
 * is one script on one key. Redis must not evict them (`maxmemory-policy noeviction`): what is not in the index is not found by "log out everywhere".
 *
 * @param client - `Redis` or `Cluster` of ioredis 6, without `keyPrefix`.
 * @throws TypeError or RangeError when an argument is wrong.
 */
export function redisPrincipalIndex(
  client: RedisClient,
  options: RedisPrincipalIndexOptions = {},
): PrincipalIndexStore {
  return new RedisPrincipalIndex(client, options);
}

class RedisPrincipalIndex implements PrincipalIndexStore {
  readonly #client: RedisClient;
  readonly #prefix: string;
  readonly #times: ViewTimes;

  constructor(client: RedisClient, options: RedisPrincipalIndexOptions) {
    const { namespace, commandTimeoutMs = 1000, failoverTimeoutMs = 30_000 } = options;
    this.#client = requireClient(client);
    this.#prefix = indexPrefix(namespace);
    this.#times = {
      commandTimeoutMs: requireTimeout("commandTimeoutMs", commandTimeoutMs),
      failoverTimeoutMs: requireTimeout("failoverTimeoutMs", failoverTimeoutMs),
    };
  }

  async add(entry: string, storedId: string, options: AddMemberOptions): Promise<string | undefined> {
    const key = this.#key(entry);
    requireMemberId(storedId);
    const ttlMs = String(requireTtl("ttlMs", options.ttlMs));
    const ticket = requireToken("ticket", options.ticket);
    const epoch = requireToken("epoch", options.epoch);
    const data = requireData(options.data);
    const replaces = options.replaces === undefined ? "" : requireMemberId(options.replaces);
    const args = [storedId, ticket, ttlMs, epoch, data, replaces];
    const held = await this.#ask((redis) => runScript(redis, ADD, key, ...args));
    return held === null ? undefined : String(held);
  }

  async holds(entry: string, storedId: string, epoch: string): Promise<boolean> {
    const key = this.#key(entry);
    requireMemberId(storedId);
    requireToken("epoch", epoch);
    return Number(await this.#ask((redis) => runScript(redis, HOLDS, key, storedId, epoch))) === 1;
  }

  async members(entry: string): Promise<readonly IndexMember[]> {
    const key = this.#key(entry);
    return membersOf(await this.#ask(async (redis) => redis.evalBuffer?.(MEMBERS, 1, key)));
  }

  async renew(entry: string, epoch: string, { except }: RenewOptions = {}): Promise<readonly IndexMember[]> {
    const key = this.#key(entry);
    requireToken("epoch", epoch);
    const spared = except === undefined ? "" : requireMemberId(except);
    return membersOf(await this.#ask(async (redis) => redis.evalBuffer?.(RENEW, 1, key, epoch, spared)));
  }

  async callOff(entry: string, storedId: string): Promise<boolean> {
    const key = this.#key(entry);
    requireMemberId(storedId);
    return Number(await this.#ask((redis) => runScript(redis, CALL_OFF, key, storedId))) === 1;
  }

  async remove(entry: string, members: readonly MemberToRemove[]): Promise<number> {
    const key = this.#key(entry);
    const args = members.flatMap(({ storedId, ticket }) => {
      requireMemberId(storedId);
      return [storedId, ticket === undefined ? "" : requireToken("ticket", ticket)];
    });
    if (args.length === 0) return 0;
    return Number(await this.#ask((redis) => runScript(redis, REMOVE, key, ...args)));
  }

  scan(): AsyncIterable<string> {
    return scanStoredIds(this.#client, this.#prefix, this.#times);
  }

  #key(entry: string): string {
    if (typeof entry !== "string") throw new TypeError("entry must be a string");
    if (!ENTRY.test(entry)) throw new RangeError("entry must be 16 to 64 characters of base64url");
    return this.#prefix + entry;
  }

  #ask<T>(work: (redis: RedisCommands) => Promise<T>): Promise<T> {
    return askRedis(this.#client, this.#times.commandTimeoutMs, work);
  }
}

/** `session-index:` in its namespace. */
function indexPrefix(namespace: string | undefined): string {
  return `${sessionPrefix(namespace).slice(0, -"session:".length)}session-index:`;
}

function membersOf(reply: unknown): IndexMember[] {
  if (!Array.isArray(reply) || reply.length < 2 || reply.length % 2 !== 0) {
    throw unavailable("a script had another reply");
  }
  const [now, currentEpoch, ...rest] = reply as Buffer[];
  const members: IndexMember[] = [];
  for (let i = 0; i < rest.length; i += 2) {
    const [storedId, value] = [rest[i] as Buffer, rest[i + 1] as Buffer];
    const head = HEAD_OF_REPLY.exec(value.toString("latin1", 0, MAX_HEAD_BYTES));
    // Somebody else's field.
    if (head === null) continue;
    const [{ length }, order, addedAt, epoch, ticket] = head as unknown as [string, string, string, string, string];
    members.push({
      storedId: storedId.toString(),
      ticket,
      order: Number(order),
      ageMs: Math.max(0, Number(now) - Number(addedAt)),
      data: new Uint8Array(value.subarray(length)),
      isCalledOff: epoch !== String(currentEpoch),
    });
  }
  return members;
}

function requireMemberId(storedId: string): string {
  requireStoredId(storedId);
  if (Buffer.byteLength(storedId) < MIN_STORED_ID_BYTES) {
    throw new RangeError(`storedId must have at least ${MIN_STORED_ID_BYTES} bytes of UTF-8`);
  }
  return storedId;
}

function requireToken(field: string, token: string): string {
  if (typeof token !== "string") throw new TypeError(`${field} must be a string`);
  if (!TOKEN.test(token)) throw new RangeError(`${field} must be 1 to 64 characters of base64url`);
  return token;
}

function requireData(data: Uint8Array): Buffer {
  if (!(data instanceof Uint8Array)) throw new TypeError("data must be a Uint8Array");
  if (data.length < 1 || data.length > MAX_DATA_BYTES)
    throw new RangeError(`data must have 1 to ${MAX_DATA_BYTES} bytes`);
  return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
}
