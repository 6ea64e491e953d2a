import { describe, expect, it } from "vitest";
import { tell } from "../src/cli-error.js";
import {
  readConcurrency,
  readDuration,
  readKeyId,
  readPrefix,
  readRate,
  readSample,
  readShard,
} from "../src/option-values.js";

describe("what stands after a flag", () => {
  it("is read as what it means", () => {
    expect(readDuration("--older-than", "24h")).toBe(86_400_000);
    expect(readShard("--shard", "2/8")).toEqual({ index: 2, count: 8 });
    expect(readShard("--shard", "1024/1024")).toEqual({ index: 1024, count: 1024 });
    expect(readRate("--rate", "500")).toBe(500);
    expect(readRate("--rate", "500/s")).toBe(500);
    expect(readConcurrency("--concurrency", "64")).toBe(64);
    expect(readSample("--sample", "1000")).toBe(1000);
    expect(readKeyId("<key-id>", "-_AZaz0123456789")).toBe("-_AZaz0123456789");
    expect(readPrefix("--prefix", "sess:")).toBe("sess:");
  });

  it.each([
    ["--older-than", () => readDuration("--older-than", "24hours")],
    ["--shard", () => readShard("--shard", "0/8")],
    ["--shard", () => readShard("--shard", "9/8")],
    ["--shard", () => readShard("--shard", "1/1025")],
    ["--shard", () => readShard("--shard", "1-8")],
    ["--rate", () => readRate("--rate", "0")],
    ["--concurrency", () => readConcurrency("--concurrency", "65")],
    ["--rate", () => readRate("--rate", "1.5")],
    ["--rate", () => readRate("--rate", "10000001")],
    ["--sample", () => readSample("--sample", "-1")],
    ["<key-id>", () => readKeyId("<key-id>", "too-short")],
    ["--prefix", () => readPrefix("--prefix", "")],
  ])("is refused with the flag's name and the form that is wanted, and ends with 2: %s (%#)", (flag, read) => {
    let thrown: unknown;
    try {
      read();
    } catch (error) {
      thrown = error;
    }
    expect(tell(thrown)).toMatchObject({ code: "USAGE", exitCode: 2 });
    expect(tell(thrown).message).toMatch(new RegExp(`^${flag} must be `));
  });
});
