import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import fastifyCookie, { sign } from "@fastify/cookie";
import { createSessionId, storedIdOf } from "@sealed-session/core";
import Fastify from "fastify";
import { afterEach, describe, expect, it, vi } from "vitest";
import sealedSessionAsDefault, { type SealedSessionOptions, sealedSession } from "../src/index.js";
import { appOver, Browser, type Deployment, deploy, MINUTE_MS, SECRET } from "./deployment.js";
import { collectEventTypes } from "./events.js";

const DAY_MS = 86_400_000;
const START = Date.UTC(2026, 0, 1);

const events = collectEventTypes();
afterEach(() => void vi.restoreAllMocks());

function at(ms: number): void {
  vi.spyOn(Date, "now").mockReturnValue(START + ms);
}

/** A shop: `/visit` changes the session, `/look` does not. */
async function shop(deployment: Deployment, options: Partial<SealedSessionOptions> = {}) {
  const app = await appOver(deployment, options);
  app.get("/visit", async ({ session }) => {
    session.visits = (session.visits ?? 0) + 1;
    return session.visits;
  });
  app.get("/look", async ({ session }) => session.visits ?? 0);
  app.post("/login", async (request) => {
    await request.session.regenerate();
    request.session.user = (request.body as { user: string }).user;
    return request.session.user;
  });
  app.post("/logout", async (request) => {
    await request.session.destroy();
    return "bye";
  });
  app.get("/me", async ({ session }) => session.user ?? "nobody");
  return app;
}

async function ttlMsOf({ envelopes }: Deployment, sid: string): Promise<number | undefined> {
  return envelopes.ttlMs(storedIdOf(sid) ?? "");
}

