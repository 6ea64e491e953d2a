/** What a ring does by itself, in virtual time: rotation ahead, reading, re-checks, revocation and retirement (format 5.3 to 5.6). */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { describe, expect, it } from "vitest";
import { fromBase64url } from "../src/bytes.js";
import { decodeRecord, encodeRecord, type KeyRecord, keyIdOf, RecordState } from "../src/data-key.js";
import type { DiagnosticEvent } from "../src/diagnostics.js";
import type { EnvelopeStore } from "../src/envelope-store.js";
import { KmsError, SealedSessionError } from "../src/errors.js";
import type { KeyRing, KeyRingOptions } from "../src/key-ring.js";
import type { Kms } from "../src/kms.js";
import { encryptionContext } from "../src/kms-set.js";
import { memoryStore } from "../src/memory-store.js";
import { Sealer } from "../src/sealer.js";
import { storedIdOf } from "../src/session-id.js";
import { SessionStore } from "../src/session-store.js";
import { fakeKms } from "./support/fake-kms.js";
import { codeThrown, HOUR, MINUTE, START } from "./support/fixture.js";
import { collectEvents, held, sealingKeyId } from "./support/open-fixture.js";
import { fillWithJunk } from "./support/open-ring-store.js";
import {
  callsOf,
  fillRing,
  kmsWith,
  type Publication,
  pseudoRandom,
  readyProcesses,
  type VirtualTime,
  type VirtualWorld,
  virtualWorld,
  warmProcess,
} from "./support/virtual-process.js";

const SECOND = 1000;
const DAY = 24 * HOUR;
const events = collectEvents();
const never = () => new Promise<never>(() => {});
const idBytes = (keyId: string) => fromBase64url(keyId) as Uint8Array;
const eventsOf = <T extends DiagnosticEvent["type"]>(type: T) =>
  events.filter((event): event is Extract<DiagnosticEvent, { type: T }> => event.type === type);
const keyIdsOf = (type: "key-denied" | "key-suspended") =>
  eventsOf(type)
    .map((event) => event.keyId)
    .sort();

describe("the next key", () => {
  it.each([
    ["that draw the longest pauses", (target: Uint8Array) => void target.fill(0)],
    ["that draw the shortest pauses", (target: Uint8Array) => void target.fill(0xff)],
    ["that draw any", pseudoRandom(7)],
  ])(
    "is published three to four refresh intervals ahead, in time to follow to the millisecond, by processes %s",
    async (_, random) => {
      const world = virtualWorld();
      await readyProcesses(world, 1, { random });
      // Nobody asks for a key: the ring's timer alone does it.
      await world.time.advance(2 * DAY);
      expect(world.publications.map(({ activatesAt }) => activatesAt)).toEqual([START, START + DAY, START + 2 * DAY]);
      for (const { at, activatesAt } of world.publications.slice(1)) {
        expect(activatesAt - at).toBeGreaterThan(3 * MINUTE - 1);
        expect(activatesAt - at).toBeLessThanOrEqual(4 * MINUTE);
      }
    },
  );

  it("lies two refresh intervals ahead also where these are as long as they may be", async () => {
    const world = virtualWorld({ rotationPeriodMs: HOUR, refreshIntervalMs: 15 * MINUTE });
    await readyProcesses(world, 2);
    await world.time.advance(DAY);
    expect(world.publications.length).toBeGreaterThan(18);
    for (const [index, { at, activatesAt }] of world.publications.entries()) {
      if (index === 0) continue;
      expect(activatesAt - at).toBe(30 * MINUTE);
      const { activatesAt: before } = world.publications[index - 1] as { activatesAt: number };
      expect(activatesAt - before).toBeGreaterThanOrEqual(HOUR);
      expect(activatesAt - before).toBeLessThanOrEqual(HOUR + 15 * MINUTE);
    }
  });

  it("lies two refresh intervals ahead also when nobody ran in the hour before, and is then late", async () => {
    const world = virtualWorld();
    (await readyProcesses(world, 1))[0]?.close();
    await world.time.advance(DAY - 30 * SECOND);
    await readyProcesses(world, 1);
    await world.time.advance(MINUTE);
    const [, next] = world.publications;
    expect(next?.activatesAt).toBe((next?.at as number) + 2 * MINUTE);
  });

  it("has been opened by every process before it seals: at its time none of them asks for anything", async () => {
    const world = virtualWorld();
    const { time, kms, store, publications } = world;
    const rings = await readyProcesses(world, 3);
    await time.advance(DAY - 1);
    const [first, next] = publications as [Publication, Publication];
    const asked = () => ({ ...kms.calls, reads: store.reads, writes: store.writes });
    const before = asked();
    for (const ring of rings) expect(ring.currentIfWarm()?.keyId).toBe(first.keyId);
    time.set(START + DAY);
    for (const ring of rings) {
      expect(ring.currentIfWarm()?.keyId).toBe(next.keyId);
      expect(ring.byIdIfWarm(idBytes(first.keyId))).toBeDefined();
    }
    expect(asked()).toEqual(before);
  });

  it("is published by one of several, and the others that made one at the same moment take it", async () => {
    const world = virtualWorld({ random: (target) => void target.fill(0) });
    const { time, kms, store } = world;
    let asked = 0;
    const all = held();
    // The first key is there: from now on each answer waits until all three have asked.
    const generate: Kms["generate"] = async (...args) => {
      if (store.records.size === 0) return kms.generate(...args);
      if (++asked === 3) all.release();
      await all.promise;
      return kms.generate(...args);
    };
    const rings = await readyProcesses(world, 3, { kms: kmsWith(kms, { generate }) });
    await time.advance(DAY);
    expect(asked).toBe(3);
    expect(store.records.size).toBe(2);
    expect(eventsOf("key-published").map(({ activatesAt }) => activatesAt)).toEqual([START, START + DAY]);
    expect(rings.map(sealingKeyId)).toEqual(rings.map(() => world.publications[1]?.keyId));
    expect(eventsOf("ring-rotation-failed")).toEqual([]);
  });

  it("is not made by a process that finds it only when it is about to", async () => {
    const world = virtualWorld();
    const { time, kms, store } = world;
    let other: KeyRing | undefined;
    const dueAt = START + DAY - 4 * MINUTE;
    let reads = 0;
    const { read } = store;
    await readyProcesses(world, 1, {
      store: {
        ...store,
        async read(name) {
          // Between the read that finds the next key to be due and the one before it is made.
          if (time.now() >= dueAt && ++reads === 2) await other?.publish({ delayMs: START + DAY - time.now() });
          return read(name);
        },
      },
    });
    [other] = await readyProcesses(world, 1, { rotation: "manual" });
    kms.calls.generate = 0;
    await time.advance(DAY);
    expect(reads).toBeGreaterThan(2);
    expect(kms.calls.generate).toBe(1);
    expect(store.records.size).toBe(2);
  });

  it("is made by one process of three as a rule", async () => {
    const world = virtualWorld({ rotationPeriodMs: 2 * HOUR, refreshIntervalMs: 2 * MINUTE });
    const rings = await readyProcesses(world, 3);
    await world.time.advance(DAY);
    expect(world.publications).toHaveLength(13);
    expect(world.kms.calls.generate).toBe(13);
    expect(new Set(rings.map(sealingKeyId)).size).toBe(1);
  });

  it("is nobody's matter where rotation is manual, and neither is the first; a key that somebody publishes is taken", async () => {
    const world = virtualWorld({ rotation: "manual" });
    const { time, kms, store } = world;
    const ring = world.process();
    expect(await codeThrown(ring.ready())).toBe("KEY_UNAVAILABLE");
    await time.advance(2 * DAY);
    expect(kms.calls.generate).toBe(0);
    const job = world.process();
    const keyId = await job.publish({ delayMs: 0 });
    job.close();
    await time.advance(MINUTE);
    expect((await ring.current()).keyId).toBe(keyId);
    await time.advance(2 * DAY);
    expect(await codeThrown(ring.current())).toBe("KEY_UNAVAILABLE");
    expect([...store.records.keys()]).toEqual([keyId]);
    expect(kms.calls.generate).toBe(1);
  });

  it.each([
    ["gives no answer to any call", "KMS_UNREACHABLE"],
    ["is throttled", "KMS_THROTTLED"],
    ["opens keys and makes none", "KMS_DENIED"],
  ] as const)(
    "waits for a KMS that %s: the old one seals on, and it comes within minutes once the KMS is back",
    async (_, code) => {
      const world = virtualWorld();
      const { time, kms, publications } = world;
      let makesNone = false;
      const generate: Kms["generate"] = (...args) =>
        makesNone ? Promise.reject(new KmsError(code, "no permission", { kms: "fake" })) : kms.generate(...args);
      const [ring] = (await readyProcesses(world, 1, { kms: kmsWith(kms, { generate }) })) as [KeyRing];
      await time.advance(DAY - HOUR);
      makesNone = true;
      if (code !== "KMS_DENIED") kms.failWith = code;
      await time.advance(3 * HOUR);
      expect(publications).toHaveLength(1);
      expect(ring.currentIfWarm()?.keyId).toBe(publications[0]?.keyId);
      expect(new Sealer({ ring }).sealSync("content", "id").length).toBeGreaterThan(0);
      // At each refresh: about 140 times in 124 minutes.
      expect(eventsOf("ring-rotation-failed").length).toBeGreaterThan(120);
      expect(eventsOf("ring-rotation-failed")[0]).toMatchObject({ ring: "web", code: "KEY_UNAVAILABLE" });
      makesNone = false;
      kms.failWith = undefined;
      // One pause of the circuit breaker, and one refresh.
      await time.advance(2 * MINUTE + 15 * SECOND);
      const [, next] = publications as [Publication, Publication];
      expect(next.activatesAt).toBe(next.at + 2 * MINUTE);
      await time.advance(2 * MINUTE);
      expect(ring.currentIfWarm()?.keyId).toBe(next.keyId);
    },
  );

  it.each([1, -1])("is not published by a clock that is off by more than a refresh interval (%i ms)", async (sign) => {
    const world = virtualWorld();
    const { time, publications } = world;
    (await readyProcesses(world, 1))[0]?.close();
    await time.advance(HOUR);
    let skewMs = sign * (MINUTE + 1);
    const [ring] = (await readyProcesses(world, 1, { clock: () => time.now() + skewMs })) as [KeyRing];
    await time.advance(DAY);
    expect(publications).toHaveLength(1);
    expect(ring.currentIfWarm()?.keyId).toBe(publications[0]?.keyId);
    expect(eventsOf("ring-rotation-failed").length).toBeGreaterThan(60);
    expect(new Set(eventsOf("ring-rotation-failed").map(({ code }) => code))).toEqual(new Set(["CLOCK_SKEW"]));
    skewMs = sign * MINUTE;
    await time.advance(MINUTE);
    expect(publications).toHaveLength(2);
  });

  it("that nobody can open is tried again ever more rarely: the pauses double, and the ring does not fill", async () => {
    const world = virtualWorld();
    const { time, kms, publications } = world;
    const openable = new Set<string>();
    let denied = true;
    const unwrap: Kms["unwrap"] = (wrapped, ...args) => {
      if (openable.size === 0) openable.add(String(wrapped));
      if (!denied || openable.has(String(wrapped))) return kms.unwrap(wrapped, ...args);
      return Promise.reject(new KmsError("KMS_DENIED", "no permission", { kms: "fake" }));
    };
    const [ring, other] = (await readyProcesses(world, 2, { kms: kmsWith(kms, { unwrap }) })) as [KeyRing, KeyRing];
    other.close();
    await time.advance(2 * DAY - MINUTE);
    const pauses = publications.slice(2).map(({ at }, i) => (at - (publications[i + 1] as { at: number }).at) / MINUTE);
    expect(pauses.length).toBeGreaterThan(8);
    expect(pauses.length).toBeLessThan(12);
    for (const [i, pause] of pauses.entries()) {
      expect(pause).toBeGreaterThanOrEqual(2 ** i);
      expect(pause).toBeLessThanOrEqual(2 ** i + 1);
    }
    expect(ring.currentIfWarm()?.keyId).toBe(publications[0]?.keyId);
    // The permission is given: none more is needed.
    denied = false;
    const published = publications.length;
    await time.advance(6 * MINUTE);
    expect(ring.currentIfWarm()?.keyId).toBe(publications.at(-1)?.keyId);
    expect(publications).toHaveLength(published);
  });
});

