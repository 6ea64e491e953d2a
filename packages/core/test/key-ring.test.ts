import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { fromBase64url } from "../src/bytes.js";
import { chooseCurrent } from "../src/current-key.js";
import { decodeRecord, encodeRecord, type KeyRecord, RecordState } from "../src/data-key.js";
import { DIAGNOSTICS_CHANNEL, type DiagnosticEvent } from "../src/diagnostics.js";
import { SealedSessionError } from "../src/errors.js";
import { KeyRing, type KeyRingOptions } from "../src/key-ring.js";
import type { KeyRingStore } from "../src/key-ring-store.js";
import { encryptionContext } from "../src/kms-set.js";
import { fakeKms } from "./support/fake-kms.js";
import { codeThrown, fixture, HOUR, MINUTE, START } from "./support/fixture.js";

const idBytes = (keyId: string) => fromBase64url(keyId) as Uint8Array;
const UNKNOWN = new Uint8Array(12).fill(7);

let events: DiagnosticEvent[];
const collect = (event: unknown) => void events.push(event as DiagnosticEvent);
beforeEach(() => {
  events = [];
  subscribe(DIAGNOSTICS_CHANNEL, collect);
});
afterEach(() => void unsubscribe(DIAGNOSTICS_CHANNEL, collect));

/** Changes the one record of a ring in its store, as somebody with write access could. */
async function alter(store: KeyRingStore, change: (record: KeyRecord) => KeyRecord): Promise<void> {
  const [stored] = await store.read("web");
  if (stored === undefined) throw new Error("the ring is empty");
  const altered = encodeRecord(change(decodeRecord(stored.record) as KeyRecord));
  const { written } = await store.write("web", stored.keyId, altered, { expected: stored.record });
  expect(written).toBe(true);
}

describe("the first key", () => {
  it("is published by the first process that seals, and wrapped under its ring and time (5.2)", async () => {
    const { ring, kms, store } = fixture();
    expect(ring.currentIfWarm()).toBeUndefined();
    const key = await ring.current();
    expect(await store.read("web")).toHaveLength(1);
    expect(ring.status()).toEqual([{ keyId: key.keyId, state: "current", activatesAt: START, kms: ["fake"] }]);
    const context = { "sealed-session:ring": "web", "sealed-session:activates-at": "2026-01-01T00:00:00.000Z" };
    expect(kms.contexts).toEqual([context, context]);
  });

  it("is made once when many requests arrive at once", async () => {
    const { ring, kms } = fixture();
    const keys = await Promise.all(Array.from({ length: 100 }, () => ring.current()));
    expect(new Set(keys).size).toBe(1);
    expect(kms.calls).toEqual({ generate: 1, wrap: 0, unwrap: 1 });
  });

  it("is one when many processes start at once (5.4)", async () => {
    const { process, store } = fixture();
    const rings = Array.from({ length: 20 }, () => process());
    const keys = await Promise.all(rings.map((ring) => ring.current()));
    expect(new Set(keys.map(({ keyId }) => keyId)).size).toBe(1);
    expect(await store.read("web")).toHaveLength(1);
  });

  it("is known to the next process without a new one", async () => {
    const { ring, process, store } = fixture();
    const { keyId } = await ring.current();
    expect((await process().current()).keyId).toBe(keyId);
    expect(await store.read("web")).toHaveLength(1);
  });

  it("makes warm calls that ask neither the store nor the KMS", async () => {
    const { ring, kms } = fixture();
    const key = await ring.current();
    const before = { ...kms.calls };
    for (let i = 0; i < 1000; i++) {
      expect(ring.currentIfWarm()).toBe(key);
      expect(ring.byIdIfWarm(key.keyIdBytes)).toBe(key);
    }
    expect(kms.calls).toEqual(before);
  });
});

