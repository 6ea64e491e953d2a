/**
 * What somebody can do who writes into the ring's store, and what comes of it: one block for each row of docs/tampering.md, under the name of
 * the row. The process that runs knows the key; the one that starts has only what the store holds.
 */
import { describe, expect, it } from "vitest";
import { deriveKeys, encodeRecord, type KeyRecord, keyIdOf, RecordState } from "../src/data-key.js";
import { SealedSessionError } from "../src/errors.js";
import type { KeyRing, KeyRingOptions } from "../src/key-ring.js";
import { requireWrite } from "../src/key-ring-store.js";
import type { Kms } from "../src/kms.js";
import { encryptionContext } from "../src/kms-set.js";
import { memoryStore } from "../src/memory-store.js";
import { Sealer, type SealerOptions } from "../src/sealer.js";
import { storedIdOf } from "../src/session-id.js";
import { SessionStore } from "../src/session-store.js";
import { fakeKms } from "./support/fake-kms.js";
import { codeThrown, HOUR, MINUTE, START } from "./support/fixture.js";
import { collectEvents, everyMinute, type OpenFixture, openFixture, sealingKeyId } from "./support/open-fixture.js";
import {
  fillWithJunk,
  junkRecord,
  type OpenRingStore,
  overwrite,
  withAnotherCommitment,
} from "./support/open-ring-store.js";

const SESSION = { user_id: 1 };
const SESSION_ID = "0123456789abcdef";
const ID = storedIdOf(SESSION_ID) as string;
const MOST_CALLS = 64;
const MOST_KEPT = 1024;
const events = collectEvents();

/** What a process has asked its KMSs: how often to unwrap, and how many of these calls at once. */
interface Asked {
  unwraps: number;
  atOnce: number;
}

/** A process of the ring `web`. */
interface Process {
  readonly ring: KeyRing;
  readonly asked: Asked;
}

/** A ring at work: one key, what it has sealed, and a process that holds it. */
interface World extends OpenFixture, Process {
  readonly keyId: string;
  readonly keyIdBytes: Uint8Array;
  /** The key's record as it was published. */
  readonly original: KeyRecord;
  readonly envelope: Uint8Array;
  /** Starts another process. */
  start(options?: Partial<KeyRingOptions>): Process;
}

async function atWork(options: Partial<KeyRingOptions> = {}): Promise<World> {
  const base = openFixture(options);
  checkArguments(base.store);
  const start = (own: Partial<KeyRingOptions> = {}): Process => {
    const asked = { unwraps: 0, atOnce: 0 };
    const kms = [own.kms ?? options.kms ?? base.kms].flat().map((each) => watched(each, asked));
    return { ring: base.process({ ...own, kms }), asked };
  };
  const running = start();
  const { keyId, keyIdBytes } = await running.ring.current();
  const envelope = await sealerOf(running).seal(SESSION, ID);
  // A key that is published from now on is the newer one.
  base.advance(1);
  return { ...base, ...running, start, keyId, keyIdBytes: keyIdBytes.slice(), original: base.stored(keyId), envelope };
}

/** Every store of a fleet checks what it is given; the open one does not. */
function checkArguments(store: OpenRingStore): void {
  const { write } = store;
  store.write = async (ring, keyId, record, options = {}) => {
    requireWrite(ring, keyId, record, options);
    return write(ring, keyId, record, options);
  };
}

function watched(kms: Kms, asked: Asked): Kms {
  let now = 0;
  return {
    name: kms.name,
    generate: (...args) => kms.generate(...args),
    wrap: (...args) => kms.wrap(...args),
    async unwrap(...args) {
      asked.unwraps++;
      asked.atOnce = Math.max(asked.atOnce, ++now);
      // Long enough for all that are started together to meet.
      await new Promise((resolve) => setImmediate(resolve));
      try {
        return await kms.unwrap(...args);
      } finally {
        now--;
      }
    },
  };
}

/** @returns How often a process asks to unwrap while something is done. */
async function unwrapsOf({ asked }: Process, run: () => Promise<unknown>): Promise<number> {
  const before = asked.unwraps;
  await run();
  return asked.unwraps - before;
}

/** Seals and opens in a process, where somebody else counts what it seals. */
function sealerOf({ ring }: Process, options: Partial<SealerOptions> = {}): Sealer {
  return new Sealer({ ring, counted: true, ...options });
}

/** @returns `opens`, or the code of the error. */
async function opening(process: Process, envelope: Uint8Array, options: Partial<SealerOptions> = {}): Promise<unknown> {
  try {
    expect(await sealerOf(process, options).open(envelope, ID)).toEqual(SESSION);
    return "opens";
  } catch (error) {
    const { code } = error as { code?: unknown };
    if (code === undefined) throw error;
    return code;
  }
}

/** @returns What a request gets: its session, `undefined` where there is none, or the code of the error. */
async function request(
  { ring }: Process,
  envelope: Uint8Array,
  options: Partial<SealerOptions> = {},
): Promise<unknown> {
  const store = memoryStore({ clock: ring.clock });
  await store.set(ID, envelope, { ttlMs: HOUR });
  const session = new SessionStore({ ring, store, ...options }).get(SESSION_ID);
  return session.catch((error: { code?: unknown }) => error.code ?? error);
}

/** @returns The id of the key under which a process seals. */
async function sealing(process: Process): Promise<string> {
  const envelope = await sealerOf(process).seal(SESSION, ID);
  return Buffer.from(envelope.subarray(2, 14)).toString("base64url");
}

/** @returns Why records under this id were refused, each reason once. */
function refusals(keyId: string): string[] {
  const reasons = events.flatMap((event) =>
    event.type === "key-record-refused" && event.keyId === keyId ? [event.reason] : [],
  );
  return [...new Set(reasons)];
}

/** @returns The ids of the records that were put back. */
function restored(): string[] {
  return events.flatMap((event) => (event.type === "key-record-restored" ? [event.keyId] : []));
}

/** @returns The record of a key of the ring that a KMS opens. */
async function newKey(kms: Kms, activatesAt: number): Promise<KeyRecord> {
  const { dataKey, wrapped } = await kms.generate(encryptionContext("web", activatesAt));
  const { commitment } = deriveKeys(dataKey);
  return { commitment, activatesAt, state: RecordState.enabled, wraps: [{ kms: kms.name, wrapped }] };
}

const idBytes = (keyId: string) => new Uint8Array(Buffer.from(keyId, "base64url"));
const junkWrap = (kms: string, byte = 0xff) => ({ kms, wrapped: Uint8Array.of(byte) });
/** A record without the wraps that somebody added under names that no process knows. */
const ours = (record: KeyRecord): KeyRecord => ({
  ...record,
  wraps: record.wraps.filter(({ kms }) => !kms.startsWith("x")),
});
const inState = (record: KeyRecord, state: KeyRecord["state"]): KeyRecord => ({
  ...record,
  state,
  wraps: state === RecordState.retired ? [] : record.wraps,
});

/** What is known of a record that was spoiled. */
interface Spoilt {
  /** Why a process that starts refuses it; none when it has nothing to ask a KMS. */
  readonly refusal?: string;
  /** What becomes of its sessions in such a process. @defaultValue KEY_UNAVAILABLE */
  readonly meanwhile?: string;
  /** Calls by which the process that runs finds out. */
  readonly unwraps: number;
}

/** Spoils the key's record: who runs goes on and puts it back, who starts has to wait for that, and seals under a key of its own. */
async function expectPutBack(world: World, spoil: () => unknown, { refusal, meanwhile, unwraps }: Spoilt) {
  const { ring, store, stored, keyId, original, envelope, start } = world;
  await spoil();
  const starting = start();
  expect(await opening(starting, envelope)).toBe(meanwhile ?? "KEY_UNAVAILABLE");
  expect(refusals(keyId)).toEqual(refusal === undefined ? [] : [refusal]);
  const own = await sealing(starting);
  expect(own).not.toBe(keyId);
  expect(events).toContainEqual(expect.objectContaining({ type: "key-published", keyId: own }));
  const others = [...store.records].filter(([id]) => id !== keyId);

  expect(sealingKeyId(ring)).toBe(keyId);
  // One call more is for the key of the other process.
  expect(await unwrapsOf(world, () => ring.refresh())).toBe(unwraps + 1);
  expect(await opening(world, envelope)).toBe("opens");
  expect(ours(stored(keyId))).toEqual(original);
  expect([...store.records].filter(([id]) => id !== keyId)).toEqual(others);
  expect(restored()).toEqual([keyId]);

  for (const process of [starting, start()]) {
    await process.ring.refresh();
    expect(await opening(process, envelope)).toBe("opens");
    expect(await sealing(process)).toBe(own);
  }
}

describe("changes the time of a key", () => {
  it.each([
    ["to an earlier one", 1, "no KMS opens it"],
    ["to one by which it would be the newest", START + 1, "no KMS opens it"],
    ["to a later one", START + HOUR, "no KMS opens it"],
    ["to one too far ahead", START + 49 * HOUR, "too far in the future"],
  ])("%s", async (_, activatesAt, refusal) => {
    const world = await atWork();
    const { store, original } = world;
    await expectPutBack(world, () => overwrite(store, world, { ...original, activatesAt }), { refusal, unwraps: 0 });
  });
});

const ENDED = {
  revoked: [RecordState.revoked, "KEY_REVOKED"],
  retired: [RecordState.retired, "KEY_RETIRED"],
} as const;

