/**
 * A store whose walks can be watched, cut short and thinned out: what counts sessions knows nothing of progress bars, Ctrl-C and samples.
 */
import type { BulkEnvelopeStore, EnvelopePage, EnvelopeStore } from "@sealed-session/core";
import { CliError } from "./cli-error.js";

/** What is to be known of a walk. */
export interface Watch {
  /** Ends the walk. It then rejects: nobody must take half a count for a whole one. */
  readonly signal?: AbortSignal | undefined;
  /** Told after each page how many envelopes came by so far. */
  readonly onWalked?: ((walked: number) => void) | undefined;
  /** Whether an envelope is looked at. @defaultValue every one */
  readonly isChosen?: (() => boolean) | undefined;
}

/** A {@link BulkEnvelopeStore} whose walks follow `watch`, which may be changed between walks. */
export class WatchedStore implements BulkEnvelopeStore {
  watch: Watch = {};
  readonly #store: BulkEnvelopeStore;

  constructor(store: BulkEnvelopeStore) {
    this.#store = store;
  }

  get: EnvelopeStore["get"] = (...args) => this.#store.get(...args);
  set: EnvelopeStore["set"] = (...args) => this.#store.set(...args);
  compareAndSet: EnvelopeStore["compareAndSet"] = (...args) => this.#store.compareAndSet(...args);
  touch: EnvelopeStore["touch"] = (...args) => this.#store.touch(...args);
  destroy: EnvelopeStore["destroy"] = (...args) => this.#store.destroy(...args);
  ttlMs: EnvelopeStore["ttlMs"] = (...args) => this.#store.ttlMs(...args);
  scan: EnvelopeStore["scan"] = () => this.#store.scan();
  estimate: BulkEnvelopeStore["estimate"] = () => this.#store.estimate();

  walk: BulkEnvelopeStore["walk"] = async (visit, options = {}) => {
    const { signal, onWalked, isChosen } = this.watch;
    let walked = 0;
    await this.#store.walk(
      async (page) => {
        await visit(isChosen === undefined ? page : thinned(page, isChosen));
        walked += page.storedIds.length;
        onWalked?.(walked);
      },
      { ...options, signal: signal ?? options.signal },
    );
    if (signal?.aborted) throw new CliError("INTERRUPTED", "interrupted while the sessions were counted");
  };
}

function thinned(page: EnvelopePage, isChosen: () => boolean): EnvelopePage {
  return {
    storedIds: page.storedIds.filter(() => isChosen()),
    peek: (storedIds, bytes) => page.peek(storedIds, bytes),
    get: (storedIds) => page.get(storedIds),
    change: (changes) => page.change(changes),
  };
}
