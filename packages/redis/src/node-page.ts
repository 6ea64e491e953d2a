/**
 * Envelopes of one master, read and changed many at a time.
 *
 * One script works on many keys of the master, whatever their slots: it names none of them as its own, and what is no longer there it leaves to whoever
 * asks the cluster. What a command costs the client would otherwise be most of what a walk costs.
 */
import { type EnvelopeChange, type EnvelopePage, IDENTITY_BYTES } from "@sealed-session/core";
import { withinDeadline } from "./deadline.js";
import type { ViewTimes } from "./master-view.js";
import { askRedis } from "./redirection.js";
import type { RedisClient, RedisCommands, RedisServer } from "./redis-client.js";
import { OTHER_TYPE, type ScanPage } from "./scan.js";
import { runScript, type Script, script } from "./script.js";
import { replyCode, storeError, unavailable } from "./store-error.js";

/** Keys of one script: the server is busy with it for a fraction of a millisecond. */
const KEYS_PER_SCRIPT = 64;
/** Scripts of one pipeline: their answers have to come within one deadline. */
const SCRIPTS_AT_ONCE = 16;
const ALL_BYTES = -1;
const NOTHING = Buffer.alloc(0);
/** What a script answers for a key that it cannot reach: its slot has moved, or is moving. */
const UNREACHED = -1;

/** ARGV: last byte to read, what stands for another type, keys. Answers with bytes, none where there is no key, or a number. */
const READ = script(`
local found = {}
for i = 3, #ARGV do
  local bytes = redis.pcall('GETRANGE', ARGV[i], 0, ARGV[1])
  if type(bytes) == 'table' then bytes = string.find(bytes.err, 'WRONGTYPE', 1, true) and ARGV[2] or ${UNREACHED} end
  found[i - 2] = bytes
end
return found`);

/**
 * ARGV, for each change: key, first bytes of the expected envelope, the new one or "" to remove it. Answers with 1 where it was made. KEEPTTL (6.0) keeps
 * the very millisecond. What a script that was sent twice has changed already counts as changed.
 */
const CHANGE = script(`
local made = {}
for i = 1, #ARGV, 3 do
  local key, expected, envelope = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local head = redis.pcall('GETRANGE', key, 0, #expected - 1)
  local result = 0
  if type(head) == 'table' then
    if not string.find(head.err, 'WRONGTYPE', 1, true) then result = ${UNREACHED} end
  elseif head == expected then
    if envelope == '' then redis.call('UNLINK', key) else redis.call('SET', key, envelope, 'KEEPTTL') end
    result = 1
  elseif envelope ~= '' and head == string.sub(envelope, 1, #expected) then
    result = 1
  end
  made[#made + 1] = result
end
return made`);

/** Where a page lies. */
export interface PagePlace {
  /** Is asked for what the master does not do. */
  readonly client: RedisClient;
  /** What the keys begin with. */
  readonly prefix: string;
  /** How long to wait. */
  readonly times: ViewTimes;
}

/** One page. What its master does not do is asked of the cluster, one by one. */
export class NodePage implements EnvelopePage {
  readonly storedIds: readonly string[];
  readonly #place: PagePlace;
  readonly #server: RedisServer;
  readonly #heads: ReadonlyMap<string, Uint8Array>;

  constructor(place: PagePlace, server: RedisServer, { storedIds, heads }: ScanPage) {
    this.#place = place;
    this.#server = server;
    this.storedIds = storedIds;
    this.#heads = heads;
  }

