/**
 * What @fastify/session promises of a session and its cookie, as far as a store has a part in it. It runs with its own `MemoryStore` as the control.
 */
import assert from "node:assert/strict";
import fastifyCookie, { sign } from "@fastify/cookie";
import type { FastifySessionOptions } from "@fastify/session";
import Fastify, { type FastifyInstance, type FastifyRequest, type Session } from "fastify";
import { afterEach, beforeEach, describe, it, vi } from "vitest";

declare module "fastify" {
  interface Session {
    note?: string;
    count?: number;
    nested?: { list: number[] };
  }
}

const SECRET = "cNaoPYAwF60HZJzkcNaoPYAwF60HZJzk";
const ID = "Qk_XT2K7-clT-x1tVvoY6tIQ83iP72KN";
const HTTPS = { "x-forwarded-proto": "https" };
const PLAIN = { secure: false } as const;

type Options = Omit<FastifySessionOptions, "store" | "secret"> & Partial<Pick<FastifySessionOptions, "secret">>;

/** A store in use, empty. */
export interface StoreInUse {
  /** Registers @fastify/session with it. */
  register(app: FastifyInstance, options: Omit<FastifySessionOptions, "store">): Promise<unknown>;
  stop(): Promise<void>;
}

type Route = (request: FastifyRequest) => unknown;

