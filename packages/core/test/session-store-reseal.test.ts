/** Sessions move to the key that seals now when they are read or touched (format 5.6): what is kept, who wins, and what may fail. */
import { describe, expect, it, vi } from "vitest";
import { backend } from "#backend";
import { concat } from "../src/bytes.js";
import { encode } from "../src/codec.js";
import { DataKey, decodeRecord, type KeyRecord, keyIdOf } from "../src/data-key.js";
import { type Envelope, parseEnvelope, writeContext } from "../src/envelope.js";
import type { EnvelopeStore } from "../src/envelope-store.js";
import { SealedSessionError } from "../src/errors.js";
import type { KeyRingOptions } from "../src/key-ring.js";
import { memoryStore } from "../src/memory-store.js";
import { Sealer } from "../src/sealer.js";
import { storedIdOf } from "../src/session-id.js";
import { SessionStore, type SessionStoreOptions } from "../src/session-store.js";
import { codeThrown, HOUR, MINUTE } from "./support/fixture.js";
import { collectEvents, openFixture } from "./support/open-fixture.js";
import { sealPayload } from "./support/seal-payload.js";

interface Session {
  user_id: number;
  cart?: string[];
}

const DAY = 24 * HOUR;
const events = collectEvents();
const reseals = () => events.filter(({ type }) => type === "session-resealed" || type === "session-reseal-failed");
const stored = (sessionId: string) => storedIdOf(sessionId) as string;

/** A store of web sessions whose commands are listed, in a ring that holds one key and rotates when it is told to. */
async function resealFixture(options: Partial<SessionStoreOptions> = {}, ringOptions: Partial<KeyRingOptions> = {}) {
  const base = openFixture(ringOptions);
  const envelopes = memoryStore({ clock: base.now });
  const calls: [method: string, ...args: unknown[]][] = [];
  /** What happens before the next re-sealed envelope is written. */
  const meanwhile: { run?: () => unknown } = {};
  const store = new Proxy(envelopes, {
    get:
      (target, name: keyof EnvelopeStore) =>
      (...args: unknown[]) => {
        calls.push([name, ...args]);
        const call = () => (target[name] as (...args: unknown[]) => unknown).apply(target, args);
        const { run } = meanwhile;
        if (name !== "compareAndSet" || run === undefined) return call();
        delete meanwhile.run;
        return Promise.resolve().then(run).then(call);
      },
  });
  await base.ring.ready();
  const open = (own: Partial<SessionStoreOptions> = {}) =>
    new SessionStore<Session>({ ring: base.ring, store, ...options, ...own });
  return {
    ...base,
    envelopes,
    calls,
    meanwhile,
    open,
    sessions: open(),
    /** Lets time pass, with the ring's own refreshes: none of the processes is stale then. */
    async pass(ms: number): Promise<void> {
      base.advance(ms);
      await base.ring.refresh();
    },
    /** From now on another key seals. @returns Its id. */
    async rotate(): Promise<string> {
      base.advance(1);
      return base.ring.publish({ delayMs: 0 });
    },
    bytesOf: async (sessionId: string) => (await envelopes.get(stored(sessionId))) as Uint8Array,
    async envelopeOf(sessionId: string): Promise<Envelope> {
      return parseEnvelope((await envelopes.get(stored(sessionId))) as Uint8Array) as Envelope;
    },
    async keyOf(sessionId: string): Promise<string> {
      const { keyId } = parseEnvelope((await envelopes.get(stored(sessionId))) as Uint8Array) as Envelope;
      return Buffer.from(keyId).toString("base64url");
    },
  };
}

/** As {@link resealFixture}, with a session that is due. */
async function dueSession(options: Partial<SessionStoreOptions> = {}, ringOptions: Partial<KeyRingOptions> = {}) {
  const base = await resealFixture(options, ringOptions);
  const oldKeyId = (await base.ring.current()).keyId;
  const sessionId = await base.sessions.create({ user_id: 1 });
  const newKeyId = await base.rotate();
  await base.pass(HOUR);
  const before = await base.bytesOf(sessionId);
  base.calls.length = 0;
  return { ...base, sessionId, oldKeyId, newKeyId, before };
}

