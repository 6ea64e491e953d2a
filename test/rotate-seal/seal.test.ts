/**
 * An application moves from connect-redis to sealed sessions while its users go on: nobody is logged out, and nobody who has logged out comes back.
 */
import { randomBytes } from "node:crypto";
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import {
  DIAGNOSTICS_CHANNEL,
  type DiagnosticEvent,
  KeyRing,
  localKms,
  parseEnvelope,
  Sealer,
  SessionStore,
  storedIdOf,
} from "@sealed-session/core";
import { plaintextSessions, redisKeyRingStore, redisStore } from "@sealed-session/redis";
import { sealPlaintextSessions } from "@sealed-session/redis/rotate";
import { type RedisCluster, startRedisCluster, untilNothingMissing } from "@sealed-session/test/servers";
import { RedisStore as ConnectRedis } from "connect-redis";
import type { SessionData } from "express-session";
import { Cluster } from "ioredis";
import { createCluster } from "redis";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { SealedExpressStore } from "./sealed-express-store.js";
import { Browser, type Shop, startShop } from "./shop.js";

const HOUR_MS = 3_600_000;
/** Sessions of users who are away the whole time, beside those of the 200. */
const AWAY = 1_000;

/** When a key expires, in milliseconds since 1970-01-01T00:00:00Z, by the server's clock. */
const EXPIRY = `
local time = redis.call('TIME')
return time[1] * 1000 + math.floor(time[2] / 1000) + redis.call('PTTL', KEYS[1])`;

let cluster: RedisCluster;
let client: Cluster;
let ring: KeyRing;
let closeKeys: () => Promise<void>;
beforeAll(async () => {
  cluster = await startRedisCluster();
  client = new Cluster(cluster.addresses());
  const keys = redisKeyRingStore(client);
  process.env["SHOP_KEY"] = randomBytes(32).toString("base64url");
  const kms = localKms({ keyVariable: "SHOP_KEY" });
  ring = new KeyRing({ name: "shop", kms, store: keys });
  closeKeys = () => keys.close();
  await ring.ready();
});
afterAll(async () => {
  ring?.close();
  await closeKeys?.();
  client?.disconnect();
  await cluster?.stop();
});

/** @returns All keys of the cluster that begin with `prefix`. */
async function keysUnder(prefix: string): Promise<string[]> {
  const found = await Promise.all(client.nodes("master").map((node) => node.keys(`${prefix}*`)));
  return found.flat();
}

const expiryOf = async (key: string) => Number(await client.eval(EXPIRY, 1, key));