it("the first key is asked for ever more rarely of a KMS that denies it, however many requests come", async () => {
  const { time, kms, store, process } = virtualWorld();
  const ring = process();
  kms.failWith = "KMS_DENIED";
  for (let tenth = 0; tenth < 3000; tenth++) {
    const codes = await Promise.all(Array.from({ length: 5 }, () => codeThrown(ring.current())));
    expect(new Set(codes)).toEqual(new Set(["KEY_UNAVAILABLE"]));
    await time.advance(100);
  }
  // The pauses double from a 60th of the refresh interval to half of it.
  expect(kms.calls.generate).toBeGreaterThan(10);
  expect(kms.calls.generate).toBeLessThan(20);
  // The ring is read five times at once, and then each 60th of the refresh interval.
  expect(store.reads).toBeLessThan(360);
  kms.failWith = undefined;
  await time.advance(31 * SECOND);
  expect((await ring.current()).keyId).toHaveLength(16);
});

describe("a ring's timers", () => {
  /** Deadlines are cancelled once what they are for has ended. */
  const delaysOf = ({ time }: VirtualWorld) =>
    time.timers.filter(({ state }) => state !== "cancelled").map(({ delayMs }) => delayMs);

  it("are none before the ring is first asked", async () => {
    const { time, store, process } = virtualWorld();
    const ring = process();
    expect(ring.currentIfWarm()).toBeUndefined();
    expect(ring.byIdIfWarm(new Uint8Array(12))).toBeUndefined();
    expect(ring.status()).toEqual([]);
    await time.advance(HOUR);
    expect(time.timers).toEqual([]);
    expect(store.reads).toBe(0);
  });

  it.each([
    ["current", (ring: KeyRing) => ring.current()],
    ["byId", (ring: KeyRing) => codeThrown(ring.byId(new Uint8Array(12)))],
    ["refresh", (ring: KeyRing) => ring.refresh()],
    ["publish", (ring: KeyRing) => ring.publish({ delayMs: 0 })],
    ["revoke", (ring: KeyRing) => ring.revoke("A".repeat(16)).catch(() => {})],
  ])("run once the ring was read, by %s for example", async (_, use) => {
    const world = virtualWorld();
    await use(world.process());
    const { reads } = world.store;
    await world.time.advance(10 * MINUTE);
    expect(world.store.reads - reads).toBeGreaterThanOrEqual(10);
  });

  it("run also when the first read has failed", async () => {
    const { time, store, process } = virtualWorld();
    const ring = process();
    store.down = true;
    const error = await ring.ready().catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "KEY_UNAVAILABLE", cause: { code: "STORE_UNAVAILABLE" } });
    store.down = false;
    await time.advance(MINUTE);
    expect(store.reads).toBe(2);
  });

  it("have it read every refresh interval, up to a quarter sooner, never at the same pace", async () => {
    const world = virtualWorld();
    const reads: number[] = [];
    const { read } = world.store;
    world.store.read = (ring) => {
      reads.push(world.time.now());
      return read(ring);
    };
    await world.process({ refreshIntervalMs: 20 * SECOND }).refresh();
    await world.time.advance(HOUR);
    const pauses = reads.slice(1).map((at, i) => at - (reads[i] as number));
    expect(pauses.length).toBeGreaterThan(180);
    expect(Math.min(...pauses)).toBeGreaterThanOrEqual(15 * SECOND);
    expect(Math.min(...pauses)).toBeLessThan(15.5 * SECOND);
    expect(Math.max(...pauses)).toBeLessThanOrEqual(20 * SECOND);
    expect(Math.max(...pauses)).toBeGreaterThan(19.5 * SECOND);
  });

  it.each([
    [0x00, MINUTE],
    [0x40, 56_250],
    [0x80, 52_500],
    [0xff, 45_001],
  ])("draw their jitter from `random`: bytes of %i make %i ms of a minute", async (byte, delayMs) => {
    const world = virtualWorld();
    // The drawn 32 bits are the byte and three zeros, but for the last, which is as high as they get.
    await world.process({ random: (target) => target.fill(byte === 0xff ? byte : 0).set([byte]) }).refresh();
    await world.time.advance(5 * MINUTE);
    expect(new Set(delaysOf(world))).toEqual(new Set([delayMs]));
  });

  it("do not have a slow store read again while it is being read", async () => {
    const { time, store, process } = virtualWorld();
    const ring = process({ refreshIntervalMs: SECOND });
    await ring.ready();
    const gate = held();
    const { read } = store;
    store.read = async (name) => {
      const records = await read(name);
      await gate.promise;
      return records;
    };
    const { reads } = store;
    await time.advance(25 * SECOND);
    expect(store.reads).toBe(reads + 1);
    gate.release();
    await time.advance(SECOND);
    expect(store.reads).toBe(reads + 2);
  });

  it("also end the wait for a store that never answers, after half a minute, and it is read again", async () => {
    const { time, store, process } = virtualWorld();
    const ring = process();
    await ring.ready();
    const { read } = store;
    store.read = never;
    await time.advance(MINUTE);
    const refreshed = codeThrown(ring.refresh());
    await time.advance(30 * SECOND);
    expect(await refreshed).toBe("KEY_UNAVAILABLE");
    expect(eventsOf("ring-refresh-failed")[0]).toEqual({
      type: "ring-refresh-failed",
      ring: "web",
      code: "STORE_UNAVAILABLE",
    });
    expect(ring.currentIfWarm()).toBeDefined();
    store.read = read;
    const { reads } = store;
    await time.advance(2 * MINUTE);
    expect(store.reads).toBeGreaterThan(reads);
  });

  it("are none after close(), also when it is closed in the midst of reading", async () => {
    const world = virtualWorld();
    const { time, store } = world;
    const [ring, busy] = (await readyProcesses(world, 2)) as [KeyRing, KeyRing];
    const gate = held();
    const { read } = store;
    ring.close();
    expect(time.timers.filter(({ state }) => state === "waits")).toHaveLength(1);
    store.read = async (name) => {
      await gate.promise;
      return read(name);
    };
    await time.advance(MINUTE);
    busy.close();
    const { reads } = store;
    const { length } = time.timers;
    gate.release();
    await time.advance(HOUR);
    expect(store.reads).toBe(reads + 1);
    expect(time.timers).toHaveLength(length);
  });

  it("end at close() also for whoever waits to look for an unknown key: the store is not read any more", async () => {
    const { time, store, process } = virtualWorld();
    const ring = process();
    await ring.ready();
    await time.advance(2 * MINUTE);
    const calls = [1, 2, 3, 4, 5, 6].map((n) => () => codeThrown(ring.byId(new Uint8Array(12).fill(n))));
    const last = calls.pop() as () => Promise<unknown>;
    for (const call of calls) expect(await call()).toBe("ENVELOPE_REJECTED");
    const waiting = last();
    await time.advance(1);
    const { reads } = store;
    ring.close();
    expect(await time.until(waiting)).toBe("CLOSED");
    expect(store.reads).toBe(reads);
  });

  it("also end the calls to a KMS that hangs, after kmsTimeoutMs, and are cancelled when it answers", async () => {
    const world = virtualWorld({ kmsTimeoutMs: 1234 });
    const { time, kms } = world;
    await readyProcesses(world, 1);
    const deadlines = () => time.timers.filter(({ delayMs }) => delayMs === 1234).map(({ state }) => state);
    expect(deadlines()).toEqual(["cancelled", "cancelled"]);
    kms.gate = never();
    const cold = codeThrown(
      world
        .process()
        .refresh()
        .then(() => world.process().ready()),
    );
    await time.advance(1233);
    expect(eventsOf("kms-failed")).toEqual([]);
    await time.advance(1);
    expect(eventsOf("kms-failed")).toEqual([{ type: "kms-failed", ring: "web", kms: "fake", code: "KMS_UNREACHABLE" }]);
    expect(await time.until(cold)).toBe("KEY_UNAVAILABLE");
  });

  it("do not hold a process open by default", async () => {
    const from = (path: string) => JSON.stringify(new URL(path, import.meta.url).href);
    const program = `
      const { KeyRing } = await import(${from("../src/key-ring.ts")});
      const { memoryKeyRingStore } = await import(${from("../src/key-ring-store.ts")});
      const { fakeKms } = await import(${from("./support/fake-kms.ts")});
      const ring = new KeyRing({ name: "web", kms: fakeKms(), store: memoryKeyRingStore() });
      await ring.ready();
      process.stdout.write(ring.status()[0].state);`;
    const args = ["--import", "tsx", "--input-type=module", "--eval", program];
    // A minute less than the ring's timer: whoever waits for that is ended, and the call rejects.
    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 40 * SECOND });
    expect(stdout).toBe("current");
  });
});

