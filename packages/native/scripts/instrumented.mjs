/** Builds of the addon for sanitizers, and the exercises that run on them. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = fileURLToPath(new URL("..", import.meta.url));
const exercises = join(folder, "test", "exercise");

/** Compiles `addon/src` with these flags. @returns where the addon lies, below `build`. */
export function build(name, flags) {
  const source = process.env.SEALED_SESSION_ADDON_SOURCE ?? join(folder, "addon", "src");
  const output = join(folder, "build", name, "sealed_session.node");
  mkdirSync(dirname(output), { recursive: true });
  const sources = readdirSync(source).filter((file) => file.endsWith(".c"));
  const headers = [process.env.npm_config_nodedir, dirname(dirname(process.execPath)), "/usr"]
    .map((root) => join(root ?? "", "include", "node"))
    .find((path) => existsSync(join(path, "node_api.h")));
  if (headers === undefined) throw new Error("Node's headers are not there: set npm_config_nodedir");
  const fixed = [
    "-std=c11",
    "-g",
    "-fPIC",
    "-shared",
    "-DNAPI_VERSION=8",
    "-Wall",
    "-Wextra",
    "-Werror",
    `-I${headers}`,
  ];
  run(process.env.CC ?? "cc", [...fixed, ...flags, ...sources.map((file) => join(source, file)), "-o", output]);
  return output;
}

/**
 * Runs an exercise on a build.
 *
 * @param command - What comes before the script: Node, or a tool that runs it. `LOG` in it becomes the name of the tool's log.
 * @returns what the exercise printed, its exit code and the log.
 */
export function exercise(command, environment, addon, [script, ...args]) {
  const logs = mkdtempSync(join(tmpdir(), "sealed-session-"));
  try {
    const fill = (text) => text.replace("LOG", join(logs, "log"));
    const [program, ...before] = command.map(fill);
    const env = { ...process.env, SEALED_SESSION_ADDON: addon };
    for (const [name, value] of Object.entries(environment)) env[name] = fill(value);
    const { stdout, stderr, status, signal } = spawnSync(program, [...before, join(exercises, script), ...args], {
      env,
      encoding: "utf8",
      maxBuffer: 1 << 28,
    });
    const log = readdirSync(logs)
      .map((file) => readFileSync(join(logs, file), "utf8"))
      .join("\n");
    return { stdout, stderr, log, code: status ?? signal };
  } finally {
    rmSync(logs, { recursive: true });
  }
}

/**
 * Whether a block of a tool's log has the addon in its stack: by the name of the binary or of a source file. What N-API allocates for itself while
 * the addon calls it is Node's.
 */
export function isIn(block) {
  const frames = block.split("\n");
  const first = frames.findIndex((frame) =>
    /sealed_session\.node|\b(module|keys|primitives|locked-memory)\.c:\d/.test(frame),
  );
  return first > 0 && !/ napi_\w+/.test(frames[first - 1]);
}

function run(command, args) {
  const { status, error } = spawnSync(command, args, { stdio: "inherit" });
  if (error !== undefined || status !== 0) throw new Error(`${command} failed`, { cause: error });
}
