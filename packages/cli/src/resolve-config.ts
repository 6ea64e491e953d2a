/**
 * Makes the settings of one run from the configuration file, the environment and the flags, the later one over the earlier, and checks them once.
 */
import { dirname, resolve } from "node:path";
import { CliError } from "./cli-error.js";
import { CONFIG_FIELDS, flagOf, pathOf, readField, unknownVariables, variableOf } from "./config-fields.js";
import { CONFIG_FILES, loadConfigFile } from "./config-file.js";
import { checkConfig, type FieldProblem, isKms, type KmsSettings, type Settings } from "./config-schema.js";

/** Where a configuration comes from. */
export interface ConfigSources {
  /** The working directory. */
  readonly cwd: string;
  /** The path of `--config`. */
  readonly file: string | undefined;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** What stood after each flag, by the path of its field. */
  readonly flags: ReadonlyMap<string, string>;
}

type Section = Record<string, unknown>;

/** Fields of which one excludes the others: where a later source names a place, the earlier one's does not count. */
const PLACES = ["url", "nodes", "client"];

/**
 * Resolves the configuration.
 *
 * @throws CliError `CONFIG_INVALID` that names every wrong field, where it was set and what it must be; `CONFIG_UNREADABLE`; `USAGE` for a secret in
 *   a flag.
 */
export async function resolveConfig({ cwd, file, environment, flags }: ConfigSources): Promise<Settings> {
  const unknown = unknownVariables(environment);
  if (unknown.length > 0)
    throw new CliError("CONFIG_INVALID", `${unknown.join(", ")} is not a variable that is known here`);
  refuseSecrets(flags);
  const loaded = await loadConfigFile(cwd, file);
  const base = loaded === undefined ? {} : loaded.value;
  const merged = isObject(base) ? { ...base } : base;
  /** Which variable or flag has set a field. */
  const origins = new Map<string, string>();
  if (isObject(merged)) {
    overlay(merged, origins, (field) => {
      const text = environment[variableOf(field)];
      return text === undefined || text === "" ? undefined : { text, origin: variableOf(field) };
    });
    overlay(merged, origins, (field) => {
      const text = flags.get(pathOf(field));
      return text === undefined ? undefined : { text, origin: flagOf(field) as string };
    });
  }
  const checked = checkConfig(merged);
  if ("settings" in checked) return withAbsolutePaths(checked.settings, origins, cwd, loaded?.path);
  throw invalid(checked.problems, origins, loaded?.path, cwd);
}

/** Lays what one source says over `target`. */
function overlay(
  target: Section,
  origins: Map<string, string>,
  find: (field: (typeof CONFIG_FIELDS)[number]) => { text: string; origin: string } | undefined,
): void {
  const found = CONFIG_FIELDS.flatMap((field) => {
    const value = find(field);
    return value === undefined ? [] : [{ field, ...value }];
  });
  for (const name of new Set(found.map(({ field }) => field.section))) {
    const section = target[name] ?? {};
    // Something else than an object is for the schema to refuse.
    if (!isObject(section)) continue;
    const fields = found.filter(({ field }) => field.section === name);
    const kept =
      name === "redis" && fields.some(({ field }) => PLACES.includes(field.name)) ? without(section, PLACES) : section;
    const values = fields.map(({ field, text }) => [field.name, readField(field, text)] as const);
    target[name] = { ...kept, ...Object.fromEntries(values) };
    for (const { field, origin } of fields) origins.set(pathOf(field), origin);
  }
}

/** Every user of the machine can read the arguments of its processes. */
function refuseSecrets(flags: ReadonlyMap<string, string>): void {
  const url = flags.get("redis.url");
  if (url === undefined || !/^[a-z]*:\/\/[^/]*@/i.test(url)) return;
  throw new CliError(
    "USAGE",
    "--redis-url must not hold a user name or password, which others could read: use --redis-username and SEALED_SESSION_REDIS_PASSWORD",
  );
}

/** Paths in a file are relative to it, those of the environment and of flags to the working directory. */
function withAbsolutePaths(
  settings: Settings,
  origins: ReadonlyMap<string, string>,
  cwd: string,
  file: string | undefined,
): Settings {
  const { redis, ring } = settings;
  const besideFile = file === undefined ? cwd : dirname(file);
  const besideKms = origins.has("ring.kms") ? cwd : besideFile;
  const absolute = (path: string | undefined) => (path === undefined ? undefined : resolve(besideFile, path));
  const kms = ring.kms.map((entry): KmsSettings => {
    if (isKms(entry) || entry.type !== "local" || entry.keyFile === undefined) return entry;
    return { ...entry, keyFile: resolve(besideKms, entry.keyFile) };
  });
  const { tls } = redis;
  if (typeof tls !== "object") return { ...settings, ring: { ...ring, kms } };
  const files = { caFile: absolute(tls.caFile), certFile: absolute(tls.certFile), keyFile: absolute(tls.keyFile) };
  return { ...settings, redis: { ...redis, tls: { ...tls, ...files } }, ring: { ...ring, kms } };
}

function invalid(
  problems: readonly FieldProblem[],
  origins: ReadonlyMap<string, string>,
  file: string | undefined,
  cwd: string,
): CliError {
  const sentences = problems.map(({ path, must }) => {
    const setter = [...origins].find(
      ([field]) => path === field || path.startsWith(`${field}.`) || path.startsWith(`${field}[`),
    );
    const where = setter === undefined ? "" : ` (set by ${setter[1]})`;
    return `${path === "" ? "the configuration" : path}${where} ${must}`;
  });
  const source = file ?? `without a configuration file: none of ${CONFIG_FILES.join(", ")} lies in ${cwd}`;
  return new CliError("CONFIG_INVALID", `${sentences.join("; ")} (${source})`);
}

function isObject(value: unknown): value is Section {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function without(section: Section, names: readonly string[]): Section {
  return Object.fromEntries(Object.entries(section).filter(([name]) => !names.includes(name)));
}
