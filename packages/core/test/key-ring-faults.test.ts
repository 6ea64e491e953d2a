/** What the ring does while its KMS, its store or its clock fails, and that it never makes things worse. */
import { describe, expect, it } from "vitest";
import { encodeRecord, RecordState } from "../src/data-key.js";
import { KmsError, type KmsErrorCode } from "../src/errors.js";
import type { KeyRingOptions } from "../src/key-ring.js";
import type { Kms } from "../src/kms.js";
import { Sealer } from "../src/sealer.js";
import { fakeKms } from "./support/fake-kms.js";
import { codeThrown, HOUR, MINUTE, START } from "./support/fixture.js";
import { collectEvents, everyMinute, held, type OpenFixture, openFixture } from "./support/open-fixture.js";
import { junkRecord, overwrite } from "./support/open-ring-store.js";

const events = collectEvents();
const never = () => new Promise<never>(() => {});

/** Revokes a key in the store, as an operator would. */
const revoke = ({ store, stored }: OpenFixture, keyId: string) =>
  overwrite(store, { keyId }, { ...stored(keyId), state: RecordState.revoked });

describe("a cold process whose KMS gives no answer", () => {
  it.each(["KMS_THROTTLED", "KMS_UNREACHABLE"] as const)(
    "for one call (%s) publishes no second key, and uses the one there is afterwards (5.5)",
    async (code) => {
      const { ring, process, kms, store } = openFixture();
      const { keyId } = await ring.current();
      const cold = process();
      kms.failWith = code;
      expect(await codeThrown(cold.current())).toBe("KEY_UNAVAILABLE");
      kms.failWith = undefined;
      expect(store.records.size).toBe(1);
      expect(kms.calls.generate).toBe(1);
      expect((await cold.current()).keyId).toBe(keyId);
      expect(store.records.size).toBe(1);
    },
  );

  it("names that as the cause, and not that it also refuses junk", async () => {
    const { ring, process, kms, store } = openFixture();
    const { keyId } = await ring.current();
    const record = store.records.get(keyId) as Uint8Array;
    const junk = junkRecord(1, START);
    store.records.clear();
    overwrite(store, junk, junk.record);
    overwrite(store, { keyId }, record);
    const unwrap: Kms["unwrap"] = (wrapped, ...args) =>
      wrapped[0] === 0xff
        ? kms.unwrap(wrapped, ...args)
        : Promise.reject(new KmsError("KMS_THROTTLED", "too many calls", { kms: "fake" }));
    const cold = process({ kms: { name: "fake", generate: kms.generate, wrap: kms.wrap, unwrap } });
    const error = await cold.current().catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "KEY_UNAVAILABLE", cause: { code: "KMS_THROTTLED" } });
  });

  it("from one KMS, while another denies, publishes no second key either", async () => {
    const [a, b] = [fakeKms("a"), fakeKms("b")];
    const { ring, process, store } = openFixture({ kms: [a, b] });
    const { keyId } = await ring.current();
    const answers: [Kms, KmsErrorCode, KmsErrorCode][] = [
      [a, "KMS_DENIED", "KMS_THROTTLED"],
      [b, "KMS_UNREACHABLE", "KMS_DISABLED"],
    ];
    for (const [, first, second] of answers) {
      const cold = process();
      a.failWith = first;
      b.failWith = second;
      const generates = a.calls.generate + b.calls.generate;
      expect(await codeThrown(cold.current())).toBe("KEY_UNAVAILABLE");
      expect(a.calls.generate + b.calls.generate).toBe(generates);
      a.failWith = undefined;
      b.failWith = undefined;
      expect((await cold.current()).keyId).toBe(keyId);
    }
    expect(store.records.size).toBe(1);
  });

  it("ever, fails after kmsTimeoutMs with KMS_UNREACHABLE as the cause", async () => {
    const { ring, process, kms, store } = openFixture();
    const { keyIdBytes } = await ring.current();
    const signals: (AbortSignal | undefined)[] = [];
    const hung: Kms = {
      name: "fake",
      generate: never,
      wrap: never,
      unwrap(_wrapped, _context, options) {
        signals.push(options?.signal);
        return never();
      },
    };
    const cold = process({ kms: hung, kmsTimeoutMs: 5 });
    await cold.refresh();
    expect(events).toContainEqual({ type: "kms-failed", ring: "web", kms: "fake", code: "KMS_UNREACHABLE" });
    expect(signals.map((signal) => signal?.aborted)).toEqual([true]);
    for (const call of [() => cold.current(), () => cold.byId(keyIdBytes)]) {
      const error = await call().catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: "KEY_UNAVAILABLE", cause: { code: "KMS_UNREACHABLE", kms: "fake" } });
    }
    expect(await codeThrown(cold.publish())).toBe("KEY_UNAVAILABLE");
    expect(store.records.size).toBe(1);
    // The second KMS answers although the first one hangs.
    const wrapped = process({ kms: [{ ...hung, name: "hung" }, kms], kmsTimeoutMs: 5 });
    expect((await wrapped.byId(keyIdBytes)).keyIdBytes).toEqual(keyIdBytes);
    expect(await wrapped.publish()).toHaveLength(16);
  });

  it.each(["KMS_DENIED", "KMS_DISABLED"] as const)(
    "but refuses with %s is asked again only after five refresh intervals",
    async (code) => {
      const { ring, process, kms, advance } = openFixture();
      const { keyId } = await ring.current();
      const cold = process();
      kms.failWith = code;
      await cold.refresh();
      const asked = kms.calls.unwrap;
      kms.failWith = undefined;
      await everyMinute({ advance }, 5, () => cold.refresh());
      expect(kms.calls.unwrap).toBe(asked);
      await cold.refresh();
      expect(kms.calls.unwrap).toBe(asked + 1);
      expect((await cold.current()).keyId).toBe(keyId);
    },
  );

  it.each(["KMS_THROTTLED", "KMS_UNREACHABLE"] as const)("with %s is asked again at each refresh", async (code) => {
    const { ring, process, kms } = openFixture();
    await ring.current();
    const cold = process();
    kms.failWith = code;
    const asked = kms.calls.unwrap;
    for (let i = 0; i < 3; i++) await cold.refresh();
    expect(kms.calls.unwrap).toBe(asked + 3);
  });
});

