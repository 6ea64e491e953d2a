/** The sessions of a simulated fleet: what its processes sealed lately, for others to open. */
import type { SeededRandom } from "./simulation-random.js";
import type { VirtualTime } from "./virtual-time.js";

/** An envelope and what is needed to open and check it. */
export interface SimulatedEnvelope {
  readonly bytes: Uint8Array;
  readonly storedId: string;
  /** Stands in its value as well. */
  readonly number: number;
}

/** How many are kept of each minute. */
const KEPT_A_MINUTE = 32;
const MINUTE_MS = 60_000;

/** The one that was sealed last, and samples of all that still live. */
export class SimulatedEnvelopes {
  readonly #time: VirtualTime;
  readonly #random: SeededRandom;
  readonly #keptMinutes: number;
  /** A list for each minute in which something was sealed, the oldest first. */
  readonly #kept: SimulatedEnvelope[][] = [];
  #minute = 0;
  #count = 0;
  #last: SimulatedEnvelope | undefined;

  /** @param ttlMs - How long an envelope lives. */
  constructor(time: VirtualTime, random: SeededRandom, ttlMs: number) {
    this.#time = time;
    this.#random = random;
    this.#keptMinutes = Math.floor(ttlMs / MINUTE_MS);
  }

  /** Numbers the envelopes of the fleet. */
  nextNumber(): number {
    return this.#count++;
  }

  add(envelope: SimulatedEnvelope): void {
    this.#last = envelope;
    const minute = Math.floor(this.#time.clock() / MINUTE_MS);
    if (minute > this.#minute) {
      this.#minute = minute;
      if (this.#kept.push([]) > this.#keptMinutes) this.#kept.shift();
    }
    const kept = this.#kept.at(-1) as SimulatedEnvelope[];
    if (kept.length < KEPT_A_MINUTE) kept.push(envelope);
    else if (this.#random.below(8) === 0) kept[this.#random.below(KEPT_A_MINUTE)] = envelope;
  }

  /** The one that was sealed last, wherever that was. */
  justSealed(): SimulatedEnvelope | undefined {
    return this.#last;
  }

  /** One of any age. */
  old(): SimulatedEnvelope | undefined {
    const kept = this.#kept[this.#random.below(this.#kept.length)];
    return kept?.[this.#random.below(kept.length)];
  }
}
