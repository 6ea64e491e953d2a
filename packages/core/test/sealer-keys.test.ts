/** Which keys a sealer uses, derives and keeps: inline records, clients' keys, senders and the nonce pool. */
import { afterEach, describe, expect, it, vi } from "vitest";
import { backend } from "#backend";
import { DataKey, decodeRecord, encodeRecord, type KeyRecord, RecordState } from "../src/data-key.js";
import { parseEnvelope } from "../src/envelope.js";
import { Sealer, type SealerOptions } from "../src/sealer.js";
import { codeThrown } from "./support/fixture.js";
import { type OpenFixture, openFixture } from "./support/open-fixture.js";
import { overwrite, withAnotherCommitment } from "./support/open-ring-store.js";
import { sealPayload } from "./support/seal-payload.js";

const ID = "rFrtJIBXJN6SbIDgVQKwOu51";
const session = { user_id: 123 };
afterEach(() => void vi.restoreAllMocks());

async function sealerFixture(options: Partial<SealerOptions> = {}): Promise<OpenFixture & { sealer: Sealer }> {
  const base = openFixture();
  await base.ring.current();
  return { ...base, sealer: new Sealer({ ring: base.ring, ...options }) };
}

/** Counts how often an AES key is derived for a sender (2.1): two calls each. */
function countingDerivations() {
  const spy = vi.spyOn(backend, "aesBlocks");
  return () => {
    const count = spy.mock.calls.length / 2;
    spy.mockClear();
    return count;
  };
}

describe("INLINE_KEY (3.5)", () => {
  const recordOf = ({ stored, store }: OpenFixture) => stored([...store.records.keys()][0] as string);
  const misfits: [string, (record: KeyRecord) => Uint8Array][] = [
    ["is none", () => Uint8Array.of(0xc0)],
    ["has a byte after it", (record) => Uint8Array.of(...encodeRecord(record), 0)],
    ["is of another key id", (record) => encodeRecord({ ...record, commitment: new Uint8Array(32) })],
    ["has another commitment after the key id", (record) => encodeRecord(withAnotherCommitment(record))],
  ];
  it.each(misfits)("with a record that %s is rejected, whether the key is warm or not", async (_, make) => {
    const base = await sealerFixture({ inlineKeys: "read" });
    const seal = (inlineRecord: Uint8Array) =>
      sealPayload(Uint8Array.of(0xc0), {
        dataKey: base.kms.made[0] as Uint8Array,
        inlineRecord,
        context: ["session", "", ID],
        nonce: new Uint8Array(24),
      }).envelope;
    const elsewhere = new Sealer({ ring: openFixture({ kms: base.kms }).ring, inlineKeys: "read" });
    for (const reader of [base.sealer, new Sealer({ ring: base.process(), inlineKeys: "read" }), elsewhere]) {
      expect(await reader.open(seal(encodeRecord(recordOf(base))), ID)).toBeNull();
      expect(await codeThrown(reader.open(seal(make(recordOf(base))), ID))).toBe("ENVELOPE_REJECTED");
    }
    expect(await codeThrown(() => base.sealer.openSync(seal(make(recordOf(base))), ID))).toBe("ENVELOPE_REJECTED");
  });

  it("with the record's state changed on its way is rejected, not revoked: the tag covers it (4.1)", async () => {
    const base = await sealerFixture({ inlineKeys: "write" });
    const envelope = base.sealer.sealSync(session, ID);
    const { header } = parseEnvelope(envelope) as { header: Uint8Array };
    for (const state of [RecordState.revoked, RecordState.retired]) {
      const record = encodeRecord({ ...recordOf(base), state });
      expect(header.length).toBe(38 + 2 + record.length);
      const changed = Uint8Array.of(...header.subarray(0, 40), ...record, ...envelope.subarray(header.length));
      const elsewhere = new Sealer({ ring: openFixture({ kms: base.kms }).ring, inlineKeys: "read" });
      for (const reader of [base.sealer, elsewhere]) {
        expect(await codeThrown(reader.open(changed, ID))).toBe("ENVELOPE_REJECTED");
        expect(await reader.open(envelope, ID)).toEqual(session);
      }
    }
  });

  it("sealed around a record of state revoked does not open where the ring does not know the key", async () => {
    const base = await sealerFixture();
    const { envelope } = sealPayload(Uint8Array.of(0xc0), {
      dataKey: base.kms.made[0] as Uint8Array,
      inlineRecord: encodeRecord({ ...recordOf(base), state: RecordState.revoked }),
      context: ["session", "", ID],
      nonce: new Uint8Array(24),
    });
    const elsewhere = new Sealer({ ring: openFixture({ kms: base.kms }).ring, inlineKeys: "read" });
    expect(await codeThrown(elsewhere.open(envelope, ID))).toBe("KEY_REVOKED");
  });

  it.each(["KMS_DENIED", "KMS_DISABLED", "KMS_THROTTLED", "KMS_UNREACHABLE"] as const)(
    "is KEY_UNAVAILABLE while the KMS says %s: the envelope may be good",
    async (code) => {
      const { sealer, kms } = await sealerFixture({ inlineKeys: "write" });
      const envelope = sealer.sealSync(session, ID);
      const reader = new Sealer({ ring: openFixture({ kms }).ring, inlineKeys: "read" });
      kms.failWith = code;
      const error = await reader.open(envelope, ID).catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: "KEY_UNAVAILABLE", cause: { code } });
      kms.failWith = undefined;
      expect(await reader.open(envelope, ID)).toEqual(session);
    },
  );

  it("carries the wraps of the configured KMSs alone, whatever somebody added to the record in the ring", async () => {
    const base = await sealerFixture({ inlineKeys: "write" });
    const record = recordOf(base);
    const { length } = base.sealer.sealSync(session, ID);
    const extra = { kms: "x", wrapped: new Uint8Array(4096) };
    const [keyId] = base.store.records.keys() as unknown as [string];
    overwrite(base.store, { keyId }, { ...record, wraps: [extra, ...record.wraps] });
    const late = base.process();
    await late.current();
    await base.ring.refresh();
    for (const ring of [base.ring, late]) {
      expect(ring.status()[0]?.kms).toContain("x");
      const envelope = new Sealer({ ring, inlineKeys: "write" }).sealSync(session, ID);
      expect(envelope).toHaveLength(length);
      const inline = parseEnvelope(envelope)?.inlineRecord as Uint8Array;
      expect(decodeRecord(inline)).toEqual(record);
    }
  });
});

