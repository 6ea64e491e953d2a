/** The times by which a ring rotates, with the defaults of `KeyRing`. In milliseconds. */
import type { RingSettings } from "./config-schema.js";

const MINUTE_MS = 60_000;
const DAY_MS = 24 * 60 * MINUTE_MS;

/** The times of one ring. */
export interface RingPolicy {
  /** How often a new key seals. */
  readonly rotationPeriodMs: number;
  /** How old a key may get that seals. */
  readonly maxSealingAgeMs: number;
  /** How often processes read the ring. */
  readonly refreshIntervalMs: number;
}

/** @returns the times by which the processes of these settings go. */
export function policyOf(settings: RingSettings): RingPolicy {
  const { rotationPeriodMs = DAY_MS } = settings;
  return {
    rotationPeriodMs,
    maxSealingAgeMs: settings.maxSealingAgeMs ?? 2 * rotationPeriodMs,
    refreshIntervalMs: settings.refreshIntervalMs ?? Math.min(MINUTE_MS, Math.max(1, Math.floor(rotationPeriodMs / 8))),
  };
}
