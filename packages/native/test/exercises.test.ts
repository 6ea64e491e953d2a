/** Each exercise runs in a process of its own: what goes wrong in C would end this one. The sanitizers run the same. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

function exercise(script: string, ...args: readonly string[]): string {
  const path = fileURLToPath(new URL(`./exercise/${script}`, import.meta.url));
  const { status, signal, stdout, stderr } = spawnSync(process.execPath, ["--expose-gc", path, ...args], {
    encoding: "utf8",
  });
  expect({ status, signal, stderr }).toEqual({ status: 0, signal: null, stderr: "" });
  return stdout;
}

describe("the addon", () => {
  it("computes the published vectors of all its algorithms", () => {
    expect(exercise("vectors.mjs")).toBe(
      "AES-256-GCM: 300 opened and sealed, 108 refused\n" +
        "XAES-256-GCM: 2 derived, sealed and opened\nHMAC-SHA256: 88 tags\nHKDF-SHA256: 45 outputs\n",
    );
  });

  it("computes what node:crypto does or throws, whatever its arguments are, and touches nothing else", () => {
    expect(exercise("mutation.mjs", "20000")).toMatch(/^20000 calls, seed/);
  });

  it("is safe in threads that end by themselves, by errors or at any moment, loaded in the main thread or not", () => {
    expect(exercise("threads.mjs", "2")).toBe("24 threads ended\n");
  });

  it("keeps its memory bounded over many keys and messages, whether keys are wiped or dropped", () => {
    expect(exercise("growth.mjs")).toMatch(/^wiped: \d+ KiB, dropped: \d+ KiB\n$/);
  });

  it("refuses lengths that OpenSSL cannot take, before it touches a byte", () => {
    expect(exercise("huge.mjs")).toBe("all refused\n");
  });
});
