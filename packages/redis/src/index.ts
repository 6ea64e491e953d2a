/**
 * Keeps sealed web sessions and their key ring in Redis Cluster or a single Redis, over ioredis 6.
 *
 * @packageDocumentation
 */
export { type PlaintextSessionsOptions, plaintextSessions } from "./plaintext-sessions.js";
export type {
  BulkPipeline,
  ClusterRedis,
  DuplicateOptions,
  RedisClient,
  RedisCommands,
  RedisConnection,
  RedisPipeline,
  RedisServer,
  RedisServerOptions,
  SingleRedis,
} from "./redis-client.js";
export { type RedisKeyRingStore, type RedisKeyRingStoreOptions, redisKeyRingStore } from "./redis-key-ring-store.js";
export { type RedisPrincipalIndexOptions, redisPrincipalIndex } from "./redis-principal-index.js";
export { type RedisStoreOptions, redisStore } from "./redis-store.js";
export type { RedisWarning, RedisWarningCode } from "./warning.js";
