/**
 * The walk over all keys of a namespace: SCAN on every master, made exact where SCAN and a cluster that changes are not.
 */
import { withinDeadline } from "./deadline.js";
import { FingerprintSet } from "./fingerprint-set.js";
import { type MasterView, mayHaveGained, type ViewTimes, viewMasters } from "./master-view.js";
import type { RedisClient, RedisServer } from "./redis-client.js";
import { escapeGlob, isStoredId } from "./redis-key.js";

/** Keys that a server looks at for one command: it is busy for a fraction of a millisecond. */
const KEYS_PER_COMMAND = 512;
/** Failures in a row, none of which let a master get any further, before a walk fails. */
export const MAX_FAILURES = 20;

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * Meets every stored id under `prefix` once.
 *
 * A key that lives throughout is met although slots move: after each round the masters are asked what they own. Those that have gained
 * slots, were restarted or took over from another one are walked again. One that imports slots all the while is walked once more when
 * nothing else is left: a key that was not met at its source had come in by then.
 */
export async function* scanStoredIds(
  client: RedisClient,
  prefix: string,
  times: ViewTimes,
): AsyncGenerator<string, void> {
  const seen = new FingerprintSet();
  const walkedLast = new Map<string, string>();
  let failures = 0;
  let masters = await viewMasters(client, prefix, times);
  let pending = [...masters];
  while (pending.length > 0) {
    const brokenOff = new Set<string>();
    for (const [name, { server }] of pending) {
      let cursor: string | undefined;
      while (cursor !== "0") {
        const page: ScanPage | undefined = await scanPage(server, prefix, cursor ?? "0", times).catch(
          (error: unknown) => {
            if (++failures > MAX_FAILURES) throw error;
            return undefined;
          },
        );
        if (page === undefined) {
          brokenOff.add(name);
          break;
        }
        failures = 0;
        for (const storedId of page.storedIds) if (seen.add(storedId)) yield storedId;
        ({ cursor } = page);
      }
    }
    const now = await viewMasters(client, prefix, times);
    const changed = [...now].filter(([name, view]) => brokenOff.has(name) || mayHaveGained(masters.get(name), view));
    pending = changed.length > 0 ? changed : importersToWalk(now, walkedLast);
    masters = now;
  }
}

/** What one SCAN returned. */
export interface ScanPage {
  /** Where to go on; "0" at the end. */
  readonly cursor: string;
  /** The stored ids among the keys. */
  readonly storedIds: readonly string[];
}

/**
 * Masters that import slots and have not been walked since everything else was. Only once for the same slots: what leaves its source
 * from now on has been met there.
 */
export function importersToWalk(
  masters: ReadonlyMap<string, MasterView>,
  walkedLast: Map<string, string>,
): [string, MasterView][] {
  const importers = [...masters].filter(
    ([name, { importing }]) => importing !== "" && walkedLast.get(name) !== importing,
  );
  for (const [name, { importing }] of importers) walkedLast.set(name, importing);
  return importers;
}

/** Looks at some hundred keys of one master. By `isId`, keys under our prefix that cannot be ours are passed over. */
export async function scanPage(
  server: RedisServer,
  prefix: string,
  cursor: string,
  times: ViewTimes,
  isId: (text: string) => boolean = isStoredId,
): Promise<ScanPage> {
  const [next, keys] = await withinDeadline(times.commandTimeoutMs, () =>
    server.scanBuffer(cursor, "MATCH", `${escapeGlob(prefix)}*`, "COUNT", KEYS_PER_COMMAND),
  );
  return { cursor: next.toString(), storedIds: keys.flatMap((key) => idOf(key, prefix, isId)) };
}

function idOf(key: Buffer, prefix: string, isId: (text: string) => boolean): string[] {
  try {
    const id = decoder.decode(key).slice(prefix.length);
    return isId(id) ? [id] : [];
  } catch {
    return [];
  }
}
