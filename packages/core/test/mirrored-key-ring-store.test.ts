/** A ring in several places: what one of them loses, refuses or never got does not matter. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { decodeRecord, type KeyRecord, RecordState } from "../src/data-key.js";
import { fileKeyRingStore } from "../src/file-key-ring-store.js";
import { type KeyRingStore, memoryKeyRingStore } from "../src/key-ring-store.js";
import { mirroredKeyRingStore } from "../src/mirrored-key-ring-store.js";
import type { Schedule } from "../src/schedule.js";
import { keyRingStoreSuite } from "../src/testing/index.js";
import { codeThrown, START } from "./support/fixture.js";
import { collectEvents, held, openFixture } from "./support/open-fixture.js";
import { type OpenRingStore, openRingStore, overwrite, withAnotherCommitment } from "./support/open-ring-store.js";

const clock = () => START;
const never = () => new Promise<never>(() => {});
const idOf = (n: number) => Buffer.from(`key ${n}`.padEnd(12)).toString("base64url");
const [ID, OTHER, THIRD] = [idOf(1), idOf(2), idOf(3)] as const;
const [A, B, C] = [Uint8Array.of(1), Uint8Array.of(2), Uint8Array.of(3)] as const;
const WRITTEN = { written: true, durable: true };
const REFUSED = { written: false, durable: false };
const unavailable = { code: "STORE_UNAVAILABLE" };

const events = collectEvents();

interface Mirror {
  readonly store: KeyRingStore;
  readonly first: OpenRingStore;
  readonly second: OpenRingStore;
  readonly third: OpenRingStore;
}

/** Three places that lie open, each with these records, and the store over them. */
function mirror(...contents: readonly Record<string, Uint8Array>[]): Mirror {
  const [first, second, third] = [openRingStore(clock), openRingStore(clock), openRingStore(clock)];
  for (const [index, home] of [first, second, third].entries()) fill(home, contents[index] ?? {});
  return { first, second, third, store: mirroredKeyRingStore([first, second, third]) };
}

function fill(home: OpenRingStore, records: Record<string, Uint8Array>): void {
  for (const [keyId, record] of Object.entries(records)) home.records.set(keyId, record);
}

const contents = (home: OpenRingStore) => Object.fromEntries(home.records);

/** Each record as its id and first byte, in no order. */
async function readFrom(store: KeyRingStore): Promise<string[]> {
  return (await store.read("web")).map(({ keyId, record }) => `${keyId} ${record[0]}`).sort();
}

/** One process's way to a place, to be cut for this process alone. */
function wayTo(home: KeyRingStore): KeyRingStore & { isCut: boolean } {
  const refuseCut = () => {
    if (way.isCut) throw Object.assign(new Error("no route"), { code: "EHOSTUNREACH" });
  };
  const way = {
    isCut: false,
    async read(ring: string) {
      refuseCut();
      return home.read(ring);
    },
    async write(...args: Parameters<KeyRingStore["write"]>) {
      refuseCut();
      return home.write(...args);
    },
    async now() {
      refuseCut();
      return home.now();
    },
  };
  return way;
}

/** Time that passes only when nothing else can happen: then the timer that is next runs out. */
function idleTime() {
  const timers = new Set<{ readonly at: number; readonly task: () => void }>();
  const runNext = () => {
    const [next] = [...timers].sort((a, b) => a.at - b.at);
    if (next === undefined) return;
    timers.delete(next);
    time.now = next.at;
    next.task();
  };
  const schedule: Schedule = (task, delayMs) => {
    const timer = { at: time.now + delayMs, task };
    timers.add(timer);
    setImmediate(runNext);
    return () => void timers.delete(timer);
  };
  const time = { now: 0, timers, schedule };
  return time;
}

