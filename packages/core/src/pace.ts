/** Some calls at once, and then one in a certain time: for what must not be asked at full speed however many ask. */
import { elapsed } from "./ring-records.js";
import type { Schedule } from "./schedule.js";

/** A token bucket. Times are in milliseconds. */
export class Pace {
  readonly #clock: () => number;
  readonly #distanceMs: number;
  readonly #burst: number;
  #tokens: number;
  #countedAt = Number.NEGATIVE_INFINITY;

  /** @param distanceMs - After which there is one call more, up to `burst` of them. */
  constructor(clock: () => number, distanceMs: number, burst: number) {
    this.#clock = clock;
    this.#distanceMs = distanceMs;
    this.#burst = burst;
    this.#tokens = burst;
  }

  /** @returns Whether a call may be made now. */
  tryTake(): boolean {
    const now = this.#clock();
    const earned = Math.floor(elapsed(now, this.#countedAt) / this.#distanceMs);
    if (earned > 0) {
      this.#tokens = Math.min(this.#tokens + earned, this.#burst);
      this.#countedAt = now;
    }
    if (this.#tokens === 0) return false;
    this.#tokens--;
    return true;
  }

  /** Waits until a call may be made, and takes it. To be called by one at a time. */
  async take(schedule: Schedule): Promise<void> {
    if (this.tryTake()) return;
    const waitMs = Math.ceil(this.#distanceMs - elapsed(this.#clock(), this.#countedAt));
    await new Promise<void>((resolve) => schedule(resolve, waitMs));
    this.#countedAt = this.#clock();
  }
}
