import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { decodeRecord, encodeRecord, RecordState } from "../src/data-key.js";
import { parseEnvelope } from "../src/envelope.js";
import { Sealer, type SealerOptions } from "../src/sealer.js";
import { codeThrown, fixture, HOUR, START } from "./support/fixture.js";
import { sealPayload } from "./support/seal-payload.js";
import { barSize } from "./support/vectors.js";

const ID = "rFrtJIBXJN6SbIDgVQKwOu51";
const SESSION_ID = "sC49jcyxxR0Oug6oR3Cghxbm";
const session = { user_id: 123, roles: ["admin"], created_at: 1_732_300_000 };

async function sealerFixture(options: Partial<SealerOptions> = {}) {
  const base = fixture();
  await base.ring.current();
  return { ...base, sealer: new Sealer({ ring: base.ring, ...options }) };
}

describe("Sealer", () => {
  it("opens what it sealed, with and without waiting", async () => {
    const { sealer } = await sealerFixture();
    expect(await sealer.open(await sealer.seal(session, ID), ID)).toEqual(session);
    expect(sealer.openSync(sealer.sealSync(session, ID), ID)).toEqual(session);
  });

  it("adds 54 bytes to the payload (3.1)", async () => {
    const { sealer } = await sealerFixture();
    expect(sealer.sealSync(new Uint8Array(0), ID)).toHaveLength(54 + 2);
    expect(sealer.sealSync(null, ID)).toHaveLength(54 + 1);
  });

  it("gives the same session other bytes each time", async () => {
    const { sealer } = await sealerFixture();
    const sealed = Array.from({ length: 1000 }, () => Buffer.from(sealer.sealSync(session, ID)).toString("hex"));
    expect(new Set(sealed).size).toBe(1000);
    // The key id and the sender are the same, the rest of the nonce is not.
    expect(new Set(sealed.map((text) => text.slice(0, 2 * 26))).size).toBe(1);
    expect(new Set(sealed.map((text) => text.slice(2 * 26, 2 * 38))).size).toBe(1000);
  });

  it("throws KEY_UNAVAILABLE without waiting while the key is cold, and waits for it otherwise", async () => {
    const { ring, process } = fixture();
    const cold = new Sealer({ ring });
    expect(await codeThrown(() => cold.sealSync(session, ID))).toBe("KEY_UNAVAILABLE");
    const envelope = await cold.seal(session, ID);
    const reader = new Sealer({ ring: process() });
    expect(await codeThrown(() => reader.openSync(envelope, ID))).toBe("KEY_UNAVAILABLE");
    expect(await reader.open(envelope, ID)).toEqual(session);
    expect(reader.openSync(envelope, ID)).toEqual(session);
  });

  it("seals raw bytes as one MessagePack bin", async () => {
    const { sealer } = await sealerFixture();
    for (const bytes of [Uint8Array.of(1, 2, 3), Buffer.from([1, 2, 3])]) {
      const opened = sealer.openSync(sealer.sealSync(bytes, ID), ID);
      expect(opened).toEqual(Uint8Array.of(1, 2, 3));
    }
  });

  it("opens under another process's ring", async () => {
    const { sealer, process } = await sealerFixture();
    const other = new Sealer({ ring: process() });
    expect(await other.open(sealer.sealSync(session, ID), ID)).toEqual(session);
  });

  it("opens an envelope under an old key, and seals under the new one", async () => {
    const { sealer, ring, advance } = await sealerFixture();
    const old = sealer.sealSync(session, ID);
    advance(1);
    const keyId = await ring.publish({ delayMs: 0 });
    const young = sealer.sealSync(session, ID);
    expect(Buffer.from(parseEnvelope(young)?.keyId as Uint8Array).toString("base64url")).toBe(keyId);
    expect(sealer.openSync(old, ID)).toEqual(session);
    expect(sealer.openSync(young, ID)).toEqual(session);
  });

  it("leaves the payload nowhere in the envelope", async () => {
    const { sealer } = await sealerFixture();
    const envelope = Buffer.from(sealer.sealSync({ secret: "correct horse battery staple" }, ID));
    expect(envelope.includes("secret")).toBe(false);
    expect(envelope.includes("correct horse")).toBe(false);
  });
});

