/**
 * What each field of the configuration must be. A message names the field by its path and the limit, and never says what the value was: it may
 * be a password that slipped into another field.
 */
import type { Kms } from "@sealed-session/core";
import type { RedisClient } from "@sealed-session/redis";
import { z } from "zod";
import type { AwsKmsConfig, LocalKmsConfig } from "./config.js";

const DAY_MS = 86_400_000;
const MAX_NODES = 100;
const MAX_KMS = 8;
const MAX_PORT = 65_535;
const MAX_REVOKED = 1024;
const MAX_DROPPED = 64;
const MAX_SECONDS = 315_360_000;

/** A configuration that was checked. */
export interface Settings {
  readonly redis: RedisSettings;
  readonly ring: RingSettings;
  readonly sessions: SessionsSettings;
}

/** Where ring and sessions lie: exactly one of `url`, `nodes` and `client`. */
export interface RedisSettings {
  readonly url?: string | undefined;
  readonly nodes?: readonly string[] | undefined;
  readonly client?: (() => RedisClient | Promise<RedisClient>) | undefined;
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  readonly tls?: boolean | TlsSettings | undefined;
  readonly namespace?: string | undefined;
}

/** Paths of PEM files. */
export interface TlsSettings {
  readonly caFile?: string | undefined;
  readonly certFile?: string | undefined;
  readonly keyFile?: string | undefined;
  readonly serverName?: string | undefined;
}

/** The ring. Times are in milliseconds. */
export interface RingSettings {
  readonly name: string;
  readonly kms: readonly KmsSettings[];
  readonly rotationPeriodMs?: number | undefined;
  readonly maxSealingAgeMs?: number | undefined;
  readonly refreshIntervalMs?: number | undefined;
  readonly revokedKeyIds?: readonly string[] | undefined;
  readonly droppedKms?: readonly string[] | undefined;
}

/** One KMS. */
export type KmsSettings = LocalKmsConfig | AwsKmsConfig | Kms;

/** How the application seals. */
export interface SessionsSettings {
  readonly namespace?: string | undefined;
  readonly purpose?: string | undefined;
  readonly storedIds?: "digest" | "verbatim" | undefined;
  readonly clientBound?: boolean | undefined;
  readonly inlineKeys?: "off" | "read" | "write" | undefined;
  readonly idleSeconds?: number | undefined;
  readonly absoluteSeconds?: number | undefined;
  readonly maxEnvelopeBytes?: number | undefined;
}

/** What is wrong with one field. */
export interface FieldProblem {
  /** As `ring.kms[0].keyId`; empty for the whole. */
  readonly path: string;
  /** What the field must be, to be read after the path: "must be …". */
  readonly must: string;
}

type Path = readonly PropertyKey[];
type Issue = z.core.$ZodIssue;

/** One message for everything that can be wrong with a value; zod's own would tell its type apart from its range. */
const must = (text: string) => ({
  error: ({ input }: { readonly input?: unknown }) =>
    input === undefined ? `must be given: ${text}` : `must be ${text}`,
});
const text = (what: string, min: number, max: number, pattern = /^/) =>
  z.string(must(what)).refine((value) => {
    const bytes = Buffer.byteLength(value);
    return value.isWellFormed() && bytes >= min && bytes <= max && pattern.test(value);
  }, must(what));
const integer = (min: number, max: number) => {
  const rule = must(`an integer from ${min} to ${max}`);
  return z.number(rule).int(rule).min(min, rule).max(max, rule);
};
const choice = <const T extends readonly [string, ...string[]]>(...values: T) =>
  z.enum(values, must(`one of ${values.map((value) => `"${value}"`).join(", ")}`));
const boolean = () => z.boolean(must("true or false"));
const path = () => text("the path of a file", 1, 4096);
const section = <T extends z.core.$ZodLooseShape>(shape: T) => z.strictObject(shape, must("an object"));

