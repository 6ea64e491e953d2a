import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { type ToldError, tell } from "../src/cli-error.js";
import type { Settings } from "../src/config-schema.js";
import { resolveConfig } from "../src/resolve-config.js";

const folder = mkdtempSync(join(tmpdir(), "sealed-session-config-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Must not come back in any message. */
const SECRET = "hunter2-hunter2";
const KMS = { type: "local", keyVariable: "KEY" };
const MINIMAL = { redis: { url: "redis://127.0.0.1:6379" }, ring: { name: "web", kms: KMS } };
let next = 0;

interface Sources {
  /** Written as JSON, unless it is a text. */
  readonly file?: unknown;
  readonly name?: string;
  readonly environment?: Record<string, string>;
  readonly flags?: Record<string, string>;
  readonly given?: string;
}

function resolve({
  file,
  name = "sealed-session.config.json",
  environment = {},
  flags = {},
  given,
}: Sources): Promise<Settings> {
  const cwd = join(folder, String(next++));
  mkdirSync(cwd);
  if (file !== undefined) writeFileSync(join(cwd, name), typeof file === "string" ? file : JSON.stringify(file));
  return resolveConfig({ cwd, file: given, environment, flags: new Map(Object.entries(flags)) });
}

async function refusal(sources: Sources): Promise<ToldError> {
  const settings = await resolve(sources).catch((error: unknown) => tell(error));
  if (!("exitCode" in settings)) throw new Error("the configuration was taken");
  return settings;
}

const withRedis = (redis: object) => ({ file: { ...MINIMAL, redis } });
const withRing = (ring: object) => ({ file: { ...MINIMAL, ring: { ...MINIMAL.ring, ...ring } } });
const withKms = (kms: unknown) => withRing({ kms });
const withSessions = (sessions: unknown) => ({ file: { ...MINIMAL, sessions } });

describe("the sources of a configuration", () => {
  it("are the file, the environment over it, and flags over both", async () => {
    const file = {
      ...MINIMAL,
      ring: { ...MINIMAL.ring, rotationPeriodMs: 1000, maxSealingAgeMs: 2000, refreshIntervalMs: 10 },
    };
    const environment = {
      SEALED_SESSION_RING_MAX_SEALING_AGE_MS: "3000",
      SEALED_SESSION_RING_REFRESH_INTERVAL_MS: "20",
    };
    const { ring } = await resolve({ file, environment, flags: { "ring.refreshIntervalMs": "30" } });
    expect(ring).toMatchObject({ name: "web", rotationPeriodMs: 1000, maxSealingAgeMs: 3000, refreshIntervalMs: 30 });
  });

  it("may be the environment and flags alone", async () => {
    const environment = {
      SEALED_SESSION_REDIS_NODES: "a:1, b:2,[::1]:3",
      SEALED_SESSION_REDIS_USERNAME: "rotate",
      SEALED_SESSION_REDIS_PASSWORD: SECRET,
      SEALED_SESSION_REDIS_TLS: "true",
      SEALED_SESSION_RING_KMS: JSON.stringify([KMS, { type: "aws", keyId: "1234abcd" }]),
      SEALED_SESSION_SESSIONS_CLIENT_BOUND: "false",
      SEALED_SESSION_SESSIONS_STORED_IDS: "verbatim",
      SEALED_SESSION_RING_REVOKED_KEY_IDS: "AAAAAAAAAAAAAAAA,BBBBBBBBBBBBBBBB",
    };
    expect(await resolve({ environment, flags: { "ring.name": "web" } })).toEqual({
      redis: { nodes: ["a:1", "b:2", "[::1]:3"], username: "rotate", password: SECRET, tls: true },
      ring: {
        name: "web",
        kms: [KMS, { type: "aws", keyId: "1234abcd" }],
        revokedKeyIds: ["AAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBB"],
      },
      sessions: { clientBound: false, storedIds: "verbatim" },
    });
  });

  it("name one place of Redis: a later source's takes that of an earlier one, and its other fields stay", async () => {
    const file = { ...MINIMAL, redis: { url: "redis://a:1", namespace: "eu" } };
    const environment = { SEALED_SESSION_REDIS_NODES: "b:2" };
    expect((await resolve({ file, environment })).redis).toEqual({ nodes: ["b:2"], namespace: "eu" });
    const flags = { "redis.url": "redis://c:3" };
    expect((await resolve({ file, environment, flags })).redis).toEqual({ url: "redis://c:3", namespace: "eu" });
  });

  it("do not count where a variable is empty", async () => {
    const environment = { SEALED_SESSION_RING_NAME: "" };
    expect((await resolve({ file: MINIMAL, environment })).ring.name).toBe("web");
  });

  it("leave variables alone that are not of the configuration", async () => {
    await resolve({
      file: MINIMAL,
      environment: { SEALED_SESSION_BACKEND: "node", SEALED_SESSION_TEST_SOURCE: "apt" },
    });
  });
});

describe("a configuration file", () => {
  it.each([
    ["sealed-session.config.json", JSON.stringify(MINIMAL)],
    ["sealed-session.config.mjs", `export default ${JSON.stringify(MINIMAL)};`],
    ["sealed-session.config.js", `module.exports = ${JSON.stringify(MINIMAL)};`],
    [
      "sealed-session.config.ts",
      `enum Kind { local = "local" }\nconst name: string = "web";
      export default { redis: { url: "redis://127.0.0.1:6379" }, ring: { name, kms: { type: Kind.local, keyVariable: "KEY" } } };`,
    ],
    ["sealed-session.config.ts", `export default async () => (${JSON.stringify(MINIMAL)});`],
    ["sealed-session.config.mjs", `export default Promise.resolve(${JSON.stringify(MINIMAL)});`],
  ])("is %s (%#)", async (name, file) => {
    expect(await resolve({ name, file })).toEqual({ ...MINIMAL, ring: { name: "web", kms: [KMS] }, sessions: {} });
  });

  it("may bring a client, and a KMS of its own, as they are", async () => {
    const file = `class Own { name = "own"; generate() {} wrap() {} unwrap() {} }
      export const own = new Own();
      export default { redis: { client: () => "a client" }, ring: { name: "web", kms: [own, { type: "local", keyFile: "k" }] } };`;
    const { redis, ring } = await resolve({ name: "sealed-session.config.mjs", file });
    expect(redis.client?.()).toBe("a client");
    expect(ring.kms[0]?.constructor.name).toBe("Own");
  });

  it("is the first of ts, js, mjs and json", async () => {
    const cwd = join(folder, "order");
    mkdirSync(cwd);
    const named = (name: string) => JSON.stringify({ ...MINIMAL, ring: { name, kms: KMS } });
    const found = async () =>
      (await resolveConfig({ cwd, file: undefined, environment: {}, flags: new Map() })).ring.name;
    writeFileSync(join(cwd, "sealed-session.config.json"), named("json"));
    expect(await found()).toBe("json");
    writeFileSync(join(cwd, "sealed-session.config.mjs"), `export default ${named("mjs")}`);
    expect(await found()).toBe("mjs");
    writeFileSync(join(cwd, "sealed-session.config.js"), `module.exports = ${named("js")}`);
    expect(await found()).toBe("js");
    writeFileSync(join(cwd, "sealed-session.config.ts"), `export default ${named("ts")}`);
    expect(await found()).toBe("ts");
  });

  it("has paths that are relative to it, and those of the environment and of flags are relative to the working directory", async () => {
    const other = join(folder, "elsewhere");
    mkdirSync(other);
    const config = {
      redis: { nodes: ["a:1"], tls: { caFile: "ca.pem" } },
      ring: { name: "web", kms: { type: "local", keyFile: "k" } },
    };
    writeFileSync(join(other, "c.json"), JSON.stringify(config));
    const inFile = await resolve({ given: join("..", "elsewhere", "c.json") });
    expect(inFile.ring.kms).toEqual([{ type: "local", keyFile: join(other, "k") }]);
    expect(inFile.redis.tls).toEqual({ caFile: join(other, "ca.pem") });
    const flags = { "ring.kms": '{"type":"local","keyFile":"k"}' };
    const inFlag = await resolve({ given: join("..", "elsewhere", "c.json"), flags });
    expect(inFlag.ring.kms).toEqual([{ type: "local", keyFile: join(folder, String(next - 1), "k") }]);
  });

  it.each([
    ["does not exist", { given: "missing.json" }, "does not exist"],
    [
      "has another extension",
      { name: "c.yaml", given: "c.yaml", file: "a: 1" },
      "must be a .ts, .js, .mjs or .json file",
    ],
    ["throws", { name: "c.mjs", given: "c.mjs", file: 'throw new Error("no vault");' }, "no vault"],
    [
      "names a package that is not there",
      { name: "c.ts", given: "c.ts", file: 'import "no-such-package";' },
      "no-such-package",
    ],
  ])("that %s is refused, and the command ends with 2", async (_, sources, message) => {
    expect(await refusal(sources)).toMatchObject({ code: "CONFIG_UNREADABLE", exitCode: 2 });
    expect((await refusal(sources)).message).toContain(message);
  });

  it.each([
    ["c.json", `{ "redis": { "password": "${SECRET}" "x": 1 } }`, undefined],
    ["c.json", `{ "redis": { "password": ${SECRET} } }`, undefined],
    ["c.ts", `export default { redis: { password: "${SECRET}" "x" } };`, "line 1, column"],
    ["c.mjs", `export default { redis: { password: "${SECRET}" "x" } };`, undefined],
  ])("that cannot be parsed is refused without a word of its text: %s (%#)", async (name, file, where) => {
    const { code, message } = await refusal({ name, given: name, file });
    expect(code).toBe("CONFIG_UNREADABLE");
    // Under vitest a module goes through its own parser.
    expect(message).toMatch(name.endsWith(".mjs") ? /cannot be (parsed|loaded)/ : /cannot be parsed/);
    if (where !== undefined) expect(message).toContain(where);
    expect(message).not.toMatch(/hunter2/);
  });
});

describe("a wrong field is named with what it must be, and never with its value", () => {
  const wrong: readonly (readonly [path: string, sources: Sources])[] = [
    ["redis", { file: { ring: MINIMAL.ring } }],
    ["redis", withRedis({})],
    ["redis", withRedis({ url: "redis://a", nodes: ["a:1"] })],
    ["redis", withRedis({ namespace: SECRET })],
    ["redis", { file: { ...MINIMAL, redis: SECRET } }],
    ["redis.url", withRedis({ url: `http://u:${SECRET}@a` })],
    ["redis.url", withRedis({ url: 6379 })],
    ["redis.url", withRedis({ url: `redis://a/${SECRET}` })],
    ["redis.url", withRedis({ url: `redis://a?password=${SECRET}` })],
    ["redis.url", withRedis({ url: `redis://:${SECRET}%@a` })],
    ["redis.nodes", withRedis({ nodes: [] })],
    ["redis.nodes", withRedis({ nodes: SECRET })],
    ["redis.nodes[1]", withRedis({ nodes: ["a:1", SECRET] })],
    ["redis.nodes[0]", withRedis({ nodes: ["a:65536"] })],
    ["redis.nodes[0]", withRedis({ nodes: [`u:${SECRET}@a:1`] })],
    ["redis.client", withRedis({ client: SECRET })],
    ["redis.username", withRedis({ url: "redis://a", username: "" })],
    ["redis.password", withRedis({ url: "redis://a", password: 12345 })],
    ["redis.tls", withRedis({ url: "redis://a", tls: SECRET })],
    ["redis.tls.caFile", withRedis({ url: "redis://a", tls: { caFile: 1 } })],
    ["redis.tls.certificate", withRedis({ url: "redis://a", tls: { certificate: SECRET } })],
    ["redis.namespace", withRedis({ url: "redis://a", namespace: "{x}" })],
    ["redis.namespace", withRedis({ url: "redis://a", namespace: "a:session" })],
    ["redis.pasword", withRedis({ url: "redis://a", pasword: SECRET })],
    ["ring", { file: { redis: MINIMAL.redis } }],
    ["ring.name", withRing({ name: "" })],
    ["ring.name", withRing({ name: "{web}" })],
    ["ring.name", withRing({ name: undefined })],
    ["ring.kms", { file: { ...MINIMAL, ring: { name: "web" } } }],
    ["ring.kms", withKms([])],
    ["ring.kms", withKms(Array.from({ length: 9 }, () => KMS))],
    ["ring.kms", withKms(SECRET)],
    ["ring.kms.type", withKms({ type: "gcp", key: SECRET })],
    ["ring.kms[1].type", withKms([KMS, { type: "gcp" }])],
    ["ring.kms", withKms({ type: "local" })],
    ["ring.kms[0]", withKms([{ type: "local", keyFile: "a", keyVariable: "b" }])],
    ["ring.kms.keyVariable", withKms({ type: "local", keyVariable: `${SECRET} ` })],
    ["ring.kms.key", withKms({ type: "local", keyFile: "a", key: SECRET })],
    ["ring.kms.keyId", withKms({ type: "aws" })],
    ["ring.kms[0].keyId", withKms([{ type: "aws", keyId: "alias/web" }])],
    ["ring.kms.region", withKms({ type: "aws", keyId: "a", region: "EU West" })],
    ["ring.kms.endpoint", withKms({ type: "aws", keyId: "a", endpoint: `https://u:${SECRET}@a` })],
    ["ring.kms.name", withKms({ ...KMS, name: "" })],
    ["ring.rotationPeriodMs", withRing({ rotationPeriodMs: 0 })],
    ["ring.rotationPeriodMs", withRing({ rotationPeriodMs: "24h" })],
    ["ring.maxSealingAgeMs", withRing({ maxSealingAgeMs: 1.5 })],
    ["ring.refreshIntervalMs", withRing({ refreshIntervalMs: null })],
    ["ring.revokedKeyIds", withRing({ revokedKeyIds: SECRET })],
    ["ring.revokedKeyIds[0]", withRing({ revokedKeyIds: [SECRET] })],
    ["ring.droppedKms", withRing({ droppedKms: SECRET })],
    ["ring.droppedKms[0]", withRing({ droppedKms: [""] })],
    ["ring.rotationPeriod", withRing({ rotationPeriod: 1 })],
    ["sessions", withSessions([])],
    ["sessions.namespace", withSessions({ namespace: 1 })],
    ["sessions.purpose", withSessions({ purpose: "" })],
    ["sessions.storedIds", withSessions({ storedIds: "plain" })],
    ["sessions.clientBound", withSessions({ clientBound: "yes" })],
    ["sessions.clientBound", withSessions({ clientBound: true, storedIds: "verbatim" })],
    ["sessions.inlineKeys", withSessions({ inlineKeys: true })],
    ["sessions.idleSeconds", withSessions({ idleSeconds: 0 })],
    ["sessions.absoluteSeconds", withSessions({ absoluteSeconds: "12h" })],
    ["sessions.maxEnvelopeBytes", withSessions({ maxEnvelopeBytes: 127 })],
    ["sessions.idleMs", withSessions({ idleMs: 1 })],
    ["session", { file: { ...MINIMAL, session: {} } }],
    ["the configuration", { file: [] }],
    ["the configuration", { file: "null" }],
  ];

  it.each(wrong)("%s (%#)", async (path, sources) => {
    const { code, message, exitCode } = await refusal(sources);
    expect({ code, exitCode }).toEqual({ code: "CONFIG_INVALID", exitCode: 2 });
    const [sentence] = message.split(/; | \(/);
    expect(sentence?.startsWith(`${path} must `) || sentence === `${path} is not a field that is known here`).toBe(
      true,
    );
    expect(message).not.toContain(SECRET);
  });

  it("all of them at once", async () => {
    const { message } = await refusal({
      file: { redis: { url: 1 }, ring: { name: "", kms: KMS }, sessions: { purpose: 2 } },
    });
    for (const path of ["redis.url", "ring.name", "sessions.purpose"]) expect(message).toContain(`${path} must be`);
  });

  it("and where it was set, when that was not the file", async () => {
    const environment = { SEALED_SESSION_RING_ROTATION_PERIOD_MS: "daily", SEALED_SESSION_REDIS_TLS: SECRET };
    const { message } = await refusal({ file: MINIMAL, environment, flags: { "ring.kms": "{" } });
    expect(message).toContain("ring.rotationPeriodMs (set by SEALED_SESSION_RING_ROTATION_PERIOD_MS) must be");
    expect(message).toContain("redis.tls (set by SEALED_SESSION_REDIS_TLS) must be true, false or an object");
    expect(message).toContain("ring.kms (set by --ring-kms) must be an object");
    expect(message).not.toContain(SECRET);
  });

  it("a variable that nobody knows is one too", async () => {
    const { code, message } = await refusal({ file: MINIMAL, environment: { SEALED_SESSION_REDIS_PASSWD: SECRET } });
    expect(code).toBe("CONFIG_INVALID");
    expect(message).toBe("SEALED_SESSION_REDIS_PASSWD is not a variable that is known here");
  });

  it("and a file that is missing is said to be", async () => {
    const { message } = await refusal({});
    expect(message).toContain("redis must be given");
    expect(message).toContain("none of sealed-session.config.ts, sealed-session.config.js");
  });
});

describe("a secret", () => {
  it.each([`redis://user:${SECRET}@a:1`, `redis://:${SECRET}@a:1`, `REDIS://${SECRET}@a`])(
    "in a flag is refused, since others can read it (%#)",
    async (url) => {
      const { code, message } = await refusal({ file: MINIMAL, flags: { "redis.url": url } });
      expect(code).toBe("USAGE");
      expect(message).toMatch(/^--redis-url must not hold a user name or password/);
      expect(message).not.toContain(SECRET);
    },
  );

  it("in a URL of the file or the environment is taken", async () => {
    const environment = { SEALED_SESSION_REDIS_URL: `redis://user:${SECRET}@a:1/2` };
    expect((await resolve({ file: MINIMAL, environment })).redis.url).toBe(`redis://user:${SECRET}@a:1/2`);
  });
});
