/**
 * The walk over all envelopes for those who work on many of them: all masters side by side, in pages whose commands go to one node in one pipeline.
 */
import type { EnvelopeChange, EnvelopePage, WalkOptions, WalkPosition } from "@sealed-session/core";
import { withinDeadline } from "./deadline.js";
import { type MasterView, mayHaveGained, type ViewTimes, viewMasters } from "./master-view.js";
import { askRedis } from "./redirection.js";
import type { BulkPipeline, RedisClient, RedisCommands, RedisServer } from "./redis-client.js";
import { importersToWalk, MAX_FAILURES, scanPage } from "./scan.js";

/** The keys that are walked over. */
export interface WalkedKeys {
  /** Whose masters are walked. */
  readonly client: RedisClient;
  /** What the keys begin with. */
  readonly prefix: string;
  /** How long to wait. */
  readonly times: ViewTimes;
}

/** What a walk needs of a store. */
export interface WalkedStore extends WalkedKeys {
  /** Puts the command that makes a change into a pipeline; its reply is 1 when it was made. */
  readonly change: (pipeline: BulkPipeline, key: string, change: EnvelopeChange) => void;
  /** Makes one change. */
  readonly changeOne: (redis: RedisCommands, key: string, change: EnvelopeChange) => Promise<unknown>;
}

/** Where one master stands: how far SCAN has come on a server that was this one, with these slots. */
interface Stand {
  readonly cursor: string;
  readonly identity: string;
  /** As ranges: "0-5460 6000-6000". */
  readonly owned: string;
}

/** Visits every envelope under the prefix, as {@link walkKeys} does. */
export function walkPages(
  store: WalkedStore,
  visit: (page: EnvelopePage) => Promise<void>,
  options: WalkOptions,
): Promise<void> {
  return walkKeys(store, (server, storedIds) => visit(new NodePage(store, server, storedIds)), options);
}

/**
 * Visits every key under the prefix that lives throughout, although slots move and masters change: after each round the masters are asked what they
 * own, and those that may have gained keys are walked again. A master that broke off is walked on from where it stood, if it still is the same.
 */
export async function walkKeys(
  { client, prefix, times }: WalkedKeys,
  visit: (server: RedisServer, ids: readonly string[]) => Promise<void>,
  { position, onPosition, signal }: WalkOptions,
  isId?: (text: string) => boolean,
): Promise<void> {
  const walkedLast = new Map<string, string>();
  const cursors = new Map<string, string>();
  let failures = 0;
  let masters = await viewMasters(client, prefix, times);
  let pending = resume(masters, position, cursors);
  while (pending.length > 0 && !signal?.aborted) {
    const brokenOff = new Set<string>();
    let visitFailure: { readonly error: unknown } | undefined;
    await Promise.all(
      pending.map(async ([name, { server }]) => {
        let cursor = cursors.get(name) ?? "0";
        do {
          try {
            const page = await scanPage(server, prefix, cursor, times, isId);
            if (page.storedIds.length > 0) await visit(server, page.storedIds);
            ({ cursor } = page);
          } catch (error) {
            brokenOff.add(name);
            if (++failures > MAX_FAILURES) visitFailure ??= { error };
            return;
          }
          cursors.set(name, cursor === "0" ? DONE : cursor);
          onPosition?.(positionOf(masters, cursors));
        } while (cursor !== "0" && !signal?.aborted && visitFailure === undefined);
      }),
    );
    if (visitFailure !== undefined) throw visitFailure.error;
    if (signal?.aborted) return;
    const now = await viewMasters(client, prefix, times);
    for (const [name, view] of now) if (mayHaveGained(masters.get(name), view)) cursors.delete(name);
    const changed = [...now].filter(([name]) => brokenOff.has(name) || !cursors.has(name));
    pending = changed.length > 0 ? changed : importersToWalk(now, walkedLast);
    for (const [name] of pending) if (cursors.get(name) === DONE) cursors.delete(name);
    masters = now;
  }
}

/** @returns How many keys the masters hold, also those of others. */
export async function estimateKeys({ client, prefix, times }: WalkedKeys): Promise<number> {
  const masters = await viewMasters(client, prefix, times);
  const sizes = [...masters.values()].map(({ server }) =>
    withinDeadline(times.commandTimeoutMs, () => server.dbsize()),
  );
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
}

const DONE = "done";

