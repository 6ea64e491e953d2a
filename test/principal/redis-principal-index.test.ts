/**
 * The principal index of the Redis adapter on real servers: the conformance suite, and what is Redis's own.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { principalIndexSuite } from "@sealed-session/core/testing";
import { redisPrincipalIndex, redisStore } from "@sealed-session/redis";
import type { Cluster, Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, describe, it } from "vitest";
import { advanceOf, type Deployment, freshNamespace, KINDS } from "../adapters/redis-deployment.js";

const MINUTE_MS = 60_000;
const token = () => randomBytes(12).toString("base64url");
const member = () => ({ ttlMs: MINUTE_MS, ticket: token(), epoch: token(), data: Uint8Array.of(1, 2, 3) });

for (const { name, clients: ways, start } of KINDS) {
  describe(name, () => {
    let deployment: Deployment;
    let clients: (Redis | Cluster)[] = [];
    beforeAll(async () => {
      deployment = await start();
    });
    afterEach(() => {
      for (const client of clients) client.disconnect();
      clients = [];
    });
    afterAll(() => deployment.stop());

    const connect: Deployment["connect"] = (way) => {
      const client = deployment.connect(way);
      clients.push(client);
      return client;
    };

    for (const way of ways) {
      principalIndexSuite({ describe, it }, `redisPrincipalIndex on ${way}`, async () => {
        const client = connect(way);
        return {
          index: redisPrincipalIndex(client, { namespace: freshNamespace() }),
          sibling: redisPrincipalIndex(client, { namespace: freshNamespace() }),
          advance: advanceOf(client),
          close: async () => {},
        };
      });
    }

    it("writes one hash for each entry, where the format says, which expires with the member that ends last", async () => {
      const client = connect();
      const entry = token();
      await redisPrincipalIndex(client).add(entry, token(), member());
      await redisPrincipalIndex(client).add(entry, token(), { ...member(), ttlMs: 2 * MINUTE_MS });
      await redisPrincipalIndex(client).add(entry, token(), member());
      await redisPrincipalIndex(client, { namespace: "eu" }).add(entry, token(), member());
      const ttlMs = await client.pttl(`session-index:${entry}`);
      assert.ok(ttlMs > MINUTE_MS && ttlMs <= 2 * MINUTE_MS, `${ttlMs} ms`);
      assert.ok((await client.pttl(`eu:session-index:${entry}`)) > 0);
      assert.equal(await client.hlen(`session-index:${entry}`), 5);
      await client.unlink(`session-index:${entry}`);
      await client.unlink(`eu:session-index:${entry}`);
    });

    it("gives back the memory of what has ended as others are added", async () => {
      const client = connect();
      const namespace = freshNamespace();
      const index = redisPrincipalIndex(client, { namespace });
      const entry = token();
      await Promise.all(Array.from({ length: 100 }, () => index.add(entry, token(), { ...member(), ttlMs: 50 })));
      await advanceOf(client)(51);
      await Promise.all(Array.from({ length: 64 }, () => index.add(entry, token(), member())));
      const { length } = await client.hkeys(`${namespace}:session-index:${entry}`);
      assert.ok(length <= 64 + 2, `${length} fields`);
    });

    it("keeps out of the way of sessions in the same namespace", async () => {
      const client = connect();
      const namespace = freshNamespace();
      const sessions = redisStore(client, { namespace });
      await sessions.set("a-session-of-somebody", Uint8Array.of(0xe5), { ttlMs: MINUTE_MS });
      await redisPrincipalIndex(client, { namespace }).add(token(), token(), member());
      const met: string[] = [];
      for await (const storedId of sessions.scan()) met.push(storedId);
      assert.deepEqual(met, ["a-session-of-somebody"]);
    });
  });
}
