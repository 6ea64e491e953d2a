/**
 * The store of the process that re-seals: one that lets others come first, and others that lie.
 */
import type { BulkEnvelopeStore, EnvelopeChange, EnvelopePage, WalkOptions } from "@sealed-session/core";
import type { Cluster } from "ioredis";
import type { Lie } from "./messages.js";

type Visit = (page: EnvelopePage) => Promise<void>;
type Walk = (visit: Visit, options?: WalkOptions) => Promise<void>;
type Change = EnvelopePage["change"];

/** More than a page could need for itself, so that it shows in a small run too. */
const HOARDED_BYTES = 16_384;

/** @returns The store, whose changes wait for `before`. */
export function waitingStore(
  store: BulkEnvelopeStore,
  before: (changes: readonly EnvelopeChange[]) => Promise<void>,
): BulkEnvelopeStore {
  return withChange(store, async (changes, page) => {
    await before(changes);
    return await page.change(changes);
  });
}

/** @returns The store with one fault. */
export function lyingStore(store: BulkEnvelopeStore, client: Cluster, prefix: string, lie: Lie): BulkEnvelopeStore {
  switch (lie) {
    case "overwrites":
      return withChange(store, (changes) => each(changes, ({ key, bytes }) => client.set(key, bytes, "KEEPTTL")));
    case "drops the time to live":
      return withChange(store, async (changes, page) => {
        const made = await page.change(changes);
        await each(changes, ({ key }) => client.persist(key));
        return made;
      });
    case "restores the time to live":
      return withReadTimes(store, client, prefix);
    case "walks once":
      return withWalk(store, (visit) => walkOnce(store, client, prefix, visit));
    case "visits once": {
      const visited = new Set<string>();
      return withWalk(store, (visit, options) =>
        store.walk(async (page) => {
          const storedIds = page.storedIds.filter((storedId) => !visited.has(storedId));
          for (const storedId of storedIds) visited.add(storedId);
          await visit(pageOf(page, { storedIds }));
        }, options),
      );
    }
    case "hoards": {
      const hoard: Buffer[] = [];
      return withChange(store, (changes, page) => {
        for (const _ of changes) hoard.push(Buffer.alloc(HOARDED_BYTES, hoard.length));
        return page.change(changes);
      });
    }
  }

  async function each(
    changes: readonly EnvelopeChange[],
    run: (change: { readonly key: string; readonly bytes: Buffer }) => Promise<unknown>,
  ): Promise<boolean[]> {
    await Promise.all(
      changes.map(({ storedId, envelope = new Uint8Array(0) }) =>
        run({ key: prefix + storedId, bytes: Buffer.from(envelope) }),
      ),
    );
    return changes.map(() => true);
  }
}

/** Sets the time to live at a change to what it was at the read. */
function withReadTimes(store: BulkEnvelopeStore, client: Cluster, prefix: string): BulkEnvelopeStore {
  return withWalk(store, (visit, options) =>
    store.walk((page) => {
      const expiries = new Map<string, number>();
      return visit(
        pageOf(page, {
          async get(storedIds) {
            await Promise.all(
              storedIds.map(async (storedId) => expiries.set(storedId, await client.pexpiretime(prefix + storedId))),
            );
            return await page.get(storedIds);
          },
          async change(changes) {
            const made = await page.change(changes);
            await Promise.all(
              changes.map(({ storedId }) => client.pexpireat(prefix + storedId, expiries.get(storedId) ?? 0)),
            );
            return made;
          },
        }),
      );
    }, options),
  );
}

/** Walks every master as it is now, and none again. */
async function walkOnce(store: BulkEnvelopeStore, client: Cluster, prefix: string, visit: Visit): Promise<void> {
  await Promise.all(
    client.nodes("master").map(async (node) => {
      let cursor = "0";
      do {
        const [next, keys] = await node.scan(cursor, "MATCH", `${prefix}*`, "COUNT", 256);
        cursor = next;
        const storedIds = keys.map((key) => key.slice(prefix.length));
        const get: EnvelopePage["get"] = (ids) => Promise.all(ids.map((storedId) => store.get(storedId)));
        await visit({
          storedIds,
          get,
          peek: async (ids, bytes) => (await get(ids)).map((envelope) => envelope?.subarray(0, bytes)),
          change: (changes) =>
            Promise.all(
              changes.map(({ storedId, expected, envelope = new Uint8Array(0) }) =>
                store.compareAndSet(storedId, expected, envelope),
              ),
            ),
        });
      } while (cursor !== "0");
    }),
  );
}

function withChange(
  store: BulkEnvelopeStore,
  change: (changes: readonly EnvelopeChange[], page: EnvelopePage) => ReturnType<Change>,
): BulkEnvelopeStore {
  return withWalk(store, (visit, options) =>
    store.walk((page) => visit(pageOf(page, { change: (changes) => change(changes, page) })), options),
  );
}

function withWalk(store: BulkEnvelopeStore, walk: Walk): BulkEnvelopeStore {
  return new Proxy(store, {
    get(target, name) {
      if (name === "walk") return walk;
      const member: unknown = Reflect.get(target, name);
      return typeof member === "function" ? member.bind(target) : member;
    },
  });
}

function pageOf(page: EnvelopePage, over: Partial<EnvelopePage>): EnvelopePage {
  return {
    storedIds: page.storedIds,
    peek: (storedIds, bytes) => page.peek(storedIds, bytes),
    get: (storedIds) => page.get(storedIds),
    change: (changes) => page.change(changes),
    ...over,
  };
}
