import { describe, expect, it } from "vitest";
import { formatDuration, parseDuration } from "../src/duration.js";

describe("a duration", () => {
  it.each([
    ["0s", 0],
    ["250ms", 250],
    ["90s", 90_000],
    ["30m", 1_800_000],
    ["24h", 86_400_000],
    ["7d", 604_800_000],
    ["2w", 1_209_600_000],
    ["1h30m", 5_400_000],
    ["3650d", 315_360_000_000],
  ])("is read as it is written: %s", (text, ms) => {
    expect(parseDuration(text)).toBe(ms);
  });

  it.each(["", "24", "h", "1.5h", "-1h", "24 h", "1h 30m", "1y", "24H", "3651d", "9999999999s", "1hh"])(
    "is refused where nobody can tell what was meant: %j",
    (text) => {
      expect(parseDuration(text)).toBeUndefined();
    },
  );

  it.each([
    [0, "0 s"],
    [-5, "0 s"],
    [250, "250 ms"],
    [1000, "1 s"],
    [65_000, "1 min 5 s"],
    [3_600_000, "1 h"],
    [3_605_000, "1 h"],
    [5_400_000, "1 h 30 min"],
    [183_600_000, "2 d 3 h"],
  ])("of %d ms is told as %s", (ms, text) => {
    expect(formatDuration(ms)).toBe(text);
  });
});