describe("an envelope is rejected", () => {
  it.each([
    ["under another stored id", {}, "AAAAAAAAAAAAAAAAAAAAAAAA"],
    ["under a stored id that is ill-formed", {}, "\ud800"],
    ["in another namespace", { namespace: "eu" }, ID],
    ["for another purpose", { purpose: "shapes" }, ID],
    ["by a reader with a smaller limit", { maxEnvelopeBytes: 128 }, ID],
    ["by a reader of client-bound sessions", { clientBound: true }, ID],
  ] as [string, Partial<SealerOptions>, string][])("%s (4.2)", async (_, options, id) => {
    const { sealer, ring } = await sealerFixture();
    const envelope = sealer.sealSync({ text: "x".repeat(100) }, ID);
    const reader = new Sealer({ ring, ...options });
    expect(await codeThrown(reader.open(envelope, id, { sessionId: SESSION_ID }))).toBe("ENVELOPE_REJECTED");
    expect(await codeThrown(() => reader.openSync(envelope, id, { sessionId: SESSION_ID }))).toBe("ENVELOPE_REJECTED");
  });

  it("when parts of the context are shifted into each other (4.2)", async () => {
    const { ring } = await sealerFixture();
    const envelope = new Sealer({ ring, namespace: "ab" }).sealSync(session, "cd");
    const shifted = new Sealer({ ring, namespace: "a" });
    expect(await codeThrown(shifted.open(envelope, "bcd"))).toBe("ENVELOPE_REJECTED");
  });

  it("with the same error, whatever was changed in it", { timeout: 600_000 }, async () => {
    const { sealer } = await sealerFixture();
    const envelopes = [
      sealer.sealSync(session, ID),
      sealer.sealSync({ text: "x".repeat(300) }, ID),
      sealer.sealSync(session, ID, { notAfterMs: START + HOUR }),
    ];
    const seen = new Map<string, number>();
    const mutation = fc.record({
      of: fc.integer({ min: 0, max: envelopes.length - 1 }),
      change: fc.oneof(
        fc.record({ kind: fc.constant("flip" as const), at: fc.nat(), value: fc.integer({ min: 1, max: 255 }) }),
        fc.record({ kind: fc.constant("cut" as const), at: fc.nat(), value: fc.nat() }),
        fc.record({ kind: fc.constant("insert" as const), at: fc.nat(), value: fc.integer({ min: 0, max: 255 }) }),
        fc.record({ kind: fc.constant("swap" as const), at: fc.nat(), value: fc.nat() }),
        fc.record({ kind: fc.constant("random" as const), at: fc.constant(0), value: fc.nat() }),
      ),
      noise: fc.uint8Array({ minLength: 55, maxLength: 120 }),
    });
    const property = fc.asyncProperty(mutation, async ({ of, change, noise }) => {
      const original = envelopes[of] as Uint8Array;
      const mutated = mutate(original, change, noise);
      if (Buffer.from(mutated).equals(Buffer.from(original))) return;
      const error = await sealer.open(mutated, ID).then(
        () => "opened",
        (thrown: { code: string; message: string }) => `${thrown.code}: ${thrown.message}`,
      );
      seen.set(error, (seen.get(error) ?? 0) + 1);
    });
    const runs = barSize(100_000);
    await fc.assert(property, { numRuns: runs });
    expect([...seen.keys()]).toEqual(["ENVELOPE_REJECTED: the envelope was rejected"]);
    expect([...seen.values()][0]).toBeGreaterThan(0.95 * runs);
  });

  it("with a message that holds nothing of the session, its id or the key", async () => {
    const { sealer } = await sealerFixture();
    const envelope = sealer.sealSync(session, ID);
    const error = await sealer.open(envelope, "AAAAAAAAAAAAAAAAAAAAAAAA").catch((thrown: Error) => thrown);
    expect(String((error as Error).message)).toBe("the envelope was rejected");
    expect((error as Error).cause).toBeUndefined();
  });

  it("when its plaintext is no MessagePack value, or has bytes after it (6.2)", async () => {
    const { sealer, kms } = await sealerFixture();
    const [dataKey] = kms.made as [Uint8Array];
    const sealed = (...payload: number[]) =>
      sealPayload(Uint8Array.from(payload), { dataKey, context: ["session", "", ID], nonce: new Uint8Array(24) })
        .envelope;
    expect(await sealer.open(sealed(0xc0), ID)).toBeNull();
    for (const payload of [[0xc1], [0xc0, 0xc0], [0x91], [0xd9, 0x01, 0xff], [0xc7, 0x01, 0x63, 0x00]]) {
      expect(await codeThrown(sealer.open(sealed(...payload), ID))).toBe("ENVELOPE_REJECTED");
    }
  });
});

