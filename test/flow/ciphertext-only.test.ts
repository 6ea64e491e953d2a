/**
 * The proof that no plaintext reaches the servers: a thousand web sessions live on a real cluster, and everything that its servers see and
 * hold is searched for every value in them, in every form. The same run with the encryption taken off shows that the search would find them.
 */
import { randomBytes } from "node:crypto";
import { inspect } from "node:util";
import {
  KeyRing,
  localKms,
  Sealer,
  SessionStore,
  type SessionStoreOptions,
  type StoredIdMode,
  storedIdOf,
} from "@sealed-session/core";
import { type RedisWarning, redisKeyRingStore, redisStore } from "@sealed-session/redis";
import { startRedisCluster } from "@sealed-session/test/servers";
import { Cluster } from "ioredis";
import { beforeAll, describe, expect, test, vi } from "vitest";
import { describeFully, startClientDiagnostics } from "./client-diagnostics.js";
import { insecurePlaintextStore } from "./insecure-plaintext-store.js";
import { aesKeyOf, derive, kmsRecorder, openWith, senderOf } from "./key-material.js";
import { type Finds, type Needle, NeedleSearch } from "./needle-search.js";
import {
  plant,
  randomText,
  runSessions,
  SESSION_DATA,
  type SessionTrace,
  sessionIdNeedles,
  type WebSession,
} from "./planted-sessions.js";
import { provocations } from "./provocations.js";
import { type NodeCapture, SOURCES, type Source, startServerCapture, TELLTALE_CONFIG } from "./server-capture.js";

const SESSIONS = 1000;
const RING = "web";
const LOCAL_KEY_VARIABLE = "SEALED_SESSION_TEST_LOCAL_KEY";
const ROLES = ["master", "replica"] as const;
/** Sources with every command so far. */
const HISTORIES: readonly Source[] = ["MONITOR", "AOF", "disk"];
/** Sources with the keys and values of the end. */
const STATES: readonly Source[] = ["RDB", "AOF rewritten", "disk"];

/** Time for a machine that does other things as well. */
const PATIENT = { commandTimeoutMs: 10_000 };

/** Sessions whose envelopes have no optional fields, and sessions with each option that changes what is stored or sent. */
const USUAL: Partial<SessionStoreOptions> = {};
const ALL_OPTIONS: readonly Partial<SessionStoreOptions>[] = [
  USUAL,
  { absoluteSeconds: 3600 },
  { sliding: false },
  { inlineKeys: "write" },
  { clientBound: true },
];

/** What the store sends for these sessions. */
const STORE_COMMANDS: readonly string[] = ["EVALSHA", "GET", "GETEX", "PTTL", "SET", "UNLINK"];

interface Variant {
  readonly storedIds: StoredIdMode;
  readonly options: readonly Partial<SessionStoreOptions>[];
  readonly encrypted: boolean;
}

/** A value that is public, and must be in a capture that is worth anything. */
interface Landmark extends Needle {
  readonly kind: "stored id" | "stored id of the end" | "envelope" | "wrapped key";
}

type Observation = Awaited<ReturnType<typeof observe>>;

describe("with the default stored ids", () => {
  let run: Observation;
  beforeAll(async () => {
    run = await observe({ storedIds: "digest", options: ALL_OPTIONS, encrypted: true });
  });

  captureIsComplete(() => run);
  test("no planted value and no session id is in anything that the servers saw or hold", () => {
    expect(run.planted.filter(({ kind }) => kind === "session id").length).toBeGreaterThan(SESSIONS);
    expect(whereabouts(run, run.planted)).toEqual([]);
  });
  keysAreSecret(() => run);
  test("the keys that are searched for are those under which the captured envelopes lie", () => {
    expect(openedByRecordedKeys(run)).toBeGreaterThan(SESSIONS / 10);
  });
  clientTellsNothing(() => run);
  test("no command shows a planted value or a session id to those who trace ioredis", () => {
    const finds = run.search.find([Buffer.from(run.commands.join("\n"))]);
    expect(missing(finds, run.landmarks("stored id"))).toEqual([]);
    expect(summary(finds, [...run.planted, ...run.secretKeys])).toEqual([]);
  });
});

