/**
 * Chance that can be repeated: the same seed makes the same choices. When they take effect is up to the machine.
 */
import { createHash } from "node:crypto";

/** A stream of choices that follows from a seed. */
export class SeededRandom {
  #state: number;

  /** @param seed - Streams for different purposes get different seeds, so that one does not shift the other. */
  constructor(seed: string) {
    this.#state = createHash("sha256").update(seed).digest().readUInt32LE();
  }

  /** @returns a number from 0 up to, but without, 1 (mulberry32). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  }

  /** @returns an integer from `least` to `most`. */
  between(least: number, most: number): number {
    return least + Math.floor(this.next() * (most - least + 1));
  }

  /** @returns one of `choices`, or `undefined` where there is none. */
  pick<T>(choices: readonly T[]): T | undefined {
    return choices[this.between(0, choices.length - 1)];
  }

  /** @returns all of `items` in another order. */
  shuffle<T>(items: readonly T[]): T[] {
    const shuffled = [...items];
    for (let last = shuffled.length - 1; last > 0; last--) {
      const other = this.between(0, last);
      [shuffled[last], shuffled[other]] = [shuffled[other] as T, shuffled[last] as T];
    }
    return shuffled;
  }
}

/** Gives its items in a random order, all of them before one comes again: nothing depends on luck. */
export class ShuffledBag<T> {
  readonly #items: readonly T[];
  readonly #random: SeededRandom;
  #left: T[] = [];

  constructor(items: readonly T[], random: SeededRandom) {
    this.#items = items;
    this.#random = random;
  }

  /** @returns the next item that may be `wanted`; the others keep their turn. */
  take(wanted: (item: T) => boolean = () => true): T | undefined {
    if (!this.#left.some(wanted)) this.#left.push(...this.#random.shuffle(this.#items));
    const index = this.#left.findIndex(wanted);
    return index < 0 ? undefined : this.#left.splice(index, 1)[0];
  }
}
