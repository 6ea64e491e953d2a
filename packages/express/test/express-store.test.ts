import { channel } from "node:diagnostics_channel";
import { DIAGNOSTICS_CHANNEL, hasCode, SealedSessionError, storedIdOf } from "@sealed-session/core";
import type { RequestHandler } from "express";
import session, { type SessionData, type SessionOptions } from "express-session";
import { afterEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { expressStore } from "../src/index.js";
import { all, clear, dataOf, destroy, get, length, set, touch } from "./support/calls.js";
import { sealed } from "./support/sealed.js";
import { type Site, startSite } from "./support/site.js";

type Sealed = ReturnType<typeof sealed>;
type Loose = Record<string, unknown>;

const SID = "an id that a test has made";
const MINUTE = 60_000;
const DAY = 86_400_000;
/** As applications are told to set it up. */
const USUAL = { resave: false, saveUninitialized: false } as const;

const sites: Site[] = [];
afterEach(async () => {
  vi.useRealTimers();
  await Promise.all(sites.splice(0).map((site) => site.stop()));
});

async function start(
  { store }: Pick<Sealed, "store">,
  respond: RequestHandler,
  options: Partial<SessionOptions> = {},
): Promise<Site> {
  const site = await startSite({ store, ...USUAL, ...options }, respond);
  sites.push(site);
  return site;
}

/** Begins a session with `begin` for /begin, and does `respond` for every other path. */
const after =
  (begin: (data: Loose) => void, respond: (data: Loose, path: string) => unknown = () => {}): RequestHandler =>
  (request, response) => {
    const data = request.session as unknown as Loose;
    const text = request.path === "/begin" ? begin(data) : respond(data, request.path);
    response.end(String(text ?? ""));
  };
const user = (data: Loose) => {
  data["user"] = "bob";
};

/** Loads a session as the middleware does. */
function load({ store }: Sealed, sid: string): Promise<SessionData & Loose> {
  return new Promise((resolve, reject) => {
    store.load(sid, (error, session) => (error ? reject(error) : resolve(session as SessionData & Loose)));
  });
}

function listen(): { type: string }[] {
  const events: { type: string }[] = [];
  const note = (event: unknown) => void events.push(event as { type: string });
  channel(DIAGNOSTICS_CHANNEL).subscribe(note);
  onTestFinished(() => void channel(DIAGNOSTICS_CHANNEL).unsubscribe(note));
  return events;
}

const thrown = (call: Promise<unknown>) =>
  call.then(
    () => undefined,
    (error: unknown) => error,
  );
const codeOf = async (call: Promise<unknown>) => ((await thrown(call)) as { code?: string } | undefined)?.code;

describe("a login that somebody has ended meanwhile", () => {
  it("is not begun again by the answer that says so", async () => {
    const base = sealed();
    const app: RequestHandler = (request, response, next) => {
      if (request.path !== "/login") return void response.end(request.session.id === undefined ? "" : "seen");
      request.session.regenerate(() => {
        user(request.session as unknown as Loose);
        request.session.save((error) => (error ? next(error) : response.end("hello")));
      });
    };
    const site = await start(base, app);
    vi.spyOn(base.sessions, "create").mockRejectedValueOnce(new SealedSessionError("LOGIN_OVERTAKEN", "ended"));
    const events = listen();
    const { status } = await site.ask({ path: "/login" });
    expect(status).toBe(500);
    expect(await length(base.store)).toBe(0);
    expect(events).toContainEqual({ type: "session-save-ignored" });
  });
});

describe("a request that changes nothing", () => {
  it("costs a get and a touch by default, also where sessions have an absolute life", async () => {
    for (const options of [{}, { absoluteSeconds: 1000 }]) {
      const base = sealed({}, options);
      const site = await start(base, after(user));
      const { cookie } = await site.ask({ path: "/begin" });
      expect(base.commands.splice(0)).toEqual(["set"]);
      await site.ask({ cookie });
      expect(base.commands).toEqual(["get", "touch"]);
    }
  });

  it("costs one get in idle mode, which slides", async () => {
    const base = sealed({ expiry: "idle" }, { idleSeconds: 3600 });
    const site = await start(base, after(user));
    const { cookie, sid } = await site.ask({ path: "/begin" });
    await base.envelopes.touch(storedIdOf(sid) as string, MINUTE);
    base.commands.length = 0;
    await site.ask({ cookie });
    expect(base.commands).toEqual(["get"]);
    expect(await base.ttlMs(sid)).toBeGreaterThan(3_590_000);
  });

  it("costs no more when the clock moves on while the cookie's life is written down", async () => {
    const base = sealed({ expiry: "idle" });
    const site = await start(base, after(user));
    const { cookie } = await site.ask({ path: "/begin" });
    base.commands.length = 0;
    // Every look at the clock is a millisecond later: originalMaxAge shrinks.
    let now = Date.now();
    vi.spyOn(Date, "now").mockImplementation(() => ++now);
    onTestFinished(() => void vi.restoreAllMocks());
    for (let i = 0; i < 3; i++) await site.ask({ cookie });
    expect(base.commands).toEqual(["get", "get", "get"]);
  });
});

describe("the life of a session", () => {
  it("is that of its own cookie by default, one beside another, in milliseconds", async () => {
    const base = sealed();
    const maxAges: Record<string, number> = { "/day": DAY, "/month": 30 * DAY, "/short": 1500 };
    const site = await start(base, (request, response) => {
      const { session, path } = request;
      if (!path.endsWith("again")) {
        user(session as unknown as Loose);
        session.cookie.maxAge = maxAges[path] as number;
      }
      response.end();
    });
    for (const [path, maxAge] of Object.entries(maxAges)) {
      const { cookie, sid } = await site.ask({ path });
      for (const step of ["saved", "touched"]) {
        const ttlMs = Number(await base.ttlMs(sid));
        expect(ttlMs, `${path} ${step}`).toBeLessThanOrEqual(maxAge);
        expect(ttlMs, `${path} ${step}`).toBeGreaterThan(maxAge - 500);
        await base.envelopes.touch(storedIdOf(sid) as string, 1000);
        await site.ask({ cookie, path: "/again" });
      }
    }
  });

  it("is no other for having been read, unless in idle mode", async () => {
    for (const expiry of ["cookie", "idle"] as const) {
      const base = sealed({ expiry }, { idleSeconds: 3600 });
      await set(base.store, SID, dataOf());
      await base.envelopes.touch(storedIdOf(SID) as string, 30 * DAY);
      await get(base.store, SID);
      expect(Number(await base.ttlMs(SID)) > 29 * DAY).toBe(expiry === "cookie");
    }
  });

  it("is at most the longest that a session store knows", async () => {
    const base = sealed();
    await set(base.store, SID, dataOf({}, 20 * 366 * DAY));
    expect(await base.ttlMs(SID)).toBeGreaterThan(3649 * DAY);
  });

  it("does not end early because an early save counts from the last one", async () => {
    const base = sealed();
    const site = await start(base, (request, response) => {
      user(request.session as unknown as Loose);
      if (request.path === "/begin") return void response.end();
      request.session.save(async (error) => {
        response.end(`${error ?? ""}${await base.ttlMs(request.session.id)}`);
      });
    });
    const { cookie, sid } = await site.ask({ path: "/begin" });
    vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + MINUTE - 1000 });
    await site.ask({ cookie });
    expect(Number(await base.ttlMs(sid))).toBeGreaterThan(MINUTE - 1000);
  });

  it("is the idle time of the session store where the cookie lives as long as the browser", async () => {
    const base = sealed({}, { idleSeconds: 3600 });
    const site = await start(base, after(user), { cookie: {} });
    const { cookie, sid } = await site.ask({ path: "/begin" });
    await base.envelopes.touch(storedIdOf(sid) as string, MINUTE);
    await site.ask({ cookie });
    expect(await base.ttlMs(sid)).toBeGreaterThan(3_590_000);
    expect((await get(base.store, sid))?.cookie.expires).toBeNull();
  });

  it("is the idle time of the session store in idle mode, whatever the cookie says", async () => {
    const base = sealed({ expiry: "idle" }, { idleSeconds: 3600 });
    const site = await start(base, after(user), { cookie: { maxAge: 30 * DAY } });
    const { sid } = await site.ask({ path: "/begin" });
    expect(await base.ttlMs(sid)).toBeGreaterThan(3_590_000);
    expect(await base.ttlMs(sid)).toBeLessThanOrEqual(3_600_000);
  });

  it("is shown in what get returns, by the cookie's own life or by the idle time that the session store tells", async () => {
    for (const [expiry, expected] of [
      ["cookie", MINUTE],
      ["idle", 3_600_000],
    ] as const) {
      const base = sealed({ expiry }, { idleSeconds: 3600 });
      await set(base.store, SID, dataOf());
      vi.useFakeTimers({ toFake: ["Date"], now: Date.now() + 1000 });
      const { cookie } = (await get(base.store, SID)) as SessionData;
      expect(Number(cookie.expires) - Date.now()).toBe(expected);
      expect(cookie.originalMaxAge).toBe(MINUTE);
      vi.useRealTimers();
    }
  });

  it("ends with its absolute life, in the store and in the cookie", async () => {
    const base = sealed({}, { absoluteSeconds: 100 });
    const site = await start(
      base,
      after(user, (data) => (data["cookie"] as { expires: Date }).expires.toISOString()),
      {
        cookie: { maxAge: DAY },
      },
    );
    const { cookie, sid } = await site.ask({ path: "/begin" });
    const { text } = await site.ask({ cookie });
    expect(Date.parse(text) - Date.now()).toBeLessThanOrEqual(101_000);
    expect(await base.ttlMs(sid)).toBeLessThanOrEqual(101_000);
    // Also what replaces it does.
    await set(base.store, sid, dataOf({ user: "eve" }, DAY));
    expect(await base.ttlMs(sid)).toBeLessThanOrEqual(101_000);
    expect(base.commands).not.toContain("ttlMs");
  });
});