keyRingStoreSuite({ describe, it }, "mirroredKeyRingStore over two in memory", async () => {
  const homes = [memoryKeyRingStore({ clock }), memoryKeyRingStore({ clock })];
  return {
    store: mirroredKeyRingStore(homes),
    second: mirroredKeyRingStore(homes),
    clock,
    clockToleranceMs: 0,
    close: async () => {},
  };
});

for (const [name, isMemoryFirst] of Object.entries({ "memory and a file": true, "a file and memory": false })) {
  keyRingStoreSuite({ describe, it }, `mirroredKeyRingStore over ${name}`, async () => {
    const directory = await mkdtemp(join(tmpdir(), "mirrored-key-ring-"));
    const memory = memoryKeyRingStore({ clock });
    const open = () => {
      const file = fileKeyRingStore({ directory, clock });
      return mirroredKeyRingStore(isMemoryFirst ? [memory, file] : [file, memory]);
    };
    return {
      store: open(),
      second: open(),
      reopen: async () => open(),
      clock,
      clockToleranceMs: 0,
      close: () => rm(directory, { recursive: true }),
    };
  });
}

it("is not empty where one place does not answer and the other holds nothing: the ring may lie in the first", async () => {
  const [away, empty] = [openRingStore(clock), openRingStore(clock)];
  const store = mirroredKeyRingStore([away, empty]);
  away.down = true;
  await expect(store.read("web")).rejects.toMatchObject(unavailable);
  away.down = false;
  expect(await store.read("web")).toEqual([]);
  away.down = true;
  fill(empty, { [ID]: A });
  expect(await readFrom(store)).toEqual([`${ID} 1`]);
});

describe("mirroredKeyRingStore", () => {
  const home = () => memoryKeyRingStore();
  const one = home();
  it.each([
    ["homes", [undefined], TypeError],
    ["homes.length", [[home()]], RangeError],
    ["homes.length", [Array.from({ length: 5 }, home)], RangeError],
    ["homes[1]", [[home(), undefined]], TypeError],
    ["homes[1].read", [[home(), { ...home(), read: 1 }]], TypeError],
    ["homes[0].write", [[{ ...home(), write: undefined }, home()]], TypeError],
    ["homes[2].now", [[home(), home(), { ...home(), now: undefined }]], TypeError],
    ["homes", [[one, one]], RangeError],
    ["homeTimeoutMs", [[home(), home()], { homeTimeoutMs: 0 }], RangeError],
    ["homeTimeoutMs", [[home(), home()], { homeTimeoutMs: "2s" }], TypeError],
    ["schedule", [[home(), home()], { schedule: 5 }], TypeError],
  ])("refuses a wrong %s (%#)", (field, args, type) => {
    const build = () => mirroredKeyRingStore(...(args as unknown as Parameters<typeof mirroredKeyRingStore>));
    expect(build).toThrow(type);
    expect(build).toThrow(field);
  });

  it.each([2, 3, 4])("takes %i homes", async (count) => {
    const homes = Array.from({ length: count }, home);
    const store = mirroredKeyRingStore(homes);
    homes.length = 0;
    expect(await store.write("web", ID, A)).toEqual(WRITTEN);
  });

  it("asks no home when an argument is wrong", async () => {
    const { store, first, second } = mirror();
    await expect(store.read("a{b}")).rejects.toThrow(RangeError);
    await expect(store.write("a{b}", ID, A)).rejects.toThrow(RangeError);
    await expect(store.write("web", "short", A)).rejects.toThrow(RangeError);
    await expect(store.write("web", ID, "record" as never)).rejects.toThrow(TypeError);
    await expect(store.write("web", ID, A, { expected: "bytes" as never })).rejects.toThrow(TypeError);
    await expect(store.write("web", ID, A, { onlyIfKeyIds: ["short"] })).rejects.toThrow(RangeError);
    expect([first.reads, first.writes, second.reads, second.writes]).toEqual([0, 0, 0, 0]);
  });
});