describe("with verbatim stored ids", () => {
  let run: Observation;
  beforeAll(async () => {
    run = await observe({
      storedIds: "verbatim",
      options: ALL_OPTIONS.filter((options) => !options.clientBound),
      encrypted: true,
    });
  });

  captureIsComplete(() => run);
  test("session ids are in the keys", () => {
    const living = run.traces.filter(({ destroyed }) => !destroyed).map(({ sessionIds }) => sessionIds.at(-1));
    for (const role of ROLES) {
      const finds = run.found("keys", role);
      expect(
        missing(
          finds,
          run.planted.filter(({ kind, value }) => kind === "session id" && living.includes(String(value))),
        ),
      ).toEqual([]);
    }
  });
  test("no session data is in anything that the servers saw or hold", () => {
    expect(whereabouts(run, dataOf(run))).toEqual([]);
  });
  keysAreSecret(() => run);
  clientTellsNothing(() => run);
});

describe("with the encryption taken off, the same search of the same capture", () => {
  let run: Observation;
  beforeAll(async () => {
    run = await observe({ storedIds: "verbatim", options: [USUAL], encrypted: false });
  });

  test("plants every kind of value", () => {
    expect([...new Set(dataOf(run).map(({ kind }) => kind))].sort()).toEqual([...SESSION_DATA].sort());
  });
  test.each(ROLES)("finds every value of every version, and every session id, in what came to a %s", (role) => {
    for (const source of HISTORIES) {
      const finds = run.found(source, role);
      expect(missing(finds, dataOf(run)), source).toEqual([]);
      expect(
        missing(
          finds,
          run.planted.filter(({ kind }) => kind === "session id"),
        ),
        source,
      ).toEqual([]);
    }
  });
  test.each(ROLES)(
    "finds in SLOWLOG of a %s every session id, and what stands at the beginning of a session",
    (role) => {
      const finds = run.found("SLOWLOG", role);
      const first = run.traces.flatMap((trace) => trace.first);
      expect([...new Set(first.map(({ kind }) => kind))].sort()).toEqual([...SESSION_DATA].sort());
      expect(missing(finds, first)).toEqual([]);
      expect(
        missing(
          finds,
          run.planted.filter(({ kind }) => kind === "session id"),
        ),
      ).toEqual([]);
    },
  );
  test("finds the values of updates in what ioredis hands to tracers", () => {
    const finds = run.search.find([Buffer.from(run.commands.join("\n"))]);
    const updates = dataOf(run).filter(({ kind }) => kind === "value of an update");
    expect(updates.length).toBeGreaterThan(SESSIONS / 10);
    expect(missing(finds, updates)).toEqual([]);
  });
  test.each(ROLES)("finds every value of the end in what a %s holds", (role) => {
    const held = run.traces.flatMap((trace) => trace.held);
    expect([...new Set(held.map(({ kind }) => kind))].sort()).toEqual([...SESSION_DATA].sort());
    for (const source of [...STATES, "DUMP" as const])
      expect(missing(run.found(source, role), held), source).toEqual([]);
    const ids = run.landmarks("stored id of the end");
    for (const source of [...STATES, "keys" as const])
      expect(missing(run.found(source, role), ids), source).toEqual([]);
  });
});

describe("the search", () => {
  const text = `${randomText()}ß"${randomText()}`;
  const bytes = new Uint8Array(Buffer.from(text));
  const writings: readonly (readonly [string, string | Uint8Array])[] = [
    ["as it is", text],
    ["in UTF-16LE", Buffer.from(text, "utf16le")],
    ["in UTF-16BE", Buffer.from(text, "utf16le").swap16()],
    ["in hex", Buffer.from(text).toString("hex")],
    ["in hex and capitals", Buffer.from(text).toString("hex").toUpperCase()],
    ...[0, 1, 2].flatMap((shift) =>
      (["base64", "base64url"] as const).map(
        (alphabet) =>
          [
            `in ${alphabet} behind ${shift} bytes`,
            Buffer.from(`${"?".repeat(shift)}${text}?`).toString(alphabet),
          ] as const,
      ),
    ),
    ["in a URL", encodeURIComponent(`/${text}`)],
    ["in a form", new URLSearchParams({ text }).toString()],
    ["in JSON", JSON.stringify({ text })],
    ["in JSON in JSON", JSON.stringify(JSON.stringify([text.slice(0, 20)]))],
    ["as an inspected Buffer", inspect(Buffer.from(text))],
    ["as an array that became a string", String(bytes)],
    ["as an array in JSON", JSON.stringify({ bytes })],
    ["as a Buffer in JSON", JSON.stringify(Buffer.from(text))],
    ["as bytes deep in an error", describeFully(new Error("no", { cause: { list: [{ bytes }] } }))],
    [
      "as a property of an error's cause",
      describeFully(new Error("no", { cause: Object.assign(new Error(), { text }) })),
    ],
    ["as the first sixteen characters", text.slice(0, 16)],
  ];
  test.each(writings)("finds a text %s", (_, written) => {
    const noise = randomBytes(1001);
    const haystack = Buffer.concat([noise, typeof written === "string" ? Buffer.from(written) : written, noise]);
    const needles = [text, bytes].map((value) => ({ kind: "text", value }));
    expect([...new NeedleSearch(needles).find([haystack]).keys()]).not.toEqual([]);
  });
  test("finds a number in binary, in either order of bytes, and as text", () => {
    const number = 2 ** 52 + 12_345;
    const [big, little] = [Buffer.alloc(8), Buffer.alloc(8)];
    big.writeDoubleBE(number);
    little.writeDoubleLE(number);
    for (const haystack of [big, little, Buffer.from(`-${number}`)]) {
      expect(new NeedleSearch([{ kind: "number", value: number }]).find([haystack]).size).toBe(1);
    }
  });
  test("finds nothing where there is nothing", () => {
    const needles = Array.from({ length: 200 }, (_, turn) => plant(turn).planted).flat();
    expect(new NeedleSearch(needles).find([randomBytes(10_000_000)]).size).toBe(0);
  });
});

