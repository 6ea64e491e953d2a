import { sealedSession } from "@sealed-session/fastify";
import { type RedisCluster, startRedisCluster } from "@sealed-session/test/servers";
import Fastify from "fastify";
import type { Cluster } from "ioredis";
import { afterAll, beforeAll, expect, it } from "vitest";
import { clusterAt } from "../adapters/redis-deployment.ts";
import { openRing, type RingOnRedis } from "./sessions-on-redis.ts";

declare module "fastify" {
  interface Session {
    count?: number;
  }
}

const ROUNDS = 40;
const REQUESTS = 6;

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

it.each(["cookie", "idle"] as const)(
  "no session outlives its destruction, whatever requests are under way, in %s mode",
  async (expiry) => {
    const sessions = ring.sessions();
    const app = Fastify();
    await app.register(sealedSession, {
      sessions,
      expiry,
      secret: "signs the cookies of these tests",
      cookie: { secure: false, maxAge: 3_600_000 },
      saveUninitialized: false,
    });
    app.post("/begin", async ({ session }) => {
      session.count = 0;
      return session.sessionId;
    });
    let underWay = 0;
    let hadTheSession = 0;
    app.post("/change", async ({ session }) => {
      // A visitor who is logged out already begins nothing.
      if (session.count === undefined) return "";
      hadTheSession++;
      underWay++;
      await new Promise(setImmediate);
      session.count++;
      return "";
    });
    app.post("/logout", async ({ session }) => {
      await session.destroy();
      return "";
    });
    const origin = await app.listen({ port: 0, host: "127.0.0.1" });
    try {
      const post = (path: string, cookie = "") =>
        fetch(`${origin}${path}`, {
          method: "POST",
          headers: { cookie, "content-type": "application/json" },
          body: "{}",
        });
      for (let round = 0; round < ROUNDS; round++) {
        const begun = await post("/begin");
        const cookie = begun.headers.get("set-cookie")?.split(";")[0] ?? "";
        const sid = await begun.text();
        underWay = 0;
        const changes = Array.from({ length: REQUESTS }, () => post("/change", cookie));
        // At another moment in each round: before, among and after the others.
        while (underWay < round % (REQUESTS + 1)) await new Promise(setImmediate);
        const answers = await Promise.all([...changes, post("/logout", cookie)]);
        expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: REQUESTS + 1 }, () => 200));
        expect(await sessions.get(sid)).toBeUndefined();
      }
      expect(await sessions.count()).toBe(0);
      expect(hadTheSession).toBeGreaterThan(ROUNDS);
    } finally {
      await app.close();
    }
  },
);