describe("choosing the current key (5.5)", () => {
  const policy = { maxSealingAgeMs: 48 * HOUR };
  const record = (first: number, activatesAt: number, state: KeyRecord["state"] = RecordState.enabled): KeyRecord => ({
    commitment: new Uint8Array(32).fill(first),
    activatesAt,
    state,
    wraps: [{ kms: "a", wrapped: Uint8Array.of(1) }],
  });
  const now = START;
  it.each([
    ["none of none", [], undefined],
    ["the only one", [record(1, now - HOUR)], 1],
    ["the later one", [record(1, now - HOUR), record(2, now - MINUTE)], 2],
    ["one that begins this very millisecond", [record(1, now - HOUR), record(2, now)], 2],
    ["none that begins in a millisecond", [record(1, now - HOUR), record(2, now + 1)], 1],
    ["one at the end of its sealing age", [record(1, now - 48 * HOUR)], 1],
    ["none past its sealing age", [record(1, now - 48 * HOUR - 1)], undefined],
    ["the smaller key id of two of one time", [record(9, now), record(3, now), record(5, now)], 3],
    ["none that is revoked", [record(1, now - HOUR), record(2, now, RecordState.revoked)], 1],
    ["none that is retired", [record(2, now, RecordState.retired)], undefined],
  ] as [string, KeyRecord[], number | undefined][])("takes %s", (_, records, expected) => {
    expect(chooseCurrent(records, now, policy)?.commitment[0]).toBe(expected);
  });
});

describe("a new key", () => {
  it("seals from its time on, two refresh intervals after it was published", async () => {
    const { ring, advance } = fixture();
    const first = await ring.current();
    advance(1);
    const second = await ring.publish();
    expect(ring.status().map(({ state }) => state)).toEqual(["pre-active", "current"]);
    advance(2 * MINUTE - 1);
    expect(ring.currentIfWarm()).toBe(first);
    advance(1);
    expect(ring.currentIfWarm()?.keyId).toBe(second);
    expect(ring.status().map(({ state }) => state)).toEqual(["current", "open-only"]);
  });

  it("seals at once when it is published without delay, while the old one still opens", async () => {
    const { ring, advance } = fixture();
    const first = await ring.current();
    advance(1);
    const second = await ring.publish({ delayMs: 0 });
    expect(ring.currentIfWarm()?.keyId).toBe(second);
    expect(await ring.byId(first.keyIdBytes)).toBe(first);
    expect(events.filter(({ type }) => type === "key-published")).toHaveLength(2);
  });

  it("in an emergency does not wait for one that was ordered for later", async () => {
    const { ring, advance } = fixture();
    await ring.current();
    advance(1);
    const [later, now] = await Promise.all([ring.publish(), ring.publish({ delayMs: 0 })]);
    expect(now).not.toBe(later);
    expect(ring.currentIfWarm()?.keyId).toBe(now);
  });

  it("reaches a process that works on, in the background, within a refresh interval", async () => {
    const { ring, process, advance } = fixture();
    const other = process();
    const first = await other.current();
    const second = await ring.publish();
    advance(MINUTE);
    expect(other.currentIfWarm()).toBe(first);
    await other.refresh();
    expect(other.byIdIfWarm(idBytes(second))?.keyId).toBe(second);
  });

  it("also reaches a process that only reads", async () => {
    const { ring, process, advance } = fixture();
    const { keyIdBytes } = await ring.current();
    const reader = process();
    await reader.byId(keyIdBytes);
    const second = await ring.publish();
    advance(MINUTE);
    reader.byIdIfWarm(keyIdBytes);
    await reader.refresh();
    expect(reader.byIdIfWarm(idBytes(second))).toBeDefined();
  });

  it("is published when the last one has passed its sealing age", async () => {
    const { ring, advance } = fixture();
    const first = await ring.current();
    advance(48 * HOUR + 1);
    expect(ring.currentIfWarm()).toBeUndefined();
    const second = await ring.current();
    expect(second.keyId).not.toBe(first.keyId);
    expect(await ring.byId(first.keyIdBytes)).toBe(first);
  });

  it("does not seal before a second copy was confirmed, or two refresh intervals have passed (5.4)", async () => {
    const { store, process, advance } = fixture();
    const unsure: KeyRingStore = {
      read: (name) => store.read(name),
      write: async (...args) => ({ ...(await store.write(...args)), durable: false }),
      now: () => store.now(),
    };
    const ring = process({ store: unsure });
    expect(await codeThrown(ring.current())).toBe("KEY_UNAVAILABLE");
    expect(await codeThrown(ring.current())).toBe("KEY_UNAVAILABLE");
    expect(await store.read("web")).toHaveLength(1);
    // Another process whose store confirms may use it at once.
    const sure = await process().current();
    advance(2 * MINUTE);
    expect((await ring.current()).keyId).toBe(sure.keyId);
  });

  it("is refused when this process's clock is far from the store's (5.5)", async () => {
    const { process, store } = fixture();
    const skewed = (by: number) => process({ store: { ...bound(store), now: async () => START + by } });
    expect(await codeThrown(skewed(MINUTE + 1).current())).toBe("CLOCK_SKEW");
    expect(await codeThrown(skewed(-MINUTE - 1).current())).toBe("CLOCK_SKEW");
    expect(await store.read("web")).toHaveLength(0);
    await skewed(MINUTE).current();
    await skewed(-MINUTE).current();
    expect(await store.read("web")).toHaveLength(1);
  });

  it("comes through although somebody keeps changing the ring", async () => {
    const { store, process } = fixture();
    let junk = 0;
    const crowded: KeyRingStore = {
      ...bound(store),
      now: async () => {
        await store.write("web", Buffer.alloc(12, ++junk).toString("base64url"), Uint8Array.of(1));
        return START;
      },
    };
    const key = await process({ store: crowded }).current();
    expect((await process().current()).keyId).toBe(key.keyId);
  });
});

