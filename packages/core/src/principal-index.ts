/**
 * Which sessions a principal has, without its name in the store: for "your devices", "log out everywhere" and a limit on sessions (format 1.4).
 *
 * The session store tells it who logs in where; it knows nothing of what is in a session. A principal has one entry for each index key that is not
 * retired: what is new goes to the current key's, what is looked for is looked for in all.
 */
import { requireInteger, requireMethods, requireUtf8 } from "./argument.js";
import { blindHandle, blindIndexEntry } from "./blind-index.js";
import { base64url } from "./bytes.js";
import type { DataKey } from "./data-key.js";
import { report } from "./diagnostics.js";
import { KEY_ID_BYTES, parseEnvelope } from "./envelope.js";
import { type EnvelopeStore, MAX_TTL_MS } from "./envelope-store.js";
import { codeOf, hasCode, SealedSessionError } from "./errors.js";
import type { KeyRing } from "./key-ring.js";
import type { IndexMember, PrincipalIndexStore } from "./principal-index-store.js";
import { Sealer } from "./sealer.js";

/** How long a session lives of which it is not settled yet whether it may, in milliseconds: longer than a login takes. */
export const DRAFT_MS = 30_000;

/** How far the clocks of two processes may be apart. */
const CLOCK_TOLERANCE_MS = 60_000;
const MAX_PRINCIPAL_BYTES = 1024;
const MAX_SESSIONS_PER_PRINCIPAL = 10_000;
/** Longest sealed device data: what a store of the index has to keep. */
const MAX_DEVICE_BYTES = 8192;
const TOKEN_BYTES = 12;
/** Characters of a key id in base64url, with which the name of an entry begins. */
const KEY_ID_CHARACTERS = (KEY_ID_BYTES * 4) / 3;
const COMMANDS_AT_ONCE = 64;
const MEMBERS_AT_ONCE = 512;

/** Where the principal index lies, and the keys of its names. */
export interface PrincipalIndexOptions {
  /** Where the entries lie: `redisPrincipalIndex`, `memoryPrincipalIndex`. */
  readonly store: PrincipalIndexStore;
  /** A ring of its own, whose name begins with `index:`. Let it rotate rarely: each key that is not retired costs a look-up one command more. */
  readonly ring: KeyRing;
  /**
   * For an application that has sessions already: until then, in milliseconds since 1970-01-01T00:00:00Z, a session that is read and is not in the index is put
   * there, which takes one command for each index key more. To be at least the longest life of a session after the last process without the index has ended.
   * Sessions that are not read meanwhile are not found by principal.
   *
   * @defaultValue 0: all sessions were written with the index
   */
  readonly catchUpUntil?: number;
}

/** One session of a principal, as `SessionStore.listFor` shows it. */
export interface PrincipalSession {
  /** Names this session for `SessionStore.destroyFor`. It is no session id and opens nothing: fit for a web page. */
  readonly handle: string;
  /** When the principal logged in, in milliseconds since 1970-01-01T00:00:00Z. `undefined` when the entry's key has gone. */
  readonly loggedInAt: number | undefined;
  /** When the session's absolute life ends, likewise. */
  readonly endsAt: number | undefined;
  /** What the option `device` returned at the login. */
  readonly device: unknown;
  /** Whether it is the session that was given as `current`. */
  readonly current: boolean;
}

/** What lies under a stored id of the index. `closed`: a session that does not open now. */
export type Occupant = "principal's" | "another's" | "closed" | "none";

/** What a {@link PrincipalIndex} is made of. */
export interface PrincipalIndexParts extends PrincipalIndexOptions {
  /** The sessions' ring: it seals the device data. */
  readonly sealingRing: KeyRing;
  /** Where the sessions lie. */
  readonly sessions: EnvelopeStore;
  /** The sessions' namespace. */
  readonly namespace: string;
  /** The sessions' purpose. */
  readonly purpose: string;
  /** The absolute life of a session, in milliseconds. */
  readonly absoluteMs: number;
  /** How many sessions a principal may have. */
  readonly max: number | undefined;
  /** Looks what lies under a stored id. */
  readonly look: (storedId: string, principal: string) => Promise<Occupant>;
}