describe("the plugin", () => {
  it("keeps a session from request to request, sealed under a digest of an id with 256 bits", async () => {
    const deployment = deploy();
    const browser = new Browser(await shop(deployment));
    expect((await browser.ask("/login", "POST", { user: "ada-lovelace" })).status).toBe(200);
    expect((await browser.ask("/me")).body).toBe("ada-lovelace");
    expect(Buffer.from(browser.sid, "base64url")).toHaveLength(32);

    const stored: string[] = [];
    for await (const storedId of deployment.envelopes.scan()) stored.push(storedId);
    expect(stored).toEqual([storedIdOf(browser.sid)]);
    const envelope = Buffer.from((await deployment.envelopes.get(stored[0] ?? "")) ?? "");
    expect(envelope.length).toBeGreaterThan(0);
    expect(envelope.includes("ada")).toBe(false);
    expect((await deployment.sessions.get(browser.sid))?.user).toBe("ada-lovelace");
  });

  it("is the default export too, and registers @fastify/cookie unless the application has", async () => {
    expect(sealedSessionAsDefault).toBe(sealedSession);
    const own = Fastify();
    await own.register(fastifyCookie, { secret: "of the application" });
    await own.register(sealedSession, { sessions: deploy().sessions, secret: SECRET });
    expect(own.unsignCookie(sign("x", "of the application")).valid).toBe(true);

    const bare = Fastify();
    await bare.register(sealedSession, { sessions: deploy().sessions, secret: SECRET });
    expect(bare.hasPlugin("@fastify/cookie")).toBe(true);
    expect(bare.hasPlugin("@sealed-session/fastify")).toBe(true);
    expect(bare.hasPlugin("@fastify/session")).toBe(true);
  });

  it("serves the whole application, and leaves the options as they were", async () => {
    const cookie = { path: "/" };
    const app = Fastify();
    await app.register(async (child) => {
      child.register(sealedSession, { sessions: deploy().sessions, secret: SECRET, cookie });
      child.get("/inside", async ({ session }) => typeof session.sessionId);
    });
    expect((await app.inject("/inside")).body).toBe("string");
    expect(cookie).toEqual({ path: "/" });
  });

  it.each([
    [{ store: {} }, TypeError],
    [{ sessions: {} }, TypeError],
    [{ expiry: "never" }, RangeError],
    [{ onConflict: "retry" }, RangeError],
    [{ onTampered: "log" }, RangeError],
    [{ secret: "short" }, Error],
  ])("refuses %o when the application starts", async (wrong, kind) => {
    await expect(appOver(deploy(), wrong as Partial<SealedSessionOptions>)).rejects.toBeInstanceOf(kind);
  });

  it("passes errors of the store on", async () => {
    const deployment = deploy();
    const browser = new Browser(await shop(deployment));
    await browser.ask("/visit");
    deployment.before["get"] = () => Promise.reject(new Error("no server"));
    expect(await browser.ask("/look")).toMatchObject({ status: 500, body: expect.stringContaining("no server") });
    delete deployment.before["get"];
    deployment.before["set"] = () => Promise.reject(new Error("disk full"));
    expect(await browser.ask("/visit")).toMatchObject({ status: 500, body: expect.stringContaining("disk full") });
  });

  it("never lets ENOENT out, which @fastify/session takes for a session that is not there", async () => {
    const deployment = deploy();
    const browser = new Browser(await shop(deployment));
    await browser.ask("/visit");
    const { sid } = browser;
    deployment.before["get"] = () => Promise.reject(Object.assign(new Error("key file"), { code: "ENOENT" }));
    expect(await browser.ask("/look")).toMatchObject({
      status: 500,
      body: expect.stringContaining("STORE_UNAVAILABLE"),
    });
    expect(browser.sid).toBe(sid);
  });

  it("says where a session holds what cannot be sealed", async () => {
    const app = await appOver(deploy());
    app.get("/", async ({ session }) => {
      session.cart = { items: [(() => {}) as unknown as string] };
      return "";
    });
    const { status, body } = await new Browser(app).ask("/");
    expect(status).toBe(500);
    expect(JSON.parse(body)).toMatchObject({
      code: "VALUE_UNSUPPORTED",
      message: expect.stringContaining("cart.items[0]"),
    });
  });

  it("stores no more than the application's data and the attributes of the cookie that are set", async () => {
    const deployment = deploy();
    const browser = new Browser(await shop(deployment, { cookie: { secure: false, maxAge: MINUTE_MS } }));
    await browser.ask("/visit");
    await browser.ask("/visit");
    const stored = await deployment.sessions.get(browser.sid);
    expect(stored).toStrictEqual({
      visits: 2,
      cookie: {
        expires: expect.any(Date),
        originalMaxAge: MINUTE_MS,
        sameSite: null,
        secure: false,
        path: "/",
        httpOnly: true,
        domain: null,
      },
    });
  });

  it("binds sessions to the client's id where the session store does", async () => {
    const deployment = deploy({ clientBound: true });
    const browser = new Browser(await shop(deployment));
    await browser.ask("/visit");
    expect((await browser.ask("/visit")).body).toBe("2");
    expect((await browser.ask("/look")).body).toBe("2");
    await browser.ask("/logout", "POST");
    expect((await browser.ask("/look")).body).toBe("0");
  });
});

describe("what a request costs", () => {
  const cookieOf24h = { secure: false, maxAge: DAY_MS };

  it.each([
    ["cookie", ["get", "touch"], ["get", "set present"]],
    ["idle", ["get slide"], ["get slide", "set present"]],
  ] as const)("in %s mode: %j when nothing changes, %j when something does", async (expiry, unmodified, modified) => {
    const deployment = deploy();
    const browser = new Browser(await shop(deployment, { expiry, cookie: cookieOf24h }));
    await browser.ask("/visit");
    expect(deployment.calls()).toEqual(["set absent"]);
    await browser.ask("/look");
    await browser.ask("/look");
    expect(deployment.calls()).toEqual([...unmodified, ...unmodified]);
    await browser.ask("/visit");
    expect(deployment.calls()).toEqual(modified);
    expect((await browser.ask("/look")).body).toBe("2");
  });

  it.each([
    ["cookie", ["get", "get slide"]],
    ["idle", ["get slide"]],
  ] as const)(
    "in %s mode: the same where the cookie has no end, and the idle time of the session store",
    async (expiry, cost) => {
      const deployment = deploy({ idleSeconds: 600 });
      const browser = new Browser(await shop(deployment, { expiry, cookie: { secure: false } }));
      at(0);
      await browser.ask("/visit");
      deployment.calls();
      at(MINUTE_MS);
      await browser.ask("/look");
      expect(deployment.calls()).toEqual(cost);
      expect(await ttlMsOf(deployment, browser.sid)).toBe(600_000);
    },
  );

  it("a session that was saved by hand is not saved again at the end of the request", async () => {
    for (const expiry of ["cookie", "idle"] as const) {
      const deployment = deploy();
      const app = await appOver(deployment, { expiry });
      app.get("/", async ({ session }) => {
        session.visits = (session.visits ?? 0) + 1;
        await session.save();
        return session.visits;
      });
      const browser = new Browser(app);
      await browser.ask("/");
      expect(deployment.calls()).toEqual(["set absent"]);
      expect((await browser.ask("/")).body).toBe("2");
      expect(deployment.calls()).toEqual([expiry === "idle" ? "get slide" : "get", "set present"]);
    }
  });

  it("a save that nobody waited for and the one at the end of the request do not meet", async () => {
    const deployment = deploy();
    const app = await appOver(deployment);
    app.get("/", (request, reply) => {
      request.session.visits = 1;
      request.session.save(() => {});
      request.session.visits = 2;
      reply.send("");
    });
    const browser = new Browser(app);
    expect((await browser.ask("/")).status).toBe(200);
    expect(deployment.calls()).toEqual(["set absent", "set present"]);
    expect((await deployment.sessions.get(browser.sid))?.visits).toBe(2);
  });
});