describe("a read", () => {
  it("finds what any of the homes holds", async () => {
    const { store } = mirror({ [ID]: A }, { [OTHER]: B }, { [THIRD]: C });
    expect(await readFrom(store)).toEqual([`${ID} 1`, `${OTHER} 2`, `${THIRD} 3`]);
  });

  it("returns every copy of an id where homes differ, each once, and alters none", async () => {
    const { store, first, second, third } = mirror({ [ID]: A }, { [ID]: B }, { [ID]: A });
    expect(await readFrom(store)).toEqual([`${ID} 1`, `${ID} 2`]);
    expect([contents(first), contents(second), contents(third)]).toEqual([{ [ID]: A }, { [ID]: B }, { [ID]: A }]);
  });

  it("copies to each home what it lacks", async () => {
    const { store, first, second, third } = mirror({ [ID]: A }, { [OTHER]: B });
    await store.read("web");
    for (const home of [first, second, third]) expect(contents(home)).toEqual({ [ID]: A, [OTHER]: B });
    const writes = first.writes + second.writes + third.writes;
    await store.read("web");
    expect(first.writes + second.writes + third.writes).toBe(writes);
  });

  it("fills a home that was wiped, so that the others may be lost next", async () => {
    const { store, first, second, third } = mirror();
    await store.write("web", ID, A);
    await store.write("web", OTHER, B);
    for (const [lost, other] of [
      [first, second],
      [second, third],
      [third, first],
    ] as const) {
      lost.records.clear();
      other.records.clear();
      expect(await readFrom(store)).toEqual([`${ID} 1`, `${OTHER} 2`]);
    }
  });

  it("never copies over what somebody else has written meanwhile", async () => {
    const { store, first, second } = mirror({ [ID]: A }, {}, { [ID]: A });
    const { read } = second;
    second.read = async (ring) => {
      const found = await read(ring);
      fill(second, { [ID]: B });
      return found;
    };
    await store.read("web");
    expect([contents(first), contents(second)]).toEqual([{ [ID]: A }, { [ID]: B }]);
  });

  it("copies nothing to a home that did not answer: what it holds is not known", async () => {
    const { store, second } = mirror({ [ID]: A });
    second.read = () => Promise.reject(new Error("down"));
    expect(await readFrom(store)).toEqual([`${ID} 1`]);
    expect(second.writes).toBe(0);
  });

  it("leaves out a home that is down, and tells of it", async () => {
    const { store, first, second, third } = mirror({ [ID]: A }, { [ID]: A }, { [OTHER]: B });
    first.down = true;
    third.read = () => {
      throw new Error("at once, and not even a promise");
    };
    expect(await readFrom(store)).toEqual([`${ID} 1`]);
    expect(contents(second)).toEqual({ [ID]: A });
    expect(events).toHaveLength(2);
    expect(events).toContainEqual({ type: "key-ring-home-failed", ring: "web", home: 0, code: "STORE_UNAVAILABLE" });
    expect(events).toContainEqual({ type: "key-ring-home-failed", ring: "web", home: 2, code: undefined });
  });

  it("fails only when no home answers, with all their errors as the cause", async () => {
    const { store, first, second, third } = mirror();
    const errors = [new Error("one"), new Error("two"), new Error("three")];
    for (const [index, home] of [first, second, third].entries()) home.read = () => Promise.reject(errors[index]);
    const error = await store.read("web").catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ ...unavailable, cause: { errors } });
    expect(events.map(({ type }) => type)).toEqual(Array(3).fill("key-ring-home-failed"));
  });

  it("is not failed by a home that takes no copies, and tells of it", async () => {
    const { store, second, third } = mirror({ [ID]: A });
    second.write = () => Promise.reject(new Error("read-only"));
    expect(await readFrom(store)).toEqual([`${ID} 1`]);
    expect(contents(third)).toEqual({ [ID]: A });
    expect(events).toEqual([{ type: "key-ring-home-failed", ring: "web", home: 1, code: undefined }]);
  });

  it("copies no junk that a store refuses, and it does not keep the rest out", async () => {
    const { first } = mirror({ junk: A, [OTHER]: new Uint8Array(0), [THIRD]: new Uint8Array(8193), [ID]: A });
    const second = memoryKeyRingStore();
    expect(await mirroredKeyRingStore([first, second]).read("web")).toHaveLength(4);
    expect(await readFrom(second)).toEqual([`${ID} 1`]);
    expect(events).toEqual([]);
  });

  it("does not let junk in one home make another one too large", async () => {
    const { store, first, second } = mirror();
    for (let n = 0; n < 2000; n++) first.records.set(idOf(n), new Uint8Array(8192));
    fill(second, { [ID]: new Uint8Array(8192) });
    await store.read("web");
    const size = () => [...second.records.values()].reduce((sum, { length }) => sum + length, 0);
    expect(size()).toBeGreaterThan(7 * 2 ** 20);
    expect(size()).toBeLessThanOrEqual(8 * 2 ** 20);
    await store.read("web");
    expect(size()).toBeLessThanOrEqual(8 * 2 ** 20);
  });
});