describe("looking for a key that this process does not know", () => {
  /** An id that no key has. */
  const junkId = (n: number) => Uint8Array.of(...new Uint8Array(8), n >>> 24, n >>> 16, n >>> 8, n);

  /** A process that is sent unknown ids, and when it has read the ring since it was ready. */
  async function flooded() {
    const world = virtualWorld();
    const { time, store } = world;
    const [ring] = (await readyProcesses(world, 1)) as [KeyRing];
    // No longer one that has just started, and its timer has just run.
    await time.advance(2 * MINUTE);
    for (const { reads } = store; store.reads === reads; ) await time.advance(100);
    const readsAt: number[] = [];
    const { read } = store;
    store.read = (name) => {
      readsAt.push(time.now());
      return read(name);
    };
    const codes = new Map<unknown, number>();
    let sent = 0;
    /** Sends so many ids each second, for as long as the ring's own timer does not read. */
    const flood = async (perSecond: number, seconds: number, meanwhile = async () => {}) => {
      for (let tenth = 0; tenth < 10 * seconds; tenth++) {
        for (let i = 0; i < perSecond / 10; i++) {
          void codeThrown(ring.byId(junkId(sent++))).then((code) => codes.set(code, (codes.get(code) ?? 0) + 1));
        }
        await meanwhile();
        await time.advance(100);
      }
    };
    return { ...world, ring, readsAt, codes, flood, sent: () => sent };
  }

  it.each([10, 1000])(
    "makes five reloads at once and then one each 60th of the refresh interval, for %i unknown ids per second",
    async (perSecond) => {
      const { readsAt, codes, flood, sent, time } = await flooded();
      await flood(perSecond, 40);
      expect(readsAt.length).toBeGreaterThanOrEqual(43);
      expect(readsAt.length).toBeLessThanOrEqual(45);
      // The sixth comes a 60th after the first, when that is given back.
      for (let i = 6; i < readsAt.length; i++) {
        expect((readsAt[i] as number) - (readsAt[i - 1] as number)).toBeGreaterThanOrEqual(SECOND);
      }
      await time.advance(SECOND);
      expect(codes).toEqual(new Map([["ENVELOPE_REJECTED", sent()]]));
    },
  );

  it("allows five at once again after a while without", async () => {
    const { ring, readsAt, flood, time } = await flooded();
    await flood(10, 10);
    await time.advance(5 * SECOND);
    const before = readsAt.length;
    for (const n of [1, 2, 3, 4, 5]) expect(await codeThrown(ring.byId(junkId(2 ** 31 + n)))).toBe("ENVELOPE_REJECTED");
    expect(readsAt.length).toBe(before + 5);
    const sixth = codeThrown(ring.byId(junkId(2 ** 31)));
    await time.advance(SECOND - 1);
    expect(readsAt.length).toBe(before + 5);
    expect(await time.until(sixth)).toBe("ENVELOPE_REJECTED");
  });

  it("makes one reload for all who ask at once", async () => {
    const { ring, readsAt } = await flooded();
    const codes = await Promise.all(Array.from({ length: 500 }, (_, n) => codeThrown(ring.byId(junkId(n)))));
    expect(new Set(codes)).toEqual(new Set(["ENVELOPE_REJECTED"]));
    expect(readsAt).toHaveLength(1);
  });

  it.each([1000, 5000])(
    "finds one that another process has just published within a 60th of the refresh interval, among %i unknown ids per second",
    async (perSecond) => {
      const world = await flooded();
      const { ring, time, flood, process } = world;
      const other = process();
      await other.ready();
      await flood(perSecond, 10);
      const keyId = await other.publish({ delayMs: 0 });
      const publishedAt = time.now();
      let foundAfterMs = Number.POSITIVE_INFINITY;
      const found = ring.byId(idBytes(keyId)).then((key) => {
        foundAfterMs = time.now() - publishedAt;
        return key.keyId;
      });
      found.catch(() => {});
      await flood(perSecond, 2);
      expect(await found).toBe(keyId);
      expect(foundAfterMs).toBeLessThanOrEqual(SECOND);
    },
  );

  it("finds one that was published while a reload was under way", async () => {
    const { ring, store, process, time } = await flooded();
    const other = process();
    await other.ready();
    const gate = held();
    const { read } = store;
    store.read = async (name) => {
      const records = await read(name);
      await gate.promise;
      return records;
    };
    const junk = codeThrown(ring.byId(junkId(1)));
    await time.advance(1);
    store.read = read;
    const keyId = await other.publish({ delayMs: 0 });
    const found = ring.byId(idBytes(keyId));
    gate.release();
    expect((await time.until(found)).keyId).toBe(keyId);
    expect(await junk).toBe("ENVELOPE_REJECTED");
  });

  it("never asks the KMS for an unknown id, nor for other records that lie there", async () => {
    const { kms, store, flood } = await flooded();
    fillWithJunk(store, 100, START);
    const before = { ...kms.calls };
    await flood(100, 40);
    expect(kms.calls).toEqual(before);
  });

  it("does not keep a key that is known from being found at once", async () => {
    const { ring, readsAt, flood } = await flooded();
    const key = await ring.current();
    await flood(1000, 10, async () => {
      const before = readsAt.length;
      expect(await ring.byId(key.keyIdBytes)).toBe(key);
      expect(readsAt.length - before).toBeLessThanOrEqual(1);
    });
  });
});

