/**
 * What every `EnvelopeStore` promises.
 */
import assert from "node:assert/strict";
import { MAX_TTL_MS } from "../envelope-store.js";
import { type TestRunner, testWith } from "./runner.js";
import {
  bytes,
  counted,
  freshId,
  HOUR_MS,
  MINUTE_MS,
  read,
  type StoreTest,
  type StoreUnderTest,
  scanned,
} from "./store-fixture.js";
import { registerScan } from "./store-scan-suite.js";
import { registerCompareAndSet, registerTimes } from "./store-time-suite.js";

export type { StoreUnderTest } from "./store-fixture.js";

const EVERY_BYTE = Uint8Array.from({ length: 256 }, (_, value) => value);
const ONE_MIB = 1024 * 1024;
/** What a store that is not confined to our alphabet may be given with verbatim ids. */
const ODD_IDS = [
  "a",
  "A",
  " leading and trailing ",
  "session:session:",
  "*?[a-z]^\\",
  "../../etc/passwd",
  "%2e%2e/'\"`;--",
  "__proto__",
  "constructor",
  "line\r\nbreak\ttab",
  "\u00e9 composed",
  "e\u0301 decomposed",
  "ключ 鍵 🔑",
  "x".repeat(512),
];

/**
 * Registers the tests of an `EnvelopeStore`.
 *
 * @param runner - The test runner's functions.
 * @param name - What the tests are grouped under.
 * @param open - Makes what is tested, anew for each test.
 */
export function storeSuite(runner: TestRunner, name: string, open: () => Promise<StoreUnderTest>): void {
  const test = testWith(runner, open);
  runner.describe(name, () => {
    runner.describe("bytes", () => registerBytes(test));
    runner.describe("conditions of set", () => registerConditions(test));
    runner.describe("time to live", () => registerTimes(test));
    runner.describe("compareAndSet", () => registerCompareAndSet(test));
    runner.describe("scan", () => registerScan(test));
    runner.describe("arguments", () => registerArguments(test));
  });
}

function registerBytes(test: StoreTest): void {
  test("returns every byte value as it was written", async ({ store }) => {
    const id = freshId();
    assert.equal(await store.set(id, EVERY_BYTE, { ttlMs: MINUTE_MS }), true);
    assert.deepEqual(await read(store, id), EVERY_BYTE);
  });

  test("keeps envelopes from one byte to 1 MiB", async ({ store }) => {
    for (const length of [1, 2, 255, 4096, 65_537, ONE_MIB]) {
      const id = freshId();
      const envelope = bytes(length, length % 251);
      assert.equal(await store.set(id, envelope, { ttlMs: MINUTE_MS }), true);
      const found = await read(store, id);
      assert.equal(found !== undefined && Buffer.compare(found, envelope), 0, `${length} bytes`);
    }
  });

  test("keeps bytes that are no valid UTF-8 apart", async ({ store }) => {
    const [first, second] = [Uint8Array.of(0xff, 0xfe, 0), Uint8Array.of(0xfe, 0xff, 0)];
    const [firstId, secondId] = [freshId(), freshId()];
    await store.set(firstId, first, { ttlMs: MINUTE_MS });
    await store.set(secondId, second, { ttlMs: MINUTE_MS });
    assert.deepEqual(await read(store, firstId), first);
    assert.deepEqual(await read(store, secondId), second);
  });

  test("takes a view of a larger buffer for its own bytes alone", async ({ store }) => {
    const id = freshId();
    const larger = bytes(64);
    await store.set(id, larger.subarray(16, 24), { ttlMs: MINUTE_MS });
    assert.deepEqual(await read(store, id), larger.slice(16, 24));
  });

  test("keeps what it was given when the caller then changes the array", async ({ store }) => {
    const id = freshId();
    const envelope = bytes(32, 1);
    const writing = store.set(id, envelope, { ttlMs: MINUTE_MS });
    await writing;
    envelope.fill(0);
    assert.deepEqual(await read(store, id), bytes(32, 1));
  });

  test("returns an array that belongs to the caller", async ({ store }) => {
    const id = freshId();
    await store.set(id, bytes(32, 1), { ttlMs: MINUTE_MS });
    (await store.get(id))?.fill(0);
    assert.deepEqual(await read(store, id), bytes(32, 1));
  });

  test("keeps odd stored ids apart", async ({ store }) => {
    for (const [index, id] of ODD_IDS.entries()) await store.set(id, bytes(8, index), { ttlMs: MINUTE_MS });
    for (const [index, id] of ODD_IDS.entries()) assert.deepEqual(await read(store, id), bytes(8, index), id);
    assert.deepEqual((await scanned(store)).sort(), [...ODD_IDS].sort());
    for (const [index, id] of ODD_IDS.entries()) {
      assert.equal(await store.destroy(id), true, id);
      assert.equal((await scanned(store)).length, ODD_IDS.length - index - 1, id);
    }
  });
}

