import { describe, expect, it } from "vitest";
import { asBulkStore, type BulkEnvelopeStore, type EnvelopeChange, type EnvelopePage } from "../src/bulk-store.js";
import { SealedSessionError } from "../src/errors.js";
import { memoryStore } from "../src/memory-store.js";
import { Sealer } from "../src/sealer.js";
import { createSessionId, storedIdOf } from "../src/session-id.js";
import {
  Rate,
  type RotateSessionsOptions,
  type RotationCounts,
  rotateSessions,
  shardOf,
} from "../src/session-rotation.js";
import { codeThrown, HOUR } from "./support/fixture.js";
import { openFixture } from "./support/open-fixture.js";

const LIFE_MS = 100 * HOUR;

/** A ring whose old key has sealed `count` sessions, and a new one that seals now. */
async function oldSessions(count: number) {
  const base = openFixture({ rotation: "manual" });
  const oldKeyId = await base.ring.publish({ delayMs: 0 });
  const sealer = new Sealer({ ring: base.ring, counted: true });
  const memory = memoryStore({ clock: base.ring.clock });
  const seal = async (value: unknown, options: { notAfterMs?: number } = {}) => {
    const storedId = storedIdOf(createSessionId()) as string;
    await memory.set(storedId, await sealer.seal(value, storedId, options), { ttlMs: LIFE_MS });
    return storedId;
  };
  const storedIds: string[] = [];
  for (let n = 0; n < count; n++) storedIds.push(await seal({ n }));
  base.advance(HOUR);
  const newKeyId = await base.ring.publish({ delayMs: 0 });
  const store = asBulkStore(memory);
  const rotate = (options: Partial<RotateSessionsOptions> = {}) =>
    rotateSessions({ ring: base.ring, sealer, store, ...options });
  const contentOf = async (storedId: string) => sealer.open((await memory.get(storedId)) as Uint8Array, storedId);
  return {
    ...base,
    ringStore: base.store,
    sealer,
    memory,
    store,
    seal,
    storedIds,
    oldKeyId,
    newKeyId,
    rotate,
    contentOf,
  };
}

/** The counts that are not zero. */
function found({ byKey: _, ...counts }: RotationCounts): Record<string, number> {
  return Object.fromEntries(Object.entries(counts).filter(([, count]) => count > 0));
}

/** A store whose pages do something else first. */
function between(store: BulkEnvelopeStore, hooks: Partial<Record<"get" | "change", () => unknown>>): BulkEnvelopeStore {
  return {
    ...methodsOf(store),
    walk: (visit, options) =>
      store.walk((page) => {
        const changed: EnvelopePage = {
          storedIds: page.storedIds,
          peek: (ids, bytes) => page.peek(ids, bytes),
          get: async (ids) => {
            const bytes = await page.get(ids);
            await hooks.get?.();
            return bytes;
          },
          change: async (changes: readonly EnvelopeChange[]) => {
            await hooks.change?.();
            return page.change(changes);
          },
        };
        return visit(changed);
      }, options),
  };
}

function methodsOf(store: BulkEnvelopeStore): BulkEnvelopeStore {
  return {
    get: (...args) => store.get(...args),
    set: (...args) => store.set(...args),
    compareAndSet: (...args) => store.compareAndSet(...args),
    touch: (...args) => store.touch(...args),
    destroy: (...args) => store.destroy(...args),
    ttlMs: (...args) => store.ttlMs(...args),
    scan: () => store.scan(),
    walk: (...args) => store.walk(...args),
    estimate: () => store.estimate(),
  };
}

