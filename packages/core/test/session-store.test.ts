import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { decodeRecord, encodeRecord, RecordState } from "../src/data-key.js";
import { DIAGNOSTICS_CHANNEL, type DiagnosticEvent } from "../src/diagnostics.js";
import type { EnvelopeStore } from "../src/envelope-store.js";
import { SealedSessionError } from "../src/errors.js";
import { memoryStore } from "../src/memory-store.js";
import { storedIdOf } from "../src/session-id.js";
import { SessionStore, type SessionStoreOptions } from "../src/session-store.js";
import { codeThrown, fixture, HOUR, MINUTE } from "./support/fixture.js";

interface Session {
  user_id: number;
  visits?: number;
}

const DAY = 24 * HOUR;
const SESSION_ID = "0123456789abcdef";

let events: DiagnosticEvent[];
const collect = (event: unknown) => void events.push(event as DiagnosticEvent);
beforeEach(() => {
  events = [];
  subscribe(DIAGNOSTICS_CHANNEL, collect);
});
afterEach(() => void unsubscribe(DIAGNOSTICS_CHANNEL, collect));

function storeFixture(
  options: Partial<SessionStoreOptions> = {},
  wrap: (store: EnvelopeStore) => EnvelopeStore = (s) => s,
) {
  const base = fixture();
  const envelopes = memoryStore({ clock: base.ring.clock });
  const sessions = new SessionStore<Session>({ ring: base.ring, store: wrap(envelopes), ...options });
  return { ...base, keys: base.store, envelopes, sessions };
}
const stored = (sessionId: string) => storedIdOf(sessionId) as string;

describe("a session", () => {
  it("is created under an id of 256 bits, read, replaced and destroyed", async () => {
    const { sessions } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    expect(id).toMatch(/^[\w-]{43}$/);
    expect(await sessions.get(id)).toEqual({ user_id: 1 });
    expect(await sessions.set(id, { user_id: 2 })).toBe(true);
    expect(await sessions.get(id)).toEqual({ user_id: 2 });
    expect(await sessions.destroy(id)).toBe(true);
    expect(await sessions.get(id)).toBeUndefined();
    expect(await sessions.destroy(id)).toBe(false);
  });

  it("lies in the store under the digest of its id, as an envelope", async () => {
    const { sessions, envelopes } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const ids: string[] = [];
    for await (const storedId of envelopes.scan()) ids.push(storedId);
    expect(ids).toEqual([stored(id)]);
    expect((await envelopes.get(stored(id)))?.[0]).toBe(0xe5);
  });

  it("keeps an id that the caller made, once", async () => {
    const { sessions } = storeFixture();
    expect(await sessions.create({ user_id: 1 }, SESSION_ID)).toBe(SESSION_ID);
    expect(await codeThrown(sessions.create({ user_id: 2 }, SESSION_ID))).toBe("SESSION_EXISTS");
    expect(await sessions.get(SESSION_ID)).toEqual({ user_id: 1 });
  });

  it("that was destroyed does not come back by a late write", async () => {
    const { sessions } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    await sessions.destroy(id);
    expect(await sessions.set(id, { user_id: 1 })).toBe(false);
    expect(await sessions.touch(id)).toBe(false);
    expect(await sessions.update(id, (session) => session)).toBeUndefined();
    expect(await sessions.get(id)).toBeUndefined();
  });

  it("is not lost when the new value cannot be sealed", async () => {
    const { sessions } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const bad = { user_id: 2, callback: () => {} };
    expect(await codeThrown(sessions.set(id, bad))).toBe("VALUE_UNSUPPORTED");
    expect(await sessions.get(id)).toEqual({ user_id: 1 });
  });

  it.each(["", "short", "a".repeat(513), `${"a".repeat(20)}\ud800`])(
    "with an id that cannot be one does not exist, and is not written: %j",
    async (id) => {
      const { sessions } = storeFixture();
      expect(await sessions.get(id)).toBeUndefined();
      expect(await sessions.touch(id)).toBe(false);
      expect(await sessions.destroy(id)).toBe(false);
      expect(await sessions.regenerate(id)).toBeUndefined();
      expect(await codeThrown(sessions.set(id, { user_id: 1 }))).toBe("SESSION_ID_INVALID");
      expect(await codeThrown(sessions.create({ user_id: 1 }, id))).toBe("SESSION_ID_INVALID");
    },
  );
});