describe("a save that comes after the end of its session", () => {
  const slow = async (base: Sealed) => {
    let release = (): void => {};
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    let isWaiting = false;
    const site = await start(base, async (request, response) => {
      const data = request.session as unknown as Loose;
      if (request.path === "/logout") return void request.session.destroy(() => response.end());
      if (request.path === "/slow") {
        isWaiting = true;
        await gate;
      }
      data["visits"] = Number(data["visits"] ?? 0) + 1;
      response.end();
    });
    const { cookie, sid } = await site.ask();
    const asked = site.ask({ cookie, path: "/slow" });
    await expect.poll(() => isWaiting).toBe(true);
    await site.ask({ cookie, path: "/logout" });
    return { site, sid, asked, release };
  };

  it("does nothing, and is told on the diagnostics channel", async () => {
    const events = listen();
    const base = sealed();
    const { site, sid, asked, release } = await slow(base);
    release();
    expect((await asked).status).toBe(200);
    expect(await get(base.store, sid)).toBeUndefined();
    expect(await length(base.store)).toBe(0);
    expect(events.filter(({ type }) => type === "session-save-ignored")).toEqual([{ type: "session-save-ignored" }]);
    expect(site.errors).toEqual([]);
  });

  it("is an error when asked for", async () => {
    const base = sealed({ onConflict: "error" });
    const { site, sid, asked, release } = await slow(base);
    release();
    await asked;
    await expect.poll(() => site.errors).toMatchObject([{ code: "STORE_CONFLICT" }]);
    expect(await get(base.store, sid)).toBeUndefined();
  });

  it("brings nothing back, in whatever order they arrive", async () => {
    const base = sealed();
    const saves = ["set", "touch"] as const;
    for (let order = 0; order < 8; order++) {
      const sid = `${SID} ${order}`;
      await set(base.store, sid, dataOf());
      const [one, two] = [await load(base, sid), await load(base, sid)];
      Object.assign(one, { order });
      Object.assign(two, { map: new Map([[1, order]]) });
      const ends = () => destroy(base.store, sid);
      const calls = [() => set(base.store, sid, one), () => touch(base.store, sid, two)];
      calls.splice(order % 3, 0, ends);
      await Promise.all(calls.map((call) => call()));
      await set(base.store, sid, one);
      await touch(base.store, sid, two);
      expect(await get(base.store, sid), `${saves} ${order}`).toBeUndefined();
    }
    expect(await length(base.store)).toBe(0);
  });

  it("holds for data that get has returned as well", async () => {
    const base = sealed();
    await set(base.store, SID, dataOf());
    const data = (await get(base.store, SID)) as object;
    await destroy(base.store, SID);
    await set(base.store, SID, data);
    expect(await get(base.store, SID)).toBeUndefined();
  });

  it("holds for a session that was begun, saved and destroyed in one request", async () => {
    const base = sealed();
    const site = await start(base, ({ session }, response) => {
      user(session as unknown as Loose);
      session.save(() => session.destroy(() => session.save(() => void response.end(session.id))));
    });
    const { text } = await site.ask();
    expect(await get(base.store, text)).toBeUndefined();
  });

  it("holds for a session that is destroyed while its first save waits", async () => {
    const base = sealed();
    let release = (): void => {};
    const gate = new Promise<void>((resolve) => {
      release = resolve;
    });
    base.faults.set = async (run) => {
      await gate;
      return run();
    };
    const site = await start(base, ({ session }, response) => {
      user(session as unknown as Loose);
      session.save();
      session.destroy(() => void response.end(session.id));
      setImmediate(release);
    });
    const { text } = await site.ask();
    expect(base.commands).toEqual(["set", "destroy"]);
    expect(await get(base.store, text)).toBeUndefined();
  });
});