describe("rotateSessions", () => {
  it("seals everything anew under the key that seals now: same content, same time to live", async () => {
    const { rotate, storedIds, oldKeyId, newKeyId, memory, contentOf, ring } = await oldSessions(600);
    const report = await rotate();
    expect(report).toMatchObject({ keyId: newKeyId, isInterrupted: false, isDryRun: false, startedAt: ring.clock() });
    expect(found(report.counts)).toEqual({ examined: 600, resealed: 600 });
    expect(report.counts.byKey).toEqual({ [oldKeyId]: 600 });
    for (const [n, storedId] of storedIds.entries()) {
      expect(await contentOf(storedId)).toEqual({ n });
      expect(await memory.ttlMs(storedId)).toBe(LIFE_MS - HOUR);
      expect(keyIdOf((await memory.get(storedId)) as Uint8Array)).toBe(newKeyId);
    }
  });

  it("finds nothing to do the second time", async () => {
    const { rotate, newKeyId } = await oldSessions(20);
    await rotate();
    const { counts } = await rotate();
    expect(found(counts)).toEqual({ examined: 20, current: 20 });
    expect(counts.byKey).toEqual({ [newKeyId]: 20 });
  });

  it("changes nothing in a dry run, and counts what it would", async () => {
    const { rotate, storedIds, memory, oldKeyId } = await oldSessions(5);
    const report = await rotate({ dryRun: true });
    expect(report.isDryRun).toBe(true);
    expect(found(report.counts)).toEqual({ examined: 5, resealed: 5 });
    for (const storedId of storedIds) expect(keyIdOf((await memory.get(storedId)) as Uint8Array)).toBe(oldKeyId);
  });

  it("leaves to others what they have written or destroyed meanwhile", async () => {
    const { rotate, store, memory, storedIds, sealer, contentOf } = await oldSessions(4);
    const [written, destroyed] = storedIds as [string, string];
    const other = await sealer.seal({ by: "a request" }, written);
    const { counts } = await rotate({
      store: between(store, {
        change: async () => {
          await memory.set(written, other, { ttlMs: 5 });
          await memory.destroy(destroyed);
        },
      }),
    });
    expect(found(counts)).toEqual({ examined: 4, resealed: 2, overtaken: 2 });
    expect(await memory.get(destroyed)).toBeUndefined();
    expect(await contentOf(written)).toEqual({ by: "a request" });
    expect(await memory.ttlMs(written)).toBe(5);
  });

  it("tells what it leaves alone and why, and names what does not open", async () => {
    const { rotate, store, memory, seal, sealer, ring, storedIds, advance } = await oldSessions(3);
    const [gone, tampered] = storedIds as [string, string];
    await seal({ ended: true }, { notAfterMs: ring.clock() + 1000 });
    const bytes = (await memory.get(tampered)) as Uint8Array;
    bytes[bytes.length - 1] = (bytes.at(-1) as number) ^ 1;
    await memory.set(tampered, bytes, { ttlMs: LIFE_MS });
    await memory.set("other-program", new TextEncoder().encode("{}"), { ttlMs: LIFE_MS });
    const bound = new Sealer({ ring, counted: true, clientBound: true });
    await memory.set("bound", await bound.seal({}, "bound", { sessionId: createSessionId() }), { ttlMs: LIFE_MS });
    advance(2000);
    await ring.publish({ delayMs: 0 });
    const unopened: unknown[] = [];
    const { counts } = await rotate({
      store: between(store, { get: () => memory.destroy(gone) }),
      onUnopened: (storedId, code) => unopened.push([storedId, code]),
    });
    expect(found(counts)).toEqual({
      examined: 6,
      resealed: 1,
      overtaken: 1,
      unopened: 1,
      expired: 1,
      foreign: 1,
      clientBound: 1,
    });
    expect(unopened).toEqual([[tampered, "ENVELOPE_REJECTED"]]);
    expect(await memory.get(tampered)).toEqual(bytes);
    await expect(sealer.open(bytes, tampered)).rejects.toMatchObject({ code: "ENVELOPE_REJECTED" });
  });

  it("leaves those whose key is not older than wanted", async () => {
    const { rotate, seal, ring, advance } = await oldSessions(3);
    await seal({ young: true });
    advance(60_000);
    await ring.publish({ delayMs: 0 });
    const { counts } = await rotate({ olderThanMs: 120_000 });
    expect(found(counts)).toEqual({ examined: 4, resealed: 3, younger: 1 });
  });

  it("does the parts of several machines, each session once", async () => {
    const { rotate } = await oldSessions(50);
    const parts: RotationCounts[] = [];
    for (const index of [1, 2, 3]) parts.push((await rotate({ shard: { index, count: 3 }, dryRun: true })).counts);
    expect(parts.reduce((sum, { examined }) => sum + examined, 0)).toBe(50);
    expect(parts.every(({ examined }) => examined > 0)).toBe(true);
    expect((await rotate({ shard: { index: 2, count: 3 } })).counts).toEqual(parts[1]);
  });

  it("goes on from the counts of an earlier run, without touching them", async () => {
    const { rotate } = await oldSessions(3);
    const { counts } = await rotate();
    const kept = structuredClone(counts);
    const second = await rotate({ counts });
    expect(counts).toEqual(kept);
    expect(found(second.counts)).toEqual({ examined: 6, resealed: 3, current: 3 });
  });

  it("hands out counts that do not change any more, each time whole", async () => {
    const { rotate } = await oldSessions(600);
    const noted: RotationCounts[] = [];
    const progress: number[] = [];
    await rotate({
      onPosition: (_, counts) => noted.push(counts),
      onProgress: ({ examined, total }) => {
        expect(total).toBe(600);
        progress.push(examined);
      },
    });
    expect(noted.map(({ examined }) => examined)).toEqual([256, 512, 600]);
    for (const { examined, resealed } of noted) expect(resealed).toBe(examined);
    expect(progress).toEqual([...progress].sort((a, b) => a - b));
    expect(progress.at(-1)).toBe(600);
  });

  it("ends at the signal, and says so", async () => {
    const { rotate } = await oldSessions(600);
    const controller = new AbortController();
    const report = await rotate({ signal: controller.signal, onPosition: () => controller.abort() });
    expect(report.isInterrupted).toBe(true);
    expect(report.counts.examined).toBe(256);
  });

  it("ends at the signal within a page, whose position is not reached then", async () => {
    const { rotate } = await oldSessions(600);
    const controller = new AbortController();
    const positions: number[] = [];
    const report = await rotate({
      concurrency: 1,
      signal: controller.signal,
      onPosition: (_, { examined }) => positions.push(examined),
      onProgress: ({ examined }) => {
        if (examined > 256) controller.abort();
      },
    });
    expect(report.isInterrupted).toBe(true);
    expect(report.counts.examined).toBe(256 + 64);
    expect(positions).toEqual([256]);
  });

  it("ends with what a page failed with, and not with the others under way", async () => {
    const { rotate, store } = await oldSessions(600);
    let running = 0;
    const failing = between(store, {
      change: async () => {
        running++;
        await new Promise((resolve) => setImmediate(resolve));
        running--;
        throw new SealedSessionError("STORE_UNAVAILABLE", "down");
      },
    });
    expect(await codeThrown(rotate({ store: failing }))).toBe("STORE_UNAVAILABLE");
    expect(running).toBe(0);
  });

  it("ends when no key seals any more, instead of counting everything as unopened", async () => {
    const { rotate, store, ring } = await oldSessions(3);
    const unopened: unknown[] = [];
    const closing = between(store, { get: () => ring.close() });
    expect(await codeThrown(rotate({ store: closing, onUnopened: (id) => unopened.push(id) }))).toBe("CLOSED");
    expect(unopened).toEqual([]);
  });

  it("asks the ring once for many envelopes of unknown keys", async () => {
    const { rotate, memory, seal, ringStore } = await oldSessions(1);
    for (let n = 0; n < 40; n++) {
      const storedId = await seal({ n });
      const bytes = (await memory.get(storedId)) as Uint8Array;
      bytes[5] = n;
      bytes[6] = (bytes[6] as number) ^ 1;
      await memory.set(storedId, bytes, { ttlMs: LIFE_MS });
    }
    const before = ringStore.reads;
    const { counts } = await rotate();
    expect(found(counts)).toEqual({ examined: 41, resealed: 1, unopened: 40 });
    expect(ringStore.reads - before).toBeLessThanOrEqual(2);
  });

  it("reads long envelopes a few at a time", async () => {
    const { rotate, store, seal, ring, advance } = await oldSessions(0);
    for (let n = 0; n < 80; n++) await seal({ text: "x".repeat(200_000) });
    advance(1);
    await ring.publish({ delayMs: 0 });
    const sizes: number[] = [];
    const watched: BulkEnvelopeStore = {
      ...methodsOf(store),
      walk: (visit, options) =>
        store.walk(
          (page) =>
            visit({
              storedIds: page.storedIds,
              peek: (ids, bytes) => page.peek(ids, bytes),
              change: (changes) => page.change(changes),
              get: (ids) => {
                sizes.push(ids.length);
                return page.get(ids);
              },
            }),
          options,
        ),
    };
    await rotate({ store: watched });
    // Nobody knows before the first ones were read; then 1 MiB holds five of them.
    expect(sizes[0]).toBe(64);
    expect(Math.max(...sizes.slice(1))).toBeLessThanOrEqual(6);
  });

  it.each([
    ["ratePerSecond", { ratePerSecond: 0 }],
    ["ratePerSecond", { ratePerSecond: 10_000_001 }],
    ["concurrency", { concurrency: 0 }],
    ["concurrency", { concurrency: 65 }],
    ["olderThanMs", { olderThanMs: -1 }],
    ["shard.count", { shard: { index: 1, count: 1025 } }],
    ["shard.index", { shard: { index: 3, count: 2 } }],
    ["store", { store: {} as BulkEnvelopeStore }],
    ["sealer", { sealer: {} as Sealer }],
    ["ring", { ring: {} as RotateSessionsOptions["ring"] }],
  ] as const)("refuses a wrong %s before it asks anybody", async (name, options) => {
    const { rotate, kms } = await oldSessions(1);
    const before = structuredClone(kms.calls);
    await expect(rotate(options as Partial<RotateSessionsOptions>)).rejects.toThrow(new RegExp(`^${name}\\b`));
    expect(kms.calls).toEqual(before);
  });
});

