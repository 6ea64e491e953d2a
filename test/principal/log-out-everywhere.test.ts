/**
 * "Log out everywhere" on a real cluster: a thousand devices, logins at the same time, and what the servers see and hold of whom it was about.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { hasCode, KeyRing, localKms, SessionStore, type SessionStoreOptions, storedIdOf } from "@sealed-session/core";
import { redisKeyRingStore, redisPrincipalIndex, redisStore } from "@sealed-session/redis";
import { type RedisCluster, startRedisCluster, untilNothingMissing } from "@sealed-session/test/servers";
import { Cluster } from "ioredis";
import { afterAll, beforeAll, describe, expect, test, vi } from "vitest";
import { type Needle, NeedleSearch } from "../flow/needle-search.js";
import { randomText, sessionIdNeedles } from "../flow/planted-sessions.js";
import { SOURCES, startServerCapture, TELLTALE_CONFIG } from "../flow/server-capture.js";

const DEVICES = 1000;
const AT_A_TIME = 50;
const LOCAL_KEY_VARIABLE = "SEALED_SESSION_TEST_LOCAL_KEY";
/** Time for a machine that does other things as well. */
const PATIENT = { commandTimeoutMs: 10_000 };

interface Session {
  user: string;
  device: string;
}

describe.each([
  ["sessions that the store can open", {}],
  ["sessions that are bound to their clients", { clientBound: true }],
] as const)("with %s", (_, mode) => {
  let run: Awaited<ReturnType<typeof observe>>;
  beforeAll(async () => {
    run = await observe(mode);
  });

  test("none of a thousand devices is logged in any more, and everybody else is", () => {
    expect(run.old).toHaveLength(DEVICES);
    expect(run.oldThatOpen).toEqual([]);
    expect(run.ended).toBeGreaterThanOrEqual(DEVICES + 30);
    expect(run.othersThatOpen).toBe(run.others.length);
  });

  test("a login at the same time either has failed, or its session has ended, or it is found by the next one", () => {
    expect(run.concurrent.length).toBeGreaterThan(50);
    for (const { error } of run.concurrent)
      assert.ok(error === undefined || hasCode(error, "LOGIN_OVERTAKEN"), String(error));
    expect(run.concurrentThatOpen).toBe(run.listedAfterwards);
    expect(run.endedAfterwards).toBe(run.listedAfterwards);
  });

  test("as many session keys are left on the servers as sessions open, and every index key expires", () => {
    expect(run.keysOnServers.session).toBe(run.others.length + run.concurrentThatOpen);
    expect(run.keysOnServers.sessionAfterwards).toBe(run.others.length);
    expect(run.withoutExpiry).toEqual([]);
  });

  test("no command has more than one key", () => {
    const allowed = ["SET", "GET", "GETEX", "GETDEL", "UNLINK", "EVAL", "EVALSHA", "PTTL", "PEXPIRE"];
    const others = [
      "MONITOR",
      "AUTH",
      "HELLO",
      "CLIENT",
      "INFO",
      "CLUSTER",
      "COMMAND",
      "PING",
      "ECHO",
      "WAIT",
      "SCAN",
      "READONLY",
      "PSYNC",
      "REPLCONF",
      "SELECT",
      "CONFIG",
      "ROLE",
      "SLOWLOG",
      "TIME",
      "ASKING",
      "DEBUG",
      "DBSIZE",
    ];
    const seen = [
      ...new Set(run.nodes.filter(({ role }) => role === "master").flatMap(({ monitored }) => [...monitored.keys()])),
    ];
    expect(seen.filter((name) => !allowed.includes(name) && !others.includes(name))).toEqual([]);
  });

  test("neither a principal, nor a device, nor a session id is in anything that the servers saw or hold", () => {
    const found: string[] = [];
    for (const node of run.nodes) {
      for (const source of SOURCES) {
        for (const needle of run.search.find([node.bytes[source]]).keys()) {
          if (needle.kind !== "stored id") found.push(`${needle.kind} in ${source} of a ${node.role}`);
        }
      }
    }
    expect(found).toEqual([]);
    // The search is one that finds: what may be seen was seen.
    const landmarks = new Set(run.nodes.flatMap(({ bytes }) => [...run.search.find([bytes.MONITOR]).keys()]));
    expect(landmarks.size).toBe(run.landmarks);
  });

  async function observe(options: Partial<SessionStoreOptions<Session>>) {
    const cluster = await startRedisCluster({ config: TELLTALE_CONFIG });
    vi.stubEnv(LOCAL_KEY_VARIABLE, randomBytes(32).toString("base64url"));
    const close: (() => unknown)[] = [() => cluster.stop()];
    try {
      const capture = await startServerCapture(cluster);
      const open = () => {
        const client = new Cluster(cluster.addresses());
        const kms = localKms({ keyVariable: LOCAL_KEY_VARIABLE });
        const keys = redisKeyRingStore(client, PATIENT);
        const [ring, indexRing] = [
          new KeyRing({ name: "web", kms, store: keys }),
          new KeyRing({ name: "index:web", kms, store: keys }),
        ];
        close.unshift(
          () => ring.close(),
          () => indexRing.close(),
          () => keys.close(),
          () => client.disconnect(),
        );
        return new SessionStore<Session>({
          ring,
          store: redisStore(client, PATIENT),
          absoluteSeconds: 7200,
          principal: ({ user }) => user,
          device: ({ device }) => ({ device }),
          principalIndex: { store: redisPrincipalIndex(client, PATIENT), ring: indexRing },
          ...options,
        });
      };
      // Two processes that share nothing but the servers and the KMS.
      const [first, second] = [open(), open()];
      const needles: Needle[] = [];
      const planted = (user: string): Session => {
        const device = randomText();
        needles.push({ kind: "device", value: device });
        return { user, device };
      };
      const user = randomText();
      needles.push({ kind: "principal", value: user });
      const old = await inBatches(DEVICES, (index) => (index % 2 === 0 ? first : second).create(planted(user)));
      const others = await inBatches(60, async () => {
        const other = randomText();
        needles.push({ kind: "principal", value: other });
        return first.create(planted(other));
      });
      const listed = await first.listFor(user);
      assert.equal(listed.length, DEVICES);
      const devices = new Set(listed.map(({ device }) => (device as Session).device));
      assert.equal(devices.size, DEVICES);

      const concurrent: { id: string | undefined; error: unknown }[] = [];
      let isEnding = true;
      const logIn = async (sessions: SessionStore<Session>) => {
        while (isEnding) {
          try {
            concurrent.push({ id: await sessions.create(planted(user)), error: undefined });
          } catch (error) {
            concurrent.push({ id: undefined, error });
          }
        }
      };
      const logins = Array.from({ length: 16 }, (_, index) => logIn(index % 2 === 0 ? first : second));
      await untilNothingMissing("logins before", () => (concurrent.length >= 30 ? undefined : "some"), {
        intervalMs: 1,
      });
      const startedAt = performance.now();
      const ended = await second.destroyAllFor(user);
      const ms = performance.now() - startedAt;
      const soFar = concurrent.length;
      await untilNothingMissing("logins after", () => (concurrent.length >= soFar + 30 ? undefined : "some"), {
        intervalMs: 1,
      });
      isEnding = false;
      await Promise.all(logins);

      const opens = async (ids: readonly (string | undefined)[]) => {
        const found = await inBatches(ids.length, async (index) => {
          const id = ids[index];
          return id !== undefined && (await first.get(id)) !== undefined ? id : undefined;
        });
        return found.filter((id) => id !== undefined);
      };
      const oldThatOpen = await opens(old);
      const concurrentThatOpen = (await opens(concurrent.map(({ id }) => id))).length;
      const othersThatOpen = (await opens(others)).length;
      const session = await countKeys(cluster, "session:*");
      const listedAfterwards = (await first.listFor(user)).length;
      const withoutExpiry = await keysWithoutExpiry(cluster, "session-index:*");
      const endedAfterwards = await first.destroyAllFor(user);
      const sessionAfterwards = await countKeys(cluster, "session:*");
      const nodes = await capture.finish();

      const ids = [...old, ...others, ...concurrent.flatMap(({ id }) => id ?? [])];
      const landmarks = ids.map((id): Needle => ({ kind: "stored id", value: storedIdOf(id) as string }));
      process.stdout.write(
        `${cluster.source}: ${DEVICES} devices logged out in ${Math.round(ms)} ms, ${concurrent.length} logins meanwhile, of which ` +
          `${concurrent.filter(({ error }) => error !== undefined).length} were overtaken and ${concurrentThatOpen} live\n`,
      );
      return {
        nodes,
        old,
        others,
        ended,
        oldThatOpen,
        othersThatOpen,
        concurrent,
        concurrentThatOpen,
        listedAfterwards,
        endedAfterwards,
        withoutExpiry,
        keysOnServers: { session, sessionAfterwards },
        search: new NeedleSearch([...needles, ...ids.flatMap(sessionIdNeedles), ...landmarks]),
        landmarks: landmarks.length,
      };
    } finally {
      vi.unstubAllEnvs();
      for (const end of close) await end();
    }
  }
});

