/**
 * A service that keeps web sessions, in a process of its own: plain JavaScript, so that Node runs it as it runs any service. Its parent tells it what
 * to do, and never tells it a key before it has to plant one.
 *
 * Needs an IPC channel and `--expose-gc`.
 */
import { randomBytes } from "node:crypto";
import { setImmediate as nextTurn } from "node:timers/promises";
import { writeHeapSnapshot } from "node:v8";
import { KMSClient } from "@aws-sdk/client-kms";
import { awsKms } from "@sealed-session/aws-kms";
import {
  fileKeyRingStore,
  KeyRing,
  localKms,
  memoryKeyRingStore,
  memoryStore,
  SessionStore,
  storedIdOf,
} from "@sealed-session/core";

const COLLECTIONS = 4;
const TTL_MS = 3_600_000;
/** Magic, version, key id and nonce. */
const HEADER_BYTES = 38;

let ring;
let records;
let usual;
let clientBound;
/** Also keeps alive what was planted. */
const planted = [];

const commands = {
  /** As an application starts. */
  start({ name, keyFile, directory, keyIds, client }) {
    const isLocal = keyFile !== undefined;
    const kms = isLocal
      ? localKms({ keyFile })
      : keyIds.map((keyId) => awsKms({ keyId, client: new KMSClient(client) }));
    records = isLocal ? fileKeyRingStore({ directory }) : memoryKeyRingStore();
    ring = new KeyRing({ name, kms, store: records });
    usual = sessionsIn(memoryStore(), {});
    clientBound = sessionsIn(memoryStore(), { clientBound: true });
  },

  /** Has several senders, one after the other, make, read and change web sessions under the current key. */
  async use({ senders, sessions, clientBoundSessions }) {
    for (let sender = 0; sender < senders; sender++) {
      ring.reseed();
      for (let i = 0; i < sessions; i++) await liveThrough(usual);
      for (let i = 0; i < clientBoundSessions; i++) await liveThrough(clientBound);
    }
  },

  async rotate() {
    await ring.publish({ delayMs: 0 });
  },

  /** Reads web sessions that another process has made. */
  async read({ sessions }) {
    for (const { sessionId, envelope } of sessions) {
      const bytes = new Uint8Array(Buffer.from(envelope, "base64"));
      await usual.envelopes.set(storedIdOf(sessionId), bytes, { ttlMs: TTL_MS });
      await requireSession(usual, sessionId);
    }
  },

  /** Tells what lies in the databases, and the session ids. */
  async report() {
    const stored = await records.read(ring.name);
    return {
      records: stored.map(({ keyId, record }) => ({ keyId, record: Buffer.from(record).toString("base64") })),
      sessions: await headersOf(usual),
      clientBoundSessions: await headersOf(clientBound),
    };
  },

  writeHeapSnapshot({ path }) {
    writeHeapSnapshot(path);
  },

  close() {
    ring.close();
  },

  async collectGarbage() {
    for (let i = 0; i < COLLECTIONS; i++) {
      globalThis.gc();
      // Finalizers have their turn.
      await nextTurn();
    }
  },

  plantBytes({ key }) {
    planted.push(Uint8Array.from(key));
  },

  plantText({ key, encoding, upperCase }) {
    const text = Buffer.from(key).toString(encoding);
    planted.push({ text: upperCase ? text.toUpperCase() : text });
  },
};

process.on("message", async ({ id, command, options }) => {
  try {
    process.send({ id, answer: await commands[command](options) });
  } catch (error) {
    process.send({ id, failure: String(error?.stack ?? error) });
  }
});
process.on("disconnect", () => process.exit());

function sessionsIn(envelopes, options) {
  return { envelopes, store: new SessionStore({ ring, store: envelopes, ...options }), sessionIds: [] };
}

async function liveThrough(sessions) {
  const sessionId = await sessions.store.create({ visits: 0, note: randomBytes(100).toString("base64") });
  sessions.sessionIds.push(sessionId);
  const session = await requireSession(sessions, sessionId);
  session.visits++;
  await sessions.store.set(sessionId, session);
  await requireSession(sessions, sessionId);
}

async function requireSession({ store }, sessionId) {
  const session = await store.get(sessionId);
  if (session === undefined) throw new Error("a session is missing");
  return session;
}

async function headersOf({ envelopes, sessionIds }) {
  const headers = [];
  for (const sessionId of sessionIds) {
    const envelope = await envelopes.get(storedIdOf(sessionId));
    headers.push({ sessionId, header: Buffer.from(envelope.subarray(0, HEADER_BYTES)).toString("base64") });
  }
  return headers;
}
