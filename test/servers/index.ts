export { untilNothingMissing, type WaitOptions } from "./condition.js";
export { type FaultKms, type KmsCall, type KmsFault, type KmsKeyState, startFaultKms } from "./fault-kms.js";
export {
  type RedisCluster,
  type RedisClusterNode,
  type StartRedisClusterOptions,
  startRedisCluster,
} from "./redis-cluster.js";
export { type Address, killNode, pauseNode, type RedisNode, restartNode, resumeNode } from "./redis-node.js";
export { type RedisServer, type StartRedisOptions, startRedis } from "./redis-server.js";
export { NoRedisSourceError, type Source, type SourceOptions } from "./source.js";