describe("the idle time-out", () => {
  it("is 24 h by default", async () => {
    const { sessions, envelopes } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    expect(await envelopes.ttlMs(stored(id))).toBe(DAY);
  });

  it.each([
    ["get", (s: SessionStore<Session>, id: string) => s.get(id)],
    ["touch", (s: SessionStore<Session>, id: string) => s.touch(id)],
    ["set", (s: SessionStore<Session>, id: string) => s.set(id, { user_id: 2 })],
    ["update", (s: SessionStore<Session>, id: string) => s.update(id, (session) => session)],
  ])("slides with %s, and stays where it is without sliding", async (_, use) => {
    for (const sliding of [true, false]) {
      const { sessions, envelopes, advance } = storeFixture({ idleSeconds: 3600, sliding });
      const id = await sessions.create({ user_id: 1 });
      advance(10 * MINUTE);
      expect(await use(sessions, id)).toBeTruthy();
      expect(await envelopes.ttlMs(stored(id))).toBe(sliding ? HOUR : 50 * MINUTE);
      advance(50 * MINUTE);
      expect((await sessions.get(id)) !== undefined).toBe(sliding);
    }
  });

  it("slides in the same command as the read", async () => {
    const calls: unknown[][] = [];
    const { sessions } = storeFixture(
      { idleSeconds: 60 },
      (store) =>
        new Proxy(store, {
          get:
            (target, name: keyof EnvelopeStore) =>
            (...args: unknown[]) => {
              calls.push([name, ...args]);
              return (target[name] as (...args: unknown[]) => unknown).apply(target, args);
            },
        }),
    );
    const id = await sessions.create({ user_id: 1 });
    calls.length = 0;
    await sessions.get(id);
    expect(calls).toEqual([["get", stored(id), { slideMs: 60_000 }]]);
  });
});

describe("the absolute life", () => {
  it("ends a session that is used all the time", async () => {
    const { sessions, advance } = storeFixture({ idleSeconds: 3600, absoluteSeconds: 7200 });
    const id = await sessions.create({ user_id: 1 });
    for (const minutes of [50, 50]) {
      advance(minutes * MINUTE);
      expect(await sessions.get(id)).toEqual({ user_id: 1 });
      expect(await sessions.set(id, { user_id: 1 })).toBe(true);
    }
    advance(20 * MINUTE - 1);
    expect(await sessions.touch(id)).toBe(true);
    advance(1);
    expect(await sessions.get(id)).toBeUndefined();
    expect(await sessions.touch(id)).toBe(false);
  });

  it("does not depend on the store's time to live: a restored envelope stays dead", async () => {
    const { sessions, envelopes, advance } = storeFixture({ absoluteSeconds: 3600 });
    const id = await sessions.create({ user_id: 1 });
    const backup = (await envelopes.get(stored(id))) as Uint8Array;
    advance(HOUR);
    await envelopes.set(stored(id), backup, { ttlMs: DAY });
    expect(await sessions.get(id)).toBeUndefined();
    expect(events).toContainEqual({ type: "session-dropped", code: "ENVELOPE_EXPIRED" });
  });

  it("goes on under a new id", async () => {
    const { sessions, advance } = storeFixture({ absoluteSeconds: 3600 });
    const id = await sessions.create({ user_id: 1 });
    advance(59 * MINUTE);
    const newId = (await sessions.regenerate(id)) as string;
    expect(await sessions.get(newId)).toEqual({ user_id: 1 });
    advance(MINUTE);
    expect(await sessions.get(newId)).toBeUndefined();
  });
});

