/**
 * Runs asynchronous actors in an order that a seed chooses: each call of a store waits twice, on its way there and on its way back, and one at a time
 * is let through.
 */
import { setImmediate as turn } from "node:timers/promises";
import type { EnvelopeStore } from "@sealed-session/core";
import type { SeededRandom } from "../fleet/chaos-random.js";

/** Turns of the event loop without a call of the store after which the actors are taken to wait for something that never comes. */
const PATIENCE = 1000;

/** One order of events. */
export class Interleaving {
  readonly #random: SeededRandom;
  readonly #waiting: (() => void)[] = [];
  /** Counts what was let through: the time of this order. */
  now = 0;

  constructor(random: SeededRandom) {
    this.#random = random;
  }

  /** Waits to be let through. */
  step(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  /** Runs the actors to their end. @throws whatever one of them throws. */
  async run(actors: readonly (() => Promise<void>)[]): Promise<void> {
    let left = actors.length;
    const running = actors.map(async (act) => {
      try {
        await this.step();
        await act();
      } finally {
        left--;
      }
    });
    // Whoever fails is told of at the end, when all have ended.
    const ended = Promise.allSettled(running);
    for (let idle = 0; left > 0; ) {
      const chosen = this.#waiting.splice(this.#random.between(0, this.#waiting.length - 1), 1)[0];
      if (chosen !== undefined) {
        this.now++;
        chosen();
      }
      idle = chosen === undefined ? idle + 1 : 0;
      if (idle > PATIENCE) throw new Error("the actors wait for something that is no store");
      await turn();
    }
    for (const outcome of await ended) if (outcome.status === "rejected") throw outcome.reason;
  }
}

/** The same store, each of whose calls waits for its turn twice. */
export function steppedStore(store: EnvelopeStore, order: () => Interleaving): EnvelopeStore {
  const stepped =
    <A extends unknown[], R>(call: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      const current = order();
      await current.step();
      const reply = await call(...args);
      await current.step();
      return reply;
    };
  return {
    get: stepped((...args) => store.get(...args)),
    set: stepped((...args) => store.set(...args)),
    compareAndSet: stepped((...args) => store.compareAndSet(...args)),
    touch: stepped((...args) => store.touch(...args)),
    destroy: stepped((...args) => store.destroy(...args)),
    ttlMs: stepped((...args) => store.ttlMs(...args)),
    scan: () => store.scan(),
  };
}
