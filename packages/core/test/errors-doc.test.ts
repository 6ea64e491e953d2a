import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

const source = readFileSync(new URL("../src/errors.ts", import.meta.url), "utf8");
const guide = readFileSync(new URL("../../../docs/errors.md", import.meta.url), "utf8");

const [union = ""] = /(?<=export type ErrorCode =)[^;]*/.exec(source) ?? [];
const codes = [...union.matchAll(/"([A-Z_]+)"/g)].map(([, code]) => code);
/** The first cells of all table rows. */
const rows = [...guide.matchAll(/^\| *`([A-Z_]+)` *\|/gm)].map(([, code]) => code);

describe("the guide on errors", () => {
  it("is compared with all the codes that the source has", () => {
    expect(codes.length).toBeGreaterThan(20);
    expect(codes).toContain("ENVELOPE_REJECTED");
    expect(codes).toContain("CLOSED");
  });

  it("has one row for each code, in the order of the source, and no other", () => {
    expect(rows).toEqual(codes);
  });

  it("names no code that does not exist", () => {
    const named = [...guide.matchAll(/`([A-Z]+(?:_[A-Z]+)+)`/g)].map(([, word]) => word);
    expect(named.filter((word) => !codes.includes(word))).toEqual([]);
  });

  it("says in each row what happened, what to do and whether to call again", () => {
    for (const row of guide.matchAll(/^\| *`[A-Z_]+` *\|.*$/gm)) {
      const cells = row[0].split("|").slice(1, -1);
      expect(cells).toHaveLength(4);
      for (const cell of cells) expect(cell.trim(), row[0]).not.toBe("");
    }
  });
});
