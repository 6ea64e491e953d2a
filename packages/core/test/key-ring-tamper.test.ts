/** What somebody with write access to the ring's store can do, and what a process that knows better does about it. */
import { describe, expect, it } from "vitest";
import { encodeRecord, type KeyRecord, RecordState } from "../src/data-key.js";
import type { Kms } from "../src/kms.js";
import { Sealer } from "../src/sealer.js";
import { fakeKms } from "./support/fake-kms.js";
import { codeThrown, HOUR, MINUTE, START } from "./support/fixture.js";
import { collectEvents, type OpenFixture, openFixture, sealingKeyId } from "./support/open-fixture.js";
import { fillWithJunk, junkRecord, overwrite, withAnotherCommitment } from "./support/open-ring-store.js";

const events = collectEvents();
const ENDED = [
  ["revoked", RecordState.revoked, "KEY_REVOKED"],
  ["retired", RecordState.retired, "KEY_RETIRED"],
] as const;
const inState = (record: KeyRecord, state: KeyRecord["state"]): KeyRecord => ({
  ...record,
  state,
  wraps: state === RecordState.retired ? [] : record.wraps,
});

describe.each(ENDED)("a %s key (5.4)", (_, state, code) => {
  const detours: [string, (base: OpenFixture, keyId: string, original: KeyRecord) => void][] = [
    [
      "a record with another commitment",
      ({ store }, keyId, original) => overwrite(store, { keyId }, withAnotherCommitment(original)),
    ],
    ["nothing at all", ({ store }, keyId) => void store.records.delete(keyId)],
    ["bytes that are no record", ({ store }, keyId) => overwrite(store, { keyId }, Uint8Array.of(1))],
    [
      "a record of another time",
      ({ store }, keyId, original) =>
        overwrite(store, { keyId }, { ...original, activatesAt: original.activatesAt + 1 }),
    ],
  ];

  it.each(detours)("stays so when %s and then the enabled record are put in its place", async (_name, detour) => {
    const base = openFixture();
    const { ring, store, process } = base;
    const { keyId, keyIdBytes } = await ring.current();
    const original = base.stored(keyId);
    overwrite(store, { keyId }, inState(original, state));
    await ring.refresh();
    // It never verified the key: it came when the key had ended already.
    const late = process();
    await late.refresh();
    for (const process of [ring, late]) {
      detour(base, keyId, original);
      await process.refresh();
      expect(await codeThrown(process.byId(keyIdBytes))).toBe(code);
      overwrite(store, { keyId }, original);
      await process.refresh();
      expect(await codeThrown(process.byId(keyIdBytes))).toBe(code);
      expect(process.byIdIfWarm(keyIdBytes)).toBeUndefined();
      expect(sealingKeyId(process)).toBeUndefined();
    }
  });

  it("whose state was lowered in the store is put back by a process that had verified it", async () => {
    const { ring, store, process, stored } = openFixture();
    const { keyId, keyIdBytes } = await ring.current();
    const original = stored(keyId);
    overwrite(store, { keyId }, inState(original, state));
    await ring.refresh();
    overwrite(store, { keyId }, original);
    await ring.refresh();
    expect(stored(keyId)).toEqual(inState(original, state));
    expect(events).toContainEqual({ type: "key-record-restored", ring: "web", keyId });
    expect(await codeThrown(process().byId(keyIdBytes))).toBe(code);
  });

  it("that was deleted from the store is put back as it was", async () => {
    const { ring, store, stored } = openFixture();
    const { keyId } = await ring.current();
    const ended = inState(stored(keyId), state);
    overwrite(store, { keyId }, ended);
    await ring.refresh();
    store.records.clear();
    await ring.refresh();
    expect(stored(keyId)).toEqual(ended);
  });
});