describe("revokes or retires a key", () => {
  it.each([
    ["revoked", (record: KeyRecord) => inState(record, RecordState.revoked)],
    ["retired", (record: KeyRecord) => inState(record, RecordState.retired)],
    ["retired", (record: KeyRecord) => ({ ...record, state: RecordState.retired })],
  ] as const)("%s: its sessions count as gone, and another key seals (5.4)", async (name, end) => {
    const world = await atWork();
    const { ring, store, stored, keyId, original, envelope, start } = world;
    expect(await request(world, envelope)).toEqual(SESSION);
    const [state, code] = ENDED[name];
    overwrite(store, world, end(original));
    await ring.refresh();
    expect(events).toContainEqual({ type: "key-ended", ring: "web", keyId, state: name });
    expect(sealingKeyId(ring)).toBeUndefined();
    const starting = start();
    for (const process of [world, starting]) {
      expect(await opening(process, envelope)).toBe(code);
      expect(await sealing(process)).not.toBe(keyId);
    }
    expect(await request(world, envelope)).toBeUndefined();
    expect(events).toContainEqual({ type: "session-dropped", code });
    // Nobody asked a KMS about it, and they share the new key: one call each.
    expect(starting.asked.unwraps).toBe(1);
    expect(world.asked.unwraps).toBe(2);
    expect(stored(keyId)).toEqual(inState(original, state));
  });
});

/** What both rows say about a key that has ended: no process that knows it takes it back, and it is put back as it was. */
function staysEnded(name: keyof typeof ENDED): void {
  const [state, code] = ENDED[name];
  const detours: [string, (world: World) => void][] = [
    [
      "a record with another commitment",
      (world) => overwrite(world.store, world, withAnotherCommitment(world.original)),
    ],
    ["nothing at all", ({ store, keyId }) => void store.records.delete(keyId)],
    ["bytes that are no record", (world) => overwrite(world.store, world, Uint8Array.of(1))],
    [
      "a record of another time",
      (world) => overwrite(world.store, world, { ...world.original, activatesAt: START + 1 }),
    ],
  ];

  it.each(detours)("stays so when %s and then the enabled record are put in its place", async (_, detour) => {
    const world = await atWork();
    const { store, keyIdBytes, original, start } = world;
    overwrite(store, world, inState(original, state));
    await world.ring.refresh();
    // It never verified the key: it came when the key had ended already.
    const late = start();
    await late.ring.refresh();
    for (const { ring } of [world, late]) {
      detour(world);
      await ring.refresh();
      expect(await codeThrown(ring.byId(keyIdBytes))).toBe(code);
      overwrite(store, world, original);
      await ring.refresh();
      expect(await codeThrown(ring.byId(keyIdBytes))).toBe(code);
      expect(ring.byIdIfWarm(keyIdBytes)).toBeUndefined();
      expect(sealingKeyId(ring)).toBeUndefined();
    }
  });

  it("whose state was lowered in the store is put back by a process that had verified it", async () => {
    const world = await atWork();
    const { ring, store, stored, keyId, original, envelope, start } = world;
    overwrite(store, world, inState(original, state));
    await ring.refresh();
    overwrite(store, world, original);
    await ring.refresh();
    expect(stored(keyId)).toEqual(inState(original, state));
    expect(restored()).toEqual([keyId]);
    expect(await opening(start(), envelope)).toBe(code);
  });

  it("that was deleted from the store is put back as it was", async () => {
    const world = await atWork();
    const { ring, store, stored, keyId, original } = world;
    overwrite(store, world, inState(original, state));
    await ring.refresh();
    store.records.clear();
    await ring.refresh();
    expect(stored(keyId)).toEqual(inState(original, state));
  });

  it("opens again in a process that starts before it is put back, and not after that", async () => {
    const world = await atWork();
    const { ring, store, original, envelope, start } = world;
    overwrite(store, world, inState(original, state));
    await ring.refresh();
    overwrite(store, world, original);
    const starting = start();
    expect(await opening(starting, envelope)).toBe("opens");
    await ring.refresh();
    await starting.ring.refresh();
    for (const process of [starting, start()]) expect(await opening(process, envelope)).toBe(code);
  });
}

describe("takes a revocation back", () => {
  staysEnded("revoked");

  it("while only processes run that never opened the key: they put it back too", async () => {
    const world = await atWork();
    const { store, stored, keyId, original, envelope, start } = world;
    overwrite(store, world, inState(original, RecordState.revoked));
    const late = start();
    await late.ring.refresh();
    overwrite(store, world, original);
    await late.ring.refresh();
    expect(stored(keyId).state).toBe(RecordState.revoked);
    expect(restored()).toEqual([keyId]);
    expect(await opening(start(), envelope)).toBe("KEY_REVOKED");
  });
});

describe("puts back the record of a retired key", () => staysEnded("retired"));

describe("brings back a key that revokedKeyIds lists", () => {
  const comebacks: [string, (world: World) => void][] = [
    ["as it was", () => {}],
    ["after its revocation", (world) => overwrite(world.store, world, inState(world.original, RecordState.revoked))],
    ["after its retirement", (world) => overwrite(world.store, world, inState(world.original, RecordState.retired))],
    ["after nothing at all", ({ store }) => store.records.clear()],
    ["after another commitment", (world) => overwrite(world.store, world, withAnotherCommitment(world.original))],
    ["after bytes that are no record", (world) => overwrite(world.store, world, Uint8Array.of(1))],
  ];

  it.each(comebacks)("%s: it neither opens nor seals, and no KMS is asked (5.1)", async (_, before) => {
    const world = await atWork();
    const { store, keyId, keyIdBytes, original, envelope, start } = world;
    const inline = sealerOf(world, { inlineKeys: "write" }).sealSync(SESSION, ID);
    const listing = { revokedKeyIds: [keyId] };
    const running = start(listing);
    before(world);
    await running.ring.refresh();
    overwrite(store, world, original);
    for (const process of [running, start(listing)]) {
      await process.ring.refresh();
      expect(await codeThrown(process.ring.byId(keyIdBytes))).toBe("KEY_REVOKED");
      expect(await opening(process, envelope)).toBe("KEY_REVOKED");
      expect(await opening(process, inline, { inlineKeys: "read" })).toBe("KEY_REVOKED");
      expect(["revoked", "retired"]).toContain(process.ring.status().find((key) => key.keyId === keyId)?.state);
      expect(process.asked.unwraps).toBe(0);
    }
    expect(await sealing(running)).not.toBe(keyId);
    await running.ring.ready();
    expect(await request(running, envelope)).toBeUndefined();
    expect(events).toContainEqual({ type: "session-dropped", code: "KEY_REVOKED" });
  });

  it("also in an envelope that brings the key's record, where the ring has none", async () => {
    const world = await atWork();
    const inline = sealerOf(world, { inlineKeys: "write" }).sealSync(SESSION, ID);
    world.store.records.clear();
    const starting = world.start({ revokedKeyIds: [world.keyId] });
    expect(await opening(starting, inline, { inlineKeys: "read" })).toBe("KEY_REVOKED");
    expect(starting.asked.unwraps).toBe(0);
    expect(await opening(world.start(), inline, { inlineKeys: "read" })).toBe("opens");
  });
});

describe("replaces a wrap by junk", () => {
  it("at the cost of two calls for each piece of junk and process: one for it, and one for the wrap that is known", async () => {
    const world = await atWork();
    const { ring, store, stored, keyId, original } = world;
    const spoil = (byte: number) => overwrite(store, world, { ...original, wraps: [junkWrap("fake", byte)] });
    await expectPutBack(world, () => spoil(0xff), { refusal: "no KMS opens it", unwraps: 2 });
    expect(refusals(keyId)).toContain("another wrap that does not open");
    // The same junk again is known for what it is.
    spoil(0xff);
    expect(await unwrapsOf(world, () => ring.refresh())).toBe(0);
    expect(stored(keyId)).toEqual(original);
  });

  it("while no KMS answers: it stays until one does, since it may be a new wrap of the same key", async () => {
    const world = await atWork();
    const { ring, kms, store, stored, keyId, original, envelope, advance } = world;
    overwrite(store, world, { ...original, wraps: [junkWrap("fake")] });
    kms.failWith = "KMS_UNREACHABLE";
    await ring.refresh();
    expect(stored(keyId).wraps).toEqual([junkWrap("fake")]);
    expect(await opening(world, envelope)).toBe("opens");
    kms.failWith = undefined;
    advance(MINUTE);
    await ring.refresh();
    expect(stored(keyId)).toEqual(original);
  });
});

describe("replaces a wrap by that of another key of the ring", () => {
  it.each([
    ["of another time: the KMS refuses it (5.2)", START + 1],
    ["of the same time: the KMS opens it, and the commitment does not agree (1.3)", START],
  ])("%s", async (_, activatesAt) => {
    const world = await atWork();
    const { kms, store, keyId, original } = world;
    const { wrapped } = await kms.generate(encryptionContext("web", activatesAt));
    const spoil = () => overwrite(store, world, { ...original, wraps: [{ kms: "fake", wrapped }] });
    await expectPutBack(world, spoil, { refusal: "no KMS opens it", unwraps: 2 });
    expect(refusals(keyId)).toContain("another wrap that does not open");
  });
});

