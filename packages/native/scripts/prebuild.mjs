/**
 * Builds the addon with node-gyp and puts it where the package looks for prebuilt ones: `prebuilds/<platform>-<arch>[-musl]`.
 *
 * On Linux against glibc 2.28 or newer symbols only (what Node itself needs); `--check` says whether that holds and builds nothing.
 */
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { sourcesHash } from "./sources-hash.mjs";

const folder = fileURLToPath(new URL("..", import.meta.url));
const musl = process.platform === "linux" && !process.report.getReport().header.glibcVersionRuntime;
const target = join(folder, "prebuilds", `${process.platform}-${process.arch}${musl ? "-musl" : ""}`);
const built = join(folder, "addon", "build", "Release", "sealed_session.node");

if (!process.argv.includes("--check")) {
  run("npx", ["--yes", "node-gyp@12", "rebuild", "-C", join(folder, "addon"), ...process.argv.slice(2)]);
  mkdirSync(target, { recursive: true });
  copyFileSync(built, join(target, "sealed_session.node"));
  // What a test compares, so that no binary is older than its sources.
  writeFileSync(join(target, "sources.sha256"), `${sourcesHash()}\n`);
  // One that was built here would be taken first.
  rmSync(join(folder, "addon", "build"), { recursive: true });
}
if (process.platform === "linux" && !musl) requireOldGlibc(join(target, "sealed_session.node"));

function requireOldGlibc(path) {
  const { stdout, status } = spawnSync("objdump", ["-T", path], { encoding: "utf8" });
  if (status !== 0) return console.log("objdump is not there: which glibc the binary needs is not known");
  const versions = [...stdout.matchAll(/GLIBC_(\d+)\.(\d+)/g)].map(([, , minor]) => Number(minor));
  const newest = Math.max(...versions);
  console.log(`${path} needs glibc 2.${newest}`);
  if (newest > 28) throw new Error("the binary needs a glibc that is newer than Node's own 2.28");
}

function run(command, args) {
  const { status } = spawnSync(command, args, { stdio: "inherit", shell: process.platform === "win32" });
  if (status !== 0) process.exit(status ?? 1);
}
