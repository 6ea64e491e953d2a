import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

const read = (path: string) => readFileSync(new URL(path, import.meta.url), "utf8");
const page = read("../../../docs/tampering.md");
const format = read("../../../docs/envelope-format.md");
const tests = read("key-ring-tamper.test.ts");
const types = [...read("../src/diagnostics.ts").matchAll(/readonly type: "([a-z-]+)"/g)].map(([, type]) => type);
const codes = [...read("../src/errors.ts").matchAll(/"([A-Z]+(?:_[A-Z]+)+)"/g)].map(([, code]) => code);

const [head, , ...rows] = [...page.matchAll(/^\|(.*)\|$/gm)].map(([, row]) =>
  (row as string).split("|").map((cell) => cell.trim()),
);
/** A mark after the name says what else the attacker can do. */
const names = rows.map(([name]) => (name as string).replace(/ [†‡]$/, ""));
const blocks = [...tests.matchAll(/^describe\("([^"]+)"/gm)].map(([, name]) => name);

describe("the page on tampering", () => {
  it("is read as it is written", () => {
    expect(head?.[0]).toBe("what he does");
    expect(rows.length).toBeGreaterThan(30);
    expect(types).toContain("key-record-restored");
    expect(codes).toContain("KEY_UNAVAILABLE");
  });

  it("has one row for each block of the tests, in their order, and the tests no block without a row", () => {
    expect(names).toEqual(blocks);
    expect(new Set(names).size).toBe(names.length);
  });

  it("keeps no test outside the blocks, where no row would tell of it", () => {
    expect(tests).not.toMatch(/^(?:it|test)\b/m);
    expect(tests.match(/^describe\b/gm)).toHaveLength(blocks.length);
  });

  it("says in each row what happens in who runs and who starts, what prevents or detects it, and what is left", () => {
    for (const row of rows) {
      expect(row, row[0]).toHaveLength(5);
      for (const cell of row) expect(cell, row[0]).not.toBe("");
    }
  });

  it("names an event in each row, or says that there is none", () => {
    for (const [name, , , shown] of rows) expect(shown, name).toMatch(/`[a-z]+(?:-[a-z]+)+`|No event/);
  });

  it("names no event, no error code and no clause that does not exist", () => {
    const events = [...page.matchAll(/`([a-z]+(?:-[a-z]+)+)`/g)].map(([, event]) => event);
    expect(events.filter((event) => !types.includes(event))).toEqual([]);
    const errors = [...page.matchAll(/`([A-Z]+(?:_[A-Z]+)+)`/g)].map(([, code]) => code);
    expect(errors.filter((code) => !codes.includes(code))).toEqual([]);
    const clauses = [...page.matchAll(/\((\d\.\d(?:, \d\.\d)*)\)/g)].flatMap(([, list]) =>
      (list as string).split(", "),
    );
    expect(clauses.length).toBeGreaterThan(30);
    expect(clauses.filter((clause) => !format.includes(`\n${clause} `))).toEqual([]);
  });
});