describe("finding a key by its id", () => {
  it("loads the ring when the process is cold", async () => {
    const { ring, process } = fixture();
    const { keyIdBytes } = await ring.current();
    const reader = process();
    expect(reader.byIdIfWarm(keyIdBytes)).toBeUndefined();
    await reader.byId(keyIdBytes);
    expect(reader.byIdIfWarm(keyIdBytes)?.keyIdBytes).toEqual(keyIdBytes);
  });

  it("finds a key that came after the last refresh, with one reload for all who wait", async () => {
    const { ring, process, kms } = fixture();
    await ring.current();
    const reader = process();
    await reader.current();
    const keyId = await ring.publish({ delayMs: 0 });
    const before = kms.calls.unwrap;
    const found = await Promise.all(Array.from({ length: 50 }, () => reader.byId(idBytes(keyId))));
    expect(new Set(found).size).toBe(1);
    expect(kms.calls.unwrap).toBe(before + 1);
  });

  it("finds a key that was published while a refresh was under way", async () => {
    const { ring, process, store } = fixture();
    await ring.current();
    let release = () => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    let reads = 0;
    const reader = process({
      store: {
        ...bound(store),
        read: async (name) => {
          const records = await store.read(name);
          if (++reads === 1) await held;
          return records;
        },
      },
    });
    const stale = reader.refresh();
    const keyId = await ring.publish({ delayMs: 0 });
    const found = reader.byId(idBytes(keyId));
    release();
    expect((await found).keyId).toBe(keyId);
    await stale;
  });

  it("rejects an id that the ring does not know, and does not read the ring again for it", async () => {
    const { process, store, advance } = fixture();
    const counted = counting(store);
    const ring = process({ store: counted });
    await ring.current();
    counted.reads = 0;
    expect(await codeThrown(ring.byId(UNKNOWN))).toBe("ENVELOPE_REJECTED");
    expect(await codeThrown(ring.byId(UNKNOWN))).toBe("ENVELOPE_REJECTED");
    expect(counted.reads).toBe(1);
    advance(MINUTE);
    expect(await codeThrown(ring.byId(UNKNOWN))).toBe("ENVELOPE_REJECTED");
    expect(counted.reads).toBe(2);
  });

  it("keeps no more than a bounded number of unknown ids", async () => {
    const { process, store } = fixture();
    const counted = counting(store);
    const ring = process({ store: counted });
    await ring.current();
    const id = (n: number) => Uint8Array.of(...new Uint8Array(8), n >>> 24, n >>> 16, n >>> 8, n);
    for (let n = 0; n < 1100; n++) await codeThrown(ring.byId(id(n)));
    counted.reads = 0;
    await codeThrown(ring.byId(id(1099)));
    expect(counted.reads).toBe(0);
    await codeThrown(ring.byId(id(0)));
    expect(counted.reads).toBe(1);
  });
});

