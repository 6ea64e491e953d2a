/**
 * What the parts of the store suite share: the store under test, fresh ids and bytes, and a measure of elapsed time.
 */
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import type { EnvelopeStore } from "../envelope-store.js";
import type { UnderTest } from "./runner.js";

export const MINUTE_MS = 60_000;
export const HOUR_MS = 3_600_000;

/** A store as the suite sees it. */
export interface StoreUnderTest extends UnderTest {
  /** A store in which no other test has envelopes. */
  readonly store: EnvelopeStore;
  /** A store in the same database under another namespace, equally empty; without namespaces simply another store. */
  readonly sibling: EnvelopeStore;
  /**
   * The store's clock in milliseconds, where {@link StoreUnderTest.advance} moves it by hand and nothing else does. Times are
   * then checked to the millisecond.
   *
   * @defaultValue The store's clock runs; times are checked against what has elapsed at most.
   */
  readonly clock?: () => number;
  /** Moves the store's clock on by `ms` milliseconds, or waits until it has moved. */
  advance(ms: number): Promise<void>;
}

/** Registers one test that gets a fresh store. */
export type StoreTest = (name: string, body: (underTest: StoreUnderTest) => Promise<void>) => void;

/** Starts to measure what may have elapsed on the store's clock. */
export function start({ store, clock }: StoreUnderTest) {
  const read = clock ?? (() => performance.now());
  // A clock that runs is read in whole milliseconds on the other side.
  const slackMs = clock === undefined ? 1 : 0;
  const startedAt = read();
  return {
    /** Asserts that of `ttlMs`, given since the start, at least `minElapsedMs` are gone and no more than have elapsed. */
    async assertRemaining(id: string, ttlMs: number, minElapsedMs = 0): Promise<void> {
      const remaining = (await store.ttlMs(id)) ?? Number.NaN;
      const elapsed = read() - startedAt;
      const [least, most] = [ttlMs - elapsed - slackMs, ttlMs - minElapsedMs + slackMs];
      assert.ok(remaining >= least && remaining <= most, `${remaining} ms is not from ${least} to ${most}`);
      assert.ok(Number.isInteger(remaining), `${remaining} is not whole`);
    },
  };
}

/** @returns a stored id that no other test has. */
export function freshId(): string {
  return randomUUID();
}

/** @returns `length` bytes that depend on `seed`. */
export function bytes(length: number, seed = 0): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (seed + index * 7) & 0xff);
}

/** @returns the stored bytes as a plain array: a Buffer does not deep-equal one. */
export async function read(store: EnvelopeStore, id: string): Promise<Uint8Array | undefined> {
  const found = await store.get(id);
  return found === undefined ? undefined : new Uint8Array(found);
}

/** @returns what `make` returns for 0, 1, … */
export function counted<T>(count: number, make: (index: number) => T): T[] {
  return Array.from({ length: count }, (_, index) => make(index));
}

/** Writes `count` envelopes. @returns their ids. */
export async function fill(store: EnvelopeStore, count: number): Promise<string[]> {
  const ids = counted(count, freshId);
  await Promise.all(ids.map((id) => store.set(id, bytes(8), { ttlMs: HOUR_MS })));
  return ids;
}

/** @returns the ids that a walk meets, in its order. */
export async function scanned(store: EnvelopeStore): Promise<string[]> {
  const met: string[] = [];
  for await (const id of store.scan()) met.push(id);
  return met;
}
