import { chmodSync, chownSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, describe, expect, it, vi } from "vitest";
import { type LocalKmsOptions, localKms } from "../src/local-kms.js";
import { codeThrown } from "./support/fixture.js";

const folder = mkdtempSync(join(tmpdir(), "sealed-session-"));
afterAll(() => rmSync(folder, { recursive: true }));
afterEach(() => vi.unstubAllEnvs());

const KEY = Buffer.alloc(32, 5).toString("base64url");
const context = { "sealed-session:ring": "web", "sealed-session:activates-at": "2026-01-01T00:00:00.000Z" };
let files = 0;
const path = () => join(folder, "keys", `${++files}`);

describe("localKms", () => {
  it("creates the key file once, for its owner alone, and reads it again", async () => {
    const keyFile = path();
    const first = localKms({ keyFile });
    expect(statSync(keyFile).mode & 0o777).toBe(0o600);
    expect(Buffer.from(readFileSync(keyFile, "utf8").trim(), "base64url")).toHaveLength(32);
    const { dataKey, wrapped } = await first.generate(context);
    expect(Buffer.from(await localKms({ keyFile }).unwrap(wrapped, context))).toEqual(Buffer.from(dataKey));
    expect(readdirSync(join(folder, "keys")).filter((name) => name.endsWith(".new"))).toEqual([]);
  });

  it("takes the key that another process wrote a moment earlier", async () => {
    const keyFile = path();
    // Drawing random bytes is the last thing before the file is put in its place.
    const kms = localKms({
      keyFile,
      random: (target) => {
        target.fill(7);
        writeFileSync(keyFile, KEY, { mode: 0o600 });
      },
    });
    vi.stubEnv("LOCAL_KEY", KEY);
    const { wrapped } = await localKms({ keyVariable: "LOCAL_KEY" }).generate(context);
    expect(await kms.unwrap(wrapped, context)).toHaveLength(32);
  });

  it("takes its key from an environment variable", async () => {
    vi.stubEnv("LOCAL_KEY", KEY);
    const keyFile = path();
    localKms({ keyFile });
    writeFileSync(keyFile, `${KEY}\n`);
    const { wrapped } = await localKms({ keyVariable: "LOCAL_KEY" }).generate(context);
    expect(await localKms({ keyFile }).unwrap(wrapped, context)).toHaveLength(32);
  });

  it("wraps as 0x01, 24 bytes of nonce, and XAES-256-GCM over the sorted context (5.7)", async () => {
    vi.stubEnv("LOCAL_KEY", KEY);
    const kms = localKms({ keyVariable: "LOCAL_KEY", random: (target) => void target.fill(9) });
    const wrapped = await kms.wrap(new Uint8Array(32), context);
    expect(wrapped).toHaveLength(1 + 24 + 32 + 16);
    expect([...wrapped.subarray(0, 25)]).toEqual([1, ...new Array(24).fill(9)]);
    const reordered = Object.fromEntries(Object.entries(context).reverse());
    expect(await kms.unwrap(wrapped, reordered)).toHaveLength(32);
  });

  it.each([
    ["is altered", () => context, (bytes: Uint8Array) => bytes.map((byte, i) => (i === 30 ? byte ^ 1 : byte))],
    ["has another version", () => context, (bytes: Uint8Array) => bytes.map((byte, i) => (i === 0 ? 2 : byte))],
    ["is cut", () => context, (bytes: Uint8Array) => bytes.subarray(0, 72)],
    ["is empty", () => context, () => new Uint8Array(0)],
    ["belongs to another ring", () => ({ ...context, "sealed-session:ring": "other" }), (bytes: Uint8Array) => bytes],
    ["comes with less context", () => ({ "sealed-session:ring": "web" }), (bytes: Uint8Array) => bytes],
    ["comes with more context", () => ({ ...context, extra: "" }), (bytes: Uint8Array) => bytes],
  ])("denies a wrapped key that %s", async (_, contextOf, change) => {
    vi.stubEnv("LOCAL_KEY", KEY);
    const kms = localKms({ keyVariable: "LOCAL_KEY" });
    const { wrapped } = await kms.generate(context);
    expect(await codeThrown(kms.unwrap(change(wrapped), contextOf()))).toBe("KMS_DENIED");
  });

  it("does not answer an aborted call", async () => {
    vi.stubEnv("LOCAL_KEY", KEY);
    const kms = localKms({ keyVariable: "LOCAL_KEY" });
    const signal = AbortSignal.abort();
    expect(await codeThrown(kms.generate(context, { signal }))).toBe("KMS_UNREACHABLE");
    expect(await codeThrown(kms.unwrap(new Uint8Array(73), context, { signal }))).toBe("KMS_UNREACHABLE");
  });

  it("refuses to be a production service's KMS unless told otherwise", async () => {
    vi.stubEnv("LOCAL_KEY", KEY);
    vi.stubEnv("NODE_ENV", "production");
    expect(await codeThrown(() => localKms({ keyVariable: "LOCAL_KEY" }))).toBe("LOCAL_KMS_REFUSED");
    expect(localKms({ keyVariable: "LOCAL_KEY", allowInProduction: true }).name).toBe("local");
  });

  it.each([0o640, 0o604, 0o622])("refuses a key file of mode %o", async (mode) => {
    const keyFile = path();
    localKms({ keyFile });
    chmodSync(keyFile, mode);
    expect(await codeThrown(() => localKms({ keyFile }))).toBe("LOCAL_KMS_REFUSED");
  });

  it("refuses a key file of another user, who could change the key, whatever its mode", async () => {
    const keyFile = path();
    localKms({ keyFile });
    // Only root may give a file away; for anybody else the process itself seems to be another user's.
    const isRoot = process.getuid?.() === 0;
    if (isRoot) chownSync(keyFile, 65_534, 65_534);
    else vi.spyOn(process as Required<typeof process>, "getuid").mockReturnValue(65_534);
    try {
      const error = await codeOrMessage(() => localKms({ keyFile }));
      expect(error.code).toBe("LOCAL_KMS_REFUSED");
      expect(error.message).toContain("must belong to the user of this process");
    } finally {
      vi.restoreAllMocks();
      if (isRoot) chownSync(keyFile, 0, 0);
    }
    expect(localKms({ keyFile }).name).toBe("local");
  });

  it.each(["", "abc", `${KEY}A`, KEY.slice(1), KEY.replace(/.$/, "=")])(
    "refuses a key that is not 32 bytes: %j",
    async (text) => {
      const keyFile = path();
      localKms({ keyFile });
      writeFileSync(keyFile, text);
      const error = await codeOrMessage(() => localKms({ keyFile }));
      expect(error.code).toBe("LOCAL_KMS_REFUSED");
      if (text.length > 3) expect(error.message).not.toContain(text.slice(0, 8));
      vi.stubEnv("LOCAL_KEY", text);
      expect(await codeThrown(() => localKms({ keyVariable: "LOCAL_KEY" }))).toBe("LOCAL_KMS_REFUSED");
    },
  );

  it("refuses a variable that is not set, and does not repeat its name, which may be the key itself", async () => {
    const error = await codeOrMessage(() => localKms({ keyVariable: KEY }));
    expect(error.code).toBe("LOCAL_KMS_REFUSED");
    expect(error.message).not.toContain(KEY);
  });

  it.each([
    [{}, TypeError],
    [{ keyFile: "a", keyVariable: "b" }, TypeError],
    [{ keyFile: "" }, RangeError],
    [{ keyVariable: "LOCAL_KEY", name: "" }, RangeError],
    [{ keyVariable: "LOCAL_KEY", name: "é".repeat(33) }, RangeError],
  ] as [LocalKmsOptions, typeof Error][])("refuses wrong options %j", (options, type) => {
    vi.stubEnv("LOCAL_KEY", KEY);
    expect(() => localKms(options)).toThrow(type);
  });
});

async function codeOrMessage(run: () => unknown): Promise<{ code?: string; message: string }> {
  try {
    run();
  } catch (error) {
    return error as { code?: string; message: string };
  }
  throw new Error("nothing was thrown");
}
