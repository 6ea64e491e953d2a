/** Sessions that another store wrote in clear are taken over: nobody is logged out by it, and nobody who has logged out comes back. */
import { describe, expect, it } from "vitest";
import { parseEnvelope } from "../src/envelope.js";
import type { EnvelopeStore } from "../src/envelope-store.js";
import { memoryStore } from "../src/memory-store.js";
import { type SealPlaintextOptions, sealPlaintextSessions } from "../src/plaintext-sealing.js";
import { Sealer } from "../src/sealer.js";
import { storedIdOf } from "../src/session-id.js";
import { SessionStore, type SessionStoreOptions } from "../src/session-store.js";
import { codeThrown, HOUR, MINUTE, START } from "./support/fixture.js";
import { type MemoryPlaintext, memoryPlaintext } from "./support/memory-plaintext.js";
import { collectEvents, openFixture } from "./support/open-fixture.js";

interface Session {
  user: string;
  visits?: number;
}

const ID = "an-id-of-the-other-store";
const STORED_ID = storedIdOf(ID) as string;
const ADA = '{"user":"ada"}';
const BOB = '{"user":"bob"}';
const UNTIL = START + 24 * HOUR;

const events = collectEvents();
const adoptions = () => events.filter(({ type }) => type === "session-adopted" || type === "plaintext-refused");

/** A session store that takes over, and the sessions in clear. */
async function adoptionFixture(options: Partial<SessionStoreOptions> = {}) {
  const base = openFixture();
  const store = memoryStore({ clock: base.now });
  const from = memoryPlaintext(base.now);
  await base.ring.ready();
  const open = (own: Partial<SessionStoreOptions> = {}) =>
    new SessionStore<Session>({ ring: base.ring, store, adopt: { from, until: UNTIL }, ...options, ...own });
  return { ...base, store, from, open, sessions: open() };
}

/** A store of envelopes before one of whose next calls something happens, once. */
function interrupted(store: EnvelopeStore, method: keyof EnvelopeStore, run: () => unknown, calls = 1): EnvelopeStore {
  let left = calls;
  return new Proxy(store, {
    get:
      (target, name: keyof EnvelopeStore) =>
      (...args: unknown[]) => {
        const call = () => (target[name] as (...args: unknown[]) => unknown).apply(target, args);
        return name === method && --left === 0 ? Promise.resolve().then(run).then(call) : call();
      },
  });
}

