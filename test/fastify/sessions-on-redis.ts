/** Sealed sessions on a Redis Cluster, under a namespace of their own. */
import { KeyRing, localKms, SessionStore, type SessionStoreOptions } from "@sealed-session/core";
import { redisKeyRingStore, redisStore } from "@sealed-session/redis";
import type { Session } from "fastify";
import type { Cluster } from "ioredis";
import { freshNamespace } from "../adapters/redis-deployment.ts";

const KEY_VARIABLE = "SEALED_SESSION_FASTIFY_CLUSTER_KEY";

/** A ring on a cluster. */
export interface RingOnRedis {
  /** Sessions in a namespace that no other test has. */
  sessions(options?: Partial<SessionStoreOptions>): SessionStore<Session>;
  close(): Promise<void>;
}

export async function openRing(client: Cluster): Promise<RingOnRedis> {
  process.env[KEY_VARIABLE] = Buffer.alloc(32, 9).toString("base64url");
  const keys = redisKeyRingStore(client, { namespace: freshNamespace() });
  const ring = new KeyRing({ name: "web", kms: localKms({ keyVariable: KEY_VARIABLE }), store: keys });
  await ring.ready();
  return {
    sessions: (options = {}) =>
      new SessionStore<Session>({ ring, store: redisStore(client, { namespace: freshNamespace() }), ...options }),
    async close() {
      ring.close();
      await keys.close();
    },
  };
}
