/** A ring with everything injected: clock, KMS and store. */
import { KeyRing, type KeyRingOptions } from "../../src/key-ring.js";
import { type KeyRingStore, memoryKeyRingStore } from "../../src/key-ring-store.js";
import { type FakeKms, fakeKms } from "./fake-kms.js";

export const START = Date.UTC(2026, 0, 1);
export const MINUTE = 60_000;
export const HOUR = 60 * MINUTE;

export interface Fixture {
  readonly kms: FakeKms;
  readonly store: KeyRingStore;
  readonly ring: KeyRing;
  /** Moves the clock, in milliseconds. */
  advance(ms: number): void;
  /** Another process with the same store and KMS. */
  process(options?: Partial<KeyRingOptions>): KeyRing;
}

/** @param options - Options of the ring, over the fixture's own. */
export function fixture(options: Partial<KeyRingOptions> = {}): Fixture {
  let now = START;
  const clock = () => now;
  const kms = fakeKms();
  const store = memoryKeyRingStore({ clock });
  const process = (own: Partial<KeyRingOptions> = {}) =>
    new KeyRing({ name: "web", kms, store, clock, schedule: atOnce, ...options, ...own });
  return {
    kms,
    store,
    ring: process(),
    process,
    advance(ms) {
      now += ms;
    },
  };
}

/** @returns The code of what a function or promise throws; fails when it does not. */
export async function codeThrown(run: Promise<unknown> | (() => unknown)): Promise<unknown> {
  try {
    await (typeof run === "function" ? run() : run);
  } catch (error) {
    return (error as { code?: unknown }).code ?? error;
  }
  throw new Error("nothing was thrown");
}

/** Lets the short waits of a ring end at once, and the long ones (its timer, the KMS's deadline) never. */
function atOnce(task: () => void, delayMs: number): () => void {
  const immediate = delayMs <= 1000 ? setImmediate(task) : undefined;
  return () => clearImmediate(immediate);
}
