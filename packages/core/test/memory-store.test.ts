import assert from "node:assert/strict";
import { afterEach, describe, it, vi } from "vitest";
import { hasCode } from "../src/errors.js";
import { type MemoryStoreOptions, memoryStore } from "../src/memory-store.js";
import { storeSuite } from "../src/testing/index.js";

const MINUTE_MS = 60_000;
const ENVELOPE = Uint8Array.of(1, 2, 3);
const full = (error: unknown) => hasCode(error, "STORE_UNAVAILABLE");

function withManualClock(options: MemoryStoreOptions = {}) {
  let now = 1_700_000_000_000;
  const clock = () => now;
  const advance = async (ms: number) => {
    now += ms;
  };
  return { store: memoryStore({ ...options, clock }), sibling: memoryStore({ clock }), clock, advance };
}

storeSuite({ describe, it }, "memoryStore", async () => ({ ...withManualClock(), close: async () => {} }));

describe("memoryStore's memory", () => {
  afterEach(() => {
    vi.restoreAllMocks();
  });

  it("gives back what expired as others are written, without being asked for it", async () => {
    const { store, advance } = withManualClock();
    for (let index = 0; index < 500; index++) await store.set(`old-${index}`, ENVELOPE, { ttlMs: 1_000 });
    await advance(1_000);
    const removed = vi.spyOn(Map.prototype, "delete");
    for (let index = 0; index < 500; index++) await store.set(`new-${index}`, ENVELOPE, { ttlMs: MINUTE_MS });
    const ids = new Set(removed.mock.calls.map(([id]) => id));
    assert.equal([...ids].filter((id) => String(id).startsWith("old-")).length, 500);
  });

  it("refuses an envelope beyond maxEntries instead of dropping another one", async () => {
    const { store } = withManualClock({ maxEntries: 2 });
    await store.set("a", ENVELOPE, { ttlMs: MINUTE_MS });
    await store.set("b", ENVELOPE, { ttlMs: MINUTE_MS });
    await assert.rejects(store.set("c", ENVELOPE, { ttlMs: MINUTE_MS }), full);
    assert.equal(await store.set("b", Uint8Array.of(4), { ttlMs: MINUTE_MS }), true);
    assert.deepEqual(await store.get("a"), ENVELOPE);
    assert.equal(await store.get("c"), undefined);
  });

  const makeRoom: Record<string, (underTest: ReturnType<typeof withManualClock>) => Promise<unknown>> = {
    "has expired": ({ advance }) => advance(MINUTE_MS),
    "was destroyed": ({ store }) => store.destroy("a"),
    "was given a shorter time by touch": async ({ store, advance }) => {
      await store.touch("b", 5);
      await advance(5);
    },
    "was given a shorter time by set": async ({ store, advance }) => {
      await store.set("b", ENVELOPE, { ttlMs: 5 });
      await advance(5);
    },
  };
  for (const [what, act] of Object.entries(makeRoom)) {
    it(`has room again when another envelope ${what}`, async () => {
      // More than a write sweeps in passing.
      const ids = Array.from({ length: 50 }, (_, index) => `other-${index}`).concat("a", "b");
      const underTest = withManualClock({ maxEntries: ids.length });
      const { store } = underTest;
      for (const id of ids) await store.set(id, ENVELOPE, { ttlMs: MINUTE_MS });
      await assert.rejects(store.set("c", ENVELOPE, { ttlMs: MINUTE_MS }), full);
      await act(underTest);
      assert.equal(await store.set("c", ENVELOPE, { ttlMs: MINUTE_MS }), true);
    });
  }

  it("refuses wrong options", () => {
    assert.throws(() => memoryStore({ maxEntries: 0 }), RangeError);
    assert.throws(() => memoryStore({ clock: 5 as never }), TypeError);
  });
});