describe("a new record", () => {
  it("goes to all homes", async () => {
    const { store, first, second, third } = mirror();
    expect(await store.write("web", ID, A, { onlyIfKeyIds: [] })).toEqual(WRITTEN);
    for (const home of [first, second, third]) expect(contents(home)).toEqual({ [ID]: A });
  });

  it("goes to the others whatever ids they hold, once the first home has agreed", async () => {
    const { store, first, second } = mirror({ [OTHER]: B });
    expect(await store.write("web", ID, A, { onlyIfKeyIds: [OTHER] })).toEqual(WRITTEN);
    expect(contents(first)).toEqual({ [OTHER]: B, [ID]: A });
    expect(contents(second)).toEqual({ [ID]: A });
  });

  it("goes nowhere when the first home refuses it", async () => {
    const { store, first, second, third } = mirror({ [OTHER]: B });
    expect(await store.write("web", ID, A, { onlyIfKeyIds: [] })).toEqual(REFUSED);
    expect(await store.write("web", OTHER, A)).toEqual(REFUSED);
    expect([contents(first), contents(second), contents(third)]).toEqual([{ [OTHER]: B }, {}, {}]);
  });

  it("is decided about by the next home when the first does not answer", async () => {
    const { store, first, second, third } = mirror({}, { [OTHER]: B });
    first.down = true;
    expect(await store.write("web", ID, A, { onlyIfKeyIds: [] })).toEqual(REFUSED);
    expect(contents(third)).toEqual({});
    expect(await store.write("web", ID, A, { onlyIfKeyIds: [OTHER] })).toEqual(WRITTEN);
    expect([contents(second), contents(third)]).toEqual([{ [OTHER]: B, [ID]: A }, { [ID]: A }]);
    expect(events).toEqual(
      Array(2).fill({ type: "key-ring-home-failed", ring: "web", home: 0, code: "STORE_UNAVAILABLE" }),
    );
  });

  it("is written when only the last home answers, and fails when none does", async () => {
    const { store, first, second, third } = mirror();
    first.down = second.down = true;
    expect(await store.write("web", ID, A)).toEqual(WRITTEN);
    expect(contents(third)).toEqual({ [ID]: A });
    third.down = true;
    const error = await store.write("web", OTHER, A).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ ...unavailable, cause: { errors: [unavailable, unavailable, unavailable] } });
  });

  it("is not put over another one in a home that was not asked first", async () => {
    const { store, first, second } = mirror({}, { [ID]: B });
    expect(await store.write("web", ID, A)).toEqual(WRITTEN);
    expect([contents(first), contents(second)]).toEqual([{ [ID]: A }, { [ID]: B }]);
  });

  it("is what it was when the write began, whatever the caller does with the array", async () => {
    const { store, third } = mirror();
    const record = Uint8Array.of(7);
    const writing = store.write("web", ID, record);
    record.fill(0);
    await writing;
    expect(contents(third)).toEqual({ [ID]: Uint8Array.of(7) });
  });
});

