import { describe, expect, it } from "vitest";
import { backend } from "#backend";
import { encode } from "../src/codec.js";
import {
  DataKey,
  decodeRecord,
  deriveKeys,
  encodeRecord,
  type KeyRecord,
  keyIdOf,
  MAX_ACTIVATES_AT,
  mergeRecords,
  RecordState,
} from "../src/data-key.js";
import { codeThrown } from "./support/fixture.js";
import { toHex } from "./support/vectors.js";

const bytes32 = (fill: number) => new Uint8Array(32).fill(fill);
const record: KeyRecord = {
  commitment: bytes32(1),
  activatesAt: 1_790_000_000_000,
  state: RecordState.enabled,
  wraps: [{ kms: "a", wrapped: Uint8Array.of(1, 2, 3) }],
};

describe("key record", () => {
  it.each([
    ["enabled", record],
    ["revoked", { ...record, state: RecordState.revoked }],
    ["a tombstone without wraps", { ...record, state: RecordState.retired, wraps: [] }],
    ["as early as possible", { ...record, activatesAt: 0 }],
    ["as late as possible", { ...record, activatesAt: MAX_ACTIVATES_AT }],
    [
      "with eight wraps",
      { ...record, wraps: Array.from({ length: 8 }, (_, i) => ({ kms: `kms ${i}`, wrapped: bytes32(i) })) },
    ],
    ["with a name of 64 bytes", { ...record, wraps: [{ kms: "é".repeat(32), wrapped: bytes32(0) }] }],
    ["with a wrapped key of 4096 bytes", { ...record, wraps: [{ kms: "a", wrapped: new Uint8Array(4096) }] }],
  ] as [string, KeyRecord][])("%s reads back as written (5.1)", (_, original) => {
    expect(decodeRecord(encodeRecord(original))).toEqual(original);
  });

  it("writes the time as an unsigned integer, never as a float (5.1)", () => {
    expect(toHex(encodeRecord(record))).toContain(`cf${record.activatesAt.toString(16).padStart(16, "0")}00`);
    expect(toHex(encodeRecord({ ...record, activatesAt: 1 }))).toContain(`${"01".repeat(32)}0100`);
  });

  const time = BigInt(record.activatesAt);
  const wraps = [["a", Uint8Array.of(1)]];
  it.each([
    ["is not an array", { a: 1 }],
    ["has four elements", [1, bytes32(1), time, 0]],
    ["has six elements", [1, bytes32(1), time, 0, wraps, 0]],
    ["is of version 2", [2, bytes32(1), time, 0, wraps]],
    ["is of version 0", [0, bytes32(1), time, 0, wraps]],
    ["has its version as text", ["1", bytes32(1), time, 0, wraps]],
    ["has a boolean version", [true, bytes32(1), time, 0, wraps]],
    ["has its version in an array", [[1], bytes32(1), time, 0, wraps]],
    ["has a Buffer (extension 4) as its commitment", [1, Buffer.alloc(32, 1), time, 0, wraps]],
    ["has a Buffer (extension 4) as a wrapped key", [1, bytes32(1), time, 0, [["a", Buffer.of(1)]]]],
    ["has another typed array as a wrapped key", [1, bytes32(1), time, 0, [["a", Int8Array.of(1)]]]],
    ["has its state as text", [1, bytes32(1), time, "0", wraps]],
    ["has a negative state", [1, bytes32(1), time, -1, wraps]],
    ["has a state beyond 32 bits", [1, bytes32(1), time, 2n ** 32n, wraps]],
    ["has a time as text", [1, bytes32(1), String(time), 0, wraps]],
    ["has a name that is bytes", [1, bytes32(1), time, 0, [[Uint8Array.of(97), Uint8Array.of(1)]]]],
    ["has an ill-formed name", [1, bytes32(1), time, 0, [["\ud800", Uint8Array.of(1)]]]],
    ["has wraps as a map", [1, bytes32(1), time, 0, new Map([["a", Uint8Array.of(1)]])]],
    ["has a commitment of 31 bytes", [1, new Uint8Array(31), time, 0, wraps]],
    ["has a textual commitment", [1, "1".repeat(32), time, 0, wraps]],
    ["has a negative time", [1, bytes32(1), -1, 0, wraps]],
    ["has a time after the year 9999", [1, bytes32(1), BigInt(MAX_ACTIVATES_AT) + 1n, 0, wraps]],
    ["has a time as a float", [1, bytes32(1), record.activatesAt, 0, wraps]],
    ["has state 3", [1, bytes32(1), time, 3, wraps]],
    ["has a boolean state", [1, bytes32(1), time, false, wraps]],
    ["is enabled without wraps", [1, bytes32(1), time, 0, []]],
    ["is revoked without wraps", [1, bytes32(1), time, 1, []]],
    ["has nine wraps", [1, bytes32(1), time, 0, Array.from({ length: 9 }, (_, i) => [`k${i}`, bytes32(i)])]],
    ["names a KMS twice", [1, bytes32(1), time, 0, [...wraps, ...wraps]]],
    ["has an empty name", [1, bytes32(1), time, 0, [["", Uint8Array.of(1)]]]],
    ["has a name of 65 bytes", [1, bytes32(1), time, 0, [["a".repeat(65), Uint8Array.of(1)]]]],
    ["has an empty wrapped key", [1, bytes32(1), time, 0, [["a", new Uint8Array(0)]]]],
    ["has a wrapped key of 4097 bytes", [1, bytes32(1), time, 0, [["a", new Uint8Array(4097)]]]],
    ["has a wrap of three", [1, bytes32(1), time, 0, [["a", Uint8Array.of(1), 1]]]],
  ])("is refused when it %s (5.1)", (_, value) => {
    expect(decodeRecord(encode(value))).toBeUndefined();
  });

  it.each([
    ["version, time and state as unsigned integers of 64 bits", [1n, bytes32(1), time, 0n, wraps], 0],
    ["a state of 64 bits that says revoked", [1, bytes32(1), time, 1n, wraps], 1],
    ["a time that fits 32 bits in 64", [1, bytes32(1), 7n, 0, wraps], 0],
  ] as [string, unknown[], number][])("may have %s: any form of an integer (5.1)", (_, value, state) => {
    const activatesAt = Number(value[2]);
    const read = decodeRecord(encode(value));
    expect(read).toEqual({ ...record, activatesAt, state, wraps: [{ kms: "a", wrapped: Uint8Array.of(1) }] });
  });

  it("is refused when it is longer than 8192 bytes, or has bytes after its end (5.1)", () => {
    const long = [1, bytes32(1), time, 0, ["a", "b", "c"].map((name) => [name, new Uint8Array(2730)])];
    expect(decodeRecord(encode(long))).toBeUndefined();
    expect(decodeRecord(Uint8Array.of(...encodeRecord(record), 0))).toBeUndefined();
    expect(decodeRecord(new Uint8Array(0))).toBeUndefined();
  });

  it("is not written when it breaks a limit", async () => {
    expect(await codeThrown(() => encodeRecord({ ...record, wraps: [] }))).toBe("KEY_RECORD_INVALID");
  });
});

