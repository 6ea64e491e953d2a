/**
 * Things that work and should not stay as they are.
 */

/** Words for {@link RedisWarning.code}. */
export type RedisWarningCode =
  /** `maxmemory-policy` lets Redis drop the key ring when memory runs short. */
  | "RING_MAY_BE_EVICTED"
  /** Redis did not tell its `maxmemory-policy`. */
  | "EVICTION_POLICY_UNKNOWN"
  /** The hash of a ring has a field that is no key id; it was passed over. */
  | "RING_FIELD_IGNORED";

/** A warning; holds no secret. */
export interface RedisWarning {
  /** What is to be changed, as a stable word. */
  readonly code: RedisWarningCode;
  /** For people. */
  readonly message: string;
}

/** Hands a warning to `process.emitWarning`, which prints it once on stderr unless somebody listens. */
export function emitWarning({ code, message }: RedisWarning): void {
  process.emitWarning(message, { type: "SealedSessionWarning", code });
}
