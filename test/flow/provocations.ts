/**
 * Ways to make the library complain while secrets are at hand: for each a call, and the code that it must end with.
 *
 * The path in an UnsupportedValueError names properties of plain objects on purpose (format 6.1), so no secret is a property name on the
 * way to a refused value here; keys of a Map and elements of a Set never appear in a path.
 */
import { randomBytes } from "node:crypto";
import {
  createSessionId,
  decode,
  encode,
  KeyRing,
  type Kms,
  KmsError,
  localKms,
  Sealer,
  SessionStore,
  type SessionStoreOptions,
  type StoredIdMode,
  storedIdOf,
} from "@sealed-session/core";
import { type RedisWarning, redisKeyRingStore, redisStore } from "@sealed-session/redis";
import { pauseNode, type RedisCluster, resumeNode } from "@sealed-session/test/servers";
import { Cluster } from "ioredis";
import { type Planted, plant, randomText, sessionIdNeedles, type WebSession } from "./planted-sessions.js";

/** One way. */
export interface Provocation {
  readonly what: string;
  /** The error's code, or its name when it has none; `undefined` where there is to be no error. */
  readonly code: string | undefined;
  run(): unknown;
}

/** What there is to provoke. */
export interface Provoked {
  readonly cluster: RedisCluster;
  readonly client: Cluster;
  readonly kms: Kms;
  readonly ring: KeyRing;
  readonly storedIds: StoredIdMode;
  readonly onWarning: (warning: RedisWarning) => void;
}

