/** How the package finds its binary, in processes of their own: what is loaded once stays. */
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterEach, beforeEach, describe, expect, it } from "vitest";

const PACKAGE = fileURLToPath(new URL("..", import.meta.url));
const BINARY = "sealed_session.node";

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "sealed-session-native-"));
  cpSync(join(PACKAGE, "lib"), join(folder, "lib"), { recursive: true });
});
afterEach(() => rmSync(folder, { recursive: true }));

/** @returns What the package says when it is loaded, after `prelude`. */
function load(prelude = ""): { loaded: boolean; code?: string; message?: string; from?: string } {
  const path = JSON.stringify(join(folder, "lib", "index.cjs"));
  const script = `${prelude};
    let said;
    try {
      require(${path});
      said = { loaded: true, from: Object.keys(require.cache).find((file) => file.endsWith(".node")) };
    } catch ({ code, message }) {
      said = { loaded: false, code, message };
    }
    console.log(JSON.stringify(said));`;
  const { stdout, stderr, status } = spawnSync(process.execPath, ["-e", script], { encoding: "utf8" });
  expect({ stderr, status }).toEqual({ stderr: "", status: 0 });
  return JSON.parse(stdout);
}

function place(...parts: string[]): string {
  const target = join(folder, ...parts);
  mkdirSync(target, { recursive: true });
  cpSync(join(PACKAGE, "prebuilds", `${process.platform}-${process.arch}`, BINARY), join(target, BINARY));
  return join(target, BINARY);
}

const prebuilt = (suffix = "") => ["prebuilds", `${process.platform}-${process.arch}${suffix}`] as const;
const fromSource = ["addon", "build", "Release"] as const;

describe("the package", () => {
  it("loads the prebuilt binary of this platform", () => {
    expect(load()).toMatchObject({ loaded: false, code: "ERR_NATIVE_ADDON" });
    const path = place(...prebuilt());
    expect(load()).toEqual({ loaded: true, from: path });
  });

  it("prefers one that was built here from source", () => {
    place(...prebuilt());
    const path = place(...fromSource);
    expect(load()).toEqual({ loaded: true, from: path });
  });

  it("goes on to the next one where a binary does not load", () => {
    const broken = place(...fromSource);
    writeFileSync(broken, "no binary");
    const path = place(...prebuilt("-musl"));
    expect(load()).toEqual({ loaded: true, from: path });
  });

  it("says why none loads", () => {
    const platform = `${process.platform}-${process.arch}`;
    expect(load()).toMatchObject({ message: `the native addon does not load: there is no binary for ${platform}` });
    writeFileSync(place(...prebuilt()), "no binary");
    expect(load().message).toMatch(/does not load: .*(file too short|invalid ELF header)/);
  });

  it.each([
    ["4.0.1", "this Node has 4.0.1 OpenSSL"],
    ["1.1.1w", "this Node has 1.1.1w OpenSSL"],
    ["0.0.0", "this Node has 0.0.0 OpenSSL"],
    [undefined, "this Node has no OpenSSL"],
  ])("loads nothing beside OpenSSL %s", (openssl, reason) => {
    place(...prebuilt());
    const versions = JSON.stringify({ ...process.versions, openssl });
    const said = load(`Object.defineProperty(process, "versions", { value: ${versions} })`);
    expect(said).toEqual({
      loaded: false,
      code: "ERR_NATIVE_ADDON",
      message: `the native addon does not load: ${reason}`,
    });
  });
});

describe("the prebuilt binaries", () => {
  const folders = readdirSync(join(PACKAGE, "prebuilds"));

  it("are there for Linux on x64", () => {
    expect(folders).toContain("linux-x64");
  });

  it.each(folders)("are built from the sources as they are: %s", (name) => {
    const script = fileURLToPath(new URL("../scripts/sources-hash.mjs", import.meta.url));
    const print = `import(${JSON.stringify(script)}).then(({ sourcesHash }) => console.log(sourcesHash()))`;
    const { stdout } = spawnSync(process.execPath, ["-e", print], { encoding: "utf8" });
    expect(stdout).toMatch(/^[0-9a-f]{64}\n$/);
    expect(readFileSync(join(PACKAGE, "prebuilds", name, "sources.sha256"), "utf8")).toBe(stdout);
  });
});