describe.each(["get", "touch"] as const)("%s of a session", (method) => {
  it("seals it anew once its key stopped sealing resealAfterMs ago, by one compare-and-set, and not before", async () => {
    const { sessions, sessionId, newKeyId, oldKeyId, before, advance, calls, keyOf, bytesOf } = await dueSession();
    advance(-1);
    await sessions[method](sessionId);
    expect(await bytesOf(sessionId)).toEqual(before);
    expect(await keyOf(sessionId)).toBe(oldKeyId);
    expect(reseals()).toEqual([]);

    advance(1);
    calls.length = 0;
    const result = await sessions[method](sessionId);
    expect(result).toEqual(method === "get" ? { user_id: 1 } : true);
    expect(await keyOf(sessionId)).toBe(newKeyId);
    expect(calls).toEqual([
      ["get", stored(sessionId), { slideMs: DAY }],
      ["compareAndSet", stored(sessionId), before, await bytesOf(sessionId)],
    ]);
    expect(reseals()).toEqual([{ type: "session-resealed", ring: "web" }]);

    await sessions[method](sessionId);
    expect(calls.slice(2).map(([name]) => name)).toEqual(["get"]);
    expect(await sessions.get(sessionId)).toEqual({ user_id: 1 });
  });

  it.each([0, 5 * MINUTE, 7 * DAY])("waits for resealAfterMs (%i ms)", async (resealAfterMs) => {
    const { sessions, rotate, pass, keyOf } = await resealFixture(
      { idleSeconds: 30 * 86_400 },
      { resealAfterMs, maxSealingAgeMs: 30 * DAY, outageLimitMs: 30 * DAY },
    );
    const sessionId = await sessions.create({ user_id: 1 });
    const newKeyId = await rotate();
    if (resealAfterMs > 0) {
      await pass(resealAfterMs - 1);
      await sessions[method](sessionId);
      expect(await keyOf(sessionId)).not.toBe(newKeyId);
      await pass(1);
    }
    await sessions[method](sessionId);
    expect(await keyOf(sessionId)).toBe(newKeyId);
  });

  it("keeps the time to live to the millisecond where sessions do not slide", async () => {
    const { sessions, sessionId, envelopes, advance, keyOf, newKeyId } = await dueSession({ sliding: false });
    advance(1234);
    await sessions[method](sessionId);
    expect(await keyOf(sessionId)).toBe(newKeyId);
    expect(await envelopes.ttlMs(stored(sessionId))).toBe(DAY - HOUR - 1234 - 1);
  });

  it("starts the idle time at the read, and not again when the new envelope is written", async () => {
    const { sessions, sessionId, envelopes, advance, meanwhile, keyOf, newKeyId } = await dueSession();
    meanwhile.run = () => advance(70);
    await sessions[method](sessionId);
    expect(await keyOf(sessionId)).toBe(newKeyId);
    expect(await envelopes.ttlMs(stored(sessionId))).toBe(DAY - 70);
  });

  it("keeps the end of the absolute life", async () => {
    const { sessions, sessionId, before, envelopeOf, keyOf, newKeyId } = await dueSession({ absoluteSeconds: 7200 });
    const { notAfter } = parseEnvelope(before) as Envelope;
    expect(notAfter).toBeDefined();
    await sessions[method](sessionId);
    expect(await keyOf(sessionId)).toBe(newKeyId);
    expect((await envelopeOf(sessionId)).notAfter).toBe(notAfter);
  });

  it("gives none to a session that has none, whatever new sessions get", async () => {
    const { open, sessionId, envelopeOf, keyOf, newKeyId } = await dueSession();
    await open({ absoluteSeconds: 7200 })[method](sessionId);
    expect(await keyOf(sessionId)).toBe(newKeyId);
    expect((await envelopeOf(sessionId)).notAfter).toBeUndefined();
  });

  it("keeps the payload byte for byte, also one that this library would write otherwise", async () => {
    const { sessions, kms, envelopes, rotate, pass, envelopeOf } = await resealFixture();
    const sessionId = "0123456789abcdef";
    const context = ["session", "", stored(sessionId)];
    // {"user_id": 5}, with the length of the name in a byte of its own.
    const payload = Uint8Array.of(0x81, 0xd9, 7, ...Buffer.from("user_id"), 5);
    expect(encode({ user_id: 5 })).not.toHaveLength(payload.length);
    const { envelope } = sealPayload(payload, {
      dataKey: kms.made[0] as Uint8Array,
      nonce: new Uint8Array(24).fill(3),
      context,
    });
    await envelopes.set(stored(sessionId), envelope, { ttlMs: DAY });
    await rotate();
    await pass(HOUR);
    expect(await sessions[method](sessionId)).toBeTruthy();
    const { nonce, header, sealed } = await envelopeOf(sessionId);
    const newKey = new DataKey(kms.made[1] as Uint8Array, { random: backend.randomFill });
    const plaintext = newKey.open(nonce, concat(header, writeContext(...context) as Uint8Array), sealed);
    expect(Buffer.from(plaintext as Uint8Array).equals(payload)).toBe(true);
  });

  it("leaves what another writer wrote meanwhile", async () => {
    const { sessions, open, sessionId, meanwhile, keyOf, newKeyId } = await dueSession();
    meanwhile.run = () => open().set(sessionId, { user_id: 2 });
    expect(await sessions[method](sessionId)).toEqual(method === "get" ? { user_id: 1 } : true);
    expect(reseals()).toEqual([]);
    expect(await sessions.get(sessionId)).toEqual({ user_id: 2 });
    expect(await keyOf(sessionId)).toBe(newKeyId);
  });

  it("does not bring back what was destroyed meanwhile", async () => {
    const { sessions, sessionId, meanwhile, envelopes } = await dueSession();
    meanwhile.run = () => sessions.destroy(sessionId);
    await sessions[method](sessionId);
    expect(await envelopes.get(stored(sessionId))).toBeUndefined();
    expect(await sessions.get(sessionId)).toBeUndefined();
    expect(reseals()).toEqual([]);
  });

  it("seals it anew once when two processes do so at the same moment, and both have it", async () => {
    const { ring, sessions, process, open, sessionId, meanwhile, keyOf, newKeyId } = await dueSession();
    await ring.refresh();
    const other = process();
    await other.ready();
    const expected = method === "get" ? { user_id: 1 } : true;
    meanwhile.run = async () => expect(await open({ ring: other })[method](sessionId)).toEqual(expected);
    expect(await sessions[method](sessionId)).toEqual(expected);
    expect(reseals()).toEqual([{ type: "session-resealed", ring: "web" }]);
    expect(await keyOf(sessionId)).toBe(newKeyId);
    expect(await sessions.get(sessionId)).toEqual({ user_id: 1 });
  });

  it("succeeds although the store does not take the new envelope: reported, and tried again by the next one", async () => {
    const { sessions, sessionId, meanwhile, bytesOf, before, keyOf, newKeyId } = await dueSession();
    meanwhile.run = () => {
      throw new SealedSessionError("STORE_UNAVAILABLE", "down");
    };
    expect(await sessions[method](sessionId)).toEqual(method === "get" ? { user_id: 1 } : true);
    expect(reseals()).toEqual([{ type: "session-reseal-failed", ring: "web", code: "STORE_UNAVAILABLE" }]);
    expect(await bytesOf(sessionId)).toEqual(before);
    await sessions[method](sessionId);
    expect(await keyOf(sessionId)).toBe(newKeyId);
  });

  it("succeeds although the new envelope would be too long: it stays as it is", async () => {
    const { sessions, open, rotate, pass, bytesOf } = await resealFixture();
    const session = { user_id: 1, cart: ["a".repeat(50)] };
    const sessionId = await sessions.create(session);
    const before = await bytesOf(sessionId);
    await rotate();
    await pass(HOUR);
    const short = open({ maxEnvelopeBytes: 128, inlineKeys: "write" });
    expect(await short[method](sessionId)).toEqual(method === "get" ? session : true);
    expect(reseals()).toEqual([{ type: "session-reseal-failed", ring: "web", code: "VALUE_TOO_LARGE" }]);
    expect(await bytesOf(sessionId)).toEqual(before);
  });

  it("leaves it under its key while no key seals", async () => {
    const { process, open, sessionId, advance, bytesOf, before } = await dueSession({ idleSeconds: 30 * 86_400 });
    const manual = process({ rotation: "manual" });
    advance(3 * DAY);
    await manual.refresh();
    expect(manual.currentIfWarm()).toBeUndefined();
    expect(await open({ ring: manual })[method](sessionId)).toEqual(method === "get" ? { user_id: 1 } : true);
    expect(await bytesOf(sessionId)).toEqual(before);
    expect(reseals()).toEqual([]);
  });

  it("that is bound to its client stays bound to it", async () => {
    const { sessions, sessionId, envelopeOf, envelopes, keyOf, newKeyId } = await dueSession({ clientBound: true });
    await sessions[method](sessionId);
    expect(await keyOf(sessionId)).toBe(newKeyId);
    expect((await envelopeOf(sessionId)).clientBound).toBe(true);
    expect(await sessions.get(sessionId)).toEqual({ user_id: 1 });
    const other = "another-session-id";
    await envelopes.set(stored(other), (await envelopes.get(stored(sessionId))) as Uint8Array, { ttlMs: DAY });
    expect(await codeThrown(sessions.get(other))).toBe("ENVELOPE_REJECTED");
  });

  it("with its key's record in it gets that of the new key; none where none is to be written any more", async () => {
    const { sessions, open, sessionId, envelopeOf, rotate, pass, newKeyId, keyOf } = await dueSession({
      inlineKeys: "write",
    });
    await sessions[method](sessionId);
    const { inlineRecord } = await envelopeOf(sessionId);
    expect(keyIdOf(decodeRecord(inlineRecord as Uint8Array) as KeyRecord)).toBe(newKeyId);
    const next = await rotate();
    await pass(HOUR);
    await open({ inlineKeys: "read" })[method](sessionId);
    expect(await keyOf(sessionId)).toBe(next);
    expect((await envelopeOf(sessionId)).inlineRecord).toBeUndefined();
    expect(await sessions.get(sessionId)).toEqual({ user_id: 1 });
  });

  it("goes by the time at which its own key stopped, however many keys have sealed since", async () => {
    const { sessions, rotate, pass, keyOf } = await resealFixture();
    const keys = () => Promise.all([first, second].map(keyOf));
    const use = () => Promise.all([first, second].map((id) => sessions[method](id)));
    // A key every 20 minutes, and an hour until a session is due: the first one 80 minutes from now.
    const first = await sessions.create({ user_id: 1 });
    await pass(20 * MINUTE - 1);
    await rotate();
    const second = await sessions.create({ user_id: 2 });
    const before = await keys();
    await pass(20 * MINUTE - 1);
    await rotate();
    await pass(20 * MINUTE - 1);
    const current = await rotate();
    await pass(20 * MINUTE - 1);
    await use();
    expect(await keys()).toEqual(before);
    await pass(1);
    await use();
    expect(await keys()).toEqual([current, before[1]]);
    await pass(20 * MINUTE - 1);
    await use();
    expect(await keys()).toEqual([current, before[1]]);
    await pass(1);
    await use();
    expect(await keys()).toEqual([current, current]);
  });

  it("counts from the end of the sealing age where no key followed in time", async () => {
    const { ring, sessions, pass, keyOf } = await resealFixture(
      { idleSeconds: 30 * 86_400 },
      { outageLimitMs: 30 * DAY, rotationPeriodMs: DAY, maxSealingAgeMs: 2 * DAY },
    );
    const sessionId = await sessions.create({ user_id: 1 });
    await pass(2 * DAY + HOUR);
    const newKeyId = await ring.publish({ delayMs: 0 });
    await sessions[method](sessionId);
    expect(await keyOf(sessionId)).toBe(newKeyId);
  });

  it("does nothing to what does not open", async () => {
    const { sessions, sessionId, envelopes, before } = await dueSession();
    const tampered = before.map((byte, i) => (i === before.length - 1 ? byte ^ 1 : byte));
    await envelopes.set(stored(sessionId), tampered, { ttlMs: DAY });
    const call = sessions[method](sessionId);
    if (method === "get") expect(await codeThrown(call)).toBe("ENVELOPE_REJECTED");
    else expect(await call).toBe(true);
    expect(await envelopes.get(stored(sessionId))).toEqual(tampered);
    expect(events.map(({ type }) => type)).not.toContain("session-resealed");
  });
});

