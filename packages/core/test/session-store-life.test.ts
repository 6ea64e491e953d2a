/** The life of one session: a time to live of its own, objects that are copies of what was read, and what concerns all sessions. */
import { describe, expect, it } from "vitest";
import { RecordState } from "../src/data-key.js";
import { parseEnvelope } from "../src/envelope.js";
import { type EnvelopeStore, MAX_TTL_MS } from "../src/envelope-store.js";
import { memoryStore } from "../src/memory-store.js";
import { storedIdOf } from "../src/session-id.js";
import { SessionStore, type SessionStoreOptions } from "../src/session-store.js";
import { codeThrown, HOUR, MINUTE, START } from "./support/fixture.js";
import { collectEvents, openFixture } from "./support/open-fixture.js";
import { overwrite } from "./support/open-ring-store.js";

interface Session {
  user_id: number;
}

const DAY = 24 * HOUR;
const WRONG_TTLS = [0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, MAX_TTL_MS + 1];
const events = collectEvents();
const stored = (sessionId: string) => storedIdOf(sessionId) as string;

function storeFixture(options: Partial<SessionStoreOptions<Session>> = {}) {
  const base = openFixture();
  const envelopes = memoryStore({ clock: base.now });
  const calls: string[] = [];
  const store = new Proxy(envelopes, {
    get:
      (target, name: keyof EnvelopeStore) =>
      (...args: unknown[]) => {
        calls.push(name);
        return (target[name] as (...args: unknown[]) => unknown).apply(target, args);
      },
  });
  const open = (own: Partial<SessionStoreOptions<Session>> = {}) =>
    new SessionStore<Session>({ ring: base.ring, store, ...options, ...own });
  return {
    ...base,
    envelopes,
    calls,
    open,
    sessions: open(),
    ttlMs: (sessionId: string) => envelopes.ttlMs(stored(sessionId)),
    async revoke(): Promise<void> {
      const { keyId } = await base.ring.current();
      overwrite(base.store, { keyId }, { ...base.stored(keyId), state: RecordState.revoked });
      await base.ring.refresh();
    },
  };
}

describe("a time to live of its own", () => {
  it("is given at the creation, to the millisecond", async () => {
    const { sessions, ttlMs } = storeFixture();
    expect(await ttlMs(await sessions.create({ user_id: 1 }, undefined, { ttlMs: 1 }))).toBe(1);
    expect(await ttlMs(await sessions.create({ user_id: 1 }, undefined, { ttlMs: 30 * DAY + 1 }))).toBe(30 * DAY + 1);
    expect(await ttlMs(await sessions.create({ user_id: 1 }, undefined, { ttlMs: MAX_TTL_MS }))).toBe(MAX_TTL_MS);
    expect(await ttlMs(await sessions.create({ user_id: 1 }, undefined, {}))).toBe(DAY);
  });

  it("is given by set, whether the object came from this store or not, and whether sessions slide or not", async () => {
    for (const sliding of [true, false]) {
      const { sessions, ttlMs } = storeFixture({ sliding });
      const id = await sessions.create({ user_id: 1 });
      expect(await sessions.set(id, (await sessions.get(id)) as Session, { ttlMs: HOUR + 1 })).toBe(true);
      expect(await ttlMs(id)).toBe(HOUR + 1);
      expect(await sessions.set(id, { user_id: 2 }, { ttlMs: 30 * DAY })).toBe(true);
      expect(await ttlMs(id)).toBe(30 * DAY);
      expect(await sessions.get(id, { slide: false })).toEqual({ user_id: 2 });
    }
  });

  it("is given by touch, also where sessions do not slide, in one command", async () => {
    for (const sliding of [true, false]) {
      const { sessions, ttlMs, calls } = storeFixture({ sliding });
      const id = await sessions.create({ user_id: 1 });
      calls.length = 0;
      expect(await sessions.touch(id, { ttlMs: 30 * DAY })).toBe(true);
      expect(calls).toEqual(["touch"]);
      expect(await ttlMs(id)).toBe(30 * DAY);
    }
  });

  it("is cut at the end of the absolute life, wherever it comes from", async () => {
    const { sessions, ttlMs, advance } = storeFixture({ absoluteSeconds: 7200 });
    const id = await sessions.create({ user_id: 1 }, undefined, { ttlMs: DAY });
    expect(await ttlMs(id)).toBe(2 * HOUR);
    advance(30 * MINUTE);
    const session = (await sessions.get(id)) as Session;
    await sessions.set(id, session, { ttlMs: DAY });
    expect(await ttlMs(id)).toBe(90 * MINUTE);
    await sessions.set(id, { user_id: 2 }, { ttlMs: DAY });
    expect(await ttlMs(id)).toBe(90 * MINUTE);
    await sessions.touch(id, { ttlMs: DAY, origin: session });
    expect(await ttlMs(id)).toBe(90 * MINUTE);
    await sessions.touch(id, { ttlMs: DAY });
    expect(await ttlMs(id)).toBe(90 * MINUTE);
    await sessions.touch(id, { ttlMs: MINUTE });
    expect(await ttlMs(id)).toBe(MINUTE);
  });

  it.each(WRONG_TTLS)("of %d is refused with a RangeError, and nothing changes", async (ttlMs) => {
    const { sessions, envelopes } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const before = await envelopes.get(stored(id));
    await expect(sessions.create({ user_id: 1 }, undefined, { ttlMs })).rejects.toThrow(RangeError);
    await expect(sessions.set(id, { user_id: 2 }, { ttlMs })).rejects.toThrow(RangeError);
    await expect(sessions.touch(id, { ttlMs })).rejects.toThrow(RangeError);
    expect(await envelopes.get(stored(id))).toEqual(before);
    expect(await envelopes.ttlMs(stored(id))).toBe(DAY);
    expect(await sessions.count()).toBe(1);
  });

  it("does not bring back what has gone", async () => {
    const { sessions, advance } = storeFixture();
    const id = await sessions.create({ user_id: 1 }, undefined, { ttlMs: MINUTE });
    const session = (await sessions.get(id, { slide: false })) as Session;
    advance(MINUTE);
    expect(await sessions.touch(id, { ttlMs: HOUR })).toBe(false);
    expect(await sessions.touch(id, { ttlMs: HOUR, origin: session })).toBe(false);
    expect(await sessions.set(id, session, { ttlMs: HOUR })).toBe(false);
    expect(await sessions.get(id)).toBeUndefined();
  });

  it("of an id that cannot be one is that of no session", async () => {
    const { sessions } = storeFixture();
    expect(await sessions.touch("short", { ttlMs: HOUR })).toBe(false);
  });
});