describe("replaces a wrap by one of another ring", () => {
  it("which the KMS refuses, as it is bound to that ring (5.2)", async () => {
    const world = await atWork();
    const { kms, store, keyId, original } = world;
    const { wrapped } = await kms.generate(encryptionContext("other", START));
    const spoil = () => overwrite(store, world, { ...original, wraps: [{ kms: "fake", wrapped }] });
    await expectPutBack(world, spoil, { refusal: "no KMS opens it", unwraps: 2 });
    expect(refusals(keyId)).toContain("another wrap that does not open");
  });
});

describe("removes a wrap", () => {
  it("the only one of ours: nothing is left to ask a KMS for", async () => {
    const world = await atWork();
    const { store, original } = world;
    await expectPutBack(world, () => overwrite(store, world, { ...original, wraps: [junkWrap("x")] }), { unwraps: 0 });
  });

  it("one of two: the other still opens the key, and it is put back without a call", async () => {
    const world = await atWork({ kms: [fakeKms("a"), fakeKms("b")] });
    const { ring, store, stored, keyId, original, envelope, start } = world;
    overwrite(store, world, { ...original, wraps: original.wraps.slice(1) });
    const starting = start();
    expect(await opening(starting, envelope)).toBe("opens");
    expect(await sealing(starting)).toBe(keyId);
    expect(await unwrapsOf(world, () => ring.refresh())).toBe(0);
    expect(stored(keyId)).toEqual(original);
    expect(restored()).toEqual([keyId]);
  });
});

describe("adds a wrap under a name that no process knows", () => {
  const settle = async ({ store }: World, rings: KeyRing[]) => {
    for (const ring of rings) await ring.refresh();
    store.changes.length = 0;
    const before = store.writes;
    for (let round = 0; round < 5; round++) for (const ring of rings) await ring.refresh();
    return { changes: store.changes.length, writes: store.writes - before };
  };
  const QUIET = { changes: 0, writes: 0 };

  it("which is kept, asks no KMS, and keeps nobody from opening the key", async () => {
    const world = await atWork();
    const { ring, store, stored, keyId, original, envelope, start } = world;
    overwrite(store, world, { ...original, wraps: [junkWrap("x"), ...original.wraps] });
    expect(await unwrapsOf(world, () => ring.refresh())).toBe(0);
    const starting = start();
    for (const process of [world, starting]) {
      expect(await opening(process, envelope)).toBe("opens");
      expect(await sealing(process)).toBe(keyId);
    }
    expect(starting.asked.unwraps).toBe(1);
    expect(ours(stored(keyId))).toEqual(original);
    expect([...refusals(keyId), ...restored()]).toEqual([]);
    expect(ring.status().map(({ kms }) => kms)).toEqual([["fake", "x"]]);
  });

  it("and sets no processes against each other that have the KMSs in orders of their own", async () => {
    const [a, b] = [fakeKms("a"), fakeKms("b")];
    const world = await atWork({ kms: [a, b] });
    const { store, stored, keyId, original, start } = world;
    const other = start({ kms: [b, a] });
    await other.ring.current();
    overwrite(store, world, { ...original, wraps: [...original.wraps].reverse() });
    expect(await settle(world, [world.ring, other.ring])).toEqual(QUIET);
    expect(stored(keyId).wraps.map(({ kms }) => kms)).toEqual(["b", "a"]);
  });

  it.each([
    ["under another name", junkWrap("x"), junkWrap("y"), ["fake", "x", "y"]],
    ["under the same name", junkWrap("x", 1), junkWrap("x", 2), ["fake", "x"]],
  ])("nor those of which each has seen another one, %s", async (_, first, second, names) => {
    const world = await atWork();
    const { ring, store, stored, keyId, original, start } = world;
    const other = start();
    overwrite(store, world, { ...original, wraps: [...original.wraps, first] });
    await ring.refresh();
    overwrite(store, world, { ...original, wraps: [...original.wraps, second] });
    await other.ring.refresh();
    expect(await settle(world, [ring, other.ring])).toEqual(QUIET);
    expect(new Set(stored(keyId).wraps.map(({ kms }) => kms))).toEqual(new Set(names));
  });

  it("nor those that have seen more of them than fit together", async () => {
    const world = await atWork();
    const { ring, store, stored, keyId, original, start } = world;
    const full = (prefix: string) => ({
      ...original,
      wraps: [...original.wraps, ...[1, 2, 3, 4, 5, 6, 7].map((n) => junkWrap(`${prefix}${n}`, n))],
    });
    const other = start();
    overwrite(store, world, full("x"));
    await ring.refresh();
    overwrite(store, world, full("y"));
    await other.ring.refresh();
    expect(await settle(world, [ring, other.ring])).toEqual(QUIET);
    expect(stored(keyId).wraps.map(({ kms }) => kms)).toContain("fake");
  });

  it("nor does a record that somebody wrote anew count as confirmed: it is written once more, as it is (5.4)", async () => {
    const world = await atWork();
    const { ring, store, stored, keyId, original } = world;
    await ring.refresh();
    const { writes } = store;
    overwrite(store, world, { ...original, wraps: [...original.wraps, junkWrap("x")] });
    for (let i = 0; i < 3; i++) await ring.refresh();
    expect(store.writes).toBe(writes + 1);
    expect(stored(keyId).wraps).toHaveLength(2);
  });
});

describe("adds a wrap under the name of a KMS of ours", () => {
  it("which costs a process that starts one call more, and does not keep a key that the other KMS denies", async () => {
    const [a, b] = [fakeKms("a"), fakeKms("b")];
    const world = await atWork({ kms: a });
    const { store, keyId, original, envelope, start, advance } = world;
    overwrite(store, world, { ...original, wraps: [...original.wraps, junkWrap("b")] });
    const starting = start({ kms: [b, a] });
    expect(await sealing(starting)).toBe(keyId);
    expect(starting.asked.unwraps).toBe(2);
    expect(events).toContainEqual({ type: "kms-failed", ring: "web", kms: "b", code: "KMS_DENIED" });
    expect(await opening(starting, envelope)).toBe("opens");

    a.failWith = "KMS_DENIED";
    advance(5 * MINUTE + 1);
    expect(await opening(starting, envelope)).toBe("KEY_DENIED");
    expect(events).toContainEqual({ type: "key-denied", ring: "web", keyId, kms: "a" });
  });

  it("and keeps such a key only while the other KMS gives no answer, up to outageLimitMs", async () => {
    const [a, b] = [fakeKms("a"), fakeKms("b")];
    const world = await atWork({ kms: a, outageLimitMs: HOUR });
    const { store, keyId, original, envelope, start, advance } = world;
    overwrite(store, world, { ...original, wraps: [...original.wraps, junkWrap("b")] });
    const starting = start({ kms: [a, b] });
    expect(await sealing(starting)).toBe(keyId);
    a.failWith = "KMS_DENIED";
    b.failWith = "KMS_UNREACHABLE";
    await everyMinute({ advance }, 60, async () => expect(await opening(starting, envelope)).toBe("opens"));
    advance(10 * MINUTE);
    expect(await opening(starting, envelope)).toBe("KEY_UNAVAILABLE");
    expect(events).toContainEqual({ type: "key-suspended", ring: "web", keyId });
  });

  it("beside one that is there, which is no record at all", async () => {
    const world = await atWork();
    const { store, original } = world;
    const twice = Buffer.from(encodeRecord({ ...original, wraps: [...original.wraps, junkWrap("fakf")] }));
    twice[twice.lastIndexOf("fakf") + 3] = "e".charCodeAt(0);
    const spoil = () => overwrite(store, world, Uint8Array.from(twice));
    await expectPutBack(world, spoil, { refusal: "malformed", unwraps: 0 });
  });
});

describe("fills a record with wraps and leaves ours out", () => {
  const full: [string, KeyRecord["wraps"]][] = [
    ["eight of them", [1, 2, 3, 4, 5, 6, 7, 8].map((n) => junkWrap(`x${n}`, n))],
    ["8 KiB of them", ["x1", "x2"].map((kms) => ({ kms, wrapped: new Uint8Array(4060) }))],
  ];

  it.each(full)("%s: ours takes the place of as many as it needs", async (_, wraps) => {
    const world = await atWork();
    const { store, stored, keyId, original } = world;
    await expectPutBack(world, () => overwrite(store, world, { ...original, wraps }), { unwraps: 0 });
    expect(stored(keyId).wraps.length).toBeGreaterThan(1);
  });
});

describe("swaps two rings", () => {
  it("of which no KMS opens a record of the other's (5.2), and each is put back", async () => {
    const kms = fakeKms();
    const [web, other] = [await atWork({ kms }), await atWork({ kms, name: "other" })];
    const contents = [new Map(web.store.records), new Map(other.store.records)] as const;
    const fill = ({ store }: World, records: Map<string, Uint8Array>) => {
      store.records.clear();
      for (const [keyId, record] of records) store.records.set(keyId, record);
    };
    fill(web, contents[1]);
    fill(other, contents[0]);
    for (const [world, stranger] of [
      [web, other],
      [other, web],
    ] as const) {
      const starting = world.start();
      expect(await opening(starting, stranger.envelope)).toBe("KEY_UNAVAILABLE");
      expect(refusals(stranger.keyId)).toEqual(["no KMS opens it"]);
      expect(await opening(starting, world.envelope)).toBe("ENVELOPE_REJECTED");
      expect(await sealing(starting)).not.toBe(stranger.keyId);

      // For the record of the other ring and the key of the other process.
      expect(await unwrapsOf(world, () => world.ring.refresh())).toBe(2);
      expect(await opening(world, world.envelope)).toBe("opens");
      expect(await opening(world, stranger.envelope)).toBe("KEY_UNAVAILABLE");
      expect(world.stored(world.keyId)).toEqual(world.original);
      await starting.ring.refresh();
      expect(await opening(starting, world.envelope)).toBe("opens");
    }
    expect(restored()).toEqual([web.keyId, other.keyId]);
  });
});

