/**
 * What the chaos test and its processes say to each other.
 */
import type { KeyStatus } from "@sealed-session/core";
import type { Address } from "@sealed-session/test/servers";

/** How a process of the fleet is set up. Times are in milliseconds. */
export interface WorkerSettings {
  /** Who it is, for people. */
  readonly name: string;
  /** The nodes of the Redis Cluster. */
  readonly addresses: readonly Address[];
  readonly ring: string;
  /** The key of the KMS, which outlives every process. */
  readonly keyFile: string;
  readonly rotationPeriodMs: number;
  readonly maxSealingAgeMs: number;
  readonly refreshIntervalMs: number;
  /** Time between two envelopes; 0 for a process that only opens. */
  readonly sealEveryMs: number;
  /**
   * `forgetful` breaks the promise of a ring store: it calls every record durable without asking, and puts none back. The test must then
   * fail.
   */
  readonly store: "redis" | "forgetful";
}

/** An envelope on its way to a process that shall open it. */
export interface HandedEnvelope {
  /** Its place in the list of all envelopes. */
  readonly number: number;
  readonly storedId: string;
  readonly bytes: Uint8Array;
}

/** What a process is told. */
export interface ToWorker {
  readonly open: readonly HandedEnvelope[];
}

/** What a process tells. */
export type FromWorker =
  /** It has sealed an envelope; it chose the key between `from` and `to`, in milliseconds since 1970-01-01T00:00:00Z. */
  | { type: "sealed"; storedId: string; bytes: Uint8Array; keyId: string; from: number; to: number }
  /** It could not seal; `warm` when it had sealed before. */
  | { type: "not-sealed"; code: string; reason: string; warm: boolean }
  /** It has opened an envelope, and this was in it. */
  | { type: "opened"; number: number; value: unknown }
  /** It did not open an envelope, and knew that `at` this time, in milliseconds since 1970-01-01T00:00:00Z. */
  | { type: "refused"; number: number; code: string; reason: string; at: number }
  /** The keys of its ring, whenever they change. */
  | { type: "keys"; keys: readonly KeyStatus[] }
  /** Something that belongs to the history of a key, or of the process. */
  | { type: "note"; keyId: string | undefined; text: string };

/** @returns what is in the envelope with this stored id. */
export function contentOf(storedId: string): unknown {
  return { user: storedId, roles: ["tester"] };
}