describe("NOT_AFTER (3.3)", () => {
  it("ends a session at its second, rounded up, and not a millisecond before", async () => {
    const { sealer, advance } = await sealerFixture();
    const envelope = sealer.sealSync(session, ID, { notAfterMs: START + 59_001 });
    expect(parseEnvelope(envelope)?.notAfter).toBe(START / 1000 + 60);
    advance(59_999);
    expect(sealer.openSync(envelope, ID)).toEqual(session);
    advance(1);
    expect(await codeThrown(() => sealer.openSync(envelope, ID))).toBe("ENVELOPE_EXPIRED");
    expect(await codeThrown(sealer.open(envelope, ID))).toBe("ENVELOPE_EXPIRED");
  });

  it("is authenticated: a later one is rejected, not expired", async () => {
    const { sealer, advance } = await sealerFixture();
    const envelope = sealer.sealSync(session, ID, { notAfterMs: START + 1000 });
    advance(HOUR);
    envelope[38] = 0xff;
    expect(await codeThrown(sealer.open(envelope, ID))).toBe("ENVELOPE_REJECTED");
  });

  it.each([[-1], [1.5], [0xffff_ffff * 1000 + 1], [Number.NaN]])("refuses %d milliseconds", async (notAfterMs) => {
    const { sealer } = await sealerFixture();
    expect(() => sealer.sealSync(session, ID, { notAfterMs })).toThrow(RangeError);
  });
});

describe("CLIENT_BOUND (3.4)", () => {
  it("opens with the client's session id and with no other", async () => {
    const { sealer, process } = await sealerFixture({ clientBound: true });
    const envelope = sealer.sealSync(session, ID, { sessionId: SESSION_ID });
    expect(parseEnvelope(envelope)?.clientBound).toBe(true);
    const reader = new Sealer({ ring: process(), clientBound: true });
    expect(await reader.open(envelope, ID, { sessionId: SESSION_ID })).toEqual(session);
    expect(await codeThrown(reader.open(envelope, ID, { sessionId: `${SESSION_ID}x` }))).toBe("ENVELOPE_REJECTED");
  });

  it("does not open for a reader without the session id", async () => {
    const { sealer, ring } = await sealerFixture({ clientBound: true });
    const envelope = sealer.sealSync(session, ID, { sessionId: SESSION_ID });
    expect(await codeThrown(new Sealer({ ring }).open(envelope, ID, { sessionId: SESSION_ID }))).toBe(
      "ENVELOPE_REJECTED",
    );
    expect(() => sealer.openSync(envelope, ID)).toThrow(TypeError);
    expect(() => sealer.sealSync(session, ID)).toThrow(TypeError);
    expect(() => sealer.sealSync(session, ID, { sessionId: "short" })).toThrow(TypeError);
  });

  it("does not leave a key behind that opens envelopes of other clients under the same sender", async () => {
    const { sealer } = await sealerFixture({ clientBound: true });
    const envelopes = ["a", "b", "c"].map((letter) => {
      const sessionId = letter.repeat(20);
      return { sessionId, envelope: sealer.sealSync({ letter }, ID, { sessionId }) };
    });
    for (const { sessionId, envelope } of [...envelopes, ...envelopes]) {
      expect(sealer.openSync(envelope, ID, { sessionId })).toEqual({ letter: sessionId[0] });
    }
  });
});

describe("INLINE_KEY (3.5)", () => {
  it("opens where the ring does not know the key", async () => {
    const { sealer, kms, process } = await sealerFixture({ inlineKeys: "write" });
    const envelope = sealer.sealSync(session, ID);
    expect(parseEnvelope(envelope)?.inlineRecord).toBeDefined();
    const elsewhere = fixture({ kms });
    const reader = new Sealer({ ring: elsewhere.process(), inlineKeys: "read" });
    expect(await reader.open(envelope, ID)).toEqual(session);
    expect(await elsewhere.store.read("web")).toEqual([]);
    expect(await new Sealer({ ring: process(), inlineKeys: "read" }).open(envelope, ID)).toEqual(session);
  });

  it("is rejected unless it is enabled", async () => {
    const { sealer, ring } = await sealerFixture({ inlineKeys: "write" });
    expect(await codeThrown(new Sealer({ ring }).open(sealer.sealSync(session, ID), ID))).toBe("ENVELOPE_REJECTED");
  });

  it("does not bring a key back that the ring has revoked, or the configuration", async () => {
    const { sealer, ring, store, process } = await sealerFixture({ inlineKeys: "write" });
    const envelope = sealer.sealSync(session, ID);
    const { keyId } = await ring.current();
    const configured = new Sealer({ ring: process({ revokedKeyIds: [keyId] }), inlineKeys: "read" });
    expect(await codeThrown(configured.open(envelope, ID))).toBe("KEY_REVOKED");
    const [stored] = await store.read("web");
    const record = decodeRecord(stored?.record as Uint8Array);
    if (record === undefined || stored === undefined) throw new Error("the ring is empty");
    const revoked = encodeRecord({ ...record, state: RecordState.revoked });
    await store.write("web", keyId, revoked, { expected: stored.record });
    const reader = new Sealer({ ring: process(), inlineKeys: "read" });
    expect(await codeThrown(reader.open(envelope, ID))).toBe("KEY_REVOKED");
  });

  it("is rejected when the record is of another key than the header names, or does not verify", async () => {
    const { sealer, ring, kms, advance } = await sealerFixture({ inlineKeys: "write" });
    const envelope = sealer.sealSync(session, ID);
    advance(1);
    await ring.publish({ delayMs: 0 });
    const other = sealer.sealSync(session, ID);
    const mixed = Uint8Array.of(...envelope.subarray(0, 38), ...other.subarray(38));
    const reader = new Sealer({ ring: fixture({ kms }).process(), inlineKeys: "read" });
    expect(await codeThrown(reader.open(mixed, ID))).toBe("ENVELOPE_REJECTED");
    // The commitment beyond the key id is not in the header: the record's own check refuses it.
    const changed = envelope.slice();
    changed[38 + 2 + 1 + 1 + 2 + 31] = (changed[38 + 2 + 1 + 1 + 2 + 31] as number) ^ 1;
    expect(await codeThrown(reader.open(changed, ID))).toBe("ENVELOPE_REJECTED");
    expect(await reader.open(envelope, ID)).toEqual(session);
  });
});