describe("an application that leaves connect-redis", () => {
  it("logs nobody out, brings nobody back, and leaves nothing in clear", { timeout: 120_000 }, async () => {
    const others = createCluster({
      rootNodes: cluster.addresses().map(({ host, port }) => ({ socket: { host, port } })),
    });
    others.on("error", () => {});
    await others.connect();
    const adopted = { count: 0 };
    const count = (event: unknown) => {
      if ((event as DiagnosticEvent).type === "session-adopted") adopted.count++;
    };
    subscribe(DIAGNOSTICS_CHANNEL, count);
    let shop: Shop | undefined;
    try {
      const before = new ConnectRedis({ client: others });
      shop = await startShop({ store: before });
      const { port } = shop;
      const browsers = Array.from({ length: 200 }, (_, index) => new Browser(`user-${index}`, port));
      for (let first = 0; first < browsers.length; first += 20) {
        await Promise.all(browsers.slice(first, first + 20).map((browser) => browser.login()));
      }
      for (let index = 0; index < AWAY; index++) {
        const cookie = { originalMaxAge: HOUR_MS, expires: new Date(Date.now() + HOUR_MS) };
        await before.set(`away-since-this-morning-${index}`, { cookie, user: `away-${index}` } as SessionData);
      }
      const resting = browsers.slice(0, 50);
      const leavingBefore = browsers.slice(50, 80);
      const leavingAfter = browsers.slice(80, 110);
      const staying = browsers.slice(110);
      const expiries = new Map<string, number>();
      for (const { sessionId } of resting) expiries.set(sessionId, await expiryOf(`sess:${sessionId}`));

      const problems: string[] = [];
      const asked = { before: 0, after: 0 };
      let phase: keyof typeof asked = "before";
      let isOver = false;
      let left = 0;
      const check = async (answers: Promise<string | undefined>[]) => {
        for (const problem of await Promise.all(answers)) if (problem !== undefined) problems.push(problem);
        asked[phase] += answers.length;
      };
      const use = (browser: Browser) =>
        check([browser.problem("GET", "/me"), browser.problem("GET", "/me"), browser.problem("POST", "/visit")]);
      const lookAgain = async (browser: Browser) => {
        if (!(await browser.isLoggedOut())) problems.push(`${browser.user} came back`);
        asked[phase]++;
      };
      /** Goes on until the end; from `leaves` on logged out. */
      const live = async (browser: Browser, leaves: keyof typeof asked | undefined) => {
        let hasLeft = false;
        while (!isOver) {
          if (!hasLeft && leaves === phase) {
            await browser.logout();
            hasLeft = true;
            left++;
          }
          await (hasLeft ? lookAgain(browser) : use(browser));
        }
      };
      const lives = [
        ...leavingBefore.map((browser) => live(browser, "before")),
        ...leavingAfter.map((browser) => live(browser, "after")),
        ...staying.map((browser) => live(browser, undefined)),
      ];
      await untilNothingMissing("requests", () => (asked.before > 1500 ? undefined : `${asked.before} of 1500`));

      await shop.stop();
      const sessions = new SessionStore<SessionData>({
        ring,
        store: redisStore(client),
        idleSeconds: 3600,
        adopt: { from: plaintextSessions(client), until: Date.now() + HOUR_MS },
      });
      const sealed = new SealedExpressStore(sessions);
      phase = "after";
      shop = await startShop({ store: sealed, genid: () => sealed.newId() }, port);
      const walk = await sealPlaintextSessions({
        client,
        ring,
        sealer: new Sealer({ ring, counted: true }),
        ratePerSecond: 1000,
      });
      await untilNothingMissing(
        "requests and logouts",
        () => (asked.after > 3000 && left === 60 ? undefined : `${asked.after} of 3000, ${left} of 60`),
        { deadlineMs: 60_000 },
      );
      isOver = true;
      await Promise.all(lives);
      await Promise.all([...leavingBefore, ...leavingAfter].map(lookAgain));
      await Promise.all(staying.map(use));

      expect(problems).toEqual([]);
      expect(walk).toMatchObject({ isInterrupted: false, unreadable: 0 });
      const drifts: number[] = [];
      for (const [sessionId, expiry] of expiries) {
        drifts.push((await expiryOf(`session:${storedIdOf(sessionId)}`)) - expiry);
      }
      expect(drifts).toHaveLength(50);
      expect(Math.max(...drifts.map(Math.abs))).toBeLessThan(250);
      await Promise.all(resting.map((browser) => use(browser)));
      expect(problems).toEqual([]);

      await untilNothingMissing(
        "nothing under sess:*",
        async () => {
          const left = await keysUnder("sess:");
          return left.length === 0 ? undefined : `${left.length} keys`;
        },
        { deadlineMs: 60_000, intervalMs: 250 },
      );
      const envelopes = await keysUnder("session:");
      // Each of the 200 but 60 who have left, and all who were away.
      expect(envelopes).toHaveLength(140 + AWAY);
      for (const key of envelopes) expect(parseEnvelope((await client.getBuffer(key)) as Buffer)).toBeDefined();
      expect(adopted.count).toBeGreaterThanOrEqual(140 + AWAY);
      console.info({ asked, walk, drifts: [Math.min(...drifts), Math.max(...drifts)], adopted: adopted.count });
    } finally {
      unsubscribe(DIAGNOSTICS_CHANNEL, count);
      await shop?.stop();
      others.destroy();
    }
  });
});
