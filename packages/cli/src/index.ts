/**
 * Types for the configuration file of the command `sealed-session`, which changes the keys of sealed web sessions under a live Redis.
 *
 * @packageDocumentation
 */
export {
  type AwsKmsConfig,
  type Config,
  type ConfigSource,
  defineConfig,
  type KmsConfig,
  type LocalKmsConfig,
  type RedisConfig,
  type RedisTlsConfig,
  type RingConfig,
  type SessionsConfig,
} from "./config.js";
