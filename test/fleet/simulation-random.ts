/** Chance that can be repeated: the same seed gives the same run, key for key. No randomness for real keys. */

/** A generator of the sfc32 family (Chris Doty-Humphrey, PractRand). */
export class SeededRandom {
  #a = 0x9e3779b9;
  #b = 0x243f6a88;
  #c: number;
  #counter = 1;

  /** @param seed - An integer, of which the low 32 bits count. */
  constructor(seed: number) {
    this.#c = seed | 0;
    // So that what follows depends on every bit of the seed.
    for (let i = 0; i < 15; i++) this.#word();
  }

  /** @returns A number from `min` up to, and without, `max`. */
  between(min: number, max: number): number {
    return min + ((max - min) * (this.#word() >>> 0)) / 2 ** 32;
  }

  /** @returns An integer from 0 up to, and without, `end`. */
  below(end: number): number {
    return Math.floor(this.between(0, end));
  }

  /** @returns The time to the next of many independent events that come every `mean` on average. */
  waitOf(mean: number): number {
    return -mean * Math.log(1 - this.between(0, 1));
  }

  /** Fills an array, as the option `random` of a ring; may be passed on without its object. */
  readonly fill = (target: Uint8Array): void => {
    // Rings fill pools of kilobytes: word by word, as far as the array's place allows it.
    const words = target.byteOffset % 4 === 0 ? target.length >> 2 : 0;
    const view = new Int32Array(target.buffer, words === 0 ? 0 : target.byteOffset, words);
    for (let at = 0; at < words; at++) view[at] = this.#word();
    for (let at = 4 * words; at < target.length; at++) target[at] = this.#word();
  };

  #word(): number {
    const word = (this.#a + this.#b + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + word) | 0;
    return word;
  }
}
