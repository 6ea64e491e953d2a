/** What a write keeps, what it never brings back, and what an error tells: the store of web sessions under concurrent writers. */
import { inspect } from "node:util";
import { describe, expect, it } from "vitest";
import { RecordState } from "../src/data-key.js";
import { parseEnvelope } from "../src/envelope.js";
import { type EnvelopeStore, MAX_TTL_MS } from "../src/envelope-store.js";
import { memoryStore } from "../src/memory-store.js";
import { Sealer } from "../src/sealer.js";
import { storedIdOf } from "../src/session-id.js";
import { SessionStore, type SessionStoreOptions } from "../src/session-store.js";
import { codeThrown, HOUR, MINUTE, START } from "./support/fixture.js";
import { collectEvents, openFixture } from "./support/open-fixture.js";
import { overwrite } from "./support/open-ring-store.js";

interface Session {
  user_id: number;
  visits?: number;
}

const DAY = 24 * HOUR;
const SESSION_ID = "0123456789abcdef";
const events = collectEvents();
const stored = (sessionId: string) => storedIdOf(sessionId) as string;

function storeFixture(options: Partial<SessionStoreOptions> = {}) {
  const base = openFixture();
  const envelopes = memoryStore({ clock: base.now });
  const calls: [method: string, ...args: unknown[]][] = [];
  const store = new Proxy(envelopes, {
    get:
      (target, name: keyof EnvelopeStore) =>
      (...args: unknown[]) => {
        calls.push([name, ...args]);
        return (target[name] as (...args: unknown[]) => unknown).apply(target, args);
      },
  });
  const open = (own: Partial<SessionStoreOptions> = {}) =>
    new SessionStore<Session>({ ring: base.ring, store, ...options, ...own });
  return {
    ...base,
    envelopes,
    calls,
    open,
    sessions: open(),
    /** The end of life in a session's envelope, in milliseconds. */
    async notAfter(sessionId: string): Promise<number | undefined> {
      const seconds = parseEnvelope((await envelopes.get(stored(sessionId))) as Uint8Array)?.notAfter;
      return seconds === undefined ? undefined : seconds * 1000;
    },
    async ids(): Promise<string[]> {
      const ids: string[] = [];
      for await (const id of envelopes.scan()) ids.push(id);
      return ids;
    },
    /** Revokes the only key of the ring, and lets this process know. */
    async revoke(): Promise<void> {
      const { keyId } = await base.ring.current();
      overwrite(base.store, { keyId }, { ...base.stored(keyId), state: RecordState.revoked });
      await base.ring.refresh();
    },
  };
}

