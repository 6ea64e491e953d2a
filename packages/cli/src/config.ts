/**
 * The configuration file's types. `config-schema` checks what a file, the environment and the flags give.
 */
import type { Kms } from "@sealed-session/core";
import type { RedisClient } from "@sealed-session/redis";

/** How the command reaches Redis, and what lies there. Must say the same as the application. */
export interface Config {
  /** Where ring and sessions lie. */
  readonly redis: RedisConfig;
  /** The key ring. */
  readonly ring: RingConfig;
  /** How the application seals its sessions. @defaultValue all as in `SessionStore` */
  readonly sessions?: SessionsConfig;
}

/** Where ring and sessions lie: exactly one of `url`, `nodes` and `client`, and how to get in. */
export interface RedisConfig {
  /** One server: `redis://host:6379/0`, or `rediss://` for TLS. A user name and a password in it count, unless they are given on their own. */
  readonly url?: string;
  /** Nodes of a Redis Cluster, 1 to 100, each as `host:port`. The others are found from there. */
  readonly nodes?: readonly string[];
  /** Makes the ioredis client; the command closes it. For what the other fields cannot say, such as Sentinel. Only in `.ts`, `.js` and `.mjs`. */
  readonly client?: () => RedisClient | Promise<RedisClient>;
  /** The user of Redis's ACL. @defaultValue Redis's own, `default` */
  readonly username?: string;
  /** The user's password. Better in `SEALED_SESSION_REDIS_PASSWORD` than in a file; there is no flag for it. @defaultValue none */
  readonly password?: string;
  /** Encrypts the connection. @defaultValue false; true with `rediss://` */
  readonly tls?: boolean | RedisTlsConfig;
  /** As `namespace` of `redisStore`: `eu` makes `eu:session:<stored id>`. @defaultValue none */
  readonly namespace?: string;
}

/** TLS with certificates of your own. Paths are relative to the configuration file. */
export interface RedisTlsConfig {
  /** PEM file with the authorities that vouch for the server. @defaultValue those of Node */
  readonly caFile?: string;
  /** PEM file with this client's certificate. @defaultValue none */
  readonly certFile?: string;
  /** PEM file with the private key of `certFile`. @defaultValue none */
  readonly keyFile?: string;
  /** The name in the server's certificate. @defaultValue the host */
  readonly serverName?: string;
}

/** The key ring: what the application gives `KeyRing`. */
export interface RingConfig {
  /** The ring's name, 1 to 128 bytes of UTF-8 without braces. */
  readonly name: string;
  /** The KMS, or up to eight in the order of preference. An object with the methods of `Kms` only in `.ts`, `.js` and `.mjs`. */
  readonly kms: KmsConfig | readonly KmsConfig[];
  /** How often a new key seals, in milliseconds: 1 to 315360000000. @defaultValue 86400000 (24 h) */
  readonly rotationPeriodMs?: number;
  /** How old the current key may get, in milliseconds. @defaultValue two rotation periods */
  readonly maxSealingAgeMs?: number;
  /**
   * How often the application's processes read the ring, in milliseconds: a new key seals two of these later.
   *
   * @defaultValue 60000 (1 min), or an eighth of the rotation period where that is shorter
   */
  readonly refreshIntervalMs?: number;
  /** Key ids (base64url) that count as revoked whatever the ring says. @defaultValue none */
  readonly revokedKeyIds?: readonly string[];
  /** Names of KMSs that were given up, as in `KeyRing`: before `rotate rewrap --drop-old` takes their wraps out of the ring. @defaultValue none */
  readonly droppedKms?: readonly string[];
}

/** One KMS of the ring. */
export type KmsConfig = LocalKmsConfig | AwsKmsConfig | Kms;

/** A key in a file or in an environment variable: exactly one of `keyFile` and `keyVariable`. See `localKms`. */
export interface LocalKmsConfig {
  /** Says that this is `localKms`. */
  readonly type: "local";
  /** Path of the key file, relative to the configuration file. It must exist: the command makes none. */
  readonly keyFile?: string;
  /** Name of the environment variable that holds the key. */
  readonly keyVariable?: string;
  /** Name of the KMS in key records. @defaultValue "local" */
  readonly name?: string;
  /** Allows `NODE_ENV=production`. @defaultValue false */
  readonly allowInProduction?: boolean;
}

/** A key in AWS KMS. Needs the packages `@sealed-session/aws-kms` and `@aws-sdk/client-kms`; credentials come from where the SDK finds them. */
export interface AwsKmsConfig {
  /** Says that this is `awsKms`. */
  readonly type: "aws";
  /** Key id or key ARN. */
  readonly keyId: string;
  /** The key's region. @defaultValue the one in the ARN, or where the SDK finds one */
  readonly region?: string;
  /** URL of another endpoint than the region's. @defaultValue none */
  readonly endpoint?: string;
  /** Name of the KMS in key records. @defaultValue as in `awsKms` */
  readonly name?: string;
}

/** How the application seals: what it gives `SessionStore`. */
export interface SessionsConfig {
  /** Bound into every envelope; not the namespace of the keys in Redis, which is `redis.namespace`. @defaultValue "" */
  readonly namespace?: string;
  /** Bound into every envelope as well. @defaultValue "session" */
  readonly purpose?: string;
  /** What the store's key holds. @defaultValue "digest" */
  readonly storedIds?: "digest" | "verbatim";
  /** Whether envelopes need their client's session id; they cannot be re-sealed here then. @defaultValue false */
  readonly clientBound?: boolean;
  /** Whether key records travel with envelopes. @defaultValue "off" */
  readonly inlineKeys?: "off" | "read" | "write";
  /** The longest time to live of a session, in seconds: 1 to 315360000. @defaultValue 86400 (24 h) */
  readonly idleSeconds?: number;
  /** Absolute life, in seconds: 1 to 315360000. Plaintext sessions that are sealed get it from then on. @defaultValue none */
  readonly absoluteSeconds?: number;
  /** Longest envelope, in bytes: 128 to 536870912. @defaultValue 1048576 (1 MiB) */
  readonly maxEnvelopeBytes?: number;
}

/** What a configuration file may export: the configuration, a promise of it, or a function that returns one of the two. */
export type ConfigSource = Config | Promise<Config> | (() => Config | Promise<Config>);

/**
 * Returns its argument, so that an editor knows what a configuration file may say. For the default export of `sealed-session.config.ts`.
 *
 * @param config - The configuration; a function where a password has to be fetched first.
 */
export function defineConfig<T extends ConfigSource>(config: T): T {
  return config;
}
