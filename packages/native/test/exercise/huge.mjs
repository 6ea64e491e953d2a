/** Lengths beyond an int. The memory is never touched, so that it costs address space only. */
import { strict as assert } from "node:assert";
import { addon } from "./addon.mjs";

const huge = new Uint8Array(2 ** 31 + 256);
const [nonce, small, key] = [Buffer.alloc(12), Buffer.alloc(64), addon.importKey(Buffer.alloc(32))];

for (const args of [
  ["sealGcm", key, nonce, huge, small, Buffer.alloc(80), 0],
  ["sealGcm", key, nonce, small, huge, huge, 0],
  ["sealGcm", key, nonce, small, huge.subarray(0, 2 ** 31 - 1), huge, 0],
  ["openGcm", key, nonce, small, huge, huge.subarray(16)],
  ["openGcm", key, nonce, huge, Buffer.alloc(80), small],
  ["sealEnvelope", key, huge, 0, 16, small, 0, huge.subarray(32)],
  ["sealEnvelope", key, huge, 0, huge.length - 80, small, 0, small],
  ["openEnvelope", key, huge, 0, 16, small, 0, huge.subarray(32)],
  ["openEnvelope", key, huge, 2 ** 31, huge.length - 80, small, 0, small],
  ["aesBlocks", key, huge, huge],
  ["hkdfSha256", key, small, small, huge],
  ["importKey", huge],
]) {
  const [name, ...rest] = args;
  assert.throws(() => addon[name](...rest), RangeError, name);
}
console.log("all refused");