describe("the re-check", () => {
  it("asks the KMS once within recheckIntervalMs, however many keys there are", async () => {
    const { time, kms } = await warmProcess();
    const asked = [time.now()];
    const { unwrap } = kms;
    kms.unwrap = (...args) => {
      asked.push(time.now());
      return unwrap(...args);
    };
    await time.advance(10 * HOUR);
    const pauses = asked.slice(1).map((at, i) => at - (asked[i] as number));
    expect(Math.max(...pauses)).toBeLessThanOrEqual(5 * MINUTE);
    expect(pauses.length).toBeGreaterThanOrEqual(120);
    expect(pauses.length).toBeLessThanOrEqual(150);
  });

  it("is made at each refresh where recheckIntervalMs is one refresh interval", async () => {
    const { time, kms, store } = await warmProcess({ recheckIntervalMs: MINUTE });
    callsOf(kms);
    store.reads = 0;
    await time.advance(HOUR);
    expect(store.reads).toBeGreaterThanOrEqual(60);
    expect(callsOf(kms).unwrap).toBe(store.reads);
  });

  it.each(["KMS_DENIED", "KMS_DISABLED"] as const)(
    "that is answered with %s takes all keys from the process within that time, by one call, and ends their sessions",
    async (code) => {
      const { time, kms, ring, ids, sealsAndOpens } = await warmProcess();
      const sessions = new SessionStore({ ring, store: memoryStore({ clock: time.now }) });
      const sessionId = await sessions.create({ user_id: 1 });
      const key = await ring.current();
      callsOf(kms);
      kms.failWith = code;
      await time.advance(5 * MINUTE);
      expect(callsOf(kms)).toEqual({ generate: 0, wrap: 0, unwrap: 1 });
      expect(keyIdsOf("key-denied")).toEqual([...ids].sort());
      expect(eventsOf("key-denied")[0]).toEqual({
        type: "key-denied",
        ring: "web",
        keyId: expect.any(String),
        kms: "fake",
      });
      expect(await codeThrown(() => key.nextSender())).toBe("KEY_UNAVAILABLE");
      expect(new Set(ring.status().map(({ state }) => state))).toEqual(new Set(["denied"]));
      expect(await sealsAndOpens()).toEqual(["KEY_UNAVAILABLE", "KEY_DENIED"]);
      expect(await ring.current().catch((error: unknown) => error)).toMatchObject({ cause: { code } });
      expect(await ring.byId(key.keyIdBytes).catch((error: unknown) => error)).toMatchObject({ cause: { code } });
      expect(await sessions.get(sessionId)).toBeUndefined();
      expect(eventsOf("session-dropped")).toEqual([{ type: "session-dropped", code: "KEY_DENIED" }]);
    },
  );

  it("that is allowed again gives the keys back within five refresh intervals, without a request", async () => {
    const { time, kms, currentId, ids, ring, sealsAndOpens } = await warmProcess();
    kms.failWith = "KMS_DENIED";
    await time.advance(HOUR);
    expect(ring.currentIfWarm()).toBeUndefined();
    kms.failWith = undefined;
    await time.advance(6 * MINUTE);
    expect(ring.currentIfWarm()?.keyId).toBe(currentId);
    for (const id of ids) expect((await ring.byId(idBytes(id))).keyId).toBe(id);
    expect(ring.status().map(({ state }) => state)).not.toContain("denied");
    callsOf(kms);
    expect(await sealsAndOpens()).toEqual([currentId, "old"]);
    expect(callsOf(kms).unwrap).toBe(0);
  });

  it.each(["KMS_UNREACHABLE", "KMS_THROTTLED"] as const)(
    "that gets no answer (%s) takes nothing until outageLimitMs after the last one; then nothing seals or opens",
    async (code) => {
      const { time, kms, ring, ids, currentId, sealsAndOpens } = await warmProcess();
      const key = await ring.current();
      kms.failWith = code;
      await time.advance(6 * HOUR - MINUTE);
      expect(await sealsAndOpens()).toEqual([currentId, "old"]);
      expect(eventsOf("key-suspended")).toEqual([]);
      // No request comes: the ring's timer sees to it.
      await time.advance(2 * MINUTE);
      expect(keyIdsOf("key-suspended")).toEqual([...ids].sort());
      expect(await codeThrown(() => key.nextSender())).toBe("KEY_UNAVAILABLE");
      expect(new Set(ring.status().map(({ state }) => state))).toEqual(new Set(["unverified"]));
      expect(await sealsAndOpens()).toEqual(["KEY_UNAVAILABLE", "KEY_UNAVAILABLE"]);
      expect(await codeThrown(ring.byId(key.keyIdBytes))).toBe("KEY_UNAVAILABLE");
      expect(eventsOf("key-denied")).toEqual([]);
      // One pause of the circuit breaker, and one refresh.
      kms.failWith = undefined;
      await time.advance(2 * MINUTE + 15 * SECOND);
      expect(ring.currentIfWarm()?.keyId).toBe(currentId);
      expect(await sealsAndOpens()).toEqual([currentId, "old"]);
    },
  );

  describe.each([
    ["while timers run", (time: VirtualTime, ms: number) => time.advance(ms)],
    ["after a time in which none ran", async (time: VirtualTime, ms: number) => time.set(time.now() + ms)],
  ])("that gets no answer %s", (_, pass) => {
    it.each(["currentIfWarm", "byIdIfWarm", "current", "byId"] as const)(
      "lets %s have a key until outageLimitMs is over, to the millisecond",
      async (method) => {
        // Where timers run there is one re-check meanwhile, in vain.
        const { time, kms, ring } = await warmProcess({ refreshIntervalMs: 6 * HOUR, recheckIntervalMs: 6 * HOUR });
        const { keyIdBytes } = await ring.current();
        kms.failWith = "KMS_UNREACHABLE";
        const isThere = async () => {
          const found = await Promise.resolve(ring[method](keyIdBytes)).catch(() => undefined);
          return found !== undefined;
        };
        await pass(time, 6 * HOUR - 1);
        expect(await isThere()).toBe(true);
        time.set(time.now() + 1);
        expect(await isThere()).toBe(false);
      },
    );
  });

  it("comes first when no timer ran for longer than outageLimitMs: a KMS that answers is no outage", async () => {
    const { time, ring, currentId } = await warmProcess();
    time.set(time.now() + 10 * HOUR);
    expect((await ring.current()).keyId).toBe(currentId);
    expect(ring.currentIfWarm()?.keyId).toBe(currentId);
    expect(eventsOf("key-suspended")).toEqual([]);
  });

  it("comes first when no timer ran for longer than outageLimitMs: while it is under way nothing is suspended", async () => {
    const { time, kms, ring, currentId } = await warmProcess();
    const { keyIdBytes } = await ring.current();
    const gate = held();
    kms.gate = gate.promise;
    time.set(time.now() + 10 * HOUR);
    const current = ring.current();
    await time.advance(1);
    for (let i = 0; i < 3; i++) ring.byIdIfWarm(keyIdBytes);
    gate.release();
    expect((await current).keyId).toBe(currentId);
    expect(eventsOf("key-suspended")).toEqual([]);
  });

  it.each(["KMS_UNREACHABLE", "KMS_DENIED"] as const)(
    "comes first when no timer ran for longer than outageLimitMs: with %s nothing is sealed",
    async (code) => {
      const { time, ring, kms } = await warmProcess();
      kms.failWith = code;
      time.set(time.now() + 10 * HOUR);
      expect(ring.currentIfWarm()).toBeUndefined();
      expect(await codeThrown(ring.current())).toBe("KEY_UNAVAILABLE");
    },
  );

  it.each([
    ["other bytes", () => crypto.getRandomValues(new Uint8Array(32))],
    ["too few bytes", () => new Uint8Array(16)],
  ])("that is answered with a wrong key (%s) counts as not answered", async (_, make) => {
    const { time, kms, sealsAndOpens, currentId } = await warmProcess();
    const { unwrap } = kms;
    kms.unwrap = async () => make();
    await time.advance(6 * HOUR - MINUTE);
    expect(await sealsAndOpens()).toEqual([currentId, "old"]);
    expect(eventsOf("key-denied")).toEqual([]);
    await time.advance(2 * MINUTE);
    expect(eventsOf("key-suspended")).toHaveLength(10);
    kms.unwrap = unwrap;
    await time.advance(6 * MINUTE);
    expect(await sealsAndOpens()).toEqual([currentId, "old"]);
  });
});

describe("the re-check of several KMSs", () => {
  const ofTwo = async () => {
    const [a, b] = [fakeKms("a"), fakeKms("b")];
    return { ...(await warmProcess({ kms: [a, b] })), a, b };
  };

  it("asks only those that have opened keys, once each", async () => {
    const { time, a, b } = await ofTwo();
    callsOf(a);
    callsOf(b);
    await time.advance(5 * MINUTE);
    expect([callsOf(a).unwrap, callsOf(b).unwrap]).toEqual([1, 0]);
  });

  it("leaves keys that one denies and another opens, and asks the other one from then on, once for all keys", async () => {
    const { time, a, b, sealsAndOpens, currentId } = await ofTwo();
    a.failWith = "KMS_DENIED";
    await time.advance(5 * MINUTE);
    expect(await sealsAndOpens()).toEqual([currentId, "old"]);
    callsOf(a);
    callsOf(b);
    await time.advance(5 * MINUTE);
    expect([callsOf(a).unwrap, callsOf(b).unwrap]).toEqual([0, 1]);
    await time.advance(7 * HOUR);
    expect(await sealsAndOpens()).toEqual([currentId, "old"]);
    expect([...eventsOf("key-denied"), ...eventsOf("key-suspended")]).toEqual([]);
  });

  it.each(["KMS_DENIED", "KMS_DISABLED"] as const)("takes keys that both refuse (%s)", async (code) => {
    const { time, a, b, sealsAndOpens } = await ofTwo();
    a.failWith = "KMS_DENIED";
    b.failWith = code;
    await time.advance(5 * MINUTE);
    expect(await sealsAndOpens()).toEqual(["KEY_UNAVAILABLE", "KEY_DENIED"]);
    expect(eventsOf("key-denied")).toHaveLength(10);
  });

  it("takes only the keys that no other one wraps", async () => {
    const [a, b] = [fakeKms("a"), fakeKms("b")];
    const world = virtualWorld({ kms: [a, b] });
    const [ring] = (await readyProcesses(world, 1)) as [KeyRing];
    await world.time.advance(MINUTE);
    b.failWith = "KMS_UNREACHABLE";
    const onlyA = await ring.publish({ delayMs: 0 });
    b.failWith = undefined;
    a.failWith = "KMS_DENIED";
    await world.time.advance(5 * MINUTE);
    expect(eventsOf("key-denied")).toEqual([{ type: "key-denied", ring: "web", keyId: onlyA, kms: "a" }]);
    expect(await codeThrown(ring.byId(idBytes(onlyA)))).toBe("KEY_DENIED");
    expect(ring.currentIfWarm()?.keyId).toBe(world.publications[0]?.keyId);
  });

  it("leaves keys that one denies while the other gives no answer until outageLimitMs, and they come back", async () => {
    const { time, a, b, sealsAndOpens, currentId } = await ofTwo();
    a.failWith = "KMS_DENIED";
    b.failWith = "KMS_UNREACHABLE";
    await time.advance(6 * HOUR - MINUTE);
    expect(await sealsAndOpens()).toEqual([currentId, "old"]);
    await time.advance(2 * MINUTE);
    expect(await sealsAndOpens()).toEqual(["KEY_UNAVAILABLE", "KEY_UNAVAILABLE"]);
    expect(eventsOf("key-suspended")).toHaveLength(10);
    expect(eventsOf("key-denied")).toEqual([]);
    b.failWith = undefined;
    await time.advance(2 * MINUTE + 15 * SECOND);
    expect(await sealsAndOpens()).toEqual([currentId, "old"]);
  });

  it("suspends nothing while one is out and the other says that the keys may be used", async () => {
    const { time, a, b, ring, currentId } = await ofTwo();
    a.failWith = "KMS_UNREACHABLE";
    for (let minute = 0; minute < 8 * 60; minute++) {
      await time.advance(MINUTE);
      expect(ring.currentIfWarm()?.keyId).toBe(currentId);
    }
    expect(eventsOf("key-suspended")).toEqual([]);
    // Until that one is out as well.
    b.failWith = "KMS_UNREACHABLE";
    await time.advance(6 * HOUR + MINUTE);
    expect(eventsOf("key-suspended")).toHaveLength(10);
  });

  it("suspends what the other one denies, once the one that is out was so for outageLimitMs", async () => {
    const { time, a, b, sealsAndOpens } = await ofTwo();
    a.failWith = "KMS_UNREACHABLE";
    b.failWith = "KMS_DENIED";
    await time.advance(6 * HOUR + MINUTE);
    expect(eventsOf("key-denied")).toEqual([]);
    expect(eventsOf("key-suspended")).toHaveLength(10);
    expect(await sealsAndOpens()).toEqual(["KEY_UNAVAILABLE", "KEY_UNAVAILABLE"]);
  });
});

