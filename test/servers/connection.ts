/**
 * Asks one Redis server something over a connection of its own.
 */
import { Redis } from "ioredis";
import type { Address } from "./redis-node.js";

/** A server on loopback that has not answered by then is paused or gone. */
const TIMEOUT_MS = 2_000;

/** Connects to the server at `address`, runs `question` and disconnects. Nothing is tried twice. */
export async function ask<T>({ host, port }: Address, question: (redis: Redis) => Promise<T>): Promise<T> {
  const redis = new Redis({
    host,
    port,
    lazyConnect: true,
    // Nothing that a paused server would have to answer before the question.
    enableReadyCheck: false,
    disableClientInfo: true,
    protocol: 2,
    maxRetriesPerRequest: 0,
    connectTimeout: TIMEOUT_MS,
    commandTimeout: TIMEOUT_MS,
    retryStrategy: () => null,
  });
  // ioredis says why it could not connect here, and only that it did not in the rejection of `connect`.
  let reason: Error | undefined;
  redis.on("error", (error: Error) => {
    reason = error;
  });
  try {
    await redis.connect();
    return await question(redis);
  } catch (error) {
    throw reason === undefined
      ? error
      : new Error(`no answer from ${host}:${port}: ${reason.message}`, { cause: error });
  } finally {
    redis.disconnect();
  }
}

/** @returns the `name:value` lines of INFO or CLUSTER INFO. */
export function parseInfo(text: string): ReadonlyMap<string, string> {
  return new Map(
    text.split("\r\n").flatMap((line) => {
      const colon = line.indexOf(":");
      return colon > 0 ? [[line.slice(0, colon), line.slice(colon + 1)] as const] : [];
    }),
  );
}