describe("a record's state", () => {
  it.each([
    [RecordState.revoked, "KEY_REVOKED", "revoked"],
    [RecordState.retired, "KEY_RETIRED", "retired"],
  ] as const)("%i means %s for its envelopes, from the next refresh on", async (state, code, shown) => {
    const { ring, store } = fixture();
    const { keyIdBytes } = await ring.current();
    await alter(store, (record) => ({ ...record, state, wraps: state === RecordState.retired ? [] : record.wraps }));
    await ring.refresh();
    expect(ring.byIdIfWarm(keyIdBytes)).toBeUndefined();
    expect(await codeThrown(ring.byId(keyIdBytes))).toBe(code);
    expect(ring.status()[0]?.state).toBe(shown);
    expect(ring.currentIfWarm()).toBeUndefined();
  });

  it("that was put back to enabled does not revive a key in a process that knew better (5.4)", async () => {
    const { ring, store } = fixture();
    const { keyIdBytes } = await ring.current();
    await alter(store, (record) => ({ ...record, state: RecordState.revoked }));
    await ring.refresh();
    await alter(store, (record) => ({ ...record, state: RecordState.enabled }));
    await ring.refresh();
    expect(await codeThrown(ring.byId(keyIdBytes))).toBe("KEY_REVOKED");
  });

  it("does not matter for a key that the configuration revokes (5.1)", async () => {
    const { ring, process } = fixture();
    const { keyId, keyIdBytes } = await ring.current();
    const strict = process({ revokedKeyIds: [keyId] });
    expect(await codeThrown(strict.byId(keyIdBytes))).toBe("KEY_REVOKED");
    expect((await strict.current()).keyId).not.toBe(keyId);
    expect(strict.status().find((status) => status.keyId === keyId)?.state).toBe("revoked");
  });
});

describe("an altered record", () => {
  const altered: [string, (record: KeyRecord) => KeyRecord][] = [
    ["another time", (record) => ({ ...record, activatesAt: record.activatesAt + 1 })],
    ["a wrap of junk", (record) => ({ ...record, wraps: [{ kms: "fake", wrapped: Uint8Array.of(0) }] })],
    [
      "another commitment",
      (record) => ({ ...record, commitment: record.commitment.map((byte, i) => (i < 12 ? byte : byte ^ 1)) }),
    ],
  ];
  it.each(altered)("with %s changes nothing in a process that has verified the key", async (_, change) => {
    const { ring, store, advance } = fixture();
    const key = await ring.current();
    await alter(store, change);
    advance(MINUTE);
    await ring.refresh();
    expect(await ring.current()).toBe(key);
    expect(await ring.byId(key.keyIdBytes)).toBe(key);
  });

  it.each(altered)("with %s is not verified by a new process", async (_, change) => {
    const { ring, process, store } = fixture();
    const { keyId, keyIdBytes } = await ring.current();
    await alter(store, change);
    const fresh = process();
    expect(await codeThrown(fresh.byId(keyIdBytes))).toBe("KEY_UNAVAILABLE");
    expect(fresh.status()).toMatchObject([{ keyId, state: "unverified" }]);
    expect(events).toContainEqual({ type: "key-record-refused", ring: "web", keyId, reason: "no KMS opens it" });
  });

  it("of the same key id and another commitment is reported", async () => {
    const { ring, store } = fixture();
    const { keyId } = await ring.current();
    await alter(store, altered[2]?.[1] as (record: KeyRecord) => KeyRecord);
    await ring.refresh();
    expect(events).toContainEqual({ type: "key-record-refused", ring: "web", keyId, reason: "another commitment" });
  });

  it.each([
    ["is malformed", () => Uint8Array.of(1, 2, 3)],
    ["lies under another key id", (bytes: Uint8Array) => bytes],
  ])("that %s is reported and blocks nothing (5.3)", async (_, make) => {
    const { ring, process, store } = fixture();
    const key = await ring.current();
    const [stored] = await store.read("web");
    const keyId = Buffer.alloc(12, 3).toString("base64url");
    await store.write("web", keyId, make(stored?.record as Uint8Array));
    const fresh = process();
    expect((await fresh.current()).keyId).toBe(key.keyId);
    expect(events).toContainEqual({ type: "key-record-refused", ring: "web", keyId, reason: "malformed" });
  });

  it("from another ring does not open (5.2)", async () => {
    const { ring, process, store } = fixture();
    const { keyId, keyIdBytes } = await ring.current();
    const [stored] = await store.read("web");
    await store.write("other", keyId, stored?.record as Uint8Array);
    const other = process({ name: "other" });
    expect(await codeThrown(other.byId(keyIdBytes))).toBe("KEY_UNAVAILABLE");
    expect((await other.current()).keyId).not.toBe(keyId);
  });

  it("of a time more than two rotation periods ahead is ignored and reported (5.5)", async () => {
    const { ring, process, store, kms } = fixture();
    await ring.current();
    const keyOf = async (activatesAt: number) => {
      const { dataKey } = await kms.generate(encryptionContext("web", activatesAt));
      const { deriveKeys } = await import("../src/data-key.js");
      const record = { commitment: deriveKeys(dataKey).commitment, activatesAt, state: RecordState.enabled };
      const wraps = [{ kms: "fake", wrapped: await kms.wrap(dataKey, encryptionContext("web", activatesAt)) }];
      const keyId = Buffer.from(record.commitment.subarray(0, 12)).toString("base64url");
      await store.write("web", keyId, encodeRecord({ ...record, wraps }));
      return keyId;
    };
    const far = await keyOf(START + 48 * HOUR + 1);
    const near = await keyOf(START + 48 * HOUR);
    const fresh = process();
    await fresh.refresh();
    expect(fresh.status().map(({ keyId }) => keyId)).toContain(near);
    expect(fresh.status().map(({ keyId }) => keyId)).not.toContain(far);
    expect(events).toContainEqual({
      type: "key-record-refused",
      ring: "web",
      keyId: far,
      reason: "too far in the future",
    });
  });
});

