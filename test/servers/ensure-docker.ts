/**
 * Gives continuous integration a Docker engine where the machine has none (see docker-engine.ts).
 *
 *     tsx test/servers/ensure-docker.ts run <command…>   with an engine, which is stopped afterwards if it was started
 *     tsx test/servers/ensure-docker.ts start            leaves the engine running
 *     tsx test/servers/ensure-docker.ts stop             stops the engine that `start` started
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { ensureDockerEngine, stopDockerEngine } from "./docker-engine.js";

const [verb, ...command] = process.argv.slice(2);

if (verb === "start") await ensureDockerEngine();
else if (verb === "stop") await stopDockerEngine();
else if (verb === "run" && command.length > 0) process.exitCode = await run(command);
else throw new Error("say start, stop or run <command…>");

async function run([file = "", ...args]: readonly string[]): Promise<number> {
  const started = await ensureDockerEngine();
  try {
    const child = spawn(file, args, { stdio: "inherit" });
    // The engine must outlive the command. A terminal sends SIGINT to both, and SIGTERM comes to one.
    process.on("SIGINT", () => {}).on("SIGTERM", () => child.kill("SIGTERM"));
    const [code] = await once(child, "exit");
    return code ?? 1;
  } finally {
    if (started) await stopDockerEngine();
  }
}
