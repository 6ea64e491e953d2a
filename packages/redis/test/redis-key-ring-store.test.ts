import assert from "node:assert/strict";
import { hasCode } from "@sealed-session/core";
import { afterEach, beforeEach, describe, it, vi } from "vitest";
import { evictionWarning } from "../src/eviction.js";
import { redisKeyRingStore } from "../src/redis-key-ring-store.js";
import type { RedisWarning } from "../src/warning.js";
import { type Answer, fakeRedis, never, replyError } from "./fake-redis.js";

const KEY_ID = "A".repeat(16);
const RECORD = Uint8Array.of(1, 2, 3);
const unavailable = (error: unknown) => hasCode(error, "STORE_UNAVAILABLE");
const NO_REPLICAS = "# Replication\r\nrole:master\r\nconnected_slaves:0\r\n";
const ONE_REPLICA = "# Replication\r\nrole:master\r\nconnected_slaves:1\r\n";

/** For calls that must reject. */
const noAnswer = (): never => assert.fail("it answered");

function refused(command: string): Error {
  return replyError(`NOPERM this user has no permissions to run the '${command}' command`, command, []);
}

/** A server with the given answers; commands are noted in the order of their arrival. */
function ringServer(answers: Record<string, unknown>) {
  const commands: string[] = [];
  const answer: Answer = (command) => {
    commands.push(command);
    const reply = answers[command];
    return typeof reply === "function" ? (reply as () => unknown)() : reply;
  };
  return { client: fakeRedis(answer), commands };
}

describe("redisKeyRingStore's durability", () => {
  const cases: Record<string, { answers: Record<string, unknown>; durable: boolean; waits: boolean }> = {
    "no replica to wait for": { answers: { info: NO_REPLICAS, eval: 1 }, durable: true, waits: false },
    "a replica that confirms": { answers: { info: ONE_REPLICA, eval: 1, wait: 1 }, durable: true, waits: true },
    "two that confirm": { answers: { info: ONE_REPLICA, eval: 1, wait: 2 }, durable: true, waits: true },
    "none that confirms": { answers: { info: ONE_REPLICA, eval: 1, wait: 0 }, durable: false, waits: true },
    "WAIT refused": { answers: { info: ONE_REPLICA, eval: 1, wait: refused("wait") }, durable: false, waits: true },
    "INFO refused and a replica": { answers: { info: refused("info"), eval: 1, wait: 1 }, durable: true, waits: true },
    "INFO refused and none": { answers: { info: refused("info"), eval: 1, wait: 0 }, durable: false, waits: true },
  };
  for (const [what, { answers, durable, waits }] of Object.entries(cases)) {
    it(`is ${durable} with ${what}`, async () => {
      const { client, commands } = ringServer(answers);
      const store = redisKeyRingStore(client);
      assert.deepEqual(await store.write("main", KEY_ID, RECORD), { written: true, durable });
      assert.deepEqual(commands, waits ? ["info", "eval", "wait"] : ["info", "eval"]);
      await store.close();
    });
  }

  it("is false for what was not written, whatever replicas say", async () => {
    const { client } = ringServer({ info: ONE_REPLICA, eval: 0, wait: 1 });
    assert.deepEqual(await redisKeyRingStore(client).write("main", KEY_ID, RECORD), { written: false, durable: false });
  });
});