/** What makes the silence of a search mean something. */
function captureIsComplete(run: () => Observation): void {
  test.each(SOURCES)("%s of every server has bytes", (source) => {
    expect(run().nodes).toHaveLength(6);
    for (const { bytes } of run().nodes) expect(bytes[source].length).toBeGreaterThan(100);
  });
  test.each(ROLES)("every stored id is in what came to a %s", (role) => {
    const ids = run().landmarks("stored id");
    expect(ids.length).toBeGreaterThan(SESSIONS);
    for (const source of [...HISTORIES, "SLOWLOG" as const]) {
      expect(missing(run().found(source, role), ids), source).toEqual([]);
    }
  });
  test.each(ROLES)("every stored id and envelope of the end is in what a %s holds", (role) => {
    const ids = run().landmarks("stored id of the end");
    const envelopes = run().landmarks("envelope");
    expect(ids.length).toBeGreaterThan(SESSIONS / 2);
    expect(envelopes).toHaveLength(ids.length);
    for (const source of [...STATES, "keys" as const])
      expect(missing(run().found(source, role), ids), source).toEqual([]);
    for (const source of [...STATES, ...HISTORIES, "DUMP" as const]) {
      expect(missing(run().found(source, role), envelopes), source).toEqual([]);
    }
  });
  test("MONITOR and SLOWLOG have every command that the client sent, and one at least for each operation", () => {
    const { nodes, commands, operations } = run();
    const sent = new Map([...countNames(commands)].filter(([name]) => STORE_COMMANDS.includes(name)));
    expect([...sent.keys()].sort()).toEqual([...STORE_COMMANDS].sort());
    const masters = nodes.filter(({ role }) => role === "master");
    const total = (counts: readonly ReadonlyMap<string, number>[], name: string) =>
      counts.reduce((sum, count) => sum + (count.get(name) ?? 0), 0);
    for (const [name, count] of sent) {
      expect(
        total(
          masters.map(({ monitored }) => monitored),
          name,
        ),
        `${name} in MONITOR`,
      ).toBeGreaterThanOrEqual(count);
      expect(
        total(
          masters.map(({ slow }) => slow),
          name,
        ),
        `${name} in SLOWLOG`,
      ).toBeGreaterThanOrEqual(count);
    }
    const { create, get, set, update, touch, regenerate, destroy } = operations;
    expect(create).toBe(SESSIONS);
    expect(Math.min(get, set, update, touch, regenerate, destroy)).toBeGreaterThan(SESSIONS / 10);
    expect(sent.get("SET")).toBeGreaterThanOrEqual(create + regenerate);
    expect(sent.get("UNLINK")).toBeGreaterThanOrEqual(destroy);
    expect(sent.get("EVALSHA")).toBeGreaterThanOrEqual(update + regenerate);
    const all = [...sent.values()].reduce((sum, count) => sum + count, 0);
    expect(all).toBeGreaterThanOrEqual(create + get + set + 2 * update + touch + 3 * regenerate + destroy);
    // What a script writes comes to a replica as a SET too.
    const replicas = nodes.filter(({ role }) => role === "replica");
    const writes = create + set + update + regenerate;
    expect(
      total(
        replicas.map(({ monitored }) => monitored),
        "SET",
      ),
    ).toBeGreaterThanOrEqual(writes);
  });
}

