/** Whoever owns secret bytes wipes them: what passes through the backend and the KMS is followed, and must be zeros afterwards. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { backend } from "#backend";
import { NoncePool } from "../src/aead.js";
import type { SecretKey } from "../src/backend/backend.js";
import { DataKey, deriveIndexKey, encodeRecord } from "../src/data-key.js";
import type { Kms } from "../src/kms.js";
import { localKms } from "../src/local-kms.js";
import { Sealer, type SealerOptions } from "../src/sealer.js";
import { codeThrown, HOUR, START } from "./support/fixture.js";
import { held, openFixture } from "./support/open-fixture.js";
import { overwrite, withAnotherCommitment } from "./support/open-ring-store.js";
import { sealPayload } from "./support/seal-payload.js";

const ID = "rFrtJIBXJN6SbIDgVQKwOu51";
const SESSION_ID = "0123456789abcdef";

/** Every secret that went through the backend, in the order of the calls: the arrays themselves, not copies. */
interface Seen {
  /** Plaintexts that `openGcm` returned. */
  plaintexts: Uint8Array[];
  /** Bytes that were imported as keys. */
  imported: Uint8Array[];
  /** The keys that came of them. */
  keys: SecretKey[];
  /** What HKDF and the block cipher derived, apart from commitments. */
  derived: Uint8Array[];
}
let seen: Seen;

beforeEach(() => {
  seen = { plaintexts: [], imported: [], keys: [], derived: [] };
  const { openGcm, importKey, hkdfSha256, aesBlocks } = backend;
  vi.spyOn(backend, "openGcm").mockImplementation((...args) => {
    const plaintext = openGcm(...args);
    if (plaintext !== undefined) seen.plaintexts.push(filled(plaintext));
    return plaintext;
  });
  vi.spyOn(backend, "importKey").mockImplementation((bytes) => {
    const key = importKey(bytes);
    seen.imported.push(filled(bytes));
    seen.keys.push(key);
    return key;
  });
  vi.spyOn(backend, "hkdfSha256").mockImplementation((key, salt, info, length) => {
    const bytes = hkdfSha256(key, salt, info, length);
    // The commitment is public: it is in every record.
    if (!Buffer.from(info).toString("latin1").endsWith("/commitment")) seen.derived.push(filled(bytes));
    return bytes;
  });
  vi.spyOn(backend, "aesBlocks").mockImplementation((...args) => {
    const bytes = aesBlocks(...args);
    seen.derived.push(filled(bytes));
    return bytes;
  });
});
afterEach(() => void vi.restoreAllMocks());

/** Makes sure that there was something to wipe. */
function filled(bytes: Uint8Array): Uint8Array {
  expect(bytes.some((byte) => byte !== 0)).toBe(true);
  return bytes;
}

const isWiped = (bytes: Uint8Array) => bytes.every((byte) => byte === 0);

function expectWiped(arrays: readonly Uint8Array[], atLeast = 1): void {
  expect(arrays.length).toBeGreaterThanOrEqual(atLeast);
  for (const bytes of arrays) expect(isWiped(bytes)).toBe(true);
}

/** A key that was wiped refuses to work. */
function isUsable(key: SecretKey): boolean {
  try {
    backend.hmacSha256(key, new Uint8Array(1));
    return true;
  } catch {
    return false;
  }
}

/** A KMS that keeps the very arrays that it hands out and is handed. */
function watched(kms: Kms): { kms: Kms; arrays: Uint8Array[] } {
  const arrays: Uint8Array[] = [];
  return {
    arrays,
    kms: {
      name: kms.name,
      async generate(...args) {
        const generated = await kms.generate(...args);
        arrays.push(filled(generated.dataKey));
        return generated;
      },
      wrap(dataKey, ...args) {
        arrays.push(filled(dataKey));
        return kms.wrap(dataKey, ...args);
      },
      async unwrap(...args) {
        const dataKey = await kms.unwrap(...args);
        arrays.push(filled(dataKey));
        return dataKey;
      },
    },
  };
}