describe("an object that came from get", () => {
  it("after its session was sealed anew is still written in one command, also once the old key is revoked", async () => {
    const { ring, sessions, sessionId, calls, oldKeyId, newKeyId, keyOf } = await dueSession();
    const session = (await sessions.get(sessionId)) as Session;
    await ring.revoke(oldKeyId);
    session.cart = ["book"];
    calls.length = 0;
    expect(await sessions.set(sessionId, session)).toBe(true);
    expect(calls.map(([name]) => name)).toEqual(["set"]);
    expect(await keyOf(sessionId)).toBe(newKeyId);
    expect(await sessions.get(sessionId)).toEqual({ user_id: 1, cart: ["book"] });
  });

  it("whose session could not be sealed anew is still written", async () => {
    const { sessions, sessionId, meanwhile, keyOf, newKeyId } = await dueSession();
    meanwhile.run = () => {
      throw new SealedSessionError("STORE_UNAVAILABLE", "down");
    };
    const session = (await sessions.get(sessionId)) as Session;
    session.cart = [];
    expect(await sessions.set(sessionId, session)).toBe(true);
    expect(await keyOf(sessionId)).toBe(newKeyId);
    expect(await sessions.get(sessionId)).toEqual({ user_id: 1, cart: [] });
  });
});

describe("isResealDue()", () => {
  it("is never true of the key that seals, nor of one whose time has not come, nor of one that the ring does not know", async () => {
    const { ring, advance, store } = openFixture({ resealAfterMs: 0 });
    const current = await ring.current();
    advance(MINUTE);
    // A key that does not seal yet, since no second copy of it was confirmed, has not ended the one before.
    store.durable = false;
    const next = await ring.publish({ delayMs: 0 });
    advance(1000);
    expect(ring.currentIfWarm()).toBe(current);
    for (const keyId of [current.keyIdBytes, Buffer.from(next, "base64url"), new Uint8Array(12)]) {
      expect(ring.isResealDue(keyId)).toBe(false);
    }
  });

  it("is true of a key whose successor seals, and only once it does", async () => {
    const { ring, advance } = openFixture({ resealAfterMs: 0 });
    const { keyIdBytes } = await ring.current();
    advance(1);
    await ring.publish({ delayMs: MINUTE });
    advance(MINUTE - 1);
    expect(ring.isResealDue(keyIdBytes)).toBe(false);
    advance(1);
    expect(ring.isResealDue(keyIdBytes)).toBe(true);
  });

  it("is false of all before the ring is read, and after it is closed", async () => {
    const { ring, process, advance } = openFixture({ resealAfterMs: 0 });
    const { keyIdBytes } = await ring.current();
    advance(1);
    await ring.publish({ delayMs: 0 });
    expect(ring.isResealDue(keyIdBytes)).toBe(true);
    expect(process().isResealDue(keyIdBytes)).toBe(false);
    ring.close();
    expect(ring.isResealDue(keyIdBytes)).toBe(false);
  });
});