function keysAreSecret(run: () => Observation): void {
  test("no data key, no key derived from one and no local key is in anything that the servers saw or hold", () => {
    const { kms, secretKeys } = run();
    expect(kms.generated).toBeGreaterThanOrEqual(2);
    expect(kms.unwrapped).toBeGreaterThanOrEqual(2);
    expect(kms.dataKeys.size).toBe(kms.generated);
    expect([...new Set(secretKeys.map(({ kind }) => kind))]).toEqual(
      expect.arrayContaining(["data key", "sealing key", "index key", "AES key of a sender", "local key"]),
    );
    expect(whereabouts(run(), secretKeys)).toEqual([]);
  });
  test("the wrapped keys are in the ring's hash, and the same search finds them", () => {
    const { kms, ringHash } = run();
    expect(kms.wrapped.size).toBeGreaterThanOrEqual(2);
    for (const wrapped of kms.wrapped) {
      expect(Object.values(ringHash).some((record) => record.includes(Buffer.from(wrapped, "hex")))).toBe(true);
    }
    for (const role of ROLES) {
      for (const source of ["MONITOR", "AOF", "RDB", "AOF rewritten", "DUMP", "disk"] as const) {
        expect(missing(run().found(source, role), run().landmarks("wrapped key")), source).toEqual([]);
      }
    }
  });
}

function clientTellsNothing(run: () => Observation): void {
  test("every provocation ends as it should", () => {
    const outcomes = run().provoked.map(({ what, outcome }) => `${what}: ${outcome}`);
    expect(outcomes).toEqual(run().provoked.map(({ what, expected }) => `${what}: ${expected}`));
    // That one comes once in a process, with its first key.
    const types = run()
      .events.map(({ type }) => type)
      .filter((type) => type !== "backend-chosen");
    expect(new Set(types)).toEqual(
      new Set([
        "key-published",
        "key-current",
        "key-record-refused",
        "kms-failed",
        "session-dropped",
        "envelope-rejected",
        "ring-refresh-failed",
      ]),
    );
    expect(run().redisWarnings.map(({ code }) => code)).toContain("RING_FIELD_IGNORED");
  });
  test("no event, warning or error holds a planted value, a session id, a stored id or a key", () => {
    const { told, search } = run();
    expect(told.length).toBeGreaterThan(run().provoked.length);
    const leaks = told.flatMap(({ what, text }) =>
      summary(search.find([Buffer.from(text)])).map((line) => `${what}: ${line}`),
    );
    expect(leaks).toEqual([]);
  });
}