/** A member that was added and has to be asked about once more, when the session is written. */
export interface Admission {
  readonly entry: string;
  readonly storedId: string;
  readonly ticket: string;
  readonly epoch: string;
}

/** What is in the index of one session of a principal. */
export interface Noted {
  /** When the principal logged in, if that is known, in milliseconds since 1970-01-01T00:00:00Z. */
  readonly loggedInAt: number | undefined;
  readonly found: readonly Found[];
  /** The one whose place another session may take. */
  readonly standing: Found | undefined;
}

/** What is noted at a login. */
export interface LoginNote {
  /** When the session's absolute life ends, in milliseconds since 1970-01-01T00:00:00Z. */
  readonly endsAt: number;
  /** Of which device. */
  readonly device: unknown;
  /** When it was, where that is not now. */
  readonly loggedInAt?: number | undefined;
  /** The note of the session that goes on in this one. */
  readonly replaces?: Found | undefined;
}

/** An entry of a principal: one for each index key. */
export interface Entry {
  readonly name: string;
  readonly dataKey: DataKey;
}

/** A member and the entry that it is in. */
export interface Found {
  readonly entry: Entry;
  readonly member: IndexMember;
}

/** The principal index of one session store. */
export class PrincipalIndex {
  readonly #store: PrincipalIndexStore;
  readonly #ring: KeyRing;
  readonly #sessions: EnvelopeStore;
  readonly #namespace: string;
  /** Sessions of another purpose are none of this store's: it must not take their notes for stale. */
  readonly #name: string;
  readonly #max: number | undefined;
  readonly #look: PrincipalIndexParts["look"];
  readonly #sealer: Sealer;
  readonly #catchUpUntil: number;