describe("several KMSs", () => {
  it("all wrap each key, and any of them opens it, in the configured order (5.3)", async () => {
    const [a, b] = [fakeKms("a"), fakeKms("b")];
    const { process } = fixture({ kms: [a, b] });
    const { keyId } = await process().current();
    expect(process().status()).toEqual([]);
    a.failWith = "KMS_UNREACHABLE";
    const second = process();
    expect((await second.current()).keyId).toBe(keyId);
    expect(second.status()[0]?.kms).toEqual(["a", "b"]);
    expect(b.calls).toEqual({ generate: 0, wrap: 1, unwrap: 1 });
    expect(events).toContainEqual({ type: "kms-failed", ring: "web", kms: "a", code: "KMS_UNREACHABLE" });
  });

  it("say nothing of a record that is wrapped under none of them, and open it once one of them is configured", async () => {
    const [a, b] = [fakeKms("a"), fakeKms("b")];
    const { ring, process } = fixture({ kms: a });
    const { keyIdBytes } = await ring.current();
    const elsewhere = process({ kms: b });
    expect(await codeThrown(elsewhere.byId(keyIdBytes))).toBe("KEY_UNAVAILABLE");
    expect(events.filter(({ type }) => type === "key-record-refused")).toEqual([]);
    expect((await process({ kms: [b, a] }).byId(keyIdBytes)).keyIdBytes).toEqual(keyIdBytes);
  });

  it("make a key although one of them is out", async () => {
    const [a, b] = [fakeKms("a"), fakeKms("b")];
    a.failWith = "KMS_DISABLED";
    const { ring } = fixture({ kms: [a, b] });
    await ring.current();
    expect(ring.status()[0]?.kms).toEqual(["b"]);
  });
});

describe("failures", () => {
  it.each(["KMS_DENIED", "KMS_DISABLED", "KMS_THROTTLED", "KMS_UNREACHABLE"] as const)(
    "of the KMS with %s make a cold process fail with its cause, and heal",
    async (code) => {
      const { ring, kms } = fixture();
      kms.failWith = code;
      const error = await ring.current().catch((thrown: SealedSessionError) => thrown);
      expect(error).toMatchObject({ code: "KEY_UNAVAILABLE", cause: { code, kms: "fake", requestId: "req-1" } });
      kms.failWith = undefined;
      expect((await ring.current()).keyId).toHaveLength(16);
    },
  );

  it("of the KMS do not touch a warm process", async () => {
    const { ring, kms, advance } = fixture();
    const key = await ring.current();
    kms.failWith = "KMS_UNREACHABLE";
    advance(HOUR);
    expect(await ring.current()).toBe(key);
  });

  it("to open a record for lack of an answer are tried again, refusals only after five refresh intervals", async () => {
    const { ring, process, kms, advance } = fixture();
    const { keyIdBytes } = await ring.current();
    const reader = process();
    kms.failWith = "KMS_THROTTLED";
    expect(await codeThrown(reader.byId(keyIdBytes))).toBe("KEY_UNAVAILABLE");
    kms.failWith = "KMS_DENIED";
    expect(await codeThrown(reader.byId(keyIdBytes))).toBe("KEY_UNAVAILABLE");
    kms.failWith = undefined;
    expect(await codeThrown(reader.byId(keyIdBytes))).toBe("KEY_UNAVAILABLE");
    advance(5 * MINUTE);
    expect((await reader.byId(keyIdBytes)).keyIdBytes).toEqual(keyIdBytes);
  });

  it("of the store make a cold process fail, and a warm one go on with a report", async () => {
    const { process, store, advance } = fixture();
    let down = true;
    const outage = new SealedSessionError("STORE_UNAVAILABLE", "down");
    const ring = process({
      store: { ...bound(store), read: (name) => (down ? Promise.reject(outage) : store.read(name)) },
    });
    expect(await codeThrown(ring.current())).toBe("KEY_UNAVAILABLE");
    expect(await codeThrown(ring.byId(UNKNOWN))).toBe("KEY_UNAVAILABLE");
    down = false;
    const key = await ring.current();
    down = true;
    advance(MINUTE);
    expect(ring.currentIfWarm()).toBe(key);
    await codeThrown(ring.refresh());
    expect(ring.currentIfWarm()).toBe(key);
    expect(events).toContainEqual({ type: "ring-refresh-failed", ring: "web", code: "STORE_UNAVAILABLE" });
  });

  it("do not make a process publish key after key that it cannot open", async () => {
    const { process, store, kms } = fixture();
    const sealOnly = process({
      kms: { name: "fake", generate: kms.generate, wrap: kms.wrap, unwrap: (wrapped) => kms.unwrap(wrapped, {}) },
    });
    for (let i = 0; i < 5; i++) expect(await codeThrown(sealOnly.current())).toBe("KEY_UNAVAILABLE");
    expect(await store.read("web")).toHaveLength(1);
  });
});