async function sealerFixture(options: Partial<SealerOptions> = {}) {
  const base = openFixture();
  await base.ring.current();
  return { ...base, sealer: new Sealer({ ring: base.ring, ...options }) };
}

describe("a plaintext is wiped", () => {
  it("after it was decoded", async () => {
    const { sealer } = await sealerFixture();
    const envelope = sealer.sealSync({ secret: "correct horse" }, ID);
    expect(sealer.openSync(envelope, ID)).toEqual({ secret: "correct horse" });
    expect(await sealer.open(envelope, ID)).toEqual({ secret: "correct horse" });
    expectWiped(seen.plaintexts, 2);
  });

  it("and raw bytes that were sealed come back in an array of their own", async () => {
    const { sealer } = await sealerFixture();
    expect(sealer.openSync(sealer.sealSync(Uint8Array.of(1, 2, 3), ID), ID)).toEqual(Uint8Array.of(1, 2, 3));
    expectWiped(seen.plaintexts);
  });

  it("when it is no value", async () => {
    const { sealer, kms } = await sealerFixture();
    const { envelope } = sealPayload(Uint8Array.of(0xc1, 1, 2, 3), {
      dataKey: kms.made[0] as Uint8Array,
      context: ["session", "", ID],
      nonce: new Uint8Array(24),
    });
    expect(await codeThrown(() => sealer.openSync(envelope, ID))).toBe("ENVELOPE_REJECTED");
    expectWiped(seen.plaintexts);
  });

  it("when the envelope is past its end of life", async () => {
    const { sealer, advance } = await sealerFixture();
    const envelope = sealer.sealSync({ secret: 1 }, ID, { notAfterMs: START + 1000 });
    advance(1000);
    expect(await codeThrown(() => sealer.openSync(envelope, ID))).toBe("ENVELOPE_EXPIRED");
    expectWiped(seen.plaintexts);
  });

  it("when it was client-bound, together with the client's keys (3.4)", async () => {
    const { sealer } = await sealerFixture({ clientBound: true });
    const { length } = seen.keys;
    const envelope = sealer.sealSync({ secret: 1 }, ID, { sessionId: SESSION_ID });
    sealer.openSync(envelope, ID, { sessionId: SESSION_ID });
    await codeThrown(() => sealer.openSync(envelope, ID, { sessionId: "fedcba9876543210" }));
    expectWiped(seen.plaintexts);
    expectWiped(seen.imported);
    expectWiped(seen.derived);
    // The process's own sender is drawn with the first message, and stays.
    expect(seen.keys.slice(length).filter(isUsable)).toHaveLength(1);
  });
});