  /** @throws TypeError or RangeError when a part is wrong. */
  constructor(parts: PrincipalIndexParts) {
    this.#store = requireMethods(
      "principalIndex.store",
      parts.store,
      "add",
      "holds",
      "members",
      "renew",
      "callOff",
      "remove",
      "scan",
    );
    this.#ring = requireMethods("principalIndex.ring", parts.ring, "indexKeys", "attach");
    this.#sessions = parts.sessions;
    this.#namespace = parts.namespace;
    this.#name = `principal/${parts.purpose}`;
    this.#max =
      parts.max === undefined ? undefined : requireInteger("maxPerPrincipal", parts.max, 1, MAX_SESSIONS_PER_PRINCIPAL);
    this.#look = parts.look;
    const { catchUpUntil = 0 } = parts;
    this.#catchUpUntil = requireInteger("principalIndex.catchUpUntil", catchUpUntil, 0, Number.MAX_SAFE_INTEGER);
    const { namespace, sealingRing, absoluteMs } = parts;
    this.#ring.attach({ purpose: "index", maxTtlMs: absoluteMs, count: () => this.#countByKey() }, this.#store);
    this.#sealer = new Sealer({
      ring: sealingRing,
      namespace,
      purpose: "device",
      maxEnvelopeBytes: MAX_DEVICE_BYTES,
      counted: true,
    });
    // Device data ends with its session: the time says when nothing is left under a key. It is not worth keeping one for that somebody retires early.
    sealingRing.attach({ maxTtlMs: absoluteMs, count: async () => new Map() }, this.#store);
  }

  /**
   * Notes a login, before the session is written. What goes on from another session is noted in the entry of that one, in the step in which its note is seen
   * to stand: whoever ends all sessions comes before, and nothing is noted, or after, and finds both.
   *
   * @returns `undefined` when the note that it replaces was removed or called off.
   * @throws SealedSessionError `LOGIN_OVERTAKEN` among others, UnsupportedValueError for the device data.
   */
  async enter(principal: string, storedId: string, note: LoginNote): Promise<Admission | undefined> {
    const { device, replaces, loggedInAt = Math.floor(this.#ring.clock()) } = note;
    // To the second, as in the envelope of the session.
    const endsAt = Math.ceil(note.endsAt / 1000) * 1000;
    const entry = replaces?.entry ?? this.#entry(await this.#ring.current(), principal);
    const data = await this.#sealer.seal({ at: loggedInAt, device }, place(entry, storedId), { notAfterMs: endsAt });
    const ticket = this.#token();
    // Never before the session does, also where another process's clock is behind this one's.
    const lifeMs = Math.max(1, endsAt - Math.floor(this.#ring.clock()));
    const ttlMs = Math.min(lifeMs + CLOCK_TOLERANCE_MS, MAX_TTL_MS);
    const epoch = await this.#store.add(entry.name, storedId, {
      ttlMs,
      ticket,
      data,
      epoch: this.#token(),
      replaces: replaces?.member.storedId,
    });
    if (epoch !== undefined) return { entry: entry.name, storedId, ticket, epoch };
    if (replaces === undefined) throw overtaken();
    return undefined;
  }

  /** Whether nobody has logged the principal out everywhere, or this session alone, since it was noted. */
  holds({ entry, storedId, epoch }: Admission): Promise<boolean> {
    return this.#store.holds(entry, storedId, epoch);
  }

  /**
   * Takes a note back, where that can be done now; what it leaves behind is removed when it is seen. To be called once no session lives under the stored
   * id: another login of it may rely on the note.
   */
  async withdraw({ entry, storedId, ticket }: Admission): Promise<void> {
    await this.#orReport(this.#store.remove(entry, [{ storedId, ticket }]));
  }

  /** @returns What is noted of a session: to be asked before it is written for somebody else, so that {@link PrincipalIndex.forget} spares what comes later. */
  async noted(principal: string, storedId: string): Promise<Noted> {
    const find = async (anew: boolean) =>
      (await this.#find(principal, { anew })).filter(({ member }) => member.storedId === storedId);
    let found = await find(false);
    // It may be noted under a key that another process has just made.
    if (found.length === 0) found = await find(true);
    const standing = found.find(({ member }) => !member.isCalledOff);
    const latest = standing ?? found[0];
    return { found, standing, loggedInAt: latest === undefined ? undefined : (await this.#open(latest))?.at };
  }

  /** Removes what was noted of a session that is the principal's no longer, as {@link PrincipalIndex.withdraw}. */
  async forget({ found }: Noted): Promise<void> {
    for (const { entry, member } of found) await this.#orReport(this.#store.remove(entry.name, [member]));
  }

  /** Whether a session may have been written without the index. */
  get isCatchingUp(): boolean {
    return this.#ring.clock() < this.#catchUpUntil;
  }

  /** Notes a session that was written without the index. Never rejects: nobody must be kept from reading a session by this. */
  async catchUp(principal: string, storedId: string, note: LoginNote): Promise<void> {
    const noteMissing = async () => {
      const found = await this.#find(principal);
      if (found.every(({ member }) => member.storedId !== storedId)) await this.enter(principal, storedId, note);
    };
    await this.#orReport(noteMissing());
  }

  /**
   * Ends the sessions whose login is longest ago, where there are too many. Each login does so after it was noted, and all agree on the order: whichever
   * was noted last sees all others.
   *
   * @param besides - A stored id that is about to go and does not count.
   */
  async enforceLimit(principal: string, besides?: string): Promise<void> {
    const max = this.#max;
    if (max === undefined) return;
    const found = (await this.#find(principal)).filter(({ member }) => member.storedId !== besides);
    if (found.length <= max) return;
    const living = await this.#living(principal, found);
    for (const { entry, member } of living.slice(max)) {
      await this.#sessions.destroy(member.storedId);
      await this.#store.remove(entry.name, [member]);
    }
  }

  /** Lists the living sessions, the latest login first, and removes what is stale. */
  async list(principal: string, current: string | undefined): Promise<PrincipalSession[]> {
    const living = await this.#living(principal, await this.#find(principal, { anew: true }));
    return Promise.all(
      living.map(async (found) => {
        const { entry, member } = found;
        const note = await this.#open(found);
        return {
          handle: this.#handle(entry, member.storedId),
          loggedInAt: note?.at,
          endsAt: note?.endsAt,
          device: note?.device,
          current: member.storedId === current,
        };
      }),
    );
  }

  /**
   * Ends all sessions but one. In this order: the epoch is renewed first, so that a login which is under way loses when it asks, and no session that is found goes
   * on under another id; sessions are removed from the index only once they have ended, so that a failure leaves nothing that a second call does not find.
   * Last the ring is read again, for keys that were made meanwhile.
   *
   * @returns How many have ended.
   */
  async endAll(principal: string, except: string | undefined): Promise<number> {
    const seen = new Set<string>();
    let ended = 0;
    let failure: { readonly error: unknown } | undefined;
    const orNote = async <T>(work: Promise<T>): Promise<T | undefined> => {
      try {
        return await work;
      } catch (error) {
        failure ??= { error };
        return undefined;
      }
    };
    const endIn = async ({ name }: Entry) => {
      const members = (await orNote(this.#store.renew(name, this.#token(), { except }))) ?? [];
      const gone: IndexMember[] = [];
      await some(members, async (member) => {
        if (member.storedId === except) return;
        const wasThere = await orNote(this.#sessions.destroy(member.storedId));
        if (wasThere !== undefined) gone.push(member);
        if (wasThere) ended++;
      });
      await orNote(this.#remove(name, gone));
    };
    for (;;) {
      const entries = (await orNote(this.#entries(principal, { anew: true }))) ?? [];
      const unseen = entries.filter(({ name }) => !seen.has(name));
      if (unseen.length === 0) break;
      for (const { name } of unseen) seen.add(name);
      await Promise.all(unseen.map(endIn));
    }
    if (failure !== undefined) throw failure.error;
    return ended;
  }

  /** Ends the session that a handle names. @returns `false` when there is none. */
  async endOne(principal: string, handle: string): Promise<boolean> {
    const isMeant = ({ entry, member }: Found) => this.#handle(entry, member.storedId) === handle;
    const found = (await this.#find(principal, { anew: true })).filter(isMeant);
    let ended = false;
    for (const { entry, member } of found) {
      // From here on one that is just being written loses when it asks, and nothing goes on from it. What has gone meanwhile may be another's by now.
      if (!(await this.#store.callOff(entry.name, member.storedId))) continue;
      if (await this.#sessions.destroy(member.storedId)) ended = true;
      await this.#store.remove(entry.name, [member]);
    }
    return ended;
  }

  /** To be called when the process image was copied or restored from a snapshot. */
  reseed(): void {
    this.#sealer.reseed();
  }

  /** @returns The members that have a living session of the principal, the latest login first. What is surely stale is removed. */
  async #living(principal: string, found: readonly Found[]): Promise<Found[]> {
    const living: Found[] = [];
    const stale = new Map<string, IndexMember[]>();
    const seen = new Set<string>();
    const newest = found.filter(({ member }) => !seen.has(member.storedId) && seen.add(member.storedId));
    await some(newest, async (one) => {
      const { entry, member } = one;
      const occupant = await this.#look(member.storedId, principal);
      if (occupant === "principal's") living.push(one);
      // The session of a login that is under way is not written yet.
      else if (occupant !== "closed" && member.ageMs > DRAFT_MS) {
        stale.set(entry.name, [...(stale.get(entry.name) ?? []), member]);
      }
    });
    for (const [entry, members] of stale) await this.#orReport(this.#remove(entry, members));
    return newest.filter((one) => living.includes(one));
  }

  /** All members, those of the newest key first, and of one key the latest first. */
  async #find(principal: string, options: { readonly anew?: boolean } = {}): Promise<Found[]> {
    const entries = await this.#entries(principal, options);
    const found = await Promise.all(
      entries.map(async (entry) =>
        [...(await this.#store.members(entry.name))]
          .sort((a, b) => b.order - a.order)
          .map((member) => ({ entry, member })),
      ),
    );
    return found.flat();
  }

  async #entries(principal: string, options: { readonly anew?: boolean } = {}): Promise<Entry[]> {
    requirePrincipal(principal);
    return (await this.#ring.indexKeys(options)).map((dataKey) => this.#entry(dataKey, principal));
  }

  /** The key id in front says when a key can retire, and tells nothing that is not public. */
  #entry(dataKey: DataKey, principal: string): Entry {
    const blind = blindIndexEntry(dataKey.indexKey(), this.#namespace, this.#name, principal);
    return { name: dataKey.keyId + base64url(blind), dataKey };
  }

  #handle({ dataKey }: Entry, storedId: string): string {
    return base64url(blindHandle(dataKey.indexKey(), this.#namespace, this.#name, storedId));
  }

  /** What was noted at a login; `undefined` when it does not open, which must not keep anybody from logging the device out. */
  async #open({
    entry,
    member,
  }: Found): Promise<{ at: number; device: unknown; endsAt: number | undefined } | undefined> {
    try {
      const note = (await this.#sealer.open(member.data, place(entry, member.storedId))) as {
        at: number;
        device: unknown;
      };
      const notAfter = parseEnvelope(member.data, MAX_DEVICE_BYTES)?.notAfter;
      return { ...note, endsAt: notAfter === undefined ? undefined : notAfter * 1000 };
    } catch (error) {
      if (codeOf(error) === undefined) throw error;
      if (hasCode(error, "KEY_UNAVAILABLE", "CLOSED")) throw error;
      if (hasCode(error, "ENVELOPE_REJECTED")) report({ type: "envelope-rejected" });
      return undefined;
    }
  }

  async #remove(entry: string, members: readonly IndexMember[]): Promise<void> {
    for (let from = 0; from < members.length; from += MEMBERS_AT_ONCE) {
      await this.#store.remove(entry, members.slice(from, from + MEMBERS_AT_ONCE));
    }
  }

  async #countByKey(): Promise<Map<string, number>> {
    const counts = new Map<string, number>();
    for await (const name of this.#store.scan()) {
      const keyId = name.slice(0, KEY_ID_CHARACTERS);
      counts.set(keyId, (counts.get(keyId) ?? 0) + 1);
    }
    return counts;
  }

  async #orReport(work: Promise<unknown>): Promise<void> {
    try {
      await work;
    } catch (error) {
      report({ type: "principal-index-failed", ring: this.#ring.name, code: codeOf(error) });
    }
  }

  #token(): string {
    const bytes = new Uint8Array(TOKEN_BYTES);
    this.#ring.random(bytes);
    return base64url(bytes);
  }
}

/** The error of a login that must not be repeated without asking for the password again. */
export function overtaken(): SealedSessionError {
  return new SealedSessionError("LOGIN_OVERTAKEN", "the session was ended while its principal logged in");
}

/** @returns `principal`, 1 to 1024 bytes of UTF-8. */
export function requirePrincipal(principal: string): string {
  return requireUtf8("principal", principal, 1, MAX_PRINCIPAL_BYTES);
}

/** Device data opens only for this principal and this session. */
function place(entry: Entry, storedId: string): string {
  return `${entry.name}/${storedId}`;
}

/** Runs something for each item, some at a time. */
async function some<T>(items: readonly T[], run: (item: T) => Promise<void>): Promise<void> {
  const waiting = items.values();
  const worker = async () => {
    for (const item of waiting) await run(item);
  };
  await Promise.all(Array.from({ length: Math.min(COMMANDS_AT_ONCE, items.length) }, worker));
}