describe("a session in clear is taken over", () => {
  const uses: [string, (sessions: SessionStore<Session>) => Promise<unknown>, unknown][] = [
    ["get", (sessions) => sessions.get(ID), { user: "ada" }],
    ["touch", (sessions) => sessions.touch(ID), true],
    ["update", (sessions) => sessions.update(ID, (session) => ({ ...session, visits: 1 })), { user: "ada", visits: 1 }],
    ["set", (sessions) => sessions.set(ID, { user: "ada", visits: 2 }), true],
  ];
  it.each(uses)("by %s", async (_, use, result) => {
    const { sessions, from, store } = await adoptionFixture();
    from.write(ID, ADA, HOUR);
    expect(await use(sessions)).toEqual(result);
    expect(from.textOf(ID)).toBeUndefined();
    expect(parseEnvelope((await store.get(STORED_ID)) as Uint8Array)).toBeDefined();
    expect(adoptions()).toEqual([{ type: "session-adopted", ring: "web" }]);
  });

  it("by regenerate, which leaves nothing under the old id", async () => {
    const { sessions, from, store } = await adoptionFixture();
    from.write(ID, ADA, HOUR);
    const id = (await sessions.regenerate(ID)) as string;
    expect(await sessions.get(id)).toEqual({ user: "ada" });
    expect(await sessions.get(ID)).toBeUndefined();
    expect([from.textOf(ID), await store.get(STORED_ID)]).toEqual([undefined, undefined]);
  });

  it("and a plaintext that was left over does not bring an old id back to life", async () => {
    const { sessions, from } = await adoptionFixture();
    await sessions.create({ user: "ada" }, ID);
    from.write(ID, ADA, HOUR);
    await sessions.regenerate(ID);
    expect(await sessions.get(ID)).toBeUndefined();
  });

  it("by create, for which its id is taken", async () => {
    const { sessions, from } = await adoptionFixture();
    from.write(ID, ADA, HOUR);
    expect(await codeThrown(sessions.create({ user: "eve" }, ID))).toBe("SESSION_EXISTS");
    expect(await sessions.get(ID)).toEqual({ user: "ada" });
  });

  it("with the very millisecond in which it would have ended", async () => {
    const { open, from, store, advance } = await adoptionFixture();
    from.write(ID, ADA, HOUR);
    advance(1234);
    await open({ sliding: false }).get(ID);
    expect(await store.ttlMs(STORED_ID)).toBe(HOUR - 1234);
  });

  it("without the time that went by while it was sealed", async () => {
    const { ring, from, store, advance, open } = await adoptionFixture();
    from.write(ID, ADA, HOUR);
    const { parse } = from;
    const slow = {
      ...from,
      parse(raw: Uint8Array) {
        advance(5000);
        return parse(raw);
      },
    };
    await open({ ring, sliding: false, adopt: { from: slow, until: UNTIL } }).get(ID);
    expect(await store.ttlMs(STORED_ID)).toBe(HOUR - 5000);
  });

  it("with the idle time, where it had no end", async () => {
    const { open, from, store } = await adoptionFixture();
    from.write(ID, ADA);
    await open({ sliding: false, idleSeconds: 600 }).get(ID);
    expect(await store.ttlMs(STORED_ID)).toBe(10 * MINUTE);
  });

  it("with an absolute life that begins now", async () => {
    const { open, from, store, now } = await adoptionFixture();
    from.write(ID, ADA, 5 * HOUR);
    await open({ sliding: false, absoluteSeconds: 3600 }).get(ID);
    const { notAfter } = parseEnvelope((await store.get(STORED_ID)) as Uint8Array) ?? {};
    expect(notAfter).toBe((now() + HOUR) / 1000);
    expect(await store.ttlMs(STORED_ID)).toBe(HOUR);
  });

  it("bound to its client, where envelopes are", async () => {
    const { open, from } = await adoptionFixture({ clientBound: true });
    from.write(ID, ADA, HOUR);
    expect(await open().get(ID)).toEqual({ user: "ada" });
    expect(await open().get(ID)).toEqual({ user: "ada" });
  });

  it("only once: then it costs nothing more than any other", async () => {
    const { sessions, from } = await adoptionFixture();
    from.write(ID, ADA, HOUR);
    await sessions.get(ID);
    from.calls.length = 0;
    expect(await sessions.get(ID)).toEqual({ user: "ada" });
    expect(from.calls).toEqual([]);
  });

  it("not from its end on: what is in clear then is no session", async () => {
    const { sessions, from, advance } = await adoptionFixture();
    from.write(ID, ADA, 48 * HOUR);
    advance(24 * HOUR);
    expect(await sessions.get(ID)).toBeUndefined();
    expect(from.calls).toEqual([]);
    expect(from.textOf(ID)).toBe(ADA);
  });

  it("up to the millisecond before its end", async () => {
    const { sessions, from, advance } = await adoptionFixture();
    from.write(ID, ADA, 48 * HOUR);
    advance(24 * HOUR - 1);
    expect(await sessions.get(ID)).toEqual({ user: "ada" });
  });

  it.each([
    ["is no JSON", '{"user":"ada"', "PAYLOAD_MALFORMED"],
    ["is no object", '"ada"', "PAYLOAD_MALFORMED"],
    ["is too long", JSON.stringify({ user: "a".repeat(2_000_000) }), "VALUE_TOO_LARGE"],
  ])("not when it %s: it is left alone and counts as none", async (_, text, code) => {
    const { sessions, from, store } = await adoptionFixture();
    from.write(ID, text, HOUR);
    expect(await sessions.get(ID)).toBeUndefined();
    expect(from.textOf(ID)).toBe(text);
    expect(await store.get(STORED_ID)).toBeUndefined();
    expect(adoptions()).toEqual([{ type: "plaintext-refused", ring: "web", code }]);
  });
});

