import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import type { RotationCounts } from "@sealed-session/core";
import { afterAll, beforeEach, describe, expect, it, vi } from "vitest";
import { Checkpoint, type CheckpointScope, type CheckpointState, targetOfCheckpoint } from "../src/checkpoint.js";
import { tell } from "../src/cli-error.js";

/** Calls that change the disk, in their order. */
const calls: string[] = [];
vi.mock("node:fs", async (original) => {
  const fs = await original<typeof import("node:fs")>();
  const named = (path: unknown) => String(path).split("/").at(-1);
  return {
    ...fs,
    writeFileSync: (...args: Parameters<typeof fs.writeFileSync>) => {
      const { flush } = (args[2] ?? {}) as { flush?: boolean };
      calls.push(`write ${named(args[0])}${flush ? " and flush" : ""}`);
      fs.writeFileSync(...args);
    },
    renameSync: (...args: Parameters<typeof fs.renameSync>) => {
      calls.push(`rename ${named(args[0])} to ${named(args[1])}`);
      fs.renameSync(...args);
    },
    openSync: (...args: Parameters<typeof fs.openSync>) => {
      calls.push(`open ${named(args[0])}`);
      return fs.openSync(...args);
    },
    fsyncSync: (...args: Parameters<typeof fs.fsyncSync>) => {
      calls.push("flush");
      fs.fsyncSync(...args);
    },
  };
});

const folder = mkdtempSync(join(tmpdir(), "sealed-session-checkpoint-"));
afterAll(() => rmSync(folder, { recursive: true }));

const COUNTS: RotationCounts = {
  examined: 10,
  resealed: 4,
  current: 3,
  younger: 0,
  clientBound: 0,
  overtaken: 1,
  gone: 0,
  expired: 0,
  foreign: 0,
  unopened: 2,
  byKey: { AAAAAAAAAAAAAAAA: 7, BBBBBBBBBBBBBBBB: 3 },
};
const STATE: CheckpointState = {
  startedAt: 1_700_000_000_000,
  position: { "a:1": { cursor: "17", identity: "x", owned: "0-16383" } },
  counts: COUNTS,
  unopened: { ENVELOPE_REJECTED: 2 },
};
const SCOPE: CheckpointScope = {
  command: "rotate sessions",
  ring: "web",
  namespace: "eu",
  keyId: "AAAAAAAAAAAAAAAA",
  olderThanMs: 0,
  shard: "1/1",
};

let path = "";
let now = 0;
beforeEach(() => {
  const own = mkdtempSync(join(folder, "c-"));
  path = join(own, "run.json");
  now = 1_000_000;
  calls.length = 0;
});

const open = (scope: Partial<CheckpointScope> = {}) =>
  new Checkpoint(path, { ...SCOPE, ...scope }, { clock: () => now });
const saved = (state: CheckpointState = STATE) => open().note(state);
const refusal = (read: () => unknown) => {
  try {
    read();
  } catch (error) {
    return tell(error);
  }
  throw new Error("the checkpoint was taken");
};

