/**
 * The part of the store suite that is about walking over all stored ids.
 */
import assert from "node:assert/strict";
import { bytes, fill, freshId, MINUTE_MS, read, type StoreTest, scanned } from "./store-fixture.js";

/** Registers the tests of scan. */
export function registerScan(test: StoreTest): void {
  test("meets nothing in an empty store", async ({ store }) => {
    assert.deepEqual(await scanned(store), []);
  });

  test("meets every id once", async ({ store }) => {
    const ids = await fill(store, 1_500);
    assert.deepEqual((await scanned(store)).sort(), ids.sort());
  });

  test("meets what lives throughout while other ids are destroyed, and none twice", async ({ store }) => {
    const staying = await fill(store, 300);
    const leaving = await fill(store, 300);
    const met: string[] = [];
    for await (const id of store.scan()) {
      if (met.push(id) === 1) await Promise.all(leaving.map((gone) => store.destroy(gone)));
    }
    const duplicates = met.filter((id, index) => met.indexOf(id) !== index);
    assert.deepEqual(duplicates, []);
    assert.deepEqual(met.filter((id) => staying.includes(id)).sort(), staying.sort());
  });

  test("does not meet what has expired or was destroyed before", async ({ store, advance }) => {
    const [living, expired, destroyed] = [freshId(), freshId(), freshId()];
    await store.set(living, bytes(4), { ttlMs: MINUTE_MS });
    await store.set(expired, bytes(4), { ttlMs: 20 });
    await store.set(destroyed, bytes(4), { ttlMs: MINUTE_MS });
    await store.destroy(destroyed);
    await advance(21);
    assert.deepEqual(await scanned(store), [living]);
  });

  test("may be left early and begun again", async ({ store }) => {
    const ids = await fill(store, 50);
    for await (const id of store.scan()) {
      assert.ok(ids.includes(id));
      break;
    }
    assert.equal((await scanned(store)).length, 50);
  });

  test("keeps to its own namespace", async ({ store, sibling }) => {
    const id = freshId();
    await store.set(id, bytes(4, 1), { ttlMs: MINUTE_MS });
    assert.equal(await sibling.get(id), undefined);
    await sibling.set(id, bytes(4, 2), { ttlMs: MINUTE_MS });
    const other = freshId();
    await sibling.set(other, bytes(4, 3), { ttlMs: MINUTE_MS });
    assert.deepEqual(await scanned(store), [id]);
    assert.deepEqual((await scanned(sibling)).sort(), [id, other].sort());
    assert.equal(await sibling.destroy(id), true);
    assert.deepEqual(await read(store, id), bytes(4, 1));
  });
}