describe("countByKey()", () => {
  it("counts the sessions under each key, and nothing else that lies there", async () => {
    const { ring, sessions, open, rotate, envelopes, advance, calls } = await resealFixture();
    expect(await sessions.countByKey()).toEqual(new Map());
    const oldKeyId = (await ring.current()).keyId;
    for (let n = 0; n < 70; n++) await sessions.create({ user_id: n });
    await open({ idleSeconds: 60 }).create({ user_id: 70 });
    const newKeyId = await rotate();
    for (let n = 0; n < 3; n++) await open({ namespace: "other" }).create({ user_id: n });
    await envelopes.set("junk", Uint8Array.of(1, 2, 3), { ttlMs: DAY });
    calls.length = 0;
    expect(await sessions.countByKey()).toEqual(
      new Map([
        [oldKeyId, 71],
        [newKeyId, 3],
      ]),
    );
    // No time to live is started anew by it, and nothing is written.
    expect(calls.every(([name, , options]) => name === "scan" || (name === "get" && options === undefined))).toBe(true);
    advance(MINUTE);
    expect((await sessions.countByKey()).get(oldKeyId)).toBe(70);
  });

  it("counts an envelope that is longer than this store would read", async () => {
    const { ring, sessions, open } = await resealFixture();
    await sessions.create({ user_id: 1, cart: ["a".repeat(1000)] });
    const { keyId } = await ring.current();
    expect(await open({ maxEnvelopeBytes: 128 }).countByKey()).toEqual(new Map([[keyId, 1]]));
  });

  it("fails with STORE_UNAVAILABLE when the store does", async () => {
    const { ring, sessions, envelopes } = await resealFixture();
    await sessions.create({ user_id: 1 });
    envelopes.get = async () => {
      throw new SealedSessionError("STORE_UNAVAILABLE", "down");
    };
    expect(await codeThrown(new SessionStore({ ring, store: envelopes }).countByKey())).toBe("STORE_UNAVAILABLE");
  });
});