describe("merging two copies of a record (5.4)", () => {
  const other = { ...record, wraps: [{ kms: "b", wrapped: Uint8Array.of(9) }] };

  it("keeps the wraps of both", () => {
    expect(mergeRecords(record, other).wraps.map(({ kms }) => kms)).toEqual(["a", "b"]);
  });

  it("keeps the first copy's wrap and time where both have one", () => {
    const changed = { ...record, activatesAt: 5, wraps: [{ kms: "a", wrapped: Uint8Array.of(9) }] };
    expect(mergeRecords(record, changed)).toEqual(record);
  });

  const wrapOf = (kms: string, length: number) => ({ kms, wrapped: new Uint8Array(length).fill(1) });
  it("takes of the second copy what fits 8192 bytes, and the result can always be written (5.1)", () => {
    const names = ["a", "é".repeat(32), "c".repeat(64), "d"];
    let full = 0;
    for (let length = 3900; length < 4096; length++) {
      const first = { ...record, wraps: [wrapOf(names[0] as string, length)] };
      const second = { ...record, wraps: names.slice(1).map((kms, i) => wrapOf(kms, i === 0 ? 4096 : 4096 - length)) };
      const merged = mergeRecords(first, second);
      expect(encodeRecord(merged).length).toBeLessThanOrEqual(8192);
      expect(merged.wraps[0]).toBe(first.wraps[0]);
      if (merged.wraps.length < names.length) full++;
    }
    expect(full).toBeGreaterThan(0);
  });

  it("leaves out a wrap that is too long, and takes a shorter one after it", () => {
    const first = { ...record, wraps: [wrapOf("a", 4096)] };
    const second = { ...record, wraps: [wrapOf("b", 4096), wrapOf("c", 100)] };
    expect(mergeRecords(first, second).wraps.map(({ kms }) => kms)).toEqual(["a", "c"]);
  });

  it("takes no ninth wrap", () => {
    const eight = (prefix: string) => ({
      ...record,
      wraps: Array.from({ length: 8 }, (_, i) => wrapOf(`${prefix}${i}`, 1)),
    });
    expect(mergeRecords(eight("a"), eight("b"))).toEqual(eight("a"));
    const seven = { ...record, wraps: eight("a").wraps.slice(1) };
    expect(mergeRecords(seven, eight("b")).wraps).toHaveLength(8);
  });

  const { enabled, revoked, retired } = RecordState;
  it.each([
    [enabled, enabled, enabled],
    [enabled, revoked, revoked],
    [revoked, enabled, revoked],
    [revoked, retired, retired],
    [retired, enabled, retired],
  ])("of states %i and %i the higher one wins", (a, b, winner) => {
    const merged = mergeRecords({ ...record, state: a }, { ...other, state: b });
    expect(merged.state).toBe(winner);
    expect(merged.wraps.length).toBe(winner === retired ? 0 : 2);
  });
});