describe("copies a record under another key id", () => {
  it("a free one: the copy is no record, and asks no KMS", async () => {
    const world = await atWork();
    const { ring, store, keyId, original, envelope, start } = world;
    const { keyId: free } = junkRecord(1, START);
    overwrite(store, { keyId: free }, original);
    expect(await unwrapsOf(world, () => ring.refresh())).toBe(0);
    const starting = start();
    for (const process of [world, starting]) {
      expect(await opening(process, envelope)).toBe("opens");
      expect(await sealing(process)).toBe(keyId);
      expect(await codeThrown(process.ring.byId(idBytes(free)))).toBe("KEY_UNAVAILABLE");
    }
    expect(starting.asked.unwraps).toBe(1);
    expect(refusals(free)).toEqual(["malformed"]);
  });

  it("that of another key: this one is put back", async () => {
    const world = await atWork();
    const { store, stored, ring, advance } = world;
    const newer = await ring.publish({ delayMs: 0 });
    advance(1);
    const record = stored(newer);
    expect(sealingKeyId(ring) ?? (await sealing(world))).toBe(newer);
    overwrite(store, { keyId: newer }, world.original);
    const starting = world.start();
    expect(await codeThrown(starting.ring.byId(idBytes(newer)))).toBe("KEY_UNAVAILABLE");
    expect(await sealing(starting)).toBe(world.keyId);
    expect(refusals(newer)).toEqual(["malformed"]);
    expect(await unwrapsOf(world, () => ring.refresh())).toBe(0);
    expect(stored(newer)).toEqual(record);
    expect(restored()).toEqual([newer]);
    await starting.ring.refresh();
    expect(await sealing(starting)).toBe(newer);
  });
});

describe("writes another commitment under a key id", () => {
  it("which no KMS confirms (1.3)", async () => {
    const world = await atWork();
    const { store, keyId, original } = world;
    const spoil = () => overwrite(store, world, withAnotherCommitment(original));
    await expectPutBack(world, spoil, { refusal: "no KMS opens it", unwraps: 1 });
    expect(refusals(keyId)).toContain("another commitment");
  });

  it("and revokes that record: who runs does not believe it, who starts does until its own restart", async () => {
    const world = await atWork();
    const { ring, store, stored, original, keyId, envelope, start } = world;
    overwrite(store, world, inState(withAnotherCommitment(original), RecordState.revoked));
    const starting = start();
    expect(await opening(starting, envelope)).toBe("KEY_REVOKED");
    await ring.refresh();
    expect(await opening(world, envelope)).toBe("opens");
    expect(stored(keyId)).toEqual(original);
    await starting.ring.refresh();
    expect(stored(keyId)).toEqual(original);
    expect(await opening(starting, envelope)).toBe("KEY_REVOKED");
    expect(await opening(start(), envelope)).toBe("opens");
  });
});

describe("writes values that are no records", () => {
  const values: [string, (record: KeyRecord) => Uint8Array][] = [
    ["malformed", () => Uint8Array.of(1, 2, 3)],
    ["empty", () => new Uint8Array(0)],
    ["too long", () => new Uint8Array(8193)],
    ["a record and a byte", (record) => Uint8Array.of(...encodeRecord(record), 0)],
    ["that of another key", () => encodeRecord(junkRecord(1, START).record)],
  ];

  it.each(values)("%s: the key counts as unavailable, not its sessions as bad, and is put back", async (_, make) => {
    const world = await atWork();
    const { store, original } = world;
    await expectPutBack(world, () => overwrite(store, world, make(original)), { refusal: "malformed", unwraps: 0 });
  });

  it.each(values)("%s: the key can be revoked all the same", async (_, make) => {
    const world = await atWork();
    const { ring, store, stored, keyId, original, envelope } = world;
    overwrite(store, world, make(original));
    await ring.revoke(keyId);
    expect(stored(keyId)).toEqual(inState(original, RecordState.revoked));
    expect(await opening(world, envelope)).toBe("KEY_REVOKED");
  });

  it("and a session whose record has gone is rejected again", async () => {
    const world = await atWork();
    const starting = world.start();
    overwrite(world.store, world, Uint8Array.of(1));
    expect(await opening(starting, world.envelope)).toBe("KEY_UNAVAILABLE");
    world.store.records.clear();
    expect(await opening(world.start(), world.envelope)).toBe("ENVELOPE_REJECTED");
  });

  it("under fields that are no key ids: nobody sees them, and a new key can be published", async () => {
    const world = await atWork();
    const { store, keyId, ring, advance, start } = world;
    for (const field of ["", "__proto__", "meta", "A".repeat(15), "A".repeat(17), `${"A".repeat(15)}=`]) {
      store.records.set(field, store.records.get(keyId) as Uint8Array);
    }
    const starting = start();
    expect(await sealing(starting)).toBe(keyId);
    expect(starting.ring.status().map((key) => key.keyId)).toEqual([keyId]);
    expect(await unwrapsOf(world, () => ring.refresh())).toBe(0);
    expect(events.filter(({ type }) => type === "key-record-refused")).toEqual([]);
    const next = await starting.ring.publish({ delayMs: 0 });
    advance(1);
    await ring.refresh();
    for (const process of [world, starting]) expect(await sealing(process)).toBe(next);
  });
});

describe("squats the newest times with junk", () => {
  const counts = [64, 1000, 10_000];

  it.each(counts)("%i records: who runs goes on, at 64 calls for each refresh and 8 at once", async (count) => {
    const world = await atWork();
    const { ring, asked, store, keyId, envelope, advance } = world;
    const junk = fillWithJunk(store, count, START + 40 * HOUR);
    const refresh = () => unwrapsOf(world, () => ring.refresh());
    expect(await refresh()).toBe(MOST_CALLS);
    expect(await refresh()).toBe(count === MOST_CALLS ? 0 : MOST_CALLS);
    expect(asked.atOnce).toBe(8);
    expect(refusals(junk[0] as string)).toEqual(["no KMS opens it"]);
    // Once for each read, and not for each record.
    const surplus = events.filter(
      (event) => event.type === "key-record-refused" && event.reason === "too many records",
    );
    expect(surplus).toHaveLength(count > MOST_KEPT ? 2 : 0);
    expect(ring.status()).toHaveLength(1 + Math.min(count, MOST_KEPT));
    expect(await opening(world, envelope)).toBe("opens");
    expect(await sealing(world)).toBe(keyId);

    const next = await ring.publish();
    advance(2 * MINUTE);
    expect(await sealing(world)).toBe(next);
    // What was refused is sent again after five refresh intervals.
    await ring.refresh();
    advance(5 * MINUTE);
    expect(await refresh()).toBe(MOST_CALLS);
  });

  it.each(counts)("%i records: who starts opens first what is asked for, and soon seals", async (count) => {
    const world = await atWork();
    const { store, keyId, envelope, start } = world;
    fillWithJunk(store, count, START + 40 * HOUR);
    const starting = start();
    expect(await opening(starting, envelope)).toBe("opens");
    // A read for what somebody needs leaves out what nobody asked for.
    expect(starting.asked.unwraps).toBe(1);
    expect(await sealing(starting)).toBe(keyId);
    const unasked = start();
    const own = await sealing(unasked);
    // One read, and two for the key that it publishes when its own is not among the first.
    expect(unasked.asked.unwraps).toBeLessThanOrEqual(3 * MOST_CALLS);
    expect(store.records.size).toBeLessThanOrEqual(count + 2);
    expect(await opening(unasked, envelope)).toBe("opens");
    await world.ring.refresh();
    expect(await opening(world, await sealerOf(unasked).seal(SESSION, ID))).toBe("opens");
    expect(own).toHaveLength(16);
  });

  it("10000 records: ready() asks for those that a process keeps, 8 at once, and ends", async () => {
    const world = await atWork();
    fillWithJunk(world.store, 10_000, START + 40 * HOUR);
    const starting = world.start();
    await starting.ring.ready();
    expect(starting.asked.unwraps).toBeGreaterThanOrEqual(MOST_KEPT);
    // What was refused gives way to as many others at each of the reads.
    expect(starting.asked.unwraps).toBeLessThanOrEqual(MOST_KEPT + 3 * MOST_CALLS);
    expect(starting.asked.atOnce).toBe(8);
  });

  it("70000 records: the key seals, and a refresh asks for at most 64, at most 8 at once", async () => {
    const world = await atWork();
    const { ring, store, keyId, start, advance } = world;
    const junk = fillWithJunk(store, 70_000, START);
    const starting = start();
    expect(await unwrapsOf(starting, () => starting.ring.refresh())).toBe(MOST_CALLS);
    expect(await unwrapsOf(starting, () => starting.ring.refresh())).toBe(MOST_CALLS);
    expect(starting.asked.atOnce).toBe(8);
    expect(await sealing(starting)).toBe(keyId);
    await ring.refresh();
    expect(await sealing(world)).toBe(keyId);
    // A rotation comes through as well.
    const next = await ring.publish();
    expect(ring.status().length).toBeLessThanOrEqual(MOST_KEPT + 2);
    advance(2 * MINUTE);
    expect(ring.currentIfWarm()?.keyId).toBe(next);
    // The one that this call began in the background.
    await ring.refresh();

    for (const id of junk) store.records.delete(id);
    for (const process of [world, starting]) await process.ring.refresh();
    expect(store.records.size).toBe(2);
    for (const process of [world, starting]) {
      expect(process.ring.status().map(({ state }) => state)).not.toContain("unverified");
      expect(process.ring.status().length).toBeLessThanOrEqual(2);
      expect(await sealing(process)).toBe(next);
    }
  });

  it("a handful of records: who starts seals with the key behind them, and publishes none", async () => {
    const world = await atWork();
    fillWithJunk(world.store, 50, START + HOUR);
    expect(await sealing(world.start())).toBe(world.keyId);
    expect(world.store.records.size).toBe(51);
  });

  it.each([
    ["more of it than a process keeps, found before the key", 1100, START],
    ["more of it than is verified in five refresh intervals, newer than the key", 400, START + 40 * HOUR],
  ])(
    "also where a process that starts meets %s: it opens, and seals under that key or a new one",
    async (_, count, time) => {
      const world = await atWork();
      const { store, keyId, envelope, start, advance } = world;
      const record = store.records.get(keyId) as Uint8Array;
      store.records.clear();
      fillWithJunk(store, count, time);
      store.records.set(keyId, record);
      advance(MINUTE);
      expect(await opening(start(), envelope)).toBe("opens");
      const writer = start();
      const own = await sealing(writer);
      expect(store.records.size).toBeLessThanOrEqual(count + 2);
      // Also after all that was refused may be asked about again.
      for (let minute = 0; minute < 12; minute++) {
        advance(MINUTE);
        await writer.ring.refresh();
        expect(await sealing(writer)).toBe(own);
      }
    },
  );

  it("not even in a process that reads the ring again and again and wants no key in particular", async () => {
    const world = await atWork();
    fillWithJunk(world.store, 1000, START + 40 * HOUR);
    const { ring } = world.start();
    await everyMinute(world, 16, () => ring.refresh());
    expect(sealingKeyId(ring)).toBe(world.keyId);
  });

  it.each([
    ["enabled", RecordState.enabled],
    ["revoked", RecordState.revoked],
    ["retired", RecordState.retired],
  ] as const)("and takes it away again: no process puts junk back that said %s", async (_, state) => {
    const { ring, store } = await atWork();
    const { keyId, record } = junkRecord(1, START);
    overwrite(store, { keyId }, inState(record, state));
    await ring.refresh();
    store.records.delete(keyId);
    for (let i = 0; i < 3; i++) await ring.refresh();
    expect(store.records.has(keyId)).toBe(false);
    overwrite(store, { keyId }, Uint8Array.of(1));
    await ring.refresh();
    expect(store.records.get(keyId)).toEqual(Uint8Array.of(1));
    expect(restored()).toEqual([]);
  });
});

