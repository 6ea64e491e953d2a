/** Where a key is while it lives, and that it is nowhere afterwards. */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { findInMemory, lockedKibibytes } from "./process-memory.js";

const HOLDER = fileURLToPath(new URL("./exercise/holder.mjs", import.meta.url));

let holder: ChildProcess;
let pid: number;

beforeEach(() => {
  holder = fork(HOLDER, [], { execArgv: ["--expose-gc"] });
  pid = holder.pid as number;
});
afterEach(() => void holder.kill("SIGKILL"));

async function tell<T>(command: string, options: object = {}): Promise<T> {
  const answer = once(holder, "message");
  holder.send({ command, options });
  return ((await answer) as [{ answer: T }])[0].answer;
}

/** Halves of the key, put together only here: the first two round keys of AES-256 are the key itself. */
async function importKey(): Promise<Uint8Array[]> {
  const { masked, mask } = await tell<{ masked: number[]; mask: number[] }>("import");
  const key = Uint8Array.from(masked, (byte, i) => byte ^ (mask[i] as number));
  return [key.subarray(0, 16), key.subarray(16)];
}

describe.runIf(process.platform === "linux")("the memory of a process that holds a key", () => {
  it("has it only in pages that are locked, in the addon and in OpenSSL's contexts", async () => {
    const halves = await importKey();
    const finds = findInMemory(pid, halves);
    // The key itself and the key schedules of both directions.
    expect(finds.length).toBeGreaterThanOrEqual(6);
    expect(finds.filter(({ locked }) => !locked)).toEqual([]);
    expect(await tell("status")).toMatchObject({ keys: 1, contexts: 2, lockedContexts: 2, chunks: 1, lockedChunks: 1 });
    expect(lockedKibibytes(pid)).toBeGreaterThanOrEqual(20);
  });

  it("has no byte of it once it was wiped", async () => {
    const halves = await importKey();
    await tell("release");
    expect(findInMemory(pid, halves)).toEqual([]);
    expect(await tell("status")).toMatchObject({ keys: 0, contexts: 0 });
    // What is looked for would have been found.
    await tell("plant", { bytes: [...(halves[0] as Uint8Array)] });
    expect(findInMemory(pid, halves).length).toBeGreaterThan(0);
  });

  it("has no byte of it once it was garbage-collected, if nobody wiped it", async () => {
    const halves = await importKey();
    await tell("drop");
    await tell("collect");
    expect(await tell("status")).toMatchObject({ keys: 0, contexts: 0 });
    expect(findInMemory(pid, halves)).toEqual([]);
  });

  it("has the other keys still when one is wiped", async () => {
    const first = await importKey();
    const second = await importKey();
    await tell("release");
    expect(findInMemory(pid, second)).toEqual([]);
    const finds = findInMemory(pid, first);
    expect(finds.length).toBeGreaterThanOrEqual(6);
    expect(finds.filter(({ locked }) => !locked)).toEqual([]);
  });
});
