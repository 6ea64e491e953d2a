/** The ring store of a simulated fleet: the memory store behind a virtual wire, which tells what was read and published. */
import { decode, type KeyRingStore, memoryKeyRingStore, RecordState } from "@sealed-session/core";
import { nameOf } from "./simulation-kms.js";
import type { SeededRandom } from "./simulation-random.js";
import type { VirtualTime } from "./virtual-time.js";

/** A data key that came to the ring. */
export interface PublishedKey {
  readonly keyId: string;
  /** From when on it seals, in milliseconds since 1970-01-01T00:00:00Z. */
  readonly activatesAt: number;
  /** Its wraps, named as for a `KmsObserver`. */
  readonly wraps: readonly string[];
}

/** Whoever wants to know what happens to the ring. */
export interface StoreObserver {
  /** The ring is read. */
  read(): void;
  /** A key came to the ring for the first time. */
  published(key: PublishedKey): void;
  /** A tombstone took the place of a key's record for the first time. */
  retired(keyId: string): void;
}

/** Options of {@link SimulatedStore}. */
export interface SimulatedStoreOptions {
  readonly time: VirtualTime;
  readonly random: SeededRandom;
  /** Virtual milliseconds from a call to its answer on average; between half and one and a half of it. */
  readonly answerMs: number;
  readonly observer?: StoreObserver;
}

/** One store for all processes; its clock is the fleet's true time. */
export class SimulatedStore implements KeyRingStore {
  readonly #options: SimulatedStoreOptions;
  readonly #known = new Set<string>();
  readonly #retired = new Set<string>();
  #records: KeyRingStore;
  /** The last answer, as long as nothing was written: readers share it, and do not alter it. A copy for each would be a tenth of a run. */
  #answer: ReturnType<KeyRingStore["read"]> | undefined;

  constructor(options: SimulatedStoreOptions) {
    this.#options = options;
    this.#records = this.#empty();
  }

  /** Loses all rings, as a server without a disk does when it restarts. */
  wipe(): void {
    this.#records = this.#empty();
    this.#answer = undefined;
  }

  async read(ring: string) {
    this.#options.observer?.read();
    // What lay there when it was asked: a write may come before the answer does.
    this.#answer ??= this.#records.read(ring);
    const answer = this.#answer;
    await this.#wire();
    return answer;
  }

  async write(ring: string, keyId: string, record: Uint8Array, options?: Parameters<KeyRingStore["write"]>[3]) {
    await this.#wire();
    const result = await this.#records.write(ring, keyId, record, options);
    this.#answer = undefined;
    if (result.written) this.#observe(keyId, record);
    return result;
  }

  async now() {
    await this.#wire();
    return this.#records.now();
  }

  #observe(keyId: string, bytes: Uint8Array): void {
    const { observer } = this.#options;
    if (!this.#known.has(keyId)) {
      this.#known.add(keyId);
      const { activatesAt, wraps } = read(bytes);
      observer?.published({ keyId, activatesAt, wraps });
    }
    if (!this.#retired.has(keyId) && read(bytes).isRetired) {
      this.#retired.add(keyId);
      observer?.retired(keyId);
    }
  }

  #empty(): KeyRingStore {
    return memoryKeyRingStore({ clock: () => Math.floor(this.#options.time.clock()) });
  }

  #wire(): Promise<void> {
    const { time, random, answerMs } = this.#options;
    return time.delay(answerMs * random.between(0.5, 1.5));
  }
}

/** The parts of a record (format 5.1) that matter here. */
function read(record: Uint8Array) {
  const [, , activatesAt, state, wraps] = decode(record) as [
    number,
    Uint8Array,
    number | bigint,
    number,
    [string, Uint8Array][],
  ];
  return {
    activatesAt: Number(activatesAt),
    isRetired: state === RecordState.retired,
    wraps: wraps.map(([, wrapped]) => nameOf(wrapped)),
  };
}