describe("of two saves of one session", () => {
  const race = async (base: Sealed) => {
    await set(base.store, SID, dataOf({ winner: "nobody" }));
    const [one, two] = [await load(base, SID), await load(base, SID)];
    await set(base.store, SID, Object.assign(one, { winner: "one" }));
    const error = await thrown(set(base.store, SID, Object.assign(two, { winner: "two" })));
    const { winner } = (await get(base.store, SID)) as unknown as Loose;
    return { one, error, winner };
  };

  it("the last one wins by default", async () => {
    expect(await race(sealed())).toMatchObject({ error: undefined, winner: "two" });
  });

  it("the second one is refused when it must find the session unchanged", async () => {
    const base = sealed({ ifUnchanged: true });
    const { one, error, winner } = await race(base);
    expect(hasCode(error, "STORE_CONFLICT")).toBe(true);
    expect(winner).toBe("one");
    // Whoever has written last may go on.
    await set(base.store, SID, Object.assign(one, { winner: "one again" }));
    expect(await get(base.store, SID)).toMatchObject({ winner: "one again" });
  });

  it("one that finds the session gone is no conflict of contents", async () => {
    const base = sealed({ ifUnchanged: true });
    await set(base.store, SID, dataOf());
    const one = await load(base, SID);
    await destroy(base.store, SID);
    await set(base.store, SID, one);
    expect(await get(base.store, SID)).toBeUndefined();
  });
});

