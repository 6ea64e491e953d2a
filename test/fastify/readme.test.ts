import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { type RedisCluster, startRedisCluster } from "@sealed-session/test/servers";
import { afterAll, beforeAll, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));

let cluster: RedisCluster;
let folder: string;
beforeAll(async () => {
  cluster = await startRedisCluster();
  // Inside the workspace, so that the packages are found as an application finds them.
  mkdirSync(join(root, "test/output"), { recursive: true });
  folder = mkdtempSync(join(root, "test/output/fastify-"));
});
afterAll(async () => {
  await cluster?.stop();
  if (folder) rmSync(folder, { recursive: true });
});

it("the example of the package's README counts the visits of each browser", async () => {
  const [example] =
    /(?<=```ts\n)[^`]*(?=```)/.exec(readFileSync(join(root, "packages/fastify/README.md"), "utf8")) ?? [];
  if (example === undefined) throw new Error("the README has no example");
  expect(example).toContain('host: "127.0.0.1", port: 7000');
  expect(example).toContain("port: 3000");
  const [address] = cluster.addresses();
  const program = example.replace("port: 7000", `port: ${address?.port}`).replace("port: 3000", "port: 0");
  const file = join(folder, "example.ts");
  writeFileSync(file, `${program}\nconsole.log(JSON.stringify(app.server.address()));\n`);
  const tsx = join(dirname(fileURLToPath(import.meta.resolve("tsx/package.json"))), "dist/cli.mjs");
  const child = spawn(process.execPath, [tsx, file], { cwd: folder, stdio: ["ignore", "pipe", "inherit"] });
  try {
    const [line] = (await once(child.stdout, "data")) as [Buffer];
    const { port } = JSON.parse(line.toString()) as { port: number };
    const visit = async (cookie = "") => {
      const response = await fetch(`http://localhost:${port}/`, { headers: { cookie } });
      return { visits: await response.json(), cookie: response.headers.get("set-cookie")?.split(";")[0] };
    };
    const first = await visit();
    expect(first.visits).toEqual({ visits: 1 });
    expect((await visit(first.cookie)).visits).toEqual({ visits: 2 });
    expect((await visit(first.cookie)).visits).toEqual({ visits: 3 });
    expect((await visit()).visits).toEqual({ visits: 1 });
  } finally {
    child.kill("SIGKILL");
  }
});
