/** Who logs in where: sessions listed and ended by their principal. */
import { describe, expect, expectTypeOf, it } from "vitest";
import type { EnvelopeStore } from "../src/envelope-store.js";
import { memoryPrincipalIndex } from "../src/memory-principal-index.js";
import { Sealer } from "../src/sealer.js";
import { storedIdOf } from "../src/session-id.js";
import { SessionStore, type SessionStoreOptions } from "../src/session-store.js";
import { codeThrown, HOUR, MINUTE, START } from "./support/fixture.js";
import { collectEvents } from "./support/open-fixture.js";
import { INDEX_PERIOD, principalFixture, ringNamed, type Session } from "./support/principal-fixture.js";

const DAY = 24 * HOUR;
const events = collectEvents();
const stored = (sessionId: string) => storedIdOf(sessionId) as string;
const MODES = [
  ["sessions that the store can open", {}],
  ["sessions that are bound to their clients", { clientBound: true }],
] as const;

describe.each(MODES)("with %s", (_, mode) => {
  describe("a principal's sessions", () => {
    it("are listed, the latest login first, with their device", async () => {
      const { sessions, advance } = principalFixture(mode);
      const phone = await sessions.create({ user: "ada", device: "phone" });
      advance(MINUTE);
      const desk = await sessions.create({ user: "ada", device: "desk" });
      await sessions.create({ user: "bob", device: "elsewhere" });
      await sessions.create({ device: "nobody's" });
      const listed = await sessions.listFor("ada", { current: phone });
      expect(listed).toEqual([
        {
          handle: expect.any(String),
          loggedInAt: START + MINUTE,
          endsAt: START + MINUTE + 30 * DAY,
          device: "desk",
          current: false,
        },
        { handle: expect.any(String), loggedInAt: START, endsAt: START + 30 * DAY, device: "phone", current: true },
      ]);
      for (const { handle } of listed) {
        expect([phone, desk, stored(phone), stored(desk)]).not.toContain(handle);
        expect(await sessions.get(handle)).toBeUndefined();
      }
      expect(await sessions.listFor("nobody")).toEqual([]);
    });

    it("end all at once, and no other's", async () => {
      const { sessions, storedIds, indexed } = principalFixture(mode);
      const ids = await Promise.all(Array.from({ length: 100 }, () => sessions.create({ user: "ada" })));
      const bob = await sessions.create({ user: "bob" });
      const anonymous = await sessions.create({});
      expect(await sessions.destroyAllFor("ada")).toBe(100);
      for (const id of ids) expect(await sessions.get(id)).toBeUndefined();
      expect(await storedIds()).toEqual([stored(bob), stored(anonymous)].sort());
      expect(await indexed()).toEqual([stored(bob)]);
      expect(await sessions.destroyAllFor("ada")).toBe(0);
    });

    it("end but for the one in which that was asked for", async () => {
      const { sessions } = principalFixture(mode);
      const [mine, other] = [await sessions.create({ user: "ada" }), await sessions.create({ user: "ada" })];
      expect(await sessions.destroyAllFor("ada", { except: mine })).toBe(1);
      expect(await sessions.get(mine)).toEqual({ user: "ada" });
      expect(await sessions.get(other)).toBeUndefined();
      expect((await sessions.listFor("ada", { current: mine })).map(({ current }) => current)).toEqual([true]);
      expect(await sessions.destroyAllFor("ada", { except: "short" })).toBe(1);
    });

    it("do not go on under another id while they end: neither all at once, nor one by one", async () => {
      for (const which of ["all", "one"]) {
        for (const rotated of [false, true]) {
          const { sessions, open, storedIds, indexRing, advance } = principalFixture({
            ...mode,
            idleSeconds: 29 * 24 * 3600,
          });
          const id = await sessions.create({ user: "ada" });
          if (rotated) {
            await indexRing.publish({ delayMs: 0 });
            advance(29 * DAY - 1);
            await indexRing.refresh();
          }
          const refused: unknown[] = [];
          // By now the logout has seen what there is.
          const ending = open({}, async (command) => {
            if (command === "session.destroy") refused.push(await codeThrown(sessions.regenerate(id)));
          });
          const handle = (await sessions.listFor("ada"))[0]?.handle as string;
          expect(await (which === "all" ? ending.destroyAllFor("ada") : ending.destroyFor("ada", handle))).toBe(
            which === "all" ? 1 : true,
          );
          expect(refused).toEqual(["LOGIN_OVERTAKEN"]);
          expect(await storedIds()).toEqual([]);
          expect(await sessions.regenerate(id)).toBeUndefined();
        }
      }
    });

    it("do not go on under another id after a failure to end them, and end with the next call", async () => {
      const { sessions, open } = principalFixture(mode);
      const id = await sessions.create({ user: "ada" });
      const failing = open({}, (command) => {
        if (command === "session.destroy") throw new Error("down");
      });
      await expect(failing.destroyAllFor("ada")).rejects.toThrow("down");
      expect(await sessions.get(id)).toBeDefined();
      expect(await codeThrown(sessions.regenerate(id))).toBe("LOGIN_OVERTAKEN");
      expect(await sessions.listFor("ada")).toHaveLength(1);
      expect(await sessions.destroyAllFor("ada")).toBe(1);
      expect(await sessions.get(id)).toBeUndefined();
    });

    it("go on under another id where all others end", async () => {
      const { sessions } = principalFixture(mode);
      const [mine] = [await sessions.create({ user: "ada" }), await sessions.create({ user: "ada" })];
      for (let time = 0; time < 2; time++) await sessions.destroyAllFor("ada", { except: mine });
      const newId = (await sessions.regenerate(mine)) as string;
      expect(await sessions.get(newId)).toEqual({ user: "ada" });
      expect(await sessions.destroyAllFor("ada")).toBe(1);
    });

    it("end one by one by their handles, which name nothing under another principal", async () => {
      const { sessions } = principalFixture(mode);
      const [first, second] = [await sessions.create({ user: "ada" }), await sessions.create({ user: "ada" })];
      const bob = await sessions.create({ user: "bob" });
      const [mine] = (await sessions.listFor("ada", { current: first })).filter(({ current }) => current);
      const handle = mine?.handle as string;
      expect(await sessions.destroyFor("bob", handle)).toBe(false);
      expect(await sessions.destroyFor("ada", "no-such-handle")).toBe(false);
      expect(await sessions.destroyFor("ada", handle)).toBe(true);
      expect(await sessions.get(first)).toBeUndefined();
      expect(await sessions.get(second)).toBeDefined();
      expect(await sessions.get(bob)).toBeDefined();
      expect(await sessions.destroyFor("ada", handle)).toBe(false);
    });

    it("are not listed when they have ended, and leave the index when that is seen", async () => {
      const { sessions, advance, indexed } = principalFixture({ ...mode, idleSeconds: 3600 });
      const destroyed = await sessions.create({ user: "ada" });
      const idle = await sessions.create({ user: "ada" });
      advance(2 * MINUTE);
      await sessions.destroy(destroyed);
      expect(await sessions.listFor("ada")).toHaveLength(1);
      expect(await indexed()).toEqual([stored(idle)]);
      advance(HOUR);
      expect(await sessions.listFor("ada")).toEqual([]);
      expect(await indexed()).toEqual([]);
    });

    it("are in the index until their absolute life ends, however they slide, and a minute more for clocks that differ", async () => {
      const { sessions, advance, indexed } = principalFixture({ ...mode, idleSeconds: 3600, absoluteSeconds: 7200 });
      const id = await sessions.create({ user: "ada" });
      for (const minutes of [50, 50, 19]) {
        advance(minutes * MINUTE);
        expect(await sessions.get(id)).toBeDefined();
        expect(await sessions.listFor("ada")).toHaveLength(1);
      }
      advance(2 * MINUTE - 1);
      expect(await sessions.get(id)).toBeUndefined();
      expect(await indexed()).toEqual([stored(id)]);
      advance(1);
      expect(await indexed()).toEqual([]);
    });
  });

  describe("a login", () => {
    it.each([
      ["set", async (s: SessionStore<Session>, id: string) => (await s.set(id, { user: "ada" })) && id],
      [
        "set of what was read",
        async (s: SessionStore<Session>, id: string) => {
          const session = (await s.get(id)) as Session;
          session.user = "ada";
          return (await s.set(id, session)) && id;
        },
      ],
      [
        "set with an origin, if unchanged",
        async (s: SessionStore<Session>, id: string) => {
          const origin = (await s.get(id)) as Session;
          return (await s.set(id, { user: "ada" }, { origin, ifUnchanged: true })) && id;
        },
      ],
      ["update", async (s: SessionStore<Session>, id: string) => (await s.update(id, () => ({ user: "ada" }))) && id],
      [
        "update that changes the session itself",
        async (s: SessionStore<Session>, id: string) =>
          (await s.update(id, (session) => Object.assign(session, { user: "ada" }))) && id,
      ],
      ["regenerate", (s: SessionStore<Session>, id: string) => s.regenerate(id, () => ({ user: "ada" }))],
    ])("by %s is one, whoever it belonged to before", async (_, login) => {
      for (const before of [{}, { user: "bob" }]) {
        for (const sliding of [true, false]) {
          const { sessions, open, advance, indexed, envelopes } = principalFixture({ ...mode, sliding });
          const id = await open().create(before);
          advance(HOUR);
          const newId = (await login(sessions, id)) as string;
          expect(await sessions.get(newId, { slide: false })).toEqual({ user: "ada" });
          expect(await indexed()).toEqual([stored(newId)]);
          expect(await envelopes.ttlMs(stored(newId))).toBe(sliding ? DAY : 23 * HOUR);
          expect(sessions.absoluteEndOf((await sessions.get(newId, { slide: false })) as Session)).toBe(
            START + 30 * DAY,
          );
          expect(await sessions.destroyAllFor("bob")).toBe(0);
          expect(await sessions.destroyAllFor("ada")).toBe(1);
          expect(await sessions.get(newId)).toBeUndefined();
        }
      }
    });

    it("lives as long as it was told to", async () => {
      const { sessions, envelopes } = principalFixture(mode);
      const id = await sessions.create({ user: "ada" }, undefined, { ttlMs: 20 * DAY });
      expect(await envelopes.ttlMs(stored(id))).toBe(20 * DAY);
      await sessions.set(id, { user: "bob" }, { ttlMs: 10 * DAY });
      expect(await envelopes.ttlMs(stored(id))).toBe(10 * DAY);
    });

    it("costs four commands, and an unchanged principal none at all", async () => {
      const { sessions, commands } = principalFixture(mode);
      const id = await sessions.create({ user: "ada" });
      expect(commands).toEqual(["index.add", "session.set", "index.holds", "session.compareAndSet"]);
      commands.length = 0;
      const session = (await sessions.get(id)) as Session;
      await sessions.touch(id);
      session.visits = 1;
      await sessions.set(id, session);
      await sessions.set(id, { user: "ada" });
      expect(commands).toEqual([
        "session.get",
        "session.get",
        "session.compareAndSet",
        "session.get",
        "session.compareAndSet",
      ]);
      commands.length = 0;
      await sessions.regenerate(id);
      expect(commands).toEqual([
        "session.get",
        "index.members",
        "index.add",
        "session.set",
        "index.holds",
        "session.compareAndSet",
        "session.destroy",
        "index.remove",
      ]);
    });

    it("does not happen under an id that is in use, or where there is no session, and leaves nothing that is not removed when it is seen", async () => {
      const { sessions, indexed, advance } = principalFixture(mode);
      const id = await sessions.create({});
      expect(await codeThrown(sessions.create({ user: "ada" }, id))).toBe("SESSION_EXISTS");
      const gone = (await sessions.get(id)) as Session;
      await sessions.destroy(id);
      gone.user = "ada";
      expect(await sessions.set(id, gone)).toBe(false);
      expect(await sessions.set(id, { user: "ada" })).toBe(false);
      expect(await sessions.update(id, () => ({ user: "ada" }))).toBeUndefined();
      advance(MINUTE);
      expect(await sessions.listFor("ada")).toEqual([]);
      expect(await indexed()).toEqual([]);
    });

    it("that is refused since the same principal has a session under this id does not take that out of the index", async () => {
      const { sessions, advance } = principalFixture(mode);
      const id = await sessions.create({ user: "ada" });
      expect(await codeThrown(sessions.create({ user: "ada" }, id))).toBe("SESSION_EXISTS");
      advance(MINUTE);
      expect(await sessions.listFor("ada")).toHaveLength(1);
      expect(await sessions.destroyAllFor("ada")).toBe(1);
    });

    it("that comes twice at once, as of a form that was sent twice, happens", async () => {
      const { sessions, open } = principalFixture(mode);
      const id = await sessions.create({});
      expect(await Promise.all([open().set(id, { user: "ada" }), open().set(id, { user: "ada" })])).toEqual([
        true,
        true,
      ]);
      expect(await sessions.get(id)).toEqual({ user: "ada" });
      expect(sessions.absoluteEndOf((await sessions.get(id)) as Session)).toBe(START + 30 * DAY);
      expect(await sessions.listFor("ada")).toHaveLength(1);
    });

    it("is not brought back by a request that had read the session before its principal left it", async () => {
      const { sessions } = principalFixture(mode);
      const id = await sessions.create({ user: "ada" });
      const stale = (await sessions.get(id)) as Session;
      await sessions.set(id, {});
      stale.visits = 1;
      expect(await sessions.set(id, stale)).toBe(true);
      expect(await sessions.get(id)).toEqual({ user: "ada", visits: 1 });
      expect(await sessions.listFor("ada")).toHaveLength(1);
      expect(await sessions.destroyAllFor("ada")).toBe(1);
      expect(await sessions.get(id)).toBeUndefined();
    });

    it("that ends with nobody logged in takes the session out of the index", async () => {
      const { sessions, indexed } = principalFixture(mode);
      const id = await sessions.create({ user: "ada" });
      const session = (await sessions.get(id)) as Session;
      delete session.user;
      expect(await sessions.set(id, session)).toBe(true);
      expect(await indexed()).toEqual([]);
      expect(await sessions.destroyAllFor("ada")).toBe(0);
      expect(await sessions.get(id)).toEqual({});
    });

    it("goes on under the new id of a session that is regenerated", async () => {
      const { sessions, advance, indexed } = principalFixture({ ...mode, maxPerPrincipal: 1 });
      const id = await sessions.create({ user: "ada", device: "phone" });
      advance(HOUR);
      const newId = (await sessions.regenerate(id)) as string;
      expect(await indexed()).toEqual([stored(newId)]);
      expect(await sessions.listFor("ada", { current: newId })).toMatchObject([
        { loggedInAt: START, endsAt: START + 30 * DAY, device: "phone", current: true },
      ]);
    });
  });

  describe("maxPerPrincipal", () => {
    it("ends the session whose login is longest ago when one more logs in", async () => {
      const { sessions, advance, indexed } = principalFixture({ ...mode, maxPerPrincipal: 2 });
      const ids: string[] = [];
      for (let i = 0; i < 4; i++) {
        ids.push(await sessions.create({ user: "ada" }));
        advance(MINUTE);
      }
      const bob = await sessions.create({ user: "bob" });
      expect(await Promise.all(ids.map(async (id) => (await sessions.get(id)) !== undefined))).toEqual([
        false,
        false,
        true,
        true,
      ]);
      expect(await indexed()).toEqual([...ids.slice(2), bob].map(stored).sort());
    });

    it("does not count sessions that have ended", async () => {
      const { sessions, advance } = principalFixture({ ...mode, maxPerPrincipal: 2 });
      const [first, second] = [await sessions.create({ user: "ada" }), await sessions.create({ user: "ada" })];
      advance(MINUTE);
      await sessions.destroy(second);
      const third = await sessions.create({ user: "ada" });
      expect(await sessions.get(first)).toBeDefined();
      expect(await sessions.get(third)).toBeDefined();
    });

    it("is not exceeded by many logins at once, once they have settled", async () => {
      const { sessions, open, storedIds } = principalFixture({ ...mode, maxPerPrincipal: 3 });
      const outcomes = await Promise.allSettled(Array.from({ length: 20 }, () => open().create({ user: "ada" })));
      const ids = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
      for (const outcome of outcomes) {
        if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "LOGIN_OVERTAKEN" });
      }
      const living = (await Promise.all(ids.map((id) => sessions.get(id)))).filter((session) => session !== undefined);
      expect(living).toHaveLength(3);
      expect(await storedIds()).toHaveLength(3);
      expect(await sessions.listFor("ada")).toHaveLength(3);
    });
  });
});

