/**
 * Starts a cluster in a process of its own, which tests then end.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import type { RedisNode } from "./redis-node.js";
import type { SourceOptions } from "./source.js";

const MODULE = new URL("./index.ts", import.meta.url).href;

/** @returns the process and the nodes of its cluster. */
export async function startClusterInProcess(choice: SourceOptions) {
  const program = `
    const { startRedisCluster } = await import(${JSON.stringify(MODULE)});
    const { nodes } = await startRedisCluster(${JSON.stringify({ ...choice, config: {} })});
    console.log(JSON.stringify(nodes.map(({ host, port, dir }) => ({ host, port, dir }))));
    setInterval(() => {}, 60_000);`;
  const child = spawn(process.execPath, ["--import", "tsx", "--input-type=module", "--eval", program], {
    cwd: fileURLToPath(new URL(".", import.meta.url)),
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "exit").then(([code]) => Promise.reject(new Error(`the process ended with ${code}`)));
  const [line] = await Promise.race([once(createInterface(child.stdout), "line"), ended]);
  ended.catch(() => {});
  return { child, nodes: JSON.parse(line) as Pick<RedisNode, "host" | "port" | "dir">[] };
}

/** @returns how `child` ended. */
export async function endsOfProcess(child: ChildProcess) {
  const [code, signal] = await once(child, "exit");
  return { code, signal };
}
