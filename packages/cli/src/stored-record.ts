/**
 * A key record as it lies in the ring's store (format 5.1), for a receipt: what a process knows of a key is one thing, what is stored another.
 */
import { decode, type KeyRingStore } from "@sealed-session/core";

const COMMITMENT_BYTES = 32;

/** What a receipt tells of a record. */
export interface StoredRecord {
  /** What names the data key without telling it, in base64url: 43 characters, of which the first 16 are the key id. */
  readonly commitment: string;
  /** 0 enabled, 1 revoked, 2 retired. */
  readonly state: number;
  /** Names of the KMSs whose wraps it holds. */
  readonly kms: readonly string[];
}

/** @returns the record of a key, or `undefined` when the store holds none that can be read. */
export async function readStoredRecord(
  store: KeyRingStore,
  ring: string,
  keyId: string,
): Promise<StoredRecord | undefined> {
  const stored = (await store.read(ring)).find((record) => record.keyId === keyId);
  const value = stored === undefined ? undefined : decoded(stored.record);
  if (!Array.isArray(value) || value.length !== 5) return undefined;
  const [, commitment, , state, wraps] = value as readonly unknown[];
  if (!(commitment instanceof Uint8Array) || commitment.length !== COMMITMENT_BYTES || !Array.isArray(wraps))
    return undefined;
  const text = Buffer.from(commitment).toString("base64url");
  if (!text.startsWith(keyId)) return undefined;
  return {
    commitment: text,
    state: Number(state),
    kms: wraps.map((wrap: unknown) => String(Array.isArray(wrap) ? wrap[0] : wrap)),
  };
}

function decoded(record: Uint8Array): unknown {
  try {
    return decode(record, { integersOnly: true });
  } catch {
    return undefined;
  }
}