function registerConditions(test: StoreTest): void {
  test("answers undefined or false for an id under which nothing lives", async ({ store }) => {
    const id = freshId();
    assert.equal(await store.get(id), undefined);
    assert.equal(await store.get(id, { slideMs: MINUTE_MS }), undefined);
    assert.equal(await store.ttlMs(id), undefined);
    assert.equal(await store.touch(id, MINUTE_MS), false);
    assert.equal(await store.destroy(id), false);
    assert.equal(await store.compareAndSet(id, bytes(4), bytes(5)), false);
    assert.equal(await store.get(id), undefined);
  });

  test("always: writes whether or not an envelope lives", async ({ store }) => {
    const id = freshId();
    assert.equal(await store.set(id, bytes(4, 1), { ttlMs: MINUTE_MS, condition: "always" }), true);
    assert.equal(await store.set(id, bytes(5, 2), { ttlMs: MINUTE_MS }), true);
    assert.deepEqual(await read(store, id), bytes(5, 2));
  });

  test("absent: writes under a new id", async ({ store }) => {
    const id = freshId();
    assert.equal(await store.set(id, bytes(4), { ttlMs: MINUTE_MS, condition: "absent" }), true);
    assert.deepEqual(await read(store, id), bytes(4));
  });

  test("absent: leaves another envelope as it is", async ({ store }) => {
    const id = freshId();
    await store.set(id, bytes(4, 1), { ttlMs: MINUTE_MS });
    assert.equal(await store.set(id, bytes(4, 2), { ttlMs: HOUR_MS, condition: "absent" }), false);
    assert.deepEqual(await read(store, id), bytes(4, 1));
    assert.ok(((await store.ttlMs(id)) ?? 0) <= MINUTE_MS);
  });

  test("absent: refused over equal bytes is a success, since a client may have sent it twice", async ({ store }) => {
    const id = freshId();
    await store.set(id, bytes(4, 1), { ttlMs: MINUTE_MS, condition: "absent" });
    assert.equal(await store.set(id, bytes(4, 1), { ttlMs: MINUTE_MS, condition: "absent" }), true);
  });

  test("absent: of many at once exactly one wins", async ({ store }) => {
    const id = freshId();
    const results = await Promise.all(
      counted(20, (index) => store.set(id, bytes(4, index), { ttlMs: MINUTE_MS, condition: "absent" })),
    );
    assert.equal(results.filter(Boolean).length, 1);
    assert.deepEqual(await read(store, id), bytes(4, results.indexOf(true)));
  });

  test("present: writes over a living envelope", async ({ store }) => {
    const id = freshId();
    await store.set(id, bytes(4, 1), { ttlMs: MINUTE_MS });
    assert.equal(await store.set(id, bytes(5, 2), { ttlMs: MINUTE_MS, condition: "present" }), true);
    assert.deepEqual(await read(store, id), bytes(5, 2));
  });

  test("present: does not bring back what is gone", async ({ store, advance }) => {
    const [never, destroyed, expired] = [freshId(), freshId(), freshId()];
    await store.set(destroyed, bytes(4), { ttlMs: MINUTE_MS });
    await store.destroy(destroyed);
    await store.set(expired, bytes(4), { ttlMs: 30 });
    await advance(31);
    for (const id of [never, destroyed, expired]) {
      assert.equal(await store.set(id, bytes(5), { ttlMs: MINUTE_MS, condition: "present" }), false);
      assert.equal(await store.get(id), undefined);
    }
  });

  test("destroy: removes the expected bytes, and no others", async ({ store }) => {
    const id = freshId();
    await store.set(id, bytes(4), { ttlMs: MINUTE_MS });
    assert.equal(await store.destroy(id, { expected: bytes(5) }), false);
    assert.deepEqual(await read(store, id), bytes(4));
    assert.equal(await store.destroy(id, { expected: bytes(4) }), true);
    assert.equal(await store.get(id), undefined);
    assert.equal(await store.destroy(id, { expected: bytes(4) }), false);
  });

  test("destroy: tells whether something lived, and it is gone", async ({ store }) => {
    const id = freshId();
    await store.set(id, bytes(4), { ttlMs: MINUTE_MS });
    assert.equal(await store.destroy(id), true);
    assert.equal(await store.get(id), undefined);
    assert.equal(await store.destroy(id), false);
    assert.equal(await store.set(id, bytes(4), { ttlMs: MINUTE_MS, condition: "absent" }), true);
  });
}

function registerArguments(test: StoreTest): void {
  for (const ttlMs of [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, MAX_TTL_MS + 1]) {
    test(`refuses ${ttlMs} as a time to live with a RangeError, and writes nothing`, async ({ store }) => {
      const id = freshId();
      await assert.rejects(store.set(id, bytes(4), { ttlMs }), RangeError);
      assert.equal(await store.get(id), undefined);
      await store.set(id, bytes(4), { ttlMs: MINUTE_MS });
      await assert.rejects(store.touch(id, ttlMs), RangeError);
      await assert.rejects(store.get(id, { slideMs: ttlMs }), RangeError);
      await assert.rejects(store.compareAndSet(id, bytes(4), bytes(5), { ttlMs }), RangeError);
      assert.deepEqual(await read(store, id), bytes(4));
    });
  }

  for (const [what, id] of Object.entries({ empty: "", long: "x".repeat(513), braced: "a{b}c", illFormed: "\ud800" })) {
    test(`refuses a stored id that is ${what} with a RangeError`, async ({ store }) => {
      await assert.rejects(store.get(id), RangeError);
      await assert.rejects(store.set(id, bytes(4), { ttlMs: MINUTE_MS }), RangeError);
      await assert.rejects(store.compareAndSet(id, bytes(4), bytes(5)), RangeError);
      await assert.rejects(store.touch(id, MINUTE_MS), RangeError);
      await assert.rejects(store.destroy(id), RangeError);
      await assert.rejects(store.ttlMs(id), RangeError);
    });
  }

  test("refuses an empty envelope with a RangeError", async ({ store }) => {
    const id = freshId();
    await assert.rejects(store.set(id, new Uint8Array(0), { ttlMs: MINUTE_MS }), RangeError);
    await store.set(id, bytes(4), { ttlMs: MINUTE_MS });
    await assert.rejects(store.compareAndSet(id, bytes(4), new Uint8Array(0)), RangeError);
    assert.deepEqual(await read(store, id), bytes(4));
  });
}
