import type { FastifyInstance } from "fastify";
import { describe, expect, it } from "vitest";
import type { SealedSessionOptions } from "../src/index.js";
import { appOver, Browser, type Deployment, deploy, gate } from "./deployment.js";
import { collectEventTypes } from "./events.js";

const events = collectEventTypes();
const EXPIRIES = ["cookie", "idle"] as const;
const IGNORED = "session-save-ignored";

/** A browser that is logged in, in an application where `/slow` and `/slow-look` wait between reading and saving. */
async function loggedIn(options: Partial<SealedSessionOptions>) {
  const deployment = deploy();
  const app = await appOver(deployment, options);
  const wait = gate();
  app.get("/login", async ({ session }) => {
    session.user = "ada";
    return "";
  });
  app.get("/slow", async ({ session }) => {
    await wait.pass();
    session.visits = (session.visits ?? 0) + 1;
    return "";
  });
  app.get("/slow-look", async () => {
    await wait.pass();
    return "";
  });
  app.get("/twice", async ({ session }) => {
    session.visits = 1;
    await session.save();
    session.visits = 2;
    await session.save();
    session.visits = 3;
    return "";
  });
  app.get("/visit", async ({ session }) => {
    session.visits = (session.visits ?? 0) + 10;
    return "";
  });
  app.get("/logout", async ({ session }) => {
    await session.destroy();
    return "";
  });
  const browser = new Browser(app);
  await browser.ask("/login");
  deployment.calls();
  return { deployment, app, browser, wait };
}

/** Lets a slow request of the browser begin, something else happen, and the slow one end. */
async function during(
  slow: string,
  { browser, wait }: { browser: Browser; wait: ReturnType<typeof gate> },
  meanwhile: () => Promise<unknown>,
) {
  const answer = browser.ask(slow);
  await wait.reached;
  await meanwhile();
  wait.open();
  return answer;
}

describe("a session that was destroyed while a request had it", () => {
  it.each(EXPIRIES)("does not come back with that request's save, in %s mode; an event tells of it", async (expiry) => {
    const setup = await loggedIn({ expiry });
    const { deployment, browser } = setup;
    const { status } = await during("/slow", setup, () => browser.again().ask("/logout"));
    expect(status).toBe(200);
    expect(await deployment.sessions.count()).toBe(0);
    expect(events.filter((type) => type === IGNORED)).toHaveLength(1);
    expect((await browser.ask("/login")).status).toBe(200);
  });

  it.each(EXPIRIES)('is an error with onConflict: "error", in %s mode', async (expiry) => {
    const setup = await loggedIn({ expiry, onConflict: "error" });
    const answer = await during("/slow", setup, () => setup.browser.again().ask("/logout"));
    expect(answer).toMatchObject({ status: 500, body: expect.stringContaining("STORE_CONFLICT") });
    expect(await setup.deployment.sessions.count()).toBe(0);
    expect(events).not.toContain(IGNORED);
  });

  it.each(EXPIRIES)("is no error for a request that changed nothing, in %s mode", async (expiry) => {
    const setup = await loggedIn({ expiry, onConflict: "error" });
    const { status } = await during("/slow-look", setup, () => setup.browser.again().ask("/logout"));
    expect(status).toBe(200);
    expect(await setup.deployment.sessions.count()).toBe(0);
    expect(events.includes(IGNORED)).toBe(expiry === "cookie");
  });
});

describe("a session that was destroyed in the same request", () => {
  async function destroyedFirst(
    options: Partial<SealedSessionOptions>,
    then: (session: import("fastify").FastifyRequest["session"]) => Promise<void>,
  ) {
    const deployment = deploy();
    const app = await appOver(deployment, options);
    const saved: unknown[] = [];
    app.get("/login", async ({ session }) => {
      session.user = "ada";
      return "";
    });
    app.get("/", async (request) => {
      const { session } = request;
      await session.destroy();
      session.user = "eve";
      saved.push(
        await then(session).then(
          () => "saved",
          (error) => error.code,
        ),
      );
      return "";
    });
    const browser = new Browser(app);
    await browser.ask("/login");
    deployment.calls();
    await browser.ask("/");
    return { deployment, saved };
  }

  it.each(EXPIRIES)("is not written again, in %s mode, and no command is spent on it", async (expiry) => {
    const { deployment, saved } = await destroyedFirst({ expiry }, (session) => session.save());
    expect(saved).toEqual(["saved"]);
    expect(deployment.calls().filter((call) => !call.startsWith("get"))).toEqual(["destroy"]);
    expect(await deployment.sessions.count()).toBe(0);
    expect(events).toContain(IGNORED);
  });

  it('is an error with onConflict: "error"', async () => {
    const { deployment, saved } = await destroyedFirst({ onConflict: "error" }, (session) => session.save());
    expect(saved).toEqual(["STORE_CONFLICT"]);
    expect(await deployment.sessions.count()).toBe(0);
  });

  it("does not come back by a reload", async () => {
    const { deployment } = await destroyedFirst({}, async (session) => {
      await session.reload();
      await session.save();
    });
    expect(await deployment.sessions.count()).toBe(0);
  });

  it("nor does one that never was in the store", async () => {
    const deployment = deploy();
    const app = await appOver(deployment);
    app.get("/", async ({ session }) => {
      await session.destroy();
      await session.save();
      return "";
    });
    await new Browser(app).ask("/");
    expect(await deployment.sessions.count()).toBe(0);
    expect(events).toContain(IGNORED);
  });
});

