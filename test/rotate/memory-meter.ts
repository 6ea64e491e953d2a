/** How much memory this process needs during a run. It has to be started with `--expose-gc`. */
import type { MemoryTrace, MemoryUse } from "./messages.js";

const SAMPLE_EVERY_MS = 250;

/** Measures from its construction on. */
export class MemoryMeter {
  readonly #first = use();
  readonly #timer: NodeJS.Timeout;
  #most = this.#first;
  #samples = 1;

  constructor() {
    this.#timer = setInterval(() => this.#take(), SAMPLE_EVERY_MS);
  }

  /** Measures for the last time. */
  end(): MemoryTrace {
    clearInterval(this.#timer);
    const last = this.#take();
    return { first: this.#first, last, most: this.#most, samples: this.#samples };
  }

  #take(): MemoryUse {
    const now = use();
    this.#samples++;
    this.#most = { rss: Math.max(this.#most.rss, now.rss), held: Math.max(this.#most.held, now.held) };
    return now;
  }
}

function use(): MemoryUse {
  // Before the collection: that is what the process had to have.
  const { rss } = process.memoryUsage();
  if (globalThis.gc === undefined) throw new Error("a process that is measured needs --expose-gc");
  globalThis.gc();
  const { heapUsed, external } = process.memoryUsage();
  return { rss, held: heapUsed + external };
}
