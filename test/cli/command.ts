/**
 * Runs the built command as a person or a job does: as a process of its own.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";

const BIN = fileURLToPath(new URL("../../packages/cli/bin/sealed-session.js", import.meta.url));
const TIMEOUT_MS = 60_000;

/** How a run is started. */
export interface RunOptions {
  readonly cwd: string;
  readonly env?: Record<string, string>;
  /** Another copy of the command. */
  readonly bin?: string;
}

/** A run that has ended. */
export interface Ended {
  /** The exit code; `null` when a signal ended it. */
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A run that goes on. */
export interface Running {
  readonly child: ChildProcess;
  /** What it has told people so far. */
  stderr(): string;
  readonly ended: Promise<Ended>;
}

/** Starts the command. Nothing of this process's environment reaches it but what Node needs. */
export function startCommand(args: readonly string[], { cwd, env = {}, bin = BIN }: RunOptions): Running {
  const child = spawn(process.execPath, [bin, ...args], {
    cwd,
    env: { PATH: process.env["PATH"], AWS_EC2_METADATA_DISABLED: "true", ...env },
    stdio: ["ignore", "pipe", "pipe"],
    timeout: TIMEOUT_MS,
    killSignal: "SIGKILL",
  });
  const texts = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (text: string) => {
      texts[name] += text;
    });
  }
  const ended = once(child, "close").then(([code]) => ({ code: code as number | null, ...texts }));
  return { child, stderr: () => texts.stderr, ended };
}

/** Runs the command to its end. */
export function runCommand(args: readonly string[], options: RunOptions): Promise<Ended> {
  return startCommand(args, options).ended;
}

/** Runs the command with `--json`. @returns the one document on stdout, and how it ended */
export async function runJson<T>(
  args: readonly string[],
  options: RunOptions,
): Promise<Ended & { readonly document: T }> {
  const ended = await runCommand([...args, "--json"], options);
  return { ...ended, document: JSON.parse(ended.stdout) as T };
}