describe("a new session", () => {
  it("is created with one command, and saved again with one", async () => {
    const base = sealed();
    const site = await start(base, ({ session }, response) => {
      user(session as unknown as Loose);
      session.save(() => {
        Object.assign(session, { more: true });
        response.end();
      });
    });
    const { sid } = await site.ask();
    expect(base.commands).toEqual(["set", "set"]);
    expect(await get(base.store, sid)).toMatchObject({ user: "bob", more: true });
  });

  it("does not overwrite another one under the id that genid gave it", async () => {
    const base = sealed();
    const site = await start(base, after(user), { genid: () => SID });
    await set(base.store, SID, dataOf({ user: "alice" }));
    await site.ask({ path: "/begin" });
    await expect.poll(() => site.errors).toMatchObject([{ code: "SESSION_EXISTS" }]);
    expect(await get(base.store, SID)).toMatchObject({ user: "alice" });
  });

  it("may be saved again when a save failed that had reached the store", async () => {
    const base = sealed();
    base.faults.set = async (run) => {
      delete base.faults.set;
      await run();
      throw new SealedSessionError("STORE_UNAVAILABLE", "no answer");
    };
    const site = await start(base, ({ session }, response) => {
      Object.assign(session, { step: 1 });
      session.save((error) => {
        Object.assign(session, { step: 2 });
        response.end((error as { code?: string } | undefined)?.code);
      });
    });
    const { text, sid } = await site.ask();
    expect(text).toBe("STORE_UNAVAILABLE");
    expect(await get(base.store, sid)).toMatchObject({ step: 2 });
    expect(site.errors).toEqual([]);
  });

  it("is taken as it was when save was called, even if that has to wait", async () => {
    const base = sealed();
    const site = await start(base, ({ session }, response) => {
      const data = session as unknown as { list: number[] };
      data.list = [1];
      session.save();
      data.list.push(2);
      session.save(async () => {
        const found = (await get(base.store, session.id)) as unknown as { list: number[] };
        response.end(String(found.list));
      });
      data.list.push(3);
    });
    expect((await site.ask()).text).toBe("1,2");
  });
});