describe("CLIENT_BOUND (3.4)", () => {
  it("refuses a stored id that is the session id: the store would hold the client's secret", async () => {
    const { sealer } = await sealerFixture({ clientBound: true });
    const sessionId = "0123456789abcdef";
    expect(() => sealer.sealSync(session, sessionId, { sessionId })).toThrow(RangeError);
    await expect(sealer.seal(session, sessionId, { sessionId })).rejects.toThrow(RangeError);
    expect(sealer.sealSync(session, ID, { sessionId })).toBeInstanceOf(Uint8Array);
  });

  it("names no id when it does so", async () => {
    const { sealer } = await sealerFixture({ clientBound: true });
    const sessionId = "0123456789abcdef";
    expect(() => sealer.sealSync(session, sessionId, { sessionId })).toThrow(/^(?!.*0123456789abcdef)/);
  });

  it("depends on every byte of a session id, not only on its length", async () => {
    const { sealer } = await sealerFixture({ clientBound: true });
    const sessionId = "0123456789abcdef";
    const envelope = sealer.sealSync(session, ID, { sessionId });
    for (let at = 0; at < sessionId.length; at++) {
      const other = `${sessionId.slice(0, at)}x${sessionId.slice(at + 1)}`;
      expect(await codeThrown(() => sealer.openSync(envelope, ID, { sessionId: other }))).toBe("ENVELOPE_REJECTED");
    }
    expect(sealer.openSync(envelope, ID, { sessionId })).toEqual(session);
  });

  it("keeps no AES key: each message derives its own (2.3)", async () => {
    const { sealer } = await sealerFixture({ clientBound: true });
    const sessionId = "0123456789abcdef";
    const envelope = sealer.sealSync(session, ID, { sessionId });
    const derivations = countingDerivations();
    for (let i = 0; i < 3; i++) sealer.openSync(envelope, ID, { sessionId });
    expect(derivations()).toBe(3);
  });
});