describe("update", () => {
  it("loses none of many changes at once", async () => {
    const { sessions } = storeFixture();
    const id = await sessions.create({ user_id: 1, visits: 0 });
    await Promise.all(
      Array.from({ length: 10 }, () =>
        sessions.update(id, (session) => ({ ...session, visits: (session.visits ?? 0) + 1 })),
      ),
    );
    expect((await sessions.get(id))?.visits).toBe(10);
  });

  it("gives up with STORE_CONFLICT when others keep coming first", async () => {
    const { sessions } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    let calls = 0;
    const change = async (session: Session) => {
      calls++;
      await sessions.set(id, { user_id: calls });
      return session;
    };
    expect(await codeThrown(sessions.update(id, change))).toBe("STORE_CONFLICT");
    expect(calls).toBe(16);
    expect(await sessions.get(id)).toEqual({ user_id: 16 });
  });

  it("does not revive a session that is destroyed meanwhile", async () => {
    const { sessions } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const updated = await sessions.update(id, async (session) => {
      await sessions.destroy(id);
      return session;
    });
    expect(updated).toBeUndefined();
    expect(await sessions.get(id)).toBeUndefined();
  });

  it("refuses a change that returns nothing, and keeps the session", async () => {
    const { sessions } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const forgetful = (() => undefined) as unknown as (session: Session) => Session;
    expect(await codeThrown(sessions.update(id, forgetful))).toBe("VALUE_UNSUPPORTED");
    expect(await codeThrown(sessions.regenerate(id, forgetful))).toBe("VALUE_UNSUPPORTED");
    expect(await codeThrown(sessions.create(undefined as unknown as Session))).toBe("VALUE_UNSUPPORTED");
    expect(await sessions.get(id)).toEqual({ user_id: 1 });
  });

  it("writes nothing when the change throws", async () => {
    const { sessions } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const failing = () => {
      throw new Error("no");
    };
    await expect(sessions.update(id, failing)).rejects.toThrow("no");
    expect(await sessions.get(id)).toEqual({ user_id: 1 });
  });
});

describe("regenerate", () => {
  it("moves the session to a new id, changed, and ends the old one", async () => {
    const { sessions } = storeFixture();
    const id = await sessions.create({ user_id: 0 });
    const newId = (await sessions.regenerate(id, (session) => ({ ...session, user_id: 7 }))) as string;
    expect(newId).not.toBe(id);
    expect(await sessions.get(newId)).toEqual({ user_id: 7 });
    expect(await sessions.get(id)).toBeUndefined();
  });

  it("keeps the remaining time where sessions do not slide", async () => {
    const { sessions, envelopes, advance } = storeFixture({ idleSeconds: 3600, sliding: false });
    const id = await sessions.create({ user_id: 1 });
    advance(10 * MINUTE);
    const newId = (await sessions.regenerate(id)) as string;
    expect(await envelopes.ttlMs(stored(newId))).toBe(50 * MINUTE);
  });

  it("leaves nothing behind when the session is destroyed meanwhile", async () => {
    const { sessions, envelopes } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const newId = await sessions.regenerate(id, async (session) => {
      await sessions.destroy(id);
      return session;
    });
    expect(newId).toBeUndefined();
    expect(await all(envelopes.scan())).toEqual([]);
  });

  it("does not happen to a session that does not exist", async () => {
    const { sessions } = storeFixture();
    expect(await sessions.regenerate(SESSION_ID)).toBeUndefined();
  });
});