describe("an application on one cluster", () => {
  let cluster: RedisCluster;
  beforeAll(async () => {
    cluster = await startRedisCluster();
  });
  afterAll(() => cluster.stop());

  test("logs out thieves too, who give their sessions another id as fast as they can", async () => {
    vi.stubEnv(LOCAL_KEY_VARIABLE, randomBytes(32).toString("base64url"));
    const client = new Cluster(cluster.addresses());
    const kms = localKms({ keyVariable: LOCAL_KEY_VARIABLE });
    const keys = redisKeyRingStore(client, PATIENT);
    const [ring, indexRing] = [
      new KeyRing({ name: "web", kms, store: keys }),
      new KeyRing({ name: "index:web", kms, store: keys }),
    ];
    try {
      const store = redisStore(client, PATIENT);
      const open = (own: Partial<SessionStoreOptions<Session>> = {}) =>
        new SessionStore<Session>({
          ring,
          store,
          absoluteSeconds: 7200,
          principal: ({ user }) => user,
          principalIndex: { store: redisPrincipalIndex(client, PATIENT), ring: indexRing },
          ...own,
        });
      const sessions = open();
      for (const user of ["first", "second", "third"]) {
        const devices = await inBatches(50, () => sessions.create({ user, device: "" }));
        const thieves = Array.from({ length: 8 }, () => ({ moves: 0, isOver: false }));
        let isStealing = true;
        const steal = async (thief: (typeof thieves)[0]) => {
          let id: string | undefined = await sessions.create({ user, device: "stolen" });
          while (isStealing && id !== undefined) {
            try {
              id = await sessions.regenerate(id);
              thief.moves++;
            } catch (error) {
              assert.ok(hasCode(error, "LOGIN_OVERTAKEN"), String(error));
              id = undefined;
            }
          }
          thief.isOver = true;
          return id;
        };
        const stolen = thieves.map(steal);
        const untilMoved = async (times: number) => {
          const before = thieves.map(({ moves }) => moves);
          const waits = () => thieves.some((thief, i) => !thief.isOver && thief.moves < (before[i] as number) + times);
          await untilNothingMissing("moves", () => (waits() ? "some" : undefined), { intervalMs: 1 });
        };
        await untilMoved(2);
        // The logout has seen what there is, and everybody moves on before it ends the first of them.
        let moved: Promise<void> | undefined;
        const slow = new Proxy(store, {
          get: (target, name: keyof typeof store) =>
            name !== "destroy"
              ? (target[name] as () => unknown).bind(target)
              : async (storedId: string) => {
                  moved ??= untilMoved(2);
                  await moved;
                  return target.destroy(storedId);
                },
        });
        await open({ store: slow }).destroyAllFor(user);
        isStealing = false;
        const ids = [...devices, ...(await Promise.all(stolen)).filter((id) => id !== undefined)];
        const living = (await Promise.all(ids.map((id) => sessions.get(id)))).filter(
          (session) => session !== undefined,
        );
        assert.equal(living.length, 0, `${living.length} of 8 thieves have escaped`);
        assert.deepEqual(await sessions.listFor(user), []);
      }
    } finally {
      vi.unstubAllEnvs();
      ring.close();
      indexRing.close();
      await keys.close();
      client.disconnect();
    }
  });

  test("pays four commands for a login and one for every request that follows", async () => {
    vi.stubEnv(LOCAL_KEY_VARIABLE, randomBytes(32).toString("base64url"));
    const client = new Cluster(cluster.addresses());
    const kms = localKms({ keyVariable: LOCAL_KEY_VARIABLE });
    const keys = redisKeyRingStore(client, PATIENT);
    const [ring, indexRing] = [
      new KeyRing({ name: "web", kms, store: keys }),
      new KeyRing({ name: "index:web", kms, store: keys }),
    ];
    try {
      const sessions = new SessionStore<Session>({
        ring,
        store: redisStore(client, PATIENT),
        absoluteSeconds: 7200,
        principal: ({ user }) => user,
        principalIndex: { store: redisPrincipalIndex(client, PATIENT), ring: indexRing },
      });
      // Scripts are known to the servers, and keys to this process, from here on.
      for (let i = 0; i < 30; i++) await sessions.create({ user: `user ${i}`, device: "" });
      const sent = vi.spyOn(client, "sendCommand");
      const names = async (work: () => Promise<unknown>) => {
        sent.mockClear();
        await work();
        return sent.mock.calls.map(([{ name }]) => name);
      };
      let id = "";
      const login = async () => {
        id = await sessions.create({ user: "ada", device: "" });
      };
      expect(await names(login)).toEqual(["evalsha", "set", "evalsha", "evalsha"]);
      const session = (await sessions.get(id)) as Session;
      expect(await names(() => sessions.get(id))).toEqual(["getex"]);
      session.device = "changed";
      expect(await names(() => sessions.set(id, session))).toEqual(["evalsha"]);
    } finally {
      vi.unstubAllEnvs();
      ring.close();
      indexRing.close();
      await keys.close();
      client.disconnect();
    }
  });
});