describe("the AES key of a sender (2.3)", () => {
  it("is kept once a tag verified under it, and not before", async () => {
    const { sealer, process } = await sealerFixture();
    const envelope = sealer.sealSync(session, ID);
    const ring = process();
    await ring.current();
    const reader = new Sealer({ ring });
    const derivations = countingDerivations();
    const forged = envelope.slice();
    forged[forged.length - 1] = (forged[forged.length - 1] as number) ^ 1;
    for (let i = 0; i < 3; i++) await codeThrown(() => reader.openSync(forged, ID));
    expect(derivations()).toBe(3);
    reader.openSync(envelope, ID);
    expect(derivations()).toBe(1);
    reader.openSync(envelope, ID);
    reader.openSync(sealer.sealSync(session, ID), ID);
    await codeThrown(() => reader.openSync(forged, ID));
    expect(derivations()).toBe(0);
  });

  it("is kept for as many senders as maxCachedSenders says, and no more", async () => {
    const base = openFixture();
    const { keyIdBytes } = await base.ring.current();
    const envelopes = await Promise.all(
      Array.from({ length: 5 }, async () => new Sealer({ ring: base.process() }).seal(session, ID)),
    );
    const ring = base.process({ maxCachedSenders: 4 });
    await ring.byId(keyIdBytes);
    const reader = new Sealer({ ring });
    const derivations = countingDerivations();
    for (let round = 0; round < 3; round++) {
      for (const envelope of envelopes) reader.openSync(envelope, ID);
      expect(derivations()).toBe(5);
    }
    const few = envelopes.slice(0, 2);
    for (const envelope of few) reader.openSync(envelope, ID);
    derivations();
    for (let round = 0; round < 3; round++) for (const envelope of few) reader.openSync(envelope, ID);
    expect(derivations()).toBe(0);
  });

  it.each([
    [1, 2],
    [2, 2],
    [5, 6],
    [64, 64],
  ])("takes the place of another one beyond %i senders, rounded up to %i", (maxSenders, kept) => {
    const bytes = new Uint8Array(32).fill(5);
    const key = new DataKey(bytes, { random: backend.randomFill, maxSenders });
    const messages = Array.from({ length: kept + 1 }, (_, n) => {
      const nonce = new Uint8Array(24).fill(n + 1);
      const { envelope } = sealPayload(Uint8Array.of(1), { dataKey: bytes, context: [], nonce });
      return { nonce, aad: envelope.subarray(0, 38), sealed: envelope.subarray(38) };
    });
    const derivations = countingDerivations();
    for (let round = 0; round < 2; round++) {
      for (const { nonce, sealed, aad } of messages) expect(key.open(nonce, aad, sealed)).toHaveLength(1);
      expect(derivations()).toBe(kept + 1);
    }
  });

  it("of this process is derived once for all that it seals", async () => {
    const { sealer } = await sealerFixture();
    sealer.sealSync(session, ID);
    const derivations = countingDerivations();
    for (let i = 0; i < 10; i++) sealer.sealSync(session, ID);
    expect(derivations()).toBe(0);
  });
});

describe("reseed() (2.4)", () => {
  it("drops the nonce pool and the sender: both are drawn anew, and neither before the next message", async () => {
    const draws: number[] = [];
    const random = (target: Uint8Array) => {
      draws.push(target.length);
      backend.randomFill(target);
    };
    const { process } = openFixture();
    const ring = process({ random });
    await ring.current();
    // The ring draws its own pauses.
    draws.length = 0;
    const sealer = new Sealer({ ring });
    expect(draws).toEqual([]);
    sealer.sealSync(session, ID);
    expect(draws).toEqual([256 * 12, 12]);
    sealer.sealSync(session, ID);
    sealer.reseed();
    expect(draws).toHaveLength(2);
    sealer.sealSync(session, ID);
    expect(draws).toEqual([256 * 12, 12, 256 * 12, 12]);
  });

  it("also reseeds the keys that do not seal at the moment", async () => {
    const { ring, sealer, advance } = await sealerFixture();
    const first = await ring.current();
    const before = first.nextSender().sender;
    advance(1);
    await ring.publish({ delayMs: 0 });
    sealer.reseed();
    expect(first.nextSender().sender).not.toEqual(before);
  });
});
