/**
 * Remembers which texts it has seen, in far less memory than the texts need.
 *
 * It keeps 96 bits of the SHA-256 of each, in one typed array with open addressing. Two of a hundred million texts are mistaken
 * for each other with a probability of 10^-13; a `Set` of strings would need four times the memory and end at 2^24 of them.
 */
import { createHash } from "node:crypto";

const WORDS = 3;
const MAX_LOAD = 0.7;
const FIRST_CAPACITY = 1024;

/** A set that can only be added to. */
export class FingerprintSet {
  /** Places of three words each; three zeros are an empty place. */
  #words = new Uint32Array(FIRST_CAPACITY * WORDS);
  #size = 0;

  /** @returns whether `text` is new. */
  add(text: string): boolean {
    const digest = createHash("sha256").update(text).digest();
    // Never three zeros.
    const isNew = this.#insert(digest.readUInt32LE(0), digest.readUInt32LE(4), digest.readUInt32LE(8) || 1);
    if (isNew && ++this.#size > (this.#words.length / WORDS) * MAX_LOAD) this.#grow();
    return isNew;
  }

  #insert(first: number, second: number, third: number): boolean {
    const words = this.#words;
    const capacity = words.length / WORDS;
    for (let place = first % capacity; ; place = (place + 1) % capacity) {
      const offset = place * WORDS;
      if (words[offset + 2] === 0) {
        words.set([first, second, third], offset);
        return true;
      }
      if (words[offset] === first && words[offset + 1] === second && words[offset + 2] === third) return false;
    }
  }

  #grow(): void {
    const old = this.#words;
    this.#words = new Uint32Array(old.length * 2);
    for (let offset = 0; offset < old.length; offset += WORDS) {
      const [first = 0, second = 0, third = 0] = old.subarray(offset, offset + WORDS);
      if (third !== 0) this.#insert(first, second, third);
    }
  }
}
