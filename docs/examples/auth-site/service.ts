/**
 * What both auth services share: the key rings, the session store over Redis, and their end.
 */
import { mkdtempSync } from "node:fs";
import type { Server } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { KeyRing, localKms, SessionStore } from "@sealed-session/core";
import { redisKeyRingStore, redisPrincipalIndex, redisStore } from "@sealed-session/redis";
import { startRedisCluster } from "@sealed-session/test/servers";
import { Cluster } from "ioredis";
import type { Login } from "./login.js";

/** A week without a request, and a month at the most: then the password is asked for again. */
export const IDLE_SECONDS = 7 * 86_400;
const ABSOLUTE_SECONDS = 30 * 86_400;
const HEALTH_TIMEOUT_MS = 1000;
const GRACE_MS = 3000;

/** Sessions in Redis, and what they need. */
export interface Service<T extends Partial<Login>> {
  readonly sessions: SessionStore<T>;
  /** Whether a request could be served now. */
  health(): Promise<{ readonly ok: boolean; readonly redis: string; readonly keys: string }>;
  close(): Promise<void>;
}

/**
 * Opens everything before the first request comes.
 *
 * `REDIS_NODES` names a cluster, as in "redis-1:6379,redis-2:6379"; without it one is started for this run. `KEY_FILE` holds the development key.
 */
export async function openService<T extends Partial<Login>>(): Promise<Service<T>> {
  const { REDIS_NODES, KEY_FILE = join(mkdtempSync(join(tmpdir(), "auth-site-")), "development.key") } = process.env;
  if (REDIS_NODES !== undefined && process.env["KEY_FILE"] === undefined) {
    throw new Error("KEY_FILE is missing: processes on one Redis need the same development key");
  }
  const own = REDIS_NODES === undefined ? await startRedisCluster() : undefined;
  const redis = new Cluster(own?.addresses() ?? (REDIS_NODES ?? "").split(","));
  // Without a listener ioredis writes what it reconnects for to the console.
  redis.on("error", () => {});

  // In production: awsKms({ keyId }).
  const kms = localKms({ keyFile: KEY_FILE });
  const keys = redisKeyRingStore(redis);
  const ring = new KeyRing({ name: "web", kms, store: keys });
  const indexRing = new KeyRing({ name: "index:web", kms, store: keys, rotationPeriodMs: 90 * 86_400_000 });
  const sessions = new SessionStore<T>({
    ring,
    store: redisStore(redis),
    idleSeconds: IDLE_SECONDS,
    absoluteSeconds: ABSOLUTE_SECONDS,
    principal: (session) => session.userId,
    device: (session) => session.device,
    maxPerPrincipal: 20,
    principalIndex: { store: redisPrincipalIndex(redis), ring: indexRing },
  });
  await Promise.all([ring.ready(), indexRing.ready()]);

  return {
    sessions,
    async health() {
      // A client without a connection keeps the command until it has one.
      const tooLate = delay(HEALTH_TIMEOUT_MS, "no answer", { ref: false });
      const answer = await Promise.race([redis.ping(), tooLate]).catch(() => "out of reach");
      const hasKey = ring.currentIfWarm() !== undefined;
      const isUp = answer === "PONG";
      return { ok: isUp && hasKey, redis: isUp ? "up" : "down", keys: hasKey ? "at hand" : "missing" };
    },
    async close() {
      ring.close();
      indexRing.close();
      await redis.quit().catch(() => redis.disconnect());
      await own?.stop();
    },
  };
}

/** Calls `close` once, when the process is asked to end. Connections that are still open after a while are cut: a browser keeps some in reserve. */
export function onShutdown(server: Server, close: () => Promise<void>): void {
  const end = () => {
    console.log("Ending: open requests are finished first.");
    setTimeout(() => server.closeAllConnections(), GRACE_MS).unref();
    close().then(
      () => process.exit(0),
      (error: unknown) => {
        console.error(error);
        process.exit(1);
      },
    );
  };
  process.once("SIGTERM", end);
  process.once("SIGINT", end);
}