describe("missing is not unavailable, and neither is tampered", () => {
  const failing = (store: EnvelopeStore): EnvelopeStore =>
    new Proxy(store, { get: () => () => Promise.reject(new SealedSessionError("STORE_UNAVAILABLE", "down")) });

  it("a store that cannot be asked throws from every method", async () => {
    const { sessions } = storeFixture({}, failing);
    for (const call of [
      () => sessions.create({ user_id: 1 }),
      () => sessions.get(SESSION_ID),
      () => sessions.set(SESSION_ID, { user_id: 1 }),
      () => sessions.update(SESSION_ID, (session) => session),
      () => sessions.touch(SESSION_ID),
      () => sessions.destroy(SESSION_ID),
      () => sessions.regenerate(SESSION_ID),
    ]) {
      expect(await codeThrown(call)).toBe("STORE_UNAVAILABLE");
    }
  });

  it("a KMS that cannot be asked throws from a cold process", async () => {
    const { sessions, kms, process, envelopes } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    kms.failWith = "KMS_UNREACHABLE";
    const cold = new SessionStore<Session>({ ring: process(), store: envelopes });
    expect(await codeThrown(cold.get(id))).toBe("KEY_UNAVAILABLE");
    kms.failWith = undefined;
    expect(await cold.get(id)).toEqual({ user_id: 1 });
  });

  it("bytes that were tampered with throw, and are reported", async () => {
    const { sessions, envelopes } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const other = await sessions.create({ user_id: 2 });
    await envelopes.set(stored(id), (await envelopes.get(stored(other))) as Uint8Array, { ttlMs: DAY });
    expect(await codeThrown(sessions.get(id))).toBe("ENVELOPE_REJECTED");
    expect(events).toContainEqual({ type: "envelope-rejected" });
    await envelopes.set(stored(id), Buffer.from('{"user_id":1}'), { ttlMs: DAY });
    expect(await codeThrown(sessions.get(id))).toBe("ENVELOPE_REJECTED");
  });

  it.each([
    [RecordState.revoked, "KEY_REVOKED"],
    [RecordState.retired, "KEY_RETIRED"],
  ] as const)("a session under a key of state %i is gone, and reported as %s", async (state, code) => {
    const { sessions, ring, keys } = storeFixture();
    const id = await sessions.create({ user_id: 1 });
    const [before] = await keys.read("web");
    const record = decodeRecord(before?.record as Uint8Array);
    if (before === undefined || record === undefined) throw new Error("the ring is empty");
    const wraps = state === RecordState.retired ? [] : record.wraps;
    await keys.write("web", before.keyId, encodeRecord({ ...record, state, wraps }), { expected: before.record });
    await ring.refresh();
    expect(await sessions.get(id)).toBeUndefined();
    expect(events).toContainEqual({ type: "session-dropped", code });
  });
});

describe("modes", () => {
  it("verbatim ids keep the session id as the store's key", async () => {
    const { sessions, envelopes } = storeFixture({ storedIds: "verbatim" });
    await sessions.create({ user_id: 1 }, SESSION_ID);
    expect(await all(envelopes.scan())).toEqual([SESSION_ID]);
    expect(await sessions.get(SESSION_ID)).toEqual({ user_id: 1 });
    expect(await sessions.get("{0123456789abcdef")).toBeUndefined();
    expect(await codeThrown(sessions.create({ user_id: 1 }, "{0123456789abcdef"))).toBe("SESSION_ID_INVALID");
  });

  it("client-bound sessions open with their own cookie alone", async () => {
    const { sessions, envelopes, ring } = storeFixture({ clientBound: true });
    const id = await sessions.create({ user_id: 1 });
    expect(await sessions.get(id)).toEqual({ user_id: 1 });
    const newId = (await sessions.regenerate(id)) as string;
    expect(await sessions.update(newId, ({ user_id }) => ({ user_id: user_id + 1 }))).toEqual({ user_id: 2 });
    const unbound = new SessionStore<Session>({ ring, store: envelopes });
    expect(await codeThrown(unbound.get(newId))).toBe("ENVELOPE_REJECTED");
  });

  it.each([
    [{ store: {} }, TypeError],
    [{ ring: undefined }, TypeError],
    [{ idleSeconds: 0 }, RangeError],
    [{ idleSeconds: 1e10 }, RangeError],
    [{ absoluteSeconds: 0.5 }, RangeError],
    [{ storedIds: "plain" }, RangeError],
    [{ storedIds: "verbatim", clientBound: true }, RangeError],
  ])("refuses wrong options at construction: %j", (options, type) => {
    expect(() => storeFixture(options as Partial<SessionStoreOptions>)).toThrow(type);
  });
});

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const list: T[] = [];
  for await (const item of items) list.push(item);
  return list;
}
