import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { CONFIG_FIELDS, flagOf, pathOf, variableOf } from "../src/config-fields.js";
import { ExitCode } from "../src/exit-code.js";

const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");

describe("the README", () => {
  it("has the table of fields as they are", () => {
    const rows = CONFIG_FIELDS.map((field) => {
      const flag = flagOf(field);
      return `| \`${pathOf(field)}\` | \`${variableOf(field)}\` | ${flag === undefined ? "" : `\`${flag}\``} |`;
    });
    const table = ["| field | environment | flag |", "|---|---|---|", ...rows].join("\n");
    expect(readme).toContain(`<!-- fields: begin -->\n${table}\n<!-- fields: end -->`);
  });

  it("has every exit code", () => {
    const [, section = ""] = readme.split("### Exit codes");
    const codes = [...section.matchAll(/^\| (\d+) \|/gm)].map(([, code]) => Number(code));
    expect(codes).toEqual(Object.values(ExitCode));
  });
});