const kmsName = () => text("1 to 64 bytes of UTF-8", 1, 64);
const localKms = section({
  type: z.literal("local"),
  keyFile: path().optional(),
  // Not a word of what is there: whoever puts the key itself here by mistake must not read it in a log.
  keyVariable: text("the name of an environment variable", 1, 256, /^[A-Za-z_]\w*$/).optional(),
  name: kmsName().optional(),
  allowInProduction: boolean().optional(),
}).refine(({ keyFile, keyVariable }) => (keyFile === undefined) !== (keyVariable === undefined), {
  error: "must have exactly one of keyFile and keyVariable",
});
const awsKms = section({
  type: z.literal("aws"),
  keyId: text(
    "a key id or a key ARN of AWS KMS, and no alias",
    1,
    256,
    /^(?:arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key\/)?[\w-]+$/,
  ),
  region: text("a region of AWS, such as eu-west-1", 1, 32, /^[a-z0-9-]+$/).optional(),
  endpoint: text("a URL with http: or https:, without user and password", 1, 2048)
    .refine((value) => isPlainUrl(value, ["http:", "https:"]), {
      error: "must be a URL with http: or https:, without user and password",
    })
    .optional(),
  name: kmsName().optional(),
});
const describedKms = z.discriminatedUnion("type", [localKms, awsKms], {
  error: ({ code }) =>
    code === "invalid_union"
      ? 'must be "local" or "aws"'
      : "must be an object with a type, or one with the methods of Kms",
});

const kms = z
  .unknown()
  .refine((value) => value !== undefined, { error: "must be given: one KMS or several" })
  .transform((value, context): readonly KmsSettings[] => {
    const isList = Array.isArray(value);
    const list = isList ? (value as readonly unknown[]) : [value];
    if (value !== undefined && (list.length < 1 || list.length > MAX_KMS)) {
      context.addIssue({ code: "custom", message: `must have 1 to ${MAX_KMS} entries` });
    }
    const found: KmsSettings[] = [];
    for (const [index, entry] of list.entries()) {
      // One that brings its own methods goes on as it is: a copy would lose its class.
      if (isKms(entry)) found.push(entry);
      else if (value !== undefined) {
        const parsed = describedKms.safeParse(entry);
        if (parsed.success) found.push(parsed.data as KmsSettings);
        else for (const issue of parsed.error.issues) context.issues.push(moved(issue, isList ? [index] : []));
      }
    }
    return found;
  });

const redis = section({
  url: text("a URL redis://host:port or rediss://host:port, with at most a database number after it", 1, 2048)
    .refine(isRedisUrl, {
      error: "must be a URL redis://host:port or rediss://host:port, with at most a database number after it",
    })
    .optional(),
  nodes: z
    .array(text("host:port", 3, 300).refine(isAddress, { error: "must be host:port" }), must("a list of host:port"))
    .min(1, must(`a list of 1 to ${MAX_NODES} addresses`))
    .max(MAX_NODES, must(`a list of 1 to ${MAX_NODES} addresses`))
    .optional(),
  client: z
    .custom<() => RedisClient>((value) => typeof value === "function", {
      error: "must be a function that returns an ioredis client",
    })
    .optional(),
  username: text("1 to 512 bytes of UTF-8", 1, 512).optional(),
  password: text("1 to 4096 bytes of UTF-8", 1, 4096).optional(),
  tls: z
    .unknown()
    .transform((value, context): boolean | TlsSettings | undefined => {
      if (value === undefined || typeof value === "boolean") return value;
      const parsed = tls.safeParse(value);
      if (parsed.success) return parsed.data;
      for (const issue of parsed.error.issues) context.issues.push(moved(issue, []));
      return undefined;
    })
    .optional(),
  namespace: text('at most 128 bytes of UTF-8 without braces, and no part of it "session"', 0, 128)
    .refine((value) => !/[{}]/.test(value) && !value.split(":").includes("session"), {
      error: 'must be at most 128 bytes of UTF-8 without braces, and no part of it "session"',
    })
    .optional(),
}).superRefine((value, context) => {
  const places = ["url", "nodes", "client"].filter((name) => value[name as "url"] !== undefined);
  if (places.length !== 1) {
    context.addIssue({ code: "custom", message: "must have exactly one of url, nodes and client" });
  }
  if (places[0] === "client" && (value.username ?? value.password ?? value.tls) !== undefined) {
    context.addIssue({
      code: "custom",
      message: "must not have username, password or tls beside client: the client brings them",
    });
  }
});

const tls = z.strictObject(
  {
    caFile: path().optional(),
    certFile: path().optional(),
    keyFile: path().optional(),
    serverName: text("the name in a certificate", 1, 253).optional(),
  },
  { error: "must be true, false or an object with caFile, certFile, keyFile, serverName" },
);