export function sessionPluginSuite(name: string, open: () => Promise<StoreInUse>): void {
  describe(name, () => {
    let store: StoreInUse;
    let app: FastifyInstance;
    beforeEach(async () => {
      store = await open();
      app = Fastify({ trustProxy: true });
      await app.register(fastifyCookie);
    });
    afterEach(async () => {
      vi.restoreAllMocks();
      await app.close();
      await store.stop();
    });

    /** Registers the plugin and some routes; `first` goes before the plugin. */
    async function serve(
      routes: Record<string, Route>,
      options: Options = {},
      first?: (request: FastifyRequest) => Promise<void>,
    ) {
      if (first !== undefined) app.addHook("onRequest", first);
      await store.register(app, { secret: SECRET, ...options });
      for (const [path, route] of Object.entries(routes))
        app.all(path, async (request) => (await route(request)) ?? "");
    }

    /** @returns What a browser gets for its cookie, which `""` is none. */
    async function ask(url: string, cookie = "", headers: Record<string, string> = HTTPS) {
      const response = await app.inject({ url, headers: { ...headers, ...(cookie !== "" && { cookie }) } });
      const header = response.headers["set-cookie"];
      assert.ok(header === undefined || typeof header === "string");
      return { status: response.statusCode, body: response.body, header, cookie: header?.split(";")[0] ?? cookie };
    }

    /** Puts a session there by hand, before the plugin looks for it. */
    const given =
      (data: object, sid = ID) =>
      (request: FastifyRequest) =>
        new Promise<void>((resolve, reject) =>
          request.sessionStore.set(sid, data as Session, (error) => (error ? reject(error) : resolve())),
        );
    const signed = (sid = ID, secret = SECRET) => `sessionId=${encodeURIComponent(sign(sid, secret))}`;
    const sidOf = (cookie: string) => decodeURIComponent(cookie).replace(/^[^=]*=(?:s:)?([^.]*).*$/, "$1");
    const expiryOf = (header: string | undefined) => Date.parse(/Expires=([^;]*)/.exec(header ?? "")?.[1] ?? "");

    const note: Record<string, Route> = {
      "/write": ({ session }) => {
        session.note = "kept";
      },
      "/read": ({ session }) => session.note ?? "none",
      "/id": ({ session }) => session.sessionId,
    };

    describe("a session", () => {
      it("is kept from request to request", async () => {
        await serve(note);
        const { cookie, status } = await ask("/write");
        assert.equal(status, 200);
        assert.equal((await ask("/read", cookie)).body, "kept");
        assert.equal((await ask("/id", cookie)).body, sidOf(cookie));
        assert.equal((await ask("/read")).body, "none");
      });

      it("keeps changes inside of what it holds", async () => {
        await serve({
          "/": ({ session }) => {
            session.nested ??= { list: [] };
            session.nested.list.push(session.nested.list.length);
            return session.nested.list;
          },
        });
        const { cookie } = await ask("/");
        await ask("/", cookie);
        assert.equal((await ask("/", cookie)).body, "[0,1,2]");
      });

      it("loses what is deleted from it", async () => {
        await serve({ ...note, "/delete": ({ session }) => void delete session.note });
        const { cookie } = await ask("/write");
        await ask("/delete", cookie);
        assert.equal((await ask("/read", cookie)).body, "none");
      });

      it("is one of many", async () => {
        await serve({
          "/": ({ session }) => {
            session.count = (session.count ?? 0) + 1;
            return session.count;
          },
        });
        const browsers = await Promise.all(Array.from({ length: 8 }, () => ask("/")));
        assert.equal(new Set(browsers.map(({ cookie }) => cookie)).size, 8);
        const [first, ...others] = browsers;
        await ask("/", first?.cookie);
        assert.equal((await ask("/", first?.cookie)).body, "3");
        for (const { cookie } of others) assert.equal((await ask("/", cookie)).body, "2");
      });

      it("that is not in the store is a new one under a new id", async () => {
        await serve(note);
        const { cookie, status } = await ask("/write", signed());
        assert.equal(status, 200);
        assert.notEqual(sidOf(cookie), ID);
      });

      it("that was put into the store by hand is found, by the cookie alone", async () => {
        await serve(note, {}, given({ note: "by hand", cookie: {} }));
        assert.equal((await ask("/read", signed())).body, "by hand");
        assert.equal((await ask("/read", `sessionId=${ID}.badinvalidsignature`)).body, "none");
        assert.equal((await ask("/read")).body, "none");
      });

      it("without a cookie of its own is found too", async () => {
        await serve(note, { cookieName: "connect.sid", cookiePrefix: "s:" }, given({ note: "by hand" }));
        const cookie = `connect.sid=${encodeURIComponent(`s:${sign(ID, SECRET)}`)}`;
        const answer = await ask("/read", cookie);
        assert.equal(answer.body, "by hand");
        assert.match(answer.header ?? "", /^connect\.sid=s(:|%3A)/);
      });

      it("is found with each of several secrets, and gets a cookie under the first", async () => {
        await serve(note, { secret: ["the new one", SECRET] }, given({ note: "by hand", cookie: {} }));
        const { body, cookie } = await ask("/read", signed());
        assert.equal(body, "by hand");
        assert.equal(decodeURIComponent(cookie), decodeURIComponent(signed(ID, "the new one")));
      });
    });

    describe("saving", () => {
      it("is done by hand too, with a callback or a promise", async () => {
        await serve({
          ...note,
          "/": async ({ session }) => {
            session.note = "one";
            assert.equal(session.isModified(), true);
            assert.equal(session.isSaved(), false);
            await session.save();
            assert.equal(session.isModified(), false);
            assert.equal(session.isSaved(), true);
            session.note = "two";
            await new Promise<void>((resolve, reject) => session.save((error) => (error ? reject(error) : resolve())));
          },
        });
        const { cookie, status } = await ask("/");
        assert.equal(status, 200);
        assert.equal((await ask("/read", cookie)).body, "two");
      });

      it("does not happen with saveUninitialized: false as long as nothing is in the session", async () => {
        await serve(note, { saveUninitialized: false });
        assert.equal((await ask("/read")).header, undefined);
        const { cookie } = await ask("/write");
        assert.equal((await ask("/read", cookie)).body, "kept");
      });

      it("does not happen over an insecure connection with a secure cookie", async () => {
        await serve(note);
        assert.equal((await ask("/write", "", {})).header, undefined);
      });

      it("happens at each request with rolling: true, and only after a change with rolling: false", async () => {
        for (const rolling of [true, false]) {
          app = Fastify({ trustProxy: true });
          await app.register(fastifyCookie);
          await serve(note, { rolling, saveUninitialized: false });
          const { cookie } = await ask("/write");
          assert.equal((await ask("/read", cookie)).header !== undefined, rolling);
          assert.equal((await ask("/write", cookie)).header !== undefined, rolling);
          assert.equal((await ask("/read", cookie)).body, "kept");
        }
      });

      it("of a change is kept with rolling: false and a cookie without an end", async () => {
        await serve(
          {
            "/first": ({ session }) => void session.set("note", "bar"),
            "/second": ({ session }) => {
              assert.equal(session.get("note"), "bar");
              assert.equal(session.cookie.expires, null);
              session.set("note", "baz");
            },
            "/third": ({ session }) => session.get("note"),
          },
          { rolling: false, cookie: PLAIN },
        );
        const { cookie } = await ask("/first");
        assert.equal((await ask("/second", cookie)).status, 200);
        assert.equal((await ask("/third", cookie)).body, "baz");
      });
    });

    describe("destroying", () => {
      it("ends the session, with a callback or a promise", async () => {
        await serve({
          ...note,
          "/promise": async (request) => {
            await request.session.destroy();
            assert.equal(request.session, null);
          },
          "/callback": (request) =>
            new Promise<void>((resolve, reject) =>
              request.session.destroy((error) => {
                assert.equal(request.session, null);
                error ? reject(error) : resolve();
              }),
            ),
        });
        for (const path of ["/promise", "/callback"]) {
          const { cookie } = await ask("/write");
          assert.equal((await ask(path, cookie)).status, 200);
          assert.equal((await ask("/read", cookie)).body, "none");
        }
      });

      it("a session that was never saved does nothing", async () => {
        await serve({ "/": ({ session }) => session.destroy() });
        assert.equal((await ask("/")).status, 200);
      });
    });

    describe("regenerating", () => {
      it("moves on to a new id, keeps the fields that are asked for, and ends the old session", async () => {
        await serve({
          ...note,
          "/keep": async ({ session }) => {
            session.count = 5;
            await session.regenerate(["note"]);
          },
          "/bare": (request) =>
            new Promise<void>((resolve, reject) =>
              request.session.regenerate((error) => (error ? reject(error) : resolve())),
            ),
          "/count": ({ session }) => session.count ?? "none",
        });
        const { cookie: first } = await ask("/write");
        const { cookie: second } = await ask("/keep", first);
        assert.notEqual(sidOf(second), sidOf(first));
        assert.equal((await ask("/read", second)).body, "kept");
        assert.equal((await ask("/count", second)).body, "none");
        assert.equal((await ask("/read", first)).body, "none");
        const { cookie: third } = await ask("/bare", second);
        assert.notEqual(sidOf(third), sidOf(second));
        assert.equal((await ask("/read", third)).body, "none");
        assert.equal((await ask("/read", second)).body, "none");
      });

      it("what is written afterwards is kept under the new id", async () => {
        await serve({
          ...note,
          "/login": async (request) => {
            await request.session.regenerate();
            request.session.note = "logged in";
          },
        });
        const { cookie: first } = await ask("/write");
        const { cookie } = await ask("/login", first);
        assert.equal((await ask("/read", cookie)).body, "logged in");
      });

      it("asks the application's generator for the id, with the request", async () => {
        let ids = 0;
        await serve(
          {
            "/": ({ session }) => session.sessionId,
            "/again": (request) => request.session.regenerate().then(() => request.session.sessionId),
          },
          { idGenerator: (request) => `generated-for-${request?.url.slice(1)}-${ids++}-0123456789` },
        );
        const { body, cookie } = await ask("/");
        assert.equal(body, "generated-for--0-0123456789");
        assert.equal((await ask("/again", cookie)).body, "generated-for-again-1-0123456789");
      });

      it("keeps the cookie options of the session", async () => {
        await serve(
          {
            "/options": ({ session }) => session.options({ maxAge: 3_600_000 }),
            "/again": ({ session }) => session.regenerate(),
          },
          { cookie: { maxAge: 60_000 } },
        );
        const { cookie } = await ask("/options");
        const { header } = await ask("/again", cookie);
        assert.ok(Math.abs(expiryOf(header) - Date.now() - 3_600_000) < 10_000, header);
      });
    });

    describe("reloading", () => {
      it("brings back what the store holds", async () => {
        await serve({
          ...note,
          "/": async (request) => {
            request.session.note = "changed";
            await request.session.reload();
            return request.session.note;
          },
          "/callback": (request) =>
            new Promise((resolve, reject) => {
              request.session.note = "changed";
              request.session.reload((error) => (error ? reject(error) : resolve(request.session.note)));
            }),
        });
        const { cookie } = await ask("/write");
        assert.equal((await ask("/", cookie)).body, "kept");
        assert.equal((await ask("/callback", cookie)).body, "kept");
        assert.equal((await ask("/read", cookie)).body, "kept");
      });

      it("a session that was never saved gives an empty one, with no error, and it can be saved", async () => {
        await serve({
          ...note,
          "/": async (request) => {
            request.session.note = "lost";
            await new Promise<void>((resolve) =>
              request.session.reload((error) => {
                assert.equal(error, null);
                resolve();
              }),
            );
            assert.equal(request.session.note, undefined);
            request.session.note = "after";
          },
        });
        const { cookie, status } = await ask("/");
        assert.equal(status, 200);
        assert.equal((await ask("/read", cookie)).body, "after");
      });

      it("after a save by hand gives the same", async () => {
        await serve({
          "/": async (request) => {
            request.session.note = "saved";
            await request.session.save();
            await request.session.reload();
            return request.session.note;
          },
        });
        const { cookie, body, status } = await ask("/");
        assert.deepEqual([status, body], [200, "saved"]);
        assert.equal((await ask("/", cookie)).body, "saved");
      });
    });

    describe("expiry", () => {
      it("a session whose end is over is a new one under a new id", async () => {
        for (const cookie of [
          { expires: new Date(Date.now() - 1000) },
          { originalMaxAge: 1000, expires: new Date(Date.now() - 1000) },
        ]) {
          app = Fastify({ trustProxy: true });
          await app.register(fastifyCookie);
          await serve(note, {}, given({ note: "old", cookie }));
          const answer = await ask("/read", signed());
          assert.equal(answer.status, 200);
          assert.equal(answer.body, "none");
          assert.notEqual(sidOf(answer.cookie), ID);
        }
      });

      it("the cookie's maxAge counts from each request, and the session's own one is kept", async () => {
        const now = Date.now();
        vi.spyOn(Date, "now").mockReturnValue(now);
        await serve(
          { ...note, "/life": ({ session }) => `${session.cookie.originalMaxAge}` },
          { cookie: { maxAge: 600_000 } },
          given({ cookie: { originalMaxAge: 60_000, expires: new Date(now + 60_000) } }),
        );
        const { header } = await ask("/read", signed());
        assert.equal(expiryOf(header), Math.floor((now + 60_000) / 1000) * 1000);
        assert.equal((await ask("/life", signed())).body, "60000");
        const { cookie, header: fresh } = await ask("/write");
        assert.equal(expiryOf(fresh), Math.floor((now + 600_000) / 1000) * 1000);
        vi.spyOn(Date, "now").mockReturnValue(now + 5000);
        const { header: later, body } = await ask("/read", cookie);
        assert.equal(body, "kept");
        assert.equal(expiryOf(later), Math.floor((now + 605_000) / 1000) * 1000);
      });

      it("a cookie without an end stays without one, and touch() changes nothing of it", async () => {
        await serve(
          {
            "/": ({ session }) => {
              session.touch();
              return { expires: session.cookie.expires };
            },
          },
          { rolling: false },
        );
        const first = await ask("/");
        assert.equal(first.body, '{"expires":null}');
        assert.equal((await ask("/", first.cookie)).body, '{"expires":null}');
        assert.doesNotMatch(first.header ?? "", /Expires/);
      });

      it("touch() moves the end also with rolling: false", async () => {
        const now = Date.now();
        vi.spyOn(Date, "now").mockReturnValue(now);
        const touch: Route = ({ session }) => {
          session.touch();
          return session.cookie.expires?.getTime();
        };
        await serve({ "/": touch }, { rolling: false, cookie: { maxAge: 60_000 } });
        const { body, cookie } = await ask("/");
        assert.equal(body, `${now + 60_000}`);
        vi.spyOn(Date, "now").mockReturnValue(now + 7);
        assert.equal((await ask("/", cookie)).body, `${now + 60_007}`);
      });

      it("options() of one session are kept for it, and are not those of others", async () => {
        await serve(
          {
            ...note,
            "/options": ({ session }) => {
              session.note = "mine";
              session.options({ httpOnly: false, maxAge: 3_600_000 });
            },
          },
          { cookie: { maxAge: 60_000, path: "/" } },
        );
        const { cookie, header } = await ask("/options");
        assert.doesNotMatch(header ?? "", /HttpOnly/);
        const { header: again, body } = await ask("/read", cookie);
        assert.equal(body, "mine");
        assert.doesNotMatch(again ?? "", /HttpOnly/);
        assert.ok(Math.abs(expiryOf(again) - Date.now() - 3_600_000) < 10_000);
        assert.match((await ask("/write")).header ?? "", /HttpOnly/);
      });
    });

    describe("the cookie", () => {
      const ATTRIBUTES: [Options["cookie"], RegExp, Record<string, string>?][] = [
        [{}, /; Path=\/; HttpOnly; Secure$/],
        [{ secure: false }, /; Path=\/; HttpOnly$/],
        [{ httpOnly: false }, /; Path=\/; Secure$/],
        [{ sameSite: "strict" }, /; SameSite=Strict$/],
        [{ domain: "example.test" }, /; Domain=example\.test; Path=\//],
        [{ path: "/look" }, /; Path=\/look; HttpOnly; Secure$/],
        [{ partitioned: true }, /; Partitioned/],
        [{ maxAge: 60_000 }, /; Path=\/; Expires=[^;]* GMT; HttpOnly; Secure$/],
        [{ expires: new Date(Date.UTC(2099, 0)) }, /; Expires=Thu, 01 Jan 2099 00:00:00 GMT; HttpOnly; Secure$/],
        [{ maxAge: 60_000, expires: new Date(0) }, /; Expires=\w+, \d+ \w+ 20[^;]* GMT; HttpOnly; Secure$/],
        [{ secure: "auto" }, /; Path=\/; HttpOnly; Secure$/],
        [{ secure: "auto", sameSite: "none" }, /; HttpOnly; SameSite=Lax$/, {}],
        [{ secure: "auto", sameSite: "none" }, /; HttpOnly; Secure; SameSite=None$/],
      ];

      it.each(ATTRIBUTES)(
        "has the attributes of %o, also when the session comes from the store",
        async (cookie, expected, headers = HTTPS) => {
          await serve({ "/look": ({ session }) => session.sessionId }, { ...(cookie && { cookie }) });
          const first = await ask("/look", "", headers);
          assert.match(first.header ?? "", expected);
          const second = await ask("/look", first.cookie, headers);
          assert.equal(second.body, sidOf(first.cookie));
          assert.match(second.header ?? "", expected);
        },
      );

      it("is only set under its path", async () => {
        await serve(
          { "/path/x": () => "", "/path": () => "", "/": () => "", "/pathological": () => "" },
          { cookie: { path: "/path" } },
        );
        for (const [url, isSet] of [
          ["/path", true],
          ["/path/x", true],
          ["/path?q=1", true],
          ["/", false],
          ["/pathological", false],
        ] as const) {
          assert.equal((await ask(url)).header !== undefined, isSet, url);
        }
      });

      it("is cleared when there is no session behind it and nothing to save", async () => {
        await serve(note, { cookie: { domain: "example.test" } });
        const { header } = await ask("/read", signed(), {});
        assert.match(header ?? "", /^sessionId=; Max-Age=0; Domain=example\.test; Path=\/; Expires=Thu, 01 Jan 1970/);
        assert.equal((await ask("/read", "other=1", {})).header, undefined);
      });
    });

    describe("outside of requests", () => {
      async function decrypted(cookieOptions: object, sid = ID) {
        const request = {} as FastifyRequest;
        await new Promise<void>((resolve, reject) =>
          app.decryptSession(sign(sid, SECRET), request, cookieOptions, (error) => (error ? reject(error) : resolve())),
        );
        return request.session;
      }

      it("decryptSession finds a session, which can be saved", async () => {
        await serve(
          note,
          {},
          given({ note: "by hand", cookie: { secure: true, path: "/", expires: new Date(Date.now() + 60_000) } }),
        );
        await ask("/read");
        const session = await decrypted({});
        assert.deepEqual([session.note, session.sessionId, session.cookie.originalMaxAge], ["by hand", ID, null]);
        session.note = "changed";
        await session.save();
        assert.equal((await decrypted({})).note, "changed");
        await session.destroy();
        assert.notEqual((await decrypted({})).sessionId, ID);
      });

      it("decryptSession makes a new one where there is none, with the cookie options that are given", async () => {
        await serve(note);
        await app.ready();
        const session = await decrypted({ maxAge: 86_400 });
        assert.notEqual(session.sessionId, ID);
        assert.equal(session.cookie.originalMaxAge, 86_400);
        await session.save();
        assert.equal((await decrypted({}, session.sessionId)).sessionId, session.sessionId);
      });
    });
  });
}