describe("the bytes of a data key are wiped", () => {
  it("after it was made, wrapped by every KMS and read back", async () => {
    const [first, second] = [openFixture().kms, openFixture().kms].map(watched) as [
      ReturnType<typeof watched>,
      ReturnType<typeof watched>,
    ];
    const { ring } = openFixture({ kms: [first.kms, { ...second.kms, name: "second" }] });
    await ring.current();
    expectWiped(first.arrays, 2);
    expectWiped(second.arrays);
    expectWiped(seen.imported, 2);
    expectWiped(seen.derived, 2);
  });

  it("also when a KMS that should wrap it fails", async () => {
    const { kms, arrays } = watched(openFixture().kms);
    const failing = openFixture().kms;
    failing.failWith = "KMS_DENIED";
    await openFixture({ kms: [kms, { ...failing, name: "failing" }] }).ring.current();
    expectWiped(arrays, 2);
  });

  it("after it was unwrapped", async () => {
    const { ring, kms, process } = openFixture();
    const { keyIdBytes } = await ring.current();
    const reader = watched(kms);
    await process({ kms: reader.kms }).byId(keyIdBytes);
    expectWiped(reader.arrays);
    expectWiped(seen.derived);
    expectWiped(seen.imported);
  });

  it("when it is not the key that the record names, with all that was derived (1.3)", async () => {
    const { ring, kms, process, store, stored } = openFixture();
    const { keyId, keyIdBytes } = await ring.current();
    overwrite(store, { keyId }, withAnotherCommitment(stored(keyId)));
    const reader = watched(kms);
    const { length } = seen.keys;
    expect(await codeThrown(process({ kms: reader.kms }).byId(keyIdBytes))).toBe("KEY_UNAVAILABLE");
    expectWiped(reader.arrays);
    expectWiped(seen.derived);
    expect(seen.keys.slice(length).filter(isUsable)).toEqual([]);
  });

  it("when it has another length", async () => {
    const { ring, process } = openFixture();
    const { keyIdBytes } = await ring.current();
    const long = new Uint8Array(33).fill(1);
    const kms: Kms = { ...openFixture().kms, unwrap: async () => long };
    expect(await codeThrown(process({ kms }).byId(keyIdBytes))).toBe("KEY_UNAVAILABLE");
    expectWiped([long]);
  });

  it("when the ring was closed while the KMS opened it, together with the key", async () => {
    const { ring, kms, process } = openFixture();
    const { keyIdBytes } = await ring.current();
    ring.close();
    const gate = held();
    const asked = held();
    const reader = watched({
      ...kms,
      async unwrap(...args) {
        asked.release();
        await gate.promise;
        return kms.unwrap(...args);
      },
    });
    const cold = process({ kms: reader.kms });
    const waiting = codeThrown(cold.byId(keyIdBytes));
    await asked.promise;
    cold.close();
    gate.release();
    expect(await waiting).toBe("CLOSED");
    expectWiped(reader.arrays);
    expect(seen.keys.filter(isUsable)).toEqual([]);
  });

  it("when it came with an envelope, whether that opens or not", async () => {
    const { sealer, kms } = await sealerFixture({ inlineKeys: "write" });
    const envelope = sealer.sealSync({ secret: 1 }, ID);
    const reader = watched(kms);
    const elsewhere = new Sealer({ ring: openFixture({ kms: reader.kms }).ring, inlineKeys: "read" });
    const { length } = seen.keys;
    await elsewhere.open(envelope, ID);
    expect(await codeThrown(elsewhere.open(envelope, "another"))).toBe("ENVELOPE_REJECTED");
    expectWiped(reader.arrays, 2);
    expect(seen.keys.slice(length).filter(isUsable)).toEqual([]);
  });

  it("of an index ring, once its index key is derived", () => {
    const indexKey = deriveIndexKey(new Uint8Array(32).fill(3));
    expect(isWiped(indexKey)).toBe(false);
    expect(seen.keys.filter(isUsable)).toEqual([]);
  });
});