/** The masters that are still to be walked, after a walk that was interrupted at `position`. */
function resume(
  masters: ReadonlyMap<string, MasterView>,
  position: WalkPosition | undefined,
  cursors: Map<string, string>,
): [string, MasterView][] {
  for (const [name, view] of masters) {
    const stand = position?.[name];
    if (!isStand(stand) || stand.identity !== view.identity || stand.owned !== rangesOf(view.owned)) continue;
    cursors.set(name, stand.cursor);
  }
  return [...masters].filter(([name]) => cursors.get(name) !== DONE);
}

function positionOf(masters: ReadonlyMap<string, MasterView>, cursors: ReadonlyMap<string, string>): WalkPosition {
  const position: Record<string, Stand> = {};
  for (const [name, { identity, owned }] of masters) {
    const cursor = cursors.get(name);
    if (cursor !== undefined) position[name] = { cursor, identity, owned: rangesOf(owned) };
  }
  return position;
}

function isStand(value: unknown): value is Stand {
  if (typeof value !== "object" || value === null) return false;
  const { cursor, identity, owned } = value as Partial<Record<keyof Stand, unknown>>;
  return /^(\d+|done)$/.test(String(cursor)) && typeof identity === "string" && typeof owned === "string";
}

function rangesOf(owned: Uint8Array): string {
  const ranges: string[] = [];
  for (let slot = 0; slot < owned.length; slot++) {
    if (owned[slot] !== 1) continue;
    const first = slot;
    while (owned[slot + 1] === 1) slot++;
    ranges.push(`${first}-${slot}`);
  }
  return ranges.join(" ");
}

/** Envelopes of one node. What the node does not do (the slot has moved, the connection broke) is asked of the cluster, one by one. */
class NodePage implements EnvelopePage {
  readonly storedIds: readonly string[];
  readonly #store: WalkedStore;
  readonly #server: RedisServer;

  constructor(store: WalkedStore, server: RedisServer, storedIds: readonly string[]) {
    this.#store = store;
    this.#server = server;
    this.storedIds = storedIds;
  }

  peek(storedIds: readonly string[], bytes: number): Promise<(Uint8Array | undefined)[]> {
    return this.#run(storedIds, {
      key: (storedId) => storedId,
      send: (pipeline, key) => pipeline.getrangeBuffer(key, 0, bytes - 1),
      // A client that reads from replicas would send GETRANGE there.
      ask: (redis, key) => redis.getexBuffer(key),
      read: (reply) => bytesOf(reply)?.subarray(0, bytes),
    });
  }

  get(storedIds: readonly string[]): Promise<(Uint8Array | undefined)[]> {
    // GETEX without options reads from the master also where the client reads from replicas.
    return this.#run(storedIds, {
      key: (storedId) => storedId,
      send: (pipeline, key) => pipeline.getexBuffer(key),
      ask: (redis, key) => redis.getexBuffer(key),
      read: bytesOf,
    });
  }

  change(changes: readonly EnvelopeChange[]): Promise<boolean[]> {
    const { change, changeOne } = this.#store;
    return this.#run(changes, {
      key: ({ storedId }) => storedId,
      send: change,
      ask: changeOne,
      read: (reply) => Number(reply) === 1,
    });
  }

  async #run<T, R>(items: readonly T[], { key, send, ask, read }: Work<T, R>): Promise<R[]> {
    const { client, prefix, times } = this.#store;
    const replies = await withinDeadline(times.commandTimeoutMs, () => {
      const pipeline = this.#server.pipeline();
      for (const item of items) send(pipeline, prefix + key(item), item);
      return pipeline.exec();
    }).catch(() => null);
    return await Promise.all(
      items.map(async (item, index) => {
        const [error, reply] = replies?.[index] ?? [undefined, undefined];
        if (error === null) return read(reply);
        return read(await askRedis(client, times.commandTimeoutMs, (redis) => ask(redis, prefix + key(item), item)));
      }),
    );
  }
}

/** One command for each of many items. */
interface Work<T, R> {
  readonly key: (item: T) => string;
  readonly send: (pipeline: BulkPipeline, key: string, item: T) => unknown;
  readonly ask: (redis: RedisCommands, key: string, item: T) => Promise<unknown>;
  readonly read: (reply: unknown) => R;
}

function bytesOf(reply: unknown): Uint8Array | undefined {
  return reply instanceof Uint8Array && reply.length > 0 ? reply : undefined;
}
