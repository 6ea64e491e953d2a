import { describe, expect, it } from "vitest";
import { backend } from "#backend";
import { hex, readVectors, toHex } from "./support/vectors.js";

interface WycheproofCase {
  tcId: number;
  result: "valid" | "invalid" | "acceptable";
}
interface WycheproofFile<T> {
  numberOfTests: number;
  testGroups: { tagSize: number; ivSize: number; tests: (T & WycheproofCase)[] }[];
}

describe("backend", () => {
  it("is the one that this run names", () => {
    expect(backend.name).toBe(process.env["SEALED_SESSION_BACKEND"]);
  });

  it("fills with random bytes", () => {
    const [a, b] = [new Uint8Array(32), new Uint8Array(32)];
    backend.randomFill(a);
    backend.randomFill(b);
    expect(toHex(a)).not.toBe(toHex(b));
    expect(toHex(a)).not.toBe("00".repeat(32));
  });

  it("does not use a key that was wiped", () => {
    const key = backend.importKey(new Uint8Array(32).fill(1));
    key.wipe();
    expect(() => backend.aesBlocks(key, new Uint8Array(16))).toThrow("wiped");
  });

  it("keeps its own copy of a key", () => {
    const bytes = new Uint8Array(32).fill(1);
    const key = backend.importKey(bytes);
    bytes.fill(0);
    // AES-256 of the zero block under this key.
    expect(toHex(backend.aesBlocks(key, new Uint8Array(16)))).toBe("7298caa565031eadc6ce23d23ea66378");
  });
});

describe("AES-256-GCM against Wycheproof", () => {
  type Case = { key: string; iv: string; aad: string; msg: string; ct: string; tag: string };
  const file = readVectors<WycheproofFile<Case>>("third-party/wycheproof_aes_gcm.json");
  const cases = file.testGroups.flatMap((group) => group.tests.map((test) => ({ ...test, ivSize: group.ivSize })));
  const ours = cases.filter(({ ivSize }) => ivSize === 96);

  it("has all cases of the file, and those with 12-byte nonces concern the format", () => {
    expect(cases.length).toBe(file.numberOfTests);
    expect(ours.length).toBeGreaterThan(25);
  });

  it.each(ours)("case $tcId is $result", ({ key, iv, aad, msg, ct, tag, result }) => {
    const sealed = hex(ct + tag);
    const opened = backend.openGcm(backend.importKey(hex(key)), hex(iv), hex(aad), sealed);
    if (result === "invalid") return expect(opened).toBeUndefined();
    expect(toHex(opened as Uint8Array)).toBe(msg);
    const out = new Uint8Array(sealed.length);
    backend.sealGcm(backend.importKey(hex(key)), hex(iv), hex(aad), hex(msg), out, 0);
    expect(toHex(out)).toBe(ct + tag);
  });
});

describe("AES-256-GCM against NIST CAVP", () => {
  type Case = { key: string; iv: string; aad: string; ct: string; tag: string; pt?: string; result: "ok" | "fail" };
  const file = readVectors<{ numberOfTests: number; tests: Case[] }>("third-party/nist_cavp_gcm256_iv96.json");

  it(`opens or refuses all ${file.numberOfTests} cases as the file says`, () => {
    const results = { ok: 0, fail: 0 };
    for (const { key, iv, aad, ct, tag, pt, result } of file.tests) {
      const opened = backend.openGcm(backend.importKey(hex(key)), hex(iv), hex(aad), hex(ct + tag));
      expect(opened === undefined ? "fail" : "ok").toBe(result);
      if (opened !== undefined) expect(toHex(opened)).toBe(pt);
      results[result]++;
    }
    expect(results.ok + results.fail).toBe(file.numberOfTests);
    expect(results.fail).toBeGreaterThan(50);
  });
});

describe("HKDF-SHA256 against Wycheproof", () => {
  type Case = { ikm: string; salt: string; info: string; size: number; okm: string };
  const file = readVectors<WycheproofFile<Case>>("third-party/wycheproof_hkdf_sha256.json");
  const cases = file.testGroups.flatMap(({ tests }) => tests);

  it.each(cases)("case $tcId is $result", ({ ikm, salt, info, size, okm, result }) => {
    const derive = () => backend.hkdfSha256(backend.importKey(hex(ikm)), hex(salt), hex(info), size);
    if (result === "invalid") return expect(derive).toThrow();
    expect(toHex(derive())).toBe(okm);
  });
});

describe("HMAC-SHA256 against Wycheproof", () => {
  type Case = { key: string; msg: string; tag: string };
  const file = readVectors<WycheproofFile<Case>>("third-party/wycheproof_hmac_sha256.json");

  it(`computes or refuses all ${file.numberOfTests} tags as the file says`, () => {
    let count = 0;
    for (const { tagSize, tests } of file.testGroups) {
      for (const { key, msg, tag, result } of tests) {
        const computed = toHex(backend.hmacSha256(backend.importKey(hex(key)), hex(msg)).subarray(0, tagSize / 8));
        expect(computed === tag).toBe(result === "valid");
        count++;
      }
    }
    expect(count).toBe(file.numberOfTests);
  });
});
