/**
 * The Redis adapter on real servers: the conformance suites, and what is Redis's own.
 */
import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import { inspect } from "node:util";
import { type EnvelopeStore, MAX_TTL_MS } from "@sealed-session/core";
import { keyRingStoreSuite, storeSuite } from "@sealed-session/core/testing";
import { type RedisWarning, redisKeyRingStore, redisStore } from "@sealed-session/redis";
import { untilNothingMissing } from "@sealed-session/test/servers";
import type { Cluster, Redis } from "ioredis";
import { afterAll, afterEach, beforeAll, describe, it } from "vitest";
import { advanceOf, type Deployment, freshNamespace, KINDS } from "./redis-deployment.js";

const MINUTE_MS = 60_000;
const ENVELOPE = Uint8Array.of(0xe5, 0, 0xff, 10, 13);

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
      storeSuite({ describe, it }, `redisStore on ${way}`, async () => {
        const client = connect(way);
        return {
          store: redisStore(client, { namespace: freshNamespace() }),
          sibling: redisStore(client, { namespace: freshNamespace() }),
          advance: advanceOf(client),
          close: async () => {},
        };
      });

      keyRingStoreSuite({ describe, it }, `redisKeyRingStore on ${way}`, async () => {
        const namespace = freshNamespace();
        const open = () => redisKeyRingStore(connect(way), { namespace });
        const [store, second, third] = [open(), open(), open()];
        return {
          store,
          second,
          clock: Date.now,
          reopen: async () => third,
          close: async () => {
            for (const opened of [store, second, third]) await opened.close();
          },
        };
      });
    }

    describe("redisStore", () => {
      it("writes where the format says, and leaves no key without an expiry", async () => {
        const client = connect();
        const id = randomUUID();
        await redisStore(client).set(id, ENVELOPE, { ttlMs: MINUTE_MS });
        await redisStore(client, { namespace: "eu" }).set(id, ENVELOPE, { ttlMs: MINUTE_MS });
        for (const key of [`session:${id}`, `eu:session:${id}`]) {
          assert.deepEqual(new Uint8Array((await client.getBuffer(key)) ?? []), ENVELOPE);
          assert.ok((await client.pttl(key)) > 0);
        }
        assert.equal(await redisStore(client).destroy(id), true);
        assert.equal(await redisStore(client, { namespace: "eu" }).destroy(id), true);
      });

      it("calls the time to live of a key without expiry the longest one", async () => {
        const client = connect();
        const [store, id] = [redisStore(client), randomUUID()];
        await client.set(`session:${id}`, "x");
        assert.equal(await store.ttlMs(id), MAX_TTL_MS);
        await store.destroy(id);
      });

      it("runs its scripts on a server that has forgotten them", async () => {
        const client = connect();
        const [store, id] = [redisStore(client, { namespace: freshNamespace() }), randomUUID()];
        await store.set(id, Uint8Array.of(1), { ttlMs: MINUTE_MS });
        for (let value = 1; value < 4; value++) {
          for (const node of "nodes" in client ? client.nodes("master") : [client]) await node.script("FLUSH");
          assert.equal(await store.compareAndSet(id, Uint8Array.of(value), Uint8Array.of(value + 1)), true);
        }
      });

      it("fails clearly, and without the key or a value, where somebody else's key is in the way", async () => {
        const client = connect();
        const [store, id] = [redisStore(client), randomUUID()];
        await client.hset(`session:${id}`, "field", "value");
        const failures = [
          store.get(id),
          store.get(id, { slideMs: MINUTE_MS }),
          store.compareAndSet(id, Buffer.from("expected-secret"), Buffer.from("envelope-secret")),
          store.set(id, Buffer.from("envelope-secret"), { ttlMs: MINUTE_MS, condition: "absent" }),
        ];
        for (const failure of failures) {
          const error: unknown = await failure.then(
            () => assert.fail("it answered"),
            (reason: unknown) => reason,
          );
          const text = inspect(error, { depth: 10, showHidden: true }) + JSON.stringify(error);
          assert.equal((error as { code?: unknown }).code, "STORE_UNAVAILABLE");
          for (const secret of [id, "secret", Buffer.from("secret").toString("hex")])
            assert.ok(!text.includes(secret), text);
        }
        await client.del(`session:${id}`);
      });

      it("passes over keys under its prefix that cannot be its own when it scans", async () => {
        const client = connect();
        const namespace = freshNamespace();
        const [store, id] = [redisStore(client, { namespace }), randomUUID()];
        await store.set(id, ENVELOPE, { ttlMs: MINUTE_MS });
        const prefix = Buffer.from(`${namespace}:session:`);
        for (const rest of [Buffer.alloc(0), Buffer.from("{tag}"), Buffer.from([0xff, 0xfe]), Buffer.alloc(600, "x")]) {
          await client.set(Buffer.concat([prefix, rest]), "foreign", "PX", MINUTE_MS);
        }
        assert.deepEqual(await scanned(store), [id]);
      });

      it("takes a namespace of glob characters for what it is when it scans", async () => {
        const client = connect();
        const [odd, other] = ["a*[b]?\\c", "axb1\\c"].map((namespace) => redisStore(client, { namespace }));
        assert.ok(odd !== undefined && other !== undefined);
        await odd.set("odd", ENVELOPE, { ttlMs: MINUTE_MS });
        await other.set("other", ENVELOPE, { ttlMs: MINUTE_MS });
        assert.deepEqual(await scanned(odd), ["odd"]);
        await odd.destroy("odd");
        await other.destroy("other");
      });
    });

    describe("redisKeyRingStore", () => {
      const keyId = () => randomBytes(12).toString("base64url");

      it("writes a hash without expiry where the format says, and takes an expiry away", async () => {
        const client = connect();
        const store = redisKeyRingStore(client);
        const [ring, id] = [randomUUID(), keyId()];
        await store.write(ring, id, ENVELOPE);
        const fields = await client.hgetallBuffer(`session-keys:${ring}`);
        assert.deepEqual(
          Object.entries(fields).map(([field, value]) => [field, new Uint8Array(value)]),
          [[id, ENVELOPE]],
        );
        await client.pexpire(`session-keys:${ring}`, MINUTE_MS);
        await store.read(ring);
        assert.equal(await client.pttl(`session-keys:${ring}`), -1);
        await client.del(`session-keys:${ring}`);
        await store.close();
      });

      it("passes over fields that are no key ids, and says so once", async () => {
        const client = connect();
        const warnings: RedisWarning[] = [];
        const namespace = freshNamespace();
        const store = redisKeyRingStore(client, { namespace, onWarning: (warning) => warnings.push(warning) });
        await client.hset(
          `${namespace}:session-keys:main`,
          "note",
          "x",
          "__proto__",
          "y",
          "A".repeat(15).concat("+"),
          "z",
        );
        const id = keyId();
        assert.equal((await store.write("main", id, ENVELOPE, { onlyIfKeyIds: [] })).written, true);
        for (let reads = 0; reads < 2; reads++) {
          assert.deepEqual(
            (await store.read("main")).map((stored) => stored.keyId),
            [id],
          );
        }
        assert.deepEqual(
          warnings.map(({ code }) => code),
          ["RING_FIELD_IGNORED"],
        );
        await store.close();
      });

      it("reads no ring that somebody has filled: 16 MiB and 65,536 fields are the most", async () => {
        const client = connect();
        const namespace = freshNamespace();
        const store = redisKeyRingStore(client, { namespace });
        const id = keyId();
        await store.write("main", id, ENVELOPE);
        const key = `${namespace}:session-keys:main`;
        const isRefused = () => assert.rejects(store.read("main"), { code: "STORE_UNAVAILABLE" });

        await client.hset(key, keyId(), Buffer.alloc(16 * 1_048_576));
        await isRefused();
        await client.del(key);
        await store.write("main", id, ENVELOPE);
        const many = Array.from({ length: 65_536 }, (_, n) => [`junk ${n}`, "x"]).flat();
        for (let from = 0; from < many.length; from += 8192) await client.hset(key, ...many.slice(from, from + 8192));
        await isRefused();
        await client.hdel(key, "junk 0");
        assert.deepEqual(
          (await store.read("main")).map((stored) => stored.keyId),
          [id],
        );
        await client.del(key);
        await store.close();
      });

      it("replaces a value that is empty or longer than any record: somebody else has put it there", async () => {
        const client = connect();
        const namespace = freshNamespace();
        const store = redisKeyRingStore(client, { namespace });
        for (const junk of [Buffer.alloc(0), Buffer.alloc(100_000)]) {
          const id = keyId();
          await client.hset(`${namespace}:session-keys:main`, id, junk);
          assert.equal((await store.write("main", id, ENVELOPE, { expected: junk })).written, true);
          assert.deepEqual(
            (await store.read("main")).find((stored) => stored.keyId === id)?.record,
            new Uint8Array(ENVELOPE),
          );
        }
        await store.close();
      });

      it("warns where Redis may evict the ring", async () => {
        const client = connect();
        await client.get("connects a cluster");
        const masters = "nodes" in client ? client.nodes("master") : [client];
        const configure = async (policy: string, maxmemory: string) => {
          for (const node of masters) {
            await node.config("SET", "maxmemory-policy", policy);
            await node.config("SET", "maxmemory", maxmemory);
          }
        };
        const warnings: RedisWarning[] = [];
        const store = redisKeyRingStore(client, { onWarning: (warning) => warnings.push(warning) });
        await configure("allkeys-lru", "4gb");
        try {
          await store.read("main");
          await untilNothingMissing("a warning", () => (warnings.length > 0 ? undefined : "RING_MAY_BE_EVICTED"));
        } finally {
          await configure("noeviction", "0");
        }
        assert.deepEqual(
          warnings.map(({ code }) => code),
          ["RING_MAY_BE_EVICTED"],
        );
        assert.match(warnings[0]?.message ?? "", /allkeys-lru/);
        await store.close();
      });

      it("rejects with CLOSED after close, and leaves the client open", async () => {
        const client = connect();
        const store = redisKeyRingStore(client, { namespace: freshNamespace() });
        await store.write("main", keyId(), ENVELOPE);
        await store.close();
        await store.close();
        for (const call of [store.read("main"), store.write("main", keyId(), ENVELOPE), store.now()]) {
          await assert.rejects(call, { code: "CLOSED" });
        }
        assert.equal(await client.get("nothing"), null);
      });
    });
  });
}

async function scanned(store: EnvelopeStore): Promise<string[]> {
  const met: string[] = [];
  for await (const id of store.scan()) met.push(id);
  return met;
}