describe("options of the index", () => {
  const make = (own: Partial<SessionStoreOptions<Session>>) => () => principalFixture(own);

  it("need an absolute life", () => {
    const { ring } = principalFixture();
    const options = { ring, store: {} as EnvelopeStore, principal: () => "ada" };
    const index = { store: memoryPrincipalIndex(), ring: ringNamed("index:web") };
    const store = principalFixture().envelopes;
    expect(() => new SessionStore({ ...options, store, principalIndex: index })).toThrow(RangeError);
    expect(() => new SessionStore({ ...options, store, principalIndex: index, absoluteSeconds: 60 })).not.toThrow();
  });

  it.each([
    ["a principal without an index", { principal: () => "ada" }],
    [
      "an index without a principal",
      { principalIndex: { store: memoryPrincipalIndex(), ring: ringNamed("index:web") } },
    ],
    ["a device alone", { device: () => "phone" }],
    ["a limit alone", { maxPerPrincipal: 1 }],
  ])("refuse %s", (_, options) => {
    const { ring, envelopes } = principalFixture();
    expect(() => new SessionStore({ ring, store: envelopes, absoluteSeconds: 60, ...options })).toThrow(TypeError);
  });

  it.each([0, 10_001, 1.5])("refuse %d as a limit", (maxPerPrincipal) => {
    expect(make({ maxPerPrincipal })).toThrow(RangeError);
  });

  it("refuse what is no function, no store and no ring", () => {
    const store = memoryPrincipalIndex();
    expect(make({ principal: "user" as never })).toThrow(TypeError);
    expect(make({ device: "phone" as never })).toThrow(TypeError);
    expect(make({ principalIndex: { store: {} as never, ring: ringNamed("index:web") } })).toThrow(TypeError);
    expect(make({ principalIndex: { store, ring: {} as never } })).toThrow(TypeError);
  });

  it("tell what a session is", () => {
    const { ring, envelopes, entries, indexRing } = principalFixture();
    const sessions = new SessionStore({
      ring,
      store: envelopes,
      absoluteSeconds: 60,
      principal: (session: Session) => session.user,
      device: ({ device }) => device,
      principalIndex: { store: entries, ring: indexRing },
    });
    expectTypeOf(sessions).toEqualTypeOf<SessionStore<Session>>();
    expectTypeOf(sessions.get).returns.resolves.toEqualTypeOf<Session | undefined>();
  });

  it("are needed for what asks by principal", async () => {
    const { ring, envelopes } = principalFixture();
    const sessions = new SessionStore({ ring, store: envelopes });
    await expect(sessions.listFor("ada")).rejects.toThrow(TypeError);
    await expect(sessions.destroyAllFor("ada")).rejects.toThrow(TypeError);
    await expect(sessions.destroyFor("ada", "handle")).rejects.toThrow(TypeError);
  });

  it.each([
    ["", RangeError],
    ["a".repeat(1025), RangeError],
    ["\ud800", RangeError],
    [7, TypeError],
    [{ id: 7 }, TypeError],
  ])("refuse %j as a principal, before anything is written", async (user, error) => {
    const { sessions, storedIds } = principalFixture();
    await expect(sessions.create({ user: user as never })).rejects.toThrow(error);
    await expect(sessions.listFor(user as never)).rejects.toThrow(error);
    await expect(sessions.destroyAllFor(user as never)).rejects.toThrow(error);
    expect(await storedIds()).toEqual([]);
  });

  it("refuse device data that cannot be sealed, or is too large, before anything is written", async () => {
    for (const device of [() => () => {}, () => "x".repeat(8192)]) {
      const { sessions, storedIds, indexed } = principalFixture({ device });
      expect(await codeThrown(sessions.create({ user: "ada" }))).toMatch(/^VALUE_/);
      expect(await storedIds()).toEqual([]);
      expect(await indexed()).toEqual([]);
    }
  });
});