describe("makes the ring too large to read", () => {
  const MOST_BYTES = 16 * 1_048_576;

  it("which is like a store that is down: who runs goes on to the end of the sealing age, who starts waits", async () => {
    const world = await atWork();
    const { ring, store, keyId, envelope, start, advance } = world;
    const { read } = store;
    // As the stores in Redis and in files do.
    store.read = async (name) => {
      const size = [...store.records.values()].reduce((sum, { length }) => sum + length, 0);
      if (size > MOST_BYTES) throw new SealedSessionError("STORE_UNAVAILABLE", "a ring is too large");
      return read(name);
    };
    store.records.set("meta", new Uint8Array(MOST_BYTES));
    await codeThrown(ring.refresh());
    advance(MINUTE);
    expect(await sealing(world)).toBe(keyId);
    const failed = { type: "ring-refresh-failed", ring: "web", code: "STORE_UNAVAILABLE" };
    await expect.poll(() => events, { timeout: 10_000 }).toContainEqual(failed);
    const starting = start();
    expect(await opening(starting, envelope)).toBe("KEY_UNAVAILABLE");
    expect(await codeThrown(starting.ring.current())).toBe("KEY_UNAVAILABLE");
    advance(48 * HOUR);
    expect(await opening(world, envelope)).toBe("opens");
    expect(await codeThrown(ring.current())).toBe("KEY_UNAVAILABLE");
    store.records.delete("meta");
    for (const process of [world, starting]) {
      expect(await opening(process, envelope)).toBe("opens");
      expect(await sealing(process)).not.toBe(keyId);
    }
  });
});

describe("renews its junk before every read", () => {
  it("so that no key is opened unasked: each process seals under its own, and opens the others' as envelopes name them", async () => {
    const world = await atWork({ refreshIntervalMs: 6 * HOUR });
    const { store, start, advance, now } = world;
    const starting = start();
    let generation = 0;
    const { read } = store;
    let junk: string[] = [];
    store.read = async (ring) => {
      for (const keyId of junk) store.records.delete(keyId);
      junk = Array.from({ length: 100 }, (_, n) => {
        const { keyId, record } = junkRecord(++generation, now() + 40 * HOUR - n);
        overwrite(store, { keyId }, record);
        return keyId;
      });
      return read(ring);
    };
    const own: Set<string>[] = [new Set(), new Set()];
    for (let hours = 0; hours < 96; hours += 6) {
      for (const [index, process] of [world, starting].entries()) {
        const before = process.asked.unwraps;
        own[index]?.add(await sealing(process));
        const envelope = await sealerOf(process).seal(SESSION, ID);
        await process.ring.refresh();
        expect(refusals(junk[0] as string)).toEqual(["no KMS opens it"]);
        for (const reader of [world, starting]) expect(await opening(reader, envelope)).toBe("opens");
        expect(process.asked.unwraps - before).toBeLessThanOrEqual(4 * MOST_CALLS + 2);
      }
      advance(6 * HOUR);
    }
    for (const keys of own) expect(keys.size).toBeGreaterThanOrEqual(2);
    for (const keys of own) expect(keys.size).toBeLessThanOrEqual(5);
  });
});

describe("leaves junk under names that no process knows", () => {
  it.each([1, 64, 1000])(
    "%i records, the newest: no KMS is asked about them, and they keep nothing back",
    async (count) => {
      const world = await atWork();
      const { ring, store, keyId, envelope, start } = world;
      for (let n = 1; n <= count; n++) {
        const junk = junkRecord(n, START + HOUR);
        overwrite(store, junk, { ...junk.record, wraps: [junkWrap("x")] });
      }
      expect(await unwrapsOf(world, () => ring.refresh())).toBe(0);
      const [starting, unasked] = [start(), start()];
      await unasked.ring.refresh();
      expect(sealingKeyId(unasked.ring)).toBe(keyId);
      for (const process of [world, starting, unasked]) {
        expect(await opening(process, envelope)).toBe("opens");
        expect(await sealing(process)).toBe(keyId);
      }
      for (const { asked } of [starting, unasked]) expect(asked.unwraps).toBe(1);
      expect(events.filter(({ type }) => type === "key-record-refused")).toEqual([]);
      expect(ring.status()).toHaveLength(1 + count);
    },
  );

  it("and ready() does not wait for them", async () => {
    const world = await atWork();
    const junk = junkRecord(1, START + HOUR);
    overwrite(world.store, junk, { ...junk.record, wraps: [junkWrap("x")] });
    let asked = 0;
    const clock = () => {
      // A loop that never ends would hold up the test's own deadline.
      if (++asked > 100_000) throw new Error("it does not end");
      return world.now();
    };
    const starting = world.start({ clock });
    await starting.ring.ready();
    expect(await opening(starting, world.envelope)).toBe("opens");
  });
});

describe("leaves junk under the name of a KMS that is out", () => {
  it("which keeps a process without a key from publishing one for five refresh intervals, and no longer (5.3)", async () => {
    const [a, b] = [fakeKms("a"), fakeKms("b")];
    const world = await atWork({ kms: [a, b] });
    const { ring, store, keyId, original, envelope, start, advance } = world;
    b.failWith = "KMS_UNREACHABLE";
    const junk = junkRecord(1, START);
    overwrite(store, junk, { ...junk.record, wraps: [junkWrap("b")] });
    const starting = start();
    for (const process of [world, starting]) {
      await process.ring.refresh();
      expect(await opening(process, envelope)).toBe("opens");
      expect(await sealing(process)).toBe(keyId);
    }
    expect(events).toContainEqual({ type: "kms-failed", ring: "web", kms: "b", code: "KMS_UNREACHABLE" });
    // It matters where nothing else seals.
    overwrite(store, world, inState(original, RecordState.revoked));
    const late = start();
    for (const process of [world, starting, late]) {
      await process.ring.refresh();
      expect(await codeThrown(process.ring.current())).toBe("KEY_UNAVAILABLE");
    }
    for (let minute = 0; minute < 5; minute++) {
      advance(MINUTE);
      for (const process of [world, starting, late]) await process.ring.refresh();
    }
    const next = await sealing(late);
    await ring.refresh();
    for (const process of [world, starting]) expect(await sealing(process)).toBe(next);
  });

  it("also not when it is renewed all the time", async () => {
    const [a, b] = [fakeKms("a"), fakeKms("b")];
    const world = await atWork({ kms: [a, b] });
    const { store, start, advance } = world;
    b.failWith = "KMS_UNREACHABLE";
    store.records.clear();
    const { ring } = start();
    for (let minute = 0; minute < 7; minute++) {
      const junk = junkRecord(minute, START);
      store.records.clear();
      overwrite(store, junk, { ...junk.record, wraps: [junkWrap("b")] });
      if (minute < 5) expect(await codeThrown(ring.current())).toBe("KEY_UNAVAILABLE");
      advance(MINUTE);
      await ring.refresh();
    }
    expect((await ring.current()).keyId).toHaveLength(16);
  });

  it("and keeps ready() from telling that all is well, as long: it may be a key of ours", async () => {
    const [a, b] = [fakeKms("a"), fakeKms("b")];
    const world = await atWork({ kms: [a, b] });
    const { ring } = world.start();
    b.failWith = "KMS_UNREACHABLE";
    const junk = junkRecord(1, START);
    overwrite(world.store, junk, { ...junk.record, wraps: [junkWrap("b")] });
    expect(await codeThrown(ring.ready())).toBe("KEY_UNAVAILABLE");
    world.advance(5 * MINUTE);
    await ring.ready();
  });
});

