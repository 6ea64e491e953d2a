/**
 * Sessions in Redis, past the stores that are tested: written at the beginning of a run, and read at its end.
 */
import { type KeyRing, parseEnvelope, Sealer } from "@sealed-session/core";
import type { Cluster } from "ioredis";
import { contentOf, type Population } from "./population.js";
import type { FoundSession } from "./session-model.js";

const AT_ONCE = 2000;
/** The first one lives so long, and each further one some milliseconds longer. */
const FIRST_TTL_MS = 3_600_000;
const TTL_STEP_MS = 7;

/** Where the sessions of a run lie. */
export interface Place {
  /** With auto-pipelining. */
  readonly client: Cluster;
  /** Of the keys in Redis. */
  readonly namespace: string;
  readonly population: Population;
}

/** Seals sessions from 0 up to `count` and writes them, with times to live that differ. */
export async function fill(place: Place, ring: KeyRing, count: number, onDone?: (done: number) => void): Promise<void> {
  const { client, population } = place;
  const sealer = new Sealer({ ring, counted: true });
  await ring.ready();
  await forEach(0, count, onDone, async (index) => {
    const bytes = sealer.sealSync(contentOf(index, 0), population.storedId(index));
    await client.set(keyOf(place, index), asBuffer(bytes), "PX", FIRST_TTL_MS + TTL_STEP_MS * (index % 100_000));
  });
}

/** Tells when each session expires: -1 for never, -2 where there is none. */
export async function readExpiries(
  place: Place,
  count: number,
  found: (index: number, expiresAt: number) => void,
  onDone?: (done: number) => void,
): Promise<void> {
  await forEach(0, count, onDone, async (index) => {
    found(index, await place.client.pexpiretime(keyOf(place, index)));
  });
}

/** Opens each session with a ring that has only read what lies in the store. */
export async function readAll(
  place: Place,
  ring: KeyRing,
  count: number,
  found: (index: number, session: FoundSession | undefined) => void,
  onDone?: (done: number) => void,
): Promise<void> {
  const sealer = new Sealer({ ring, counted: true });
  await ring.ready();
  await forEach(0, count, onDone, async (index) => {
    const key = keyOf(place, index);
    const [bytes, expiresAt] = await Promise.all([place.client.getBuffer(key), place.client.pexpiretime(key)]);
    found(index, bytes === null ? undefined : sessionOf(sealer, bytes, place.population.storedId(index), expiresAt));
  });
}

/** @returns How many different sessions lie there, whoever they belong to. */
export async function countStored({ client, namespace }: Place): Promise<number> {
  const keys = new Set<string>();
  await Promise.all(
    client.nodes("master").map(async (node) => {
      let cursor = "0";
      do {
        const [next, some] = await node.scan(cursor, "MATCH", `${namespace}:session:*`, "COUNT", 5000);
        for (const key of some) keys.add(key);
        cursor = next;
      } while (cursor !== "0");
    }),
  );
  return keys.size;
}

/** @returns The id of the key that an envelope is sealed under. */
export function keyIdOf(bytes: Uint8Array): string | undefined {
  const envelope = parseEnvelope(bytes);
  return envelope === undefined ? undefined : Buffer.from(envelope.keyId).toString("base64url");
}

/** @returns The key of a session in Redis. */
export function keyOf({ namespace, population }: Place, index: number): string {
  return `${namespace}:session:${population.storedId(index)}`;
}

function sessionOf(sealer: Sealer, bytes: Buffer, storedId: string, expiresAt: number): FoundSession {
  const keyId = keyIdOf(bytes);
  try {
    return { keyId, content: sealer.openSync(bytes, storedId), expiresAt };
  } catch (error) {
    return { keyId, content: error as Error, expiresAt };
  }
}

async function forEach(
  from: number,
  to: number,
  onDone: ((done: number) => void) | undefined,
  run: (index: number) => Promise<void>,
): Promise<void> {
  for (let first = from; first < to; first += AT_ONCE) {
    await Promise.all(Array.from({ length: Math.min(AT_ONCE, to - first) }, (_, offset) => run(first + offset)));
    onDone?.(Math.min(first + AT_ONCE, to));
  }
}

function asBuffer({ buffer, byteOffset, byteLength }: Uint8Array): Buffer {
  return Buffer.from(buffer, byteOffset, byteLength);
}