describe("the index ring", () => {
  it("seals nothing, and a ring that seals makes no index", () => {
    const { envelopes, ring, indexRing } = principalFixture();
    expect(indexRing.purpose).toBe("index");
    expect(ring.purpose).toBe("sealing");
    expect(() => new SessionStore({ ring: indexRing, store: envelopes })).toThrow(TypeError);
    expect(() => new Sealer({ ring: indexRing })).toThrow(TypeError);
    const index = { store: memoryPrincipalIndex(), ring };
    expect(
      () =>
        new SessionStore({
          ring,
          store: envelopes,
          absoluteSeconds: 60,
          principal: () => "ada",
          principalIndex: index,
        }),
    ).toThrow(TypeError);
  });

  it("has keys that seal nothing and open nothing, also for whoever takes them by hand", async () => {
    const { ring, indexRing } = principalFixture();
    const indexKey = await indexRing.current();
    expect(() => indexKey.nextSender()).toThrow(TypeError);
    expect(() => indexKey.open(new Uint8Array(24), new Uint8Array(), new Uint8Array(17))).toThrow(TypeError);
    expect(() => indexKey.clientKey(new Uint8Array(16))).toThrow(TypeError);
    const sealingKey = await ring.current();
    expect(() => sealingKey.indexKey()).toThrow(TypeError);
    await expect(ring.indexKeys()).rejects.toThrow(TypeError);
  });

  it("wipes its keys when it is closed", async () => {
    const { indexRing } = principalFixture();
    const key = await indexRing.current();
    indexRing.close();
    expect(await codeThrown(() => key.indexKey())).toBe("KEY_UNAVAILABLE");
    expect(await codeThrown(indexRing.indexKeys())).toBe("CLOSED");
  });

  it("may rotate: what was written under older keys is found and removed", async () => {
    const { sessions, advance, indexRing, entries } = principalFixture({
      absoluteSeconds: 100 * 24 * 3600,
      idleSeconds: 99 * 24 * 3600,
    });
    const ids: string[] = [];
    for (let i = 0; i < 3; i++) {
      ids.push(await sessions.create({ user: "ada", device: `device ${i}` }));
      await indexRing.publish({ delayMs: 0 });
      advance(INDEX_PERIOD);
      await indexRing.refresh();
    }
    const names: string[] = [];
    for await (const name of entries.scan()) names.push(name);
    expect(names).toHaveLength(3);
    expect((await sessions.listFor("ada")).map(({ device }) => device)).toEqual(["device 2", "device 1", "device 0"]);
    expect(await sessions.destroyAllFor("ada", { except: ids[1] as string })).toBe(2);
    expect(await Promise.all(ids.map(async (id) => (await sessions.get(id)) !== undefined))).toEqual([
      false,
      true,
      false,
    ]);
  });

  it.each([
    ["listed", async (sessions: SessionStore<Session>) => (await sessions.listFor("ada")).length],
    ["ended", (sessions: SessionStore<Session>) => sessions.destroyAllFor("ada")],
  ])("may have got a key that this process has not met: it is read before sessions are %s", async (_, call) => {
    const { open, sessions, openIndexRing, entries, advance } = principalFixture();
    await sessions.create({ user: "ada" });
    const otherRing = openIndexRing();
    advance(1);
    await otherRing.publish({ delayMs: 0 });
    await open({ principalIndex: { store: entries, ring: otherRing } }).create({ user: "ada" });
    expect(await call(sessions)).toBe(2);
  });

  it("may have got a key that the process which gives a session another id has not met", async () => {
    const { open, sessions, openIndexRing, entries, envelopes, advance } = principalFixture();
    await sessions.listFor("ada");
    const otherRing = openIndexRing();
    advance(1);
    await otherRing.publish({ delayMs: 0 });
    const other = { principalIndex: { store: entries, ring: otherRing } };
    const id = await open(other).create({ user: "ada" });
    const refused: unknown[] = [];
    const ending = open({
      ...other,
      store: new Proxy(envelopes, {
        get: (target, name: keyof EnvelopeStore) => async (storedId: string) => {
          refused.push(await codeThrown(sessions.regenerate(id)));
          return (target[name] as typeof target.destroy)(storedId);
        },
      }),
    });
    expect(await ending.destroyAllFor("ada")).toBe(1);
    expect(refused).toEqual(["LOGIN_OVERTAKEN"]);
  });

  it("may get a key while sessions are ended: those that are noted under it end too", async () => {
    const { open, sessions, openIndexRing, entries, advance } = principalFixture();
    await sessions.create({ user: "ada" });
    const otherRing = openIndexRing();
    advance(1);
    let id: string | undefined;
    const ending = open({}, async (command) => {
      if (command !== "index.renew" || id !== undefined) return;
      await otherRing.publish({ delayMs: 0 });
      id = await open({ principalIndex: { store: entries, ring: otherRing } }).create({ user: "ada" });
    });
    expect(await ending.destroyAllFor("ada")).toBe(2);
    expect(await sessions.get(id as string)).toBeUndefined();
  });

  it("looks up by a key that was revoked, and writes nothing more under it", async () => {
    const { sessions, indexRing, entries, open, openIndexRing } = principalFixture();
    const revoked = await indexRing.current();
    const id = await sessions.create({ user: "ada" });
    await indexRing.revoke(revoked.keyId);
    expect(indexRing.status().find(({ keyId }) => keyId === revoked.keyId)?.state).toBe("revoked");
    for (const ring of [indexRing, openIndexRing(), openIndexRing({ revokedKeyIds: [revoked.keyId] })]) {
      const own = open({ principalIndex: { store: entries, ring } });
      const newId = await own.create({ user: "ada" });
      expect((await ring.current()).keyId).not.toBe(revoked.keyId);
      const names: string[] = [];
      for await (const name of entries.scan()) names.push(name);
      expect(names.filter((name) => name.startsWith(revoked.keyId))).toHaveLength(1);
      expect(
        (await entries.members(names.find((name) => name.startsWith(revoked.keyId)) as string)).map(
          ({ storedId }) => storedId,
        ),
      ).toEqual([stored(id)]);
      expect(await own.listFor("ada")).toHaveLength(2);
      await own.destroy(newId);
    }
    expect(await sessions.destroyAllFor("ada")).toBe(1);
    expect(await sessions.get(id)).toBeUndefined();
  });

  it("by configuration revokes the key that would seal, too", async () => {
    const { indexRing, openIndexRing } = principalFixture();
    const { keyId } = await indexRing.current();
    const ring = openIndexRing({ revokedKeyIds: [keyId] });
    expect((await ring.current()).keyId).not.toBe(keyId);
  });

  it("without one of its keys does not say that nothing is there", async () => {
    const { sessions, kms, openIndexRing, open, entries } = principalFixture();
    const id = await sessions.create({ user: "ada" });
    const ring = openIndexRing();
    const starting = open({ principalIndex: { store: entries, ring } });
    kms.failWith = "KMS_UNREACHABLE";
    for (const call of [
      () => starting.listFor("ada"),
      () => starting.destroyAllFor("ada"),
      () => starting.destroyFor("ada", "handle"),
      () => starting.create({ user: "ada" }),
    ]) {
      expect(await codeThrown(call())).toBe("KEY_UNAVAILABLE");
    }
    expect(await sessions.get(id)).toBeDefined();
  });

  it("whose keys the KMS denies does not say so either", async () => {
    const { sessions, kms, advance, indexRing } = principalFixture();
    const id = await sessions.create({ user: "ada" });
    kms.failWith = "KMS_DENIED";
    for (let i = 0; i < 20; i++) {
      advance(MINUTE);
      indexRing.currentIfWarm();
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await codeThrown(sessions.destroyAllFor("ada"))).toBe("KEY_UNAVAILABLE");
    kms.failWith = undefined;
    advance(10 * MINUTE);
    await indexRing.refresh();
    expect(await sessions.destroyAllFor("ada")).toBe(1);
    expect(await sessions.get(id)).toBeUndefined();
  });

  it("is not stopped by somebody's junk", async () => {
    const { sessions, indexKeys } = principalFixture();
    await sessions.create({ user: "ada" });
    const { junkRecord } = await import("./support/open-ring-store.js");
    const { encodeRecord } = await import("../src/data-key.js");
    const { keyId, record } = junkRecord(1, START);
    const wraps = [{ kms: "fake", wrapped: Uint8Array.of(1) }];
    await indexKeys.write("index:web", keyId, encodeRecord({ ...record, wraps }));
    expect(await sessions.destroyAllFor("ada")).toBe(1);
  });

  it("keeps a key as long as anything is named under it, whether it was revoked or not", async () => {
    const { sessions, indexRing, advance } = principalFixture();
    const { keyId } = await indexRing.current();
    await sessions.create({ user: "ada" });
    expect(await codeThrown(indexRing.retire(keyId))).toBe("KEY_IN_USE");
    advance(MINUTE);
    await indexRing.revoke(keyId);
    expect(await codeThrown(indexRing.retire(keyId))).toBe("KEY_IN_USE");
    advance(29 * DAY);
    await sessions.create({ user: "ada" });
    advance(60 * DAY);
    await indexRing.refresh();
    await indexRing.retire(keyId);
    expect(indexRing.status().find((key) => key.keyId === keyId)?.state).toBe("retired");
  });

  it("is counted by what lies in the index, also when it lives longer than sessions do now", async () => {
    const { open, indexRing, entries, advance } = principalFixture();
    const { keyId } = await indexRing.current();
    await open({ absoluteSeconds: 300 * 24 * 3600 }).create({ user: "ada" });
    advance(2 * INDEX_PERIOD + HOUR);
    await indexRing.refresh();
    expect(await codeThrown(indexRing.retire(keyId))).toBe("KEY_IN_USE");
    for await (const name of entries.scan()) await entries.remove(name, await entries.members(name));
    advance(240 * DAY);
    await indexRing.refresh();
    await indexRing.retire(keyId);
    expect(indexRing.status().find((key) => key.keyId === keyId)?.state).toBe("retired");
  });
});

