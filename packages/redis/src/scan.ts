/**
 * The walk over all keys of a namespace: SCAN on every master, made exact where SCAN and a cluster that changes are not.
 */
import { withinDeadline } from "./deadline.js";
import { FingerprintSet } from "./fingerprint-set.js";
import { type MasterView, mayHaveGained, type ViewTimes, viewMasters } from "./master-view.js";
import type { RedisClient, RedisServer } from "./redis-client.js";
import { escapeGlob, isStoredId } from "./redis-key.js";
import { script } from "./script.js";
import { replyCode } from "./store-error.js";

/** Keys that a server looks at for one command: it is busy for a fraction of a millisecond. */
const KEYS_PER_COMMAND = 512;
/** Failures in a row, none of which let a master get any further, before a walk fails. */
export const MAX_FAILURES = 20;

/** Stands for a value of another type, as other programs may keep under the same prefix: the beginning of no envelope. */
export const OTHER_TYPE = Buffer.of(0);

/**
 * ARGV: cursor, pattern, how many keys, last byte to peek at, what stands for another type. A key that cannot be reached, as its slot is moving, has a number
 * for its bytes.
 */
const SCAN_AND_PEEK = script(`
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local heads = {}
for i, key in ipairs(page[2]) do
  local head = redis.pcall('GETRANGE', key, 0, ARGV[4])
  if type(head) == 'table' then head = string.find(head.err, 'WRONGTYPE', 1, true) and ARGV[5] or -1 end
  heads[i] = head
end
return {page[1], page[2], heads}`);

/** An id as we make them, and any walk wants. */
const SIMPLE_ID = /^[\w-]{16,512}$/;

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
  /** The first bytes of those that could be looked at; without any where nothing lies any more. */
  readonly heads: ReadonlyMap<string, Uint8Array>;
}

type Reply = [cursor: Buffer, keys: Buffer[], heads: unknown[]];

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

/** What is wanted of each key of a page. */
export interface ScanOptions {
  /** Keys under our prefix that cannot be ours are passed over. @defaultValue isStoredId */
  readonly isId?: ((text: string) => boolean) | undefined;
  /** So many of its first bytes. @defaultValue 0 */
  readonly peekBytes?: number | undefined;
}

/** Looks at some hundred keys of one master. */
export async function scanPage(
  server: RedisServer,
  prefix: string,
  cursor: string,
  { commandTimeoutMs }: ViewTimes,
  { isId = isStoredId, peekBytes = 0 }: ScanOptions = {},
): Promise<ScanPage> {
  const pattern = `${escapeGlob(prefix)}*`;
  const [next, keys, found] = await withinDeadline(commandTimeoutMs, async (): Promise<Reply> => {
    if (peekBytes > 0) return scanAndPeek(server, cursor, pattern, peekBytes);
    return [...(await server.scanBuffer(cursor, "MATCH", pattern, "COUNT", KEYS_PER_COMMAND)), []];
  });
  const prefixBytes = Buffer.byteLength(prefix);
  const storedIds: string[] = [];
  const heads = new Map<string, Uint8Array>();
  for (const [index, key] of keys.entries()) {
    // Nearly all ids are ASCII, where a byte is a character.
    const ascii = key.toString("latin1", prefixBytes);
    const id = SIMPLE_ID.test(ascii) ? ascii : idOf(key, prefix, isId);
    if (id === undefined) continue;
    storedIds.push(id);
    const head = found[index];
    if (head instanceof Uint8Array) heads.set(id, head);
  }
  return { cursor: next.toString(), storedIds, heads };
}

async function scanAndPeek(server: RedisServer, cursor: string, pattern: string, bytes: number): Promise<Reply> {
  const args = [cursor, pattern, String(KEYS_PER_COMMAND), String(bytes - 1), OTHER_TYPE] as const;
  const run = async () => (await server.evalshaBuffer?.(SCAN_AND_PEEK.sha1, 0, ...args)) as Reply;
  try {
    return await run();
  } catch (error) {
    if (replyCode(error) !== "NOSCRIPT") throw error;
    await server.script("LOAD", SCAN_AND_PEEK.lua);
    return await run();
  }
}

function idOf(key: Buffer, prefix: string, isId: (text: string) => boolean): string | undefined {
  try {
    const id = decoder.decode(key).slice(prefix.length);
    return isId(id) ? id : undefined;
  } catch {
    return undefined;
  }
}
