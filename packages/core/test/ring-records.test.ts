import { expect, it } from "vitest";
import { backend } from "#backend";
import { DataKey, encodeRecord, type KeyRecord, keyIdOf, RecordState } from "../src/data-key.js";
import type { KmsSet } from "../src/kms-set.js";
import { RingRecords } from "../src/ring-records.js";
import { codeThrown, START } from "./support/fixture.js";

it("refuses both of two verified keys with one key id and different commitments (1.3)", async () => {
  // Such a pair takes 2^48 work to find, so the KMSs here say of any record that it verified.
  const opened: DataKey[] = [];
  const kms = {
    unwrap: async () => {
      const dataKey = new DataKey(new Uint8Array(32).fill(opened.length), { random: backend.randomFill });
      opened.push(dataKey);
      return { dataKey, kms: "a", refused: false, failure: undefined };
    },
    has: () => true,
  } as unknown as KmsSet;
  const revoked = new Set<string>();
  const options = {
    clock: () => START,
    maxAheadMs: 0,
    refusedRetryMs: 0,
    outageLimitMs: 1,
    revoked,
    droppedKms: revoked,
  };
  const records = new RingRecords("web", kms, options);

  const record: KeyRecord = {
    commitment: new Uint8Array(32).fill(1),
    activatesAt: START,
    state: RecordState.enabled,
    wraps: [{ kms: "a", wrapped: Uint8Array.of(1) }],
  };
  const keyId = keyIdOf(record);
  records.merge([{ keyId, record: encodeRecord(record) }], START);
  await records.verify();
  expect(records.find(keyId)).toBe(opened[0]);

  const twin = { ...record, commitment: record.commitment.map((byte, i) => (i < 12 ? byte : 2)) };
  records.merge([{ keyId, record: encodeRecord(twin) }], START);
  await records.verify();
  expect(opened).toHaveLength(2);
  expect(await codeThrown(() => records.find(keyId))).toBe("KEY_REVOKED");
  for (const dataKey of opened) expect(await codeThrown(() => dataKey.nextSender())).toBe("KEY_UNAVAILABLE");
});