describe("fills the memory with records that have ended", () => {
  const end = (store: OpenRingStore, from: number, to: number, state: KeyRecord["state"]) => {
    for (let n = from; n <= to; n++) {
      const { keyId, record } = junkRecord(n, START);
      overwrite(store, { keyId }, inState(record, state));
    }
  };
  const clear = (store: OpenRingStore, count: number) => {
    for (let n = 1; n <= count; n++) store.records.delete(junkRecord(n, START).keyId);
  };

  it.each([
    ["revoked", RecordState.enabled],
    ["retired", RecordState.enabled],
    ["revoked", RecordState.retired],
    ["retired", RecordState.retired],
    ["revoked", RecordState.revoked],
    ["retired", RecordState.revoked],
  ] as const)(
    "a key that the process has opened stays %s under junk of state %i, also when its record comes back",
    async (name, junk) => {
      const world = await atWork();
      const { ring, store, keyIdBytes, original } = world;
      const [state, code] = ENDED[name];
      overwrite(store, world, inState(original, state));
      await ring.refresh();
      end(store, 1, 2200, junk);
      await ring.refresh();
      overwrite(store, world, original);
      clear(store, 2200);
      await ring.refresh();
      expect(await codeThrown(ring.byId(keyIdBytes))).toBe(code);
      expect(restored()).toContain(world.keyId);
    },
  );

  it.each([
    ["revoked", RecordState.revoked],
    ["retired", RecordState.retired],
  ] as const)(
    "%s, while they lie there and after: a new key comes through, in who runs and who starts",
    async (name, state) => {
      const world = await atWork();
      const { ring, store, envelope, start, advance } = world;
      end(store, 1, 1100, state);
      await ring.refresh();
      const starting = start();
      for (const gone of [false, true]) {
        if (gone) clear(store, 1100);
        for (const process of [world, starting]) await process.ring.refresh();
        advance(1);
        const next = await starting.ring.publish({ delayMs: 0 });
        advance(1);
        await ring.refresh();
        for (const process of [world, starting]) {
          expect(await sealing(process)).toBe(next);
          expect(await opening(process, envelope)).toBe("opens");
          const kept = process.ring.status().filter((key) => key.state === name).length;
          expect(kept).toBeGreaterThan(1000);
          expect(kept).toBeLessThanOrEqual(MOST_KEPT);
        }
        expect(starting.asked.unwraps).toBeLessThanOrEqual(3);
      }
    },
  );
});

describe("publishes far in the future", () => {
  it("which is ignored more than two rotation periods ahead (5.5), without a call", async () => {
    const world = await atWork();
    const { ring, store, keyId, envelope, start, now } = world;
    const junk = junkRecord(1, now() + 48 * HOUR + 1);
    overwrite(store, junk, junk.record);
    expect(await unwrapsOf(world, () => ring.refresh())).toBe(0);
    const starting = start();
    for (const process of [world, starting]) {
      expect(await opening(process, envelope)).toBe("opens");
      expect(await sealing(process)).toBe(keyId);
      expect(process.ring.status().map((key) => key.keyId)).toEqual([keyId]);
    }
    expect(starting.asked.unwraps).toBe(1);
    expect(refusals(junk.keyId)).toEqual(["too far in the future"]);
  });
});

describe("publishes within two rotation periods", () => {
  it("what no KMS opens: at its time it does not seal, and the next key is published in time", async () => {
    const world = await atWork();
    const { ring, store, keyId, envelope, start, advance, now } = world;
    const junk = junkRecord(1, now() + 48 * HOUR);
    overwrite(store, junk, junk.record);
    expect(await unwrapsOf(world, () => ring.refresh())).toBe(1);
    expect(await unwrapsOf(world, () => ring.refresh())).toBe(0);
    const starting = start();
    await starting.ring.refresh();
    expect(starting.asked.unwraps).toBe(2);
    expect(refusals(junk.keyId)).toEqual(["no KMS opens it"]);

    advance(24 * HOUR - 5 * MINUTE);
    expect(await sealing(world)).toBe(keyId);
    advance(MINUTE);
    expect(await sealing(world)).toBe(keyId);
    const next = () => ring.status().find(({ state }) => state === "pre-active");
    await expect.poll(next, { timeout: 10_000 }).toMatchObject({ activatesAt: START + 24 * HOUR });
    const successor = next()?.keyId;
    advance(4 * MINUTE);
    for (const process of [world, starting]) {
      await process.ring.refresh();
      expect(await sealing(process)).toBe(successor);
    }
    advance(24 * HOUR);
    for (const process of [world, starting]) {
      expect(await sealing(process)).not.toBe(junk.keyId);
      expect(await opening(process, envelope)).toBe("opens");
    }
  });
});

describe("deletes the newest key", () => {
  it("who runs puts it back; who starts seals under the one before it, and rejects its sessions until then", async () => {
    const world = await atWork();
    const { ring, store, stored, keyId, start, advance } = world;
    const newer = await ring.publish({ delayMs: 0 });
    const record = stored(newer);
    advance(1);
    expect(await sealing(world)).toBe(newer);
    const envelope = await sealerOf(world).seal(SESSION, ID);
    store.records.delete(newer);
    const starting = start();
    expect(await opening(starting, envelope)).toBe("ENVELOPE_REJECTED");
    expect(await sealing(starting)).toBe(keyId);
    expect(store.records.size).toBe(1);
    expect(await unwrapsOf(world, () => ring.refresh())).toBe(0);
    expect(stored(newer)).toEqual(record);
    expect(restored()).toEqual([newer]);
    for (const process of [world, starting, start()]) {
      await process.ring.refresh();
      expect(await opening(process, envelope)).toBe("opens");
      expect(await sealing(process)).toBe(newer);
    }
  });
});

describe("deletes the ring", () => {
  it("who runs puts all back; who starts seals under a new key, and rejects all sessions until then", async () => {
    const world = await atWork();
    const spoil = () => world.store.records.clear();
    await expectPutBack(world, spoil, { meanwhile: "ENVELOPE_REJECTED", unwraps: 0 });
  });

  it("while no process runs that held the keys: its sessions are gone", async () => {
    const { store, ring, envelope, start, advance } = await atWork();
    ring.close();
    store.records.clear();
    const starting = start();
    for (let minute = 0; minute < 5; minute++) {
      await starting.ring.refresh();
      expect(await opening(starting, envelope)).toBe("ENVELOPE_REJECTED");
      advance(MINUTE);
    }
    expect(await sealing(starting)).toHaveLength(16);
  });

  it("while it takes no writes: it is put back once it does", async () => {
    const world = await atWork();
    const { ring, store, stored, keyId, original } = world;
    store.records.clear();
    const { write } = store;
    store.write = () => Promise.reject(Object.assign(new Error("full"), { code: "STORE_UNAVAILABLE" }));
    await ring.refresh();
    expect(events).toContainEqual({ type: "ring-refresh-failed", ring: "web", code: "STORE_UNAVAILABLE" });
    expect(await sealing(world)).toBe(keyId);
    store.write = write;
    await ring.refresh();
    expect(stored(keyId)).toEqual(original);
  });
});

/** A world whose ring was put back to what it was when there was only its first key, some hours ago. */
async function rolledBack(hours: number) {
  const world = await atWork();
  const { ring, store, advance } = world;
  const copy = new Map(store.records);
  advance(hours * HOUR);
  const newer = await ring.publish({ delayMs: 0 });
  advance(1);
  expect(await sealing(world)).toBe(newer);
  const young = await sealerOf(world).seal(SESSION, ID);
  store.records.clear();
  for (const [keyId, record] of copy) store.records.set(keyId, record);
  return { ...world, newer, young };
}