describe("an edit that JSON does not show", () => {
  const edits: Record<string, [before: () => unknown, edit: (value: never) => void]> = {
    "of a Map": [() => new Map([["a", 1]]), (map: Map<string, number>) => map.set("b", 2)],
    "of a Set": [() => new Set([1]), (set: Set<number>) => set.add(2)],
    "of a Set in a Map in an array": [
      () => [new Map([["a", new Set([1])]])],
      ([map]: [Map<string, Set<number>>]) => map.get("a")?.add(2),
    ],
    "of an ArrayBuffer": [() => new Uint8Array([1, 2]).buffer, (buffer: ArrayBuffer) => new Uint8Array(buffer).fill(9)],
    "of a Float64Array": [() => new Float64Array([Number.NaN]), (array: Float64Array) => array.fill(Infinity)],
  };
  for (const [name, [before, edit]] of Object.entries(edits)) {
    for (const expiry of ["cookie", "idle"] as const) {
      it(`${name} is saved, and costs nothing when there is none (${expiry})`, async () => {
        const base = sealed({ expiry }, { idleSeconds: 3600 });
        const site = await start(
          base,
          after(
            (data) => {
              data["value"] = before();
            },
            (data, path) => {
              if (path === "/edit") edit(data["value"] as never);
            },
          ),
        );
        const { cookie, sid } = await site.ask({ path: "/begin" });
        base.commands.length = 0;
        await site.ask({ cookie });
        expect(base.commands.splice(0)).toEqual(expiry === "idle" ? ["get"] : ["get", "touch"]);
        await site.ask({ cookie, path: "/edit" });
        expect(base.commands.splice(0)).toEqual(["get", "set"]);
        const expected = before();
        edit(expected as never);
        expect((await get(base.store, sid))?.["value"]).toEqual(expected);
      });
    }
  }

  it("is saved once where a save has taken it already", async () => {
    const base = sealed({ expiry: "idle" });
    const site = await start(base, ({ session }, response) => {
      const data = session as unknown as { map?: Map<string, number> };
      if (data.map === undefined) {
        data.map = new Map();
        return void response.end();
      }
      data.map.set("a", 1);
      session.save(() => void response.end());
    });
    const { cookie } = await site.ask();
    base.commands.length = 0;
    await site.ask({ cookie });
    expect(base.commands).toEqual(["get", "set"]);
  });

  it("is saved once where a save takes it that is still under way", async () => {
    const base = sealed();
    const site = await start(base, ({ session }, response) => {
      const data = session as unknown as { map?: Map<string, number> };
      data.map = new Map(data.map).set(String(Math.random()), 1);
      if (data.map.size > 1) session.save();
      response.end();
    });
    const { cookie } = await site.ask();
    base.commands.length = 0;
    base.faults.set = async (run) => {
      await new Promise(setImmediate);
      return run();
    };
    await site.ask({ cookie });
    expect(base.commands).toEqual(["get", "set", "touch"]);
  });

  it("that cannot be kept is refused with its path", async () => {
    const site = await start(
      sealed(),
      after(user, (data) => {
        data["handlers"] = { onClick: () => {} };
        delete data["handlers"];
        data["user"] = new Date(Number.NaN);
        Object.assign(data, { user: "bob", job: () => {} });
      }),
    );
    const { cookie } = await site.ask({ path: "/begin" });
    await site.ask({ cookie });
    await expect.poll(() => site.errors).toMatchObject([{ code: "VALUE_UNSUPPORTED", path: "job" }]);
  });
});

