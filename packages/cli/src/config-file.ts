/**
 * Finds the configuration file and loads what it exports. Nothing of its text is repeated in an error: passwords may stand in it.
 */
import { existsSync, readFileSync } from "node:fs";
import { extname, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { createJiti } from "jiti";
import { CliError } from "./cli-error.js";

/** What is looked for in the working directory, in this order. */
export const CONFIG_FILES = [
  "sealed-session.config.ts",
  "sealed-session.config.js",
  "sealed-session.config.mjs",
  "sealed-session.config.json",
] as const;

/** A configuration file and what it says. */
export interface ConfigFile {
  /** Its absolute path. */
  readonly path: string;
  /** Not checked yet. */
  readonly value: unknown;
}

/**
 * Loads a configuration file: TypeScript through jiti on every Node alike, JavaScript by import, JSON by parsing.
 *
 * @param cwd - The working directory.
 * @param given - The path of `--config`.
 * @returns `undefined` when no path is given and none of {@link CONFIG_FILES} exists.
 * @throws CliError `CONFIG_UNREADABLE`.
 */
export async function loadConfigFile(cwd: string, given: string | undefined): Promise<ConfigFile | undefined> {
  const path = given === undefined ? findConfigFile(cwd) : resolve(cwd, given);
  if (path === undefined) return undefined;
  if (!existsSync(path)) throw new CliError("CONFIG_UNREADABLE", `the configuration file ${path} does not exist`);
  return { path, value: await exportOf(path) };
}

function findConfigFile(cwd: string): string | undefined {
  return CONFIG_FILES.map((name) => resolve(cwd, name)).find((path) => existsSync(path));
}

async function exportOf(path: string): Promise<unknown> {
  const extension = extname(path);
  if (extension === ".json") return parseJson(path);
  if (![".ts", ".mts", ".js", ".mjs"].includes(extension)) {
    throw new CliError("CONFIG_UNREADABLE", `the configuration file ${path} must be a .ts, .js, .mjs or .json file`);
  }
  try {
    const exported: unknown = await (extension.endsWith("ts") ? importTypeScript(path) : importJavaScript(path));
    return await (typeof exported === "function" ? (exported as () => unknown)() : exported);
  } catch (error) {
    throw unreadable(path, error);
  }
}

/** Without jiti's caches on the disk: they would be copies of a file with passwords. */
async function importTypeScript(path: string): Promise<unknown> {
  return await createJiti(import.meta.url, { fsCache: false, moduleCache: false }).import(path, { default: true });
}

async function importJavaScript(path: string): Promise<unknown> {
  const module = (await import(pathToFileURL(path).href)) as { readonly default?: unknown };
  return module.default;
}

function parseJson(path: string): unknown {
  try {
    return JSON.parse(readFileSync(path, "utf8")) as unknown;
  } catch (error) {
    throw unreadable(path, error);
  }
}

/** What a parser says quotes from the file; what a program throws is for people. */
function unreadable(path: string, error: unknown): CliError {
  const { name, code } = error as NodeJS.ErrnoException;
  const message = error instanceof Error ? error.message : "it threw something that is no error";
  const position = /:(\d+):(\d+)\s*$/.exec(message) ?? /\(line (\d+) column (\d+)\)/.exec(message);
  if (name === "SyntaxError" || /^ParseError\b/.test(message)) {
    const where = position === null ? "" : `, at line ${position[1]}, column ${position[2]}`;
    return new CliError("CONFIG_UNREADABLE", `the configuration file ${path} cannot be parsed${where}`);
  }
  // A loader may show lines of the file below its first one.
  const [first = ""] = message.split("\n");
  const reason = code === undefined ? first : `${code}: ${first}`;
  return new CliError("CONFIG_UNREADABLE", `the configuration file ${path} cannot be loaded: ${reason}`);
}