async function inBatches<T>(count: number, make: (index: number) => Promise<T>): Promise<T[]> {
  const made: T[] = [];
  for (let from = 0; from < count; from += AT_A_TIME) {
    made.push(
      ...(await Promise.all(
        Array.from({ length: Math.min(AT_A_TIME, count - from) }, (_, index) => make(from + index)),
      )),
    );
  }
  return made;
}

async function keysOf(cluster: RedisCluster, pattern: string): Promise<{ key: string; ttlMs: number }[]> {
  const client = new Cluster(cluster.addresses());
  try {
    await client.ping();
    const keys: { key: string; ttlMs: number }[] = [];
    for (const node of client.nodes("master")) {
      let cursor = "0";
      do {
        const [next, page] = await node.scan(cursor, "MATCH", pattern, "COUNT", 1000);
        for (const key of page) keys.push({ key, ttlMs: await node.pttl(key) });
        cursor = next;
      } while (cursor !== "0");
    }
    return keys;
  } finally {
    client.disconnect();
  }
}

async function countKeys(cluster: RedisCluster, pattern: string): Promise<number> {
  return new Set((await keysOf(cluster, pattern)).map(({ key }) => key)).size;
}

async function keysWithoutExpiry(cluster: RedisCluster, pattern: string): Promise<string[]> {
  const keys = await keysOf(cluster, pattern);
  assert.ok(keys.length > 0);
  return keys.filter(({ ttlMs }) => ttlMs < 0).map(({ key }) => key);
}
