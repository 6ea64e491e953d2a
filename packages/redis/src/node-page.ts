/**
 * Envelopes of one master, read and changed many at a time, in pipelines.
 */
import { type EnvelopeChange, type EnvelopePage, IDENTITY_BYTES } from "@sealed-session/core";
import { withinDeadline } from "./deadline.js";
import type { ViewTimes } from "./master-view.js";
import { askRedis } from "./redirection.js";
import type { BulkPipeline, RedisClient, RedisCommands, RedisServer } from "./redis-client.js";
import { runScript, script } from "./script.js";
import { replyCode, storeError, unavailable } from "./store-error.js";

/** Commands of one pipeline: their answers have to come within one deadline. */
const COMMANDS_AT_ONCE = 1024;
/** Stands for a value of another type, as other programs may keep under the same prefix: the beginning of no envelope. */
const NO_STRING = Uint8Array.of(0);
const NOTHING = Buffer.alloc(0);

/**
 * KEYS[1] envelope; ARGV: the first bytes of the expected one, the new one or "" to remove it. KEEPTTL (6.0) keeps the very millisecond. What a command
 * that was sent twice has changed already counts as changed.
 */
const CHANGE = script(`
local head = redis.call('GETRANGE', KEYS[1], 0, #ARGV[1] - 1)
if head ~= ARGV[1] then
  return ARGV[2] ~= '' and head == string.sub(ARGV[2], 1, #ARGV[1])
end
if ARGV[2] == '' then return redis.call('UNLINK', KEYS[1]) end
redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL')
return 1`);

/** Where a page lies. */
export interface PagePlace {
  /** Is asked for what the master does not do. */
  readonly client: RedisClient;
  /** What the keys begin with. */
  readonly prefix: string;
  /** How long to wait. */
  readonly times: ViewTimes;
}

/** One page. What its master does not do, since a slot has moved or it does not know the script, is asked of the cluster, one by one. */
export class NodePage implements EnvelopePage {
  readonly storedIds: readonly string[];
  readonly #place: PagePlace;
  readonly #server: RedisServer;

  constructor(place: PagePlace, server: RedisServer, storedIds: readonly string[]) {
    this.#place = place;
    this.#server = server;
    this.storedIds = storedIds;
  }

  peek(storedIds: readonly string[], bytes: number): Promise<(Uint8Array | undefined)[]> {
    return this.#run(storedIds, {
      storedId: (storedId) => storedId,
      send: (pipeline, key) => pipeline.getrangeBuffer(key, 0, bytes - 1),
      // A client that reads from replicas would send GETRANGE there.
      ask: (redis, key) => redis.getexBuffer(key),
      read: (reply) => bytesOf(reply)?.subarray(0, bytes),
      otherType: NO_STRING,
    });
  }

  get(storedIds: readonly string[]): Promise<(Uint8Array | undefined)[]> {
    // GETEX without options reads from the master also where the client reads from replicas.
    return this.#run(storedIds, {
      storedId: (storedId) => storedId,
      send: (pipeline, key) => pipeline.getexBuffer(key),
      ask: (redis, key) => redis.getexBuffer(key),
      read: bytesOf,
      otherType: NO_STRING,
    });
  }

  change(changes: readonly EnvelopeChange[]): Promise<boolean[]> {
    return this.#run(changes, {
      storedId: ({ storedId }) => storedId,
      send: (pipeline, key, change) => pipeline.evalsha(CHANGE.sha1, 1, key, ...argumentsOf(change)),
      ask: (redis, key, change) => runScript(redis, CHANGE, key, ...argumentsOf(change)),
      read: (reply) => Number(reply) === 1,
      otherType: false,
    });
  }

  async #run<T, R>(items: readonly T[], work: Work<T, R>): Promise<R[]> {
    const results: R[] = [];
    for (let from = 0; from < items.length; from += COMMANDS_AT_ONCE) {
      results.push(...(await this.#runSome(items.slice(from, from + COMMANDS_AT_ONCE), work)));
    }
    return results;
  }

  async #runSome<T, R>(items: readonly T[], work: Work<T, R>): Promise<R[]> {
    const { prefix, times } = this.#place;
    const replies = await withinDeadline(times.commandTimeoutMs, () => {
      const pipeline = this.#server.pipeline();
      for (const item of items) work.send(pipeline, prefix + work.storedId(item), item);
      return pipeline.exec();
    });
    const results: R[] = [];
    const unanswered: number[] = [];
    for (let index = 0; index < items.length; index++) {
      const [error, reply] = replies?.[index] ?? [unavailable("a pipeline had no reply"), undefined];
      if (error === null) results[index] = work.read(reply);
      else if (replyCode(error) === "WRONGTYPE") results[index] = work.otherType;
      // Where the connection broke nobody has the keys before somebody takes over.
      else if (replyCode(error) === undefined) throw storeError(error);
      else unanswered.push(index);
    }
    await Promise.all(
      unanswered.map(async (index) => {
        results[index] = await this.#ask(items[index] as T, work);
      }),
    );
    return results;
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

/** One command for each of many items. */
interface Work<T, R> {
  readonly storedId: (item: T) => string;
  readonly send: (pipeline: BulkPipeline, key: string, item: T) => unknown;
  /** The same wherever the item lies. */
  readonly ask: (redis: RedisCommands, key: string, item: T) => Promise<unknown>;
  readonly read: (reply: unknown) => R;
  /** The result where a value of another type lies. */
  readonly otherType: R;
}

function argumentsOf({ expected, envelope }: EnvelopeChange): [Buffer, Buffer] {
  return [asBuffer(expected, IDENTITY_BYTES), envelope === undefined ? NOTHING : asBuffer(envelope)];
}

/** The first bytes, which are not copied: ioredis wants a Buffer. */
function asBuffer({ buffer, byteOffset, byteLength }: Uint8Array, maxBytes = byteLength): Buffer {
  return Buffer.from(buffer, byteOffset, Math.min(byteLength, maxBytes));
}

function bytesOf(reply: unknown): Uint8Array | undefined {
  return reply instanceof Uint8Array && reply.length > 0 ? reply : undefined;
}
