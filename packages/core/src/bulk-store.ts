/**
 * The port to a store that reads and writes many envelopes at once, for walks over all of them: counting, re-sealing, moving.
 */
import { NONCE_BYTES } from "./aead.js";
import { NONCE_OFFSET } from "./envelope.js";
import type { EnvelopeStore } from "./envelope-store.js";

const PAGE_SIZE = 256;
const COMMANDS_AT_ONCE = 32;

/** Where a walk stands: an opaque JSON value, good for a later walk over the same store. */
export type WalkPosition = Readonly<Record<string, unknown>>;

/** First bytes of an envelope, its header and nonce, by which it can be told from every other one: no two are sealed with one nonce (format 2.4). */
export const IDENTITY_BYTES = NONCE_OFFSET + NONCE_BYTES;

/** A change of one envelope, made only if it still is the expected one. Its time to live stays as it is. */
export interface EnvelopeChange {
  /** Where it lies. */
  readonly storedId: string;
  /** What lies there; a store may look at the first {@link IDENTITY_BYTES} only. */
  readonly expected: Uint8Array;
  /** What takes its place; without it the envelope is removed. */
  readonly envelope?: Uint8Array;
}

/** Some envelopes that can be reached together, such as those of one node. All methods answer in the order of what they are given. */
export interface EnvelopePage {
  /** The stored ids. One may come again on a later page. */
  readonly storedIds: readonly string[];
  /** Reads the first bytes of these envelopes. @returns `undefined` where none lives any more. */
  peek(storedIds: readonly string[], bytes: number): Promise<readonly (Uint8Array | undefined)[]>;
  /** Reads these envelopes. @returns `undefined` where none lives any more. */
  get(storedIds: readonly string[]): Promise<readonly (Uint8Array | undefined)[]>;
  /** Makes changes. @returns Which of them were made. */
  change(changes: readonly EnvelopeChange[]): Promise<readonly boolean[]>;
}

/** Options of {@link BulkEnvelopeStore.walk}. */
export interface WalkOptions {
  /** Goes on from where an earlier walk stood. What that had visited may be visited again. */
  readonly position?: WalkPosition | undefined;
  /** Is told where the walk stands, each time that a page has been visited. */
  readonly onPosition?: ((position: WalkPosition) => void) | undefined;
  /** How many first bytes the visitor of the next page is going to peek at: a store may read them together with the ids. @defaultValue 0 */
  readonly peekBytes?: (() => number) | undefined;
  /** Ends the walk after the pages that are being visited. */
  readonly signal?: AbortSignal | undefined;
}

/** An {@link EnvelopeStore} for walks over all its envelopes. */
export interface BulkEnvelopeStore extends EnvelopeStore {
  /**
   * Visits all envelopes, page by page; nodes side by side, one page of each at a time. What lives from the start of the walk to its end is visited,
   * also when it moves from one node to another; what comes or goes meanwhile may be. Memory does not grow with the number of envelopes.
   *
   * @returns When all is visited, or the signal has ended it. Rejects with what `visit` rejected with, or `STORE_UNAVAILABLE`.
   */
  walk(visit: (page: EnvelopePage) => Promise<void>, options?: WalkOptions): Promise<void>;
  /** @returns About how many envelopes there are. */
  estimate(): Promise<number>;
}

/** @returns The store itself where it can walk, else one that walks with the methods of every store. */
export function asBulkStore(store: EnvelopeStore): BulkEnvelopeStore {
  return "walk" in store ? (store as BulkEnvelopeStore) : new ScanningBulkStore(store);
}

/** Walks by `scan`, whose order nobody knows: it cannot go on from a position, and begins anew. */
class ScanningBulkStore implements BulkEnvelopeStore {
  readonly #store: EnvelopeStore;

  constructor(store: EnvelopeStore) {
    this.#store = store;
  }

  get: EnvelopeStore["get"] = (...args) => this.#store.get(...args);
  set: EnvelopeStore["set"] = (...args) => this.#store.set(...args);
  compareAndSet: EnvelopeStore["compareAndSet"] = (...args) => this.#store.compareAndSet(...args);
  touch: EnvelopeStore["touch"] = (...args) => this.#store.touch(...args);
  destroy: EnvelopeStore["destroy"] = (...args) => this.#store.destroy(...args);
  ttlMs: EnvelopeStore["ttlMs"] = (...args) => this.#store.ttlMs(...args);
  scan: EnvelopeStore["scan"] = () => this.#store.scan();

  async walk(visit: (page: EnvelopePage) => Promise<void>, { onPosition, signal }: WalkOptions = {}): Promise<void> {
    let storedIds: string[] = [];
    const visitPage = async () => {
      if (storedIds.length > 0) await visit(this.#page(storedIds));
      storedIds = [];
      onPosition?.({});
    };
    for await (const storedId of this.#store.scan()) {
      if (signal?.aborted) return;
      storedIds.push(storedId);
      if (storedIds.length >= PAGE_SIZE) await visitPage();
    }
    await visitPage();
  }

  async estimate(): Promise<number> {
    let count = 0;
    for await (const _ of this.#store.scan()) count++;
    return count;
  }

  #page(storedIds: readonly string[]): EnvelopePage {
    const store = this.#store;
    return {
      storedIds,
      peek: (ids, bytes) => some(ids, async (storedId) => (await store.get(storedId))?.subarray(0, bytes)),
      get: (ids) => some(ids, (storedId) => store.get(storedId)),
      change: (changes) =>
        some(changes, ({ storedId, expected, envelope }) =>
          envelope === undefined
            ? store.destroy(storedId, { expected })
            : store.compareAndSet(storedId, expected, envelope),
        ),
    };
  }
}

/** Runs something for each item, some at a time. */
async function some<T, R>(items: readonly T[], run: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (let from = 0; from < items.length; from += COMMANDS_AT_ONCE) {
    results.push(...(await Promise.all(items.slice(from, from + COMMANDS_AT_ONCE).map(run))));
  }
  return results;
}