describe("ready()", () => {
  it("publishes the first key in an empty ring, once for processes that start together", async () => {
    const { process, store } = virtualWorld();
    const rings = [process(), process(), process()];
    await Promise.all(rings.map((ring) => ring.ready()));
    expect(store.records.size).toBe(1);
    for (const ring of rings) expect(ring.currentIfWarm()).toBeDefined();
  });

  it("resolves when every key of the ring is opened, be it in several rounds", async () => {
    const world = virtualWorld();
    const ids = await fillRing(world, world.process(), 150);
    callsOf(world.kms);
    const ring = world.process();
    const gate = held();
    world.kms.gate = gate.promise;
    let isReady = false;
    const ready = ring.ready().then(() => {
      isReady = true;
    });
    await world.time.advance(SECOND);
    expect(isReady).toBe(false);
    gate.release();
    await ready;
    for (const id of ids) expect(ring.byIdIfWarm(idBytes(id))).toBeDefined();
    expect(callsOf(world.kms)).toEqual({ generate: 0, wrap: 0, unwrap: 150 });
  });

  it("costs no call once the ring is warm", async () => {
    const { kms, store, ring } = await warmProcess();
    callsOf(kms);
    store.reads = 0;
    for (let i = 0; i < 100; i++) await ring.ready();
    expect(callsOf(kms)).toEqual({ generate: 0, wrap: 0, unwrap: 0 });
    expect(store.reads).toBe(0);
  });

  it.each(["KMS_DENIED", "KMS_DISABLED", "KMS_THROTTLED", "KMS_UNREACHABLE"] as const)(
    "rejects with KEY_UNAVAILABLE and the KMS's error as the cause (%s), in an empty ring and in another; then it heals",
    async (code) => {
      const world = virtualWorld();
      const ring = world.process();
      for (const records of [0, 1]) {
        expect(world.store.records.size).toBe(records);
        world.kms.failWith = code;
        const error = await (records === 0 ? ring : world.process()).ready().catch((thrown: unknown) => thrown);
        expect(error).toBeInstanceOf(SealedSessionError);
        expect(error).toMatchObject({ code: "KEY_UNAVAILABLE", cause: { code, kms: "fake", requestId: "req-1" } });
        world.kms.failWith = undefined;
        await ring.ready();
      }
    },
  );

  it("rejects when one key of several waits for a KMS that gives no answer, and not when it is refused", async () => {
    const world = virtualWorld();
    const { kms } = world;
    await fillRing(world, world.process(), 3);
    const answer = new Map<string, "KMS_THROTTLED" | "KMS_DENIED" | undefined>();
    const unwrap: Kms["unwrap"] = (wrapped, ...args) => {
      const [first = String(wrapped)] = answer.keys();
      if (!answer.has(first)) answer.set(first, "KMS_THROTTLED");
      const code = answer.get(String(wrapped));
      return code === undefined
        ? kms.unwrap(wrapped, ...args)
        : Promise.reject(new KmsError(code, "told to fail", { kms: "fake" }));
    };
    const ring = world.process({ kms: kmsWith(kms, { unwrap }) });
    const error = await ring.ready().catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "KEY_UNAVAILABLE", cause: { code: "KMS_THROTTLED" } });
    const [first] = answer.keys();
    answer.set(first as string, "KMS_DENIED");
    await ring.ready();
    expect(ring.status().filter(({ state }) => state === "unverified")).toHaveLength(1);
  });

  it("waits five refresh intervals for a key of a KMS that is out; then the others have to do", async () => {
    const [a, b] = [fakeKms("a"), fakeKms("b")];
    const world = virtualWorld({ kms: [a, b] });
    a.failWith = "KMS_UNREACHABLE";
    await world.process().ready();
    await world.time.advance(MINUTE);
    // The next key is wrapped by `a` alone, and the one after it by `b` alone.
    a.failWith = undefined;
    b.failWith = "KMS_UNREACHABLE";
    const onlyA = await world.process().publish({ delayMs: 0 });
    await world.time.advance(MINUTE);
    a.failWith = "KMS_UNREACHABLE";
    b.failWith = undefined;
    const onlyB = await world.process().publish({ delayMs: 0 });
    await world.time.advance(1);
    const ring = world.process();
    const error = await ring.ready().catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "KEY_UNAVAILABLE", cause: { code: "KMS_UNREACHABLE", kms: "a" } });
    expect(ring.currentIfWarm()?.keyId).toBe(onlyB);
    await world.time.advance(5 * MINUTE - 1);
    expect(await codeThrown(ring.ready())).toBe("KEY_UNAVAILABLE");
    await world.time.advance(1);
    await ring.ready();
    expect(ring.byIdIfWarm(idBytes(onlyA))).toBeUndefined();
  });

  it("rejects where rotation is manual and no key may seal", async () => {
    const { process, store, time } = virtualWorld();
    expect(await codeThrown(process({ rotation: "manual" }).ready())).toBe("KEY_UNAVAILABLE");
    await process().ready();
    await process({ rotation: "manual" }).ready();
    time.set(START + 2 * DAY + 1);
    expect(await codeThrown(process({ rotation: "manual" }).ready())).toBe("KEY_UNAVAILABLE");
    expect(store.records.size).toBe(1);
  });

  it("rejects with CLOSED once the ring is closed, also while it waits", async () => {
    const { process, kms } = virtualWorld();
    const ring = process();
    const gate = held();
    kms.gate = gate.promise;
    const waiting = codeThrown(ring.ready());
    ring.close();
    gate.release();
    expect(await waiting).toBe("CLOSED");
    expect(await codeThrown(ring.ready())).toBe("CLOSED");
  });

  describe("does not wait for what it cannot have", () => {
    /** A clock that ends what would otherwise never end, and never let the test come to its time-out. */
    const patient = (clock: () => number) => {
      let calls = 0;
      return () => {
        if (++calls > 10_000) throw new Error("the clock was asked again and again");
        return clock();
      };
    };

    it("such as a record that another KMS has wrapped", async () => {
      const world = virtualWorld();
      await world.process({ kms: fakeKms("other") }).ready();
      const ring = world.process({ clock: patient(world.time.now) });
      await ring.publish({ delayMs: 0 });
      await world.time.advance(1);
      await ring.ready();
      expect(
        ring
          .status()
          .map(({ state }) => state)
          .sort(),
      ).toEqual(["current", "unverified"]);
    });

    it("such as an answer about another wrap of a key that it holds", async () => {
      const world = virtualWorld();
      const { kms, store, stored } = world;
      const ring = world.process({ clock: patient(world.time.now) });
      await ring.ready();
      const { keyId } = await ring.current();
      const wraps = [{ kms: "fake", wrapped: Uint8Array.of(1) }];
      store.records.set(keyId, encodeRecord({ ...stored(keyId), wraps }));
      kms.failWith = "KMS_UNREACHABLE";
      await ring.refresh();
      await ring.ready();
      expect(ring.currentIfWarm()?.keyId).toBe(keyId);
    });
  });
});

