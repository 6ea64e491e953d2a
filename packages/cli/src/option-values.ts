/**
 * What may stand after a flag. A message names the flag and the form, never what was typed.
 */
import type { Shard } from "@sealed-session/core";
import { CliError } from "./cli-error.js";
import { parseDuration } from "./duration.js";

const MAX_SHARDS = 1024;
const MAX_RATE = 10_000_000;
const MAX_CONCURRENCY = 64;
const MAX_SAMPLE = 1_000_000_000;
const MAX_PREFIX_BYTES = 128;

/** @returns milliseconds. */
export function readDuration(flag: string, text: string): number {
  return parseDuration(text) ?? refuse(flag, "a time such as 90s, 30m, 24h, 7d or 1h30m, at most 3650 days");
}

/** @returns the part that `2/8` means. */
export function readShard(flag: string, text: string): Shard {
  const [, first = "", second = ""] = /^(\d{1,4})\/(\d{1,4})$/.exec(text) ?? [];
  const [index, count] = [Number(first), Number(second)];
  const isShard = first !== "" && index >= 1 && index <= count && count <= MAX_SHARDS;
  return isShard ? { index, count } : refuse(flag, `i/n, such as 2/8: i from 1 to n, n at most ${MAX_SHARDS}`);
}

/** @returns sessions a second. */
export function readRate(flag: string, text: string): number {
  return (
    readInteger(text.replace(/\/s$/, ""), MAX_RATE) ??
    refuse(flag, `a number of sessions a second, from 1 to ${MAX_RATE}`)
  );
}

/** @returns calls at a time. */
export function readConcurrency(flag: string, text: string): number {
  return readInteger(text, MAX_CONCURRENCY) ?? refuse(flag, `a number of calls, from 1 to ${MAX_CONCURRENCY}`);
}

/** @returns a number of sessions. */
export function readSample(flag: string, text: string): number {
  return readInteger(text, MAX_SAMPLE) ?? refuse(flag, `a number of sessions, from 1 to ${MAX_SAMPLE}`);
}

/** @returns the id of a key. */
export function readKeyId(argument: string, text: string): string {
  return /^[\w-]{16}$/.test(text)
    ? text
    : refuse(argument, "a key id: 16 characters of base64url, as `rotate status` shows them");
}

/** @returns what keys begin with. */
export function readPrefix(flag: string, text: string): string {
  const isPrefix = text.isWellFormed() && text !== "" && Buffer.byteLength(text) <= MAX_PREFIX_BYTES;
  return isPrefix ? text : refuse(flag, `1 to ${MAX_PREFIX_BYTES} bytes of UTF-8`);
}

function readInteger(text: string, max: number): number | undefined {
  const value = /^\d{1,10}$/.test(text) ? Number(text) : 0;
  return value >= 1 && value <= max ? value : undefined;
}

function refuse(flag: string, form: string): never {
  throw new CliError("USAGE", `${flag} must be ${form}`);
}
