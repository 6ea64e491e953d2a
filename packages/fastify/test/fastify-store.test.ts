import { EventEmitter } from "node:events";
import fastifyCookie, { sign } from "@fastify/cookie";
import fastifySession from "@fastify/session";
import { createSessionId } from "@sealed-session/core";
import Fastify, { type Session } from "fastify";
import { describe, expect, it } from "vitest";
import { type FastifyStore, type FastifyStoreOptions, fastifyStore } from "../src/index.js";
import { Browser, type Deployment, deploy, MINUTE_MS, SECRET } from "./deployment.js";
import { collectEventTypes } from "./events.js";

const events = collectEventTypes();
const ID = createSessionId();

/** A session that somebody makes by hand. */
function byHand(data: Partial<Session> = {}): Session {
  return { cookie: { originalMaxAge: MINUTE_MS, expires: new Date(Date.now() + MINUTE_MS) }, ...data };
}

/** The store's methods as promises. */
function promised(store: FastifyStore) {
  const call = <R>(run: (callback: (error: unknown, result?: R) => void) => void) =>
    new Promise<R | undefined>((resolve, reject) => run((error, result) => (error ? reject(error) : resolve(result))));
  return {
    get: (sid: string) => call<Session | null>((callback) => store.get(sid, callback)),
    set: (sid: string, session: Session) => call((callback) => store.set(sid, session, callback)),
    destroy: (sid: string) => call((callback) => store.destroy(sid, callback)),
  };
}

async function appWithout(deployment: Deployment, options?: FastifyStoreOptions) {
  const app = Fastify();
  await app.register(fastifyCookie);
  await app.register(fastifySession, {
    secret: SECRET,
    cookie: { secure: false, maxAge: MINUTE_MS },
    store: fastifyStore(deployment.sessions, options),
  });
  app.get("/visit", async ({ session }) => {
    session.visits = (session.visits ?? 0) + 1;
    return session.visits;
  });
  app.get("/look", async ({ session }) => session.visits ?? 0);
  return app;
}