describe("a replacement", () => {
  it("goes to each home that holds what is expected, and to no other", async () => {
    const { store, first, second, third } = mirror({ [ID]: B, [OTHER]: A }, { [ID]: A }, { [OTHER]: A });
    expect(await store.write("web", ID, C, { expected: A })).toEqual(WRITTEN);
    expect(contents(first)).toEqual({ [ID]: B, [OTHER]: A });
    expect(contents(second)).toEqual({ [ID]: C });
    expect(contents(third)).toEqual({ [OTHER]: A });
  });

  it("goes on where an earlier one was cut short", async () => {
    const { store, first, second, third } = mirror({ [ID]: C }, { [ID]: A }, { [ID]: A });
    expect(await store.write("web", ID, C, { expected: A })).toEqual(WRITTEN);
    for (const home of [first, second, third]) expect(contents(home)).toEqual({ [ID]: C });
  });

  it("is refused when no home holds what is expected", async () => {
    const { store, first, second, third } = mirror({ [ID]: B }, { [ID]: B }, {});
    expect(await store.write("web", ID, C, { expected: A })).toEqual(REFUSED);
    expect([first, second, third].map(({ writes }) => writes)).toEqual([0, 0, 0]);
  });

  it("leaves out a home that is down, before it is asked or while it is", async () => {
    for (const method of ["read", "write"] as const) {
      const { store, first, second, third } = mirror({ [ID]: A }, { [ID]: A }, { [ID]: A });
      first[method] = (): Promise<never> => Promise.reject(new Error("down"));
      expect(await store.write("web", ID, B, { expected: A })).toEqual(WRITTEN);
      expect([contents(first), contents(second), contents(third)]).toEqual([{ [ID]: A }, { [ID]: B }, { [ID]: B }]);
    }
  });

  it("fails when no home can be read, or none of those that hold what is expected be written", async () => {
    const { store, first, second, third } = mirror({ [ID]: A }, { [ID]: B }, { [ID]: B });
    first.write = () => Promise.reject(new Error("read-only"));
    await expect(store.write("web", ID, C, { expected: A })).rejects.toMatchObject(unavailable);
    first.down = second.down = third.down = true;
    await expect(store.write("web", ID, C, { expected: B })).rejects.toMatchObject(unavailable);
  });

  it("that comes too late at the first home goes no further", async () => {
    const { store, first, second } = mirror({ [ID]: A }, { [ID]: A }, { [ID]: A });
    const { write } = first;
    first.write = (...args) => {
      fill(first, { [ID]: B });
      return write(...args);
    };
    expect(await store.write("web", ID, C, { expected: A })).toEqual(REFUSED);
    expect([contents(first), contents(second)]).toEqual([{ [ID]: B }, { [ID]: A }]);
  });
});

describe("durable", () => {
  it.each([
    ["one home holds the record and does not say so", 1, [false, false, false], false],
    ["one home holds the record and says so", 1, [true, false, false], true],
    ["two homes hold the record", 2, [false, false, false], true],
    ["the second home alone says so", 2, [false, true, false], true],
  ])("when %s", async (_, up, says, durable) => {
    const { store, first, second, third } = mirror();
    for (const [index, home] of [first, second, third].entries()) {
      home.durable = says[index] as boolean;
      home.down = index >= up;
    }
    expect(await store.write("web", ID, A)).toEqual({ written: true, durable });
    expect(await store.write("web", ID, B, { expected: A })).toEqual({ written: true, durable });
    expect(await store.write("web", ID, B, { expected: B })).toEqual({ written: true, durable });
  });

  it("counts no home that holds something else", async () => {
    const { store, first } = mirror({}, { [ID]: B }, { [ID]: B });
    first.durable = false;
    expect(await store.write("web", ID, A)).toEqual({ written: true, durable: false });
  });
});