describe("a record that was lost or altered in the store (5.4)", () => {
  const damages: [string, (base: OpenFixture, keyId: string) => void][] = [
    ["deleted", ({ store }, keyId) => void store.records.delete(keyId)],
    ["emptied with the whole ring", ({ store }) => store.records.clear()],
    ["replaced by bytes that are no record", ({ store }, keyId) => overwrite(store, { keyId }, Uint8Array.of(1, 2, 3))],
    [
      "given another commitment",
      ({ store, stored }, keyId) => overwrite(store, { keyId }, withAnotherCommitment(stored(keyId))),
    ],
    [
      "given an earlier time",
      ({ store, stored }, keyId) => overwrite(store, { keyId }, { ...stored(keyId), activatesAt: 1 }),
    ],
    [
      "given a time too far ahead",
      ({ store, stored }, keyId) => overwrite(store, { keyId }, { ...stored(keyId), activatesAt: START + 49 * HOUR }),
    ],
    [
      "deprived of its wrap",
      ({ store, stored }, keyId) =>
        overwrite(store, { keyId }, { ...stored(keyId), wraps: [{ kms: "other", wrapped: Uint8Array.of(1) }] }),
    ],
    [
      "given a wrap of junk",
      ({ store, stored }, keyId) =>
        overwrite(store, { keyId }, { ...stored(keyId), wraps: [{ kms: "fake", wrapped: Uint8Array.of(1) }] }),
    ],
  ];

  it.each(damages)("%s is put back at the next refresh, and a cold process opens old envelopes", async (_, damage) => {
    const base = openFixture();
    const { ring, process, advance, stored } = base;
    const old = await ring.current();
    const envelope = await new Sealer({ ring }).seal({ user_id: 1 }, "id");
    advance(1);
    const young = await ring.publish({ delayMs: 0 });
    const [before, other] = [stored(old.keyId), stored(young)];
    damage(base, old.keyId);
    advance(MINUTE);
    ring.currentIfWarm();
    await ring.refresh();
    expect(stored(young)).toEqual(other);
    const after = stored(old.keyId);
    expect({ ...after, wraps: after.wraps.filter(({ kms }) => kms === "fake") }).toEqual(before);
    expect(events).toContainEqual({ type: "key-record-restored", ring: "web", keyId: old.keyId });
    expect(await new Sealer({ ring: process() }).open(envelope, "id")).toEqual({ user_id: 1 });
  });

  it("is not put back while the store is down, and is once it answers again", async () => {
    const { ring, store, stored } = openFixture();
    const { keyId } = await ring.current();
    store.records.clear();
    const write = store.write;
    store.write = () => Promise.reject(Object.assign(new Error("full"), { code: "STORE_UNAVAILABLE" }));
    await ring.refresh();
    expect(events).toContainEqual({ type: "ring-refresh-failed", ring: "web", code: "STORE_UNAVAILABLE" });
    expect((await ring.current()).keyId).toBe(keyId);
    store.write = write;
    await ring.refresh();
    expect(stored(keyId).activatesAt).toBe(START);
  });

  it.each([
    ["enabled", RecordState.enabled],
    ["revoked", RecordState.revoked],
    ["retired", RecordState.retired],
  ] as const)("is not put back when no KMS ever opened it and it said %s", async (_, state) => {
    const { ring, store } = openFixture();
    await ring.current();
    const { keyId, record } = junkRecord(1, START);
    overwrite(store, { keyId }, inState(record, state));
    await ring.refresh();
    store.records.delete(keyId);
    for (let i = 0; i < 3; i++) await ring.refresh();
    expect(store.records.has(keyId)).toBe(false);
    overwrite(store, { keyId }, Uint8Array.of(1));
    await ring.refresh();
    expect(store.records.get(keyId)).toEqual(Uint8Array.of(1));
    expect(events.filter(({ type }) => type === "key-record-restored")).toEqual([]);
  });
});

