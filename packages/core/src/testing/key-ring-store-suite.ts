/**
 * What every `KeyRingStore` promises.
 */
import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import type { KeyRingStore } from "../key-ring-store.js";
import { type TestRunner, testWith, type UnderTest } from "./runner.js";

const PUBLISHERS = 8;
/** Odd, but names all the same. */
const ODD_RINGS = ["a", "A", "a.b", "../up", "con", "ключ 鍵", "*", "a/b\\c", "%61", "x".repeat(128), "X".repeat(128)];

/** A key ring store as the suite sees it. */
export interface KeyRingStoreUnderTest extends UnderTest {
  /** A store; its rings need not be empty. */
  readonly store: KeyRingStore;
  /**
   * Another handle on the same rings, such as a second connection, for publishers that run at once.
   *
   * @defaultValue The same store.
   */
  readonly second?: KeyRingStore;
  /** What the store's clock should say now, in milliseconds since 1970-01-01T00:00:00Z. */
  clock(): number;
  /**
   * How far the store's clock may be from {@link KeyRingStoreUnderTest.clock}, in milliseconds.
   *
   * @defaultValue 2000
   */
  readonly clockToleranceMs?: number;
  /**
   * Opens what was stored once more, as a process that has been restarted does. Only for stores that outlive a process.
   *
   * @defaultValue The tests about it run on the same store.
   */
  reopen?(): Promise<KeyRingStore>;
}

/**
 * Registers the tests of a `KeyRingStore`. Every test uses rings of its own.
 *
 * @param runner - The test runner's functions.
 * @param name - What the tests are grouped under.
 * @param open - Makes what is tested, anew for each test.
 */
export function keyRingStoreSuite(runner: TestRunner, name: string, open: () => Promise<KeyRingStoreUnderTest>): void {
  const test = testWith(runner, open);
  runner.describe(name, () => {
    runner.describe("records", () => registerRecords(test));
    runner.describe("conditions", () => registerConditions(test));
    runner.describe("arguments", () => registerArguments(test));
  });
}

type Test = (name: string, body: (underTest: KeyRingStoreUnderTest) => Promise<void>) => void;

function registerRecords(test: Test): void {
  test("reads an unknown ring as empty", async ({ store }) => {
    assert.deepEqual(await store.read(freshRing()), []);
  });

  test("reads what was written, in one piece and for every byte value", async ({ store }) => {
    const ring = freshRing();
    const written = new Map<string, Uint8Array>();
    for (const length of [1, 256, 8192]) {
      const [keyId, record] = [freshKeyId(), Uint8Array.from({ length }, (_, index) => index & 0xff)];
      assert.deepEqual(await store.write(ring, keyId, record), { written: true, durable: true });
      written.set(keyId, record);
    }
    assert.deepEqual(await read(store, ring), written);
  });

  test("returns arrays that belong to the caller, and keeps none of his", async ({ store }) => {
    const [ring, keyId, record] = [freshRing(), freshKeyId(), bytes(64, 1)];
    await store.write(ring, keyId, record);
    record.fill(0);
    for (const found of await store.read(ring)) found.record.fill(0);
    assert.deepEqual(await read(store, ring), new Map([[keyId, bytes(64, 1)]]));
  });

  test("keeps rings apart", async ({ store }) => {
    const prefix = randomUUID().slice(0, 8);
    const rings = ODD_RINGS.map((ring) => (ring.length > 100 ? ring : prefix + ring));
    const keyId = freshKeyId();
    for (const [index, ring] of rings.entries()) {
      const { written } = await store.write(ring, keyId, bytes(8, index));
      assert.equal(written, true, ring);
    }
    for (const [index, ring] of rings.entries()) {
      assert.deepEqual(await read(store, ring), new Map([[keyId, bytes(8, index)]]), ring);
    }
  });

  test("keeps every record it was given", async ({ store }) => {
    const ring = freshRing();
    const written = new Map<string, Uint8Array>();
    for (let index = 0; index < 40; index++) {
      const [keyId, record] = [freshKeyId(), bytes(128, index)];
      await store.write(ring, keyId, record);
      written.set(keyId, record);
    }
    assert.deepEqual(await read(store, ring), written);
  });

  test("keeps what it took when it is opened again", async ({ store, reopen }) => {
    const [ring, keyId] = [freshRing(), freshKeyId()];
    await store.write(ring, keyId, bytes(64, 1));
    const again = reopen === undefined ? store : await reopen();
    assert.deepEqual(await read(again, ring), new Map([[keyId, bytes(64, 1)]]));
    const { written } = await again.write(ring, keyId, bytes(64, 2), { expected: bytes(64, 1) });
    assert.equal(written, true);
    assert.deepEqual(await read(store, ring), new Map([[keyId, bytes(64, 2)]]));
  });

  test("shows one handle what another one wrote", async ({ store, second = store }) => {
    const [ring, keyId] = [freshRing(), freshKeyId()];
    assert.deepEqual(await second.read(ring), []);
    await store.write(ring, keyId, bytes(64));
    assert.deepEqual(await read(second, ring), new Map([[keyId, bytes(64)]]));
  });

  test("tells the time in milliseconds", async ({ store, clock, clockToleranceMs = 2_000 }) => {
    const now = await store.now();
    assert.ok(Number.isInteger(now), `${now} is not whole`);
    assert.ok(Math.abs(now - clock()) <= clockToleranceMs, `${now} is not close to ${clock()}`);
  });
}