describe("Sealer.reseal()", () => {
  const ID = "rFrtJIBXJN6SbIDgVQKwOu51";

  async function sealed(options: { notAfterMs?: number } = {}) {
    const base = openFixture();
    const sealer = new Sealer({ ring: base.ring, counted: true });
    const old = await base.ring.current();
    const envelope = await sealer.seal({ user_id: 1 }, ID, options);
    base.advance(1);
    const newKeyId = await base.ring.publish({ delayMs: 0 });
    return { ...base, sealer, envelope, oldKeyId: old.keyId, newKeyId };
  }

  it("seals the same value for the same place under the key that seals now, with other bytes each time", async () => {
    const { sealer, envelope, newKeyId } = await sealed({ notAfterMs: Date.UTC(2027, 0, 1) });
    const [first, second] = [await sealer.reseal(envelope, ID), await sealer.reseal(envelope, ID)];
    expect(Buffer.from(first.subarray(2, 14)).toString("base64url")).toBe(newKeyId);
    expect(await sealer.open(first, ID)).toEqual({ user_id: 1 });
    expect(first).toHaveLength(envelope.length);
    expect(parseEnvelope(first)?.notAfter).toBe(Date.UTC(2027, 0, 1) / 1000);
    expect(first).not.toEqual(second);
    expect(await codeThrown(sealer.open(first, "elsewhere"))).toBe("ENVELOPE_REJECTED");
  });

  it("leaves nothing of the content in memory", async () => {
    const { sealer, envelope } = await sealed();
    const seen: Uint8Array[] = [];
    const { sealGcm } = backend;
    const spy = vi.spyOn(backend, "sealGcm").mockImplementation((...args) => {
      expect(args[3].some((byte) => byte !== 0)).toBe(true);
      seen.push(args[3]);
      return sealGcm(...args);
    });
    await sealer.reseal(envelope, ID);
    spy.mockRestore();
    expect(seen).toHaveLength(1);
    expect(seen[0]?.every((byte) => byte === 0)).toBe(true);
  });

  it.each([
    ["are no envelope", (_: Uint8Array) => Uint8Array.of(1, 2, 3), ID],
    ["were altered", (envelope: Uint8Array) => envelope.map((byte, i) => (i === 60 ? byte ^ 1 : byte)), ID],
    ["lay elsewhere", (envelope: Uint8Array) => envelope, "elsewhere"],
  ])("rejects bytes that %s", async (_, change, storedId) => {
    const { sealer, envelope } = await sealed();
    expect(await codeThrown(sealer.reseal(change(envelope), storedId))).toBe("ENVELOPE_REJECTED");
  });

  it("does not give an expired one another life", async () => {
    const { sealer, envelope, now, advance } = await sealed({ notAfterMs: Date.UTC(2026, 0, 2) });
    advance(Date.UTC(2026, 0, 2) - now());
    expect(await codeThrown(sealer.reseal(envelope, ID))).toBe("ENVELOPE_EXPIRED");
  });

  it("does not save one from the end of its key: KEY_REVOKED, KEY_RETIRED, KEY_DENIED", async () => {
    const { ring, sealer, envelope, oldKeyId } = await sealed();
    await ring.revoke(oldKeyId);
    expect(await codeThrown(sealer.reseal(envelope, ID))).toBe("KEY_REVOKED");
    ring.attach({ maxTtlMs: 1, count: async () => new Map() });
    await ring.retire(oldKeyId);
    expect(await codeThrown(sealer.reseal(envelope, ID))).toBe("KEY_RETIRED");

    const denied = await sealed();
    denied.kms.failWith = "KMS_DENIED";
    denied.advance(6 * MINUTE);
    expect(await codeThrown(denied.sealer.reseal(denied.envelope, ID))).toBe("KEY_DENIED");
  });

  it("fails with KEY_UNAVAILABLE while no key seals, and with CLOSED after close()", async () => {
    const { process, envelope, advance, ring } = await sealed();
    const manual = process({ rotation: "manual" });
    advance(3 * DAY);
    expect(await codeThrown(new Sealer({ ring: manual }).reseal(envelope, ID))).toBe("KEY_UNAVAILABLE");
    ring.close();
    expect(await codeThrown(new Sealer({ ring }).reseal(envelope, ID))).toBe("CLOSED");
  });

  it("refuses what would be longer than maxEnvelopeBytes, and a client-bound one without its session id", async () => {
    const { ring, envelope } = await sealed();
    const inline = new Sealer({ ring, inlineKeys: "write", maxEnvelopeBytes: 128 });
    expect(await codeThrown(inline.reseal(envelope, ID))).toBe("VALUE_TOO_LARGE");
    const bound = new Sealer({ ring, clientBound: true });
    const sessionId = "sC49jcyxxR0Oug6oR3Cghxbm";
    const ofClient = await bound.seal("content", ID, { sessionId });
    await expect(bound.reseal(ofClient, ID)).rejects.toThrow(TypeError);
    expect(await codeThrown(bound.reseal(ofClient, ID, { sessionId: `${sessionId}x` }))).toBe("ENVELOPE_REJECTED");
    expect(await bound.open(await bound.reseal(ofClient, ID, { sessionId }), ID, { sessionId })).toBe("content");
    expect(await codeThrown(bound.reseal(envelope, ID, { sessionId }))).toBe("ENVELOPE_REJECTED");
  });
});