describe("revoke()", () => {
  it("publishes a replacement first, then writes the state; everything goes on under the replacement", async () => {
    const { store, kms, ring, old, ids, currentId, stored, publications, ...world } = await warmProcess();
    const changes = store.changes.length;
    await ring.revoke(currentId);
    const written = store.changes.slice(changes).map((bytes) => decodeRecord(bytes) as KeyRecord);
    expect(written.map(({ state }) => state)).toEqual([RecordState.enabled, RecordState.revoked]);
    expect(stored(currentId).state).toBe(RecordState.revoked);
    expect(stored(currentId).wraps).toHaveLength(1);
    const replacement = publications.at(-1)?.keyId as string;
    expect(ids).not.toContain(replacement);
    await world.time.advance(1);
    expect(ring.currentIfWarm()?.keyId).toBe(replacement);
    expect(await codeThrown(ring.byId(idBytes(currentId)))).toBe("KEY_REVOKED");
    expect(eventsOf("key-revoked")).toEqual([{ type: "key-revoked", ring: "web", keyId: currentId }]);
    expect(await new Sealer({ ring }).open(old, "id")).toBe("old");
  });

  it.each([
    ["that has sealed before", async ({ ids }: { ids: string[] }) => ids[0] as string],
    ["whose time has not come", async ({ ring }: { ring: KeyRing }) => ring.publish()],
  ])("of a key %s publishes none", async (_, keyOf) => {
    const base = await warmProcess();
    const keyId = await keyOf(base);
    callsOf(base.kms);
    await base.ring.revoke(keyId);
    expect(callsOf(base.kms).generate).toBe(0);
    expect(base.ring.currentIfWarm()?.keyId).toBe(base.currentId);
    expect(await codeThrown(base.ring.byId(idBytes(keyId)))).toBe("KEY_REVOKED");
  });

  it("of the next key has another one published in time", async () => {
    const world = virtualWorld();
    const [ring] = (await readyProcesses(world, 2)) as [KeyRing, KeyRing];
    await world.time.advance(DAY - 3 * MINUTE);
    const [, next] = world.publications as [Publication, Publication];
    await ring.revoke(next.keyId);
    await world.time.advance(4 * MINUTE);
    expect(world.publications).toHaveLength(3);
    expect(ring.currentIfWarm()?.keyId).toBe(world.publications[2]?.keyId);
  });

  it("reaches other processes within a refresh interval: they stop sealing and opening with it", async () => {
    const world = virtualWorld();
    const [ring, other] = (await readyProcesses(world, 2)) as [KeyRing, KeyRing];
    await world.time.advance(HOUR);
    const key = await other.current();
    await ring.revoke(key.keyId);
    await world.time.advance(MINUTE);
    expect(other.currentIfWarm()?.keyId).toBe(ring.currentIfWarm()?.keyId);
    expect(other.currentIfWarm()?.keyId).not.toBe(key.keyId);
    expect(await codeThrown(other.byId(key.keyIdBytes))).toBe("KEY_REVOKED");
    expect(await codeThrown(() => key.nextSender())).toBe("KEY_UNAVAILABLE");
  });

  it("works while the KMS is out: sealing goes back to the key before, and to a new one once the KMS is back", async () => {
    const { time, kms, ring, ids, currentId, stored } = await warmProcess();
    kms.failWith = "KMS_UNREACHABLE";
    await ring.revoke(currentId);
    expect(stored(currentId).state).toBe(RecordState.revoked);
    expect(eventsOf("ring-rotation-failed")).toEqual([
      { type: "ring-rotation-failed", ring: "web", code: "KEY_UNAVAILABLE" },
    ]);
    expect(ring.currentIfWarm()?.keyId).toBe(ids.at(-2));
    kms.failWith = undefined;
    await time.advance(1);
    await ring.revoke(ids.at(-2) as string);
    await time.advance(1);
    expect(ids).not.toContain(ring.currentIfWarm()?.keyId);
  });

  it("of the only key while the KMS is out leaves none that seals until the KMS is back", async () => {
    const world = virtualWorld();
    const [ring] = (await readyProcesses(world, 1)) as [KeyRing];
    const { keyId } = await ring.current();
    world.kms.failWith = "KMS_THROTTLED";
    await ring.revoke(keyId);
    expect(await codeThrown(ring.current())).toBe("KEY_UNAVAILABLE");
    world.kms.failWith = undefined;
    await world.time.advance(2 * MINUTE);
    expect((await ring.current()).keyId).not.toBe(keyId);
  });

  it.each([
    ["too short", "abc", "12 bytes in base64url"],
    ["too long", "A".repeat(17), "12 bytes in base64url"],
    ["no base64url", "AAAAAAAAAAAAAAA=", "12 bytes in base64url"],
    ["empty", "", "12 bytes in base64url"],
    ["no string", 5 as unknown as string, "12 bytes in base64url"],
    ["unknown to the ring", "A".repeat(16), "must name a key of the ring"],
  ])("and retire() refuse a key id that is %s with a RangeError, and write nothing", async (_, keyId, message) => {
    const { ring, store } = await warmProcess();
    const { writes } = store;
    for (const call of [() => ring.revoke(keyId), () => ring.retire(keyId)]) {
      const error = await call().catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(RangeError);
      expect((error as Error).message).toContain(message);
    }
    expect(store.writes).toBe(writes);
    expect(eventsOf("key-revoked")).toEqual([]);
  });

  it("is not undone by processes that hold the record enabled, nor by one that starts", async () => {
    const world = virtualWorld();
    const rings = await readyProcesses(world, 3);
    const { keyId } = await (rings[0] as KeyRing).current();
    await world.time.advance(1);
    await rings[0]?.revoke(keyId);
    const after = world.store.changes.length;
    rings.push(...(await readyProcesses(world, 1)));
    await world.time.advance(10 * MINUTE);
    expect(world.stored(keyId).state).toBe(RecordState.revoked);
    expect(world.store.changes).toHaveLength(after);
    for (const ring of rings) expect(await codeThrown(ring.byId(idBytes(keyId)))).toBe("KEY_REVOKED");
  });

  it("is written again by a process that knows of it, when somebody has taken it back", async () => {
    const world = virtualWorld();
    const rings = await readyProcesses(world, 2);
    const { keyId } = await (rings[0] as KeyRing).current();
    await rings[0]?.revoke(keyId);
    await world.time.advance(MINUTE);
    world.store.records.set(keyId, encodeRecord({ ...world.stored(keyId), state: RecordState.enabled }));
    rings[0]?.close();
    await world.time.advance(MINUTE);
    expect(world.stored(keyId).state).toBe(RecordState.revoked);
    expect(await codeThrown((rings[1] as KeyRing).byId(idBytes(keyId)))).toBe("KEY_REVOKED");
  });

  it("of a key that this process cannot open is written all the same", async () => {
    const { process, store, kms, stored, ids } = await warmProcess();
    kms.failWith = "KMS_DENIED";
    const ring = process();
    await ring.refresh();
    const keyId = ids[3] as string;
    await ring.revoke(keyId);
    expect(stored(keyId).state).toBe(RecordState.revoked);
    expect(store.records.size).toBe(10);
  });

  it("follows the record when somebody else changes it at the same moment", async () => {
    const { ring, store, stored, ids } = await warmProcess();
    const [keyId] = ids as [string];
    const { write } = store;
    let first = true;
    store.write = async (...args) => {
      const [, id] = args;
      if (first && id === keyId) {
        first = false;
        const wraps = [...stored(keyId).wraps, { kms: "other", wrapped: Uint8Array.of(1) }];
        store.records.set(keyId, encodeRecord({ ...stored(keyId), wraps }));
      }
      return write(...args);
    };
    await ring.revoke(keyId);
    expect(stored(keyId).state).toBe(RecordState.revoked);
    expect(stored(keyId).wraps.map(({ kms }) => kms)).toEqual(["fake", "other"]);
  });

  it("that cannot be written rejects with its cause, counts in this process, and no wiped key is handed out", async () => {
    const { ring, store, ids, currentId } = await warmProcess();
    const { write } = store;
    store.write = async () => {
      throw new SealedSessionError("STORE_UNAVAILABLE", "down");
    };
    const error = await ring.revoke(currentId).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "KEY_UNAVAILABLE", cause: { code: "STORE_UNAVAILABLE" } });
    expect(eventsOf("key-revoked")).toEqual([]);
    expect(await codeThrown(ring.byId(idBytes(currentId)))).toBe("KEY_REVOKED");
    expect(ring.currentIfWarm()?.keyId).toBe(ids.at(-2));
    expect(ring.currentIfWarm()?.nextSender().sender).toHaveLength(12);
    store.write = write;
    await ring.revoke(currentId);
    expect(eventsOf("key-revoked")).toHaveLength(1);
  });

  it.each(["revoke", "retire"] as const)("ends with CLOSED once the ring is closed (%s)", async (method) => {
    const { ring, currentId } = await warmProcess();
    ring.close();
    expect(await codeThrown(ring[method](currentId))).toBe("CLOSED");
  });
});

/** Nothing sealed under it is to be found anywhere. */
const nothing = { maxTtlMs: HOUR, count: async () => new Map<string, number>() };

describe("retire()", () => {
  type Warm = Awaited<ReturnType<typeof warmProcess>>;

  it.each([
    ["that seals", async ({ currentId }: Warm) => currentId],
    ["whose time has not come", async ({ ring }: Warm) => ring.publish()],
    [
      "that has stopped sealing, and yet seals in a process that knows nothing of that",
      async ({ ids }: Warm) => ids[0],
    ],
    [
      "at the end of its sealing age, by somebody's clock",
      async ({ ids, time }: Warm) => {
        await time.advance(2 * DAY + MINUTE);
        return ids[0];
      },
    ],
  ])("refuses a key %s with KEY_IN_USE", async (_, keyOf) => {
    const base = await warmProcess();
    base.ring.attach(nothing, {});
    const keyId = (await keyOf(base)) as string;
    expect(await codeThrown(base.ring.retire(keyId))).toBe("KEY_IN_USE");
    expect(base.stored(keyId).state).toBe(RecordState.enabled);
    expect(base.ring.byIdIfWarm(idBytes(keyId))).toBeDefined();
  });

  it("refuses a key under which sessions live, with KEY_IN_USE and their number", async () => {
    const { ring, ids, time, stored } = await warmProcess();
    const [keyId] = ids as [string];
    await time.advance(2 * DAY + 3 * MINUTE);
    let sessions = 2;
    ring.attach(nothing, {});
    ring.attach({ maxTtlMs: HOUR, count: async () => new Map([[keyId, sessions]]) }, {});
    const error = await ring.retire(keyId).catch((thrown: Error) => thrown);
    expect(error).toMatchObject({ code: "KEY_IN_USE", message: expect.stringContaining("2 sessions") });
    sessions = 0;
    expect(stored(keyId).state).toBe(RecordState.enabled);
    await ring.retire(keyId);
    expect(stored(keyId).state).toBe(RecordState.retired);
  });

  it.each([
    ["without anything that could count them", () => {}],
    [
      "where a sealer has sealed what nobody counts",
      (ring: KeyRing) => {
        ring.attach(nothing, {});
        new Sealer({ ring });
      },
    ],
  ])("refuses every key in a process %s, with KEY_IN_USE", async (_, attach) => {
    const { ring, ids, time, stored } = await warmProcess();
    attach(ring);
    await time.advance(2 * DAY + 3 * MINUTE);
    expect(await codeThrown(ring.retire(ids[0] as string))).toBe("KEY_IN_USE");
    expect(stored(ids[0] as string).state).toBe(RecordState.enabled);
  });

  it("leaves a tombstone without wraps, which other processes follow and never undo", async () => {
    const world = virtualWorld();
    const { time, store, stored } = world;
    const rings = await readyProcesses(world, 3);
    const [ring] = rings as [KeyRing];
    await time.advance(2 * DAY + 5 * MINUTE);
    const [first] = world.publications as [Publication];
    ring.attach(nothing, {});
    await ring.retire(first.keyId);
    expect(stored(first.keyId)).toMatchObject({ state: RecordState.retired, wraps: [], activatesAt: START });
    expect(eventsOf("key-retired")).toEqual([{ type: "key-retired", ring: "web", keyId: first.keyId }]);
    expect(await codeThrown(ring.byId(idBytes(first.keyId)))).toBe("KEY_RETIRED");
    const changes = store.changes.length;
    await time.advance(10 * MINUTE);
    expect(store.changes).toHaveLength(changes);
    rings.push(...(await readyProcesses(world, 1)));
    for (const each of rings) {
      expect(await codeThrown(each.byId(idBytes(first.keyId)))).toBe("KEY_RETIRED");
      expect(each.status().find(({ keyId }) => keyId === first.keyId)?.state).toBe("retired");
    }
    // Somebody puts the record back as it was before.
    const before = store.changes.find((bytes) => keyIdOf(decodeRecord(bytes) as KeyRecord) === first.keyId);
    store.records.set(first.keyId, before as Uint8Array);
    await time.advance(MINUTE);
    expect(stored(first.keyId)).toMatchObject({ state: RecordState.retired, wraps: [] });
  });

  it("needs no time to pass where the key is revoked", async () => {
    const { ring, currentId, stored } = await warmProcess();
    ring.attach(nothing, {});
    await ring.revoke(currentId);
    await ring.retire(currentId);
    expect(stored(currentId).state).toBe(RecordState.retired);
  });

  it("is refused with CLOCK_SKEW by a process whose clock is off", async () => {
    const { process, time, ids } = await warmProcess();
    await time.advance(2 * DAY + HOUR);
    const ring = process({ clock: () => time.now() + MINUTE + 1 });
    ring.attach(nothing, {});
    expect(await codeThrown(ring.retire(ids[0] as string))).toBe("CLOCK_SKEW");
  });
});

