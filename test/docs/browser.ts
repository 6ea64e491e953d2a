/**
 * A Chromium for tests: a given one, the one on the PATH, or Debian's, installed where tests run as root.
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { type BrowserContext, chromium } from "playwright-core";
import { aptInstall, whyNoApt } from "../servers/apt.js";

const COMMAND = "chromium";
/** Without a font Chromium draws empty boxes. */
const PACKAGES = [COMMAND, "fonts-dejavu-core"];
const ARGS = [
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  // Whatever it would still ask for has no address.
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
];

/**
 * @param profile - Where the browser keeps what it writes: a folder that does not exist yet.
 * @returns a headless browser that reaches 127.0.0.1 and nothing else; the caller closes it.
 */
export async function openBrowser(profile: string): Promise<BrowserContext> {
  const isRoot = process.getuid?.() === 0;
  return await chromium.launchPersistentContext(profile, {
    executablePath: await findChromium(),
    headless: true,
    chromiumSandbox: !isRoot,
    args: ARGS,
    viewport: { width: 1280, height: 800 },
  });
}

/** @returns the path of an executable. */
async function findChromium(): Promise<string> {
  const given = process.env["SEALED_SESSION_TEST_CHROMIUM"];
  if (given) return given;
  const found = await onPath();
  if (found !== undefined) return found;
  const reason = await whyNoApt();
  if (reason !== undefined) {
    throw new Error(
      `no ${COMMAND} on the PATH, and ${reason}: set SEALED_SESSION_TEST_CHROMIUM to the path of a Chromium`,
    );
  }
  await aptInstall(COMMAND, PACKAGES);
  return (await onPath()) ?? COMMAND;
}

function onPath(): Promise<string | undefined> {
  return promisify(execFile)("sh", ["-c", 'command -v "$1"', "sh", COMMAND]).then(
    ({ stdout }) => stdout.trim(),
    () => undefined,
  );
}