describe("a read", () => {
  it("slides or not as it is told, whatever the store does by default", async () => {
    for (const sliding of [true, false]) {
      const { sessions, ttlMs, advance } = storeFixture({ sliding });
      const id = await sessions.create({ user_id: 1 });
      advance(HOUR);
      await sessions.get(id, { slide: false });
      expect(await ttlMs(id)).toBe(23 * HOUR);
      await sessions.get(id, { slide: true });
      expect(await ttlMs(id)).toBe(DAY);
      advance(HOUR);
      await sessions.get(id, {});
      expect(await ttlMs(id)).toBe(sliding ? DAY : 23 * HOUR);
    }
  });
});

describe("a copy with its origin", () => {
  it("is written in one command, and keeps the end of life", async () => {
    const { sessions, calls, advance, envelopes } = storeFixture({ absoluteSeconds: 7200 });
    const id = await sessions.create({ user_id: 1 });
    advance(MINUTE);
    const origin = (await sessions.get(id)) as Session;
    calls.length = 0;
    expect(await sessions.set(id, { user_id: 2 }, { origin })).toBe(true);
    expect(calls).toEqual(["set"]);
    expect(parseEnvelope((await envelopes.get(stored(id))) as Uint8Array)?.notAfter).toBe((START + 2 * HOUR) / 1000);
  });

  it("becomes one that came from this store itself", async () => {
    const { sessions, calls } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const copy = { user_id: 2 };
    await sessions.set(id, copy, { origin: (await sessions.get(id)) as Session });
    calls.length = 0;
    await sessions.set(id, copy);
    expect(calls).toEqual(["set"]);
  });

  it("of another session, or of no store, is read first as if it had none", async () => {
    const { sessions, calls } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const other = { user_id: 9 };
    await sessions.create(other);
    for (const origin of [other, {}]) {
      calls.length = 0;
      expect(await sessions.set(id, { user_id: 2 }, { origin })).toBe(true);
      expect(calls).toEqual(["get", "compareAndSet"]);
    }
  });

  it("whose key was revoked meanwhile does not come back", async () => {
    const { sessions, revoke } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const origin = (await sessions.get(id)) as Session;
    await revoke();
    expect(await sessions.set(id, { user_id: 2 }, { origin })).toBe(false);
    expect(await sessions.get(id)).toBeUndefined();
  });

  it("needs no read to be touched where sessions have an absolute life", async () => {
    const { sessions, calls, ttlMs } = storeFixture({ absoluteSeconds: 7200 });
    const id = await sessions.create({ user_id: 1 });
    const origin = (await sessions.get(id)) as Session;
    calls.length = 0;
    expect(await sessions.touch(id, { ttlMs: HOUR, origin })).toBe(true);
    expect(calls).toEqual(["touch"]);
    expect(await ttlMs(id)).toBe(HOUR);
    expect(await sessions.touch(id, { ttlMs: MINUTE, origin: {} })).toBe(true);
    expect(calls).toEqual(["touch", "get", "touch"]);
  });
});

