/**
 * The MessagePack test suite of kawanet (test/vectors/third-party): every encoding of every value, and none skipped.
 */
import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { decode, encode } from "../src/codec.js";

interface Entry {
  readonly msgpack: readonly string[];
  readonly nil?: null;
  readonly bool?: boolean;
  readonly binary?: string;
  readonly number?: number;
  readonly bignum?: string;
  readonly string?: string;
  readonly array?: readonly unknown[];
  readonly map?: Readonly<Record<string, unknown>>;
  readonly timestamp?: readonly [seconds: number, nanoseconds: number];
  readonly ext?: readonly [type: number, hex: string];
}

const file = new URL("../../../test/vectors/third-party/msgpack-test-suite.json", import.meta.url);
const suite = JSON.parse(readFileSync(file, "utf8")) as Record<string, readonly Entry[]>;

/** Entries and encodings of each group: a file that lost some is noticed here, a loop that skips some at the end. */
const SIZES: Readonly<Record<string, readonly [entries: number, encodings: number]>> = {
  "10.nil.yaml": [1, 1],
  "11.bool.yaml": [2, 2],
  "12.binary.yaml": [3, 9],
  "20.number-positive.yaml": [11, 73],
  "21.number-negative.yaml": [8, 33],
  "22.number-float.yaml": [2, 4],
  "23.number-bignum.yaml": [9, 19],
  "30.string-ascii.yaml": [4, 13],
  "31.string-utf8.yaml": [5, 10],
  "32.string-emoji.yaml": [2, 4],
  "40.array.yaml": [5, 14],
  "41.map.yaml": [3, 9],
  "42.nested.yaml": [4, 12],
  "50.timestamp.yaml": [19, 19],
  "60.ext.yaml": [7, 11],
};

const MAX_UINT32 = 0xffff_ffff;
const MIN_INT32 = -0x8000_0000;
/** The only value whose first encoding in the suite is not ours: a BigInt that is not negative is always a uint 64. */
const WRITTEN_AS_UINT64 = "9223372036854775807";

function bytesOf(hex: string): Uint8Array {
  return Uint8Array.from(hex === "" ? [] : hex.split("-"), (byte) => Number.parseInt(byte, 16));
}

function hexOf(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("-");
}

function hasBigIntForm(hex: string): boolean {
  return hex.startsWith("cf") || hex.startsWith("d3");
}

/** Checks one encoding of an entry. */
function checkDecoding(entry: Entry, hex: string): void {
  const bytes = bytesOf(hex);
  if (entry.ext !== undefined) {
    expect(() => decode(bytes)).toThrow(expect.objectContaining({ code: "PAYLOAD_MALFORMED" }));
    return;
  }
  const value = decode(bytes);
  const integer = entry.bignum ?? (Number.isInteger(entry.number) ? entry.number : undefined);
  if (integer !== undefined) {
    expect(typeof value).toBe(hasBigIntForm(hex) ? "bigint" : "number");
    expect(BigInt(value as number | bigint)).toBe(BigInt(integer));
  } else if (entry.timestamp !== undefined) {
    const [seconds, nanoseconds] = entry.timestamp;
    expect(value).toStrictEqual(new Date(seconds * 1000 + Math.floor(nanoseconds / 1_000_000)));
  } else if (entry.binary !== undefined) {
    expect(value).toStrictEqual(bytesOf(entry.binary));
  } else {
    expect(value).toStrictEqual(plainValueOf(entry));
  }
}

function plainValueOf({ msgpack: _, ...rest }: Entry): unknown {
  const values = Object.values(rest);
  expect(values).toHaveLength(1);
  return values[0];
}

/** The values of an entry for which the suite's first encoding is the one that we write. */
function valuesToEncode(entry: Entry): unknown[] {
  if (entry.ext !== undefined) return [];
  if (entry.timestamp !== undefined) {
    const [seconds, nanoseconds] = entry.timestamp;
    return nanoseconds % 1_000_000 === 0 ? [new Date(seconds * 1000 + nanoseconds / 1_000_000)] : [];
  }
  if (entry.bignum !== undefined) return entry.bignum === WRITTEN_AS_UINT64 ? [] : [BigInt(entry.bignum)];
  // A fraction is always a float 64 here, and the suite's first form is the float 32.
  if (entry.number !== undefined) return Number.isInteger(entry.number) ? [entry.number] : [];
  if (entry.binary !== undefined) return [bytesOf(entry.binary)];
  return [plainValueOf(entry)];
}

test("the suite has the groups, entries and encodings that it had when these tests were written", () => {
  const sizes = Object.fromEntries(
    Object.entries(suite).map(([group, entries]) => [
      group,
      [entries.length, entries.reduce((sum, { msgpack }) => sum + msgpack.length, 0)],
    ]),
  );
  expect(Object.keys(SIZES)).toHaveLength(15);
  expect(sizes).toStrictEqual(SIZES);
});

describe.each(Object.entries(suite))("in group %s", (group, entries) => {
  test("every encoding decodes to the value, or is refused when its extension has another meaning here", () => {
    let checked = 0;
    for (const entry of entries) {
      for (const hex of entry.msgpack) {
        checkDecoding(entry, hex);
        checked++;
      }
    }
    expect(checked).toBe(SIZES[group]?.[1]);
  });
});

test("the encoder writes the first encoding of every value that it has the same form for", () => {
  let checked = 0;
  for (const entry of Object.values(suite).flat()) {
    for (const value of valuesToEncode(entry)) {
      expect(hexOf(encode(value))).toBe(entry.msgpack[0]);
      checked++;
    }
  }
  // 85 entries without 7 extensions, 2 fractions, 1 BigInt and the timestamps below a millisecond.
  expect(checked).toBe(66);
});

test("numbers that are integers of more than 32 bits are written as float 64, which the suite lists too", () => {
  const numbers = (suite["23.number-bignum.yaml"] ?? []).filter(({ number }) => number !== undefined);
  expect(numbers).toHaveLength(4);
  for (const { number, msgpack } of numbers) {
    expect((number as number) > MAX_UINT32 || (number as number) < MIN_INT32).toBe(true);
    expect(msgpack).toContain(hexOf(encode(number)));
  }
});