describe("limits", () => {
  it.each([128, 1000, 1_048_576])("seals up to %d bytes of envelope and refuses one more", async (maxEnvelopeBytes) => {
    const { sealer } = await sealerFixture({ maxEnvelopeBytes });
    const overhead = 54 + (maxEnvelopeBytes < 256 ? 2 : maxEnvelopeBytes < 65_536 ? 3 : 5);
    const largest = new Uint8Array(maxEnvelopeBytes - overhead).fill(1);
    const envelope = sealer.sealSync(largest, ID);
    expect(envelope).toHaveLength(maxEnvelopeBytes);
    expect(Buffer.from(sealer.openSync(envelope, ID) as Uint8Array).equals(largest)).toBe(true);
    const oneMore = new Uint8Array(largest.length + 1);
    expect(await codeThrown(() => sealer.sealSync(oneMore, ID))).toBe("VALUE_TOO_LARGE");
    expect(await codeThrown(sealer.seal(oneMore, ID))).toBe("VALUE_TOO_LARGE");
  });

  it.each([
    [{ ring: {} }, TypeError],
    [{ namespace: "\ud800" }, RangeError],
    [{ namespace: "a".repeat(257) }, RangeError],
    [{ purpose: "" }, RangeError],
    [{ maxEnvelopeBytes: 127 }, RangeError],
    [{ maxEnvelopeBytes: 1e12 }, RangeError],
    [{ inlineKeys: "maybe" }, RangeError],
  ])("refuses wrong options at construction: %j", async (options, type) => {
    const { ring } = fixture();
    expect(() => new Sealer({ ring, ...options } as SealerOptions)).toThrow(type);
  });

  it("refuses a stored id that cannot be authenticated", async () => {
    const { sealer } = await sealerFixture();
    expect(() => sealer.sealSync(session, "\udc00")).toThrow(RangeError);
  });
});

describe("reseed()", () => {
  it("changes the sender and drops the pool, as after a restore from a snapshot", async () => {
    const { sealer } = await sealerFixture();
    const sender = (envelope: Uint8Array) => Buffer.from(envelope.subarray(14, 26)).toString("hex");
    const before = sender(sealer.sealSync(session, ID));
    sealer.reseed();
    expect(sender(sealer.sealSync(session, ID))).not.toBe(before);
  });
});

type Change = { kind: "flip" | "cut" | "insert" | "swap" | "random"; at: number; value: number };

function mutate(original: Uint8Array, { kind, at, value }: Change, noise: Uint8Array): Uint8Array {
  const bytes = Array.from(original);
  const index = at % bytes.length;
  if (kind === "flip") bytes[index] = (bytes[index] as number) ^ value;
  if (kind === "cut") bytes.splice(index, 1 + (value % 40));
  if (kind === "insert") bytes.splice(index, 0, value);
  if (kind === "swap") {
    const other = value % bytes.length;
    [bytes[index], bytes[other]] = [bytes[other] as number, bytes[index] as number];
  }
  if (kind === "random") return Uint8Array.of(...original.subarray(0, value % 40), ...noise);
  return Uint8Array.from(bytes);
}
