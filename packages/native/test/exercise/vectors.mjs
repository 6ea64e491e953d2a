/** The published vectors of everything that the addon computes, each from its file in the top-level `test/vectors/third-party`. */
import { strict as assert } from "node:assert";
import { readFileSync } from "node:fs";
import { addon } from "./addon.mjs";

const folder = new URL("../../../../test/vectors/third-party/", import.meta.url);
const read = (name) => JSON.parse(readFileSync(new URL(name, folder), "utf8"));
const hex = (text) => Buffer.from(text, "hex");

const { opened, refused } = gcm();
console.log(`AES-256-GCM: ${opened} opened and sealed, ${refused} refused`);
console.log(`XAES-256-GCM: ${xaes()} derived, sealed and opened`);
console.log(`HMAC-SHA256: ${hmac()} tags`);
console.log(`HKDF-SHA256: ${hkdf()} outputs`);
assert.equal(addon.status().keys, 0);

function gcm() {
  const cavp = read("nist_cavp_gcm256_iv96.json").tests.map(({ pt, result, ...test }) => ({
    ...test,
    msg: pt,
    ok: result === "ok",
  }));
  const wycheproof = read("wycheproof_aes_gcm.json")
    .testGroups.filter(({ ivSize, keySize }) => ivSize === 96 && keySize === 256)
    .flatMap(({ tests }) => tests.map(({ result, ...test }) => ({ ...test, ok: result === "valid" })));
  assert.ok(cavp.length > 100 && wycheproof.length > 25);
  const counts = { opened: 0, refused: 0 };
  for (const { key, iv, aad, msg, ct, tag, ok } of [...cavp, ...wycheproof]) {
    const sealed = hex(ct + tag);
    withKey(hex(key), (imported) => {
      const plaintext = new Uint8Array(sealed.length - 16).fill(0xaa);
      assert.equal(addon.openGcm(imported, hex(iv), hex(aad), sealed, plaintext), ok);
      counts[ok ? "opened" : "refused"]++;
      if (!ok) return assert.ok(plaintext.every((byte) => byte === 0));
      assert.deepEqual(Buffer.from(plaintext), hex(msg));
      const out = Buffer.alloc(sealed.length);
      addon.sealGcm(imported, hex(iv), hex(aad), plaintext, out, 0);
      assert.deepEqual(out, sealed);
      inPlace(imported, hex(iv), hex(aad), plaintext, sealed);
    });
  }
  return counts;
}

/** The same message behind a header that holds the nonce: the additional data is what stands there, then the context. */
function inPlace(key, nonce, aad, plaintext, sealed) {
  const header = Buffer.concat([hex("e510"), nonce]);
  const envelope = Buffer.concat([header, Buffer.alloc(sealed.length)]);
  addon.sealEnvelope(key, envelope, 2, header.length, aad, aad.length, plaintext);
  const expected = Buffer.alloc(sealed.length);
  addon.sealGcm(key, nonce, Buffer.concat([header, aad]), plaintext, expected, 0);
  assert.deepEqual(envelope, Buffer.concat([header, expected]));
  const opened = new Uint8Array(plaintext.length);
  assert.equal(addon.openEnvelope(key, envelope, 2, header.length, aad, aad.length, opened), true);
  assert.deepEqual(opened, new Uint8Array(plaintext));
}

function xaes() {
  const { tests } = read("xaes_256_gcm.json");
  for (const { key, nonceAscii, derivedKey, plaintextAscii, aadAscii, ciphertext } of tests) {
    const nonce = Buffer.from(nonceAscii);
    const derived = withKey(hex(key), (imported) => derive(imported, nonce.subarray(0, 12)));
    assert.equal(derived.toString("hex"), derivedKey);
    withKey(derived, (imported) => {
      const plaintext = Buffer.from(plaintextAscii);
      const out = Buffer.alloc(plaintext.length + 16);
      addon.sealGcm(imported, nonce.subarray(12), Buffer.from(aadAscii), plaintext, out, 0);
      assert.equal(out.toString("hex"), ciphertext);
    });
  }
  return tests.length;
}

/** Format 2.1. */
function derive(key, sender) {
  const l = Buffer.alloc(16);
  addon.aesBlocks(key, Buffer.alloc(16), l);
  const mask = 2n ** 128n - 1n;
  const number = BigInt(`0x${l.toString("hex")}`);
  const k1 = hex((((number << 1n) & mask) ^ (number >> 127n ? 0x87n : 0n)).toString(16).padStart(32, "0"));
  const blocks = Buffer.concat([hex("00015800"), sender, hex("00025800"), sender]).map((byte, i) => byte ^ k1[i % 16]);
  const out = Buffer.alloc(32);
  addon.aesBlocks(key, blocks, out);
  return out;
}

function hmac() {
  let count = 0;
  for (const { tagSize, tests } of read("wycheproof_hmac_sha256.json").testGroups) {
    for (const { key, msg, tag, result } of tests) {
      const out = Buffer.alloc(32);
      withKey(hex(key), (imported) => addon.hmacSha256(imported, hex(msg), out));
      assert.equal(out.subarray(0, tagSize / 8).toString("hex") === tag, result === "valid");
      count++;
    }
  }
  return count;
}

function hkdf() {
  const tests = read("wycheproof_hkdf_sha256.json").testGroups.flatMap((group) => group.tests);
  for (const { ikm, salt, info, size, okm, result } of tests) {
    const out = Buffer.alloc(size);
    const run = () => withKey(hex(ikm), (imported) => addon.hkdfSha256(imported, hex(salt), hex(info), out));
    if (result === "invalid") assert.throws(run, RangeError);
    else {
      run();
      assert.equal(out.toString("hex"), okm);
    }
  }
  return tests.length;
}

function withKey(bytes, use) {
  const key = addon.importKey(bytes);
  try {
    return use(key);
  } finally {
    addon.releaseKey(key);
  }
}