describe("keys retire by themselves", () => {
  /** The defaults of a ring that rotates every two hours, and sessions of an hour. */
  const UNUSED_AFTER = 4 * HOUR + HOUR + HOUR + HOUR;

  /** Processes with a store of web sessions each, over the same envelopes; whatever it costs is counted. */
  async function fleet(count: number, options: Partial<KeyRingOptions> = {}) {
    const world = virtualWorld({ rotationPeriodMs: 2 * HOUR, refreshIntervalMs: 4 * MINUTE, ...options });
    const envelopes = memoryStore({ clock: world.time.now });
    let scans = 0;
    const { scan } = envelopes;
    envelopes.scan = () => {
      scans++;
      return scan.call(envelopes);
    };
    const rings = await readyProcesses(world, count);
    const stores = rings.map((ring) => new SessionStore({ ring, store: envelopes, idleSeconds: 3600 }));
    const retirements: { keyId: string; afterMs: number }[] = [];
    const { write } = world.store;
    world.store.write = async (...args) => {
      const result = await write(...args);
      const record = decodeRecord(args[2]);
      if (record?.state === RecordState.retired && result.written) {
        retirements.push({ keyId: args[1], afterMs: world.time.now() - record.activatesAt });
      }
      return result;
    };
    return { ...world, rings, stores, envelopes, retirements, scans: () => scans };
  }

  it("not before activatesAt + maxSealingAgeMs + the longest TTL + resealAfterMs + 1 h, and within a rotation period then", async () => {
    const { time, retirements, publications } = await fleet(1);
    await time.advance(UNUSED_AFTER - 1);
    expect(retirements).toEqual([]);
    await time.advance(2 * DAY);
    expect(retirements.length).toBeGreaterThanOrEqual(23);
    expect(retirements.map(({ keyId }) => keyId)).toEqual(
      expect.arrayContaining(publications.slice(0, 20).map(({ keyId }) => keyId)),
    );
    const after = retirements.map(({ afterMs }) => afterMs - UNUSED_AFTER);
    expect(Math.min(...after)).toBeGreaterThanOrEqual(0);
    expect(Math.max(...after)).toBeLessThanOrEqual(2 * HOUR + 8 * MINUTE);
    // Spread over the period.
    expect(Math.min(...after)).toBeLessThan(30 * MINUTE);
    expect(Math.max(...after)).toBeGreaterThan(90 * MINUTE);
    expect(eventsOf("key-retired").map(({ keyId }) => keyId)).toEqual(retirements.map(({ keyId }) => keyId));
    expect(eventsOf("key-retirement-refused")).toEqual([]);
  });

  it.each([
    ["sealing age", { maxSealingAgeMs: 10 * HOUR }, 13 * HOUR],
    ["time until sessions are sealed anew", { resealAfterMs: 5 * HOUR }, 11 * HOUR],
  ])("later with a longer %s", async (_, options, unusedAfterMs) => {
    const { time, retirements } = await fleet(1, options);
    await time.advance(unusedAfterMs - 1);
    expect(retirements).toEqual([]);
    await time.advance(2 * HOUR + 8 * MINUTE);
    expect(retirements.length).toBeGreaterThanOrEqual(1);
  });

  it.each([
    ["the same envelopes", (envelopes: EnvelopeStore) => envelopes],
    ["others", (_: EnvelopeStore, { now }: VirtualTime) => memoryStore({ clock: now })],
  ])("later by the longest TTL of several stores of web sessions, over %s", async (_, storeOf) => {
    const { time, retirements, rings, envelopes } = await fleet(1);
    const [ring] = rings as [KeyRing];
    for (const idleSeconds of [5 * 3600, 60]) {
      new SessionStore({ ring, store: storeOf(envelopes, time), idleSeconds });
    }
    await time.advance(UNUSED_AFTER + 4 * HOUR - 1);
    expect(retirements).toEqual([]);
    await time.advance(2 * HOUR + 8 * MINUTE);
    expect(retirements.length).toBeGreaterThanOrEqual(1);
  });

  it("by the count of one process of three as a rule", async () => {
    const { time, retirements, scans } = await fleet(3, { refreshIntervalMs: 2 * MINUTE });
    await time.advance(2 * DAY);
    expect(new Set(retirements.map(({ keyId }) => keyId)).size).toBe(retirements.length);
    expect(retirements.length).toBeGreaterThanOrEqual(19);
    expect(scans()).toBeGreaterThanOrEqual(retirements.length * 0.9);
    expect(scans()).toBeLessThanOrEqual(retirements.length * 1.1);
  });

  it("by one count of the same envelopes, however many stores of web sessions lie over them", async () => {
    const { time, rings, envelopes, retirements, scans } = await fleet(1);
    for (const namespace of ["a", "b", "c"]) {
      new SessionStore({ ring: rings[0] as KeyRing, store: envelopes, namespace, idleSeconds: 60 });
    }
    await time.advance(DAY);
    expect(retirements.length).toBeGreaterThanOrEqual(7);
    expect(scans()).toBeLessThanOrEqual(retirements.length);
  });

  it("never the newest: without a KMS that makes keys it is the last that there is", async () => {
    const { time, kms, retirements, publications } = await fleet(1);
    kms.generate = () => Promise.reject(new KmsError("KMS_DENIED", "no permission", { kms: "fake" }));
    await time.advance(DAY);
    expect(publications).toHaveLength(1);
    expect(retirements).toEqual([]);
  });

  it("only when nothing is left under them: each refusal tells the number, and the pause until the next count doubles", async () => {
    const { time, retirements, stores, envelopes, publications } = await fleet(1, { refreshIntervalMs: 10 * MINUTE });
    const [sessions] = stores as [SessionStore];
    const ids: string[] = [];
    for (const user_id of [1, 2, 3]) {
      const id = await sessions.create({ user_id });
      // Somebody has made it live longer than it should.
      await envelopes.touch(storedIdOf(id) as string, 60 * DAY);
      ids.push(id);
    }
    const [{ keyId }] = publications as [Publication];
    const refusedAt: number[] = [];
    const refusals = () => eventsOf("key-retirement-refused");
    while (time.now() < START + 30 * DAY && refusals().length < 7) {
      const before = refusals().length;
      await time.advance(10 * MINUTE);
      if (refusals().length > before) refusedAt.push(time.now());
      // Two of them end meanwhile.
      if (refusals().length === 5 && ids.length === 3) await sessions.destroy(ids.pop() as string);
      if (refusals().length === 6 && ids.length === 2) await sessions.destroy(ids.pop() as string);
    }
    expect(refusals()).toEqual(
      [3, 3, 3, 3, 3, 2, 1].map((number) => ({
        type: "key-retirement-refused",
        ring: "web",
        keyId,
        sessions: number,
      })),
    );
    const pauses = refusedAt.slice(1).map((at, i) => (at - (refusedAt[i] as number)) / (2 * HOUR));
    for (const [i, pause] of pauses.entries()) {
      const least = Math.min(2 ** (i + 1), 32);
      expect(pause).toBeGreaterThan(least - 0.2);
      expect(pause).toBeLessThan(2 * least + 0.2);
    }
    await sessions.destroy(ids.pop() as string);
    await time.advance(6 * DAY);
    expect(retirements.map((retirement) => retirement.keyId)).toContain(keyId);
  });

  it.each([
    ["where rotation is manual", { rotation: "manual" }],
    ["by a process whose clock is ahead by more than a refresh interval", 4 * MINUTE + 1],
    ["by a process whose clock is behind by more than a refresh interval", -4 * MINUTE - 1],
  ] as const)("never %s", async (_, own) => {
    const world = virtualWorld({ rotationPeriodMs: 2 * HOUR, refreshIntervalMs: 4 * MINUTE });
    const { time } = world;
    // This one rotates, and has no sessions that it could count.
    await readyProcesses(world, 1);
    await time.advance(10 * MINUTE);
    let scans = 0;
    const options = typeof own === "number" ? { clock: () => time.now() + own } : own;
    const [ring] = (await readyProcesses(world, 1, options)) as [KeyRing];
    ring.attach({ maxTtlMs: HOUR, count: async () => new Map([[String(scans++), 1]]) }, {});
    await time.advance(DAY);
    expect(world.publications.length).toBeGreaterThan(10);
    expect(eventsOf("key-retired")).toEqual([]);
    expect(scans).toBe(0);
    const codes = new Set(eventsOf("ring-rotation-failed").map(({ code }) => code));
    expect(codes).toEqual(new Set(typeof own === "number" ? ["CLOCK_SKEW"] : []));
  });

  it("never by a process without a store of sessions, nor by one where a sealer has sealed what nobody counts", async () => {
    const world = virtualWorld({ rotationPeriodMs: 2 * HOUR, refreshIntervalMs: 4 * MINUTE });
    const [, ring] = (await readyProcesses(world, 2)) as [KeyRing, KeyRing];
    ring.attach(nothing, {});
    new Sealer({ ring });
    await world.time.advance(DAY);
    expect(eventsOf("key-retired")).toEqual([]);
  });

  it("not while the sessions cannot be counted: reported, and tried again", async () => {
    const { time, retirements, rings } = await fleet(1);
    let down = true;
    const count = async () => {
      if (down) throw new SealedSessionError("STORE_UNAVAILABLE", "down");
      return new Map<string, number>();
    };
    rings[0]?.attach({ maxTtlMs: HOUR, count }, {});
    await time.advance(12 * HOUR);
    expect(retirements).toEqual([]);
    expect(eventsOf("ring-rotation-failed")).toContainEqual({
      type: "ring-rotation-failed",
      ring: "web",
      code: "STORE_UNAVAILABLE",
    });
    down = false;
    await time.advance(2 * HOUR);
    expect(retirements.length).toBeGreaterThanOrEqual(2);
  });

  it("but not those that this process has never opened: whose they are it cannot know", async () => {
    const world = await fleet(1);
    const foreign = virtualWorld({ kms: fakeKms("other") });
    await foreign.process().ready();
    const [[keyId, record]] = [...foreign.store.records] as [[string, Uint8Array]];
    world.store.records.set(keyId, record);
    await world.time.advance(12 * HOUR);
    expect(world.retirements.length).toBeGreaterThanOrEqual(2);
    expect(world.stored(keyId).state).toBe(RecordState.enabled);
  });
});