describe("the clock", () => {
  it("is that of the first home that answers", async () => {
    const homes = [openRingStore(() => 1), openRingStore(() => 2), openRingStore(() => 3)] as const;
    const store = mirroredKeyRingStore(homes);
    for (const [index, home] of homes.entries()) {
      expect(await store.now()).toBe(index + 1);
      home.down = true;
    }
    await expect(store.now()).rejects.toMatchObject({ ...unavailable, cause: { errors: Array(3).fill(unavailable) } });
    // It belongs to no ring.
    expect(events).toEqual([]);
  });
});

describe("a home that hangs", () => {
  const failed = { type: "key-ring-home-failed", ring: "web", home: 0, code: "STORE_UNAVAILABLE" };

  function hanging(options: { homeTimeoutMs?: number } = {}) {
    const { first, second } = mirror({ [ID]: A }, { [ID]: A });
    const time = idleTime();
    const store = mirroredKeyRingStore([first, second], { schedule: time.schedule, ...options });
    return { first, second, time, store };
  }

  it.each([
    ["2000 ms by default", {}, 2000],
    ["homeTimeoutMs", { homeTimeoutMs: 50 }, 50],
  ])("counts as failed after %s, in every method", async (_, options, timeoutMs) => {
    const { first, second, time, store } = hanging(options);
    first.read = first.write = first.now = never;
    expect(await readFrom(store)).toEqual([`${ID} 1`]);
    expect(time.now).toBe(timeoutMs);
    expect(await store.write("web", OTHER, B)).toEqual(WRITTEN);
    expect(time.now).toBe(2 * timeoutMs);
    expect(await store.write("web", OTHER, C, { expected: B })).toEqual(WRITTEN);
    expect(time.now).toBe(3 * timeoutMs);
    expect(events).toEqual([failed, failed, failed]);
    expect(await store.now()).toBe(START);
    expect(time.now).toBe(4 * timeoutMs);
    second.read = second.write = second.now = never;
    for (const call of [store.read("web"), store.write("web", OTHER, B), store.now()]) {
      await expect(call).rejects.toMatchObject(unavailable);
    }
  });

  it("holds up a read no longer than once more when it takes no copies, and is sent no further ones", async () => {
    const { first, second, time, store } = hanging();
    fill(second, { [OTHER]: B, [THIRD]: C });
    const { promise, release } = held();
    const { write } = first;
    first.write = (...args) => promise.then(() => write(...args));
    const found = await store.read("web");
    expect(found).toHaveLength(3);
    expect(time.now).toBe(2000);
    expect(events).toEqual([failed]);
    // The arrays are the caller's, also while a copy is still on its way.
    for (const { record } of found) record.fill(0);
    release();
    await new Promise(setImmediate);
    expect(contents(first)).toEqual({ [ID]: A, [OTHER]: B });
    first.write = write;
    await store.read("web");
    expect(contents(first)).toEqual(contents(second));
  });

  it("may answer later: nobody hears it", async () => {
    const { first, store } = hanging();
    const { promise, release } = held();
    first.read = () => promise.then(() => Promise.reject(new Error("too late")));
    expect(await readFrom(store)).toEqual([`${ID} 1`]);
    release();
    await new Promise(setImmediate);
    expect(events).toEqual([failed]);
  });

  it("is no reason to leave timers behind: those of the homes that answered or failed are taken back", async () => {
    const { first, time, store } = hanging();
    first.read = () => {
      throw new Error("at once");
    };
    await store.read("web");
    await store.write("web", OTHER, B);
    await store.write("web", OTHER, C, { expected: B });
    await store.now();
    expect(time.timers.size).toBe(0);
    expect(time.now).toBe(0);
  });
});