describe("destroy", () => {
  it("ends what is still in clear", async () => {
    const { sessions, from } = await adoptionFixture();
    from.write(ID, ADA, HOUR);
    expect(await sessions.destroy(ID)).toBe(true);
    expect(from.textOf(ID)).toBeUndefined();
    expect(await sessions.get(ID)).toBeUndefined();
    expect(await sessions.destroy(ID)).toBe(false);
  });

  it("ends envelope and plaintext, where a process has left both", async () => {
    const { sessions, from } = await adoptionFixture();
    await sessions.create({ user: "ada" }, ID);
    from.write(ID, ADA, HOUR);
    expect(await sessions.destroy(ID)).toBe(true);
    expect(await sessions.get(ID)).toBeUndefined();
  });
});

describe("meanwhile", () => {
  it("the other store writes: what it wrote last is taken over, with its time to live", async () => {
    const { open, from, store } = await adoptionFixture({ sliding: false });
    from.write(ID, ADA, HOUR);
    from.before.remove = () => from.write(ID, BOB, 2 * HOUR);
    expect(await open().get(ID)).toEqual({ user: "bob" });
    expect(await store.ttlMs(STORED_ID)).toBe(2 * HOUR);
    expect(from.textOf(ID)).toBeUndefined();
  });

  it("the other store writes without end: after 16 times the envelope is good enough", async () => {
    const { sessions, from } = await adoptionFixture();
    let writes = 0;
    const rewrite = () => {
      from.write(ID, JSON.stringify({ user: "ada", visits: ++writes }), HOUR);
      from.before.remove = rewrite;
    };
    rewrite();
    expect(await sessions.get(ID)).toEqual({ user: "ada", visits: 16 });
  });

  it("this store writes too: a plaintext does not overwrite what was made of the envelope", async () => {
    const { open, sessions, from, store } = await adoptionFixture();
    from.write(ID, ADA, HOUR);
    from.before.remove = async () => {
      await open({ adopt: { from, until: 0 } }).update(ID, () => ({ user: "ada", visits: 7 }));
      from.write(ID, BOB, HOUR);
    };
    expect(await sessions.get(ID)).toEqual({ user: "ada", visits: 7 });
    expect([from.textOf(ID), (await store.get(STORED_ID)) !== undefined]).toEqual([undefined, true]);
  });

  it.each(["read", "remove"] as const)("the user logs out in the other store, before `%s`", async (method) => {
    const { sessions, from, store } = await adoptionFixture();
    from.write(ID, ADA, HOUR);
    from.before[method] = () => from.destroy(ID);
    expect(await sessions.get(ID)).toBeUndefined();
    expect(await store.get(STORED_ID)).toBeUndefined();
    expect(adoptions()).toEqual([]);
  });

  it.each(["read", "remove"] as const)("the user logs out in this store, before `%s`", async (method) => {
    const { sessions, open, from, store } = await adoptionFixture();
    from.write(ID, ADA, HOUR);
    from.before[method] = () => open().destroy(ID);
    expect(await sessions.get(ID)).toBeUndefined();
    expect(await store.get(STORED_ID)).toBeUndefined();
  });

  it("the user logs out before the envelope is written, and what a request made of it until then goes as well", async () => {
    const { open, from, store } = await adoptionFixture();
    from.write(ID, ADA, HOUR);
    from.before.remove = () => open({ adopt: { from, until: 0 } }).set(ID, { user: "ada", visits: 1 });
    const slow = interrupted(store, "set", () => open().destroy(ID));
    expect(await open({ store: slow }).get(ID)).toBeUndefined();
    expect(await store.get(STORED_ID)).toBeUndefined();
  });

  it("the plaintext expires: the envelope has its own time", async () => {
    const { open, from, store, advance } = await adoptionFixture();
    from.write(ID, ADA, HOUR);
    const slow = interrupted(store, "set", () => advance(HOUR));
    expect(await open({ store: slow }).get(ID)).toEqual({ user: "ada" });
  });

  // Wherever the other process comes in, both find the session, and only one has sealed it.
  const places: [
    string,
    (from: MemoryPlaintext, other: () => Promise<unknown>, store: EnvelopeStore) => EnvelopeStore,
  ][] = [
    [
      "before the plaintext is read",
      (from, other, store) => {
        from.before.read = other;
        return store;
      },
    ],
    ["before the envelope is written", (_, other, store) => interrupted(store, "set", other)],
    [
      "before the plaintext is removed",
      (from, other, store) => {
        from.before.remove = other;
        return store;
      },
    ],
  ];
  it.each(places)("another process takes the session over, %s", async (_, interfere) => {
    const { open, from, store } = await adoptionFixture();
    from.write(ID, ADA, HOUR);
    let seen: unknown;
    const other = async () => {
      seen = await open().get(ID);
    };
    expect(await open({ store: interfere(from, other, store) }).get(ID)).toEqual({ user: "ada" });
    expect(seen).toEqual({ user: "ada" });
    expect(from.textOf(ID)).toBeUndefined();
    expect(await open().get(ID)).toEqual({ user: "ada" });
  });

  it("fifty requests and the walk take it over: all of them find it", async () => {
    const fixture = await adoptionFixture();
    fixture.from.write(ID, ADA, HOUR);
    const gets = Array.from({ length: 50 }, () => fixture.open().get(ID));
    const [seen] = await Promise.all([Promise.all(gets), seal(fixture)]);
    expect(seen).toEqual(gets.map(() => ({ user: "ada" })));
    expect(adoptions()).toHaveLength(1);
  });

  it("a command is sent twice: that is no logout", async () => {
    const { open, from } = await adoptionFixture();
    from.write(ID, ADA, HOUR);
    const twice = {
      ...from,
      async remove(id: string, raw: Uint8Array) {
        await from.remove(id, raw);
        return from.remove(id, raw);
      },
    };
    expect(await open({ adopt: { from: twice, until: UNTIL } }).get(ID)).toEqual({ user: "ada" });
  });

  it("a process dies between the two: the next one that looks finds the session, and the walk removes the plaintext", async () => {
    const fixture = await adoptionFixture();
    const { sessions, from } = fixture;
    from.write(ID, ADA, HOUR);
    from.before.remove = () => Promise.reject(new Error("the process died"));
    await expect(sessions.get(ID)).rejects.toThrow("the process died");
    expect(await sessions.update(ID, (session) => ({ ...session, visits: 3 }))).toEqual({ user: "ada", visits: 3 });
    expect(from.textOf(ID)).toBe(ADA);
    expect(await seal(fixture)).toMatchObject({ examined: 1, sealed: 0, skipped: { "sealed already": 1 } });
    expect(from.textOf(ID)).toBeUndefined();
    expect(await sessions.get(ID)).toEqual({ user: "ada", visits: 3 });
  });
});