describe("a checkpoint", () => {
  it("gives back what was noted", () => {
    saved();
    expect(open().read()).toEqual(STATE);
    expect(targetOfCheckpoint(path)).toBe(SCOPE.keyId);
  });

  it("is nothing before the first run, and after one that was completed", () => {
    expect(open().read()).toBeUndefined();
    expect(targetOfCheckpoint(path)).toBeUndefined();
    saved();
    open().remove();
    expect(open().read()).toBeUndefined();
    expect(readdirSync(dirname(path))).toEqual([]);
  });

  it("is written aside and flushed before it takes the old one's place, and its directory after that", () => {
    saved();
    expect(calls).toEqual([
      "write run.json.new and flush",
      "rename run.json.new to run.json",
      `open ${dirname(path).split("/").at(-1)}`,
      "flush",
    ]);
    expect(readdirSync(dirname(path))).toEqual(["run.json"]);
    expect(statSync(path).mode & 0o077).toBe(0);
  });

  it("stays as it was when the new one cannot be written", () => {
    saved();
    const before = readFileSync(path, "utf8");
    mkdirSync(`${path}.new`);
    expect(() => saved({ ...STATE, startedAt: 1 })).toThrow();
    expect(readFileSync(path, "utf8")).toBe(before);
    expect(open().read()).toEqual(STATE);
  });

  it("is written once a second, and at the end what was noted last", () => {
    const checkpoint = open();
    const examined = (count: number) => ({ ...STATE, counts: { ...COUNTS, examined: count } });
    const stored = () => open().read()?.counts.examined;
    checkpoint.note(examined(1));
    now += 999;
    checkpoint.note(examined(2));
    expect(stored()).toBe(1);
    now += 1;
    checkpoint.note(examined(3));
    expect(stored()).toBe(3);
    checkpoint.note(examined(4));
    checkpoint.flush();
    expect(stored()).toBe(4);
    calls.length = 0;
    checkpoint.flush();
    expect(calls).toEqual([]);
  });

  it("is written also when the clock was set back", () => {
    const checkpoint = open();
    checkpoint.note(STATE);
    now -= 3_600_000;
    checkpoint.note({ ...STATE, startedAt: 2 });
    expect(open().read()?.startedAt).toBe(2);
  });

  it("keeps counts and position of one moment, although the counts go on", () => {
    const checkpoint = open();
    const counts = structuredClone(COUNTS);
    checkpoint.note(STATE);
    checkpoint.note({ ...STATE, counts });
    counts.examined = 99;
    checkpoint.flush();
    expect(open().read()?.counts.examined).toBe(10);
  });
});

describe("a checkpoint of another run is refused, and the command ends with 2", () => {
  it.each([
    [{ keyId: "CCCCCCCCCCCCCCCC" }, "another target key"],
    [{ namespace: "us" }, "another namespace"],
    [{ namespace: "" }, "another namespace"],
    [{ ring: "api" }, "another ring"],
    [{ shard: "1/2" }, "another --shard"],
    [{ olderThanMs: 1 }, "another --older-than"],
    [{ command: "rotate seal" }, "another command"],
  ])("%j", (scope, reason) => {
    saved();
    const { code, exitCode, message } = refusal(() => open(scope).read());
    expect({ code, exitCode }).toEqual({ code: "CHECKPOINT_REFUSED", exitCode: 2 });
    expect(message).toContain(reason);
    expect(message).toContain(path);
  });
});

describe("what is no checkpoint is refused", () => {
  const text = () => JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  it.each([
    ["an empty file", () => "", /is damaged/],
    ["half of one", () => JSON.stringify(text()).slice(0, 100), /is damaged/],
    ["some other JSON", () => '{"a":1}', /is not a checkpoint/],
    ["a list", () => "[]", /is not a checkpoint/],
    [
      "one of a later version",
      () => JSON.stringify({ ...text(), version: 2 }),
      /has version 2, and this program writes 1/,
    ],
    ["one without a position", () => JSON.stringify({ ...text(), position: undefined }), /is damaged/],
    [
      "one with a count that is none",
      () => JSON.stringify({ ...text(), counts: { ...COUNTS, gone: -1 } }),
      /is damaged/,
    ],
  ])("%s", (_, make, reason) => {
    saved();
    writeFileSync(path, make());
    expect(refusal(() => open().read())).toMatchObject({
      code: "CHECKPOINT_REFUSED",
      message: expect.stringMatching(reason),
    });
    expect(() => targetOfCheckpoint(path)).toThrow();
  });

  it("a directory", () => {
    expect(refusal(() => new Checkpoint(folder, SCOPE, { clock: () => now }).read()).message).toMatch(
      /cannot be read \(EISDIR\)/,
    );
  });
});
