/**
 * The lane of processes: a redis-server or valkey-server binary of this machine, each server with a directory of its own.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync, statSync } from "node:fs";
import { access, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, delimiter, join } from "node:path";
import { promisify } from "node:util";
import { untilNothingMissing } from "./condition.js";
import { beforeExit } from "./exit-cleanup.js";
import { type Lane, type LaunchedRedis, READY_LINE, type RedisConfig, startFailure, toArguments } from "./lane.js";
import type { Address } from "./redis-node.js";

const BINARIES = ["redis-server", "valkey-server"];

/** @returns the path of the first binary on the PATH that can serve, or `undefined`. */
export async function findRedisBinary(): Promise<string | undefined> {
  const directories = (process.env["PATH"] ?? "").split(delimiter);
  for (const path of BINARIES.flatMap((name) => directories.map((directory) => join(directory, name)))) {
    try {
      await access(path, constants.X_OK);
      return path;
    } catch {
      // Not in this directory.
    }
  }
  return undefined;
}

/**
 * @param origin says in the description where the binary comes from.
 * @returns the lane of the binary that {@link findRedisBinary} finds, or `undefined`.
 */
export async function findProcessLane(origin: string): Promise<Lane | undefined> {
  const binary = await findRedisBinary();
  if (binary === undefined) return undefined;
  const { stdout } = await promisify(execFile)(binary, ["--version"]);
  const version = /v=(\S+)/.exec(stdout)?.[1] ?? "of unknown version";
  // The kernel ends the server should this process be killed and have no chance to. Linux only.
  const prefix = (await canTieToParent()) ? ["setpriv", "--pdeathsig", "KILL", "--"] : [];
  return processLane([...prefix, binary], `${basename(binary)} ${version} ${origin}`);
}

/** @returns the lane that starts servers with `command`. */
function processLane(command: readonly string[], description: string): Lane {
  return {
    description,
    async launch(port, config) {
      const server = new RedisProcess(command, port, config);
      try {
        await server.ready(`${description} on port ${port}`);
        return server;
      } catch (error) {
        await server.stop();
        throw error;
      }
    },
  };
}

class RedisProcess implements LaunchedRedis, Address {
  readonly host = "127.0.0.1";
  readonly port: number;
  readonly dir: string;
  readonly #command: readonly string[];
  readonly #forget: () => void;
  #child: ChildProcess;
  #gone: Promise<unknown>;
  #spawnError: Error | undefined;
  /** Where in its log the present run of the server begins. */
  #logStart = 0;

  constructor(command: readonly string[], port: number, config: RedisConfig) {
    this.port = port;
    // Synchronous up to `beforeExit`, so that no signal comes in between.
    this.dir = mkdtempSync(join(tmpdir(), "sealed-session-redis-"));
    this.#command = [...command, ...toArguments({ ...config, port: String(port), dir: this.dir })];
    [this.#child, this.#gone] = this.#spawn();
    this.#forget = beforeExit(() => {
      this.#child.kill("SIGKILL");
      rmSync(this.dir, { recursive: true, force: true, maxRetries: 10, retryDelay: 20 });
    });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async restart(): Promise<void> {
    const what = `the server on port ${this.port}`;
    if (await this.isRunning()) throw new Error(`${what} runs`);
    this.#logStart = statSync(this.#logFile).size;
    [this.#child, this.#gone] = this.#spawn();
    await this.ready(what);
  }

  async ready(what: string): Promise<void> {
    await untilNothingMissing(what, async () => {
      const running = await this.isRunning();
      const log = readFileSync(this.#logFile, "utf8").slice(this.#logStart);
      if (log.includes(READY_LINE)) return undefined;
      if (!running) throw startFailure(what, log, this.#spawnError);
      return `"${READY_LINE}" in its log:\n${log}`;
    });
  }

  async isRunning(): Promise<boolean> {
    return this.#spawnError === undefined && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  async signal(signal: NodeJS.Signals): Promise<void> {
    if (!this.#child.kill(signal)) throw new Error(`the server on port ${this.port} has ended already`);
    if (signal === "SIGKILL") await this.#end();
  }

  async stop(): Promise<void> {
    // Its data is not wanted any more, and a polite end may wait for replicas.
    this.#child.kill("SIGKILL");
    await this.#end();
    await rm(this.dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 20 });
    this.#forget();
  }

  #spawn(): [ChildProcess, gone: Promise<unknown>] {
    const [file = "", ...args] = this.#command;
    const log = openSync(this.#logFile, "a");
    const child = spawn(file, args, { stdio: ["ignore", log, log] });
    closeSync(log);
    const gone = once(child, "exit").catch((error: Error) => {
      this.#spawnError = error;
    });
    // A forgotten server does not keep this process alive, and ends with it.
    child.unref();
    return [child, gone];
  }

  async #end(): Promise<void> {
    this.#child.ref();
    await this.#gone;
  }

  get #logFile(): string {
    return join(this.dir, "redis.log");
  }
}

async function canTieToParent(): Promise<boolean> {
  try {
    return (await promisify(execFile)("setpriv", ["--help"])).stdout.includes("--pdeathsig");
  } catch {
    return false;
  }
}