describe("the store, called by hand", () => {
  it("sets, gets, overwrites and destroys as MemoryStore does", async () => {
    const deployment = deploy();
    const store = promised(fastifyStore(deployment.sessions));
    expect(await store.get(ID)).toBeUndefined();
    await store.set(ID, byHand({ visits: 1 }));
    expect((await store.get(ID))?.visits).toBe(1);
    await store.set(ID, byHand({ visits: 2 }));
    expect((await store.get(ID))?.visits).toBe(2);
    await store.destroy(ID);
    expect(await store.get(ID)).toBeUndefined();
    await store.destroy(ID);
    await store.set(ID, byHand({ visits: 3 }));
    expect((await store.get(ID))?.visits).toBe(3);
  });

  it("keeps what is no cookie session too, and refuses what is no object", async () => {
    const store = promised(fastifyStore(deploy().sessions));
    await store.set(ID, { expires: new Date(5), user: "ada" } as unknown as Session);
    expect(await store.get(ID)).toEqual({ expires: new Date(5), user: "ada" });
    await expect(store.set(ID, null as unknown as Session)).rejects.toBeInstanceOf(TypeError);
  });

  it("two writers at one time do not get into each other's way", async () => {
    const deployment = deploy();
    const store = promised(fastifyStore(deployment.sessions));
    await Promise.all([1, 2, 3, 4].map((visits) => store.set(ID, byHand({ visits }))));
    expect([1, 2, 3, 4]).toContain((await store.get(ID))?.visits);
  });

  it("keeps nothing of a session that is over", async () => {
    const deployment = deploy();
    for (const expiry of ["cookie", "idle"] as const) {
      const store = promised(fastifyStore(deployment.sessions, { expiry }));
      await store.set(ID, byHand());
      await store.set(ID, { cookie: { originalMaxAge: null, expires: new Date(Date.now() - 1000) } });
      expect(await store.get(ID)).toBeUndefined();
    }
  });

  it("writes an object that it returned only while the session exists", async () => {
    const deployment = deploy();
    const store = promised(fastifyStore(deployment.sessions));
    await store.set(ID, byHand());
    const session = await store.get(ID);
    if (!session) throw new Error("it was not found");
    session.user = "ada";
    await store.set(ID, session);
    expect((await store.get(ID))?.user).toBe("ada");
    await store.destroy(ID);
    session.user = "eve";
    await store.set(ID, session);
    expect(await store.get(ID)).toBeUndefined();
    expect(events).toContain("session-save-ignored");
    // Under another id it is a copy.
    const other = createSessionId();
    await store.set(other, session);
    expect((await store.get(other))?.user).toBe("eve");
  });

  it("takes short ids for no session, and says so when one is set", async () => {
    const deployment = deploy();
    const store = promised(fastifyStore(deployment.sessions));
    expect(await store.get("short")).toBeUndefined();
    await store.destroy("short");
    expect(deployment.calls()).toEqual([]);
    await expect(store.set("short", byHand())).rejects.toMatchObject({ code: "SESSION_ID_INVALID" });
  });

  it("calls back once and later, and callbacks of set and destroy may be left out", async () => {
    const deployment = deploy();
    const store = fastifyStore(deployment.sessions);
    let calls = 0;
    await new Promise<void>((resolve) => {
      store.set(ID, byHand(), () => {
        calls++;
        resolve();
      });
      expect(calls).toBe(0);
    });
    (store.destroy as (sid: string) => void)(ID);
    while (deployment.calls().length === 0 || (await deployment.sessions.count()) > 0) await new Promise(setImmediate);
    expect(calls).toBe(1);
  });

  it("is an event emitter as MemoryStore is one, and checks its options", () => {
    const { sessions } = deploy();
    expect(fastifyStore(sessions)).toBeInstanceOf(EventEmitter);
    expect(() => fastifyStore(undefined as unknown as typeof sessions)).toThrow(TypeError);
    expect(() => fastifyStore(sessions, { expiry: "x" as "idle" })).toThrow(RangeError);
  });
});

describe("the store without the plugin", () => {
  it("serves @fastify/session; a request that changes nothing costs as little", async () => {
    for (const expiry of ["cookie", "idle"] as const) {
      const deployment = deploy();
      const browser = new Browser(await appWithout(deployment, { expiry }));
      await browser.ask("/visit");
      deployment.calls();
      expect((await browser.ask("/look")).body).toBe("1");
      expect(deployment.calls()).toEqual(expiry === "idle" ? ["get slide"] : ["get", "touch"]);
      expect((await browser.ask("/visit")).body).toBe("2");
      expect((await browser.ask("/look")).body).toBe("2");
    }
  });

  it("brings no session back that a request has read and that was destroyed meanwhile", async () => {
    const deployment = deploy();
    const app = await appWithout(deployment);
    app.get("/slow", async ({ session }) => {
      await deployment.sessions.destroy(session.sessionId);
      session.visits = 5;
      return "";
    });
    const browser = new Browser(app);
    await browser.ask("/visit");
    expect((await browser.ask("/slow")).status).toBe(200);
    expect(await deployment.sessions.count()).toBe(0);
    expect(events).toContain("session-save-ignored");
  });

  it("serves decryptSession outside of any request", async () => {
    const deployment = deploy();
    const app = await appWithout(deployment);
    await promised(fastifyStore(deployment.sessions)).set(ID, byHand({ user: "ada" }));
    const request = {} as { session: import("fastify").FastifyRequest["session"] };
    await new Promise<void>((resolve, reject) =>
      app.decryptSession(sign(ID, SECRET), request, (error) => (error ? reject(error) : resolve())),
    );
    expect(request.session.user).toBe("ada");
    request.session.visits = 7;
    await request.session.save();
    expect(await deployment.sessions.get(ID)).toMatchObject({ user: "ada", visits: 7 });
  });
});
