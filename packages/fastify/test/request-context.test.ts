import { EventEmitter } from "node:events";
import { request as httpRequest } from "node:http";
import type { AddressInfo } from "node:net";
import type { FastifyInstance } from "fastify";
import { afterEach, describe, expect, it } from "vitest";
import { appOver, type Deployment, deploy, gate } from "./deployment.js";

let app: FastifyInstance | undefined;
afterEach(() => app?.close());

/** An application that listens, and a connection that is kept for all requests. */
async function listening(deployment: Deployment, routes: (app: FastifyInstance) => void) {
  app = await appOver(deployment);
  routes(app);
  await app.listen({ port: 0, host: "127.0.0.1" });
  return (app.server.address() as AddressInfo).port;
}

/** Sends a body in two pieces, with other things in between. */
function post(port: number, path: string, cookie: string, between = async () => {}) {
  return new Promise<{ status: number | undefined; body: string; cookie: string }>((resolve, reject) => {
    const headers = { "content-type": "application/json", "content-length": 14, cookie };
    const request = httpRequest({ port, host: "127.0.0.1", path, method: "POST", headers }, (response) => {
      let body = "";
      response.setEncoding("utf8");
      response.on("data", (chunk) => {
        body += chunk;
      });
      response.on("end", () =>
        resolve({
          status: response.statusCode,
          body,
          cookie: response.headers["set-cookie"]?.[0]?.split(";")[0] ?? cookie,
        }),
      );
    });
    request.on("error", reject);
    request.write('{"item":');
    between().then(() => request.end('"tea"}'), reject);
  });
}

describe("a request knows its session", () => {
  it("after its body has come, in pieces over a real connection", async () => {
    const deployment = deploy();
    const port = await listening(deployment, (app) => {
      app.post("/add", async ({ session, body }) => {
        session.cart ??= { items: [] };
        session.cart.items.push((body as { item: string }).item);
        await session.save();
        return session.cart.items.length;
      });
    });
    const first = await post(port, "/add", "");
    expect(first).toMatchObject({ status: 200, body: "1" });
    expect(deployment.calls()).toEqual(["set absent"]);
    expect(await post(port, "/add", first.cookie)).toMatchObject({ status: 200, body: "2" });
    expect(deployment.calls()).toEqual(["get", "set present"]);
    // A write that knows of no read would bring it back.
    const gone = await post(port, "/add", first.cookie, async () => {
      while (!deployment.calls().includes("get")) await new Promise(setImmediate);
      await deployment.sessions.clear();
    });
    expect(gone.status).toBe(200);
    expect(await deployment.sessions.count()).toBe(0);
  });

  it("when its handler goes on, and answers, in the context of another one", async () => {
    const deployment = deploy();
    const bus = new EventEmitter();
    const wait = gate();
    const port = await listening(deployment, (app) => {
      // What waits here is called by whoever calls out, in the context of that.
      app.get("/wait", (request, reply) => {
        bus.once("go", () => {
          request.session.visits = (request.session.visits ?? 0) + 1;
          request.session.save((error) => {
            request.session.user = "ada";
            reply.code(error ? 500 : 200).send("waited");
          });
        });
        wait.open();
      });
      app.get("/go", async ({ session }) => {
        session.visits = 100;
        bus.emit("go");
        return "";
      });
    });
    const ask = async (path: string, cookie = "") => {
      const response = await fetch(`http://127.0.0.1:${port}${path}`, { headers: { cookie } });
      return { status: response.status, cookie: response.headers.get("set-cookie")?.split(";")[0] ?? cookie };
    };
    const waiting = ask("/wait");
    await wait.pass();
    const other = await ask("/go");
    const { status, cookie } = await waiting;
    expect(status).toBe(200);
    const sidOf = (signed: string) => decodeURIComponent(signed).replace(/^sessionId=([^.]*).*$/, "$1");
    expect(await deployment.sessions.get(sidOf(cookie))).toMatchObject({ visits: 1, user: "ada" });
    expect(await deployment.sessions.get(sidOf(other.cookie))).toMatchObject({ visits: 100 });

    // Once more, with sessions that are read.
    deployment.calls();
    const again = ask("/wait", cookie);
    while (bus.listenerCount("go") === 0) await new Promise(setImmediate);
    await deployment.sessions.destroy(sidOf(cookie));
    await ask("/go", other.cookie);
    expect((await again).status).toBe(200);
    expect(await deployment.sessions.get(sidOf(cookie))).toBeUndefined();
    expect(deployment.calls().filter((call) => call === "set absent")).toEqual([]);
  });

  it("when its handler goes on where there is no context at all", async () => {
    const deployment = deploy();
    const jobs: (() => void)[] = [];
    // As the callbacks of a pool that was there before the request.
    const timer = setInterval(() => {
      for (const job of jobs.splice(0)) job();
    }, 1);
    try {
      const port = await listening(deployment, (app) => {
        app.post("/login", (request, reply) => {
          jobs.push(() => {
            request.session.regenerate((error) => {
              request.session.user = "ada";
              reply.code(error ? 500 : 200).send(request.session.sessionId);
            });
          });
        });
        app.post("/reload", (request, reply) => {
          jobs.push(() => {
            request.session.user = "eve";
            request.session.reload((error) => {
              request.session.visits = 1;
              reply.code(error ? 500 : 200).send(request.session.user);
            });
          });
        });
        app.post("/logout", (request, reply) => {
          const { session } = request;
          jobs.push(() => {
            session.destroy(() => {
              session.user = "eve";
              session.save((error) => reply.code(error ? 500 : 200).send(""));
            });
          });
        });
      });
      const first = await post(port, "/login", "");
      expect(first.status).toBe(200);
      expect(await deployment.sessions.get(first.body)).toMatchObject({ user: "ada" });
      const second = await post(port, "/login", first.cookie);
      expect(second.status).toBe(200);
      expect(await deployment.sessions.get(first.body)).toBeUndefined();
      expect(await post(port, "/reload", second.cookie)).toMatchObject({ status: 200, body: "ada" });
      expect(await deployment.sessions.get(second.body)).toMatchObject({ user: "ada", visits: 1 });
      expect((await post(port, "/logout", second.cookie)).status).toBe(200);
      expect(await deployment.sessions.count()).toBe(0);
    } finally {
      clearInterval(timer);
    }
  });

  it("when it is regenerated in the context of another one", async () => {
    const deployment = deploy();
    const bus = new EventEmitter();
    const port = await listening(deployment, (app) => {
      app.get("/wait", (request, reply) => {
        bus.once("go", () => {
          request.session.regenerate((error) => {
            request.session.user = "ada";
            reply.code(error ? 500 : 200).send(request.session.sessionId);
          });
        });
      });
      app.get("/go", async () => {
        bus.emit("go");
        return "";
      });
    });
    const waiting = fetch(`http://127.0.0.1:${port}/wait`);
    while (bus.listenerCount("go") === 0) await new Promise(setImmediate);
    await fetch(`http://127.0.0.1:${port}/go`);
    const answer = await waiting;
    expect(answer.status).toBe(200);
    expect(await deployment.sessions.get(await answer.text())).toMatchObject({ user: "ada" });
  });
});
