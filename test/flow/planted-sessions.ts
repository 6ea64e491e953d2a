/**
 * Web sessions full of values that nobody but the application may see, and what an application does with them.
 */
import assert from "node:assert/strict";
import { randomBytes, randomInt } from "node:crypto";
import type { SessionStore } from "@sealed-session/core";
import type { Needle } from "./needle-search.js";

/** What a web session holds here. */
export type WebSession = Record<string, unknown>;

/** Kinds of planted values, apart from session ids. */
export const SESSION_DATA = [
  "secret",
  "user id",
  "email",
  "number as text",
  "number",
  "text beyond ASCII",
  "key of a Map",
  "element of a Set",
  "property name",
  "bytes",
  "value of an update",
] as const;

/** A value that was planted. */
export interface Planted extends Needle {
  readonly kind:
    | (typeof SESSION_DATA)[number]
    | "session id"
    | "bytes of a session id"
    | "stored id"
    | "refused session id";
}

/** What is in one web session, and what of it comes first in its encoded form. */
export interface PlantedData {
  readonly session: WebSession;
  readonly planted: readonly Planted[];
  readonly first: readonly Planted[];
}

/** One session of {@link runSessions}. */
export interface SessionTrace {
  /** All ids that it had, the latest last. */
  readonly sessionIds: string[];
  /** Everything that it ever held. */
  readonly planted: Planted[];
  /** The beginnings of all its versions. */
  readonly first: Planted[];
  /** What it holds in the end; nothing when it was destroyed. */
  held: readonly Planted[];
  destroyed: boolean;
}

/** How often {@link runSessions} called which method. */
export type Operations = Record<"create" | "get" | "set" | "update" | "touch" | "regenerate" | "destroy", number>;

const AT_A_TIME = 50;
/** As in real sessions much repeats itself, so that a compressing server would compress them. */
const VISITS = Array.from({ length: 12 }, () => ({ path: "/shop/articles", method: "GET" }));
const ALPHABET = "abcdefghijklmnopqrstuvwxyz234567";
/** Characters that somebody escapes: MONITOR, JSON or URLs. */
const AWKWARD = [..."äßçñøłžдж漢字€\"\\\n\t<>&%+'🔑"];

/**
 * Makes a session whose every value is unlike any other.
 *
 * @param turn chooses which field comes first.
 */
export function plant(turn = 0): PlantedData {
  const secret = randomText();
  const userId = `user-${randomText()}`;
  const email = `${randomText()}@mail.example`;
  const numberAsText = Array.from({ length: 19 }, () => randomInt(1, 10)).join("");
  const number = 2 ** 52 + randomInt(2 ** 47);
  const beyondAscii = Array.from({ length: 24 }, () => AWKWARD[randomInt(AWKWARD.length)]).join("");
  const [mapKey, setElement, propertyName] = [randomText(), randomText(), randomText()];
  const bytes = new Uint8Array(randomBytes(24));
  const fields: readonly [name: string, value: unknown, planted: readonly Planted[]][] = [
    ["secret", secret, [{ kind: "secret", value: secret }]],
    // The part that differs: what is looked for is the beginning.
    ["userId", userId, [{ kind: "user id", value: userId.slice("user-".length) }]],
    ["email", email, [{ kind: "email", value: email }]],
    ["card", numberAsText, [{ kind: "number as text", value: numberAsText }]],
    ["balance", number, [{ kind: "number", value: number }]],
    ["profile", { notes: [[{ text: beyondAscii }]] }, [{ kind: "text beyond ASCII", value: beyondAscii }]],
    [
      "carts",
      [new Map([[mapKey, new Set([setElement])]])],
      [
        { kind: "key of a Map", value: mapKey },
        { kind: "element of a Set", value: setElement },
      ],
    ],
    ["flags", { [propertyName]: true }, [{ kind: "property name", value: propertyName }]],
    ["token", bytes, [{ kind: "bytes", value: bytes }]],
  ];
  const start = turn % fields.length;
  const rotated = [...fields.slice(start), ...fields.slice(0, start)];
  return {
    session: { ...Object.fromEntries(rotated.map(([name, value]) => [name, value])), visits: VISITS },
    planted: rotated.flatMap(([, , planted]) => planted),
    first: rotated[0]?.[2] ?? [],
  };
}