describe("set", () => {
  it("of an object that came from this store is one command, and keeps the end of life", async () => {
    const { sessions, calls, advance, notAfter } = storeFixture({ absoluteSeconds: 7200 });
    const id = await sessions.create({ user_id: 1 });
    advance(10 * MINUTE);
    const session = (await sessions.get(id)) as Session;
    session.user_id = 2;
    calls.length = 0;
    expect(await sessions.set(id, session)).toBe(true);
    expect(calls).toEqual([["set", stored(id), expect.any(Uint8Array), { ttlMs: 110 * MINUTE, condition: "present" }]]);
    expect(await notAfter(id)).toBe(START + 2 * HOUR);
    expect(await sessions.get(id)).toEqual({ user_id: 2 });
  });

  it.each([
    ["was created here", async (_: SessionStore<Session>, session: Session) => session],
    [
      "was written here before",
      async (sessions: SessionStore<Session>, session: Session, id: string) => {
        const other = { ...session };
        await sessions.set(id, other);
        return other;
      },
    ],
    [
      "came from update",
      async (sessions: SessionStore<Session>, _: Session, id: string) =>
        (await sessions.update(id, (found) => found)) as Session,
    ],
  ])("is one command also when the object %s", async (_, make) => {
    const { sessions, calls } = storeFixture();
    const session = { user_id: 1 };
    const id = await sessions.create(session);
    const own = await make(sessions, session, id);
    calls.length = 0;
    expect(await sessions.set(id, own)).toBe(true);
    expect(calls.map(([method]) => method)).toEqual(["set"]);
  });

  it("of any other object reads the session first, and keeps the end of life", async () => {
    const { sessions, calls, advance, notAfter } = storeFixture({ absoluteSeconds: 7200 });
    const id = await sessions.create({ user_id: 1 });
    advance(10 * MINUTE);
    calls.length = 0;
    expect(await sessions.set(id, { user_id: 2 })).toBe(true);
    expect(calls.map(([method]) => method)).toEqual(["get", "compareAndSet"]);
    expect(await notAfter(id)).toBe(START + 2 * HOUR);
    expect(await sessions.get(id)).toEqual({ user_id: 2 });
  });

  it("of another session's object reads first: its end of life is not this one's", async () => {
    const { sessions, calls, advance, notAfter } = storeFixture({ absoluteSeconds: 7200 });
    const id = await sessions.create({ user_id: 1 });
    advance(MINUTE);
    const other = await sessions.create({ user_id: 2 });
    const session = (await sessions.get(other)) as Session;
    calls.length = 0;
    expect(await sessions.set(id, session)).toBe(true);
    expect(calls.map(([method]) => method)).toEqual(["get", "compareAndSet"]);
    expect(await notAfter(id)).toBe(START + 2 * HOUR);
    expect(await notAfter(other)).toBe(START + 2 * HOUR + MINUTE);
  });

  it("does not bring a session back that was destroyed, or whose life has ended, on either path", async () => {
    const { sessions, envelopes, advance, ring } = storeFixture({ absoluteSeconds: 3600 });
    const [gone, ended] = [await sessions.create({ user_id: 1 }), await sessions.create({ user_id: 2 })];
    const [goneSession, endedSession] = [await sessions.get(gone), await sessions.get(ended)] as [Session, Session];
    await sessions.destroy(gone);
    expect(await sessions.set(gone, goneSession)).toBe(false);
    expect(await sessions.set(gone, { user_id: 1 })).toBe(false);
    // Somebody took the time to live away from the store's copy.
    await envelopes.touch(stored(ended), DAY);
    const before = await envelopes.get(stored(ended));
    advance(HOUR);
    // The key is warm: nothing but the end of life stands in the way.
    await ring.refresh();
    expect(await sessions.set(ended, endedSession)).toBe(false);
    expect(await sessions.set(ended, { user_id: 2 })).toBe(false);
    expect(await envelopes.get(stored(ended))).toEqual(before);
    expect(await sessions.get(ended)).toBeUndefined();
  });

  it("does not bring a session back that a revoked key sealed, on either path (3.5)", async () => {
    const { sessions, envelopes, revoke } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const session = (await sessions.get(id)) as Session;
    const before = await envelopes.get(stored(id));
    await revoke();
    expect(await sessions.set(id, session)).toBe(false);
    expect(await sessions.set(id, { user_id: 1 })).toBe(false);
    expect(await sessions.update(id, (found) => found)).toBeUndefined();
    expect(await sessions.regenerate(id)).toBeUndefined();
    expect(await envelopes.get(stored(id))).toEqual(before);
    expect(await sessions.get(id)).toBeUndefined();
    expect(events).toContainEqual({ type: "session-dropped", code: "KEY_REVOKED" });
  });

  it("throws ENVELOPE_REJECTED for an object that did not come from here over bytes that were tampered with", async () => {
    const { sessions, envelopes } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const bytes = (await envelopes.get(stored(id))) as Uint8Array;
    const tampered = bytes.map((byte, i) => (i === bytes.length - 1 ? byte ^ 1 : byte));
    await envelopes.set(stored(id), tampered, { ttlMs: DAY });
    expect(await codeThrown(sessions.set(id, { user_id: 2 }))).toBe("ENVELOPE_REJECTED");
    expect(await envelopes.get(stored(id))).toEqual(tampered);
    expect(events).toContainEqual({ type: "envelope-rejected" });
  });

  it("of a value that is no object reads first each time", async () => {
    const { ring, envelopes, calls } = storeFixture();
    const texts = new SessionStore<string>({ ring, store: envelopes, absoluteSeconds: 60 });
    const id = await texts.create("a");
    expect(await texts.set(id, "b")).toBe(true);
    expect(await texts.get(id)).toBe("b");
    expect(calls).toEqual([]);
  });

  it("without sliding keeps the remaining time, also of an object that came from this store", async () => {
    const { sessions, envelopes, advance } = storeFixture({ idleSeconds: 3600, sliding: false });
    const id = await sessions.create({ user_id: 1 });
    advance(10 * MINUTE);
    const session = (await sessions.get(id)) as Session;
    expect(await sessions.set(id, session)).toBe(true);
    expect(await envelopes.ttlMs(stored(id))).toBe(50 * MINUTE);
  });
});