describe("changes that JSON does not show", () => {
  const CHANGES: Record<string, (session: import("fastify").Session) => void> = {
    "in a Set": ({ seen }) => void seen?.add("new"),
    "in a Map": ({ prices }) => void prices?.set("tea", 2),
    "in a typed array": ({ bytes }) => void bytes?.fill(9),
    "of a BigInt": (session) => {
      session.big = 2n ** 70n;
    },
    "deep inside": ({ cart }) => void cart?.items.push("tea"),
  };

  for (const rolling of [true, false]) {
    it.each(Object.keys(CHANGES))(`are saved with rolling: ${rolling}: %s`, async (name) => {
      const deployment = deploy();
      const app = await appOver(deployment, { rolling, saveUninitialized: false });
      app.get("/begin", async ({ session }) => {
        Object.assign(session, {
          seen: new Set(),
          prices: new Map(),
          bytes: new Uint8Array(4),
          big: 1n,
          cart: { items: [] },
        });
        return "";
      });
      app.get("/change", async ({ session }) => {
        CHANGES[name]?.(session);
        return "";
      });
      app.get("/look", async () => "");
      const browser = new Browser(app);
      await browser.ask("/begin");
      const expected = await deployment.sessions.get(browser.sid);
      deployment.calls();
      await browser.ask("/look");
      expect(deployment.calls()).toEqual(rolling ? ["get", "touch"] : ["get"]);
      if (expected !== undefined) CHANGES[name]?.(expected);
      await browser.ask("/change");
      expect(deployment.calls()).toEqual(["get", "set present"]);
      const { cookie: _, ...stored } = (await deployment.sessions.get(browser.sid)) ?? {};
      const { cookie: __, ...wanted } = expected ?? {};
      expect(stored).toEqual(wanted);
    });
  }

  it("are seen after a reload too", async () => {
    const deployment = deploy();
    const app = await appOver(deployment, { rolling: false, saveUninitialized: false });
    app.get("/begin", async ({ session }) => {
      session.seen = new Set();
      return "";
    });
    app.get("/change", async (request) => {
      await request.session.reload();
      request.session.seen?.add("x");
      return "";
    });
    const browser = new Browser(app);
    await browser.ask("/begin");
    await browser.ask("/change");
    expect((await deployment.sessions.get(browser.sid))?.seen).toEqual(new Set(["x"]));
  });

  it("begin a session that holds nothing but a BigInt, and an untouched one is not stored", async () => {
    const deployment = deploy();
    const app = await appOver(deployment, { saveUninitialized: false });
    app.get("/big", async ({ session }) => {
      session.big = 5n;
      return "";
    });
    app.get("/nothing", async () => "");
    const browser = new Browser(app);
    await browser.ask("/nothing");
    expect(deployment.calls()).toEqual([]);
    expect(browser.cookie).toBeUndefined();
    await browser.ask("/big");
    expect((await deployment.sessions.get(browser.sid))?.big).toBe(5n);
  });
});

