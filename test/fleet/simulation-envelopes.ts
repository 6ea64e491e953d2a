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

/** Of how many minutes some are kept for long, and how many of each. */
const KEPT_MINUTES = 180;
const KEPT_A_MINUTE = 32;
const MINUTE_MS = 60_000;

/** The one that was sealed last, and samples of the last three hours. */
export class SimulatedEnvelopes {
  readonly #time: VirtualTime;
  readonly #random: SeededRandom;
  /** A list for each minute in which something was sealed, the oldest first. */
  readonly #kept: SimulatedEnvelope[][] = [];
  #minute = 0;
  #count = 0;
  #last: SimulatedEnvelope | undefined;

  constructor(time: VirtualTime, random: SeededRandom) {
    this.#time = time;
    this.#random = random;
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
      if (this.#kept.push([]) > KEPT_MINUTES) this.#kept.shift();
    }
    const kept = this.#kept.at(-1) as SimulatedEnvelope[];
    if (kept.length < KEPT_A_MINUTE) kept.push(envelope);
    else if (this.#random.below(8) === 0) kept[this.#random.below(KEPT_A_MINUTE)] = envelope;
  }

  /** The one that was sealed last, wherever that was. */
  justSealed(): SimulatedEnvelope | undefined {
    return this.#last;
  }

  /** One of the last three hours. */
  old(): SimulatedEnvelope | undefined {
    const kept = this.#kept[this.#random.below(this.#kept.length)];
    return kept?.[this.#random.below(kept.length)];
  }
}