describe("in place", () => {
  /** A store whose keys are the other store's. */
  async function sharedFixture(options: Partial<SessionStoreOptions> = {}) {
    const base = await adoptionFixture();
    const { store } = base;
    const bytes = (text: string) => new TextEncoder().encode(text);
    const from: MemoryPlaintext = {
      ...base.from,
      async read(sessionId) {
        const run = base.from.before.read;
        delete base.from.before.read;
        const raw = await store.get(sessionId);
        const ttlMs = await store.ttlMs(sessionId);
        await run?.();
        return raw === undefined ? undefined : { raw, ttlMs };
      },
    };
    const open = (own: Partial<SessionStoreOptions> = {}) =>
      base.open({ storedIds: "verbatim", adopt: { from, until: UNTIL, inPlace: true }, ...options, ...own });
    const write = (text: string, ttlMs: number) => store.set(ID, bytes(text), { ttlMs });
    return { ...base, from, open, write };
  }

  it("the envelope takes the plaintext's place, and its time to live stays as it is", async () => {
    const { open, write, from, store, advance } = await sharedFixture({ sliding: false });
    await write(ADA, HOUR);
    from.before.read = () => advance(777);
    expect(await open().get(ID)).toEqual({ user: "ada" });
    expect(await store.ttlMs(ID)).toBe(HOUR - 777);
    expect(parseEnvelope((await store.get(ID)) as Uint8Array)).toBeDefined();
    expect(adoptions()).toHaveLength(1);
  });

  it("a change in between is taken over, and a logout stays one", async () => {
    const { open, write, from, store } = await sharedFixture();
    await write(ADA, HOUR);
    from.before.read = () => write(BOB, HOUR);
    expect(await open().get(ID)).toEqual({ user: "bob" });
    await write(ADA, HOUR);
    from.before.read = () => open().destroy(ID);
    expect(await open().get(ID)).toBeUndefined();
    expect(await store.get(ID)).toBeUndefined();
  });

  it("what is neither envelope nor session counts as none until the end, and is rejected then", async () => {
    const { open, write, advance } = await sharedFixture({ sliding: false });
    await write("{", 48 * HOUR);
    expect(await open().get(ID)).toBeUndefined();
    advance(24 * HOUR);
    expect(await codeThrown(open().get(ID))).toBe("ENVELOPE_REJECTED");
  });

  it("needs verbatim stored ids", async () => {
    const { open, from } = await sharedFixture();
    expect(() => open({ storedIds: "digest", adopt: { from, until: UNTIL, inPlace: true } })).toThrow(RangeError);
  });
});

