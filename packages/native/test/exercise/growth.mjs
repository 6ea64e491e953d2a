/** Many keys, each used for some messages: resident memory must not follow their number. */
import { strict as assert } from "node:assert";
import { addon } from "./addon.mjs";

const KEYS = 40_000;
/** What a run of that many keys may add. Leaking them would be at least 72 bytes for each and 1 KiB for each context. */
const LIMIT_KIB = 16 * 1024;
const [nonce, message, sealed, plaintext] = [12, 300, 316, 300].map((size) => Buffer.alloc(size));

async function use(wipes) {
  for (let i = 0; i < KEYS; i++) {
    const key = addon.importKey(message.subarray(0, 32));
    addon.sealGcm(key, nonce, nonce, message, sealed, 0);
    assert.equal(addon.openGcm(key, nonce, nonce, sealed, plaintext), true);
    if (wipes) addon.releaseKey(key);
    // Finalizers run in the event loop.
    if (i % 500 === 0) await new Promise((resolve) => setImmediate(resolve));
  }
  for (let i = 0; i < 4; i++) {
    globalThis.gc();
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.deepEqual({ keys: addon.status().keys, contexts: addon.status().contexts }, { keys: 0, contexts: 0 });
}

async function growth(wipes) {
  await use(wipes);
  const before = process.memoryUsage.rss();
  await use(wipes);
  await use(wipes);
  const grown = Math.max(0, Math.round((process.memoryUsage.rss() - before) / 1024));
  assert.ok(grown < LIMIT_KIB, `${grown} KiB`);
  return grown;
}

console.log(`wiped: ${await growth(true)} KiB, dropped: ${await growth(false)} KiB`);
