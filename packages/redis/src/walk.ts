/**
 * The walk over all envelopes for those who work on many of them: all masters side by side, in pages whose commands go to one node in one pipeline.
 */
import { type EnvelopePage, hasCode, type WalkOptions, type WalkPosition } from "@sealed-session/core";
import { withinDeadline } from "./deadline.js";
import { type MasterView, mayHaveGained, type ViewTimes, viewMasters } from "./master-view.js";
import { NodePage } from "./node-page.js";
import type { RedisClient, RedisServer } from "./redis-client.js";
import { importersToWalk, MAX_FAILURES, type ScanPage, scanPage } from "./scan.js";

/** Of a master that was walked to its end. */
const DONE = "done";

/** The keys that are walked over. */
export interface WalkedKeys {
  /** Whose masters are walked. */
  readonly client: RedisClient;
  /** What the keys begin with. */
  readonly prefix: string;
  /** How long to wait. */
  readonly times: ViewTimes;
}

/** Where one master stands: how far SCAN has come on a server that was this one, with these slots. */
interface Stand {
  readonly cursor: string;
  readonly identity: string;
  /** As ranges: "0-5460 6000-6000". */
  readonly owned: string;
}

/** Visits every envelope under the prefix, as {@link walkKeys} does. */
export function walkPages(
  keys: WalkedKeys,
  visit: (page: EnvelopePage) => Promise<void>,
  options: WalkOptions,
): Promise<void> {
  return walkKeys(keys, (server, page) => visit(new NodePage(keys, server, page)), options);
}

/**
 * Visits every key under the prefix that lives throughout, although slots move and masters change: after each round the masters are asked what they
 * own, and those that may have gained keys are walked again. A master that does not answer is walked on from where it stood once it is there again, or
 * its heir is walked; the others do not wait for that.
 *
 * @param visit - May be called again for the same keys when it rejects with `STORE_UNAVAILABLE`; anything else that it rejects with ends the walk.
 */
export async function walkKeys(
  keys: WalkedKeys,
  visit: (server: RedisServer, page: ScanPage) => Promise<void>,
  options: WalkOptions,
  isId?: (text: string) => boolean,
): Promise<void> {
  await new Walk(keys, visit, options, isId).run();
}

class Walk {
  readonly #keys: WalkedKeys;
  readonly #visit: (server: RedisServer, page: ScanPage) => Promise<void>;
  readonly #options: WalkOptions;
  readonly #isId: ((text: string) => boolean) | undefined;
  /** The masters as they were when they were looked at last, and what they owned then. */
  readonly #masters = new Map<string, { readonly view: MasterView; readonly owned: string }>();
  readonly #cursors = new Map<string, string>();
  readonly #walkedLast = new Map<string, string>();
  /** Ends the walk. */
  #failure: { readonly error: unknown } | undefined;

  constructor(
    keys: WalkedKeys,
    visit: (server: RedisServer, page: ScanPage) => Promise<void>,
    options: WalkOptions,
    isId: ((text: string) => boolean) | undefined,
  ) {
    this.#keys = keys;
    this.#visit = visit;
    this.#options = options;
    this.#isId = isId;
  }