describe("the end of a session's life (3.3)", () => {
  const writes: [string, (sessions: SessionStore<Session>, id: string) => Promise<string>][] = [
    [
      "set of an object of the store",
      async (sessions, id) => {
        expect(await sessions.set(id, (await sessions.get(id)) as Session)).toBe(true);
        return id;
      },
    ],
    [
      "set of another object",
      async (sessions, id) => {
        expect(await sessions.set(id, { user_id: 2 })).toBe(true);
        return id;
      },
    ],
    [
      "update",
      async (sessions, id) => {
        expect(await sessions.update(id, (session) => session)).toBeDefined();
        return id;
      },
    ],
    ["regenerate", async (sessions, id) => (await sessions.regenerate(id)) as string],
  ];

  it.each(writes)("is kept by %s through a store without absoluteSeconds, or with another one", async (_, write) => {
    for (const absoluteSeconds of [undefined, 60, 86_400]) {
      const { open, sessions, notAfter, advance } = storeFixture({ absoluteSeconds: 7200 });
      const id = await sessions.create({ user_id: 1 });
      advance(90 * MINUTE);
      const other = open({ absoluteSeconds } as Partial<SessionStoreOptions>);
      const written = await write(other, id);
      expect(await notAfter(written)).toBe(START + 2 * HOUR);
      advance(30 * MINUTE);
      expect(await other.get(written)).toBeUndefined();
    }
  });

  it.each(writes)("is set by %s through a store with absoluteSeconds where there was none", async (_, write) => {
    const { open, sessions, notAfter, advance } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    expect(await notAfter(id)).toBeUndefined();
    advance(10 * MINUTE);
    const written = await write(open({ absoluteSeconds: 3600 }), id);
    expect(await notAfter(written)).toBe(START + 10 * MINUTE + HOUR);
  });

  it.each(writes)("cuts the time to live that %s gives", async (_, write) => {
    const { sessions, envelopes, advance } = storeFixture({ idleSeconds: 3600, absoluteSeconds: 5400 });
    const id = await sessions.create({ user_id: 1 });
    expect(await envelopes.ttlMs(stored(id))).toBe(HOUR);
    advance(20 * MINUTE);
    const early = await write(sessions, id);
    expect(await envelopes.ttlMs(stored(early))).toBe(HOUR);
    advance(50 * MINUTE);
    const late = await write(sessions, early);
    expect(await envelopes.ttlMs(stored(late))).toBe(20 * MINUTE);
    advance(20 * MINUTE - 1);
    expect(await envelopes.ttlMs(stored(await write(sessions, late)))).toBe(1);
  });

  it("cuts the time to live that create gives", async () => {
    const { sessions, envelopes, calls } = storeFixture({ idleSeconds: 3600, absoluteSeconds: 60 });
    const id = await sessions.create({ user_id: 1 });
    expect(await envelopes.ttlMs(stored(id))).toBe(MINUTE);
    expect(calls).toEqual([["set", stored(id), expect.any(Uint8Array), { ttlMs: MINUTE, condition: "absent" }]]);
  });
});

describe("regenerate", () => {
  it("loses no update that was acknowledged meanwhile", async () => {
    const { sessions, ids } = storeFixture();
    const id = await sessions.create({ user_id: 1, visits: 0 });
    const attempts: Session[] = [];
    const newId = (await sessions.regenerate(id, async (session) => {
      if (attempts.length === 0) await sessions.update(id, (found) => ({ ...found, visits: 7 }));
      attempts.push(session);
      return { ...session, user_id: 2 };
    })) as string;
    expect(attempts).toEqual([
      { user_id: 1, visits: 0 },
      { user_id: 1, visits: 7 },
    ]);
    expect(await sessions.get(newId)).toEqual({ user_id: 2, visits: 7 });
    expect(await ids()).toEqual([stored(newId)]);
  });

  it("gives up with STORE_CONFLICT after 16 attempts, and leaves the session and nothing else", async () => {
    const { sessions, ids } = storeFixture();
    const id = await sessions.create({ user_id: 0 });
    let attempts = 0;
    const change = async (session: Session) => {
      await sessions.set(id, { user_id: ++attempts });
      return session;
    };
    expect(await codeThrown(sessions.regenerate(id, change))).toBe("STORE_CONFLICT");
    expect(attempts).toBe(16);
    expect(await ids()).toEqual([stored(id)]);
    expect(await sessions.get(id)).toEqual({ user_id: 16 });
  });

  it("without sliding cuts the time of a session that somebody deprived of its expiry", async () => {
    const { sessions, envelopes } = storeFixture({ idleSeconds: 3600, sliding: false });
    const id = await sessions.create({ user_id: 1 });
    await envelopes.touch(stored(id), MAX_TTL_MS);
    expect(await envelopes.ttlMs(stored(id))).toBe(MAX_TTL_MS);
    const newId = (await sessions.regenerate(id)) as string;
    expect(await envelopes.ttlMs(stored(newId))).toBe(HOUR);
  });

  it("writes nothing when the change throws", async () => {
    const { sessions, ids } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const failing = () => Promise.reject(new Error("no"));
    await expect(sessions.regenerate(id, failing)).rejects.toThrow("no");
    expect(await ids()).toEqual([stored(id)]);
  });
});