describe("a process that may make keys and not open them", () => {
  it.each(["KMS_DENIED", "KMS_DISABLED"] as const)(
    "because of %s publishes ever more rarely, and recovers within five refresh intervals (5.5)",
    async (code) => {
      const base = openFixture();
      let denied = true;
      const unwrap: Kms["unwrap"] = (...args) =>
        denied ? Promise.reject(new KmsError(code, "no permission", { kms: "fake" })) : base.kms.unwrap(...args);
      const ring = base.process({ kms: { name: "fake", generate: base.kms.generate, wrap: base.kms.wrap, unwrap } });
      const published: number[] = [];
      await everyMinute(base, 24 * 60, async () => {
        const before = base.store.records.size;
        expect(await codeThrown(ring.current())).toBe("KEY_UNAVAILABLE");
        if (base.store.records.size > before) published.push((base.now() - START) / MINUTE);
      });
      expect(published.length).toBeGreaterThan(5);
      expect(published.length).toBeLessThanOrEqual(12);
      const pauses = published.slice(1).map((minute, i) => minute - (published[i] as number));
      expect(pauses).toEqual(pauses.map((_, i) => 2 ** i));

      denied = false;
      const records = base.store.records.size;
      let minutes = 0;
      while ((await ring.current().catch(() => undefined)) === undefined) {
        base.advance(MINUTE);
        minutes++;
      }
      expect(minutes).toBeLessThanOrEqual(5);
      expect(base.store.records.size).toBe(records);
    },
  );
});

describe("a revocation in the store", () => {
  it("is honoured before the KMS is asked about other records, and also when that call hangs", async () => {
    const base = openFixture({ kmsTimeoutMs: 600_000 });
    const { ring, kms, store } = base;
    const key = await ring.current();
    const asked = held();
    const unwrap = kms.unwrap;
    kms.unwrap = () => {
      asked.release();
      return never();
    };
    const junk = junkRecord(1, START);
    overwrite(store, junk, junk.record);
    revoke(base, key.keyId);
    void ring.refresh();
    await asked.promise;
    kms.unwrap = unwrap;
    expect(ring.currentIfWarm()).toBeUndefined();
    expect(ring.byIdIfWarm(key.keyIdBytes)).toBeUndefined();
    expect(await codeThrown(() => key.nextSender())).toBe("KEY_UNAVAILABLE");
  });

  it("does not wait for a junk record at which the KMS hangs: a new key seals after the time-out", async () => {
    const base = openFixture({ kmsTimeoutMs: 5 });
    const { ring, kms, store } = base;
    const { keyId } = await ring.current();
    const junk = junkRecord(1, START - 50 * HOUR);
    const unwrap = kms.unwrap;
    kms.unwrap = (wrapped, ...rest) => (wrapped[0] === 0xff ? never() : unwrap(wrapped, ...rest));
    overwrite(store, junk, junk.record);
    revoke(base, keyId);
    await ring.refresh();
    expect(ring.currentIfWarm()).toBeUndefined();
    expect((await ring.current()).keyId).not.toBe(keyId);
  });
});