describe("how long a session lives", () => {
  it("as long as its own cookie, so that a long one beside a short one is never cut", async () => {
    at(0);
    const deployment = deploy({ idleSeconds: 60 });
    const app = await shop(deployment, { cookie: { secure: false, maxAge: DAY_MS } });
    app.get("/remember", async ({ session }) => {
      session.options({ maxAge: 30 * DAY_MS });
      return "";
    });
    const [short, long] = [new Browser(app), new Browser(app)];
    await short.ask("/visit");
    await long.ask("/visit");
    await long.ask("/remember");
    expect(await ttlMsOf(deployment, short.sid)).toBe(DAY_MS);
    expect(await ttlMsOf(deployment, long.sid)).toBe(30 * DAY_MS);
    at(1234);
    deployment.calls();
    await short.ask("/look");
    await long.ask("/look");
    expect(deployment.calls()).toEqual(["get", "touch", "get", "touch"]);
    expect(await ttlMsOf(deployment, short.sid)).toBe(DAY_MS);
    expect(await ttlMsOf(deployment, long.sid)).toBe(30 * DAY_MS);
  });

  it("is cut to the idle time of the session store in idle mode", async () => {
    at(0);
    const deployment = deploy({ idleSeconds: 60 });
    const browser = new Browser(await shop(deployment, { expiry: "idle", cookie: { secure: false, maxAge: DAY_MS } }));
    await browser.ask("/visit");
    expect(await ttlMsOf(deployment, browser.sid)).toBe(MINUTE_MS);
    at(MINUTE_MS - 1);
    expect((await browser.ask("/look")).body).toBe("1");
    expect(await ttlMsOf(deployment, browser.sid)).toBe(MINUTE_MS);
    at(2 * MINUTE_MS);
    expect((await browser.ask("/look")).body).toBe("0");
  });

  it.each(["cookie", "idle"] as const)(
    "goes on from visit to visit in %s mode, and the cookie says so each time",
    async (expiry) => {
      at(0);
      const deployment = deploy({ idleSeconds: 60 });
      const browser = new Browser(await shop(deployment, { expiry }));
      await browser.ask("/visit");
      for (const ms of [40_000, 80_000, 120_000, 160_000]) {
        at(ms);
        const { body, cookie } = await browser.ask("/look");
        expect(body).toBe("1");
        expect(cookie?.expires?.getTime()).toBe(START + ms + MINUTE_MS);
      }
      deployment.calls();
      at(220_000);
      expect((await browser.ask("/look")).body).toBe("0");
      expect(deployment.calls()).not.toContain("touch");
    },
  );

  it("ends at a fixed time where the cookie has one, and a new time is kept", async () => {
    at(0);
    const deployment = deploy();
    const app = await shop(deployment, { cookie: { secure: false, expires: new Date(START + MINUTE_MS) } });
    app.get("/extend", async ({ session }) => {
      session.cookie.expires = new Date(START + 2 * MINUTE_MS);
      return "";
    });
    const browser = new Browser(app);
    await browser.ask("/visit");
    at(59_000);
    await browser.ask("/look");
    expect(await ttlMsOf(deployment, browser.sid)).toBe(1000);
    await browser.ask("/extend");
    at(90_000);
    expect((await browser.ask("/look")).body).toBe("1");
    at(120_000);
    expect((await browser.ask("/look")).body).toBe("0");
  });

  it("is over when the application sets an end in the past", async () => {
    const deployment = deploy();
    const app = await shop(deployment, { onConflict: "error" });
    app.get("/end", async ({ session }) => {
      session.cookie.expires = new Date(0);
      await session.save();
      return "";
    });
    const browser = new Browser(app);
    await browser.ask("/visit");
    expect((await browser.ask("/end")).status).toBe(200);
    expect(await deployment.sessions.count()).toBe(0);
  });

  it.each(["cookie", "idle"] as const)("has an absolute end beside the idle one in %s mode", async (expiry) => {
    at(0);
    const deployment = deploy({ idleSeconds: 60, absoluteSeconds: 100 });
    const browser = new Browser(await shop(deployment, { expiry }));
    await browser.ask("/visit");
    for (const ms of [50_000, 90_000]) {
      at(ms);
      expect((await browser.ask("/look")).body).toBe("1");
    }
    at(101_000);
    expect((await browser.ask("/look")).body).toBe("0");
  });

  it("is not longer than stores allow", async () => {
    const deployment = deploy();
    const app = await shop(deployment, { cookie: { secure: false, expires: new Date(Date.UTC(9999, 0)) } });
    const browser = new Browser(app);
    expect((await browser.ask("/visit")).status).toBe(200);
    expect((await browser.ask("/visit")).body).toBe("2");
  });
});