describe("processes that put records back do not undo each other's work", () => {
  const [a, b] = [fakeKms("a"), fakeKms("b")];
  const settle = async (base: OpenFixture, rings: OpenFixture["ring"][]) => {
    for (const ring of rings) await ring.refresh();
    base.store.changes.length = 0;
    const before = base.store.writes;
    for (let round = 0; round < 5; round++) for (const ring of rings) await ring.refresh();
    return { changes: base.store.changes.length, writes: base.store.writes - before };
  };

  it("when each has the KMSs in an order of its own, and the wraps were written in another", async () => {
    const base = openFixture({ kms: [a, b] });
    const rings = [base.ring, base.process({ kms: [b, a] })];
    const { keyId } = await base.ring.current();
    await rings[1]?.current();
    const record = base.stored(keyId);
    overwrite(base.store, { keyId }, { ...record, wraps: [...record.wraps].reverse() });
    expect(await settle(base, rings)).toEqual({ changes: 0, writes: 0 });
    expect(base.stored(keyId).wraps.map(({ kms }) => kms)).toEqual(["b", "a"]);
  });

  it("when each has seen another wrap that somebody added", async () => {
    const base = openFixture({ kms: a });
    const { keyId } = await base.ring.current();
    const record = base.stored(keyId);
    const extra = (kms: string) => ({ ...record, wraps: [...record.wraps, { kms, wrapped: Uint8Array.of(1) }] });
    const other = base.process();
    overwrite(base.store, { keyId }, extra("x"));
    await base.ring.refresh();
    overwrite(base.store, { keyId }, extra("y"));
    await other.refresh();
    expect(await settle(base, [base.ring, other])).toEqual({ changes: 0, writes: 0 });
    expect(new Set(base.stored(keyId).wraps.map(({ kms }) => kms))).toEqual(new Set(["a", "x", "y"]));
  });

  it("when each has seen another wrap by a KMS that neither has", async () => {
    const base = openFixture({ kms: a });
    const { keyId } = await base.ring.current();
    const record = base.stored(keyId);
    const extra = (byte: number) => ({
      ...record,
      wraps: [...record.wraps, { kms: "x", wrapped: Uint8Array.of(byte) }],
    });
    const other = base.process();
    overwrite(base.store, { keyId }, extra(1));
    await base.ring.refresh();
    overwrite(base.store, { keyId }, extra(2));
    await other.refresh();
    expect(await settle(base, [base.ring, other])).toEqual({ changes: 0, writes: 0 });
  });

  it("when each has seen so many added wraps that they do not fit together", async () => {
    const base = openFixture({ kms: a });
    const { keyId } = await base.ring.current();
    const record = base.stored(keyId);
    const full = (prefix: string) => ({
      ...record,
      wraps: [
        ...record.wraps,
        ...[1, 2, 3, 4, 5, 6, 7].map((n) => ({ kms: `${prefix}${n}`, wrapped: Uint8Array.of(n) })),
      ],
    });
    const other = base.process();
    overwrite(base.store, { keyId }, full("x"));
    await base.ring.refresh();
    overwrite(base.store, { keyId }, full("y"));
    await other.refresh();
    expect(await settle(base, [base.ring, other])).toEqual({ changes: 0, writes: 0 });
    expect(base.stored(keyId).wraps.map(({ kms }) => kms)).toContain("a");
  });
});