  async run(): Promise<void> {
    let views = await this.#look();
    this.#resume(views);
    for (;;) {
      for (const name of this.#masters.keys()) if (!views.has(name)) this.#forget(name);
      for (const [name, view] of views) this.#note(name, view);
      const pending = this.#pending(views);
      if (pending.length === 0 || this.#isEnding) return;
      await Promise.all(pending.map((name) => this.#walk(name)));
      if (this.#failure !== undefined) throw this.#failure.error;
      if (this.#isEnding) return;
      views = await this.#look();
    }
  }

  get #isEnding(): boolean {
    return this.#failure !== undefined || (this.#options.signal?.aborted ?? false);
  }

  #look(): Promise<ReadonlyMap<string, MasterView>> {
    const { client, prefix, times } = this.#keys;
    return viewMasters(client, prefix, times);
  }

  /** Takes over from a walk that was interrupted what still holds. */
  #resume(views: ReadonlyMap<string, MasterView>): void {
    const { position = {} } = this.#options;
    for (const [name, view] of views) {
      const stand = position[name];
      if (!isStand(stand) || stand.identity !== view.identity || stand.owned !== rangesOf(view.owned)) continue;
      this.#note(name, view);
      this.#cursors.set(name, stand.cursor);
    }
  }

  /** Notes what a master is now. Where keys may have come to it since it was looked at last it begins anew. */
  #note(name: string, view: MasterView): void {
    if (mayHaveGained(this.#masters.get(name)?.view, view)) this.#cursors.delete(name);
    this.#masters.set(name, { view, owned: rangesOf(view.owned) });
  }

  #forget(name: string): void {
    this.#masters.delete(name);
    this.#cursors.delete(name);
  }

  /** @returns Masters that are not done; when all are, those to which slots come just now once more. */
  #pending(views: ReadonlyMap<string, MasterView>): string[] {
    const unfinished = [...views.keys()].filter((name) => this.#cursors.get(name) !== DONE);
    if (unfinished.length > 0) return unfinished;
    const importers = importersToWalk(views, this.#walkedLast).map(([name]) => name);
    for (const name of importers) this.#cursors.delete(name);
    return importers;
  }

  /** Walks one master to its end, or its heir. Never rejects: what ends the walk is noted, and the others stop. */
  async #walk(first: string): Promise<void> {
    let failures = 0;
    const progressed = () => {
      failures = 0;
    };
    for (let name: string | undefined = first; name !== undefined; ) {
      try {
        await this.#walkOn(name, progressed);
        return;
      } catch (error) {
        const { signal } = this.#options;
        if (signal?.aborted && error === signal.reason) return;
        // Only a server that is away may come back.
        if (!hasCode(error, "STORE_UNAVAILABLE") || ++failures > MAX_FAILURES) {
          this.#failure ??= { error };
          return;
        }
        name = this.#isEnding ? undefined : await this.#recover(name);
      }
    }
  }

  /** Walks on from where a master stands. The next page is on its way while one is visited. */
  async #walkOn(name: string, progressed: () => void): Promise<void> {
    const server = this.#masters.get(name)?.view.server as RedisServer;
    let next = this.#page(server, this.#cursors.get(name) ?? "0");
    for (;;) {
      const page = await next;
      const { cursor } = page;
      if (cursor !== "0") next = this.#page(server, cursor);
      if (page.storedIds.length > 0) await this.#visit(server, page);
      this.#cursors.set(name, cursor === "0" ? DONE : cursor);
      progressed();
      this.#options.onPosition?.(this.#position());
      if (cursor === "0" || this.#isEnding) return;
    }
  }

  #page(server: RedisServer, cursor: string): Promise<ScanPage> {
    const { prefix, times } = this.#keys;
    const peekBytes = this.#options.peekBytes?.();
    const page = scanPage(server, prefix, cursor, times, { isId: this.#isId, peekBytes });
    // When the visit before it fails nobody asks for it any more.
    page.catch(() => {});
    return page;
  }

  /** @returns The master to go on with when this one failed: itself, or one that is new; `undefined` when that is for the next round to say. */
  async #recover(name: string): Promise<string | undefined> {
    try {
      const views = await this.#look();
      const heir = views.has(name) ? name : [...views.keys()].find((other) => !this.#masters.has(other));
      if (heir !== name) this.#forget(name);
      if (heir !== undefined) this.#note(heir, views.get(heir) as MasterView);
      return heir;
    } catch (error) {
      this.#failure ??= { error };
      return undefined;
    }
  }

  #position(): WalkPosition {
    const position: Record<string, Stand> = {};
    for (const [name, { view, owned }] of this.#masters) {
      const cursor = this.#cursors.get(name);
      if (cursor !== undefined) position[name] = { cursor, identity: view.identity, owned };
    }
    return position;
  }
}

/** @returns How many keys the masters hold, also those of others. */
export async function estimateKeys({ client, prefix, times }: WalkedKeys): Promise<number> {
  const masters = await viewMasters(client, prefix, times);
  const sizes = [...masters.values()].map(({ server }) =>
    withinDeadline(times.commandTimeoutMs, () => server.dbsize()),
  );
  return (await Promise.all(sizes)).reduce((sum, size) => sum + size, 0);
}

function isStand(value: unknown): value is Stand {
  if (typeof value !== "object" || value === null) return false;
  const { cursor, identity, owned } = value as Partial<Record<keyof Stand, unknown>>;
  return /^(\d+|done)$/.test(String(cursor)) && typeof identity === "string" && typeof owned === "string";
}

function rangesOf(owned: Uint8Array): string {
  const ranges: string[] = [];
  for (let slot = 0; slot < owned.length; slot++) {
    if (owned[slot] !== 1) continue;
    const first = slot;
    while (owned[slot + 1] === 1) slot++;
    ranges.push(`${first}-${slot}`);
  }
  return ranges.join(" ");
}