describe("a ring with 1,100 tombstones", () => {
  /** As they are left by an hourly rotation in a month and a half. */
  async function agedRing() {
    const world = virtualWorld({ rotationPeriodMs: HOUR, refreshIntervalMs: 5 * MINUTE });
    const ids = Array.from({ length: 1100 }, (_, n) => {
      const commitment = new Uint8Array(32).fill(0xcc);
      // In the order in which a hash would be, not in that of their times.
      new DataView(commitment.buffer).setUint32(0, Math.imul(n, 2654435761) >>> 0);
      const record = {
        commitment,
        activatesAt: START - ((n * 7) % 1100) * HOUR,
        state: RecordState.retired,
        wraps: [],
      };
      world.store.records.set(keyIdOf(record), encodeRecord(record));
      return keyIdOf(record);
    });
    return { ...world, ids };
  }

  it("gets its next keys, and every process opens them", async () => {
    const world = await agedRing();
    const rings = await readyProcesses(world, 2);
    await world.time.advance(4 * HOUR);
    rings.push(...(await readyProcesses(world, 1)));
    expect(world.publications).toHaveLength(5);
    for (const ring of rings) {
      for (const { keyId } of world.publications) expect(ring.byIdIfWarm(idBytes(keyId))).toBeDefined();
    }
    // None of them is a reason for an alarm.
    expect(eventsOf("key-record-refused").length).toBe(0);
  });

  it("says of each of them that it is retired", async () => {
    const world = await agedRing();
    const [ring] = (await readyProcesses(world, 1)) as [KeyRing];
    const codes = new Set<unknown>();
    for (const id of world.ids) codes.add(await world.time.until(codeThrown(ring.byId(idBytes(id)))));
    expect(codes).toEqual(new Set(["KEY_RETIRED"]));
  });
});

describe("another wrap of the same data key by the same KMS", () => {
  /** Three processes that know a key, and what lies under its id. */
  async function threeProcesses(options: Partial<KeyRingOptions> = {}) {
    const world = virtualWorld(options);
    const rings = await readyProcesses(world, 3);
    const [{ keyId }] = world.publications as [Publication];
    const rounds = async () => {
      for (let round = 0; round < 10; round++) for (const ring of rings) await ring.refresh();
    };
    await rounds();
    const put = (kms: string, wrapped: Uint8Array) => {
      const record = world.stored(keyId);
      const wraps = record.wraps.map((wrap) => (wrap.kms === kms ? { kms, wrapped } : wrap));
      world.store.records.set(keyId, encodeRecord({ ...record, wraps }));
    };
    return { ...world, rings, keyId, rounds, put };
  }

  const wrapsOf = ({ wraps }: KeyRecord) => wraps.map(({ kms, wrapped }) => [kms, String(wrapped)]);

  it("is adopted by every process: nobody writes it back, and whoever restores the record restores this one", async () => {
    const { kms, store, rings, keyId, rounds, put, stored } = await threeProcesses();
    const again = await kms.wrap(kms.made[0] as Uint8Array, encryptionContext("web", START));
    put("fake", again);
    const changes = store.changes.length;
    callsOf(kms);
    await rounds();
    expect(store.changes).toHaveLength(changes);
    // Each asks once whether it opens.
    expect(callsOf(kms).unwrap).toBe(3);
    for (const ring of rings) {
      store.records.delete(keyId);
      await ring.refresh();
      expect(wrapsOf(stored(keyId))).toEqual([["fake", String(again)]]);
    }
  });

  it("is adopted beside those of other KMSs", async () => {
    const [a, b] = [fakeKms("a"), fakeKms("b")];
    const { store, keyId, rounds, put, stored } = await threeProcesses({ kms: [a, b] });
    const again = await b.wrap(a.made[0] as Uint8Array, encryptionContext("web", START));
    const [first] = wrapsOf(stored(keyId));
    put("b", again);
    const changes = store.changes.length;
    await rounds();
    expect(store.changes).toHaveLength(changes);
    store.records.clear();
    await rounds();
    expect(wrapsOf(stored(keyId))).toEqual([first, ["b", String(again)]]);
  });

  it("that does not open is none: the one before is put back, once", async () => {
    const { store, rounds, put, stored, keyId } = await threeProcesses();
    const before = wrapsOf(stored(keyId));
    const changes = store.changes.length;
    put("fake", Uint8Array.of(0xff));
    await rounds();
    expect(wrapsOf(stored(keyId))).toEqual(before);
    expect(store.changes).toHaveLength(changes + 1);
    expect(eventsOf("key-record-restored")).toEqual([{ type: "key-record-restored", ring: "web", keyId }]);
  });

  it("that does not open is asked about once, however often somebody puts it there", async () => {
    const { kms, store, rounds, put } = await threeProcesses();
    put("fake", Uint8Array.of(0xff));
    await rounds();
    const changes = store.changes.length;
    callsOf(kms);
    put("fake", Uint8Array.of(0xff));
    await rounds();
    expect(store.changes).toHaveLength(changes + 1);
    expect(callsOf(kms).unwrap).toBe(0);
  });

  it("that opens to another key is none either", async () => {
    const { kms, store, rounds, put, stored, keyId } = await threeProcesses();
    const before = wrapsOf(stored(keyId));
    const changes = store.changes.length;
    put("fake", await kms.wrap(new Uint8Array(32).fill(9), encryptionContext("web", START)));
    await rounds();
    expect(wrapsOf(stored(keyId))).toEqual(before);
    expect(store.changes).toHaveLength(changes + 1);
  });

  it("is not judged while the KMS gives no answer, and then by what it is", async () => {
    const { time, kms, store, rounds, put, stored, keyId } = await threeProcesses();
    const before = wrapsOf(stored(keyId));
    const changes = store.changes.length;
    put("fake", Uint8Array.of(0xff));
    kms.failWith = "KMS_THROTTLED";
    await rounds();
    expect(store.changes).toHaveLength(changes);
    kms.failWith = undefined;
    // After the pause of the circuit breakers.
    await time.advance(2 * MINUTE);
    await rounds();
    expect(wrapsOf(stored(keyId))).toEqual(before);
  });

  it("is not judged by processes whose permission was taken away: it is adopted once they have it back", async () => {
    const { kms, store, keyId, rounds, put, stored } = await threeProcesses();
    const again = await kms.wrap(kms.made[0] as Uint8Array, encryptionContext("web", START));
    put("fake", again);
    const changes = store.changes.length;
    kms.failWith = "KMS_DENIED";
    await rounds();
    kms.failWith = undefined;
    await rounds();
    expect(store.changes).toHaveLength(changes);
    store.records.delete(keyId);
    await rounds();
    expect(wrapsOf(stored(keyId))).toEqual([["fake", String(again)]]);
  });

  it("does not wait for time, and no process loses the key meanwhile", async () => {
    const { kms, rings, rounds, put, keyId } = await threeProcesses();
    put("fake", await kms.wrap(kms.made[0] as Uint8Array, encryptionContext("web", START)));
    await rounds();
    for (const ring of rings) expect(ring.currentIfWarm()?.keyId).toBe(keyId);
  });
});