describe("close()", () => {
  it("wipes the keys and ends all methods", async () => {
    const { ring } = fixture();
    const key = await ring.current();
    ring.close();
    expect(await codeThrown(() => key.nextSender())).toBe("KEY_UNAVAILABLE");
    expect(ring.currentIfWarm()).toBeUndefined();
    expect(ring.byIdIfWarm(key.keyIdBytes)).toBeUndefined();
    for (const call of [
      () => ring.current(),
      () => ring.byId(key.keyIdBytes),
      () => ring.refresh(),
      () => ring.publish(),
    ]) {
      expect(await codeThrown(call)).toBe("CLOSED");
    }
  });

  it("also wipes a key that the KMS was just opening", async () => {
    const { ring, process, kms } = fixture();
    const { keyIdBytes } = await ring.current();
    let release = () => {};
    kms.gate = new Promise((resolve) => {
      release = resolve;
    });
    const reader = process();
    const waiting = codeThrown(reader.byId(keyIdBytes));
    reader.close();
    release();
    expect(await waiting).toBe("CLOSED");
    expect(reader.status()).toEqual([]);
  });
});

describe("options", () => {
  it.each([
    ["name", { name: "" }, RangeError],
    ["name", { name: "a{b}" }, RangeError],
    ["name", { name: "a".repeat(129) }, RangeError],
    ["name", { name: 5 }, TypeError],
    ["kms", { kms: {} }, TypeError],
    ["kms.length", { kms: [] }, RangeError],
    ["kms", { kms: [fakeKms("a"), fakeKms("a")] }, RangeError],
    ["kms.name", { kms: fakeKms("a".repeat(65)) }, RangeError],
    ["store", { store: {} }, TypeError],
    ["rotationPeriodMs", { rotationPeriodMs: 0 }, RangeError],
    ["rotationPeriodMs", { rotationPeriodMs: "1d" }, TypeError],
    ["maxSealingAgeMs", { maxSealingAgeMs: 1 }, RangeError],
    ["refreshIntervalMs", { refreshIntervalMs: 25 * HOUR }, RangeError],
    ["revokedKeyIds", { revokedKeyIds: ["abc"] }, RangeError],
    ["maxCachedSenders", { maxCachedSenders: 0 }, RangeError],
  ])("refuse a wrong %s at construction: %j", (field, options, type) => {
    expect(() => fixture(options as Partial<KeyRingOptions>)).toThrow(type);
    expect(() => fixture(options as Partial<KeyRingOptions>)).toThrow(field);
  });

  it("of publish are checked", async () => {
    const { ring } = fixture();
    await expect(ring.publish({ delayMs: -1 })).rejects.toThrow(RangeError);
    expect(ring).toBeInstanceOf(KeyRing);
  });
});

/** The methods of a store, to replace some of them. */
function bound(store: KeyRingStore): KeyRingStore {
  return {
    read: (name) => store.read(name),
    write: (...args) => store.write(...args),
    now: () => store.now(),
  };
}

/** Counts how often the ring is read. */
function counting(store: KeyRingStore): KeyRingStore & { reads: number } {
  const counted = {
    ...bound(store),
    reads: 0,
    read: (name: string) => {
      counted.reads++;
      return store.read(name);
    },
  };
  return counted;
}