describe("derived keys are wiped", () => {
  it("from the heap, once the backend holds them", async () => {
    const { sealer, process } = await sealerFixture();
    const envelope = sealer.sealSync({ secret: 1 }, ID);
    await new Sealer({ ring: process() }).open(envelope, ID);
    expectWiped(seen.imported, 4);
    expectWiped(seen.derived, 4);
  });

  it("for a sender under which nothing verified", async () => {
    const { sealer, process } = await sealerFixture();
    const envelope = sealer.sealSync({ secret: 1 }, ID);
    const reader = new Sealer({ ring: process() });
    await codeThrown(reader.open(envelope, "another"));
    const { length } = seen.keys;
    await codeThrown(reader.open(envelope, "another"));
    expect(seen.keys).toHaveLength(length + 1);
    expect(isUsable(seen.keys[length] as SecretKey)).toBe(false);
  });

  it("for senders that fall out of the cache, for the last sender, and all of them with the key", () => {
    const dataKey = new Uint8Array(32).fill(5);
    const key = new DataKey(dataKey, { random: backend.randomFill, maxSenders: 4, maxMessagesPerSender: 1 });
    const messages = Array.from({ length: 20 }, (_, n) => {
      const nonce = new Uint8Array(24).fill(n + 1);
      const { envelope } = sealPayload(Uint8Array.of(1), { dataKey, context: [], nonce });
      return { nonce, aad: envelope.subarray(0, 38), sealed: envelope.subarray(38) };
    });
    seen.keys.length = 0;
    for (const { nonce, aad, sealed } of messages) expect(key.open(nonce, aad, sealed)).toHaveLength(1);
    expect(seen.keys.filter(isUsable).length).toBeLessThanOrEqual(4);
    const before = seen.keys.filter(isUsable).length;
    for (let i = 0; i < 5; i++) key.nextSender();
    expect(seen.keys.filter(isUsable)).toHaveLength(before + 1);
    key.reseed();
    expect(seen.keys.filter(isUsable)).toHaveLength(before);
    key.wipe();
    expect(seen.keys.filter(isUsable)).toEqual([]);
  });

  it("when the ring is closed", async () => {
    const { sealer, ring, advance } = await sealerFixture();
    const envelope = sealer.sealSync({ secret: 1 }, ID);
    sealer.openSync(envelope, ID);
    advance(HOUR);
    await ring.publish({ delayMs: 0 });
    sealer.sealSync({ secret: 1 }, ID);
    expect(seen.keys.filter(isUsable)).not.toEqual([]);
    ring.close();
    expect(seen.keys.filter(isUsable)).toEqual([]);
  });

  it("when their key is revoked", async () => {
    const { sealer, ring, store, stored } = await sealerFixture();
    sealer.openSync(sealer.sealSync({ secret: 1 }, ID), ID);
    const { keyId } = await ring.current();
    overwrite(store, { keyId }, encodeRecord({ ...stored(keyId), state: 1 }));
    await ring.refresh();
    expect(seen.keys.filter(isUsable)).toEqual([]);
  });
});

describe("random bytes are wiped", () => {
  it("from the nonce pool as they are taken, and all of them by reset() (2.4)", () => {
    let pool: Uint8Array = new Uint8Array(0);
    const random = (target: Uint8Array) => {
      pool = target.fill(7);
    };
    const nonces = new NoncePool(random, () => 0);
    const target = new Uint8Array(14);
    nonces.take(target, 2);
    expect([...target]).toEqual([0, 0, ...new Array(12).fill(7)]);
    expect(isWiped(pool.subarray(0, 12))).toBe(true);
    expect(pool.subarray(12).every((byte) => byte === 7)).toBe(true);
    nonces.take(target, 0);
    expect(isWiped(pool.subarray(0, 24))).toBe(true);
    nonces.reset();
    expectWiped([pool]);
  });
});

describe("localKms wipes its key's bytes", () => {
  const KEY = Buffer.alloc(32, 5).toString("base64url");
  const context = { "sealed-session:ring": "web" };
  afterEach(() => vi.unstubAllEnvs());

  it("when they came from an environment variable", () => {
    vi.stubEnv("LOCAL_KEY", KEY);
    localKms({ keyVariable: "LOCAL_KEY" });
    expectWiped(seen.imported);
  });

  it("when they were drawn for a new file, and when they were read from it", () => {
    const folder = mkdtempSync(join(tmpdir(), "sealed-session-"));
    try {
      const drawn: Uint8Array[] = [];
      const random = (target: Uint8Array) => {
        backend.randomFill(target);
        drawn.push(target);
      };
      const keyFile = join(folder, "key");
      localKms({ keyFile, random });
      expectWiped(drawn.filter(({ length }) => length === 32));
      localKms({ keyFile });
      expectWiped(seen.imported, 2);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it("with what it derives for each call, and leaves the data key to its caller", async () => {
    vi.stubEnv("LOCAL_KEY", KEY);
    const kms = localKms({ keyVariable: "LOCAL_KEY" });
    const { dataKey, wrapped } = await kms.generate(context);
    expect(isWiped(dataKey)).toBe(false);
    expect(isWiped(await kms.unwrap(wrapped, context))).toBe(false);
    await codeThrown(kms.unwrap(wrapped, {}));
    expectWiped(seen.derived, 6);
    expectWiped(seen.imported, 4);
    // Its own key is the first one; the AES keys of the three calls are gone.
    expect(seen.keys.map(isUsable)).toEqual([true, false, false, false]);
  });
});
