/**
 * Express, express-session and sealed sessions on a Redis Cluster: the same promises as in memory, and what a request costs.
 */
import { randomBytes } from "node:crypto";
import { KeyRing, localKms, SessionStore, storedIdOf } from "@sealed-session/core";
import { type ExpressStoreOptions, expressStore } from "@sealed-session/express";
import { type RedisKeyRingStore, redisKeyRingStore, redisStore } from "@sealed-session/redis";
import { type RedisCluster, startRedisCluster } from "@sealed-session/test/servers";
import { RedisStore as ConnectRedis } from "connect-redis";
import type { RequestHandler } from "express";
import type { SessionData, Store } from "express-session";
import type { Cluster } from "ioredis";
import { createCluster } from "redis";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { dataOf, destroy, get, set } from "../../packages/express/test/support/calls.js";
import { expressSessionSuite } from "../../packages/express/test/support/express-session-suite.js";
import { startSite } from "../../packages/express/test/support/site.js";
import { clusterAt, freshNamespace } from "../adapters/redis-deployment.js";

const REQUESTS = 20;
/** What clients and tests ask a server of their own accord. */
const CHATTER =
  /^(info|ping|hello|command|client|cluster|readonly|auth|select|subscribe|ssubscribe|replconf|psync|publish|scan)(\||$)/;

let servers: RedisCluster;
let client: Cluster;
let keys: RedisKeyRingStore;
let ring: KeyRing;
beforeAll(async () => {
  servers = await startRedisCluster();
  client = clusterAt(servers.addresses());
  process.env["EXPRESS_TEST_KEY"] = randomBytes(32).toString("base64url");
  keys = redisKeyRingStore(client);
  ring = new KeyRing({ name: freshNamespace(), kms: localKms({ keyVariable: "EXPRESS_TEST_KEY" }), store: keys });
  await ring.ready();
});
afterAll(async () => {
  ring?.close();
  await keys?.close();
  client?.disconnect();
  await servers?.stop();
});

function sealed(options: ExpressStoreOptions = {}) {
  const namespace = freshNamespace();
  const sessions = new SessionStore<SessionData>({ ring, store: redisStore(client, { namespace }) });
  return { namespace, store: expressStore(sessions, options) };
}

expressSessionSuite("sealed sessions on Redis Cluster", () => sealed().store);

describe("on Redis Cluster", () => {
  it("sessions live to the millisecond, each as long as its cookie", async () => {
    const { store, namespace } = sealed();
    for (const maxAge of [1500, 86_400_000, 30 * 86_400_000]) {
      const sid = `an id for ${maxAge} milliseconds`;
      await set(store, sid, dataOf({}, maxAge));
      const ttlMs = await client.pttl(`${namespace}:session:${storedIdOf(sid)}`);
      expect(ttlMs).toBeLessThanOrEqual(maxAge);
      expect(ttlMs).toBeGreaterThan(maxAge - 450);
    }
  });

  it("nothing that is saved late comes back", async () => {
    const { store } = sealed();
    for (let round = 0; round < 20; round++) {
      const sid = `an id of a race, round ${round}`;
      await set(store, sid, dataOf());
      const loaded = await new Promise<object>((resolve) =>
        store.load(sid, (_, session) => resolve(session as object)),
      );
      Object.assign(loaded, { round });
      const calls = [() => set(store, sid, loaded), () => destroy(store, sid), () => set(store, sid, loaded)];
      if (round % 2 === 1) calls.reverse();
      await Promise.all(calls.map((call) => call()));
      await set(store, sid, loaded);
      expect(await get(store, sid)).toBeUndefined();
    }
  });
});

describe("a request on Redis Cluster", () => {
  const respond: RequestHandler = (request, response) => {
    if (request.path !== "/read") Object.assign(request.session, { value: Math.random() });
    response.end();
  };

  /** What the servers have done so far, by command. */
  const commands = async (role: "master" | "slave" = "master"): Promise<Map<string, number>> => {
    const totals = new Map<string, number>();
    for (const node of client.nodes(role)) {
      for (const [, command = "", calls] of (await node.info("commandstats")).matchAll(
        /cmdstat_([^:]+):calls=(\d+)/g,
      )) {
        if (!CHATTER.test(command)) totals.set(command, (totals.get(command) ?? 0) + Number(calls));
      }
    }
    return totals;
  };

  /** What one request costs, by command. */
  const cost = async (store: Store, path: string): Promise<Record<string, number>> => {
    const site = await startSite({ store, resave: false, saveUninitialized: false }, respond);
    const { cookie } = await site.ask({ path: "/begin" });
    const before = await commands();
    for (let i = 0; i < REQUESTS; i++) await site.ask({ cookie, path });
    const after = await commands();
    await site.stop();
    const difference = [...after].map(([command, calls]) => [command, (calls - (before.get(command) ?? 0)) / REQUESTS]);
    return Object.fromEntries(difference.filter(([, calls]) => calls !== 0));
  };

  it("that changes nothing costs exactly one command in idle mode and two by default, beside two of connect-redis", async () => {
    const others = createCluster({
      rootNodes: servers.addresses().map(({ host, port }) => ({ socket: { host, port } })),
    });
    others.on("error", () => {});
    await others.connect();
    const beside = new ConnectRedis({ client: others, prefix: `${freshNamespace()}:` });
    const table = {
      "idle mode": { read: await cost(sealed({ expiry: "idle" }).store, "/read"), write: {} },
      "by default": { read: await cost(sealed().store, "/read"), write: {} },
      "connect-redis": { read: await cost(beside, "/read"), write: {} },
    };
    table["idle mode"].write = await cost(sealed({ expiry: "idle" }).store, "/write");
    table["by default"].write = await cost(sealed().store, "/write");
    table["connect-redis"].write = await cost(beside, "/write");
    await others.close();
    console.log(`Redis commands of a request, of ${REQUESTS} each:\n${JSON.stringify(table, undefined, 2)}`);
    expect(table["idle mode"]).toEqual({ read: { getex: 1 }, write: { getex: 1, set: 1 } });
    expect(table["by default"]).toEqual({ read: { get: 1, pexpire: 1 }, write: { get: 1, set: 1 } });
    expect(table["connect-redis"].read).toEqual({ get: 1, expire: 1 });
  });

  it("reads from masters alone", async () => {
    for (const [command] of await commands("slave")) expect(command).not.toMatch(/^get/);
  });
});
