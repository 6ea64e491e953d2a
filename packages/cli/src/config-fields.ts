/**
 * The fields of the configuration that the environment and flags can set as well, and what they are called there: `redis.url` is
 * `SEALED_SESSION_REDIS_URL` and `--redis-url`. Secrets have no flag: every user of a machine can read the arguments of its processes.
 */

/** How a field is written in the environment and after a flag. */
type FieldKind = "text" | "secret" | "integer" | "boolean" | "list" | "json";

/** One field. */
export interface ConfigField {
  readonly section: "redis" | "ring" | "sessions";
  readonly name: string;
  readonly kind: FieldKind;
  /** For the help. */
  readonly summary: string;
}

/** All of them, in the order of the help. */
export const CONFIG_FIELDS: readonly ConfigField[] = [
  {
    section: "redis",
    name: "url",
    kind: "text",
    summary: "one server, redis:// or rediss://; a flag takes no password",
  },
  { section: "redis", name: "nodes", kind: "list", summary: "nodes of a Redis Cluster" },
  { section: "redis", name: "username", kind: "text", summary: "user of Redis's ACL" },
  { section: "redis", name: "password", kind: "secret", summary: "its password" },
  { section: "redis", name: "tls", kind: "boolean", summary: "encrypt the connection" },
  { section: "redis", name: "namespace", kind: "text", summary: "goes before the keys in Redis" },
  { section: "ring", name: "name", kind: "text", summary: "name of the ring" },
  { section: "ring", name: "kms", kind: "json", summary: "the KMS, as in a configuration file" },
  { section: "ring", name: "rotationPeriodMs", kind: "integer", summary: "how often a new key seals" },
  { section: "ring", name: "maxSealingAgeMs", kind: "integer", summary: "how old the current key may get" },
  { section: "ring", name: "refreshIntervalMs", kind: "integer", summary: "how often processes read the ring" },
  { section: "ring", name: "revokedKeyIds", kind: "list", summary: "keys that count as revoked" },
  { section: "ring", name: "droppedKms", kind: "list", summary: "KMSs that were given up" },
  { section: "sessions", name: "namespace", kind: "text", summary: "bound into every envelope" },
  { section: "sessions", name: "purpose", kind: "text", summary: "bound into every envelope" },
  { section: "sessions", name: "storedIds", kind: "text", summary: "digest or verbatim" },
  { section: "sessions", name: "clientBound", kind: "boolean", summary: "envelopes need their session id" },
  { section: "sessions", name: "inlineKeys", kind: "text", summary: "off, read or write" },
  { section: "sessions", name: "idleSeconds", kind: "integer", summary: "longest time to live of a session" },
  { section: "sessions", name: "absoluteSeconds", kind: "integer", summary: "absolute life of a session" },
  { section: "sessions", name: "maxEnvelopeBytes", kind: "integer", summary: "longest envelope" },
];

/** Variables under which a misspelt field would lie. */
const OUR_VARIABLE = /^SEALED_SESSION_(?:REDIS|RING|SESSIONS)_/;
const PLACEHOLDERS: Readonly<Record<FieldKind, string>> = {
  text: "text",
  secret: "text",
  integer: "n",
  boolean: "true|false",
  list: "a,b,…",
  json: "json",
};

/** @returns where a field stands, as `redis.url`. */
export function pathOf({ section, name }: ConfigField): string {
  return `${section}.${name}`;
}

/** @returns the environment variable of a field. */
export function variableOf({ section, name }: ConfigField): string {
  return `SEALED_SESSION_${section}_${name.replace(/[A-Z]/g, "_$&")}`.toUpperCase();
}

/** @returns the flag of a field, or `undefined` for a secret. */
export function flagOf({ section, name, kind }: ConfigField): string | undefined {
  if (kind === "secret") return undefined;
  return `--${section}-${name.replace(/[A-Z]/g, "-$&").toLowerCase()}`;
}

/** @returns what stands after a flag in the help. */
export function placeholderOf({ kind }: ConfigField): string {
  return `<${PLACEHOLDERS[kind]}>`;
}

/** @returns names of variables that look like ours and are none, so that a misspelt one does not count as not set. */
export function unknownVariables(environment: Readonly<Record<string, string | undefined>>): string[] {
  const known = new Set(CONFIG_FIELDS.map(variableOf));
  return Object.keys(environment)
    .filter((name) => OUR_VARIABLE.test(name) && !known.has(name))
    .sort();
}

/**
 * Reads a field's text. What cannot be read stays as it is: the schema then says what the field must be.
 *
 * @returns the field's value as a configuration file would give it.
 */
export function readField({ kind }: ConfigField, text: string): unknown {
  switch (kind) {
    case "integer":
      return /^-?\d{1,16}$/.test(text) ? Number(text) : text;
    case "boolean":
      return text === "true" || text === "false" ? text === "true" : text;
    case "list":
      return text
        .split(",")
        .map((entry) => entry.trim())
        .filter((entry) => entry !== "");
    case "json":
      try {
        return JSON.parse(text) as unknown;
      } catch {
        return text;
      }
    default:
      return text;
  }
}
