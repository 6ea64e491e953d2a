import assert from "node:assert/strict";
import { inspect } from "node:util";
import { type EnvelopeStore, hasCode } from "@sealed-session/core";
import { afterEach, beforeEach, describe, it, vi } from "vitest";
import type { RedisClient } from "../src/redis-client.js";
import { redisKeyRingStore } from "../src/redis-key-ring-store.js";
import { redisStore } from "../src/redis-store.js";
import { type Answer, fakeRedis, never, replyError } from "./fake-redis.js";

const MINUTE_MS = 60_000;
const ID = "stored-id-that-nobody-may-see";
const SECRET = "envelope-that-nobody-may-see";
const ENVELOPE = Buffer.from(SECRET);
/** For calls that must reject. */
const noAnswer = (): never => assert.fail("it answered");
const unavailable = (error: unknown) => hasCode(error, "STORE_UNAVAILABLE");

const CALLS: Record<string, (store: EnvelopeStore) => Promise<unknown>> = {
  get: (store) => store.get(ID),
  "get with slideMs": (store) => store.get(ID, { slideMs: MINUTE_MS }),
  "set always": (store) => store.set(ID, ENVELOPE, { ttlMs: MINUTE_MS }),
  "set absent": (store) => store.set(ID, ENVELOPE, { ttlMs: MINUTE_MS, condition: "absent" }),
  "set present": (store) => store.set(ID, ENVELOPE, { ttlMs: MINUTE_MS, condition: "present" }),
  compareAndSet: (store) => store.compareAndSet(ID, ENVELOPE, Buffer.from("new")),
  touch: (store) => store.touch(ID, MINUTE_MS),
  destroy: (store) => store.destroy(ID),
  ttlMs: (store) => store.ttlMs(ID),
};

describe("redisStore's deadline", () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  for (const [name, call] of Object.entries(CALLS)) {
    it(`ends ${name} after exactly commandTimeoutMs when Redis is silent`, async () => {
      const store = redisStore(fakeRedis(never), { commandTimeoutMs: 250 });
      let settled: unknown;
      call(store).then(noAnswer, (error: unknown) => {
        settled = error;
      });
      await vi.advanceTimersByTimeAsync(249);
      assert.equal(settled, undefined);
      await vi.advanceTimersByTimeAsync(1);
      assert.ok(unavailable(settled));
      assert.match(String(settled), /no answer within 250 ms/);
    });
  }

  it("is one second by default", async () => {
    let settled = false;
    redisStore(fakeRedis(never))
      .get(ID)
      .catch(() => {
        settled = true;
      });
    await vi.advanceTimersByTimeAsync(999);
    assert.equal(settled, false);
    await vi.advanceTimersByTimeAsync(1);
    assert.equal(settled, true);
  });

  it("covers both commands of a refused absent together", async () => {
    const answer: Answer = async (command) => {
      if (command !== "set") return never();
      await new Promise((resolve) => setTimeout(resolve, 200));
      return null;
    };
    let settled = false;
    CALLS["set absent"]?.(redisStore(fakeRedis(answer), { commandTimeoutMs: 250 })).catch(() => {
      settled = true;
    });
    await vi.advanceTimersByTimeAsync(250);
    assert.equal(settled, true);
  });

  it("leaves no timer behind when Redis answers or fails", async () => {
    const store = redisStore(fakeRedis((command) => (command === "getBuffer" ? null : new Error("failed"))));
    assert.equal(await store.get(ID), undefined);
    await assert.rejects(store.touch(ID, MINUTE_MS), unavailable);
    assert.equal(vi.getTimerCount(), 0);
  });

  it("makes nothing of a failure that comes after it", async () => {
    const store = redisStore(
      fakeRedis(() => new Promise((_, reject) => setTimeout(reject, 500, new Error("too late")))),
      { commandTimeoutMs: 250 },
    );
    const call = assert.rejects(store.get(ID), unavailable);
    await vi.advanceTimersByTimeAsync(1_000);
    await call;
  });
});

