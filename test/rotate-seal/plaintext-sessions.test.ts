/**
 * Sessions in clear in Redis: how they are read, removed and told from those that somebody has ended, on one server and on a cluster.
 */
import { randomBytes } from "node:crypto";
import { KeyRing, localKms, memoryKeyRingStore, parseEnvelope, Sealer, SessionStore } from "@sealed-session/core";
import { type PlaintextSessionsOptions, plaintextSessions, redisStore } from "@sealed-session/redis";
import { type SealRedisSessionsOptions, sealPlaintextSessions } from "@sealed-session/redis/rotate";
import type { Cluster, Redis } from "ioredis";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Deployment, freshNamespace, KINDS } from "../adapters/redis-deployment.js";

const HOUR_MS = 3_600_000;
const ID = "an-id-of-connect-redis";
const ADA = '{"user":"ada"}';

const bytesOf = (text: string) => new TextEncoder().encode(text);

describe.each(KINDS)("sessions in clear in $name", (kind) => {
  let deployment: Deployment;
  let client: Redis | Cluster;
  let ring: KeyRing;
  beforeAll(async () => {
    deployment = await kind.start();
    client = deployment.connect();
    process.env["PLAINTEXT_KEY"] = randomBytes(32).toString("base64url");
    ring = new KeyRing({ name: "web", kms: localKms({ keyVariable: "PLAINTEXT_KEY" }), store: memoryKeyRingStore() });
    await ring.ready();
  });
  afterAll(async () => {
    ring?.close();
    client?.disconnect();
    await deployment?.stop();
  });

  /** A prefix of its own, which means something in patterns. */
  const open = (options: PlaintextSessionsOptions = {}) => {
    const prefix = `[${freshNamespace()}]*:`;
    return { prefix, key: prefix + ID, from: plaintextSessions(client, { prefix, ...options }) };
  };
  const seal = (options: Partial<SealRedisSessionsOptions>) =>
    sealPlaintextSessions({ client, ring, sealer: new Sealer({ ring, counted: true }), ...options });

  it.each(kind.clients)("are read with what is left of their time by %s", async (name) => {
    const own = deployment.connect(name);
    const { key, prefix } = open();
    const from = plaintextSessions(own, { prefix });
    await client.set(key, ADA, "PX", HOUR_MS);
    const { raw, ttlMs = 0 } = (await from.read(ID)) ?? {};
    expect(from.parse(raw as Uint8Array)).toEqual({ user: "ada" });
    expect(ttlMs).toBeGreaterThan(HOUR_MS - 5000);
    expect(ttlMs).toBeLessThanOrEqual(HOUR_MS);
    expect(await from.remove(ID, raw as Uint8Array)).toBe("removed");
    own.disconnect();
  });

  it("may have no end, not be there, or be something else", async () => {
    const { key, prefix, from } = open();
    await client.set(key, ADA);
    await client.hset(`${prefix}a-hash-of-somebody`, "a", "b");
    expect(await from.read(ID)).toMatchObject({ ttlMs: undefined });
    expect(await from.read("an-id-of-nobody-at-all")).toBeUndefined();
    expect(await from.read("a-hash-of-somebody")).toBeUndefined();
    expect(await from.destroy("a-hash-of-somebody")).toBe(false);
    expect(await client.hget(`${prefix}a-hash-of-somebody`, "a")).toBe("b");
  });

  it("are removed once, and it can be said again; a change and a logout are told from it", async () => {
    const { key, from } = open();
    expect(await from.remove(ID, bytesOf(ADA))).toBe("gone");
    await client.set(key, ADA, "PX", HOUR_MS);
    expect(await from.remove(ID, bytesOf('{"user":"bob"}'))).toBe("changed");
    expect(await from.remove(ID, bytesOf(ADA))).toBe("removed");
    expect(await from.remove(ID, bytesOf(ADA))).toBe("removed");
    expect(await from.read(ID)).toBeUndefined();
    expect(await client.pttl(key)).toBeLessThanOrEqual(30_000);
    expect(await from.destroy(ID)).toBe(false);
    expect(await client.exists(key)).toBe(0);
  });

  it("are ended", async () => {
    const { key, from } = open();
    await client.set(key, ADA, "PX", HOUR_MS);
    expect(await from.destroy(ID)).toBe(true);
    expect(await from.destroy(ID)).toBe(false);
    expect(await from.remove(ID, bytesOf(ADA))).toBe("gone");
  });

  it("that are not UTF-8 do not parse", async () => {
    const { key, from } = open();
    await client.set(key, Buffer.from([0x22, 0xff, 0x22]));
    const found = await from.read(ID);
    expect(() => from.parse(found?.raw as Uint8Array)).toThrow();
  });

  it("are sealed under the session store's keys, each with its time", async () => {
    const { prefix } = open();
    const namespace = freshNamespace();
    for (let index = 0; index < 100; index++) await client.set(`${prefix}${ID}-${index}`, ADA, "PX", HOUR_MS);
    await client.set(`${prefix}${ID}-endless`, ADA);
    await client.set(`${prefix}${ID}-{braces}`, ADA, "PX", HOUR_MS);
    await client.set(`${prefix}${ID}-bad`, "{", "PX", HOUR_MS);
    await client.set(`${prefix}short`, ADA, "PX", HOUR_MS);
    const expected = { examined: 104, sealed: 102, unreadable: 1, skipped: { "whose key holds no session id": 1 } };
    expect(await seal({ prefix, namespace, dryRun: true })).toMatchObject(expected);
    expect(await client.get(`${prefix}${ID}-0`)).toBe(ADA);
    expect(await seal({ prefix, namespace, idleMs: 60_000 })).toMatchObject(expected);
    const sessions = new SessionStore({ ring, store: redisStore(client, { namespace }), sliding: false });
    expect(await sessions.get(`${ID}-99`)).toEqual({ user: "ada" });
    expect(await sessions.get(`${ID}-{braces}`)).toEqual({ user: "ada" });
    expect(await sessions.get(`${ID}-endless`)).toEqual({ user: "ada" });
    expect([...(await sessions.countByKey()).values()]).toEqual([102]);
  });

  it("are sealed in place, where their keys are the session store's", async () => {
    const namespace = freshNamespace();
    const prefix = `${namespace}:session:`;
    const store = redisStore(client, { namespace });
    await client.set(prefix + ID, ADA, "PX", HOUR_MS);
    const sessions = new SessionStore({ ring, store, storedIds: "verbatim", sliding: false });
    await sessions.create({ user: "eve" }, "an-id-that-is-sealed");
    expect(await seal({ prefix, namespace, storedIds: "verbatim" })).toMatchObject({
      sealed: 1,
      skipped: { "sealed already": 1 },
    });
    expect(parseEnvelope((await client.getBuffer(prefix + ID)) as Buffer)).toBeDefined();
    expect(await store.ttlMs(ID)).toBeGreaterThan(HOUR_MS - 5000);
    expect(await sessions.get(ID)).toEqual({ user: "ada" });
    expect(await sessions.get("an-id-that-is-sealed")).toEqual({ user: "eve" });
  });

  it.each([
    ["prefix", ""],
    ["prefix", "s".repeat(257)],
    ["commandTimeoutMs", 0],
  ])("want a %s that is none of %j", (field, value) => {
    expect(() => plaintextSessions(client, { [field]: value })).toThrow(RangeError);
  });
});
