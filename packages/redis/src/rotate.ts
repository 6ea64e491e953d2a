/**
 * Works on all sessions in Redis while the service goes on: under new keys, and out of the clear.
 *
 * @packageDocumentation
 */
import {
  type RotateSessionsOptions,
  type RotationReport,
  rotateSessions as rotateAll,
  type SealPlaintextOptions,
  type SealReport,
  sealPlaintextSessions as sealAll,
} from "@sealed-session/core";
import { type PlaintextSessionsOptions, plaintextSessions } from "./plaintext-sessions.js";
import type { RedisClient } from "./redis-client.js";
import { sessionPrefix } from "./redis-key.js";
import { type RedisStoreOptions, redisStore } from "./redis-store.js";

export type {
  RotateSessionsOptions,
  RotationCounts,
  RotationProgress,
  RotationReport,
  SealPlaintextOptions,
  SealProgress,
  SealReport,
} from "@sealed-session/core";
export type { PlaintextSessionsOptions } from "./plaintext-sessions.js";

/** Nobody waits for a page of a walk: a busy server, and one that fails over, get more time than a request would give them. */
const COMMAND_TIMEOUT_MS = 5000;

/** Where the sessions lie. */
export interface InRedis extends Pick<RedisStoreOptions, "namespace" | "failoverTimeoutMs"> {
  /** `Redis` or `Cluster` of ioredis 6, without `keyPrefix`. */
  readonly client: RedisClient;
  /** Deadline of every command, in milliseconds. @defaultValue 5000 */
  readonly commandTimeoutMs?: number;
}

/** Options of {@link rotateSessions}. */
export interface RotateRedisSessionsOptions extends Omit<RotateSessionsOptions, "store">, InRedis {}

/** Options of {@link sealPlaintextSessions}. */
export interface SealRedisSessionsOptions
  extends Omit<SealPlaintextOptions, "store" | "from" | "inPlace">,
    InRedis,
    Pick<PlaintextSessionsOptions, "prefix" | "parse"> {}

/**
 * Seals all sessions of a namespace anew that are not under the key which seals now: `rotateSessions` of core, over Redis.
 *
 * @throws SealedSessionError `KEY_UNAVAILABLE`, `STORE_UNAVAILABLE`, `CLOSED`.
 * @throws TypeError or RangeError when an option is wrong.
 */
export function rotateSessions(options: RotateRedisSessionsOptions): Promise<RotationReport> {
  const { client, ...others } = options;
  return rotateAll({ ...others, store: redisStore(client, { commandTimeoutMs: COMMAND_TIMEOUT_MS, ...others }) });
}

/**
 * Seals all sessions that connect-redis and its like left in clear under `prefix`, each with what is left of its time to live: `sealPlaintextSessions`
 * of core, over Redis. Where the prefix and `verbatim` stored ids make the very key that the session store reads, the envelope takes the plaintext's
 * place; otherwise it goes to the session store's key.
 *
 * @throws SealedSessionError `KEY_UNAVAILABLE`, `STORE_UNAVAILABLE`, `CLOSED`.
 * @throws TypeError or RangeError when an option is wrong.
 */
export async function sealPlaintextSessions(options: SealRedisSessionsOptions): Promise<SealReport> {
  const { client, ...others } = options;
  const { prefix = "sess:", storedIds, namespace } = options;
  const settings = { commandTimeoutMs: COMMAND_TIMEOUT_MS, ...others };
  return await sealAll({
    ...others,
    store: redisStore(client, settings),
    from: plaintextSessions(client, settings),
    inPlace: storedIds === "verbatim" && prefix === sessionPrefix(namespace),
  });
}