describe("DataKey", () => {
  const nonceOf = (sender: Uint8Array) => Uint8Array.of(...sender, ...new Uint8Array(12).fill(9));
  const make = (options: { maxSenders?: number; maxMessagesPerSender?: number } = {}) => {
    let drawn = 0;
    const random = (target: Uint8Array) => void target.fill(++drawn);
    return new DataKey(bytes32(5), { random, ...options });
  };
  const sealBy = (key: DataKey) => {
    const { sender, aesKey } = key.nextSender();
    const out = new Uint8Array(17);
    backend.sealGcm(aesKey, new Uint8Array(12).fill(9), new Uint8Array(0), Uint8Array.of(42), out, 0);
    return { sender, out };
  };

  it("is named by the first 12 bytes of its commitment (1.3)", () => {
    const key = make();
    expect(toHex(key.keyIdBytes)).toBe(toHex(deriveKeys(bytes32(5)).commitment).slice(0, 24));
    expect(keyIdOf({ ...record, commitment: key.commitment })).toBe(key.keyId);
  });

  it("draws its sender at the first message and keeps it (2.2)", () => {
    const key = make();
    expect(sealBy(key).sender).toBe(sealBy(key).sender);
  });

  it("draws a new sender when the old one has sealed its share (2.2)", () => {
    const key = make({ maxMessagesPerSender: 3 });
    const senders = Array.from({ length: 7 }, () => toHex(sealBy(key).sender));
    expect(new Set(senders).size).toBe(3);
    expect(senders[2]).toBe(senders[0]);
    expect(senders[3]).not.toBe(senders[0]);
  });

  it("draws a new sender after reseed()", () => {
    const key = make();
    const before = toHex(sealBy(key).sender);
    key.reseed();
    expect(toHex(sealBy(key).sender)).not.toBe(before);
  });

  it("opens what it sealed, from whatever sender, with a cache of any size", () => {
    const writer = make({ maxMessagesPerSender: 1 });
    const messages = Array.from({ length: 50 }, () => sealBy(writer));
    for (const maxSenders of [1, 2, 7, 1000]) {
      const reader = make({ maxSenders });
      for (let round = 0; round < 3; round++) {
        for (const { sender, out } of messages) {
          expect(reader.open(nonceOf(sender), new Uint8Array(0), out)).toHaveLength(1);
        }
      }
    }
  });

  it("does not open what was changed, also from a sender that it knows", () => {
    const key = make();
    const { sender, out } = sealBy(key);
    expect(key.open(nonceOf(sender), new Uint8Array(0), out)).toHaveLength(1);
    out[0] = (out[0] as number) ^ 1;
    expect(key.open(nonceOf(sender), new Uint8Array(0), out)).toBeUndefined();
  });

  it("cannot be used once it is wiped", async () => {
    const key = make();
    const { sender, out } = sealBy(key);
    key.open(nonceOf(sender), new Uint8Array(0), out);
    key.wipe();
    expect(await codeThrown(() => key.nextSender())).toBe("KEY_UNAVAILABLE");
    expect(await codeThrown(() => key.clientKey(bytes32(1)))).toBe("KEY_UNAVAILABLE");
    expect(await codeThrown(() => key.open(nonceOf(sender), new Uint8Array(0), out))).toBe("KEY_UNAVAILABLE");
  });

  it("refuses a data key of another length", () => {
    expect(() => deriveKeys(new Uint8Array(31))).toThrow(RangeError);
  });
});