describe("what lies in the index", () => {
  it("tells neither the principal nor the device, and differs between namespaces", async () => {
    const namesOf = async (namespace: string) => {
      const { sessions, entries, indexRing } = principalFixture({ namespace });
      await sessions.create({ user: "ada", device: "phone of ada" });
      const found: [string, string][] = [];
      for await (const name of entries.scan()) {
        for (const { data } of await entries.members(name)) found.push([name, Buffer.from(data).toString("latin1")]);
      }
      return { found, keyId: (await indexRing.current()).keyId };
    };
    const { found, keyId } = await namesOf("eu");
    expect(found).toHaveLength(1);
    const [[name, data]] = found as [[string, string]];
    expect(name).toMatch(/^[\w-]{38}$/);
    expect(name.startsWith(keyId)).toBe(true);
    for (const secret of ["ada", "phone"]) {
      expect(data).not.toContain(secret);
      expect(Buffer.from(name.slice(16), "base64url").toString("latin1")).not.toContain(secret);
    }
  });

  it("is another name for each namespace under the same key", async () => {
    const { open, entries } = principalFixture();
    await open({ namespace: "eu" }).create({ user: "ada" });
    await open({ namespace: "us" }).create({ user: "ada" });
    const names: string[] = [];
    for await (const name of entries.scan()) names.push(name);
    expect(new Set(names).size).toBe(2);
    expect(await open({ namespace: "eu" }).destroyAllFor("ada")).toBe(1);
  });

  it("is another name for each purpose, so that one store of sessions does not clean up another's", async () => {
    const { open, entries, advance } = principalFixture();
    const [shop, admin] = [open({ purpose: "shop" }), open({ purpose: "admin" })];
    const id = await admin.create({ user: "ada" });
    advance(MINUTE);
    expect(await shop.listFor("ada")).toEqual([]);
    expect(await shop.destroyAllFor("ada")).toBe(0);
    expect(await admin.get(id)).toBeDefined();
    expect(await admin.listFor("ada")).toHaveLength(1);
    await shop.create({ user: "ada" });
    const names: string[] = [];
    for await (const name of entries.scan()) names.push(name);
    expect(new Set(names).size).toBe(2);
    expect(await admin.destroyAllFor("ada")).toBe(1);
    expect(await admin.get(id)).toBeUndefined();
  });

  it.each([
    ["session", ["ada", "ada"]],
    ["principal", ["ada", "bob"]],
  ])("opens in its own place alone: device data that was moved to another %s is not shown", async (_, users) => {
    const { sessions, entries } = principalFixture();
    for (const [index, user] of users.entries()) await sessions.create({ user, device: `device ${index}` });
    const all: { name: string; storedId: string; data: Uint8Array }[] = [];
    for await (const name of entries.scan()) {
      for (const { storedId, data } of await entries.members(name)) all.push({ name, storedId, data });
    }
    const [first, second] = all as [(typeof all)[0], (typeof all)[0]];
    const swap = (at: typeof first, data: Uint8Array) =>
      entries.add(at.name, at.storedId, { ttlMs: HOUR, ticket: "moved", epoch: "unused", data });
    await swap(first, second.data);
    await swap(second, first.data);
    const listed = (await Promise.all([...new Set(users)].map((user) => sessions.listFor(user)))).flat();
    expect(listed.map(({ device, loggedInAt }) => [device, loggedInAt])).toEqual([
      [undefined, undefined],
      [undefined, undefined],
    ]);
    expect(events).toContainEqual({ type: "envelope-rejected" });
  });

  it("is device data of a session that the list shows without it, once its key has retired", async () => {
    const { sessions, ring, advance } = principalFixture({ idleSeconds: 29 * 24 * 3600 });
    const id = await sessions.create({ user: "ada", device: "phone" });
    const { keyId } = await ring.current();
    advance(3 * DAY);
    await ring.current();
    advance(HOUR);
    expect(await sessions.get(id)).toBeDefined();
    await ring.retire(keyId);
    expect(await sessions.listFor("ada")).toMatchObject([{ device: undefined }]);
    expect(await sessions.destroyAllFor("ada")).toBe(1);
  });
});