describe("puts yesterday's ring back", () => {
  it("who starts seals under yesterday's key, until the newer one is put back", async () => {
    const world = await rolledBack(24);
    const { ring, keyId, newer, young, envelope, start } = world;
    const starting = start();
    expect(await sealing(starting)).toBe(keyId);
    expect(await opening(starting, envelope)).toBe("opens");
    expect(await opening(starting, young)).toBe("ENVELOPE_REJECTED");
    expect(await unwrapsOf(world, () => ring.refresh())).toBe(0);
    expect(restored()).toEqual([newer]);
    for (const process of [world, starting, start()]) {
      await process.ring.refresh();
      expect(await sealing(process)).toBe(newer);
      for (const sealed of [envelope, young]) expect(await opening(process, sealed)).toBe("opens");
    }
  });

  it("or until that one's sealing age ends, where no process runs that knows better (5.5)", async () => {
    const { ring, keyId, start, advance } = await rolledBack(24);
    ring.close();
    advance(24 * HOUR - 2);
    expect(await sealing(start())).toBe(keyId);
    advance(1);
    const starting = start();
    expect(await sealing(starting)).not.toBe(keyId);
  });
});

describe("leaves an old key as the only one", () => {
  it("which opens what it sealed and seals no more, past its sealing age (5.5)", async () => {
    const world = await rolledBack(48);
    const { ring, store, keyId, newer, young, envelope, start } = world;
    const starting = start();
    expect(await opening(starting, envelope)).toBe("opens");
    const own = await sealing(starting);
    expect([keyId, newer]).not.toContain(own);
    expect(events).toContainEqual(expect.objectContaining({ type: "key-published", keyId: own }));
    expect(await opening(starting, young)).toBe("ENVELOPE_REJECTED");
    await ring.refresh();
    expect(restored()).toEqual([newer]);
    expect(store.records.size).toBe(3);
    for (const process of [world, starting, start()]) {
      await process.ring.refresh();
      for (const sealed of [envelope, young]) expect(await opening(process, sealed)).toBe("opens");
      expect(await sealing(process)).not.toBe(keyId);
    }
  });
});

describe("changes the ring all the time", () => {
  /** Something happens whenever a process has read the ring. */
  const afterEachRead = (store: OpenRingStore, change: () => void) => {
    const { read } = store;
    store.read = async (ring) => {
      const records = await read(ring);
      change();
      return records;
    };
    return () => {
      store.read = read;
    };
  };

  it("a new key comes through all the same, by the third attempt", async () => {
    const world = await atWork();
    const { ring, kms, store, keyId, start, advance } = world;
    let junk = 0;
    afterEachRead(store, () => {
      const { keyId, record } = junkRecord(++junk, START);
      overwrite(store, { keyId }, record);
    });
    for (const process of [world, start()]) {
      const before = kms.calls.generate;
      const next = await process.ring.publish({ delayMs: 0 });
      expect(kms.calls.generate - before).toBe(3);
      advance(1);
      expect(await sealing(process)).toBe(next);
    }
    expect(events.filter(({ type }) => type === "key-published")).toHaveLength(3);
    store.records.delete(keyId);
    await ring.refresh();
    expect(restored()).toEqual([keyId]);
  });

  it("a revocation counts at once in the process that makes it, fails after three attempts, and is written later", async () => {
    const world = await atWork();
    const { ring, store, stored, keyId, original, envelope, start } = world;
    await ring.publish({ delayMs: 0 });
    let change = 0;
    const stop = afterEachRead(store, () =>
      overwrite(store, world, { ...original, wraps: [...original.wraps, junkWrap("x", ++change)] }),
    );
    const before = store.writes;
    expect(await codeThrown(ring.revoke(keyId))).toBe("KEY_UNAVAILABLE");
    expect(store.writes - before).toBeLessThanOrEqual(9);
    expect(await opening(world, envelope)).toBe("KEY_REVOKED");
    stop();
    await ring.refresh();
    expect(stored(keyId).state).toBe(RecordState.revoked);
    expect(restored()).toContain(keyId);
    expect(await opening(start(), envelope)).toBe("KEY_REVOKED");
  });
});

describe("ends every new key", () => {
  it("as often as the ring is read: each interval costs one key, and seals", async () => {
    const world = await atWork();
    const { ring, kms, asked, store, stored, advance } = world;
    const before = { generate: kms.calls.generate, unwraps: asked.unwraps };
    await everyMinute({ advance }, 60, async () => {
      for (const keyId of store.records.keys())
        overwrite(store, { keyId }, inState(stored(keyId), RecordState.revoked));
      await ring.refresh();
      await sealing(world);
    });
    expect(events.filter(({ type }) => type === "key-ended")).toHaveLength(60);
    expect(events.filter(({ type }) => type === "key-published")).toHaveLength(61);
    expect(kms.calls.generate - before.generate).toBe(60);
    // One for each key, and one every five minutes to ask whether the keys may still be used.
    expect(asked.unwraps - before.unwraps).toBeLessThanOrEqual(60 + 60 / 4 + 1);
  });

  it("for longer than a process keeps junk: it still takes a new one", async () => {
    const world = await atWork();
    const { ring, kms, store } = world;
    const ended: KeyRecord[] = [];
    for (let n = 0; n < MOST_KEPT + 76; n++) ended.push(await newKey(kms, START - n));
    for (const record of ended) overwrite(store, { keyId: keyIdOf(record) }, record);
    for (let opened = 0; opened < ended.length; opened += MOST_CALLS) await ring.refresh();
    expect(ring.status().filter(({ state }) => state === "open-only")).toHaveLength(ended.length);
    for (const record of ended) overwrite(store, { keyId: keyIdOf(record) }, inState(record, RecordState.revoked));
    overwrite(store, world, inState(world.original, RecordState.revoked));
    await ring.refresh();
    expect(sealingKeyId(ring)).toBeUndefined();
    expect(await sealing(world)).toHaveLength(16);
    // None of them comes back.
    const [first] = ended as [KeyRecord];
    overwrite(store, { keyId: keyIdOf(first) }, first);
    await ring.refresh();
    expect(await codeThrown(ring.byId(idBytes(keyIdOf(first))))).toBe("KEY_REVOKED");
  });

  it("before it is read back: the pause between two of them doubles, and who starts brings one", async () => {
    const world = await atWork();
    const { ring, kms, store, stored, advance, start } = world;
    const { write } = store;
    const revoke = (keyId: string) => overwrite(store, { keyId }, inState(stored(keyId), RecordState.revoked));
    store.write = async (name, keyId, ...rest) => {
      const result = await write(name, keyId, ...rest);
      revoke(keyId);
      return result;
    };
    revoke(world.keyId);
    await ring.refresh();
    const before = kms.calls.generate;
    await everyMinute({ advance }, 24 * 60, async () =>
      expect(await codeThrown(ring.current())).toBe("KEY_UNAVAILABLE"),
    );
    expect(kms.calls.generate - before).toBeLessThanOrEqual(12);
    store.write = write;
    const next = await sealing(start());
    await ring.refresh();
    expect(await sealing(world)).toBe(next);
  });
});

describe("lies about the store's clock", () => {
  const lying = async (byMs: number) => {
    const world = await atWork();
    world.store.now = async () => world.now() + byMs;
    return world;
  };

  it.each([MINUTE + 1, -MINUTE - 1, 400 * 24 * HOUR, Number.NaN])(
    "by %i ms, more than a refresh interval: no key is published; the one there is seals to the end of its age (5.5)",
    async (byMs) => {
      const world = await lying(byMs);
      const { ring, store, keyId, start, envelope, advance } = world;
      for (const process of [world, start()]) {
        await process.ring.refresh();
        expect(await codeThrown(process.ring.publish())).toBe("CLOCK_SKEW");
        expect(await sealing(process)).toBe(keyId);
      }
      advance(24 * HOUR);
      expect(await sealing(world)).toBe(keyId);
      advance(MINUTE);
      expect(await sealing(world)).toBe(keyId);
      const failed = () => events.filter(({ type }) => type === "ring-rotation-failed");
      await expect
        .poll(failed, { timeout: 10_000 })
        .toContainEqual({ type: "ring-rotation-failed", ring: "web", code: "CLOCK_SKEW" });
      advance(24 * HOUR);
      for (const process of [world, start()]) {
        expect(await codeThrown(process.ring.current())).toBe("CLOCK_SKEW");
        expect(await opening(process, envelope)).toBe("opens");
      }
      expect(store.records.size).toBe(1);
      // Nobody is kept from revoking.
      await ring.revoke(keyId);
      expect(await opening(start(), envelope)).toBe("KEY_REVOKED");
    },
  );

  it.each([MINUTE, -MINUTE])("by %i ms, no more than that: a new key's time is off by as much", async (byMs) => {
    const world = await lying(byMs);
    const { ring, stored, now, advance } = world;
    advance(HOUR);
    const next = await ring.publish({ delayMs: 2 * MINUTE });
    expect(stored(next).activatesAt - now()).toBe(2 * MINUTE + byMs);
  });
});

