/**
 * The walk over all keys of a namespace: SCAN on every master, made exact where SCAN and a cluster that changes are not.
 */
import { withinDeadline } from "./deadline.js";
import { FingerprintSet } from "./fingerprint-set.js";
import { type MasterView, mayHaveGained, viewMasters, type ViewTimes } from "./master-view.js";
import type { RedisClient, RedisServer } from "./redis-client.js";
import { escapeGlob, isStoredId } from "./redis-key.js";

/** Keys that a server looks at for one command: it is busy for a fraction of a millisecond. */
const KEYS_PER_COMMAND = 512;
/** Walks over one master that broke off, in all, before the scan does. */
const MAX_FAILURES = 20;

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Meets every stored id under `prefix` once.
 *
 * A key that lives throughout is met although slots move: after each round the masters are asked what they own. Those that have gained
 * slots, were restarted or took over from another one are walked again. A master that imports slots all the while is walked a second
 * time once every other one has been, since a key that was not met at its source had by then come in.
 */
export async function* scanStoredIds(client: RedisClient, prefix: string, times: ViewTimes): AsyncGenerator<string, void> {
  const seen = new FingerprintSet();
  const walkedTwice = new Map<string, string>();
  let failures = 0;
  let masters = await viewMasters(client, prefix, times);
  let pending = [...masters];
  while (pending.length > 0) {
    const brokenOff = new Set<string>();
    for (const [name, { server }] of pending) {
      let cursor: string | undefined;
      while (cursor !== "0") {
        const page: ScanPage | undefined = await scanPage(server, prefix, cursor ?? "0", times).catch((error: unknown) => {
          if (++failures > MAX_FAILURES) throw error;
          return undefined;
        });
        if (page === undefined) {
          brokenOff.add(name);
          break;
        }
        for (const storedId of page.storedIds) if (seen.add(storedId)) yield storedId;
        ({ cursor } = page);
      }
    }
    const now = await viewMasters(client, prefix, times);
    pending = [...now].filter(([name, view]) => {
      if (brokenOff.has(name) || mayHaveGained(masters.get(name), view)) return true;
      return importsUnwalked(walkedTwice, name, view);
    });
    masters = now;
  }
}

interface ScanPage {
  readonly cursor: string;
  readonly storedIds: readonly string[];
}

/** Notes that a master which imports is about to be walked after all others; does so once for each set of incoming slots. */
function importsUnwalked(walkedTwice: Map<string, string>, name: string, { importing }: MasterView): boolean {
  if (importing === "" || walkedTwice.get(name) === importing) return false;
  walkedTwice.set(name, importing);
  return true;
}

async function scanPage(server: RedisServer, prefix: string, cursor: string, times: ViewTimes): Promise<ScanPage> {
  const [next, keys] = await withinDeadline(times.commandTimeoutMs, () =>
    server.scanBuffer(cursor, "MATCH", `${escapeGlob(prefix)}*`, "COUNT", KEYS_PER_COMMAND),
  );
  return { cursor: next.toString(), storedIds: keys.flatMap((key) => storedIdOf(key, prefix)) };
}

/** Keys under our prefix that cannot be ours are passed over. */
function storedIdOf(key: Buffer, prefix: string): string[] {
  try {
    const storedId = decoder.decode(key).slice(prefix.length);
    return isStoredId(storedId) ? [storedId] : [];
  } catch {
    return [];
  }
}
