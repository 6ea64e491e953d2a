import fastifyCookie from "@fastify/cookie";
import fastifySession from "@fastify/session";
import { type SealedSessionOptions, sealedSession } from "@sealed-session/fastify";
import { type RedisCluster, startRedisCluster } from "@sealed-session/test/servers";
import { RedisStore } from "connect-redis";
import Fastify, { type FastifyInstance } from "fastify";
import type { Cluster } from "ioredis";
import { createCluster } from "redis";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { clusterAt, freshNamespace } from "../adapters/redis-deployment.ts";
import { openRing, type RingOnRedis } from "./sessions-on-redis.ts";

declare module "fastify" {
  interface Session {
    note?: string;
    count?: number;
  }
}

const REQUESTS = 50;
const SECRET = "signs the cookies of these tests";
/** What connections, this test and replicas ask; anything else counts. */
const NOT_COUNTED =
  /^(info|config|cluster|client|hello|ping|replconf|psync|readonly|command|acl|auth|select|asking)(\||$)/;

let cluster: RedisCluster;
let client: Cluster;
let ring: RingOnRedis;
beforeAll(async () => {
  cluster = await startRedisCluster();
  client = clusterAt(cluster.addresses());
  ring = await openRing(client);
});
afterAll(async () => {
  await ring?.close();
  client?.disconnect();
  await cluster?.stop();
});

/** @returns How often each command was called, summed over all masters; what a replica repeats is no command of a request. */
async function commandsOf(run: () => Promise<void>): Promise<Record<string, number>> {
  // What was written before has reached the masters, and their replicas.
  await cluster.waitForReplicas();
  await Promise.all(client.nodes("all").map((node) => node.config("RESETSTAT")));
  await run();
  const counts: Record<string, number> = {};
  const masters = client.nodes("master");
  expect(masters).toHaveLength(3);
  for (const node of masters) {
    for (const [, name = "", calls] of (await node.info("commandstats")).matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm)) {
      if (!NOT_COUNTED.test(name)) counts[name] = (counts[name] ?? 0) + Number(calls);
    }
  }
  for (const node of client.nodes("slave")) expect(await node.info("commandstats")).not.toMatch(/cmdstat_get(ex)?:/);
  return counts;
}

/** An application with two paths, and the cookie of a session in it. */
async function serving(register: (app: FastifyInstance) => Promise<unknown>) {
  const app = Fastify();
  await register(app);
  app.get("/look", async ({ session }) => session.count);
  app.get("/visit", async ({ session }) => {
    session.note = "x".repeat(200);
    session.count = (session.count ?? 0) + 1;
    return session.count;
  });
  const first = await app.inject("/visit");
  const cookies = Object.fromEntries(first.cookies.map(({ name, value }) => [name, value]));
  return {
    ask: async (url: string) => {
      const { statusCode, body } = await app.inject({ url, cookies });
      expect(statusCode).toBe(200);
      return body;
    },
    askAnew: () => app.inject("/visit"),
  };
}

const sealed = (options: Partial<SealedSessionOptions>) =>
  serving(async (app) =>
    app.register(sealedSession, {
      sessions: ring.sessions(),
      secret: SECRET,
      cookie: { secure: false, maxAge: 3_600_000 },
      ...options,
    }),
  );

async function times(count: number, run: () => Promise<unknown>): Promise<void> {
  for (let n = 0; n < count; n++) await run();
}

describe("commands of a request, from INFO commandstats of all masters", () => {
  it("of an unmodified session: one in idle mode", async () => {
    const { ask } = await sealed({ expiry: "idle" });
    expect(await commandsOf(() => times(REQUESTS, () => ask("/look")))).toEqual({ getex: REQUESTS });
  });

  it("of an unmodified session: two in the default mode", async () => {
    const { ask } = await sealed({});
    expect(await commandsOf(() => times(REQUESTS, () => ask("/look")))).toEqual({ get: REQUESTS, pexpire: REQUESTS });
  });

  it("of an unmodified session with rolling: false: one", async () => {
    const { ask } = await sealed({ rolling: false });
    expect(await commandsOf(() => times(REQUESTS, () => ask("/look")))).toEqual({ get: REQUESTS });
  });

  it("of a modified session: two, and of a new one: one", async () => {
    const { ask, askAnew } = await sealed({ expiry: "idle" });
    expect(await commandsOf(() => times(REQUESTS, () => ask("/visit")))).toEqual({ getex: REQUESTS, set: REQUESTS });
    expect(await ask("/look")).toBe(`${REQUESTS + 1}`);
    expect(await commandsOf(() => times(REQUESTS, askAnew))).toEqual({ set: REQUESTS });
  });

  it("beside connect-redis, which writes the whole session each time", async () => {
    const other = createCluster({
      rootNodes: cluster.addresses().map(({ host, port }) => ({ socket: { host, port } })),
    });
    await other.connect();
    try {
      const store = new RedisStore({ client: other, prefix: `${freshNamespace()}:` });
      const { ask } = await serving(async (app) => {
        await app.register(fastifyCookie);
        await app.register(fastifySession, {
          store: store as unknown as NonNullable<Parameters<typeof fastifySession>[1]["store"]>,
          secret: SECRET,
          cookie: { secure: false, maxAge: 3_600_000 },
        });
      });
      await ask("/look");
      const theirs = await commandsOf(() => times(REQUESTS, () => ask("/look")));
      const rows = { "connect-redis": theirs };
      for (const [name, options] of [
        ["ours, idle", { expiry: "idle" }],
        ["ours, default", {}],
      ] as const) {
        const ours = await sealed(options);
        Object.assign(rows, { [name]: await commandsOf(() => times(REQUESTS, () => ours.ask("/look"))) });
      }
      console.log(`commands of ${REQUESTS} requests of an unmodified session: ${JSON.stringify(rows)}`);
      expect(theirs).toEqual({ get: REQUESTS, set: REQUESTS });
    } finally {
      await other.close();
    }
  });
});