describe("what JSON cannot hold", () => {
  const deep = { cart: { items: [0, { price: 5n }] } };
  const cases: Record<string, [edit: (data: Loose) => unknown, error: object]> = {
    "a BigInt": [(data) => Object.assign(data, { account: 1n }), { code: "VALUE_UNSUPPORTED", path: "account" }],
    "a BigInt deep inside": [
      (data) => Object.assign(data, deep),
      { code: "VALUE_UNSUPPORTED", path: "cart.items[1].price", name: "UnsupportedValueError" },
    ],
    "a BigInt behind a toJSON": [
      (data) => Object.assign(data, { money: { toJSON: () => ({ cents: 5n }) } }),
      { code: "VALUE_UNSUPPORTED", path: "money.cents" },
    ],
    "a cycle": [
      (data) => {
        const node: Loose = {};
        node["next"] = { node };
        data["tree"] = node;
      },
      { code: "VALUE_CYCLIC", path: "tree.next.node" },
    ],
    "the session itself": [(data) => Object.assign(data, { self: data }), { code: "VALUE_UNSUPPORTED", path: "self" }],
    "a getter that throws": [
      (data) =>
        Object.assign(data, {
          bad: {
            get worse() {
              throw new Error("no");
            },
          },
        }),
      { code: "VALUE_UNSUPPORTED", path: "bad.worse" },
    ],
  };
  for (const [name, [edit, error]] of Object.entries(cases)) {
    for (const options of [USUAL, { resave: true, saveUninitialized: true }]) {
      it(`such as ${name} is refused with its path, and the response ends (resave ${options.resave})`, async () => {
        const base = sealed();
        const site = await start(base, after(user, edit as (data: Loose) => void), options);
        // In a new session and in one that was read.
        const fresh = await site.ask();
        await expect.poll(() => site.errors).toMatchObject([error]);
        site.errors.length = 0;
        expect(await length(base.store)).toBe(0);
        expect(fresh.status).toBe(200);
        const { cookie, sid } = await site.ask({ path: "/begin" });
        await site.ask({ cookie });
        await expect.poll(() => site.errors).toMatchObject([error]);
        const { cookie: _, ...data } = (await get(base.store, sid)) as SessionData & Loose;
        expect(data).toEqual({ user: "bob" });
      });
    }
  }

  it("is refused by save itself too", async () => {
    const base = sealed();
    const site = await start(base, ({ session }, response) => {
      Object.assign(session, deep);
      session.save((error) => {
        Object.assign(session, { cart: undefined });
        response.end((error as { path?: string } | undefined)?.path);
      });
    });
    expect((await site.ask()).text).toBe("cart.items[1].price");
    expect(await codeOf(set(base.store, SID, dataOf({ account: 1n })))).toBe("VALUE_UNSUPPORTED");
    expect(site.errors).toEqual([]);
  });

  it("names no value in the error", async () => {
    const error = await thrown(set(sealed().store, SID, dataOf({ account: 123456789123456789n })));
    expect(String(error)).toBe(
      "UnsupportedValueError: account: a BigInt cannot be kept in a session of express-session, which compares sessions as JSON",
    );
  });

  it("does no harm in a Map, where the middleware does not look", async () => {
    const base = sealed();
    const site = await start(
      base,
      after(
        (data) => {
          data["map"] = new Map([["a", 1n]]);
        },
        (data) => (data["map"] as Map<string, bigint>).get("a"),
      ),
    );
    const { cookie } = await site.ask({ path: "/begin" });
    expect((await site.ask({ cookie })).text).toBe("1");
    expect(site.errors).toEqual([]);
  });

  it("is read all the same when another program wrote it, and can be taken out", async () => {
    const base = sealed();
    const site = await start(
      base,
      after(user, (data, path) => {
        if (path === "/mend") data["account"] = String(data["account"]);
        return `${typeof data["account"]} ${data["account"]}`;
      }),
    );
    const { cookie, sid } = await site.ask({ path: "/begin" });
    await base.sessions.set(sid, dataOf({ account: 7n }));
    expect((await site.ask({ cookie })).text).toBe("bigint 7");
    expect(site.errors).toEqual([]);
    await site.ask({ cookie, path: "/mend" });
    expect((await site.ask({ cookie })).text).toBe("string 7");
    expect(site.errors).toEqual([]);
  });
});