describe("sessions that were written without the index", () => {
  it("are put there when they are read, until that is over", async () => {
    const { ring, envelopes, open, entries, indexRing, advance, indexed } = principalFixture();
    const before = new SessionStore<Session>({
      ring,
      store: envelopes,
      idleSeconds: 20 * 24 * 3600,
      absoluteSeconds: 30 * 24 * 3600,
    });
    const [first, second, anonymous] = [
      await before.create({ user: "ada", device: "phone" }),
      await before.create({ user: "ada" }),
      await before.create({}),
    ];
    const sessions = open({ principalIndex: { store: entries, ring: indexRing, catchUpUntil: START + DAY } });
    expect(await sessions.listFor("ada")).toEqual([]);
    for (const id of [first, first, anonymous]) expect(await sessions.get(id)).toBeDefined();
    expect(await indexed()).toEqual([stored(first)]);
    expect(await sessions.listFor("ada")).toMatchObject([{ device: "phone", endsAt: START + 30 * DAY }]);
    advance(DAY - 1);
    await sessions.get(first);
    expect(await indexed()).toEqual([stored(first)]);
    advance(1);
    await sessions.get(second);
    expect(await indexed()).toEqual([stored(first)]);
    expect(await sessions.destroyAllFor("ada")).toBe(1);
  });

  it("are read also while the index cannot be asked", async () => {
    const { ring, envelopes, open, entries, indexRing } = principalFixture();
    const id = await new SessionStore<Session>({ ring, store: envelopes, absoluteSeconds: 60 }).create({ user: "ada" });
    const down = new Proxy(entries, { get: () => () => Promise.reject(new Error("down")) });
    const sessions = open({ principalIndex: { store: down, ring: indexRing, catchUpUntil: START + DAY } });
    expect(await sessions.get(id)).toEqual({ user: "ada" });
    expect(events).toContainEqual({ type: "principal-index-failed", ring: indexRing.name, code: undefined });
  });
});