describe("a clock that was set back", () => {
  it("by 24 h makes the process read the ring: a key that was revoked meanwhile stops sealing", async () => {
    const base = openFixture();
    const { ring, store, advance } = base;
    advance(24 * HOUR);
    const old = await ring.current();
    advance(-24 * HOUR);
    revoke(base, old.keyId);
    const reads = store.reads;
    expect(ring.currentIfWarm()).toBeUndefined();
    expect(ring.byIdIfWarm(old.keyIdBytes)).toBeUndefined();
    const key = await ring.current();
    expect(store.reads).toBeGreaterThan(reads);
    expect(key.keyId).not.toBe(old.keyId);
    expect(await codeThrown(ring.byId(old.keyIdBytes))).toBe("KEY_REVOKED");
    expect(base.stored(key.keyId).activatesAt).toBe(base.now());
  });

  it("by 24 h leaves the process with no key of the future, and with the earlier one", async () => {
    const { ring, advance } = openFixture();
    const first = await ring.current();
    advance(24 * HOUR);
    const second = await ring.publish({ delayMs: 0 });
    expect((await ring.current()).keyId).toBe(second);
    advance(-23 * HOUR);
    expect(await ring.current()).toBe(first);
    expect(ring.status().map(({ state }) => state)).toEqual(["pre-active", "current"]);
  });

  it("only on this machine, far behind the store's, seals with no key of its own future and publishes none", async () => {
    const base = openFixture();
    let behind = 0;
    const ring = base.process({ clock: () => base.now() - behind });
    await ring.current();
    behind = 24 * HOUR;
    expect(ring.currentIfWarm()).toBeUndefined();
    expect(await codeThrown(ring.current())).toBe("CLOCK_SKEW");
    expect(base.store.records.size).toBe(1);
    behind = 0;
    expect((await ring.current()).keyId).toHaveLength(16);
  });

  it("by some seconds, less than since the last refresh, takes a key back whose time has not come", async () => {
    const { ring, advance } = openFixture();
    const first = await ring.current();
    advance(1);
    const second = await ring.publish({ delayMs: 30_000 });
    advance(30_000);
    expect(ring.currentIfWarm()?.keyId).toBe(second);
    advance(-10_000);
    expect(ring.currentIfWarm()).toBe(first);
    advance(10_000);
    expect(ring.currentIfWarm()?.keyId).toBe(second);
  });
});

describe("a process that was idle for ten hours", () => {
  const idle = async (options: Partial<KeyRingOptions> = {}) => {
    const base = openFixture(options);
    const sealer = new Sealer({ ring: base.ring });
    const envelope = await sealer.seal("before", "id");
    const key = await base.ring.current();
    base.advance(10 * HOUR);
    base.store.reads = 0;
    return { ...base, sealer, envelope, key };
  };

  it("reads the ring before it seals: not with a key that was revoked meanwhile", async () => {
    const { sealer, key, store, ...base } = await idle();
    revoke({ ...base, store }, key.keyId);
    expect(await codeThrown(() => sealer.sealSync("after", "id"))).toBe("KEY_UNAVAILABLE");
    const after = await sealer.seal("after", "id");
    expect(Buffer.from(after.subarray(2, 14)).equals(key.keyIdBytes)).toBe(false);
  });

  it("reads the ring before it opens: not with a key that was revoked meanwhile", async () => {
    const { sealer, key, store, envelope, ...base } = await idle();
    revoke({ ...base, store }, key.keyId);
    expect(await codeThrown(() => sealer.openSync(envelope, "id"))).toBe("KEY_UNAVAILABLE");
    expect(await codeThrown(sealer.open(envelope, "id"))).toBe("KEY_REVOKED");
    expect(store.reads).toBe(1);
  });

  it.each(["seal", "open"] as const)(
    "goes on with the key that it knows when the store is down, and does not ask at each %s",
    async (first) => {
      const { sealer, store, envelope, key, ring } = await idle();
      store.down = true;
      if (first === "open") expect(await sealer.open(envelope, "id")).toBe("before");
      for (let i = 0; i < 20; i++) {
        const sealed = await sealer.seal(i, "id");
        expect(Buffer.from(sealed.subarray(2, 14)).equals(key.keyIdBytes)).toBe(true);
        expect(await sealer.open(sealed, "id")).toBe(i);
        expect(await sealer.open(envelope, "id")).toBe("before");
      }
      expect(store.reads).toBe(1);
      expect(ring.status().map(({ state }) => state)).toEqual(["current"]);
    },
  );

  it("for no longer than five refresh intervals answers at once, and reads in the background", async () => {
    const { ring, advance, store } = openFixture();
    const key = await ring.current();
    advance(5 * MINUTE);
    store.reads = 0;
    expect(ring.byIdIfWarm(key.keyIdBytes)).toBe(key);
    expect(ring.currentIfWarm()).toBe(key);
    expect(store.reads).toBe(1);
    await ring.refresh();
    advance(5 * MINUTE + 1);
    expect(ring.byIdIfWarm(key.keyIdBytes)).toBeUndefined();
    expect(ring.currentIfWarm()).toBeUndefined();
  });
});

