/**
 * Lua scripts on one key. Redis runs each as one atomic step, and ioredis sends them to the key's master whatever it does with reads.
 */
import { createHash } from "node:crypto";
import type { RedisCommands } from "./redis-client.js";
import { replyCode } from "./store-error.js";

/** A script and its SHA-1, by which servers know it. */
export interface Script {
  readonly lua: string;
  readonly sha1: string;
}

/** @returns a script to be run with {@link runScript}. */
export function script(lua: string): Script {
  return { lua, sha1: createHash("sha1").update(lua).digest("hex") };
}

/** Sends the script's SHA-1, and the script itself to a server that does not know it: a new one, or one after a failover. */
export async function runScript(
  client: RedisCommands,
  { lua, sha1 }: Script,
  key: string,
  ...args: readonly (string | Buffer)[]
): Promise<unknown> {
  try {
    return await client.evalsha(sha1, 1, key, ...args);
  } catch (error) {
    if (replyCode(error) !== "NOSCRIPT") throw error;
    return await client.eval(lua, 1, key, ...args);
  }
}