describe("the walk", () => {
  it("seals every session, and says what it did", async () => {
    const fixture = await adoptionFixture();
    const { from, sessions, now } = fixture;
    for (let index = 0; index < 300; index++) from.write(`${ID}-${index}`, `{"user":"${index}"}`, HOUR);
    from.write("short", ADA, HOUR);
    from.write(`${ID}-bad`, "{", HOUR);
    const progress: number[] = [];
    const report = await seal(fixture, { onProgress: ({ examined }) => progress.push(examined) });
    expect(report).toEqual({
      startedAt: now(),
      endedAt: now(),
      isInterrupted: false,
      examined: 302,
      sealed: 300,
      skipped: { "whose key holds no session id": 1 },
      unreadable: 1,
    });
    expect(progress.at(-1)).toBe(302);
    expect(await sessions.get(`${ID}-299`)).toEqual({ user: "299" });
    expect([from.textOf(`${ID}-0`), from.textOf("short"), from.textOf(`${ID}-bad`)]).toEqual([undefined, ADA, "{"]);
    expect(await seal(fixture)).toMatchObject({ sealed: 0, skipped: { "gone meanwhile": 300 } });
  });

  it("changes nothing in a dry run, and counts the same", async () => {
    const fixture = await adoptionFixture();
    const { from, store } = fixture;
    from.write(ID, ADA, HOUR);
    from.write(`${ID}-bad`, "{", HOUR);
    expect(await seal(fixture, { dryRun: true })).toMatchObject({ examined: 2, sealed: 1, unreadable: 1 });
    expect([from.textOf(ID), await store.get(STORED_ID)]).toEqual([ADA, undefined]);
  });

  it("is shared by shards that leave nothing out and have nothing in common", async () => {
    const fixture = await adoptionFixture();
    for (let index = 0; index < 100; index++) fixture.from.write(`${ID}-${index}`, ADA, HOUR);
    const [one, two] = await Promise.all([1, 2].map((index) => seal(fixture, { shard: { index, count: 2 } })));
    expect((one?.sealed ?? 0) + (two?.sealed ?? 0)).toBe(100);
    expect(Math.min(one?.examined ?? 0, two?.examined ?? 0)).toBeGreaterThan(20);
  });

  it("ends when it is told to", async () => {
    const fixture = await adoptionFixture();
    for (let index = 0; index < 10; index++) fixture.from.write(`${ID}-${index}`, ADA, HOUR);
    const controller = new AbortController();
    const report = await seal(fixture, { signal: controller.signal, onProgress: () => controller.abort() });
    expect(report).toMatchObject({ isInterrupted: true, examined: 1, sealed: 1 });
  });
});

function seal(
  { ring, store, from }: Awaited<ReturnType<typeof adoptionFixture>>,
  options: Partial<SealPlaintextOptions> = {},
) {
  return sealPlaintextSessions({ ring, sealer: new Sealer({ ring, counted: true }), store, from, ...options });
}
