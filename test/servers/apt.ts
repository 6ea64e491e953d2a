/**
 * Installs Debian packages where tests run as root, which is how continuous integration and containers mostly do.
 */
import { execFile } from "node:child_process";
import { access } from "node:fs/promises";
import { promisify } from "node:util";

/** Held while a process installs, so that several test workers install once. Only root writes in /run. */
const LOCK_FILE = "/run/sealed-session-apt.lock";

const DEADLINE_MS = 300_000;

/**
 * $1 is a command and the rest are packages. Debian's packages start their services unless policy-rc.d says 101
 * (forbidden); a policy that is already there stays, and RUNLEVEL=1 keeps init scripts quiet under it. Another apt-get
 * makes this one wait: `update` has no option for that.
 */
const INSTALL = `
set -eu
command=$1; shift
if command -v "$command" >/dev/null; then exit 0; fi
trap 'exit 130' INT TERM
if [ ! -e /usr/sbin/policy-rc.d ]; then
  trap 'rm -f /usr/sbin/policy-rc.d' EXIT
  printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
  chmod 755 /usr/sbin/policy-rc.d
fi
while ! said=$(apt-get update 2>&1); do
  echo "$said" >&2
  case $said in *"Could not get lock"*) sleep 0.5 ;; *) break ;; esac
done
apt-get -o DPkg::Lock::Timeout=240 install -y --no-install-recommends "$@"
`;

/** @returns why packages cannot be installed here, or `undefined` if they can. */
export async function whyNoApt(): Promise<string | undefined> {
  if (process.getuid?.() !== 0) return "only root may install packages";
  try {
    await access("/etc/debian_version");
    await access("/usr/bin/apt-get");
    return undefined;
  } catch {
    return "this is not Debian or one of its derivatives";
  }
}

/**
 * Installs `packages` unless `command` is there, and does not start their services. Callers in other processes wait.
 *
 * @throws Error with the last lines that apt-get wrote.
 */
export async function aptInstall(command: string, packages: readonly string[]): Promise<void> {
  if (await isInstalled(command)) return;
  process.stderr.write(
    `[servers] no ${command} here: apt-get installs ${packages.join(" ")} (as root, for the tests; no service is started)\n`,
  );
  try {
    await promisify(execFile)("flock", [LOCK_FILE, "sh", "-c", INSTALL, "sh", command, ...packages], {
      env: { ...process.env, DEBIAN_FRONTEND: "noninteractive", RUNLEVEL: "1" },
      timeout: DEADLINE_MS,
      maxBuffer: 2 ** 26,
    });
  } catch (error) {
    const { stdout = "", stderr = "" } = error as { stdout?: string; stderr?: string };
    const said = `${stdout}\n${stderr}`.trim().split("\n").slice(-15).join("\n") || String(error);
    throw new Error(`apt-get could not install ${packages.join(" ")}:\n${said}`, { cause: error });
  }
}

function isInstalled(command: string): Promise<boolean> {
  return promisify(execFile)("sh", ["-c", 'command -v "$1"', "sh", command]).then(
    () => true,
    () => false,
  );
}
