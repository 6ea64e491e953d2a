/** A ring's store in memory that lies open: a test may alter it as somebody with write access could, count its calls, or take it down. */
import { type DataKey, encodeRecord, type KeyRecord, RecordState } from "../../src/data-key.js";
import { SealedSessionError } from "../../src/errors.js";
import { type KeyRingStore, mayWrite } from "../../src/key-ring-store.js";

export interface OpenRingStore extends KeyRingStore {
  /** What it holds, whatever the ring's name, by field: to be changed at will. */
  readonly records: Map<string, Uint8Array>;
  /** Calls of `read` so far. */
  reads: number;
  /** The bytes of every `write` that changed something, the oldest first. */
  readonly changes: Uint8Array[];
  /** Calls of `write` so far. */
  writes: number;
  /** Every call fails with `STORE_UNAVAILABLE`. */
  down: boolean;
  /** What writes say of the second copy. */
  durable: boolean;
}

/** @param clock - The store's clock, in milliseconds since 1970-01-01T00:00:00Z. */
export function openRingStore(clock: () => number): OpenRingStore {
  const refuseDown = () => {
    if (store.down) throw new SealedSessionError("STORE_UNAVAILABLE", "down");
  };
  const store: OpenRingStore = {
    records: new Map(),
    reads: 0,
    writes: 0,
    changes: [],
    down: false,
    durable: true,
    async read() {
      store.reads++;
      refuseDown();
      return [...store.records].map(([keyId, record]) => ({ keyId, record: record.slice() }));
    },
    async write(_ring, keyId, record, options = {}) {
      store.writes++;
      refuseDown();
      if (!mayWrite(store.records, keyId, record, options)) return { written: false, durable: false };
      if (Buffer.compare(store.records.get(keyId) ?? new Uint8Array(0), record) !== 0) {
        store.changes.push(record.slice());
        store.records.set(keyId, record.slice());
      }
      return { written: true, durable: store.durable };
    },
    async now() {
      refuseDown();
      return clock();
    },
  };
  return store;
}

/** @returns A record that looks like one of this ring and opens under no KMS. */
export function junkRecord(n: number, activatesAt: number): { keyId: string; record: KeyRecord } {
  const commitment = new Uint8Array(32).fill(0xee);
  new DataView(commitment.buffer).setUint32(0, n);
  const keyId = Buffer.from(commitment.subarray(0, 12)).toString("base64url");
  const wraps = [{ kms: "fake", wrapped: Uint8Array.of(0xff, ...commitment.subarray(0, 4)) }];
  return { keyId, record: { commitment, activatesAt, state: RecordState.enabled, wraps } };
}

/** Writes many junk records at once, as {@link junkRecord} makes them. */
export function fillWithJunk(store: OpenRingStore, count: number, activatesAt: number): string[] {
  const ids: string[] = [];
  // Encoded once and changed in place: encoding each would take most of the test's time.
  const template = encodeRecord(junkRecord(0x01020304, activatesAt).record);
  const at = Buffer.from(template).indexOf(Uint8Array.of(1, 2, 3, 4));
  for (let n = 1; n <= count; n++) {
    const bytes = Buffer.from(template);
    bytes.writeUInt32BE(n, at);
    const keyId = Buffer.alloc(12, 0xee);
    keyId.writeUInt32BE(n);
    ids.push(keyId.toString("base64url"));
    store.records.set(keyId.toString("base64url"), Uint8Array.from(bytes));
  }
  return ids;
}

/** @returns The same key id with another commitment after it. */
export function withAnotherCommitment(record: KeyRecord): KeyRecord {
  return { ...record, commitment: record.commitment.map((byte, i) => (i < 12 ? byte : byte ^ 1)) };
}

/** Puts bytes under a key's id, whatever lay there. */
export function overwrite(store: OpenRingStore, key: Pick<DataKey, "keyId">, record: KeyRecord | Uint8Array): void {
  store.records.set(key.keyId, record instanceof Uint8Array ? record : encodeRecord(record));
}