/** @returns needles for a session id: its text, and the bytes that it stands for. */
export function sessionIdNeedles(sessionId: string): Planted[] {
  return [
    { kind: "session id", value: sessionId },
    { kind: "bytes of a session id", value: new Uint8Array(Buffer.from(sessionId, "base64url")) },
  ];
}

/**
 * Runs sessions through their lives: each is created and read; a quarter each is updated, replaced, touched, regenerated; a fifth destroyed.
 *
 * @param pairs - Stores of two processes with the same options; sessions use the pairs in turn. The second store reads.
 * @param halfway - Called once, between two sessions.
 */
export async function runSessions(
  count: number,
  pairs: readonly (readonly [SessionStore<WebSession>, SessionStore<WebSession>])[],
  halfway: () => Promise<void>,
): Promise<{ traces: SessionTrace[]; operations: Operations }> {
  const operations = { create: 0, get: 0, set: 0, update: 0, touch: 0, regenerate: 0, destroy: 0 };
  const traces: SessionTrace[] = [];
  for (let start = 0; start < count; start += AT_A_TIME) {
    if (start === Math.floor(count / 2 / AT_A_TIME) * AT_A_TIME) await halfway();
    const batch = Array.from({ length: Math.min(AT_A_TIME, count - start) }, (_, offset) => start + offset);
    traces.push(...(await Promise.all(batch.map((index) => runSession(index, pairs, operations)))));
  }
  return { traces, operations };
}

async function runSession(
  index: number,
  pairs: readonly (readonly [SessionStore<WebSession>, SessionStore<WebSession>])[],
  operations: Operations,
): Promise<SessionTrace> {
  const pair = pairs[index % pairs.length];
  assert.ok(pair);
  const [store, reader] = pair;
  // Apart from the choice of the pair and of the operations below, which are periods of `index` too.
  const turn = Math.floor(index / 7);
  const created = plant(turn);
  let expected = created.session;
  let sessionId = await store.create(expected);
  operations.create++;
  const trace: SessionTrace = {
    sessionIds: [sessionId],
    planted: [...created.planted],
    first: [...created.first],
    held: created.planted,
    destroyed: false,
  };
  const read = async () => {
    assert.deepEqual(await reader.get(sessionId), expected);
    operations.get++;
  };
  await read();
  switch (Math.floor(index / pairs.length) % 4) {
    case 0: {
      const added: Planted = { kind: "value of an update", value: randomText() };
      const updated = await store.update(sessionId, (session) => ({ added: added.value, ...session }));
      operations.update++;
      assert.ok(updated);
      expected = updated;
      trace.planted.push(added);
      trace.first.push(added);
      trace.held = [...trace.held, added];
      break;
    }
    case 1: {
      const replacement = plant(turn + 1);
      expected = replacement.session;
      assert.equal(await store.set(sessionId, expected), true);
      operations.set++;
      trace.planted.push(...replacement.planted);
      trace.first.push(...replacement.first);
      trace.held = replacement.planted;
      break;
    }
    case 2:
      assert.equal(await store.touch(sessionId), true);
      operations.touch++;
      break;
    default: {
      const newId = await store.regenerate(sessionId);
      operations.regenerate++;
      assert.ok(newId);
      sessionId = newId;
      trace.sessionIds.push(newId);
    }
  }
  await read();
  if (Math.floor(index / (4 * pairs.length)) % 5 === 0) {
    assert.equal(await store.destroy(sessionId), true);
    operations.destroy++;
    trace.held = [];
    trace.destroyed = true;
  }
  return trace;
}

/** 120 random bits as 24 characters. */
export function randomText(): string {
  return Array.from(randomBytes(24), (byte) => ALPHABET[byte & 31]).join("");
}