describe("two processes of which each reaches another home", () => {
  /** Two processes with ways of their own to the same two places. */
  function split() {
    const base = openFixture();
    const homes = [openRingStore(base.now), openRingStore(base.now)] as const;
    const ways = [0, 1].map(() => homes.map(wayTo));
    const [one, two] = ways.map((own) => mirroredKeyRingStore(own)) as [KeyRingStore, KeyRingStore];
    const cut = (isCut: boolean) => {
      for (const [process, own] of ways.entries()) (own[1 - process] as { isCut: boolean }).isCut = isCut;
    };
    return { base, homes, one, two, cut };
  }

  it("both see what both wrote once they reach both, and so do the homes", async () => {
    const { one, two, cut, homes } = split();
    cut(true);
    expect(await one.write("web", ID, A, { onlyIfKeyIds: [] })).toEqual(WRITTEN);
    expect(await two.write("web", OTHER, B, { onlyIfKeyIds: [] })).toEqual(WRITTEN);
    expect([await readFrom(one), await readFrom(two)]).toEqual([[`${ID} 1`], [`${OTHER} 2`]]);
    expect(events[0]).toMatchObject({ home: 1, code: "EHOSTUNREACH" });
    cut(false);
    expect(await readFrom(one)).toEqual([`${ID} 1`, `${OTHER} 2`]);
    expect(await readFrom(two)).toEqual([`${ID} 1`, `${OTHER} 2`]);
    for (const home of homes) expect(contents(home)).toEqual({ [ID]: A, [OTHER]: B });
  });

  it("open each other's keys afterwards, and agree on the one that seals", async () => {
    const { base, one, two, cut } = split();
    const rings = [base.process({ store: one }), base.process({ store: two })] as const;
    for (const ring of rings) await ring.current();
    cut(true);
    for (const ring of rings) await ring.publish({ delayMs: 0 });
    base.advance(1);
    const keys = [await rings[0].current(), await rings[1].current()] as const;
    expect(keys[0].keyId).not.toBe(keys[1].keyId);
    cut(false);
    for (const ring of rings) await ring.refresh();
    expect((await rings[0].byId(keys[1].keyIdBytes)).keyId).toBe(keys[1].keyId);
    expect((await rings[1].byId(keys[0].keyIdBytes)).keyId).toBe(keys[0].keyId);
    expect((await rings[0].current()).keyId).toBe((await rings[1].current()).keyId);
  });
});