const ring = section({
  name: text("1 to 128 bytes of UTF-8 without braces", 1, 128, /^[^{}]*$/),
  kms,
  rotationPeriodMs: integer(1, 3650 * DAY_MS).optional(),
  maxSealingAgeMs: integer(1, 7300 * DAY_MS).optional(),
  refreshIntervalMs: integer(1, 3650 * DAY_MS).optional(),
  revokedKeyIds: z
    .array(text("a key id: 16 characters of base64url", 16, 16, /^[\w-]{16}$/), must("a list of key ids"))
    .max(MAX_REVOKED, must(`a list of at most ${MAX_REVOKED} key ids`))
    .optional(),
  droppedKms: z
    .array(kmsName(), must("a list of names"))
    .max(MAX_DROPPED, must(`a list of at most ${MAX_DROPPED} names`))
    .optional(),
});

const sessions = section({
  namespace: text("at most 256 bytes of UTF-8", 0, 256).optional(),
  purpose: text("1 to 256 bytes of UTF-8", 1, 256).optional(),
  storedIds: choice("digest", "verbatim").optional(),
  clientBound: boolean().optional(),
  inlineKeys: choice("off", "read", "write").optional(),
  idleSeconds: integer(1, MAX_SECONDS).optional(),
  absoluteSeconds: integer(1, MAX_SECONDS).optional(),
  maxEnvelopeBytes: integer(128, 536_870_912).optional(),
}).refine(({ storedIds, clientBound }) => storedIds !== "verbatim" || clientBound !== true, {
  path: ["clientBound"],
  error: 'must not be true with storedIds "verbatim": the store would hold the client\'s secret',
});

const config = z.strictObject({ redis, ring, sessions: sessions.optional() }, must("an object"));

/** @returns the settings, or everything that is wrong with them, each field once. */
export function checkConfig(
  value: unknown,
): { readonly settings: Settings } | { readonly problems: readonly FieldProblem[] } {
  const parsed = config.safeParse(value);
  if (parsed.success) return { settings: { ...parsed.data, sessions: parsed.data.sessions ?? {} } };
  const problems = new Map<string, FieldProblem>();
  for (const problem of parsed.error.issues.flatMap(problemsOf)) {
    if (!problems.has(problem.path)) problems.set(problem.path, problem);
  }
  return { problems: [...problems.values()] };
}

/** @returns whether `value` is an object with the methods of `Kms`, and no description of one. */
export function isKms(value: unknown): value is Kms {
  if (typeof value !== "object" || value === null) return false;
  return ["generate", "wrap", "unwrap"].every((name) => typeof Reflect.get(value, name) === "function");
}

function problemsOf(issue: Issue): FieldProblem[] {
  if (issue.code !== "unrecognized_keys") return [{ path: nameOf(issue.path), must: issue.message }];
  return issue.keys.map((key) => ({ path: nameOf([...issue.path, key]), must: "is not a field that is known here" }));
}

/** `ring.kms[0].keyId` */
function nameOf(path: Path): string {
  return path
    .map((part, index) => (typeof part === "number" ? `[${part}]` : `${index > 0 ? "." : ""}${String(part)}`))
    .join("");
}

/** An issue of an inner schema, without the value that it was found with. */
function moved(issue: Issue, before: readonly number[]): z.core.$ZodRawIssue {
  const { message, path } = issue;
  return issue.code === "unrecognized_keys"
    ? { code: "unrecognized_keys", keys: issue.keys, message, input: undefined, path: [...before, ...path] }
    : { code: "custom", message, input: undefined, path: [...before, ...path] };
}

function isRedisUrl(value: string): boolean {
  if (!URL.canParse(value)) return false;
  const url = new URL(value);
  if (!["redis:", "rediss:"].includes(url.protocol)) return false;
  if (![url.username, url.password].every(isEncoded)) return false;
  return url.hostname !== "" && url.search === "" && url.hash === "" && /^(?:\/\d{0,5})?$/.test(url.pathname);
}

/** A `%` in a password is written `%25`. */
function isEncoded(text: string): boolean {
  try {
    decodeURIComponent(text);
    return true;
  } catch {
    return false;
  }
}

function isPlainUrl(value: string, protocols: readonly string[]): boolean {
  if (!URL.canParse(value)) return false;
  const url = new URL(value);
  return protocols.includes(url.protocol) && url.username === "" && url.password === "";
}

function isAddress(value: string): boolean {
  const [, port] = /^[^\s@/]{1,253}:(\d{1,5})$/.exec(value) ?? [];
  return port !== undefined && Number(port) >= 1 && Number(port) <= MAX_PORT;
}