function registerConditions(test: Test): void {
  test("writes without `expected` only where there is no record", async ({ store }) => {
    const [ring, keyId] = [freshRing(), freshKeyId()];
    assert.deepEqual(await store.write(ring, keyId, bytes(8, 1)), { written: true, durable: true });
    assert.deepEqual(await store.write(ring, keyId, bytes(8, 2)), { written: false, durable: false });
    assert.deepEqual(await read(store, ring), new Map([[keyId, bytes(8, 1)]]));
  });

  test("counts bytes that are there as written and durable, whatever the conditions say", async ({ store }) => {
    const [ring, keyId] = [freshRing(), freshKeyId()];
    await store.write(ring, keyId, bytes(8, 1), { onlyIfKeyIds: [] });
    for (const options of [{}, { expected: bytes(8, 1) }, { expected: bytes(8, 9) }, { onlyIfKeyIds: [] }]) {
      assert.deepEqual(await store.write(ring, keyId, bytes(8, 1), options), { written: true, durable: true });
    }
    assert.deepEqual(await read(store, ring), new Map([[keyId, bytes(8, 1)]]));
  });

  test("replaces exactly the expected bytes", async ({ store }) => {
    const [ring, keyId] = [freshRing(), freshKeyId()];
    await store.write(ring, keyId, bytes(8, 1));
    for (const expected of [bytes(8, 2), bytes(7, 1), bytes(9, 1)]) {
      assert.deepEqual(await store.write(ring, keyId, bytes(8, 3), { expected }), { written: false, durable: false });
    }
    assert.deepEqual(await read(store, ring), new Map([[keyId, bytes(8, 1)]]));
    const replaced = await store.write(ring, keyId, bytes(8, 3), { expected: bytes(8, 1) });
    assert.deepEqual(replaced, { written: true, durable: true });
    assert.deepEqual(await read(store, ring), new Map([[keyId, bytes(8, 3)]]));
  });

  test("does not make a record where one is expected", async ({ store }) => {
    const [ring, keyId] = [freshRing(), freshKeyId()];
    const { written } = await store.write(ring, keyId, bytes(8, 2), { expected: bytes(8, 1) });
    assert.equal(written, false);
    assert.deepEqual(await store.read(ring), []);
  });

  test("leaves the other records as they are when it replaces one", async ({ store }) => {
    const [ring, first, other] = [freshRing(), freshKeyId(), freshKeyId()];
    await store.write(ring, first, bytes(8, 1));
    await store.write(ring, other, bytes(8, 2));
    await store.write(ring, first, bytes(8, 3), { expected: bytes(8, 1) });
    assert.deepEqual(
      await read(store, ring),
      sorted([
        [first, bytes(8, 3)],
        [other, bytes(8, 2)],
      ]),
    );
  });

  test("writes with `onlyIfKeyIds` only while the ring holds exactly these", async ({ store }) => {
    const [ring, first, second, third] = [freshRing(), freshKeyId(), freshKeyId(), freshKeyId()];
    const refused = { written: false, durable: false };
    assert.deepEqual(await store.write(ring, first, bytes(8, 1), { onlyIfKeyIds: [second] }), refused);
    assert.equal((await store.write(ring, first, bytes(8, 1), { onlyIfKeyIds: [] })).written, true);
    for (const onlyIfKeyIds of [[], [second], [first, third]]) {
      assert.deepEqual(await store.write(ring, second, bytes(8, 2), { onlyIfKeyIds }), refused);
    }
    assert.equal((await store.write(ring, second, bytes(8, 2), { onlyIfKeyIds: [first] })).written, true);
    assert.deepEqual(await store.write(ring, third, bytes(8, 3), { onlyIfKeyIds: [first] }), refused);
    const inAnyOrder = [
      [second, first],
      [first, second, first],
    ];
    for (const onlyIfKeyIds of inAnyOrder) {
      assert.equal((await store.write(ring, third, bytes(8, 3), { onlyIfKeyIds })).written, true);
    }
    assert.deepEqual(
      await read(store, ring),
      sorted([
        [first, bytes(8, 1)],
        [second, bytes(8, 2)],
        [third, bytes(8, 3)],
      ]),
    );
  });

  test("needs both conditions where both are given", async ({ store }) => {
    const [ring, keyId, other] = [freshRing(), freshKeyId(), freshKeyId()];
    await store.write(ring, keyId, bytes(8, 1));
    for (const options of [
      { expected: bytes(8, 1), onlyIfKeyIds: [other] },
      { expected: bytes(8, 2), onlyIfKeyIds: [keyId] },
    ]) {
      assert.equal((await store.write(ring, keyId, bytes(8, 3), options)).written, false);
    }
    const both = { expected: bytes(8, 1), onlyIfKeyIds: [keyId] };
    assert.equal((await store.write(ring, keyId, bytes(8, 3), both)).written, true);
  });

  test("lets one of several publishers win that start at once from an empty ring", async ({
    store,
    second = store,
  }) => {
    const ring = freshRing();
    const keyIds = Array.from({ length: PUBLISHERS }, freshKeyId);
    const results = await Promise.all(
      keyIds.map((keyId, index) =>
        (index % 2 === 0 ? store : second).write(ring, keyId, bytes(8, index), { onlyIfKeyIds: [] }),
      ),
    );
    const winners = keyIds.filter((_, index) => results[index]?.written);
    assert.equal(winners.length, 1);
    assert.deepEqual([...(await read(store, ring)).keys()], winners);
  });

  test("lets one of several writers win that replace the same bytes at once", async ({ store, second = store }) => {
    const [ring, keyId] = [freshRing(), freshKeyId()];
    await store.write(ring, keyId, bytes(8, 100));
    const results = await Promise.all(
      Array.from({ length: PUBLISHERS }, (_, index) =>
        (index % 2 === 0 ? store : second).write(ring, keyId, bytes(8, index), { expected: bytes(8, 100) }),
      ),
    );
    assert.equal(results.filter(({ written }) => written).length, 1);
    const winner = results.findIndex(({ written }) => written);
    assert.deepEqual(await read(second, ring), new Map([[keyId, bytes(8, winner)]]));
  });

  test("loses no record when several are added at once", async ({ store, second = store }) => {
    const ring = freshRing();
    const records = Array.from({ length: PUBLISHERS }, (_, index) => [freshKeyId(), bytes(8, index)] as const);
    await Promise.all(
      records.map(([keyId, record], index) => (index % 2 === 0 ? store : second).write(ring, keyId, record)),
    );
    assert.deepEqual(await read(store, ring), sorted(records));
  });
}

