import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { type RedisCluster, startRedisCluster } from "@sealed-session/test/servers";
import { afterAll, beforeAll, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const run = promisify(execFile);

let cluster: RedisCluster;
let folder: string;
beforeAll(async () => {
  cluster = await startRedisCluster();
  // Inside the workspace, so that the packages are found as an application finds them.
  mkdirSync(join(root, "test/output"), { recursive: true });
  folder = mkdtempSync(join(root, "test/output/readme-"));
});
afterAll(async () => {
  await cluster?.stop();
  if (folder) rmSync(folder, { recursive: true });
});

it("the example of the README does what its comments say", async () => {
  const [example] = /(?<=```ts\n)[^`]*(?=```)/.exec(readFileSync(join(root, "README.md"), "utf8")) ?? [];
  if (example === undefined) throw new Error("the README has no example");
  expect(example.split("\n").filter((line) => line.trim() !== "").length).toBeLessThanOrEqual(20);
  expect(example).toContain('host: "127.0.0.1", port: 7000');
  const [address] = cluster.addresses();
  const program = example
    .replace("port: 7000", `port: ${address?.port}`)
    // After the second read the session must have changed, and after the end it must be gone.
    .replace("await sessions.destroy", "const updated = await sessions.get(id);\nawait sessions.destroy")
    .concat(
      "\nconst gone = await sessions.get(id);",
      "\nawait redis.quit();",
      "\nconsole.log(JSON.stringify({ id: id.length, session, updated, gone: gone === undefined }));",
      "\nprocess.exit(0);",
    );
  const file = join(folder, "example.ts");
  writeFileSync(file, program);
  const tsx = join(dirname(fileURLToPath(import.meta.resolve("tsx/package.json"))), "dist/cli.mjs");
  const { stdout } = await run(process.execPath, [tsx, file], { cwd: folder, timeout: 60_000 });
  expect(JSON.parse(stdout)).toEqual({
    id: 43,
    session: { user_id: 123, roles: ["admin"], created_at: 1_732_300_000 },
    updated: { user_id: 123, roles: ["owner"], created_at: 1_732_300_000 },
    gone: true,
  });
});