describe("an id that cannot be one", () => {
  for (const sid of ["a", "", "x".repeat(15), "x".repeat(513)]) {
    it(`of ${sid.length} characters is no session, and set says so`, async () => {
      const { store, commands } = sealed();
      expect(await get(store, sid)).toBeUndefined();
      await touch(store, sid, dataOf());
      await destroy(store, sid);
      expect(await codeOf(set(store, sid, dataOf()))).toBe("SESSION_ID_INVALID");
      expect(commands).toEqual([]);
    });
  }

  it("reaches the error handler when genid makes it", async () => {
    const site = await start(sealed(), after(user), { genid: () => "a" });
    await site.ask({ path: "/begin" });
    await expect.poll(() => site.errors).toMatchObject([{ code: "SESSION_ID_INVALID" }]);
  });
});

describe("an error", () => {
  const calls: Record<string, (base: Sealed) => Promise<unknown>> = {
    get: ({ store }) => get(store, SID),
    set: ({ store }) => set(store, SID, dataOf()),
    touch: ({ store }) => touch(store, SID, dataOf()),
    destroy: ({ store }) => destroy(store, SID),
    all: ({ store }) => all(store),
    length: ({ store }) => length(store),
    clear: ({ store }) => clear(store),
  };
  for (const [name, call] of Object.entries(calls)) {
    it(`whose code is ENOENT does not leak out of ${name}`, async () => {
      const cause = Object.assign(new Error("no such socket"), { code: "ENOENT" });
      const fail = () => Promise.reject(cause);
      const all = async function* (): AsyncGenerator<never> {
        yield await fail();
      };
      const sessions = { get: fail, set: fail, touch: fail, destroy: fail, all, count: fail, clear: fail };
      const store = expressStore(sessions as never) as unknown as Sealed["store"];
      expect(await thrown(call({ store } as Sealed))).toMatchObject({ code: "STORE_UNAVAILABLE", cause });
    });

    it(`that is nothing does not look like success of ${name}`, async () => {
      const fail = () => Promise.reject(undefined);
      const all = async function* (): AsyncGenerator<never> {
        yield await fail();
      };
      const sessions = { get: fail, set: fail, touch: fail, destroy: fail, all, count: fail, clear: fail };
      const store = expressStore(sessions as never) as unknown as Sealed["store"];
      expect(await codeOf(call({ store } as Sealed))).toBe("STORE_UNAVAILABLE");
    });
  }

  it("of the store reaches next, and nobody is taken for logged out", async () => {
    const base = sealed();
    const site = await start(base, after(user));
    const { cookie } = await site.ask({ path: "/begin" });
    base.faults.get = () => Promise.reject(new SealedSessionError("STORE_UNAVAILABLE", "down"));
    expect(await site.ask({ cookie })).toMatchObject({ status: 500, text: "down", setCookie: undefined });
  });

  it("thrown in a callback is not taken for one of the store", async () => {
    const listeners = process.rawListeners("uncaughtException");
    process.removeAllListeners("uncaughtException");
    const uncaught = vi.fn();
    process.on("uncaughtException", uncaught);
    const { store } = sealed();
    const callback = vi.fn(() => {
      throw new Error("in the callback");
    });
    store.set(SID, dataOf(), callback);
    store.set("short", dataOf(), callback);
    await expect.poll(() => uncaught.mock.calls.length).toBe(2);
    await length(store);
    process.removeAllListeners("uncaughtException");
    for (const listener of listeners) process.on("uncaughtException", listener as () => void);
    expect(callback.mock.calls).toHaveLength(2);
    for (const [error, origin] of uncaught.mock.calls) {
      expect([error.message, origin]).toEqual(["in the callback", "uncaughtException"]);
    }
  });
});

describe("an envelope that was tampered with", () => {
  const tampered = async (onTampered?: "throw" | "discard") => {
    const base = sealed(onTampered === undefined ? {} : { onTampered });
    const site = await start(
      base,
      after(user, (data) => data["user"] ?? "nobody"),
    );
    const { cookie, sid } = await site.ask({ path: "/begin" });
    await base.envelopes.set(storedIdOf(sid) as string, new Uint8Array(100).fill(7), { ttlMs: MINUTE });
    return { base, reply: await site.ask({ cookie }), sid };
  };

  it("is an error by default", async () => {
    expect((await tampered()).reply).toMatchObject({ status: 500, text: "the envelope was rejected" });
  });

  it("counts as no session when it is to be discarded, and is left where it is", async () => {
    const { base, reply, sid } = await tampered("discard");
    expect(reply).toMatchObject({ status: 200, text: "nobody" });
    expect(await base.ttlMs(sid)).toBeGreaterThan(0);
  });
});

