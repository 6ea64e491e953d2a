/** A ring whose store lies open, with every event that it reports. */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { afterEach, beforeEach } from "vitest";
import { decodeRecord, type KeyRecord } from "../../src/data-key.js";
import { DIAGNOSTICS_CHANNEL, type DiagnosticEvent } from "../../src/diagnostics.js";
import type { KeyRing, KeyRingOptions } from "../../src/key-ring.js";
import { type FakeKms, fakeKms } from "./fake-kms.js";
import { type Fixture, fixture, START } from "./fixture.js";
import { type OpenRingStore, openRingStore } from "./open-ring-store.js";

export interface OpenFixture extends Omit<Fixture, "store"> {
  readonly store: OpenRingStore;
  readonly kms: FakeKms;
  /** The time, in milliseconds since 1970-01-01T00:00:00Z. */
  now(): number;
  /** What the store holds under a key id, decoded. */
  stored(keyId: string): KeyRecord;
}

/** @param options - Options of every ring, over the fixture's own. */
export function openFixture(options: Partial<KeyRingOptions> = {}): OpenFixture {
  let now = START;
  const clock = () => now;
  const store = openRingStore(clock);
  const kms = fakeKms();
  const { process } = fixture({ kms, store, clock, ...options });
  return {
    kms,
    store,
    process,
    ring: process(),
    now: clock,
    advance(ms) {
      now += ms;
    },
    stored(keyId) {
      const record = decodeRecord(store.records.get(keyId) ?? new Uint8Array(0));
      if (record === undefined) throw new Error("the store holds no such record");
      return record;
    },
  };
}

/** Collects the events of each test of a file. @returns The list: of the running test. */
export function collectEvents(): DiagnosticEvent[] {
  const events: DiagnosticEvent[] = [];
  const collect = (event: unknown) => void events.push(event as DiagnosticEvent);
  beforeEach(() => {
    events.length = 0;
    subscribe(DIAGNOSTICS_CHANNEL, collect);
  });
  afterEach(() => void unsubscribe(DIAGNOSTICS_CHANNEL, collect));
  return events;
}

/** A promise to be resolved from outside. */
export function held(): { readonly promise: Promise<void>; release(): void } {
  let release = () => {};
  const promise = new Promise<void>((resolve) => {
    release = resolve;
  });
  return { promise, release: () => release() };
}

/** Calls something once a minute of virtual time. */
export async function everyMinute(base: Pick<OpenFixture, "advance">, minutes: number, run: () => Promise<unknown>) {
  for (let minute = 0; minute < minutes; minute++) {
    await run();
    base.advance(60_000);
  }
}

/** @returns The key that seals, or `undefined` when none does. */
export function sealingKeyId(ring: KeyRing): string | undefined {
  return ring.status().find(({ state }) => state === "current")?.keyId;
}