describe("a replica that is behind", () => {
  it("does not make a session be taken for another's, and leave the index", async () => {
    const { sessions, open, envelopes, advance, indexed } = principalFixture({ maxPerPrincipal: 1 });
    const id = await sessions.create({});
    const before = await envelopes.get(stored(id));
    await sessions.update(id, () => ({ user: "ada" }));
    advance(MINUTE);
    const behind = open({
      store: new Proxy(envelopes, {
        get: (target, name: keyof EnvelopeStore) =>
          name === "get"
            ? async (storedId: string) => (storedId === stored(id) ? before : target.get(storedId))
            : (target[name] as () => unknown).bind(target),
      }),
    });
    await behind.listFor("ada");
    const other = await behind.create({ user: "ada" });
    expect(await indexed()).toEqual([stored(id), stored(other)].sort());
    expect(await sessions.destroyAllFor("ada")).toBe(2);
    expect(await sessions.get(id)).toBeUndefined();
  });
});

describe("what cannot be a principal", () => {
  it.each([7, true, "", "\ud800", "a".repeat(1025), { id: 7 }])(
    "is read as nobody's in a session of before, and refused when it is written: %j",
    async (user) => {
      const { ring, envelopes, open, sessions, entries, indexRing, indexed } = principalFixture();
      const before = new SessionStore<unknown>({ ring, store: envelopes, absoluteSeconds: 3600 });
      const id = await before.create({ user });
      const ada = await sessions.create({ user: "ada" });
      const session = (await sessions.get(id)) as Session;
      expect(session).toEqual({ user });
      expect(await sessions.touch(id)).toBe(true);
      const met: string[] = [];
      for await (const [storedId] of sessions.all()) met.push(storedId);
      expect(met.sort()).toEqual([stored(id), stored(ada)].sort());
      await expect(sessions.set(id, session)).rejects.toThrow(/principal/);
      await expect(sessions.update(id, (found) => found)).rejects.toThrow(/principal/);
      await expect(sessions.regenerate(id)).rejects.toThrow(/principal/);
      const catchingUp = open({ principalIndex: { store: entries, ring: indexRing, catchUpUntil: START + DAY } });
      expect(await catchingUp.get(id)).toEqual({ user });
      expect(events).toContainEqual({ type: "principal-index-failed", ring: indexRing.name, code: undefined });
      expect(await sessions.update(id, () => ({ user: "ada" }))).toEqual({ user: "ada" });
      expect(await indexed()).toEqual([stored(id), stored(ada)].sort());
    },
  );

  it("is not null, which is nobody as undefined is", async () => {
    const { sessions, open, indexed } = principalFixture({ principal: ({ user }) => (user ?? null) as string | null });
    const id = await sessions.create({});
    await sessions.set(id, { visits: 1 });
    expect(await indexed()).toEqual([]);
    const newId = (await sessions.regenerate(id, () => ({ user: "ada" }))) as string;
    expect(await sessions.listFor("ada")).toHaveLength(1);
    await open().update(newId, () => ({}));
    expect(await indexed()).toEqual([]);
  });
});

