/**
 * Whether a server may drop keys that have no expiry: the key ring would be gone, and every session with it.
 */
import type { RedisServer } from "./redis-client.js";
import { emptyIfRefused } from "./store-error.js";
import type { RedisWarning } from "./warning.js";

/** @returns what is to be said about the server's `maxmemory-policy`, or `undefined` when the ring is safe from eviction. */
export async function evictionWarning(server: Pick<RedisServer, "info">): Promise<RedisWarning | undefined> {
  const text = await server.info("memory").catch(emptyIfRefused);
  const policy = /^maxmemory_policy:([\w-]+)/m.exec(text)?.[1];
  const limit = /^maxmemory:(\d+)/m.exec(text)?.[1];
  if (policy === undefined || limit === undefined) {
    return {
      code: "EVICTION_POLICY_UNKNOWN",
      message:
        "Redis does not tell its maxmemory-policy (INFO memory): make sure that it is noeviction or one of volatile-*",
    };
  }
  if (limit === "0" || !policy.startsWith("allkeys-")) return undefined;
  return {
    code: "RING_MAY_BE_EVICTED",
    message: `Redis may evict the key ring: maxmemory-policy is ${policy}, set it to noeviction or one of volatile-*`,
  };
}