/** @returns the ways, and what they plant; more is planted while they run. */
export function provocations({ cluster, client, kms, ring, storedIds, onWarning }: Provoked): {
  ways: readonly Provocation[];
  planted: readonly Planted[];
  close(): Promise<void>;
} {
  const planted: Planted[] = [];
  const rings: KeyRing[] = [];
  // Time for a machine that does other things as well.
  const commandTimeoutMs = 10_000;
  const envelopes = redisStore(client, { commandTimeoutMs });
  const ringStore = redisKeyRingStore(client, { commandTimeoutMs, onWarning });
  const sessions = (options: Partial<SessionStoreOptions> = {}) =>
    new SessionStore<WebSession>({ ring, store: envelopes, storedIds, ...options });
  const ringWith = (options: Partial<ConstructorParameters<typeof KeyRing>[0]>) => {
    const made = new KeyRing({ name: ring.name, kms, store: ringStore, ...options });
    rings.push(made);
    return made;
  };
  const store = sessions();
  const keyOf = (sessionId: string) => `session:${storedIdOf(sessionId, storedIds)}`;

  const newData = (): WebSession => {
    const data = plant();
    planted.push(...data.planted);
    return data.session;
  };
  const newText = (): string => {
    const value = randomText();
    planted.push({ kind: "secret", value });
    return value;
  };
  const newId = (sessionId = createSessionId()): string => {
    planted.push(...sessionIdNeedles(sessionId));
    planted.push({ kind: "stored id", value: storedIdOf(sessionId, storedIds) ?? "" });
    return sessionId;
  };
  const created = (owner = store) => owner.create(newData(), newId());
  const refusedId = (value: string): string => {
    planted.push({ kind: "refused session id", value });
    return value;
  };
  /** A session whose stored bytes were changed. */
  const changed = async (change: (bytes: Buffer) => Buffer): Promise<string> => {
    const sessionId = await created();
    const bytes = await client.getBuffer(keyOf(sessionId));
    await client.set(keyOf(sessionId), change(bytes ?? Buffer.alloc(0)), "KEEPTTL");
    return sessionId;
  };
  const flipped = (offset: number) =>
    changed((bytes) => {
      const place = offset < 0 ? bytes.length + offset : offset;
      bytes[place] = (bytes[place] ?? 0) ^ 1;
      return bytes;
    });
  const refusedValue = (value: unknown) => store.create({ ...newData(), value }, newId());

  const rejected: [string, () => Promise<string>][] = [
    ["a flipped bit in the tag", () => flipped(-1)],
    ["a flipped bit in the ciphertext", () => flipped(60)],
    ["a flipped bit in the key id", () => flipped(3)],
    ["another version", () => flipped(1)],
    ["an envelope that was cut short", () => changed((bytes) => bytes.subarray(0, -5))],
    ["plaintext in place of an envelope", () => changed(() => Buffer.from(encode(newData())))],
    ["JSON in place of an envelope", () => changed(() => Buffer.from(JSON.stringify({ secret: newText() })))],
  ];
  const refused: [string, string, () => unknown][] = [
    ["a function", "VALUE_UNSUPPORTED", () => newText],
    ["a symbol", "VALUE_UNSUPPORTED", () => Symbol(newText())],
    ["an instance of a class", "VALUE_UNSUPPORTED", () => new Login(newText())],
    ["a function under a key of a Map", "VALUE_UNSUPPORTED", () => new Map([[newText(), () => {}]])],
    ["a function in a Set", "VALUE_UNSUPPORTED", () => new Set<unknown>([newText(), () => {}])],
    ["a function deep inside", "VALUE_UNSUPPORTED", () => [[{ list: [newText(), { deep: () => newText() }] }]]],
    ["an array with a property", "VALUE_UNSUPPORTED", () => Object.assign([newText()], { extra: newText() })],
    ["a getter that throws", "VALUE_UNSUPPORTED", () => new Thrower(newText()).session],
    ["an invalid Date", "VALUE_UNSUPPORTED", () => [newText(), new Date(Number.NaN)]],
    ["a cycle", "VALUE_CYCLIC", () => cyclic(newText())],
    ["too many levels", "VALUE_TOO_DEEP", () => nested(newText(), 200)],
    ["too many bytes", "VALUE_TOO_LARGE", () => newText().repeat(60_000)],
  ];
  const badIds: [string, () => string][] = [
    ["too short an id", () => refusedId(randomText().slice(0, 15))],
    ["too long an id", () => refusedId(randomText().repeat(22))],
    ["an id with half a surrogate pair", () => refusedId(`${randomText()}\ud800`)],
    ...(storedIds === "verbatim"
      ? [["an id with braces", () => refusedId(`${randomText()}{x}`)] as [string, () => string]]
      : []),
  ];

  const ways: Provocation[] = [
    ...rejected.map(([what, make]) => ({
      what,
      code: "ENVELOPE_REJECTED",
      run: async () => store.get(await make()),
    })),
    ...(["update", "regenerate"] as const).map((method) => ({
      what: `${method} of a tampered session`,
      code: "ENVELOPE_REJECTED",
      run: async () => store[method](await flipped(-1), () => newData()),
    })),
    {
      what: "an envelope of another session",
      code: "ENVELOPE_REJECTED",
      run: async () => {
        const [from, to] = [await created(), await created()];
        await client.set(keyOf(to), (await client.getBuffer(keyOf(from))) ?? "");
        return store.get(to);
      },
    },
    {
      what: "an envelope of another namespace",
      code: "ENVELOPE_REJECTED",
      run: async () => sessions({ namespace: "other" }).get(await created()),
    },
    {
      what: "an envelope without its client's key",
      code: "ENVELOPE_REJECTED",
      run: async () =>
        new SessionStore({ ring, store: envelopes, clientBound: true }).get(await asDigest(await created())),
    },
    ...refused.map(([what, code, value]) => ({ what, code, run: async () => refusedValue(value()) })),
    {
      what: "an unsupported value in an update",
      code: "VALUE_UNSUPPORTED",
      run: async () => store.update(await created(), (session) => ({ ...session, value: () => newText() })),
    },
    {
      what: "a payload that was cut short",
      code: "PAYLOAD_MALFORMED",
      run: () => decode(encode(newData()).subarray(0, -1)),
    },
    ...badIds.flatMap(([what, id]) => [
      { what: `create under ${what}`, code: "SESSION_ID_INVALID", run: async () => store.create(newData(), id()) },
      { what: `set under ${what}`, code: "SESSION_ID_INVALID", run: async () => store.set(id(), newData()) },
      {
        what: `update under ${what}`,
        code: "SESSION_ID_INVALID",
        run: async () => store.update(id(), () => newData()),
      },
      { what: `get under ${what}`, code: undefined, run: async () => store.get(id()) },
      { what: `regenerate under ${what}`, code: undefined, run: async () => store.regenerate(id()) },
    ]),
    {
      what: "an id that the Redis store refuses",
      code: "RangeError",
      run: async () => envelopes.get(refusedId(`${randomText()}{x}`)),
    },
    {
      what: "an id that is no string",
      code: "TypeError",
      run: async () => envelopes.get([refusedId(randomText())] as unknown as string),
    },
    {
      what: "a sealer that gets no session id",
      code: "TypeError",
      run: async () =>
        new Sealer({ ring, clientBound: true }).seal(newData(), newText(), {
          sessionId: refusedId(randomText().slice(0, 15)),
        }),
    },
    {
      what: "a session that exists",
      code: "SESSION_EXISTS",
      run: async () => store.create(newData(), await created()),
    },
    {
      what: "other writers who are always quicker",
      code: "STORE_CONFLICT",
      run: async () => {
        const sessionId = await created();
        return store.update(sessionId, async (session) => {
          await store.set(sessionId, newData());
          return session;
        });
      },
    },
    {
      what: "a key of another type",
      code: "STORE_UNAVAILABLE",
      run: async () => {
        const sessionId = newId();
        await client.lpush(keyOf(sessionId), newText());
        return store.get(sessionId);
      },
    },
    {
      what: "an update on a key of another type",
      code: "STORE_UNAVAILABLE",
      run: async () => {
        const sessionId = await created();
        return store.update(sessionId, async () => {
          await client.del(keyOf(sessionId));
          await client.lpush(keyOf(sessionId), newText());
          return newData();
        });
      },
    },
    {
      what: "a client that was disconnected",
      code: "STORE_UNAVAILABLE",
      run: async () => {
        const other = new Cluster(cluster.addresses());
        other.disconnect();
        return sessions({ store: redisStore(other) }).create(newData(), newId());
      },
    },
    {
      what: "servers that do not answer",
      code: "STORE_UNAVAILABLE",
      run: async () => {
        const sessionId = await created();
        const masters = cluster.nodes.filter(({ role }) => role === "master");
        await Promise.all(masters.map(pauseNode));
        try {
          return await sessions({ store: redisStore(client, { commandTimeoutMs: 100 }) }).set(sessionId, newData());
        } finally {
          await Promise.all(masters.map(resumeNode));
        }
      },
    },
    {
      what: "a KMS that cannot be reached",
      code: "KEY_UNAVAILABLE",
      run: async () => sessions({ ring: ringWith({ name: "no-kms", kms: unreachableKms }) }).create(newData(), newId()),
    },
    {
      what: "a KMS that opens no key of the ring",
      code: "KEY_UNAVAILABLE",
      run: async () => {
        const denying: Kms = { ...unreachableKms, name: kms.name, unwrap: deny };
        return sessions({ ring: ringWith({ kms: denying }) }).get(await created());
      },
    },
    {
      what: "a ring of another type",
      code: "KEY_UNAVAILABLE",
      run: async () => {
        await client.set("session-keys:no-hash", newText());
        return sessions({ ring: ringWith({ name: "no-hash" }) }).create(newData(), newId());
      },
    },
    {
      what: "a ring with records and fields that are none",
      code: undefined,
      run: async () => {
        const keyId = randomBytes(12).toString("base64url");
        await client.hset("session-keys:garbled", keyId, newText(), newText(), newText());
        return sessions({ ring: ringWith({ name: "garbled" }) }).create(newData(), newId());
      },
    },
    {
      what: "a ring that cannot be read anew",
      code: "CLOSED",
      run: async () => {
        let now = Date.now();
        const closing = redisKeyRingStore(client, { commandTimeoutMs });
        const outdated = ringWith({ store: closing, clock: () => now });
        await outdated.current();
        await closing.close();
        now += 60_000;
        outdated.currentIfWarm();
        // Not a second run: the one that has just begun in the background.
        await outdated.refresh().catch((error: Error) => {
          throw error.cause;
        });
      },
    },
    {
      what: "a ring that was closed",
      code: "CLOSED",
      run: async () => {
        const closed = ringWith({});
        closed.close();
        return sessions({ ring: closed }).create(newData(), newId());
      },
    },
    {
      what: "a session under a revoked key",
      code: undefined,
      run: async () => {
        const sessionId = await created();
        const revokedKeyIds = ring.status().map(({ keyId }) => keyId);
        return sessions({ ring: ringWith({ revokedKeyIds }) }).get(sessionId);
      },
    },
    {
      what: "a session past its absolute life",
      code: undefined,
      run: async () => {
        const absoluteSeconds = 60;
        const sessionId = await created(sessions({ absoluteSeconds }));
        return sessions({ absoluteSeconds, ring: ringWith({ clock: () => Date.now() + 120_000 }) }).get(sessionId);
      },
    },
    {
      what: "a local key of the wrong length",
      code: "LOCAL_KMS_REFUSED",
      run: () => {
        const variable = "SEALED_SESSION_TEST_WRONG_LOCAL_KEY";
        process.env[variable] = newText();
        try {
          return localKms({ keyVariable: variable });
        } finally {
          delete process.env[variable];
        }
      },
    },
  ];

  /** The same envelope where a store with digests looks for it. */
  async function asDigest(sessionId: string): Promise<string> {
    if (storedIds === "verbatim") {
      await client.set(`session:${storedIdOf(sessionId)}`, (await client.getBuffer(keyOf(sessionId))) ?? "", "EX", 600);
    }
    return sessionId;
  }

  return {
    ways,
    planted,
    async close() {
      for (const made of rings) made.close();
      await ringStore.close();
    },
  };
}

class Login {
  readonly password: string;

  constructor(password: string) {
    this.password = password;
  }
}

/** What it throws is the application's own, and says nothing. */
class Thrower {
  readonly #secret: string;

  constructor(secret: string) {
    this.#secret = secret;
  }

  get session(): WebSession {
    const secret = this.#secret;
    return {
      before: secret,
      get value() {
        throw new Error(`${secret.length} characters`);
      },
    };
  }
}

const unreachable = async () => {
  throw new KmsError("KMS_UNREACHABLE", "no answer", {
    kms: "unreachable",
    requestId: "0",
    cause: new Error("ECONNREFUSED"),
  });
};
const unreachableKms: Kms = { name: "unreachable", generate: unreachable, wrap: unreachable, unwrap: unreachable };
const deny = async () => {
  throw new KmsError("KMS_DENIED", "no permission", { kms: "denying" });
};

function cyclic(text: string): unknown {
  const list: unknown[] = [text];
  list.push({ list });
  return list;
}

function nested(text: string, levels: number): unknown {
  return levels === 0 ? text : [text, nested(text, levels - 1)];
}