  async peek(storedIds: readonly string[], bytes: number): Promise<(Uint8Array | undefined)[]> {
    // Most of them came with the ids.
    const others = storedIds.filter((storedId) => !this.#heads.has(storedId));
    const read = others.length === 0 ? [] : await this.#read(others, bytes);
    return storedIds.map((storedId) => {
      const head = this.#heads.get(storedId);
      if (head === undefined) return read.shift();
      return head.length === 0 ? undefined : head.subarray(0, bytes);
    });
  }

  get(storedIds: readonly string[]): Promise<(Uint8Array | undefined)[]> {
    return this.#read(storedIds, ALL_BYTES);
  }

  change(changes: readonly EnvelopeChange[]): Promise<boolean[]> {
    return this.#run(changes, {
      storedId: ({ storedId }) => storedId,
      script: CHANGE,
      args: [],
      argsOf: (key, change) => [key, ...argumentsOf(change)],
      ask: async (redis, key, change) => {
        // Named as its own, the key leads the script to whoever has it.
        const [made] = (await runScript(redis, CHANGE, key, key, ...argumentsOf(change))) as [number];
        if (made === UNREACHED) throw unavailable("a slot is moving");
        return made;
      },
      read: (reply) => reply === 1,
      otherType: false,
    });
  }

  #read(storedIds: readonly string[], bytes: number): Promise<(Uint8Array | undefined)[]> {
    return this.#run(storedIds, {
      storedId: (storedId) => storedId,
      script: READ,
      args: [String(bytes === ALL_BYTES ? ALL_BYTES : bytes - 1), OTHER_TYPE],
      argsOf: (key) => [key],
      // GETEX without options reads from the master also where the client reads from replicas.
      ask: (redis, key) => redis.getexBuffer(key),
      read: (reply) => {
        if (!(reply instanceof Uint8Array) || reply.length === 0) return undefined;
        return bytes === ALL_BYTES ? reply : reply.subarray(0, bytes);
      },
      otherType: OTHER_TYPE,
    });
  }

  async #run<T, R>(items: readonly T[], work: Work<T, R>): Promise<R[]> {
    const results: R[] = [];
    for (let from = 0; from < items.length; from += SCRIPTS_AT_ONCE * KEYS_PER_SCRIPT) {
      const some = items.slice(from, from + SCRIPTS_AT_ONCE * KEYS_PER_SCRIPT);
      const replies = await this.#send(some, work);
      const unreached = replies.flatMap((reply, index) => (reply === UNREACHED ? [index] : []));
      const asked = await Promise.all(unreached.map((index) => this.#ask(some[index] as T, work)));
      for (const reply of replies) results.push(reply === UNREACHED ? (asked.shift() as R) : work.read(reply));
    }
    return results;
  }

  /** @returns One reply for each item. */
  async #send<T>(items: readonly T[], work: Work<T, unknown>): Promise<unknown[]> {
    const groups: T[][] = [];
    for (let from = 0; from < items.length; from += KEYS_PER_SCRIPT)
      groups.push(items.slice(from, from + KEYS_PER_SCRIPT));
    const replies = await this.#pipeline(groups, work);
    const unknown = groups.filter((_, index) => replyCode(replies[index]?.[0]) === "NOSCRIPT");
    if (unknown.length > 0) {
      // A new server, or one after a failover.
      const { lua } = work.script;
      await withinDeadline(this.#place.times.commandTimeoutMs, () => this.#server.script("LOAD", lua));
      const again = await this.#pipeline(unknown, work);
      return this.#repliesOf(
        groups,
        replies.map((reply) => (replyCode(reply[0]) === "NOSCRIPT" ? (again.shift() ?? reply) : reply)),
      );
    }
    return this.#repliesOf(groups, replies);
  }

  async #pipeline<T>(
    groups: readonly (readonly T[])[],
    { storedId, script, args, argsOf }: Work<T, unknown>,
  ): Promise<Reply[]> {
    const { prefix, times } = this.#place;
    const replies = await withinDeadline(times.commandTimeoutMs, () => {
      const pipeline = this.#server.pipeline();
      for (const group of groups) {
        const own = group.flatMap((item) => argsOf(prefix + storedId(item), item));
        pipeline.evalshaBuffer?.(script.sha1, 0, ...args, ...own);
      }
      return pipeline.exec();
    });
    return replies ?? [];
  }

  #repliesOf(groups: readonly (readonly unknown[])[], replies: readonly Reply[]): unknown[] {
    return groups.flatMap((group, index) => {
      const [error, reply] = replies[index] ?? [unavailable("a pipeline had no reply")];
      if (error === null && Array.isArray(reply) && reply.length === group.length) return reply as unknown[];
      // Where the connection broke nobody has the keys before somebody takes over.
      if (error !== null && replyCode(error) === undefined) throw storeError(error);
      return group.map(() => UNREACHED);
    });
  }

  #ask<T, R>(item: T, { storedId, ask, read, otherType }: Work<T, R>): Promise<R> {
    const { client, prefix, times } = this.#place;
    return askRedis(client, times.commandTimeoutMs, async (redis) => {
      try {
        return read(await ask(redis, prefix + storedId(item), item));
      } catch (error) {
        if (replyCode(error) === "WRONGTYPE") return otherType;
        throw error;
      }
    });
  }
}

/** One script on the keys of many items. */
interface Work<T, R> {
  readonly storedId: (item: T) => string;
  readonly script: Script;
  /** The script's first arguments, and those of an item. */
  readonly args: readonly (string | Buffer)[];
  readonly argsOf: (key: string, item: T) => (string | Buffer)[];
  /** The same for one item, wherever it lies. */
  readonly ask: (redis: RedisCommands, key: string, item: T) => Promise<unknown>;
  readonly read: (reply: unknown) => R;
  /** The result where a value of another type lies. */
  readonly otherType: R;
}

type Reply = readonly [error: Error | null, reply?: unknown];

function argumentsOf({ expected, envelope }: EnvelopeChange): [Buffer, Buffer] {
  return [asBuffer(expected, IDENTITY_BYTES), envelope === undefined ? NOTHING : asBuffer(envelope)];
}

/** The first bytes, which are not copied: ioredis wants a Buffer. */
function asBuffer({ buffer, byteOffset, byteLength }: Uint8Array, maxBytes = byteLength): Buffer {
  return Buffer.from(buffer, byteOffset, Math.min(byteLength, maxBytes));
}
