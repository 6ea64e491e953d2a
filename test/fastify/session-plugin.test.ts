import fastifySession, { MemoryStore } from "@fastify/session";
import { fastifyStore, sealedSession } from "@sealed-session/fastify";
import { type RedisCluster, startRedisCluster } from "@sealed-session/test/servers";
import type { Cluster } from "ioredis";
import { afterAll, beforeAll } from "vitest";
import { clusterAt } from "../adapters/redis-deployment.ts";
import { sessionPluginSuite } from "./session-plugin-suite.ts";
import { openRing, type RingOnRedis } from "./sessions-on-redis.ts";

let cluster: RedisCluster;
let client: Cluster;
let ring: RingOnRedis;
beforeAll(async () => {
  cluster = await startRedisCluster();
  client = clusterAt(cluster.addresses());
  ring = await openRing(client);
  console.log(cluster.source);
});
afterAll(async () => {
  await ring?.close();
  client?.disconnect();
  await cluster?.stop();
});

const stop = async () => {};

sessionPluginSuite("@fastify/session with MemoryStore, the control", async () => {
  const store = new MemoryStore();
  return { register: async (app, options) => app.register(fastifySession, { ...options, store }), stop };
});

for (const expiry of ["cookie", "idle"] as const) {
  sessionPluginSuite(`@fastify/session with our store on Redis Cluster in ${expiry} mode`, async () => {
    const store = fastifyStore(ring.sessions(), { expiry });
    return { register: async (app, options) => app.register(fastifySession, { ...options, store }), stop };
  });

  sessionPluginSuite(`our plugin on Redis Cluster in ${expiry} mode`, async () => {
    const sessions = ring.sessions();
    return { register: async (app, options) => app.register(sealedSession, { ...options, sessions, expiry }), stop };
  });
}