/** Runs the sessions, captures everything, then provokes errors. */
async function observe({ storedIds, options, encrypted }: Variant) {
  const startedAt = performance.now();
  const cluster = await startRedisCluster({ config: TELLTALE_CONFIG });
  // Only now: servers inherit this process's environment.
  const localKey = randomBytes(32);
  vi.stubEnv(LOCAL_KEY_VARIABLE, localKey.toString("base64url"));
  const client = new Cluster(cluster.addresses());
  const { record, recording } = kmsRecorder();
  const redisWarnings: RedisWarning[] = [];
  const diagnostics = startClientDiagnostics();
  const close: (() => unknown)[] = [() => diagnostics.end(), () => client.disconnect(), () => cluster.stop()];
  try {
    const capture = await startServerCapture(cluster);
    const readyAt = performance.now();
    const local = recording(localKms({ keyVariable: LOCAL_KEY_VARIABLE }));
    const onWarning = (warning: RedisWarning) => void redisWarnings.push(warning);
    const ringStore = redisKeyRingStore(client, { ...PATIENT, onWarning });
    // Two processes that share nothing but the servers and the KMS.
    const rings = [0, 1].map(() => new KeyRing({ name: RING, kms: local, store: ringStore })) as [KeyRing, KeyRing];
    close.unshift(...rings.map((ring) => () => ring.close()), () => ringStore.close());
    const sessions = (ring: KeyRing, own: Partial<SessionStoreOptions>) => {
      const envelopes = redisStore(client, PATIENT);
      const store = encrypted ? envelopes : insecurePlaintextStore(envelopes, new Sealer({ ring }));
      return new SessionStore<WebSession>({ ring, store, storedIds, ...own });
    };
    const pairs = options.map((own) => [sessions(rings[0], own), sessions(rings[1], own)] as const);
    const { traces, operations } = await runSessions(SESSIONS, pairs, async () => {
      await rings[0].publish({ delayMs: 0 });
    });
    diagnostics.endCommands();
    const ranAt = performance.now();
    const nodes = await capture.finish();
    const capturedAt = performance.now();
    const kms = structuredClone(record);

    const ringHash = await client.hgetallBuffer(`session-keys:${RING}`);
    const living = traces
      .filter(({ destroyed }) => !destroyed)
      .map(({ sessionIds }) => storedIdOf(sessionIds.at(-1) ?? "", storedIds) ?? "");
    const envelopes = new Map(
      await Promise.all(
        living.map(async (storedId) => [storedId, await client.getBuffer(`session:${storedId}`)] as const),
      ),
    );
    const { provoked, planted: plantedLater } = encrypted
      ? await provoke(provocations({ cluster, client, kms: local, ring: rings[0], storedIds, onWarning }))
      : { provoked: [], planted: [] };

    const sessionIds = traces.flatMap((trace) => trace.sessionIds);
    const planted = [...traces.flatMap((trace) => trace.planted), ...sessionIds.flatMap(sessionIdNeedles)];
    const landmarks: Landmark[] = [
      ...sessionIds.map((id) => ({ kind: "stored id" as const, value: storedIdOf(id, storedIds) ?? "" })),
      ...living.map((value) => ({ kind: "stored id of the end" as const, value })),
      // The random half of the nonce and what follows.
      ...[...envelopes.values()].map((bytes) => ({ kind: "envelope" as const, value: bytes?.subarray(26, 42) ?? "" })),
      ...[...kms.wrapped].map((wrapped) => ({
        kind: "wrapped key" as const,
        value: Buffer.from(wrapped, "hex").subarray(1),
      })),
    ];
    const secretKeys = keyNeedles([...record.dataKeys], localKey, encrypted ? [...envelopes.values()] : [], sessionIds);
    const search = new NeedleSearch([...planted, ...landmarks, ...secretKeys, ...plantedLater]);
    const finds = searchOnce(search, nodes);
    const bytes = nodes.flatMap((node) => Object.values(node.bytes)).reduce((sum, { length }) => sum + length, 0);
    const seconds = (from: number, to: number) => `${((to - from) / 1000).toFixed(1)} s`;
    const searchedFrom = performance.now();
    for (const source of SOURCES) for (const role of ROLES) finds(source, role);
    const now = performance.now();
    process.stdout.write(
      `${cluster.source}: cluster ${seconds(startedAt, readyAt)}, ${SESSIONS} sessions ${seconds(readyAt, ranAt)}, ` +
        `capture of ${Math.round(bytes / 1e6)} MB ${seconds(ranAt, capturedAt)}, provocations ${seconds(capturedAt, searchedFrom)}, ` +
        `search ${seconds(searchedFrom, now)}\n`,
    );
    return {
      nodes,
      traces,
      operations,
      planted,
      secretKeys,
      kms,
      ringHash,
      envelopes,
      provoked,
      redisWarnings,
      search,
      events: diagnostics.events,
      commands: diagnostics.commands,
      found: finds,
      landmarks: (kind: Landmark["kind"]) => landmarks.filter((landmark) => landmark.kind === kind),
      /** Everything that the client side has told, as text. */
      told: [
        ...diagnostics.events.map((event) => ({ what: `event ${event.type}`, text: describeFully(event) })),
        ...diagnostics.warnings.map((warning) => ({ what: "process warning", text: describeFully(warning) })),
        ...redisWarnings.map((warning) => ({ what: "warning of the store", text: describeFully(warning) })),
        ...provoked.map(({ what, text }) => ({ what, text })),
        ...[...rings, local, ringStore, ...pairs.flat()].map((object) => ({
          what: "an object",
          text: describeFully(object),
        })),
        { what: "the ring's status", text: describeFully(rings[0].status()) },
      ],
    };
  } finally {
    vi.unstubAllEnvs();
    for (const end of close) await end();
  }
}

