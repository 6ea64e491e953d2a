import { createHash } from "node:crypto";
import { shake128 } from "@noble/hashes/sha3.js";
import { describe, expect, it } from "vitest";
import { backend } from "#backend";
import { deriveAesKey, NoncePool, openXaes, SENDER_BYTES, sealXaes } from "../src/aead.js";
import { utf8 } from "../src/bytes.js";
import { barSize, hex, readVectors, toHex } from "./support/vectors.js";

interface XaesFile {
  tests: {
    key: string;
    nonceAscii: string;
    derivedKey: string;
    plaintextAscii: string;
    aadAscii: string;
    ciphertext: string;
  }[];
  accumulated: { iterations10000: string; iterations1000000: string };
}

const file = readVectors<XaesFile>("third-party/xaes_256_gcm.json");

describe("XAES-256-GCM against the vectors of its specification", () => {
  it.each(file.tests)("seals and opens under key $key", ({ key, nonceAscii, derivedKey, ...test }) => {
    const imported = backend.importKey(hex(key));
    const nonce = utf8(nonceAscii);
    expect(toHex(deriveAesKey(backend, imported, nonce))).toBe(derivedKey);
    const aad = utf8(test.aadAscii);
    const sealed = sealXaes(backend, imported, nonce, aad, utf8(test.plaintextAscii));
    expect(toHex(sealed)).toBe(test.ciphertext);
    const opened = openXaes(backend, imported, nonce, aad, sealed) as Uint8Array;
    expect(toHex(opened)).toBe(toHex(utf8(test.plaintextAscii)));
  });

  const iterations = barSize(1_000_000);
  it(`reaches the accumulated hash over ${iterations} messages`, { timeout: 600_000 }, () => {
    expect(iterations === 10_000 || iterations === 1_000_000).toBe(true);
    const random = shake128.create();
    const hash = shake128.create();
    for (let i = 0; i < iterations; i++) {
      const key = backend.importKey(random.xof(32));
      const nonce = random.xof(24);
      const plaintext = random.xof(random.xof(1)[0] as number);
      const aad = random.xof(random.xof(1)[0] as number);
      const sealed = sealXaes(backend, key, nonce, aad, plaintext);
      // Opening checks the other direction on a part of the messages: it would double the time on all.
      if (i % 16 === 0) expect(toHex(openXaes(backend, key, nonce, aad, sealed) as Uint8Array)).toBe(toHex(plaintext));
      hash.update(sealed);
    }
    expect(toHex(hash.xof(32))).toBe(file.accumulated[iterations === 10_000 ? "iterations10000" : "iterations1000000"]);
  });

  it("refuses a message when any bit of it, of its nonce or of its additional data is changed", () => {
    const key = backend.importKey(new Uint8Array(32).fill(7));
    const nonce = new Uint8Array(24).fill(8);
    const aad = utf8("additional");
    const sealed = sealXaes(backend, key, nonce, aad, utf8("plaintext"));
    let refused = 0;
    for (const part of [nonce, aad, sealed]) {
      for (let bit = 0; bit < part.length * 8; bit++) {
        part[bit >> 3] = (part[bit >> 3] as number) ^ (1 << (bit & 7));
        if (openXaes(backend, key, nonce, aad, sealed) === undefined) refused++;
        part[bit >> 3] = (part[bit >> 3] as number) ^ (1 << (bit & 7));
      }
    }
    expect(refused).toBe((nonce.length + aad.length + sealed.length) * 8);
    expect(toHex(openXaes(backend, key, nonce, aad, sealed) as Uint8Array)).toBe(toHex(utf8("plaintext")));
  });
});

describe("NoncePool", () => {
  /** Counts its calls; every byte of the n-th one is n. */
  function countingRandom() {
    const random = Object.assign((target: Uint8Array) => void target.fill(++random.calls), { calls: 0 });
    return random;
  }
  const take = (pool: NoncePool) => {
    const target = new Uint8Array(SENDER_BYTES);
    pool.take(target, 0);
    return target[0];
  };

  it("draws nothing before the first message", () => {
    const random = countingRandom();
    new NoncePool(random, () => 0);
    expect(random.calls).toBe(0);
  });

  it("serves many messages from one draw", () => {
    const random = countingRandom();
    const pool = new NoncePool(random, () => 0);
    for (let i = 0; i < 256; i++) expect(take(pool)).toBe(1);
    expect(take(pool)).toBe(2);
  });

  it.each([
    ["is older than a second", 1001],
    ["seems to come from the future", -1],
  ])("draws anew when the pool %s", (_, later) => {
    let now = 5000;
    const pool = new NoncePool(countingRandom(), () => now);
    expect(take(pool)).toBe(1);
    now += later;
    expect(take(pool)).toBe(2);
  });

  it("keeps the pool for exactly a second", () => {
    let now = 5000;
    const pool = new NoncePool(countingRandom(), () => now);
    expect(take(pool)).toBe(1);
    now += 1000;
    expect(take(pool)).toBe(1);
  });

  it("does not repeat what a restored process image still had", () => {
    const pool = new NoncePool(countingRandom(), () => 0);
    expect(take(pool)).toBe(1);
    pool.reset();
    expect(take(pool)).toBe(2);
  });

  it("gives every message other bytes", () => {
    const pool = new NoncePool(backend.randomFill, () => 0);
    const seen = new Set<string>();
    for (let i = 0; i < 10_000; i++) {
      const target = new Uint8Array(SENDER_BYTES);
      pool.take(target, 0);
      seen.add(createHash("sha256").update(target).digest("hex"));
    }
    expect(seen.size).toBe(10_000);
  });
});
