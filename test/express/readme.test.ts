import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type RedisCluster, startRedisCluster } from "@sealed-session/test/servers";
import { afterAll, beforeAll, expect, it } from "vitest";

const root = fileURLToPath(new URL("../..", import.meta.url));
const [withImport = "", withRequire = ""] = [
  ...readFileSync(join(root, "packages/express/README.md"), "utf8").matchAll(/(?<=```js\n)[^`]*(?=```)/g),
].map(([example]) => example);

let servers: RedisCluster;
let folder: string;
beforeAll(async () => {
  servers = await startRedisCluster();
  // Inside the workspace, so that the packages are found as an application finds them.
  mkdirSync(join(root, "test/output"), { recursive: true });
  folder = mkdtempSync(join(root, "test/output/express-"));
});
afterAll(async () => {
  await servers?.stop();
  if (folder) rmSync(folder, { recursive: true });
});

async function end(program: ChildProcess): Promise<void> {
  const exit = once(program, "exit");
  program.kill();
  await exit;
}

for (const [kind, file, example] of [
  ["import", "example.mjs", withImport],
  ["require", "example.cjs", withImport.replace(/^import [\s\S]* from "ioredis";\n/, withRequire)],
] as const) {
  it(`the README's first example keeps a session with ${kind}`, async () => {
    expect(example).toContain("port: 7000");
    expect(example).toContain("app.listen(3000);");
    expect(example.includes("import ")).toBe(kind === "import");
    const [address] = servers.addresses();
    writeFileSync(
      join(folder, file),
      example
        .replace("port: 7000", `port: ${address?.port}`)
        .replace(
          "app.listen(3000);",
          'const server = app.listen(0, "127.0.0.1", () => process.send(server.address().port));',
        ),
    );
    const program = fork(join(folder, file), { cwd: folder, stdio: ["ignore", "ignore", "inherit", "ipc"] });
    const [port] = await once(program, "message");
    const url = `http://127.0.0.1:${port}/`;
    const first = await fetch(url);
    const cookie = first.headers.getSetCookie()[0]?.split(";")[0] as string;
    expect(await first.json()).toEqual({ visits: 1 });
    expect(await (await fetch(url, { headers: { cookie } })).json()).toEqual({ visits: 2 });
    await end(program);
  });
}