async function provoke({ ways, planted, close }: ReturnType<typeof provocations>) {
  const provoked: { what: string; expected: string | undefined; outcome: string | undefined; text: string }[] = [];
  try {
    for (const { what, code, run } of ways) {
      let outcome: string | undefined;
      let text = "";
      try {
        await run();
      } catch (error) {
        outcome = (error as { code?: string }).code ?? (error as Error).name;
        text = describeFully(error);
      }
      provoked.push({ what, expected: code, outcome, text });
    }
  } finally {
    await close();
  }
  return { provoked, planted };
}

/** Keys that only the application and the KMS may have. */
function keyNeedles(
  dataKeys: readonly string[],
  localKey: Buffer,
  envelopes: readonly (Buffer | null)[],
  sessionIds: readonly string[],
): Needle[] {
  const senders = new Set(
    envelopes.flatMap((envelope) => (envelope ? [Buffer.from(senderOf(envelope)).toString("hex")] : [])),
  );
  const derived = dataKeys.flatMap((hex) => {
    const dataKey = Buffer.from(hex, "hex");
    const sealingKey = derive(dataKey, "seal");
    return [
      { kind: "data key", value: dataKey },
      { kind: "sealing key", value: sealingKey },
      { kind: "index key", value: derive(dataKey, "index") },
      ...[...senders].map((sender) => ({
        kind: "AES key of a sender",
        value: aesKeyOf(sealingKey, Buffer.from(sender, "hex")),
      })),
      ...sessionIds.map((id) => ({ kind: "sealing key of a client", value: derive(sealingKey, `client${id}`) })),
    ];
  });
  // Any part of a key is one too many: both halves are looked for.
  return [...derived, { kind: "local key", value: localKey }].flatMap(({ kind, value }) => [
    { kind, value },
    { kind, value: value.subarray(16) },
  ]);
}

/** @returns how many of the usual envelopes were opened with recorded keys and showed all that their session held. */
function openedByRecordedKeys({ kms, envelopes, traces }: Observation): number {
  let opened = 0;
  for (const trace of traces) {
    const storedId = storedIdOf(trace.sessionIds.at(-1) ?? "") ?? "";
    const envelope = envelopes.get(storedId);
    // No flags.
    if (envelope?.[1] !== 0x10) continue;
    const plaintexts = [...kms.dataKeys].flatMap((dataKey) => {
      try {
        return [
          openWith(aesKeyOf(derive(Buffer.from(dataKey, "hex"), "seal"), senderOf(envelope)), envelope, storedId),
        ];
      } catch {
        // Sealed under another one.
        return [];
      }
    });
    expect(plaintexts).toHaveLength(1);
    expect(missing(new NeedleSearch(trace.held).find(plaintexts), trace.held)).toEqual([]);
    opened++;
  }
  return opened;
}

function searchOnce(
  search: NeedleSearch,
  nodes: readonly NodeCapture[],
): (source: Source, role: (typeof ROLES)[number]) => Finds {
  const results = new Map<string, Finds>();
  return (source, role) => {
    const name = `${source} ${role}`;
    const known = results.get(name);
    if (known !== undefined) return known;
    const finds = search.find(nodes.filter((node) => node.role === role).map(({ bytes }) => bytes[source]));
    results.set(name, finds);
    return finds;
  };
}

function dataOf({ traces }: Observation): SessionTrace["planted"] {
  return traces.flatMap(({ planted }) => planted);
}

/** @returns a line for each source and kind in which any of `needles` was found. */
function whereabouts(run: Observation, needles: readonly Needle[]): string[] {
  return SOURCES.flatMap((source) =>
    ROLES.flatMap((role) => summary(run.found(source, role), needles).map((line) => `${source} of a ${role}: ${line}`)),
  );
}

function summary(finds: Finds, among: Iterable<Needle> = finds.keys()): string[] {
  const lines = new Map<string, number>();
  for (const needle of among) {
    for (const form of finds.get(needle) ?? []) {
      const line = `${needle.kind} (${form})`;
      lines.set(line, (lines.get(line) ?? 0) + 1);
    }
  }
  return [...lines].map(([line, count]) => `${count} × ${line}`);
}

/** @returns the kinds of `needles` that were not found, and how often. */
function missing(finds: Finds, needles: Iterable<Needle>): string[] {
  const counts = new Map<string, number>();
  for (const needle of needles) if (!finds.has(needle)) counts.set(needle.kind, (counts.get(needle.kind) ?? 0) + 1);
  return [...counts].map(([kind, count]) => `${count} × ${kind}`);
}

function countNames(lines: readonly string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const line of lines) {
    const name = line.slice(0, line.indexOf(" "));
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return counts;
}