describe("a key ring with two homes", () => {
  function twoHomes() {
    const base = openFixture();
    const homes = [openRingStore(base.now), openRingStore(base.now)] as const;
    const store = mirroredKeyRingStore(homes);
    return { homes, start: () => base.process({ store }) };
  }

  const inOrder = ([first, second]: readonly [OpenRingStore, OpenRingStore], index: number) =>
    index === 0 ? ([first, second] as const) : ([second, first] as const);

  const recordIn = (home: OpenRingStore, keyId: string) =>
    decodeRecord(home.records.get(keyId) ?? new Uint8Array(0)) as KeyRecord;

  const stateIn = (home: OpenRingStore, keyId: string) => recordIn(home, keyId).state;

  const alter = (home: OpenRingStore, keyId: string, change: (record: KeyRecord) => KeyRecord | Uint8Array) =>
    overwrite(home, { keyId }, change(recordIn(home, keyId)));

  for (const [index, place] of ["first", "second"].entries()) {
    it(`goes on without the ${place} home, and a process that starts finds its keys in the other one`, async () => {
      const { homes, start } = twoHomes();
      const { keyIdBytes } = await start().current();
      const [lost] = inOrder(homes, index);
      lost.records.clear();
      lost.down = true;
      expect((await start().byId(keyIdBytes)).keyIdBytes).toEqual(keyIdBytes);
    });

    it(`brings back what the ${place} home lost under use`, async () => {
      const { homes, start } = twoHomes();
      const ring = start();
      await ring.current();
      await ring.publish();
      const [lost] = inOrder(homes, index);
      const before = contents(lost);
      expect(Object.keys(before)).toHaveLength(2);
      lost.records.clear();
      await ring.refresh();
      expect(contents(lost)).toEqual(before);
    });

    it(`honours a revocation that lies in the ${place} home only`, async () => {
      const { homes, start } = twoHomes();
      const running = start();
      const { keyId, keyIdBytes } = await running.current();
      const [revoked, other] = inOrder(homes, index);
      alter(revoked, keyId, (record) => ({ ...record, state: RecordState.revoked }));
      expect(await codeThrown(start().byId(keyIdBytes))).toBe("KEY_REVOKED");
      await running.refresh();
      expect(await codeThrown(running.byId(keyIdBytes))).toBe("KEY_REVOKED");
      revoked.records.clear();
      expect(await codeThrown(start().byId(keyIdBytes))).toBe("KEY_REVOKED");
      expect(stateIn(other, keyId)).toBe(RecordState.revoked);
    });

    it(`revokes a key while the ${place} home is down, and there too once it is back`, async () => {
      const { homes, start } = twoHomes();
      const [one, two] = [start(), start()];
      const { keyId, keyIdBytes } = await one.current();
      await two.byId(keyIdBytes);
      const [away, other] = inOrder(homes, index);
      away.down = true;
      await one.revoke(keyId);
      expect(await codeThrown(one.byId(keyIdBytes))).toBe("KEY_REVOKED");
      one.close();
      away.down = false;
      expect([stateIn(away, keyId), stateIn(other, keyId)]).toEqual([RecordState.enabled, RecordState.revoked]);
      await two.refresh();
      expect(await codeThrown(two.byId(keyIdBytes))).toBe("KEY_REVOKED");
      expect((await two.current()).keyId).not.toBe(keyId);
      expect(contents(away)).toEqual(contents(other));
      expect(stateIn(away, keyId)).toBe(RecordState.revoked);
    });

    it.each<[string, (record: KeyRecord) => KeyRecord | Uint8Array]>([
      ["is garbage", () => Uint8Array.of(0xc1)],
      ["has another commitment", withAnotherCommitment],
      ["has another wrap", (record) => ({ ...record, wraps: [{ kms: "fake", wrapped: Uint8Array.of(0xff) }] })],
    ])(`opens a key whose copy in the ${place} home %s, and mends it`, async (_, change) => {
      const { homes, start } = twoHomes();
      const { keyId, keyIdBytes } = await start().current();
      const [altered, other] = inOrder(homes, index);
      alter(altered, keyId, change);
      const ring = start();
      expect((await ring.byId(keyIdBytes)).keyId).toBe(keyId);
      // The first one may only find out that the copies differ.
      for (let n = 0; n < 2; n++) await ring.refresh();
      expect(contents(altered)).toEqual(contents(other));
      altered.records.clear();
      expect((await start().byId(keyIdBytes)).keyId).toBe(keyId);
    });

    it(`takes a revocation to the ${place} home, which was away, also by a process that starts after it`, async () => {
      const { homes, start } = twoHomes();
      const one = start();
      const { keyId, keyIdBytes } = await one.current();
      const [away, other] = inOrder(homes, index);
      away.down = true;
      await one.revoke(keyId);
      one.close();
      away.down = false;
      const two = start();
      await two.current();
      for (let n = 0; n < 3; n++) await two.refresh();
      expect(await codeThrown(two.byId(keyIdBytes))).toBe("KEY_REVOKED");
      expect(stateIn(away, keyId)).toBe(RecordState.revoked);
      other.records.clear();
      expect(await codeThrown(start().byId(keyIdBytes))).toBe("KEY_REVOKED");
    });
  }
});