describe("ids", () => {
  it("are new after a login, and the old one is gone", async () => {
    const deployment = deploy();
    const browser = new Browser(await shop(deployment));
    await browser.ask("/visit");
    const before = browser.sid;
    await browser.ask("/login", "POST", { user: "ada" });
    expect(browser.sid).not.toBe(before);
    expect(await deployment.sessions.get(before)).toBeUndefined();
    expect((await browser.ask("/me")).body).toBe("ada");
  });

  it("are never taken over: a new session under an id that lives is refused, and the other one stays as it was", async () => {
    const deployment = deploy();
    const id = createSessionId();
    const app = await shop(deployment, { idGenerator: () => id });
    const [first, second] = [new Browser(app), new Browser(app)];
    await first.ask("/visit");
    expect(await second.ask("/visit")).toMatchObject({ status: 500, body: expect.stringContaining("SESSION_EXISTS") });
    expect((await first.ask("/visit")).body).toBe("2");
  });

  it("that are too short are no session, and are refused when something is to be kept under one", async () => {
    const deployment = deploy();
    const app = await shop(deployment);
    const browser = new Browser(app);
    browser.cookie = sign("too-short", SECRET);
    expect((await browser.ask("/look")).body).toBe("0");
    expect(browser.sid).toHaveLength(43);

    const withShortIds = await shop(deployment, { idGenerator: () => "short" });
    expect(await new Browser(withShortIds).ask("/visit")).toMatchObject({
      status: 500,
      body: expect.stringContaining("SESSION_ID_INVALID"),
    });
  });
});

describe("an envelope that was tampered with", () => {
  async function tampered(options: Partial<SealedSessionOptions>) {
    const deployment = deploy();
    const browser = new Browser(await shop(deployment, options));
    await browser.ask("/login", "POST", { user: "ada" });
    const storedId = storedIdOf(browser.sid) ?? "";
    const envelope = await deployment.envelopes.get(storedId);
    if (envelope === undefined) throw new Error("nothing was stored");
    envelope[envelope.length - 1] = (envelope.at(-1) ?? 0) ^ 1;
    await deployment.envelopes.set(storedId, envelope, { ttlMs: MINUTE_MS });
    return { deployment, browser, storedId, before: browser.sid };
  }

  it("is an error by default", async () => {
    const { browser, before } = await tampered({});
    expect(await browser.ask("/me")).toMatchObject({ status: 500, body: expect.stringContaining("ENVELOPE_REJECTED") });
    expect(browser.sid).toBe(before);
    expect(events).toContain("envelope-rejected");
  });

  it("is no session with discard: the client gets a new one, and the envelope stays where it is", async () => {
    const { browser, before, deployment, storedId } = await tampered({ onTampered: "discard" });
    expect(await browser.ask("/me")).toMatchObject({ status: 200, body: "nobody" });
    expect(browser.sid).not.toBe(before);
    expect(events).toContain("envelope-rejected");
    expect(await deployment.envelopes.get(storedId)).toBeDefined();
  });
});

describe("the package", () => {
  it("is loaded by import and by require, and registered either way", () => {
    const program = `
      const sealed = require("@sealed-session/fastify");
      const Fastify = require("fastify");
      (async () => {
        const again = await import("@sealed-session/fastify");
        const kinds = [sealed, sealed.default, again, again.default, sealed.sealedSession];
        for (const plugin of kinds) {
          const error = await Fastify().register(plugin, { sessions: 1, secret: "" }).then(() => "none", (e) => e.message);
          if (!/SessionStore/.test(error)) throw new Error("not registered: " + error);
        }
        console.log(typeof sealed.fastifyStore, again.sealedSession === sealed.sealedSession);
      })();`;
    const cwd = fileURLToPath(new URL("..", import.meta.url));
    const output = execFileSync(process.execPath, ["-e", program], { cwd });
    expect(output.toString().trim()).toBe("function true");
  });
});
