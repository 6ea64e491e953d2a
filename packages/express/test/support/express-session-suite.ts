/**
 * What express-session promises to applications as far as a store has a part in it: the same tests for its own MemoryStore, as a control, and for ours.
 */
import { once } from "node:events";
import type { RequestHandler } from "express";
import { type Cookie, type SessionOptions, Store } from "express-session";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { all, clear, dataOf, destroy, get, length, set, touch } from "./calls.js";
import { type Reply, type Site, startSite } from "./site.js";

type Loose = Record<string, unknown>;

/** Sets the clock of this process on, not that of a server. */
function advance(ms: number): void {
  vi.setSystemTime(Date.now() + ms);
}

/** @param makeStore - Makes an empty store. */
export function expressSessionSuite(name: string, makeStore: () => Store): void {
  describe(`express-session with ${name}`, () => {
    let store: Store;
    const sites: Site[] = [];
    beforeEach(() => {
      store = makeStore();
    });
    afterEach(async () => {
      vi.useRealTimers();
      await Promise.all(sites.splice(0).map((site) => site.stop()));
    });

    const start = async (respond?: RequestHandler, options: Partial<SessionOptions> = {}): Promise<Site> => {
      const site = await startSite({ store, ...options }, respond);
      sites.push(site);
      return site;
    };
    /** Counts the calls of a method of the store; `held` delays each. */
    const count = (method: "get" | "set" | "touch" | "destroy", held?: () => Promise<void>) => {
      const original = (store[method] as (...call: unknown[]) => void).bind(store);
      const calls = vi.fn((...call: unknown[]) => {
        if (held === undefined) original(...call);
        else held().then(() => original(...call));
      });
      Object.assign(store, { [method]: calls });
      return calls;
    };
    const failing =
      (error: Error) =>
      (...call: unknown[]) =>
        (call.at(-1) as (error: Error) => void)(error);
    const counter: RequestHandler = ({ session }, response) => {
      const data = session as unknown as Loose;
      data["count"] = Number(data["count"] ?? 0) + 1;
      response.end(`hits: ${data["count"]}`);
    };
    const numbered = (): RequestHandler => {
      let last = 0;
      return ({ session }, response) => {
        const data = session as unknown as Loose;
        data["num"] ??= ++last;
        response.end(`session ${data["num"]}`);
      };
    };
    const bob: RequestHandler = ({ session }, response) => {
      Object.assign(session, { user: "bob" });
      response.end(session.id);
    };

    describe("a request", () => {
      it("without a cookie begins a session", async () => {
        const reply = await (await start(bob)).ask();
        expect(reply.setCookie).toMatch(/^connect\.sid=/);
        expect(await length(store)).toBe(1);
        expect(await get(store, reply.sid)).toMatchObject({ user: "bob" });
      });

      it("with a cookie goes on with its session", async () => {
        const site = await start(numbered());
        const { cookie } = await site.ask();
        expect((await site.ask({ cookie })).text).toBe("session 1");
        expect((await site.ask()).text).toBe("session 2");
        expect(Object.keys((await all(store)) ?? {})).toHaveLength(2);
      });

      it("of which several come at once each begins its own session", async () => {
        const site = await start(numbered());
        const replies = await Promise.all([site.ask(), site.ask(), site.ask()]);
        expect(new Set(replies.map(({ sid }) => sid)).size).toBe(3);
        expect(await length(store)).toBe(3);
      });

      it("passes the store's error on", async () => {
        const site = await start(bob);
        const { cookie } = await site.ask();
        Object.assign(store, { get: failing(new Error("boom!")) });
        expect(await site.ask({ cookie })).toMatchObject({ status: 500, text: "boom!" });
      });

      it("takes an error whose code is ENOENT for no session", async () => {
        const site = await start(numbered());
        const { cookie } = await site.ask();
        Object.assign(store, { get: failing(Object.assign(new Error("boom!"), { code: "ENOENT" })) });
        expect(await site.ask({ cookie })).toMatchObject({ status: 200, text: "session 2" });
      });

      it("has no session while the store is disconnected", async () => {
        const site = await start(({ session }, response) => void response.end(typeof session));
        store.emit("disconnect");
        expect(await site.ask()).toMatchObject({ text: "undefined", setCookie: undefined });
        store.emit("connect");
        expect((await site.ask()).text).toBe("object");
      });

      it("whose session is not in the store gets another id", async () => {
        const site = await start(numbered());
        const first = await site.ask();
        await clear(store);
        const second = await site.ask({ cookie: first.cookie });
        expect(second.text).toBe("session 2");
        expect(second.sid).not.toBe(first.sid);
      });

      it("whose cookie is not signed by us gets another session", async () => {
        const site = await start(numbered(), { name: "sessid" });
        const { cookie, sid } = await site.ask();
        const forged = await site.ask({ cookie: cookie.replace(/...$/, "abc") });
        expect(forged.text).toBe("session 2");
        expect(forged.sid).not.toBe(sid);
        expect(forged.setCookie).toMatch(/^sessid=/);
      });

      it("whose session has expired in the store begins another", async () => {
        const site = await start(numbered(), { cookie: { maxAge: 20 } });
        const first = await site.ask();
        await expect.poll(() => get(store, first.sid)).toBeFalsy();
        expect(await all(store)).toEqual({});
        const second = await site.ask({ cookie: first.cookie });
        expect(second.text).toBe("session 2");
        expect(second.sid).not.toBe(first.sid);
      });

      it("passes on that what lies in the store is no session", async () => {
        const site = await start(numbered());
        const { cookie, sid } = await site.ask();
        await set(store, sid, { foo: "bar" });
        expect(await site.ask({ cookie })).toMatchObject({
          status: 500,
          text: expect.stringMatching(/Cannot read prop/),
        });
      });

      it("is not confused by a reserved property in the store", async () => {
        const site = await start(counter);
        const { cookie, sid } = await site.ask();
        await set(store, sid, { ...(await get(store, sid)), save: "nope" });
        expect(await site.ask({ cookie })).toMatchObject({ status: 200, text: "hits: 2" });
      });

      it("without a proper session id saves nothing", async () => {
        const site = await start((request, response) => {
          Object.assign(request, { sessionID: () => {} });
          Object.assign(request.session, { test: 1 });
          response.end();
        });
        expect(await site.ask()).toMatchObject({ status: 200, setCookie: undefined });
        expect(await length(store)).toBe(0);
      });
    });

    describe("the session object", () => {
      it("shows the cookie and the data only", async () => {
        const keys: RequestHandler = ({ session }, response) => {
          Object.assign(session, { test1: 1, test2: "b" });
          const inherited: string[] = [];
          for (const key in session) inherited.push(key);
          response.end(`${Object.keys(session).sort()} ${inherited.sort()}`);
        };
        const site = await start(keys);
        const reply = await site.ask();
        expect(reply.text).toBe("cookie,test1,test2 cookie,test1,test2");
        expect((await site.ask({ cookie: reply.cookie })).text).toBe(reply.text);
      });

      it("is written as JSON with its cookie", async () => {
        const site = await start(({ session }, response) => {
          Object.assign(session, { a: { b: [1] } });
          response.end(JSON.stringify(session));
        });
        const { cookie } = await site.ask();
        const { cookie: attributes, ...data } = JSON.parse((await site.ask({ cookie })).text);
        expect(data).toEqual({ a: { b: [1] } });
        expect(attributes).toMatchObject({ httpOnly: true, path: "/", originalMaxAge: expect.any(Number) });
      });

      it("persists", async () => {
        const site = await start(counter);
        const { cookie, sid } = await site.ask();
        expect((await site.ask({ cookie })).text).toBe("hits: 2");
        const loaded = await new Promise<unknown>((resolve, reject) =>
          store.load(sid, (error, session) => (error ? reject(error) : resolve(session))),
        );
        expect(loaded).toMatchObject({ count: 2, id: sid });
      });

      it("sets the cookie only when it was modified", async () => {
        const site = await start((request, response, next) =>
          request.path === "/read" ? void response.end() : counter(request, response, next),
        );
        const { cookie } = await site.ask();
        expect((await site.ask({ cookie })).setCookie).toBeDefined();
        expect((await site.ask({ cookie, path: "/read" })).setCookie).toBeUndefined();
      });

      it("is destroyed", async () => {
        const site = await start((request, response) => {
          if (request.path === "/begin") return void bob(request, response, () => {});
          request.session.destroy((error) => void response.end(`${error ?? ""}${request.session}`));
        });
        const { cookie, sid } = await site.ask({ path: "/begin" });
        expect(await site.ask({ cookie })).toMatchObject({ text: "undefined", setCookie: undefined });
        expect(await get(store, sid)).toBeFalsy();
        expect(await length(store)).toBe(0);
      });

      it("is replaced by regenerate, and the one before destroyed", async () => {
        const site = await start((request, response) => {
          const { id } = request.session;
          request.session.regenerate((error) => {
            Object.assign(request.session, { user: "bob" });
            response.end(`${error ?? ""}${request.session.id === id}`);
          });
        });
        const first = await site.ask();
        const second = await site.ask({ cookie: first.cookie });
        expect(second.text).toBe("false");
        expect(second.sid).not.toBe(first.sid);
        expect(await get(store, first.sid)).toBeFalsy();
        expect(await get(store, second.sid)).toMatchObject({ user: "bob" });
        expect(await length(store)).toBe(1);
      });

      it("is reloaded with what another request has saved", async () => {
        const site: Site = await start(async (request, response) => {
          const data = request.session as unknown as Loose;
          if (request.path === "/begin") data["active"] = true;
          else data["url"] = request.path;
          if (request.path !== "/outer") return void response.end(`saw ${data["url"]}`);
          await site.ask({ cookie: request.headers.cookie as string, path: "/inner" });
          request.session.reload((error) => {
            response.end(`${error ?? ""}saw ${(request.session as unknown as Loose)["url"]}`);
          });
        });
        const { cookie } = await site.ask({ path: "/begin" });
        expect((await site.ask({ cookie, path: "/outer" })).text).toBe("saw /inner");
      });

      it("is not reloaded when it is gone, however often", async () => {
        const site = await start(
          async (request, response) => {
            if (request.path === "/begin") return void bob(request, response, () => {});
            await clear(store);
            const messages: unknown[] = [];
            const again = (error?: Error): void => {
              if (error) messages.push(error.message);
              if (messages.length === 20) response.end(String([...new Set(messages)]));
              else request.session.reload(again);
            };
            again();
          },
          { resave: false },
        );
        const { cookie } = await site.ask({ path: "/begin" });
        expect((await site.ask({ cookie, path: "/reload" })).text).toBe("failed to load session");
      });

      it("is in the store when save calls back", async () => {
        const site = await start(({ session }, response) => {
          Object.assign(session, { hit: true });
          session.save(async (error) => {
            const found = await get(store, session.id);
            response.end(`${error ?? ""}${found?.["hit"]}`);
          });
        });
        expect((await site.ask()).text).toBe("true");
      });

      for (const [when, options] of [
        ["always", {}],
        ["when saveUninitialized is false", { saveUninitialized: false }],
        ["when resave is false", { resave: false }],
      ] as const) {
        it(`is not saved again at the end of the response after a save, ${when}`, async () => {
          const sets = count("set");
          const site = await start(({ session }, response) => {
            Object.assign(session, { hit: Math.random() });
            session.save(() => void response.end("saved"));
          }, options);
          const { cookie } = await site.ask();
          expect(sets).toHaveBeenCalledTimes(1);
          await site.ask({ cookie });
          expect(sets).toHaveBeenCalledTimes(2);
        });
      }

      it("is not saved again at the end of the response after a reload and a save", async () => {
        const sets = count("set");
        const site = await start(({ session }, response) => {
          Object.assign(session, { hit: true });
          session.reload(() => session.save(() => void response.end("saved")));
        });
        const { cookie } = await site.ask();
        expect(sets).toHaveBeenCalledTimes(1);
        expect((await site.ask({ cookie })).text).toBe("saved");
      });

      it("may be saved twice at once while it is new, and the second save counts", async () => {
        const site = await start(({ session }, response) => {
          const errors: unknown[] = [];
          const saved = (error?: unknown) => {
            if (errors.push(error ?? "none") === 2) response.end(String(errors));
          };
          const data = session as unknown as Loose;
          data["deep"] = { step: 1 };
          session.save(saved);
          data["deep"] = { step: 2 };
          session.save(saved);
          data["deep"] = { step: 3 };
        });
        const { text, sid } = await site.ask();
        expect(text).toBe("none,none");
        // The third was saved at the end of the response.
        expect(await get(store, sid)).toMatchObject({ deep: { step: 3 } });
      });
    });

    describe("the end of the response", () => {
      for (const [kind, headers] of [
        ["a chunked", {}],
        ["a short", { "content-length": "5" }],
      ] as const) {
        it(`of ${kind} one waits until the session is saved`, async () => {
          let release = (): void => {};
          const gate = new Promise<void>((resolve) => {
            release = resolve;
          });
          const sets = count("set", () => gate);
          const site = await start(({ session }, response) => {
            Object.assign(session, { hit: true });
            response.set(headers).end("saved");
          });
          let hasEnded = false;
          const asked = site.ask().finally(() => {
            hasEnded = true;
          });
          await expect.poll(() => sets.mock.calls.length).toBe(1);
          expect(hasEnded).toBe(false);
          release();
          const { sid, text } = await asked;
          expect(text).toBe("saved");
          expect(await get(store, sid)).toMatchObject({ hit: true });
        });
      }

      for (const [what, status, body] of [
        ["an empty 200", 200, undefined],
        ["an empty 304", 304, undefined],
        ["a body of nothing", 200, ""],
        ["a null body", 200, null],
      ] as const) {
        it(`saves with ${what}`, async () => {
          const site = await start(({ session }, response) => {
            Object.assign(session, { hit: true });
            response.status(status).end(body);
          });
          const reply = await site.ask();
          expect(reply).toMatchObject({ status, text: "" });
          expect(await get(store, reply.sid)).toMatchObject({ hit: true });
        });
      }

      it("saves with several writes and two ends", async () => {
        const site = await start(({ session }, response) => {
          Object.assign(session, { hit: true });
          response.write("hello, ");
          response.end("world");
          response.end("!");
        });
        const { sid, text } = await site.ask();
        expect(text).toBe("hello, world");
        expect(await get(store, sid)).toMatchObject({ hit: true });
      });

      it("saves when the answer to HEAD is no body", async () => {
        const site = await start(counter);
        const { sid, text } = await site.ask({ method: "HEAD" });
        expect(text).toBe("");
        expect(await get(store, sid)).toMatchObject({ count: 1 });
      });
    });

    describe("genid", () => {
      it("gives the ids under which sessions lie", async () => {
        const genid = vi.fn(({ path }: { path: string }) => `an id of our own making${path}`);
        const site = await start(bob, { genid });
        const reply = await site.ask({ path: "/x" });
        expect(reply.sid).toBe("an id of our own making/x");
        expect(await get(store, reply.sid)).toMatchObject({ user: "bob" });
      });

      it("may give the same id again once the session before has been destroyed", async () => {
        const site = await start(
          (request, response) => {
            if (request.path === "/begin") return void bob(request, response, () => {});
            request.session.regenerate((error) => {
              Object.assign(request.session, { user: "eve" });
              response.end(String(error ?? "ok"));
            });
          },
          { genid: () => "always the same id" },
        );
        const { cookie } = await site.ask({ path: "/begin" });
        const reply = await site.ask({ cookie });
        expect(reply.text).toBe("ok");
        expect(await get(store, "always the same id")).toMatchObject({ user: "eve" });
      });
    });

    describe("rolling", () => {
      const respond: RequestHandler = (request, response, next) =>
        request.path === "/write" ? bob(request, response, next) : void response.end();

      it("is off by default: no cookie for an unmodified session", async () => {
        const site = await start(respond);
        const { cookie } = await site.ask({ path: "/write" });
        expect((await site.ask({ cookie })).setCookie).toBeUndefined();
      });

      it("sets the cookie anew for an unmodified session", async () => {
        const site = await start(respond, { rolling: true });
        const first = await site.ask({ path: "/write" });
        vi.useFakeTimers({ toFake: ["Date"] });
        advance(2000);
        const second = await site.ask({ cookie: first.cookie });
        expect(Date.parse(String(second.expires)) - Date.parse(String(first.expires))).toBeGreaterThanOrEqual(1000);
      });

      it("sets no cookie for an uninitialized session that is not saved", async () => {
        const site = await start(respond, { rolling: true, saveUninitialized: false });
        expect((await site.ask()).setCookie).toBeUndefined();
        expect(await length(store)).toBe(0);
      });
    });

    describe("resave", () => {
      it("saves an unmodified session when true", async () => {
        const site = await start(bob, { resave: true });
        const { cookie } = await site.ask();
        const sets = count("set");
        await site.ask({ cookie });
        expect(sets).toHaveBeenCalledTimes(1);
      });

      it("saves no unmodified session when false, but touches it", async () => {
        const site = await start(bob, { resave: false });
        const { cookie } = await site.ask();
        const sets = count("set");
        const touches = count("touch");
        await site.ask({ cookie });
        expect(sets).not.toHaveBeenCalled();
        expect(touches).toHaveBeenCalledTimes(1);
      });

      it("saves a modified session when false", async () => {
        const site = await start(
          (request, response) => {
            if (request.method === "PUT") Object.assign(request.session, { token: request.path });
            response.end(`token=${(request.session as unknown as Loose)["token"] ?? ""}`);
          },
          { resave: false },
        );
        const { cookie } = await site.ask({ method: "PUT", path: "/one" });
        expect((await site.ask({ cookie })).text).toBe("token=/one");
        await site.ask({ cookie, method: "PUT", path: "/two" });
        expect((await site.ask({ cookie })).text).toBe("token=/two");
      });

      it("sees that a property named cookie was modified", async () => {
        const site = await start(
          ({ session }, response) => {
            const data = session as unknown as { user?: { cookie: number } };
            data.user = { cookie: (data.user?.cookie ?? 0) + 1 };
            response.end(String(data.user.cookie));
          },
          { resave: false },
        );
        const { cookie } = await site.ask();
        await site.ask({ cookie });
        expect((await site.ask({ cookie })).text).toBe("3");
      });

      it("passes an error of touch on", async () => {
        const site = await start(bob, { resave: false });
        const { cookie } = await site.ask();
        Object.assign(store, { touch: failing(new Error("boom!")) });
        await site.ask({ cookie });
        await expect.poll(() => site.errors).toMatchObject([{ message: "boom!" }]);
      });
    });

    describe("saveUninitialized", () => {
      it("saves a new session that nobody modified when true", async () => {
        const { sid } = await (await start()).ask();
        expect(await get(store, sid)).toMatchObject({ cookie: {} });
      });

      it("saves none when false, and sets no cookie", async () => {
        const touches = count("touch");
        const reply = await (await start(undefined, { saveUninitialized: false })).ask();
        expect(reply.setCookie).toBeUndefined();
        expect(await length(store)).toBe(0);
        expect(touches).not.toHaveBeenCalled();
      });

      it("saves a modified one when false", async () => {
        const site = await start(counter, { saveUninitialized: false });
        const { cookie } = await site.ask();
        expect((await site.ask({ cookie })).text).toBe("hits: 2");
      });

      it("passes an error of set on", async () => {
        const site = await start();
        Object.assign(store, { set: failing(new Error("boom!")) });
        await site.ask();
        await expect.poll(() => site.errors).toMatchObject([{ message: "boom!" }]);
      });
    });

    describe("secret", () => {
      it("may be several, of which the first signs and all verify", async () => {
        const old = await start(bob, { secret: "old" });
        const both = await start(counter, { secret: ["new", "old"] });
        const recent = await start(counter, { secret: "new" });
        const { cookie } = await old.ask();
        const renewed = await both.ask({ cookie });
        expect(renewed.text).toBe("hits: 1");
        expect((await recent.ask({ cookie: renewed.cookie })).text).toBe("hits: 2");
        const refused = await recent.ask({ cookie });
        expect(refused.text).toBe("hits: 1");
        expect(refused.sid).not.toBe(renewed.sid);
      });
    });

    describe("unset", () => {
      const twice: RequestHandler = (request, response, next) => {
        if ((request.session as unknown as Loose)["count"] === undefined) return void counter(request, response, next);
        Object.assign(request, { session: null });
        response.end();
      };

      it("keeps the session by default", async () => {
        const site = await start(twice);
        const { cookie } = await site.ask();
        await site.ask({ cookie });
        expect(await length(store)).toBe(1);
      });

      it("destroys the session when told to", async () => {
        const site = await start(twice, { unset: "destroy" });
        const { cookie, sid } = await site.ask();
        expect(await length(store)).toBe(1);
        await site.ask({ cookie });
        expect(await length(store)).toBe(0);
        expect(await get(store, sid)).toBeFalsy();
      });

      it("sets no cookie when a new session is unset", async () => {
        const unset: RequestHandler = (request, response) => {
          Object.assign(request, { session: null });
          response.end();
        };
        const site = await start(unset, { unset: "destroy" });
        expect((await site.ask()).setCookie).toBeUndefined();
        expect(await length(store)).toBe(0);
      });

      it("passes an error of destroy on", async () => {
        const site = await start(twice, { unset: "destroy" });
        const { cookie } = await site.ask();
        Object.assign(store, { destroy: failing(new Error("boom!")) });
        await site.ask({ cookie });
        await expect.poll(() => site.errors).toMatchObject([{ message: "boom!" }]);
      });
    });

    describe("the cookie of a session", () => {
      /** Does something with the cookie for /do, and shows it as it was read. */
      const cookieSite = (change: (cookie: Cookie) => void, options: Partial<SessionOptions> = {}) =>
        start((request, response) => {
          const { cookie } = request.session;
          const { maxAge, originalMaxAge, expires, httpOnly, path, secure, sameSite } = cookie;
          const isDate = expires instanceof Date;
          response.set(
            "x-cookie",
            JSON.stringify({ maxAge, originalMaxAge, isDate, httpOnly, path, secure, sameSite }),
          );
          if (request.path.endsWith("/do")) {
            Object.assign(request.session, { changed: Math.random() });
            change(cookie);
          }
          response.end();
        }, options);
      const shown = (reply: Reply) => JSON.parse(reply.headers.get("x-cookie") as string);
      const near = (ms: number) => ({ asymmetricMatch: (value: unknown) => Math.abs(Number(value) - ms) < 3000 });

      it("keeps its attributes", async () => {
        const cookie = { path: "/admin", httpOnly: false, sameSite: "lax", maxAge: 5000 } as const;
        const site = await cookieSite(() => {}, { cookie });
        const { cookie: sent } = await site.ask({ path: "/admin/do" });
        const read = shown(await site.ask({ cookie: sent, path: "/admin/x" }));
        expect(read).toMatchObject({ ...cookie, maxAge: near(5000), isDate: true });
      });

      it("has the same originalMaxAge in all requests", async () => {
        const site = await cookieSite(() => {}, { cookie: { maxAge: 2000 } });
        const first = await site.ask();
        for (const reply of [
          first,
          await site.ask({ cookie: first.cookie }),
          await site.ask({ cookie: first.cookie }),
        ]) {
          expect([1999, 2000]).toContain(shown(reply).originalMaxAge);
        }
      });

      it("may get a life of its own, which lasts", async () => {
        const site = await cookieSite((cookie) => {
          cookie.maxAge = 30 * 86_400_000;
        });
        const { cookie, expires } = await site.ask({ path: "/do" });
        expect(Date.parse(String(expires)) - Date.now()).toEqual(near(30 * 86_400_000));
        await site.ask({ cookie });
        expect(shown(await site.ask({ cookie }))).toMatchObject({
          maxAge: near(30 * 86_400_000),
          originalMaxAge: near(30 * 86_400_000),
        });
      });

      it("may get a life of its own in a request that changes nothing else", async () => {
        const site = await start(
          (request, response) => {
            if (request.path === "/begin") Object.assign(request.session, { user: "bob" });
            if (request.path === "/remember") request.session.cookie.maxAge = 30 * 86_400_000;
            response.end(String(request.session.cookie.originalMaxAge));
          },
          { resave: false },
        );
        const { cookie } = await site.ask({ path: "/begin" });
        await site.ask({ cookie, path: "/remember" });
        expect(Number((await site.ask({ cookie })).text)).toEqual(near(30 * 86_400_000));
      });

      it("may come to live as long as the browser", async () => {
        const site = await cookieSite((cookie) => {
          Object.assign(cookie, { maxAge: null });
        });
        const { cookie, expires } = await site.ask({ path: "/do" });
        expect(expires).toBeUndefined();
        expect(shown(await site.ask({ cookie }))).toMatchObject({ maxAge: null, isDate: false });
      });

      it("lives as long as the browser by default", async () => {
        const site = await start(counter, { cookie: {} });
        const { cookie, expires } = await site.ask();
        expect(expires).toBeUndefined();
        expect((await site.ask({ cookie })).text).toBe("hits: 2");
      });

      it("may get a date at which it ends", async () => {
        const site = await cookieSite((cookie) => {
          cookie.expires = new Date(Date.now() + 7_200_000);
        });
        const { cookie } = await site.ask({ path: "/do" });
        expect(shown(await site.ask({ cookie }))).toMatchObject({ maxAge: near(7_200_000), isDate: true });
      });

      it("that is secure is not sent over HTTP, and its session saved all the same", async () => {
        const site = await start(bob, { cookie: { secure: true, maxAge: 60_000 } });
        expect((await site.ask()).setCookie).toBeUndefined();
        expect(await length(store)).toBe(1);
      });

      it("is secure by the connection with auto", async () => {
        const options = { cookie: { secure: "auto", maxAge: 60_000 }, proxy: true } as const;
        const site = await start(counter, options);
        const over = (proto: string, cookie?: string) =>
          site.ask({ headers: { "x-forwarded-proto": proto }, ...(cookie !== undefined && { cookie }) });
        expect((await over("http")).setCookie).not.toMatch(/Secure/);
        const { setCookie, cookie } = await over("https");
        expect(setCookie).toMatch(/Secure/);
        expect((await over("https", cookie)).setCookie).toMatch(/Secure/);
      });

      it("follows in the store when it is touched", async () => {
        const site = await start(bob, { resave: false });
        const { cookie, sid } = await site.ask();
        const before = new Date((await get(store, sid))?.cookie.expires as Date).getTime();
        vi.useFakeTimers({ toFake: ["Date"] });
        advance(2000);
        await site.ask({ cookie });
        const after = new Date((await get(store, sid))?.cookie.expires as Date).getTime();
        expect(after - before).toEqual(near(2000));
        expect(after - before).toBeGreaterThan(1900);
      });

      it("is in the store as it was sent", async () => {
        const site = await start(bob);
        const { sid, expires } = await site.ask();
        const stored = new Date((await get(store, sid))?.cookie.expires as Date);
        expect(Math.abs(stored.getTime() - Date.parse(String(expires)))).toBeLessThan(1100);
      });

      it("whose date is invalid is reported, and the session saved", async () => {
        const site = await start(bob, { cookie: { expires: new Date(Number.NaN) } });
        await site.ask();
        await expect.poll(() => site.errors).toMatchObject([{ message: "option expires is invalid" }]);
        expect(await length(store)).toBe(1);
      });

      it("that has expired ends the session", async () => {
        const site = await cookieSite((cookie) => {
          cookie.maxAge = 0;
        });
        const { cookie, sid } = await site.ask();
        await site.ask({ cookie, path: "/do" });
        await expect.poll(() => get(store, sid)).toBeFalsy();
        expect((await site.ask({ cookie })).sid).not.toBe(sid);
      });
    });

    describe("the store on its own", () => {
      const SID = "an id that a test has made";

      it("is a Store", () => {
        expect(store).toBeInstanceOf(Store);
      });

      it("keeps plain data", async () => {
        await set(store, SID, dataOf({ a: 1, deep: { list: [1, "two", null] } }));
        expect(await get(store, SID)).toMatchObject({ a: 1, deep: { list: [1, "two", null] } });
        expect(await length(store)).toBe(1);
      });

      it("replaces plain data by plain data", async () => {
        await set(store, SID, dataOf({ a: 1 }));
        await set(store, SID, dataOf({ b: 2 }));
        const found = await get(store, SID);
        expect(found).toMatchObject({ b: 2 });
        expect(found).not.toHaveProperty("a");
        expect(await length(store)).toBe(1);
      });

      it("takes data with the least of a cookie, and with none", async () => {
        await set(store, SID, { cookie: { maxAge: 2000 }, a: 1 });
        expect(await get(store, SID)).toMatchObject({ a: 1, cookie: { maxAge: 2000 } });
        await set(store, SID, { cookie: {} });
        expect(await get(store, SID)).toMatchObject({ cookie: {} });
        await set(store, SID, { a: 2 });
        expect(await get(store, SID)).toEqual({ a: 2 });
      });

      it("takes what it has returned", async () => {
        await set(store, SID, dataOf({ a: 1 }));
        await set(store, SID, { ...(await get(store, SID)), a: 2 });
        const read = await get(store, SID);
        await set(store, SID, Object.assign(read as object, { a: 3 }));
        expect(await get(store, SID)).toMatchObject({ a: 3 });
      });

      it("returns objects of its own", async () => {
        const data = dataOf({ deep: { a: 1 } });
        await set(store, SID, data);
        (data as unknown as { deep: Loose }).deep["a"] = 2;
        expect(await get(store, SID)).toMatchObject({ deep: { a: 1 } });
        Object.assign((await get(store, SID)) as object, { deep: null });
        expect(await get(store, SID)).toMatchObject({ deep: { a: 1 } });
      });

      it("has nothing under other ids", async () => {
        expect(await get(store, SID)).toBeFalsy();
        await touch(store, SID, dataOf());
        await destroy(store, SID);
        expect(await get(store, SID)).toBeFalsy();
        expect(await length(store)).toBe(0);
        expect(await all(store)).toEqual({});
      });

      it("keeps no data that has expired", async () => {
        await set(store, SID, dataOf({}, -1000));
        expect(await get(store, SID)).toBeFalsy();
        await set(store, SID, dataOf({}, 60_000));
        await set(store, SID, dataOf({}, -1000));
        expect(await get(store, SID)).toBeFalsy();
      });

      it("lists, counts, destroys and clears", async () => {
        for (const n of [1, 2, 3]) await set(store, `${SID} ${n}`, dataOf({ n }));
        const found = (await all(store)) as unknown as Record<string, Loose>;
        expect(
          Object.values(found)
            .map((session) => session["n"])
            .sort(),
        ).toEqual([1, 2, 3]);
        expect(Array.isArray(found)).toBe(false);
        await destroy(store, `${SID} 2`);
        expect(await length(store)).toBe(2);
        await clear(store);
        expect(await length(store)).toBe(0);
      });

      it("calls back later, and needs no callback", async () => {
        let isLater = false;
        const calls: unknown[] = [];
        const note = (...call: unknown[]) => calls.push([isLater, call.length === 0 ? undefined : call[0]]);
        store.set(SID, dataOf(), note);
        store.touch?.(SID, dataOf(), note);
        store.get(SID, note);
        store.all?.(note);
        store.length?.(note);
        store.destroy(SID, note);
        store.clear?.(note);
        isLater = true;
        await expect.poll(() => calls.length).toBe(7);
        for (const [later, error] of calls as [boolean, unknown][])
          expect([later, error ?? null]).toEqual([true, null]);
        store.set(SID, dataOf({ a: 1 }));
        await expect.poll(() => get(store, SID)).toMatchObject({ a: 1 });
        store.touch?.(SID, dataOf());
        store.destroy(SID);
        store.clear?.();
        await expect.poll(() => length(store)).toBe(0);
      });

      it("lets an exception of a callback through to the process", async () => {
        const listeners = process.rawListeners("uncaughtException");
        process.removeAllListeners("uncaughtException");
        const thrown = once(process, "uncaughtException");
        store.get(SID, () => {
          throw new Error("in the callback");
        });
        const [error] = await thrown;
        for (const listener of listeners) process.on("uncaughtException", listener as () => void);
        expect(error).toMatchObject({ message: "in the callback" });
      });
    });
  });
}