describe("redisKeyRingStore's connection for writing", () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  it("is kept, and opened anew after a failure", async () => {
    let fail = false;
    const { client, commands } = ringServer({
      info: NO_REPLICAS,
      eval: () => (fail ? new Error("Connection is closed.") : 1),
    });
    const duplicate = vi.fn(client.duplicate);
    const store = redisKeyRingStore(
      new Proxy(client, { get: (target, name) => (name === "duplicate" ? duplicate : Reflect.get(target, name)) }),
    );
    await store.write("main", KEY_ID, RECORD);
    await store.write("main", KEY_ID, RECORD);
    assert.equal(duplicate.mock.calls.length, 1);
    fail = true;
    await assert.rejects(store.write("main", KEY_ID, RECORD), unavailable);
    assert.ok(commands.includes("disconnect"));
    fail = false;
    await store.write("main", KEY_ID, RECORD);
    assert.equal(duplicate.mock.calls.length, 2);
  });

  it("is given up after both deadlines together when the server is silent", async () => {
    const { client, commands } = ringServer({ info: ONE_REPLICA, eval: 1, wait: never, disconnect: undefined });
    const store = redisKeyRingStore(client, { commandTimeoutMs: 200, waitTimeoutMs: 300 });
    let settled: unknown;
    store.write("main", KEY_ID, RECORD).catch((error: unknown) => {
      settled = error;
    });
    await vi.advanceTimersByTimeAsync(499);
    assert.equal(settled, undefined);
    await vi.advanceTimersByTimeAsync(1);
    assert.ok(unavailable(settled));
    assert.equal(commands.at(-1), "disconnect");
  });

  it("serves one write after the other, so that one WAIT does not use up another one's deadline", async () => {
    const wait = () => new Promise((resolve) => setTimeout(resolve, 250, 0));
    const { client, commands } = ringServer({ info: ONE_REPLICA, eval: 1, wait });
    const store = redisKeyRingStore(client, { commandTimeoutMs: 200, waitTimeoutMs: 300 });
    const writes = Promise.all([1, 2, 3].map(() => store.write("main", KEY_ID, RECORD)));
    await vi.advanceTimersByTimeAsync(1_000);
    assert.equal((await writes).length, 3);
    assert.deepEqual(commands, ["info", "eval", "wait", "info", "eval", "wait", "info", "eval", "wait"]);
  });

  it("is closed by close, after which methods reject with CLOSED", async () => {
    const { client, commands } = ringServer({ info: NO_REPLICAS, eval: 1 });
    const store = redisKeyRingStore(client);
    await store.write("main", KEY_ID, RECORD);
    await store.close();
    assert.equal(commands.at(-1), "disconnect");
    await assert.rejects(store.write("main", KEY_ID, RECORD), { code: "CLOSED" });
  });
});

describe("redisKeyRingStore's errors", () => {
  it("hold neither the ring nor the record", async () => {
    const answer: Answer = (command, args) =>
      replyError(`ERR unknown command, with args: ${args.join(" ")}`, command, args);
    const store = redisKeyRingStore(fakeRedis(answer));
    const record = Buffer.from("record-that-nobody-may-see");
    for (const call of [store.read("secret-ring"), store.write("secret-ring", KEY_ID, record), store.now()]) {
      const error: unknown = await call.then(noAnswer, (reason: unknown) => reason);
      assert.ok(unavailable(error));
      const text = JSON.stringify([error, (error as Error).message, String((error as Error).cause)]);
      assert.doesNotMatch(text, /secret-ring|nobody|AAAA/);
    }
  });

  it("are STORE_UNAVAILABLE for replies of an unknown form", async () => {
    const onWarning = () => {};
    for (const reply of [null, "text", 5, []]) {
      const store = redisKeyRingStore(
        fakeRedis(() => reply),
        { onWarning },
      );
      await assert.rejects(store.now(), unavailable);
    }
    await assert.rejects(
      redisKeyRingStore(
        fakeRedis(() => null),
        { onWarning },
      ).read("main"),
      unavailable,
    );
  });
});

describe("the warning about eviction", () => {
  const memory = (policy: string, limit: string) => `# Memory\r\nmaxmemory:${limit}\r\nmaxmemory_policy:${policy}\r\n`;
  const cases: readonly (readonly [info: string | Error, code: RedisWarning["code"] | undefined])[] = [
    [memory("noeviction", "1000"), undefined],
    [memory("volatile-lru", "1000"), undefined],
    [memory("volatile-ttl", "1000"), undefined],
    [memory("allkeys-lru", "0"), undefined],
    [memory("allkeys-lru", "1000"), "RING_MAY_BE_EVICTED"],
    [memory("allkeys-lfu", "1000"), "RING_MAY_BE_EVICTED"],
    [memory("allkeys-random", "1000"), "RING_MAY_BE_EVICTED"],
    ["# Memory\r\nused_memory:5\r\n", "EVICTION_POLICY_UNKNOWN"],
    [refused("info"), "EVICTION_POLICY_UNKNOWN"],
  ];
  for (const [info, code] of cases) {
    it(`is ${code ?? "not given"} for ${JSON.stringify(String(info)).slice(0, 80)}`, async () => {
      assert.equal((await evictionWarning(fakeRedis(() => info)))?.code, code);
    });
  }

  it("is given once, without keeping a read waiting, and by default as a warning of the process", async () => {
    const emitted = vi.spyOn(process, "emitWarning").mockImplementation(() => {});
    const { client, commands } = ringServer({ evalBuffer: [], info: memory("allkeys-lru", "1000") });
    const store = redisKeyRingStore(client);
    for (let reads = 0; reads < 3; reads++) assert.deepEqual(await store.read("main"), []);
    await vi.waitFor(() => assert.equal(emitted.mock.calls.length, 1));
    assert.equal(commands.filter((command) => command === "info").length, 1);
    assert.deepEqual(emitted.mock.calls[0]?.[1], { type: "SealedSessionWarning", code: "RING_MAY_BE_EVICTED" });
    emitted.mockRestore();
  });
});