describe("redisStore's errors", () => {
  const failures: Record<string, (command: string, args: readonly unknown[]) => Error> = {
    "unknown command that quotes": (command, args) =>
      replyError(`ERR unknown command '${command}', with args beginning with: '${args.join("' '")}'`, command, args),
    CLUSTERDOWN: (command, args) => replyError("CLUSTERDOWN The cluster is down", command, args),
    LOADING: (command, args) => replyError("LOADING Redis is loading the dataset in memory", command, args),
    READONLY: (command, args) => replyError("READONLY You can't write against a read only replica.", command, args),
    MASTERDOWN: (command, args) => replyError("MASTERDOWN Link with MASTER is down", command, args),
    TRYAGAIN: (command, args) => replyError("TRYAGAIN Multiple keys request during rehashing of slot", command, args),
    MOVED: (command, args) => replyError("MOVED 1234 127.0.0.1:7001", command, args),
    OOM: (command, args) => replyError("OOM command not allowed when used memory > 'maxmemory'.", command, args),
    WRONGTYPE: (command, args) => replyError("WRONGTYPE Operation against a key of the wrong kind", command, args),
    NOREPLICAS: (command, args) => replyError("-NOREPLICAS Not enough good replicas to write.", command, args),
    MaxRetriesPerRequestError: () =>
      namedError("MaxRetriesPerRequestError", "Reached the max retries per request limit"),
    "connection closed": () => new Error("Connection is closed."),
    "command timed out": () => new Error("Command timed out"),
    AbortError: (command, args) =>
      Object.assign(namedError("AbortError", "Command aborted due to connection close"), {
        command: { name: command, args },
      }),
    "too many redirections": (_, args) =>
      new Error(`Too many Cluster redirections. Last error: ReplyError: ERR wrong ${args.join(" ")}`),
    ECONNREFUSED: () =>
      Object.assign(new Error("connect ECONNREFUSED 127.0.0.1:6379"), {
        code: "ECONNREFUSED",
        syscall: "connect",
        port: 6379,
      }),
    "a cause of its own": (command, args) => new Error("failed", { cause: replyError("ERR x", command, args) }),
  };

  for (const [what, failure] of Object.entries(failures)) {
    it(`are STORE_UNAVAILABLE with a cause and without id or bytes: ${what}`, async () => {
      const store = redisStore(fakeRedis((command, args) => failure(command, args)));
      for (const [name, call] of Object.entries(CALLS)) {
        const error: unknown = await call(store).then(noAnswer, (reason: unknown) => reason);
        assert.ok(unavailable(error), name);
        assert.ok(error instanceof Error && error.cause instanceof Error, name);
        assertShowsNothing(error);
      }
      const scanning = async () => {
        for await (const _ of redisStore(
          fakeRedis((c, a) => failure(c, a)),
          { failoverTimeoutMs: 1 },
        ).scan());
      };
      await assert.rejects(scanning, unavailable);
    });
  }

  it("keep what helps: the word of Redis's reply, and the system's code", async () => {
    const loading = redisStore(fakeRedis((command, args) => replyError("LOADING Redis is loading", command, args)));
    await assert.rejects(loading.get(ID), /it answered LOADING/);
    const prefaces = {
      "@user_script: 1: -READONLY You can't write against a read only replica.": /it answered READONLY$/,
      "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -OOM command not allowed":
        /it answered OOM$/,
      "ERR Error running script (call to f_1): @user_script:2: WRONGTYPE Operation": /it answered WRONGTYPE$/,
      "no code at all": /it answered with an error$/,
    };
    for (const [message, expected] of Object.entries(prefaces)) {
      const store = redisStore(fakeRedis((command, args) => replyError(message, command, args)));
      await assert.rejects(store.get(ID), (error: Error) => expected.test(error.message));
    }
    const refused = Object.assign(new Error("connect ECONNREFUSED 127.0.0.1:6379"), {
      code: "ECONNREFUSED",
      port: 6379,
    });
    const error: unknown = await redisStore(fakeRedis(() => refused))
      .get(ID)
      .catch((reason: unknown) => reason);
    assert.ok(error instanceof Error && error.cause instanceof Error);
    assert.equal(Reflect.get(error.cause, "code"), "ECONNREFUSED");
    assert.equal(Reflect.get(error.cause, "port"), 6379);
  });

  it("are the same when a client throws at once, as with auto-pipelining and a slot without a node", async () => {
    const client = fakeRedis(() => null);
    const throwing = new Proxy(client, {
      get: (target, name) => {
        if (name !== "getBuffer") return Reflect.get(target, name);
        return () => {
          throw new TypeError("Cannot read properties of undefined (reading 'join')");
        };
      },
    });
    await assert.rejects(redisStore(throwing).get(ID), unavailable);
  });

  it("are the same for what is no error at all", async () => {
    await assert.rejects(redisStore(fakeRedis(() => Promise.reject("nonsense"))).get(ID), unavailable);
  });
});

describe("redisStore's commands", () => {
  it("send a script's text only to a server that does not know it", async () => {
    const sent: string[] = [];
    let known = false;
    const store = redisStore(
      fakeRedis((command, args) => {
        sent.push(command);
        if (command === "evalsha" && !known) return replyError("NOSCRIPT No matching script.", command, args);
        known = true;
        return 1;
      }),
    );
    assert.equal(await store.compareAndSet(ID, ENVELOPE, Buffer.from("new")), true);
    assert.equal(await store.compareAndSet(ID, ENVELOPE, Buffer.from("new")), true);
    assert.deepEqual(sent, ["evalsha", "eval", "evalsha"]);
  });

  it("hand bytes over as Buffers: ioredis would make text of another array", async () => {
    const values: unknown[] = [];
    const store = redisStore(
      fakeRedis((command, args) => {
        values.push(...args.filter((arg) => arg instanceof Uint8Array));
        return command === "set" ? "OK" : 1;
      }),
    );
    const larger = Uint8Array.of(0, 1, 2, 3, 255, 5);
    await store.set(ID, larger.subarray(1, 5), { ttlMs: 1 });
    await store.compareAndSet(ID, larger.subarray(0, 1), larger.subarray(5));
    assert.deepEqual(values, [Buffer.of(1, 2, 3, 255), Buffer.of(0), Buffer.of(5)]);
    assert.ok(values.every((value) => Buffer.isBuffer(value)));
  });

  it("understand numbers that the client hands on as text", async () => {
    const store = redisStore(fakeRedis((command) => (command === "pttl" ? "1500" : "1")));
    assert.equal(await store.touch(ID, 5), true);
    assert.equal(await store.destroy(ID), true);
    assert.equal(await store.compareAndSet(ID, ENVELOPE, ENVELOPE), true);
    assert.equal(await store.ttlMs(ID), 1500);
  });
});