describe("junk in the store blocks nothing (5.3)", () => {
  /** Counts how many calls of `unwrap` there are, and how many at once. */
  const watched = (kms: Kms) => {
    const seen = { calls: 0, now: 0, most: 0 };
    const unwrap: Kms["unwrap"] = async (...args) => {
      seen.calls++;
      seen.most = Math.max(seen.most, ++seen.now);
      // Long enough for all that are started together to meet.
      await new Promise((resolve) => setImmediate(resolve));
      try {
        return await kms.unwrap(...args);
      } finally {
        seen.now--;
      }
    };
    return { seen, kms: { name: kms.name, generate: kms.generate, wrap: kms.wrap, unwrap } };
  };

  it("although it is 70000 records: the key seals, and a refresh asks for at most 64, at most 8 at once", async () => {
    const base = openFixture();
    const { keyId } = await base.ring.current();
    const junk = fillWithJunk(base.store, 70_000, START);
    const { seen, kms } = watched(base.kms);
    const cold = base.process({ kms });
    await cold.refresh();
    expect(seen.calls).toBe(64);
    expect(seen.most).toBe(8);
    seen.calls = 0;
    await cold.refresh();
    expect(seen.calls).toBe(64);
    expect((await cold.current()).keyId).toBe(keyId);
    expect((await base.ring.current()).keyId).toBe(keyId);
    await base.ring.refresh();
    expect((await base.ring.current()).keyId).toBe(keyId);
    base.advance(1);
    // A rotation comes through as well: the new key is one more than what is kept of what lies there.
    const next = await base.ring.publish();
    expect(base.ring.status()).toHaveLength(1025);
    base.advance(2 * MINUTE);
    expect(base.ring.currentIfWarm()?.keyId).toBe(next);
    // The one that this call began in the background.
    await base.ring.refresh();

    for (const id of junk) base.store.records.delete(id);
    for (const ring of [base.ring, cold]) await ring.refresh();
    expect(base.store.records.size).toBe(2);
    expect(base.ring.status().map(({ state }) => state)).not.toContain("unverified");
    expect(base.ring.status().length).toBeLessThanOrEqual(2);
    expect(cold.status().length).toBeLessThanOrEqual(2);
    expect((await cold.current()).keyId).toBe(next);
  });

  it("also where a cold process meets a handful of it, newer than the key", async () => {
    const base = openFixture();
    const { keyId } = await base.ring.current();
    fillWithJunk(base.store, 50, START + HOUR);
    expect((await base.process().current()).keyId).toBe(keyId);
    expect(base.store.records.size).toBe(51);
  });

  it.each([
    ["more of it than a process keeps, found before the key", 1100, START],
    ["more of it than is verified in five refresh intervals, newer than the key", 400, START + 40 * HOUR],
  ])("also where a cold process meets %s: it opens, and seals under that key or a new one", async (_, count, time) => {
    const base = openFixture();
    const { keyId } = await base.ring.current();
    const envelope = await new Sealer({ ring: base.ring }).seal({ user_id: 1 }, "id");
    const record = base.store.records.get(keyId) as Uint8Array;
    base.store.records.clear();
    fillWithJunk(base.store, count, time);
    base.store.records.set(keyId, record);
    base.advance(MINUTE);
    const reader = new Sealer({ ring: base.process() });
    expect(await reader.open(envelope, "id")).toEqual({ user_id: 1 });
    const writer = base.process();
    const own = await writer.current();
    expect(base.store.records.size).toBeLessThanOrEqual(count + 2);
    // Also after all that was refused may be asked about again.
    for (let minute = 0; minute < 12; minute++) {
      base.advance(MINUTE);
      await writer.refresh();
      expect((await writer.current()).keyId).toBe(own.keyId);
    }
  });

  it("not even in a process that reads the ring again and again and wants no key in particular", async () => {
    const base = openFixture();
    const { keyId } = await base.ring.current();
    fillWithJunk(base.store, 1000, START + 40 * HOUR);
    const cold = base.process();
    for (let minute = 0; minute < 16; minute++) {
      await cold.refresh();
      base.advance(MINUTE);
    }
    expect(sealingKeyId(cold)).toBe(keyId);
  });

  it("also under fields that are no key ids", async () => {
    const base = openFixture();
    const { keyId } = await base.ring.current();
    for (const field of ["", "__proto__", "meta", "A".repeat(15), "A".repeat(17), `${"A".repeat(15)}=`]) {
      base.store.records.set(field, base.store.records.get(keyId) as Uint8Array);
    }
    const cold = base.process();
    expect((await cold.current()).keyId).toBe(keyId);
    expect(cold.status().map((key) => key.keyId)).toEqual([keyId]);
    expect(events.filter(({ type }) => type === "key-record-refused")).toEqual([]);
    base.advance(1);
    const next = await cold.publish({ delayMs: 0 });
    expect((await cold.current()).keyId).toBe(next);
  });
});

describe("a record under the very id of an envelope's key, of which a cold process can use nothing", () => {
  it.each([
    ["is malformed", () => Uint8Array.of(1, 2, 3)],
    ["is empty", () => new Uint8Array(0)],
    [
      "lies too far in the future",
      (record: KeyRecord) => encodeRecord({ ...record, activatesAt: START + 48 * HOUR + 1 }),
    ],
    ["is of another key", () => encodeRecord(junkRecord(1, START).record)],
  ])("means KEY_UNAVAILABLE, not that the envelope is bad, when it %s", async (_, make) => {
    const { ring, process, store, stored } = openFixture();
    const { keyId, keyIdBytes } = await ring.current();
    const original = stored(keyId);
    overwrite(store, { keyId }, make(original));
    const cold = process();
    expect(await codeThrown(cold.byId(keyIdBytes))).toBe("KEY_UNAVAILABLE");
    expect(await codeThrown(cold.byId(keyIdBytes))).toBe("KEY_UNAVAILABLE");
    overwrite(store, { keyId }, original);
    expect((await cold.byId(keyIdBytes)).keyId).toBe(keyId);
    store.records.clear();
    expect(await codeThrown(process().byId(keyIdBytes))).toBe("ENVELOPE_REJECTED");
  });
});