function registerArguments(test: Test): void {
  for (const [what, ring] of Object.entries({
    empty: "",
    long: "x".repeat(129),
    braced: "a{b}",
    illFormed: "\udc00",
  })) {
    test(`refuses a ring's name that is ${what} with a RangeError`, async ({ store }) => {
      await assert.rejects(store.read(ring), RangeError);
      await assert.rejects(store.write(ring, freshKeyId(), bytes(8)), RangeError);
    });
  }

  test("refuses what is no key id with a RangeError", async ({ store }) => {
    const ring = freshRing();
    for (const keyId of ["", "short", "A".repeat(15), "A".repeat(17), "A".repeat(15).concat("="), "+".repeat(16)]) {
      await assert.rejects(store.write(ring, keyId, bytes(8)), RangeError);
      await assert.rejects(store.write(ring, freshKeyId(), bytes(8), { onlyIfKeyIds: [keyId] }), RangeError);
    }
    assert.deepEqual(await store.read(ring), []);
  });

  test("refuses a record that is empty or longer than 8192 bytes with a RangeError", async ({ store }) => {
    const ring = freshRing();
    for (const record of [new Uint8Array(0), new Uint8Array(8193)]) {
      await assert.rejects(store.write(ring, freshKeyId(), record), RangeError);
    }
    assert.deepEqual(await store.read(ring), []);
  });

  test("takes expected bytes of any length, since somebody else may have written them", async ({ store }) => {
    const ring = freshRing();
    const keyId = freshKeyId();
    await store.write(ring, keyId, bytes(8, 1));
    for (const expected of [new Uint8Array(0), new Uint8Array(10_000)]) {
      assert.deepEqual(await store.write(ring, keyId, bytes(8, 2), { expected }), { written: false, durable: false });
    }
  });
}

function freshRing(): string {
  return `ring-${randomUUID()}`;
}

function freshKeyId(): string {
  return randomBytes(12).toString("base64url");
}

function bytes(length: number, seed = 0): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (seed + index * 7) & 0xff);
}

async function read(store: KeyRingStore, ring: string): Promise<ReadonlyMap<string, Uint8Array>> {
  const records = await store.read(ring);
  const keyIds = new Set(records.map(({ keyId }) => keyId));
  assert.equal(keyIds.size, records.length, "a key id stands twice");
  return sorted(records.map(({ keyId, record }) => [keyId, new Uint8Array(record)]));
}

/** Maps are compared without regard to order, but their keys are easier to read in one. */
function sorted(records: readonly (readonly [string, Uint8Array])[]): ReadonlyMap<string, Uint8Array> {
  return new Map([...records].sort(([a], [b]) => (a < b ? -1 : 1)));
}
