import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type FaultKms, startFaultKms } from "@sealed-session/test/servers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { runJson } from "./command.js";
import { installedFolder, KINDS, type Servers } from "./deployment.js";

const CLI = fileURLToPath(new URL("../../packages/cli", import.meta.url));
const DEPENDENCIES = Object.keys(
  (JSON.parse(readFileSync(join(CLI, "package.json"), "utf8")) as { dependencies: Record<string, string> })
    .dependencies,
);
const AWS = ["@sealed-session/aws-kms", "@aws-sdk/client-kms"];
const folders: string[] = [];

/** Installs the command with its dependencies, and with what else is named, as a package manager does that shares nothing. */
function install(others: readonly string[] = []): { folder: string; bin: string } {
  const packages = Object.fromEntries(
    [...DEPENDENCIES, ...others].map((name) => [name, realpathSync(join(CLI, "node_modules", name))]),
  );
  const folder = installedFolder(packages, (target, path) => symlinkSync(target, path));
  folders.push(folder);
  const own = join(folder, "node_modules", "@sealed-session", "cli");
  mkdirSync(own, { recursive: true });
  for (const name of ["bin", "dist", "package.json"]) cpSync(join(CLI, name), join(own, name), { recursive: true });
  return { folder, bin: join(own, "bin", "sealed-session.js") };
}

describe("the command as it is installed", () => {
  let servers: Servers;
  let kms: FaultKms;
  beforeAll(async () => {
    servers = await (KINDS[0] as (typeof KINDS)[number]).start();
    kms = await startFaultKms();
  });
  afterAll(async () => {
    for (const folder of folders) rmSync(folder, { recursive: true });
    await kms.stop();
    await servers.stop();
  });

  it("needs no package of AWS where none is named, and says which are missing where one is", async () => {
    const { folder, bin } = install();
    const key = { LOCAL_KEY: Buffer.alloc(32, 7).toString("base64url") };
    const config = (entry: object) =>
      writeFileSync(
        join(folder, "sealed-session.config.json"),
        JSON.stringify({ redis: servers.redis, ring: { name: "a", kms: entry } }),
      );
    config({ type: "local", keyVariable: "LOCAL_KEY" });
    expect((await runJson(["rotate", "status"], { cwd: folder, bin, env: key })).code).toBe(0);
    config({ type: "aws", keyId: "1234abcd" });
    expect(await runJson(["rotate", "status"], { cwd: folder, bin, env: key })).toMatchObject({
      code: 2,
      document: { error: { code: "CONFIG_INVALID", message: expect.stringContaining(`npm install ${AWS.join(" ")}`) } },
    });
  });

  it("takes a typed configuration with a client and a secret of its own, and leaves no copy of it", async () => {
    const { folder, bin } = install();
    const { url } = servers.redis as { url: string };
    writeFileSync(
      join(folder, "sealed-session.config.ts"),
      `import { type Config, defineConfig } from "@sealed-session/cli";
       import { localKms } from "@sealed-session/core";
       import { Redis } from "ioredis";
       const secret: string = "hunter2-hunter2";
       export default defineConfig(async (): Promise<Config> => ({
         redis: { client: () => new Redis(${JSON.stringify(url)}) },
         ring: { name: "typed", kms: localKms({ keyVariable: "LOCAL_KEY", name: "own-" + secret.length }) },
       }));`,
    );
    const scratch = join(folder, "scratch");
    mkdirSync(scratch);
    const before = readdirSync(folder, { recursive: true }).length;
    const env = { LOCAL_KEY: Buffer.alloc(32, 7).toString("base64url"), TMPDIR: scratch };
    const ended = await runJson(["rotate", "key", "--now", "--wait"], { cwd: folder, bin, env });
    expect(ended).toMatchObject({ code: 0, document: { ring: "typed", key: { state: "current", kms: ["own-15"] } } });
    expect(readdirSync(folder, { recursive: true })).toHaveLength(before);
  });

  it("reports the request ids of AWS KMS, as its log has them", async () => {
    const { folder, bin } = install(AWS);
    const keyId = kms.createKey();
    const entry = { type: "aws", keyId, endpoint: kms.endpoint };
    writeFileSync(
      join(folder, "sealed-session.config.mjs"),
      `export default ${JSON.stringify({ redis: servers.redis, ring: { name: "aws", kms: entry } })};`,
    );
    const env = { AWS_ACCESS_KEY_ID: "test", AWS_SECRET_ACCESS_KEY: "test" };
    const run = (...args: string[]) =>
      runJson<{ kmsRequests: { operation: string; requestId: string; keyId: string }[] }>(["rotate", ...args], {
        cwd: folder,
        bin,
        env,
      });
    const { code, document } = await run("key", "--now", "--wait");
    expect(code).toBe(0);
    const logged = kms.calls.map(({ operation, requestId }) => ({ operation, requestId, keyId }));
    expect(logged.length).toBeGreaterThanOrEqual(2);
    expect(document.kmsRequests.map(({ operation, requestId, keyId }) => ({ operation, requestId, keyId }))).toEqual(
      logged,
    );

    const other = kms.createKey();
    writeFileSync(
      join(folder, "sealed-session.config.mjs"),
      `export default ${JSON.stringify({ redis: servers.redis, ring: { name: "aws", kms: [{ ...entry, keyId: other, name: "other" }, entry] } })};`,
    );
    const before = kms.calls.length;
    const moved = await run("rewrap", "--to", "other");
    expect(moved).toMatchObject({ code: 0, document: { keys: [{ outcome: "rewrapped inside the KMS" }] } });
    expect(moved.document.kmsRequests.map(({ requestId }) => requestId)).toEqual(
      kms.calls.slice(before).map(({ requestId }) => requestId),
    );
    expect(moved.document.kmsRequests.map(({ operation }) => operation)).toContain("ReEncrypt");

    kms.fault = ({ operation }) =>
      operation === "GenerateDataKey" ? { kind: "error", status: 400, name: "AccessDeniedException" } : undefined;
    const refused = await runJson<{ error: { requestId: string } }>(["rotate", "key"], { cwd: folder, bin, env });
    expect(refused).toMatchObject({ code: 1, document: { error: { code: "KEY_UNAVAILABLE" } } });
    expect(kms.calls.filter(({ operation }) => operation === "GenerateDataKey").at(-1)?.requestId).toBe(
      refused.document.error.requestId,
    );
  });
});