describe("what is stored", () => {
  it("is plain data, and its cookie is as it was saved when it is read at once", async () => {
    const base = sealed();
    await base.ring.ready();
    vi.useFakeTimers({ toFake: ["Date"] });
    const site = await start(base, after(user), { cookie: { maxAge: MINUTE, sameSite: "lax" } });
    const { sid } = await site.ask({ path: "/begin" });
    const expires = new Date(Date.now() + MINUTE);
    vi.setSystemTime(Date.now() + 10);
    expect(await base.sessions.get(sid)).toStrictEqual({
      user: "bob",
      cookie: { originalMaxAge: MINUTE, expires, httpOnly: true, path: "/", sameSite: "lax" },
    });
    expect((await get(base.store, sid))?.cookie.expires).toEqual(expires);
    await touch(base.store, sid, dataOf({}, MINUTE));
    expect((await get(base.store, sid))?.cookie.expires).toEqual(new Date(Number(expires) + 10));
  });

  it("under another id is another session", async () => {
    const base = sealed();
    await set(base.store, SID, dataOf({ a: 1 }));
    const session = await load(base, SID);
    await set(base.store, `${SID} too`, Object.assign(session, { a: 2 }));
    expect(await get(base.store, `${SID} too`)).toMatchObject({ a: 2 });
    expect(await get(base.store, SID)).toMatchObject({ a: 1 });
  });

  it("is not overwritten by a session that was made behind the store's back", async () => {
    const base = sealed();
    await set(base.store, SID, dataOf({ a: 1 }));
    const Session = session.Session as unknown as new (request: object, data: object) => object;
    const made = new Session({ sessionID: SID }, dataOf({ a: 2 }));
    expect(await codeOf(set(base.store, SID, made))).toBe("SESSION_EXISTS");
    expect(await get(base.store, SID)).toMatchObject({ a: 1 });
  });

  it("is an object", async () => {
    for (const value of ["text", null, 1]) {
      expect(await thrown(set(sealed().store, SID, value as never))).toBeInstanceOf(TypeError);
    }
  });
});

describe("the session store behind it", () => {
  it("may bind sessions to their clients; then nobody else lists them", async () => {
    const base = sealed({}, { clientBound: true });
    const site = await start(
      base,
      after(user, (data) => data["user"]),
    );
    const { cookie } = await site.ask({ path: "/begin" });
    expect((await site.ask({ cookie })).text).toBe("bob");
    expect(await thrown(all(base.store))).toBeInstanceOf(TypeError);
    expect(await length(base.store)).toBe(1);
  });

  it("may store session ids as they are; then all tells them", async () => {
    const base = sealed({}, { storedIds: "verbatim" });
    await set(base.store, SID, dataOf({ a: 1 }));
    expect(Object.keys((await all(base.store)) ?? {})).toEqual([SID]);
    const digested = sealed();
    await set(digested.store, SID, dataOf({ a: 1 }));
    expect(Object.keys((await all(digested.store)) ?? {})).toEqual([storedIdOf(SID)]);
  });

  it("may have revoked the key of what plain data replaces", async () => {
    const base = sealed();
    await set(base.store, SID, dataOf({ a: 1 }));
    const [key] = base.ring.status();
    await base.ring.revoke(key?.keyId as string);
    expect(await get(base.store, SID)).toBeUndefined();
    await set(base.store, SID, dataOf({ a: 2 }));
    expect(await get(base.store, SID)).toMatchObject({ a: 2 });
  });

  it("must be one, and options must be known", () => {
    expect(() => expressStore(undefined as never)).toThrow(TypeError);
    const { sessions } = sealed();
    for (const option of ["expiry", "onConflict", "onTampered"]) {
      expect(() => expressStore(sessions, { [option]: "other" } as never)).toThrow(
        new RegExp(`^${option} must be "\\w+" or "\\w+"$`),
      );
    }
  });
});