describe("an error names no id, neither in its message nor when it is printed", () => {
  const SECRET = "5ecret-5ession-id-of-a-client";
  const cases: [string, () => Promise<unknown>][] = [
    [
      "SESSION_EXISTS",
      async () => {
        const { sessions } = storeFixture();
        await sessions.create({ user_id: 1 }, SECRET);
        return sessions.create({ user_id: 1 }, SECRET);
      },
    ],
    ["SESSION_ID_INVALID", async () => storeFixture().sessions.create({ user_id: 1 }, SECRET.repeat(20))],
    ["SESSION_ID_INVALID", async () => storeFixture().sessions.set(`${SECRET}\ud800`, { user_id: 1 })],
    [
      "SESSION_ID_INVALID",
      async () => storeFixture({ storedIds: "verbatim" }).sessions.update(`{${SECRET}}`, (s) => s),
    ],
    [
      "ENVELOPE_EXPIRED",
      async () => {
        const { ring, advance } = storeFixture();
        const sealer = new Sealer({ ring, clientBound: true });
        const options = { sessionId: SECRET, notAfterMs: START + 1000 };
        const envelope = await sealer.seal({ user_id: 1 }, stored(SECRET), options);
        advance(1000);
        return sealer.open(envelope, stored(SECRET), options);
      },
    ],
    [
      "STORE_CONFLICT",
      async () => {
        const { sessions } = storeFixture();
        await sessions.create({ user_id: 0 }, SECRET);
        return sessions.update(SECRET, async (session) => {
          await sessions.set(SECRET, { user_id: 1 });
          return session;
        });
      },
    ],
    [
      "ENVELOPE_REJECTED",
      async () => {
        const { sessions, envelopes } = storeFixture();
        await envelopes.set(stored(SECRET), new Uint8Array(100), { ttlMs: DAY });
        return sessions.get(SECRET);
      },
    ],
    [
      "KEY_UNAVAILABLE",
      async () => {
        const { sessions, kms } = storeFixture();
        kms.failWith = "KMS_DENIED";
        return sessions.create({ user_id: 1 }, SECRET);
      },
    ],
  ];

  it.each(cases)("%s: %#", async (code, run) => {
    const error = await run().then(
      () => undefined,
      (thrown: Error & { code?: string }) => thrown,
    );
    if (error === undefined) throw new Error("nothing was thrown");
    expect(error.code).toBe(code);
    const shown = [
      error.message,
      error.stack,
      String(error),
      inspect(error, { depth: 20, showHidden: true }),
      JSON.stringify(error),
    ];
    for (const text of shown) {
      expect(text).not.toContain("5ecret");
      expect(text).not.toContain(stored(SECRET));
    }
  });
});

it("touch of a session under a revoked key tells that something lies there, and get that it does not open", async () => {
  const { sessions, revoke } = storeFixture();
  await sessions.create({ user_id: 1 }, SESSION_ID);
  await revoke();
  expect(await sessions.touch(SESSION_ID)).toBe(true);
  expect(await sessions.get(SESSION_ID)).toBeUndefined();
  expect(await sessions.destroy(SESSION_ID)).toBe(true);
});

it("takes nothing from a write that was refused: the end of life of what lies there is kept", async () => {
  const { sessions, advance, notAfter } = storeFixture({ absoluteSeconds: 3600 });
  await sessions.create({ user_id: 1 }, SESSION_ID);
  advance(30 * MINUTE);
  const latecomer = { user_id: 2 };
  expect(await codeThrown(sessions.create(latecomer, SESSION_ID))).toBe("SESSION_EXISTS");
  expect(await sessions.set(SESSION_ID, latecomer)).toBe(true);
  expect(await notAfter(SESSION_ID)).toBe(START + HOUR);
});