it("a session that another request destroyed is not begun anew under its old id by a reload", async () => {
  const deployment = deploy();
  const app = await appOver(deployment);
  app.get("/login", async ({ session }) => {
    session.user = "ada";
    return "";
  });
  app.get("/", async (request) => {
    await deployment.sessions.destroy(request.session.sessionId);
    await request.session.reload();
    request.session.user = "eve";
    return "";
  });
  const browser = new Browser(app);
  await browser.ask("/login");
  await browser.ask("/");
  expect(await deployment.sessions.count()).toBe(0);
  expect(events).toContain(IGNORED);
});

describe("of two requests that change a session", () => {
  async function bothChange(options: Partial<SealedSessionOptions>) {
    const setup = await loggedIn(options);
    const slow = await during("/slow", setup, () => setup.browser.again().ask("/visit"));
    return { slow, stored: await setup.deployment.sessions.get(setup.browser.sid) };
  }

  it("the last one wins by default", async () => {
    const { slow, stored } = await bothChange({});
    expect(slow.status).toBe(200);
    expect(stored?.visits).toBe(1);
  });

  it("the later one is an error with ifUnchanged, and the first one's change stays", async () => {
    const { slow, stored } = await bothChange({ ifUnchanged: true });
    expect(slow).toMatchObject({ status: 500, body: expect.stringContaining("STORE_CONFLICT") });
    expect(stored?.visits).toBe(10);
  });

  it("one that changed nothing is none with ifUnchanged, and two saves in one request are no conflict", async () => {
    const setup = await loggedIn({ ifUnchanged: true });
    const { status } = await during("/slow-look", setup, () => setup.browser.again().ask("/visit"));
    expect(status).toBe(200);
    expect((await setup.browser.ask("/twice")).status).toBe(200);
    expect((await setup.deployment.sessions.get(setup.browser.sid))?.visits).toBe(3);
  });
});

it("a create whose outcome was unknown may be tried again", async () => {
  const deployment: Deployment = deploy();
  const app: FastifyInstance = await appOver(deployment);
  const outcomes: unknown[] = [];
  app.get("/", async ({ session }) => {
    session.user = "ada";
    // The write gets there, its answer does not come back.
    const { set } = deployment.envelopes;
    deployment.envelopes.set = async function (...args) {
      this.set = set;
      await set.apply(this, args);
      throw Object.assign(new Error("no answer in time"), { code: "STORE_UNAVAILABLE" });
    };
    outcomes.push(
      await session.save().then(
        () => "saved",
        (error) => error.code,
      ),
    );
    session.visits = 1;
    outcomes.push(
      await session.save().then(
        () => "saved",
        (error) => error.code,
      ),
    );
    return "";
  });
  const browser = new Browser(app);
  expect((await browser.ask("/")).status).toBe(200);
  expect(outcomes).toEqual(["STORE_UNAVAILABLE", "saved"]);
  expect(await deployment.sessions.get(browser.sid)).toMatchObject({ user: "ada", visits: 1 });
});

it("a login that was overtaken by a logout everywhere is not made good by the save of the error's answer", async () => {
  const deployment = deploy();
  const app = await appOver(deployment);
  app.get("/", async ({ session }) => {
    session.user = "ada";
    deployment.before["set"] = () => {
      delete deployment.before["set"];
      throw Object.assign(new Error("overtaken"), { code: "LOGIN_OVERTAKEN" });
    };
    await session.save();
    return "";
  });
  expect((await new Browser(app).ask("/")).status).toBe(500);
  expect(await deployment.sessions.count()).toBe(0);
});
