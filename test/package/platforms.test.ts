import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { build } from "esbuild";
import { afterAll, describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
mkdirSync(join(root, "test/output"), { recursive: true });
const folder = mkdtempSync(join(root, "test/output/platforms-"));
afterAll(() => rmSync(folder, { recursive: true }));

const run = promisify(execFile);
const KEY = Buffer.alloc(32, 1).toString("base64url");
const ID = "M8AoWYJfN2x0f_Q3yj-j9k4l";

/** Seals with a ring in a file, or opens what the program before it sealed. */
const PROGRAM = `
const { fileKeyRingStore, KeyRing, localKms, Sealer } = core;
const [directory, sealed] = process.argv.slice(2);
const kms = localKms({ keyVariable: "LOCAL_KEY" });
const sealer = new Sealer({ ring: new KeyRing({ name: "web", kms, store: fileKeyRingStore({ directory }) }) });
const work = sealed === undefined
  ? sealer.seal({ user_id: 123, when: new Date(0) }, "${ID}").then((bytes) => Buffer.from(bytes).toString("hex"))
  : sealer.open(Buffer.from(sealed, "hex"), "${ID}").then(({ user_id, when }) => user_id + " " + when.toISOString());
work.then((result) => console.log(result));
`;

async function runProgram(file: string, args: readonly string[]): Promise<string> {
  const options = { cwd: folder, timeout: 60_000, env: { ...process.env, LOCAL_KEY: KEY } };
  const { stdout } = await run(process.execPath, [file, ...args], options);
  return stdout.trim();
}

describe("the packages as they are published", () => {
  it("are loaded by import and by require()", async () => {
    const names = ["core", "core/testing", "aws-kms", "redis", "express", "fastify"].map(
      (name) => `@sealed-session/${name}`,
    );
    for (const name of names) {
      const file = join(folder, "load.cjs");
      writeFileSync(
        file,
        // With a default export require() adds a mark for tools that translate modules.
        `const a = require("${name}"); const names = (m) => Object.keys(m).filter((name) => name !== "__esModule").join();
import("${name}").then((b) => console.log(names(a) === names(b), names(a) !== ""));`,
      );
      expect(await runProgram(file, [])).toBe("true true");
    }
  });

  it("use node:crypto on Node, and pure TypeScript where a bundle is made for another platform, with the same bytes", async () => {
    const onNode = join(folder, "node.mjs");
    writeFileSync(onNode, `import * as core from "@sealed-session/core";${PROGRAM}`);
    const elsewhere = join(folder, "portable.mjs");
    const result = await build({
      stdin: { contents: `import * as core from "@sealed-session/core";${PROGRAM}`, resolveDir: join(root, "test") },
      bundle: true,
      format: "esm",
      platform: "neutral",
      external: ["node:*"],
      outfile: elsewhere,
      metafile: true,
    });
    const inputs = Object.keys(result.metafile.inputs);
    expect(inputs.some((input) => input.endsWith("backend/portable.js"))).toBe(true);
    expect(inputs.some((input) => input.endsWith("backend/node.js"))).toBe(false);
    expect(readFileSync(elsewhere, "utf8")).not.toMatch(/from ["']node:crypto["']/);

    const rings = join(folder, "rings");
    mkdirSync(rings);
    const sealedOnNode = await runProgram(onNode, [rings]);
    const sealedElsewhere = await runProgram(elsewhere, [rings]);
    expect(sealedOnNode.slice(0, 28)).toBe(sealedElsewhere.slice(0, 28));
    const opened = "123 1970-01-01T00:00:00.000Z";
    expect(await runProgram(elsewhere, [rings, sealedOnNode])).toBe(opened);
    expect(await runProgram(onNode, [rings, sealedElsewhere])).toBe(opened);
  });

  it("import nothing but their own dependencies", async () => {
    const result = await build({
      stdin: { contents: 'export * from "@sealed-session/redis";', resolveDir: join(root, "test") },
      bundle: true,
      format: "esm",
      platform: "node",
      write: false,
      metafile: true,
    });
    const packages = Object.keys(result.metafile.inputs)
      .map((input) => /node_modules\/((?:@[^/]+\/)?[^/]+)\/(?!.*node_modules)/.exec(input)?.[1])
      .filter((name) => name !== undefined);
    expect([...new Set(packages)].sort()).toEqual(["cluster-key-slot"]);
  });
});