describe("the background refresh", () => {
  it.each(["currentIfWarm", "byIdIfWarm"] as const)(
    "is begun by %s once a refresh interval has passed, and not twice",
    async (method) => {
      const { ring, advance, store } = openFixture();
      const { keyIdBytes } = await ring.current();
      store.reads = 0;
      advance(MINUTE - 1);
      ring[method](keyIdBytes);
      expect(store.reads).toBe(0);
      advance(1);
      for (let i = 0; i < 3; i++) ring[method](keyIdBytes);
      expect(store.reads).toBe(1);
      await ring.refresh();
      ring[method](keyIdBytes);
      expect(store.reads).toBe(1);
    },
  );

  it("that fails is not begun again before another interval has passed", async () => {
    const { ring, advance, store } = openFixture();
    const key = await ring.current();
    advance(MINUTE);
    store.down = true;
    store.reads = 0;
    expect(ring.currentIfWarm()).toBe(key);
    await codeThrown(ring.refresh());
    for (let i = 0; i < 10; i++) expect(ring.currentIfWarm()).toBe(key);
    expect(store.reads).toBe(1);
    await new Promise(setImmediate);
    advance(MINUTE);
    ring.currentIfWarm();
    expect(store.reads).toBe(2);
  });

  it("is not begun by a process that never asked the ring", () => {
    const { ring, store } = openFixture();
    expect(ring.currentIfWarm()).toBeUndefined();
    expect(ring.byIdIfWarm(new Uint8Array(12))).toBeUndefined();
    expect(store.reads).toBe(0);
  });
});

describe("a key stops or begins to seal in a warm process, without a refresh", () => {
  it("past the maximum sealing age, to the millisecond (5.5)", async () => {
    const { ring, advance } = openFixture({ rotationPeriodMs: MINUTE, maxSealingAgeMs: 2 * MINUTE });
    const key = await ring.current();
    advance(2 * MINUTE - 1);
    await ring.refresh();
    advance(1);
    expect(ring.currentIfWarm()).toBe(key);
    advance(1);
    expect(ring.currentIfWarm()).toBeUndefined();
    expect(ring.byIdIfWarm(key.keyIdBytes)).toBe(key);
    expect((await ring.current()).keyId).not.toBe(key.keyId);
  });

  it("once two refresh intervals have passed without a second copy, not one (5.4)", async () => {
    const { ring, store, advance } = openFixture();
    store.durable = false;
    expect(await codeThrown(ring.current())).toBe("KEY_UNAVAILABLE");
    advance(MINUTE);
    expect(await codeThrown(ring.current())).toBe("KEY_UNAVAILABLE");
    advance(MINUTE - 1);
    expect(await codeThrown(ring.current())).toBe("KEY_UNAVAILABLE");
    const { reads } = store;
    advance(1);
    expect(ring.currentIfWarm()?.keyId).toBe([...store.records.keys()][0]);
    expect(store.reads).toBe(reads);
    expect(store.records.size).toBe(1);
  });

  it("counts those intervals from its time, or from its first sight when that was earlier (5.4)", async () => {
    const { ring, store, advance } = openFixture();
    const first = await ring.current();
    store.durable = false;
    advance(1);
    const second = await ring.publish({ delayMs: MINUTE });
    advance(MINUTE);
    await ring.refresh();
    expect(ring.currentIfWarm()).toBe(first);
    advance(MINUTE - 1);
    expect(ring.currentIfWarm()).toBe(first);
    advance(1);
    expect(ring.currentIfWarm()?.keyId).toBe(second);
    // A process that comes later need not wait again.
    const other = openFixture().process({ store, clock: () => START + 2 * MINUTE + 1, kms: fakeKms() });
    await other.refresh();
    expect(other.status().map(({ keyId }) => keyId)).toContain(second);
  });
});

it("a record that was confirmed and then written anew by somebody has to be confirmed again (5.4)", async () => {
  const { ring, store, stored } = openFixture();
  const { keyId } = await ring.current();
  const writes = store.writes;
  await ring.refresh();
  expect(store.writes).toBe(writes);
  const record = stored(keyId);
  overwrite(
    store,
    { keyId },
    encodeRecord({ ...record, wraps: [...record.wraps, { kms: "x", wrapped: Uint8Array.of(1) }] }),
  );
  await ring.refresh();
  expect(store.writes).toBe(writes + 1);
  expect(stored(keyId).wraps).toHaveLength(2);
});
