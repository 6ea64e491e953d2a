import assert from "node:assert/strict";
import { inspect } from "node:util";
import { hasCode, type PrincipalIndexStore } from "@sealed-session/core";
import { afterEach, beforeEach, describe, it, vi } from "vitest";
import type { RedisClient } from "../src/redis-client.js";
import { redisPrincipalIndex } from "../src/redis-principal-index.js";
import { fakeRedis, never, replyError } from "./fake-redis.js";

const ENTRY = "entry-that-nobody-may-see";
const ID = "stored-id-that-nobody-may-see";
const SECRET = "device-that-nobody-may-see";
const noAnswer = (): never => assert.fail("it answered");
const unavailable = (error: unknown) => hasCode(error, "STORE_UNAVAILABLE");

const CALLS: Record<string, (index: PrincipalIndexStore) => Promise<unknown>> = {
  add: (index) => index.add(ENTRY, ID, { ttlMs: 1000, ticket: "ticket", epoch: "epoch", data: Buffer.from(SECRET) }),
  holds: (index) => index.holds(ENTRY, ID, "epoch"),
  members: (index) => index.members(ENTRY),
  renew: (index) => index.renew(ENTRY, "epoch"),
  callOff: (index) => index.callOff(ENTRY, ID),
  remove: (index) => index.remove(ENTRY, [{ storedId: ID }]),
};

describe("redisPrincipalIndex's deadline", () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  for (const [name, call] of Object.entries(CALLS)) {
    it(`ends ${name} after exactly commandTimeoutMs when Redis is silent`, async () => {
      const index = redisPrincipalIndex(fakeRedis(never), { commandTimeoutMs: 250 });
      let settled: unknown;
      call(index).then(noAnswer, (error: unknown) => {
        settled = error;
      });
      await vi.advanceTimersByTimeAsync(249);
      assert.equal(settled, undefined);
      await vi.advanceTimersByTimeAsync(1);
      assert.ok(unavailable(settled));
    });
  }
});

describe("redisPrincipalIndex's errors", () => {
  for (const [name, call] of Object.entries(CALLS)) {
    it(`of ${name} hold neither the entry, nor a stored id, nor the device data`, async () => {
      const client = fakeRedis((command, args) =>
        replyError(`ERR unknown command '${command}', with args beginning with: '${args.join("' '")}'`, command, args),
      );
      const error = await call(redisPrincipalIndex(client)).then(noAnswer, (thrown: unknown) => thrown);
      assert.ok(unavailable(error));
      const shown = inspect(error, { depth: 10, showHidden: true });
      for (const secret of ["nobody-may-see", Buffer.from(SECRET).toString("hex")])
        assert.ok(!shown.includes(secret), shown);
    });
  }

  it("tell of a reply that is none of its scripts'", async () => {
    for (const reply of [undefined, null, "OK", [], [Buffer.from("1"), Buffer.from("epoch"), Buffer.from(ID)]]) {
      const index = redisPrincipalIndex(fakeRedis(() => reply));
      await assert.rejects(index.members(ENTRY), unavailable);
      await assert.rejects(index.renew(ENTRY, "epoch"), unavailable);
    }
  });
});

describe("redisPrincipalIndex", () => {
  it("sends one script on one key for each step", async () => {
    for (const [name, call] of Object.entries(CALLS)) {
      const sent: (readonly [string, readonly unknown[]])[] = [];
      const client = fakeRedis((command, args) => {
        sent.push([command, args]);
        return command === "evalBuffer" ? [Buffer.from("1700000000000"), Buffer.from("epoch")] : 1;
      });
      await call(redisPrincipalIndex(client, { namespace: "eu" }));
      assert.equal(sent.length, 1, name);
      const [[command, args]] = sent as [(typeof sent)[0]];
      assert.match(command, /^eval(sha|Buffer)$/);
      assert.deepEqual(args.slice(1, 3), [1, `eu:session-index:${ENTRY}`]);
    }
  });

  it("sends nothing to remove no member", async () => {
    assert.equal(await redisPrincipalIndex(fakeRedis(() => assert.fail("it asked"))).remove(ENTRY, []), 0);
  });

  it("passes over fields that are not its own", async () => {
    const note = `7:1700000000000:1700000009000:epoch:ticket:${SECRET}`;
    const reply = ["1700000001000", "epoch", ID, note, "junk-of-somebody", "junk"];
    const members = await redisPrincipalIndex(fakeRedis(() => reply.map((text) => Buffer.from(text)))).members(ENTRY);
    assert.deepEqual(members, [
      {
        storedId: ID,
        ticket: "ticket",
        order: 7,
        ageMs: 1000,
        data: new Uint8Array(Buffer.from(SECRET)),
        isCalledOff: false,
      },
    ]);
  });

  it("tells members of another epoch, or of none, from those of its own, however long the tokens are", async () => {
    const [epoch, ticket] = ["e".repeat(64), "t".repeat(64)];
    for (const [of, isCalledOff] of [
      [epoch, false],
      ["f".repeat(64), true],
      ["", true],
    ] as const) {
      const note = `9007199254740991:1700000000000:2015360000000:${of}:${ticket}:${SECRET}`;
      const reply = ["1700000001000", epoch, ID, note].map((text) => Buffer.from(text));
      const [member] = await redisPrincipalIndex(fakeRedis(() => reply)).members(ENTRY);
      assert.deepEqual([member?.ticket, member?.isCalledOff], [ticket, isCalledOff]);
      assert.equal(Buffer.from(member?.data ?? []).toString(), SECRET);
    }
  });

  it.each([{ namespace: "{tag}" }, { namespace: "session" }, { commandTimeoutMs: 0 }, { failoverTimeoutMs: 0 }])(
    "refuses %o with a RangeError",
    (options) => {
      assert.throws(() => redisPrincipalIndex(fakeRedis(never), options), RangeError);
    },
  );

  it("refuses what is no client of ioredis, and one with a keyPrefix", () => {
    assert.throws(() => redisPrincipalIndex({} as RedisClient), TypeError);
    assert.throws(() => redisPrincipalIndex(fakeRedis(never, { keyPrefix: "app:" })), TypeError);
  });
});