describe("ifUnchanged", () => {
  it("writes what nobody else has written since, and can do so again and again", async () => {
    const { sessions } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const session = (await sessions.get(id)) as Session;
    for (session.user_id = 2; session.user_id < 5; session.user_id++) {
      expect(await sessions.set(id, session, { ifUnchanged: true })).toBe(true);
      expect(await sessions.get(id)).toEqual(session);
    }
  });

  it("is refused with STORE_CONFLICT when somebody else has, in any of the ways to write", async () => {
    for (const sliding of [true, false]) {
      const { sessions } = storeFixture({ sliding });
      const id = await sessions.create({ user_id: 1 });
      const mine = (await sessions.get(id)) as Session;
      await sessions.set(id, { user_id: 7 });
      expect(await codeThrown(sessions.set(id, { user_id: 2 }, { origin: mine, ifUnchanged: true }))).toBe(
        "STORE_CONFLICT",
      );
      expect(await sessions.get(id)).toEqual({ user_id: 7 });
    }
  });

  it("of concurrent writers lets one win", async () => {
    const { sessions, open } = storeFixture();
    const id = await sessions.create({ user_id: 0 });
    const outcomes = await Promise.allSettled(
      Array.from({ length: 8 }, async (_, index) => {
        const own = open();
        const session = (await own.get(id)) as Session;
        await Promise.resolve();
        return own.set(id, { user_id: index + 1 }, { origin: session, ifUnchanged: true });
      }),
    );
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    const winner = outcomes.findIndex(({ status }) => status === "fulfilled");
    expect(await sessions.get(id)).toEqual({ user_id: winner + 1 });
  });

  it("tells a session that has gone from one that was changed", async () => {
    const { sessions } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const session = (await sessions.get(id)) as Session;
    await sessions.destroy(id);
    expect(await sessions.set(id, session, { ifUnchanged: true })).toBe(false);
  });

  it("without an origin under this id is a TypeError", async () => {
    const { sessions } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const other = { user_id: 2 };
    await sessions.create(other);
    for (const origin of [undefined, {}, other]) {
      await expect(sessions.set(id, { user_id: 3 }, { origin, ifUnchanged: true })).rejects.toThrow(TypeError);
    }
    expect(await sessions.get(id)).toEqual({ user_id: 1 });
  });
});

describe("absoluteEndOf", () => {
  it("tells the end of an object that was created, read, written or updated here", async () => {
    const { sessions, advance } = storeFixture({ absoluteSeconds: 7200 });
    const created = { user_id: 1 };
    const id = await sessions.create(created);
    advance(MINUTE);
    const read = (await sessions.get(id)) as Session;
    const written = { user_id: 2 };
    await sessions.set(id, written);
    const updated = (await sessions.update(id, (session) => session)) as Session;
    for (const session of [created, read, written, updated])
      expect(sessions.absoluteEndOf(session)).toBe(START + 2 * HOUR);
  });

  it("is undefined without an absolute life, and for an object of somebody else", async () => {
    const { sessions } = storeFixture();
    const session = { user_id: 1 };
    await sessions.create(session);
    expect(sessions.absoluteEndOf(session)).toBeUndefined();
    expect(storeFixture({ absoluteSeconds: 60 }).sessions.absoluteEndOf(session)).toBeUndefined();
    expect(storeFixture({ absoluteSeconds: 60 }).sessions.absoluteEndOf("text" as never)).toBeUndefined();
  });
});

describe("all sessions", () => {
  it("are walked over with their stored ids, and do not slide by it", async () => {
    const { sessions, advance, ttlMs } = storeFixture();
    const ids = [await sessions.create({ user_id: 1 }), await sessions.create({ user_id: 2 })];
    advance(HOUR);
    const met: [string, Session][] = [];
    for await (const [storedId, session] of sessions.all()) met.push([storedId, session]);
    expect(new Map(met)).toEqual(new Map(ids.map((id, index) => [stored(id), { user_id: index + 1 }])));
    expect(await ttlMs(ids[0] as string)).toBe(23 * HOUR);
  });

  it("are walked over without those that do not open, which is reported", async () => {
    const { sessions, envelopes } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const moved = (await envelopes.get(stored(id))) as Uint8Array;
    await envelopes.set("somewhere-else-than-it-was", moved, { ttlMs: HOUR });
    const met: unknown[] = [];
    for await (const [, session] of sessions.all()) met.push(session);
    expect(met).toEqual([{ user_id: 1 }]);
    expect(events).toContainEqual({ type: "envelope-rejected" });
    expect(await sessions.count()).toBe(2);
  });

  it("that are bound to their clients cannot be walked over", async () => {
    const { sessions } = storeFixture({ clientBound: true });
    await sessions.create({ user_id: 1 });
    await expect(sessions.all().next()).rejects.toThrow(TypeError);
    expect(await sessions.count()).toBe(1);
  });

  it("are counted while they live, and end with clear", async () => {
    const { sessions, advance } = storeFixture();
    expect(await sessions.count()).toBe(0);
    const ids = await Promise.all(
      [1, 2, 3].map((user_id) => sessions.create({ user_id }, undefined, { ttlMs: user_id * HOUR })),
    );
    expect(await sessions.count()).toBe(3);
    advance(HOUR);
    expect(await sessions.count()).toBe(2);
    await sessions.clear();
    expect(await sessions.count()).toBe(0);
    for (const id of ids) expect(await sessions.get(id)).toBeUndefined();
  });
});
