/**
 * The part of the store suite that is about time, and about compareAndSet, which keeps it.
 */
import assert from "node:assert/strict";
import { MAX_TTL_MS } from "../envelope-store.js";
import { bytes, counted, freshId, HOUR_MS, MINUTE_MS, read, type StoreTest, start } from "./store-fixture.js";

const EVERY_BYTE = Uint8Array.from({ length: 256 }, (_, value) => value);

/** Registers the tests of expiry, sliding and touching. */
export function registerTimes(test: StoreTest): void {
  test("an envelope lives for its time and not longer", async ({ store, advance, clock }) => {
    const id = freshId();
    await store.set(id, bytes(4), { ttlMs: 50 });
    if (clock !== undefined) {
      await advance(49);
      assert.deepEqual(await read(store, id), bytes(4));
      assert.equal(await store.ttlMs(id), 1);
      await advance(1);
    } else {
      await advance(51);
    }
    assert.equal(await store.get(id), undefined);
    assert.equal(await store.get(id, { slideMs: MINUTE_MS }), undefined);
    assert.equal(await store.ttlMs(id), undefined);
    assert.equal(await store.touch(id, MINUTE_MS), false);
    assert.equal(await store.compareAndSet(id, bytes(4), bytes(5)), false);
    assert.equal(await store.destroy(id), false);
    assert.equal(await store.set(id, bytes(6), { ttlMs: MINUTE_MS, condition: "absent" }), true);
  });

  test("set gives the time to live anew, longer or shorter", async (underTest) => {
    const { store } = underTest;
    const id = freshId();
    for (const ttlMs of [MINUTE_MS + 123, HOUR_MS + 1, MINUTE_MS, MAX_TTL_MS]) {
      const since = start(underTest);
      await store.set(id, bytes(4), { ttlMs });
      await since.assertRemaining(id, ttlMs);
    }
  });

  test("get leaves the time to live as it is", async (underTest) => {
    const { store, advance } = underTest;
    const id = freshId();
    const since = start(underTest);
    await store.set(id, bytes(4), { ttlMs: MINUTE_MS });
    await advance(30);
    await store.get(id);
    await since.assertRemaining(id, MINUTE_MS, 30);
  });

  test("get with slideMs sets it anew, longer or shorter", async (underTest) => {
    const { store } = underTest;
    const id = freshId();
    await store.set(id, bytes(4), { ttlMs: MINUTE_MS });
    for (const slideMs of [HOUR_MS + 7, MINUTE_MS + 11]) {
      const since = start(underTest);
      assert.deepEqual(new Uint8Array((await store.get(id, { slideMs })) ?? []), bytes(4));
      await since.assertRemaining(id, slideMs);
    }
  });

  test("touch sets it anew, longer or shorter, and changes no byte", async (underTest) => {
    const { store } = underTest;
    const id = freshId();
    await store.set(id, bytes(4), { ttlMs: MINUTE_MS });
    for (const ttlMs of [HOUR_MS + 7, MINUTE_MS + 11]) {
      const since = start(underTest);
      assert.equal(await store.touch(id, ttlMs), true);
      await since.assertRemaining(id, ttlMs);
    }
    assert.deepEqual(await read(store, id), bytes(4));
  });

  test("what was slid or touched outlives its first time", async ({ store, advance }) => {
    const [slid, touched] = [freshId(), freshId()];
    await store.set(slid, bytes(4), { ttlMs: 2_000 });
    await store.set(touched, bytes(4), { ttlMs: 2_000 });
    await store.get(slid, { slideMs: MINUTE_MS });
    await store.touch(touched, MINUTE_MS);
    await advance(2_001);
    assert.deepEqual(await read(store, slid), bytes(4));
    assert.deepEqual(await read(store, touched), bytes(4));
  });
}

/** Registers the tests of compareAndSet. */
export function registerCompareAndSet(test: StoreTest): void {
  test("replaces the expected envelope", async ({ store }) => {
    const id = freshId();
    await store.set(id, EVERY_BYTE, { ttlMs: MINUTE_MS });
    assert.equal(await store.compareAndSet(id, EVERY_BYTE, bytes(300, 1)), true);
    assert.deepEqual(await read(store, id), bytes(300, 1));
  });

  test("leaves an envelope that differs in one byte or in length", async ({ store }) => {
    const id = freshId();
    const stored = bytes(32, 5);
    await store.set(id, stored, { ttlMs: MINUTE_MS });
    const altered = new Uint8Array(stored);
    altered[31] = 0xff;
    for (const expected of [altered, stored.slice(0, 31), Uint8Array.of(...stored, 0)]) {
      assert.equal(await store.compareAndSet(id, expected, bytes(4), { ttlMs: HOUR_MS }), false);
      assert.deepEqual(await read(store, id), stored);
    }
    assert.ok(((await store.ttlMs(id)) ?? 0) <= MINUTE_MS);
  });

  test("does not write where nothing lives", async ({ store }) => {
    const id = freshId();
    assert.equal(await store.compareAndSet(id, bytes(4), bytes(5), { ttlMs: MINUTE_MS }), false);
    assert.equal(await store.get(id), undefined);
  });

  test("counts bytes that are there already as a success, and sets their time", async (underTest) => {
    const { store } = underTest;
    const id = freshId();
    await store.set(id, bytes(4, 2), { ttlMs: MINUTE_MS });
    assert.equal(await store.compareAndSet(id, bytes(4, 1), bytes(4, 2)), true);
    const since = start(underTest);
    assert.equal(await store.compareAndSet(id, bytes(4, 1), bytes(4, 2), { ttlMs: HOUR_MS }), true);
    await since.assertRemaining(id, HOUR_MS);
    assert.deepEqual(await read(store, id), bytes(4, 2));
  });

  test("keeps the remaining time to the millisecond", async (underTest) => {
    const { store, advance } = underTest;
    const id = freshId();
    const since = start(underTest);
    await store.set(id, bytes(4, 1), { ttlMs: MINUTE_MS });
    await advance(37);
    assert.equal(await store.compareAndSet(id, bytes(4, 1), bytes(4, 2)), true);
    await since.assertRemaining(id, MINUTE_MS, 37);
    await store.compareAndSet(id, bytes(4, 2), bytes(4, 2));
    await since.assertRemaining(id, MINUTE_MS, 37);
  });

  test("sets the time when it is given", async (underTest) => {
    const { store } = underTest;
    const id = freshId();
    await store.set(id, bytes(4, 1), { ttlMs: MINUTE_MS });
    const since = start(underTest);
    assert.equal(await store.compareAndSet(id, bytes(4, 1), bytes(4, 2), { ttlMs: HOUR_MS + 1 }), true);
    await since.assertRemaining(id, HOUR_MS + 1);
  });

  test("of many at once exactly one wins", async ({ store }) => {
    const id = freshId();
    await store.set(id, bytes(4, 255), { ttlMs: MINUTE_MS });
    const results = await Promise.all(counted(20, (index) => store.compareAndSet(id, bytes(4, 255), bytes(4, index))));
    assert.equal(results.filter(Boolean).length, 1);
    assert.deepEqual(await read(store, id), bytes(4, results.indexOf(true)));
  });
}
