/**
 * A Docker engine for machines that have none: installed by apt-get and started by us, with everything it writes in one
 * temporary directory. One that answers already is used as it is and never touched.
 */
import { execFile, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { aptInstall, whyNoApt } from "./apt.js";
import { untilNothingMissing } from "./condition.js";
import { dockerClient } from "./docker-client.js";

/** Names the engine that we started, so that another process can stop it. Only root writes in /run. */
const STATE_FILE = "/run/sealed-session-dockerd.json";

/** Tried in turn, for machines on which the kernel allows less. Containers of tests use the network of the host. */
const ATTEMPTS: readonly (readonly string[])[] = [
  [],
  ["--storage-driver=vfs"],
  ["--storage-driver=vfs", "--iptables=false", "--ip6tables=false", "--bridge=none"],
];

interface StartedEngine {
  readonly pid: number;
  /** Its data, sockets and log. */
  readonly dir: string;
}

/**
 * Makes a Docker engine answer.
 *
 * @returns whether it had to be started, and {@link stopDockerEngine} should be called in the end.
 */
export async function ensureDockerEngine(): Promise<boolean> {
  if (await engineAnswers()) {
    say("an engine answers already");
    return false;
  }
  const obstacle = await whyNoApt();
  if (obstacle !== undefined) throw new Error(`no Docker engine answers, and none can be installed: ${obstacle}`);
  await aptInstall("dockerd", ["docker.io", "iptables"]);
  // Left by a machine that went down.
  await stopDockerEngine();
  let failure: unknown;
  for (const options of ATTEMPTS) {
    const { child, dir } = await spawnEngine(options);
    say(`started ${["dockerd", ...options].join(" ")} as process ${child.pid} in ${dir}`);
    try {
      await untilNothingMissing("dockerd", async () => {
        if (child.exitCode !== null) throw new Error(`dockerd ended with ${child.exitCode}`);
        return (await engineAnswers()) ? undefined : "an answer";
      });
      return true;
    } catch (error) {
      const log = await readFile(join(dir, "dockerd.log"), "utf8");
      failure = new Error(
        `${error instanceof Error ? error.message : error}. The end of its log:\n${log.trimEnd().split("\n").slice(-20).join("\n")}`,
      );
      say(String(failure));
      await stopDockerEngine();
    }
  }
  throw failure;
}

/** Stops the engine that {@link ensureDockerEngine} started, in this process or another, and removes its directory. */
export async function stopDockerEngine(): Promise<void> {
  const state = await readFile(STATE_FILE, "utf8").catch(() => undefined);
  if (state === undefined) return;
  const engine: StartedEngine = JSON.parse(state);
  if (await isOurs(engine)) {
    process.kill(engine.pid, "SIGTERM");
    await untilNothingMissing("dockerd", async () => ((await isOurs(engine)) ? "its end" : undefined));
    say(`stopped process ${engine.pid}`);
  }
  await unmountBelow(engine.dir);
  await rm(engine.dir, { recursive: true, force: true });
  await rm(STATE_FILE);
}

async function spawnEngine(options: readonly string[]) {
  const dir = await mkdtemp(join(tmpdir(), "sealed-session-dockerd-"));
  const log = openSync(join(dir, "dockerd.log"), "a");
  const paths = [`--data-root=${dir}/data`, `--exec-root=${dir}/exec`, `--pidfile=${dir}/dockerd.pid`];
  // In a process group of its own: Ctrl+C in the terminal must not end it before its containers are removed.
  const child = spawn("dockerd", [...paths, ...options], { detached: true, stdio: ["ignore", log, log] });
  child.unref();
  closeSync(log);
  await writeFile(STATE_FILE, JSON.stringify({ pid: child.pid ?? 0, dir } satisfies StartedEngine));
  return { child, dir };
}

/** Whether the process still runs and is ours: its number may have gone to another one. */
async function isOurs({ pid, dir }: StartedEngine): Promise<boolean> {
  const commandLine = await readFile(`/proc/${pid}/cmdline`, "utf8").catch(() => "");
  return commandLine.includes(dir);
}

/** dockerd leaves the network namespace of the host mounted. */
async function unmountBelow(dir: string): Promise<void> {
  for (const line of (await readFile("/proc/mounts", "utf8")).split("\n").reverse()) {
    const [, mountPoint = ""] = line.split(" ");
    if (mountPoint.startsWith(`${dir}/`)) await promisify(execFile)("umount", [mountPoint]);
  }
}

async function engineAnswers(): Promise<boolean> {
  try {
    const { container } = await dockerClient();
    await container.dockerode.ping();
    return true;
  } catch {
    return false;
  }
}

function say(line: string): void {
  process.stderr.write(`[docker] ${line}\n`);
}