describe("redisStore's arguments", () => {
  const client = fakeRedis(() => null);

  it("are refused where a client would change keys behind its back", () => {
    assert.throws(() => redisStore(fakeRedis(() => null, { keyPrefix: "app:" })), /keyPrefix/);
    const cluster = { ...fakeCluster(), options: { redisOptions: { keyPrefix: "app:" } } };
    assert.throws(() => redisStore(cluster), /keyPrefix/);
    assert.throws(() => redisKeyRingStore(cluster), /keyPrefix/);
  });

  it("are refused when the client is none of ioredis", () => {
    for (const wrong of [undefined, null, {}, { isCluster: false, options: {} }, "redis://localhost"]) {
      assert.throws(() => redisStore(wrong as never), TypeError);
      assert.throws(() => redisKeyRingStore(wrong as never), TypeError);
    }
  });

  it("hold replicaReads only for a cluster that reads from replicas", () => {
    assert.throws(() => redisStore(client, { replicaReads: true }), TypeError);
    for (const scaleReads of [undefined, "master"]) {
      assert.throws(() => redisStore({ ...fakeCluster(), options: { scaleReads } }, { replicaReads: true }), TypeError);
    }
    for (const scaleReads of ["slave", "all", () => []]) {
      assert.ok(redisStore({ ...fakeCluster(), options: { scaleReads } }, { replicaReads: true }));
    }
  });

  for (const namespace of ["{eu}", "a{b", "a}b", "\ud800", "x".repeat(129), "session", "eu:session", "session:eu"]) {
    it(`hold no namespace ${inspect(namespace.slice(0, 20))}`, () => {
      assert.throws(() => redisStore(client, { namespace }), RangeError);
      assert.throws(() => redisKeyRingStore(client, { namespace }), RangeError);
    });
  }

  it("hold times from 1 ms to an hour", () => {
    for (const timeout of [0, -1, 0.5, 3_600_001, Number.NaN]) {
      assert.throws(() => redisStore(client, { commandTimeoutMs: timeout }), RangeError);
      assert.throws(() => redisStore(client, { failoverTimeoutMs: timeout }), RangeError);
      assert.throws(() => redisKeyRingStore(client, { commandTimeoutMs: timeout }), RangeError);
      assert.throws(() => redisKeyRingStore(client, { waitTimeoutMs: timeout }), RangeError);
    }
    assert.throws(() => redisStore(client, { commandTimeoutMs: "1000" as never }), TypeError);
    assert.throws(() => redisKeyRingStore(client, { onWarning: "console" as never }), TypeError);
  });

  it("are refused before a command is sent", async () => {
    const sent: string[] = [];
    const store = redisStore(fakeRedis((command) => sent.push(command)));
    await assert.rejects(store.set(ID, ENVELOPE, { ttlMs: 5, condition: "never" as never }), RangeError);
    await assert.rejects(store.set(ID, "text" as never, { ttlMs: 5 }), TypeError);
    await assert.rejects(store.get(5 as never), TypeError);
    await assert.rejects(store.touch("{a}", 5), RangeError);
    assert.deepEqual(sent, []);
  });
});

function namedError(name: string, message: string): Error {
  return Object.assign(new Error(message), { name });
}

function fakeCluster() {
  const client = fakeRedis(() => null) as unknown as RedisClient;
  return Object.assign(Object.create(null) as object, {
    isCluster: true,
    options: {},
    slots: [],
    nodes: () => [],
    refreshSlotsCache: () => {},
    pipeline: () => ({ exec: async () => [] }),
    evalBuffer: client.evalBuffer,
  }) as never as Extract<RedisClient, { slots: unknown }>;
}

function assertShowsNothing(error: unknown): void {
  const texts = [
    inspect(error, { depth: Number.POSITIVE_INFINITY, showHidden: true, maxStringLength: null, maxArrayLength: null }),
    JSON.stringify(error, Object.getOwnPropertyNames(error)),
    String((error as Error).stack),
    String(((error as Error).cause as Error).stack),
  ];
  for (const text of texts) {
    for (const secret of [
      ID,
      SECRET,
      ENVELOPE.toString("hex"),
      ENVELOPE.toString("base64"),
      [...ENVELOPE].join(", "),
    ]) {
      assert.ok(!text.includes(secret), text);
    }
    assert.doesNotMatch(text, /Buffer/);
  }
}