describe("a failure", () => {
  it("to take a session out of the index is reported, and keeps nobody from logging out", async () => {
    let down = false;
    const { open, indexRing, advance, indexed } = principalFixture();
    const sessions = open({}, (command) => {
      if (down && command === "index.remove") throw new Error("down");
    });
    const id = await sessions.create({ user: "ada" });
    down = true;
    expect(await sessions.set(id, { user: "bob" })).toBe(true);
    expect(events).toContainEqual({ type: "principal-index-failed", ring: indexRing.name, code: undefined });
    expect(await indexed()).toHaveLength(2);
    down = false;
    advance(MINUTE);
    // Seen from the principal whose it is no longer, it is stale.
    expect(await sessions.listFor("ada")).toEqual([]);
    expect(await indexed()).toHaveLength(1);
    expect(await sessions.get(id)).toEqual({ user: "bob" });
  });

  it("in the middle of destroyAllFor leaves in the index what has not ended: a second call finds it", async () => {
    const { open, storedIds, indexed } = principalFixture();
    let failures = 0;
    const sessions = open({}, (command) => {
      if (command === "session.destroy" && failures < 30 && ++failures % 2 === 0) throw new Error("down");
    });
    for (let i = 0; i < 40; i++) await sessions.create({ user: "ada" });
    await expect(sessions.destroyAllFor("ada")).rejects.toThrow("down");
    expect(await storedIds()).toHaveLength(15);
    expect(await indexed()).toEqual(await storedIds());
    expect(await sessions.destroyAllFor("ada")).toBe(15);
    expect(await storedIds()).toEqual([]);
    expect(await indexed()).toEqual([]);
  });

  it("of the index keeps a session from being logged in, and leaves none behind", async () => {
    for (const failing of ["index.add", "index.holds", "session.compareAndSet"]) {
      const { open, storedIds, indexed } = principalFixture();
      const sessions = open({}, (command) => {
        if (command === failing) throw new Error("down");
      });
      await expect(sessions.create({ user: "ada" })).rejects.toThrow("down");
      expect(await storedIds()).toEqual([]);
      expect(await indexed()).toEqual([]);
    }
  });
});
