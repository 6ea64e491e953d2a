/** Which of the verified keys seals, and which have stopped (format 5.5 and 5.6). */
import { latin1 } from "./bytes.js";
import { type KeyRecord, RecordState } from "./data-key.js";
import { KEY_ID_BYTES } from "./envelope.js";

/** How {@link chooseCurrent} decides. Times are in milliseconds. */
export interface CurrentPolicy {
  /** How old the current key may be. */
  readonly maxSealingAgeMs: number;
}

/**
 * The rule of format 5.5: the latest that is enabled, not in the future and not too old; of two of one time the smaller key id.
 *
 * @param records - Verified records.
 * @param now - In milliseconds since 1970-01-01T00:00:00Z.
 */
export function chooseCurrent(
  records: readonly KeyRecord[],
  now: number,
  policy: CurrentPolicy,
): KeyRecord | undefined {
  let chosen: KeyRecord | undefined;
  for (const record of records) {
    if (record.state !== RecordState.enabled || record.activatesAt > now) continue;
    if (now - record.activatesAt > policy.maxSealingAgeMs) continue;
    const later = chosen === undefined || record.activatesAt > chosen.activatesAt;
    const sameTime = record.activatesAt === chosen?.activatesAt;
    if (later || (sameTime && isSmaller(record.commitment, chosen?.commitment as Uint8Array))) chosen = record;
  }
  return chosen;
}

/** Compares key ids as unsigned bytes. */
function isSmaller(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < KEY_ID_BYTES; i++) {
    if (a[i] !== b[i]) return (a[i] as number) < (b[i] as number);
  }
  return false;
}

/**
 * When each key stops sealing: as its successor's time comes, or at the end of its own sealing age (format 5.6).
 *
 * @param records - Verified records.
 * @returns The times in milliseconds since 1970-01-01T00:00:00Z, by the 12 bytes of the key id as latin1.
 */
export function endsOfSealing(records: readonly KeyRecord[], policy: CurrentPolicy): Map<string, number> {
  const inOrder = records
    .filter(({ state }) => state === RecordState.enabled)
    .sort((a, b) => a.activatesAt - b.activatesAt || (isSmaller(a.commitment, b.commitment) ? 1 : -1));
  const ends = new Map<string, number>();
  for (const [index, { commitment, activatesAt }] of inOrder.entries()) {
    const successor = inOrder[index + 1]?.activatesAt ?? Number.POSITIVE_INFINITY;
    ends.set(latin1(commitment, 0, KEY_ID_BYTES), Math.min(successor, activatesAt + policy.maxSealingAgeMs));
  }
  return ends;
}