describe("lies about the second copy", () => {
  it("that there is none: a new key seals two refresh intervals later, the one before it until then (5.4)", async () => {
    const world = await atWork();
    const { ring, store, keyId, start, advance } = world;
    advance(2 * MINUTE);
    store.durable = false;
    const next = await ring.publish({ delayMs: 0 });
    const starting = start();
    for (const process of [world, starting]) {
      await process.ring.refresh();
      expect(await sealing(process)).toBe(keyId);
    }
    advance(2 * MINUTE - 1);
    for (const process of [world, starting]) expect(await sealing(process)).toBe(keyId);
    advance(1);
    for (const process of [world, starting]) expect(await sealing(process)).toBe(next);
  });

  it("that there is one: a key that is lost with the server is put back by who runs", async () => {
    const world = await atWork();
    const { ring, store, stored, start, advance } = world;
    const next = await ring.publish({ delayMs: 0 });
    const record = stored(next);
    advance(1);
    expect(await sealing(world)).toBe(next);
    const envelope = await sealerOf(world).seal(SESSION, ID);
    store.records.delete(next);
    const starting = start();
    expect(await opening(starting, envelope)).toBe("ENVELOPE_REJECTED");
    await ring.refresh();
    expect(stored(next)).toEqual(record);
    expect(restored()).toEqual([next]);
    await starting.ring.refresh();
    expect(await opening(starting, envelope)).toBe("opens");
  });

  it("that it has written what it has not: a key that cannot be read back seals nothing, nowhere (5.4)", async () => {
    const world = await atWork();
    const { ring, store, keyId, start, advance } = world;
    const { write } = store;
    store.write = async () => ({ written: true, durable: true });
    await ring.publish({ delayMs: 0 });
    expect(events.filter(({ type }) => type === "key-published")).toHaveLength(2);
    advance(1);
    expect(await sealing(world)).toBe(keyId);
    store.records.clear();
    const starting = start();
    expect(await codeThrown(starting.ring.current())).toBe("KEY_UNAVAILABLE");
    store.write = write;
    await ring.refresh();
    await starting.ring.refresh();
    expect(await sealing(starting)).toBe(keyId);
  });
});

describe("replays envelopes that bring their key record", () => {
  const read = { inlineKeys: "read" } as const;
  const withRecord = (world: World) => sealerOf(world, { inlineKeys: "write" }).sealSync(SESSION, ID);

  it("where inlineKeys is off they are rejected, and no KMS is asked (3.5)", async () => {
    const world = await atWork();
    const inline = withRecord(world);
    const starting = world.start();
    for (const process of [world, starting]) expect(await opening(process, inline)).toBe("ENVELOPE_REJECTED");
    expect(starting.asked.unwraps).toBe(0);
    expect(await request(world, inline)).toBe("ENVELOPE_REJECTED");
    expect(events).toContainEqual({ type: "envelope-rejected" });
  });

  it.each(["revoked", "retired"] as const)("where it is on, the state in the ring decides: %s (3.5)", async (name) => {
    const world = await atWork();
    const { ring, store, original, keyId, start } = world;
    const inline = withRecord(world);
    const [state, code] = ENDED[name];
    overwrite(store, world, inState(original, state));
    await ring.refresh();
    const starting = start();
    expect(await opening(world, inline, read)).toBe(code);
    expect(await opening(starting, inline, read)).toBe(code);
    expect(starting.asked.unwraps).toBe(0);

    // Without the ring's word only those know that have heard it, and those whose configuration says so.
    store.records.clear();
    const late = start();
    expect(await opening(world, inline, read)).toBe(code);
    expect(await opening(late, inline, read)).toBe("opens");
    expect(await opening(start({ revokedKeyIds: [keyId] }), inline, read)).toBe("KEY_REVOKED");
    await ring.refresh();
    await late.ring.refresh();
    expect(await request(late, inline, read)).toBeUndefined();
    expect(events).toContainEqual({ type: "session-dropped", code });
  });

  it("where it is on, each read costs a call; the key neither enters the ring nor seals", async () => {
    const world = await atWork();
    const inline = withRecord(world);
    world.store.records.clear();
    const starting = world.start();
    for (let n = 1; n <= 3; n++) {
      expect(await opening(starting, inline, read)).toBe("opens");
      expect(starting.asked.unwraps).toBe(n);
    }
    expect(starting.ring.status()).toEqual([]);
    expect(await sealing(starting)).not.toBe(world.keyId);
    // One of another ring does not open.
    const stranger = world.start({ name: "other" });
    expect(await opening(stranger, inline, read)).toBe("KEY_UNAVAILABLE");
  });
});

describe("names keys in sessions that are none", () => {
  /** Waits take virtual time, up to a second; the ring's own timers never run. */
  const patient = (world: { advance(ms: number): void }) => (task: () => void, delayMs: number) => {
    const run = () => {
      world.advance(delayMs);
      task();
    };
    const immediate = delayMs <= 1000 ? setImmediate(run) : undefined;
    return () => clearImmediate(immediate);
  };

  it("that the ring has not: five reads at once and then one a second, shared by all who wait", async () => {
    const world = await atWork();
    const { store, start, now } = world;
    const { ring, asked } = start({ schedule: patient(world) });
    await ring.current();
    const calls = asked.unwraps;
    const [startedAt, reads] = [now(), store.reads];
    for (let n = 1; n <= 300; n++) {
      expect(await codeThrown(ring.byId(idBytes(junkRecord(n, START).keyId)))).toBe("ENVELOPE_REJECTED");
    }
    expect(store.reads - reads).toBe(300);
    expect(now() - startedAt).toBeGreaterThanOrEqual(294_000);
    const unknown = Uint8Array.from(world.envelope);
    unknown.set(idBytes(junkRecord(1, START).keyId), 2);
    expect(await request(world, unknown)).toBe("ENVELOPE_REJECTED");
    expect(events).toContainEqual({ type: "envelope-rejected" });
    const before = store.reads;
    await Promise.all(
      Array.from({ length: 1000 }, (_, n) => codeThrown(ring.byId(idBytes(junkRecord(n + 1000, START).keyId)))),
    );
    expect(store.reads - before).toBeLessThanOrEqual(2);
    expect(asked.unwraps).toBe(calls);
  });

  it("whose junk lies in the ring: 64 calls for each of these reads", async () => {
    const world = await atWork();
    const { ring, store, envelope } = world;
    const junk = fillWithJunk(store, 200, START - HOUR);
    const named = () => Promise.all(junk.map((keyId) => codeThrown(ring.byId(idBytes(keyId)))));
    const before = store.reads;
    const calls = await unwrapsOf(world, named);
    expect(calls).toBeGreaterThanOrEqual(MOST_CALLS);
    expect(calls).toBeLessThanOrEqual(MOST_CALLS * (store.reads - before));
    expect(world.asked.atOnce).toBe(8);
    expect(await opening(world, envelope)).toBe("opens");
  });

  it.each([
    ["revoked", RecordState.revoked],
    ["enabled", RecordState.enabled],
  ] as const)("and fills the memory with them, %s: who runs and who starts still takes a new key", async (_, state) => {
    const world = await atWork();
    const { ring, store, advance, keyId, start } = world;
    const junk = Array.from({ length: 2200 }, (_, n) => junkRecord(n + 1, START));
    for (const { keyId, record } of junk) overwrite(store, { keyId }, inState(record, state));
    const starting = start();
    for (const process of [world, starting]) {
      await process.ring.refresh();
      await Promise.all(junk.map(({ keyId }) => codeThrown(process.ring.byId(idBytes(keyId)))));
      expect(process.ring.status().length).toBeLessThanOrEqual(MOST_KEPT + 1);
    }
    advance(49 * HOUR);
    for (const process of [world, starting]) expect(await sealing(process)).not.toBe(keyId);
    for (const { keyId } of junk) store.records.delete(keyId);
    for (const process of [world, starting]) await process.ring.refresh();
    expect(await sealing(starting)).toBe(await sealing(world));
    await ring.refresh();
    // What has ended is remembered, as far as there is room.
    expect(ring.status().length).toBeLessThanOrEqual(state === RecordState.enabled ? 3 : MOST_KEPT + 3);
  });
});

describe("keeps a key from retiring", () => {
  it("by what looks as if it were sealed under it: it retires once that is gone (5.6)", async () => {
    const world = await atWork({ rotationPeriodMs: HOUR });
    const { stored, keyId, envelope, start, advance, now } = world;
    const envelopes = memoryStore({ clock: now });
    const starting = start();
    for (const { ring } of [world, starting]) new SessionStore({ ring, store: envelopes, idleSeconds: 60 });
    await envelopes.set(ID, envelope, { ttlMs: 240 * HOUR });
    const successor = await world.ring.publish();
    advance(10 * HOUR);
    const refused = () => events.filter(({ type }) => type === "key-retirement-refused");
    /** Minutes at work, up to a day: a process draws its time to retire a key, and a later one after each refusal. */
    const until = async (isDone: () => boolean) => {
      for (let minute = 0; minute < 24 * 60 && !isDone(); minute++) {
        advance(MINUTE);
        for (const { ring } of [world, starting]) {
          ring.currentIfWarm();
          await ring.refresh();
          await new Promise((resolve) => setImmediate(resolve));
        }
      }
    };
    for (const process of [world, starting]) await process.ring.current();
    await until(() => refused().length > 0 && stored(successor).state === RecordState.retired);
    expect(refused()).toContainEqual({ type: "key-retirement-refused", ring: "web", keyId, sessions: 1 });
    for (const { ring } of [world, starting]) await expect(ring.retire(keyId)).rejects.toThrow("1 sessions are sealed");
    expect(stored(keyId).state).toBe(RecordState.enabled);
    expect(stored(successor).state).toBe(RecordState.retired);

    await envelopes.destroy(ID);
    const retired = { type: "key-retired", ring: "web", keyId } as const;
    await until(() => events.some((event) => event.type === retired.type && event.keyId === keyId));
    expect(events).toContainEqual(retired);
    expect(stored(keyId)).toMatchObject({ state: RecordState.retired, wraps: [] });
  });
});
