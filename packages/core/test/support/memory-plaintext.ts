/** Sessions in clear in memory, as another store would have written them, with a place to interfere before each call. */
import { equal, utf8 } from "../../src/bytes.js";
import type { BulkPlaintextSource } from "../../src/plaintext-source.js";

const REMOVED_MS = 30_000;

interface Entry {
  readonly raw: Uint8Array;
  /** `undefined` without an end. */
  readonly expiresAt: number | undefined;
  readonly isRemoved: boolean;
}

export interface MemoryPlaintext extends BulkPlaintextSource {
  /** Names of the methods that were called. */
  readonly calls: string[];
  /** What happens once, before the next call of a method. */
  readonly before: { read?: () => unknown; remove?: () => unknown };
  /** Writes as the other store does. */
  write(sessionId: string, text: string, ttlMs?: number): void;
  /** @returns What lies in clear under an id. */
  textOf(sessionId: string): string | undefined;
}

/** @param clock - Judges expiry. */
export function memoryPlaintext(clock: () => number): MemoryPlaintext {
  const entries = new Map<string, Entry>();
  const calls: string[] = [];
  const before: MemoryPlaintext["before"] = {};
  const lives = (sessionId: string) => {
    const entry = entries.get(sessionId);
    return entry !== undefined && clock() < (entry.expiresAt ?? Number.POSITIVE_INFINITY) ? entry : undefined;
  };
  const called = async (name: "read" | "remove") => {
    calls.push(name);
    const run = before[name];
    delete before[name];
    await run?.();
  };
  return {
    calls,
    before,
    write: (sessionId, text, ttlMs) => {
      const expiresAt = ttlMs === undefined ? undefined : clock() + ttlMs;
      entries.set(sessionId, { raw: utf8(text), expiresAt, isRemoved: false });
    },
    textOf: (sessionId) => {
      const entry = lives(sessionId);
      return entry === undefined || entry.isRemoved ? undefined : new TextDecoder().decode(entry.raw);
    },
    async read(sessionId) {
      await called("read");
      const entry = lives(sessionId);
      if (entry === undefined || entry.isRemoved) return undefined;
      return { raw: entry.raw, ttlMs: entry.expiresAt === undefined ? undefined : entry.expiresAt - clock() };
    },
    parse: (raw) => JSON.parse(new TextDecoder().decode(raw)),
    async remove(sessionId, raw) {
      await called("remove");
      const entry = lives(sessionId);
      if (entry === undefined) return "gone";
      if (entry.isRemoved) return "removed";
      if (!equal(entry.raw, raw)) return "changed";
      entries.set(sessionId, { raw: utf8("removed"), expiresAt: clock() + REMOVED_MS, isRemoved: true });
      return "removed";
    },
    async destroy(sessionId) {
      calls.push("destroy");
      const entry = lives(sessionId);
      return entries.delete(sessionId) && entry?.isRemoved === false;
    },
    async walk(visit, { signal } = {}) {
      for (const sessionId of [...entries.keys()]) if (!signal?.aborted) await visit([sessionId]);
    },
    estimate: async () => entries.size,
  };
}
