/**
 * Threads that load the addon and end in every way: by themselves, by an error, terminated at any moment. First while the main thread has not
 * loaded it, so that the last thread unloads it, then while it has. `node threads.mjs [rounds]`
 */
import { strict as assert } from "node:assert";
import { createRequire } from "node:module";
import { Worker } from "node:worker_threads";
import { addonPath } from "./path.mjs";

const rounds = Number(process.argv[2] ?? 10);
const WAYS = ["return", "throw", "exit", "terminate at once", "terminate", "terminate"];
const source = `
  const { parentPort, workerData: { path, way } } = require("node:worker_threads");
  const addon = require(path);
  const nonce = Buffer.alloc(12), out = Buffer.alloc(80), keys = [];
  const use = () => {
    const key = addon.importKey(Buffer.alloc(32, keys.length));
    addon.sealGcm(key, nonce, nonce, out.subarray(16), out, 0);
    if (addon.openGcm(key, nonce, nonce, out, Buffer.alloc(64)) !== true) throw new Error("not opened");
    if (keys.length % 3 === 0) addon.releaseKey(key);
    keys.push(key);
  };
  for (let i = 0; i < 300; i++) use();
  parentPort.postMessage("running");
  if (way === "throw") throw new Error("on purpose");
  if (way === "exit") process.exit(0);
  while (way.startsWith("terminate")) use();
`;

let ended = 0;
await run(rounds);
const addon = createRequire(import.meta.url)(addonPath);
const key = addon.importKey(Buffer.alloc(32, 1));
const out = Buffer.alloc(80);
addon.sealGcm(key, Buffer.alloc(12), out, out.subarray(16), out, 0);
const before = Buffer.from(out);
await run(rounds);
out.fill(0);
addon.sealGcm(key, Buffer.alloc(12), out, out.subarray(16), out, 0);
assert.deepEqual(out, before);
assert.equal(addon.status().keys, 1);
console.log(`${ended} threads ended`);

async function run(count) {
  for (let round = 0; round < count; round++) await Promise.all(WAYS.map(endOne));
}

async function endOne(way) {
  const worker = new Worker(source, { eval: true, workerData: { path: addonPath, way } });
  const next = (event) => new Promise((resolve) => worker.once(event, resolve));
  const exit = next("exit");
  worker.on("error", (error) => assert.equal(error.message, "on purpose"));
  await Promise.race([next(way === "terminate at once" ? "online" : "message"), exit]);
  if (way.startsWith("terminate")) await worker.terminate();
  await exit;
  ended++;
}