describe("Rate", () => {
  /** A clock that its timers move. */
  function virtualTime() {
    let now = 0;
    const waits: number[] = [];
    return {
      waits,
      clock: () => now,
      set: (time: number) => {
        now = time;
      },
      schedule: (task: () => void, delayMs: number) => {
        waits.push(delayMs);
        now += delayMs;
        const immediate = setImmediate(task);
        return () => clearImmediate(immediate);
      },
    };
  }

  it("lets so many a second through, evenly", async () => {
    const { clock, schedule, waits } = virtualTime();
    const rate = new Rate(100, clock, schedule);
    for (let n = 0; n < 5; n++) await rate.take(10);
    expect(waits).toEqual([100, 100, 100, 100]);
  });

  it("saves nothing up while nobody asks, and waits for no clock that was set back", async () => {
    const { clock, schedule, waits, set } = virtualTime();
    const rate = new Rate(100, clock, schedule);
    await rate.take(10);
    set(60_000);
    await rate.take(10);
    await rate.take(10);
    expect(waits).toEqual([100]);
    set(0);
    await rate.take(10);
    // As if the last ones had been taken just now.
    expect(waits).toEqual([100, 200]);
  });

  it("ends the wait at the signal, with its reason", async () => {
    const controller = new AbortController();
    let cancelled = 0;
    const rate = new Rate(
      1,
      () => 0,
      () => () => cancelled++,
      controller.signal,
    );
    await rate.take(1);
    const waiting = rate.take(1);
    const reason = new Error("enough");
    controller.abort(reason);
    await expect(waiting).rejects.toBe(reason);
    expect(cancelled).toBe(1);
    await expect(rate.take(1)).rejects.toBe(reason);
  });

  it("visits a tenth of a second's worth at once", async () => {
    const { rotate } = await oldSessions(60);
    const examined: number[] = [];
    const { schedule } = virtualTime();
    await rotate({
      ratePerSecond: 100,
      schedule,
      concurrency: 1,
      onProgress: (progress) => examined.push(progress.examined),
    });
    expect(examined).toEqual([10, 20, 30, 40, 50, 60]);
  });
});

describe("shardOf", () => {
  it("spreads ids over all parts", () => {
    const parts = new Array(8).fill(0);
    for (let n = 0; n < 8000; n++) parts[shardOf(storedIdOf(createSessionId()) as string, 8) - 1]++;
    expect(Math.min(...parts)).toBeGreaterThan(800);
    expect(Math.max(...parts)).toBeLessThan(1200);
  });

  it("is the same on every machine", () => {
    expect(shardOf("rFrtJIBXJN6SbIDgVQKwOu51", 1024)).toBe(199);
    expect([shardOf("a", 7), shardOf("b", 7), shardOf("c", 7)]).toEqual([6, 7, 2]);
  });
});

function keyIdOf(envelope: Uint8Array): string {
  return Buffer.from(envelope.subarray(2, 14)).toString("base64url");
}
