/**
 * A principal index in the process's memory: for tests, development and a single process whose sessions may end with it.
 */
import { requireInteger, requireUtf8 } from "./argument.js";
import { MAX_TTL_MS } from "./envelope-store.js";
import type {
  AddMemberOptions,
  IndexMember,
  MemberToRemove,
  PrincipalIndexStore,
  RenewOptions,
} from "./principal-index-store.js";

const ENTRY = /^[\w-]{16,64}$/;
const TOKEN = /^[\w-]{1,64}$/;
const MIN_STORED_ID_BYTES = 16;
const MAX_STORED_ID_BYTES = 512;
const MAX_DATA_BYTES = 8192;
/** Entries that each new member looks at, so that the memory of those that have ended is given back. */
const SWEEP_STEP = 4;

/** Options of {@link memoryPrincipalIndex}. */
export interface MemoryPrincipalIndexOptions {
  /** Judges expiry: milliseconds since 1970-01-01T00:00:00Z. @defaultValue Date.now */
  readonly clock?: () => number;
}

/** Makes a {@link PrincipalIndexStore} in memory. @throws TypeError when the clock is no function. */
export function memoryPrincipalIndex({ clock = Date.now }: MemoryPrincipalIndexOptions = {}): PrincipalIndexStore {
  if (typeof clock !== "function") throw new TypeError("clock must be a function");
  return new MemoryPrincipalIndex(clock);
}

interface Member {
  readonly ticket: string;
  readonly order: number;
  readonly addedAt: number;
  /** Lives while the clock is below this. */
  readonly endsAt: number;
  /** In which it was added; `undefined` when it was called off. */
  epoch: string | undefined;
  readonly data: Uint8Array;
}

interface Entry {
  epoch: string;
  last: number;
  endsAt: number;
  readonly members: Map<string, Member>;
}

class MemoryPrincipalIndex implements PrincipalIndexStore {
  readonly #entries = new Map<string, Entry>();
  readonly #clock: () => number;
  #sweep: Iterator<[string, Entry]> = this.#entries.entries();

  constructor(clock: () => number) {
    this.#clock = clock;
  }

  async add(name: string, storedId: string, options: AddMemberOptions): Promise<string | undefined> {
    const { ttlMs, ticket, data, epoch, replaces } = options;
    requireEntry(name);
    requireStoredId(storedId);
    requireInteger("ttlMs", ttlMs, 1, MAX_TTL_MS);
    requireToken("ticket", ticket);
    requireToken("epoch", epoch);
    if (replaces !== undefined) requireStoredId(replaces);
    if (!(data instanceof Uint8Array)) throw new TypeError("data must be a Uint8Array");
    requireInteger("data.length", data.length, 1, MAX_DATA_BYTES);
    this.#sweepSome();
    const now = this.#clock();
    const entry = this.#living(name) ?? { epoch, last: 0, endsAt: 0, members: new Map<string, Member>() };
    const known = entry.members.get(storedId);
    if (known?.ticket === ticket) return known.epoch;
    if (replaces !== undefined && !this.#holds(entry, replaces)) return undefined;
    this.#entries.set(name, entry);
    const endsAt = now + ttlMs;
    entry.endsAt = Math.max(entry.endsAt, endsAt);
    for (const [id, member] of entry.members) if (now >= member.endsAt) entry.members.delete(id);
    const order = ++entry.last;
    const added = { ticket, order, addedAt: now, endsAt, epoch: entry.epoch, data: new Uint8Array(data) };
    entry.members.set(storedId, added);
    return entry.epoch;
  }

  async holds(name: string, storedId: string, epoch: string): Promise<boolean> {
    requireEntry(name);
    requireStoredId(storedId);
    requireToken("epoch", epoch);
    const entry = this.#living(name);
    return entry?.epoch === epoch && this.#holds(entry, storedId);
  }

  async members(name: string): Promise<readonly IndexMember[]> {
    requireEntry(name);
    const now = this.#clock();
    const entry = this.#living(name);
    return [...(entry?.members ?? [])]
      .filter(([, { endsAt }]) => now < endsAt)
      .map(([storedId, { ticket, order, addedAt, epoch, data }]) => ({
        storedId,
        ticket,
        order,
        ageMs: now - addedAt,
        data: new Uint8Array(data),
        isCalledOff: epoch !== entry?.epoch,
      }));
  }

  async renew(name: string, epoch: string, { except }: RenewOptions = {}): Promise<readonly IndexMember[]> {
    requireEntry(name);
    requireToken("epoch", epoch);
    if (except !== undefined) requireStoredId(except);
    const entry = this.#living(name);
    if (entry !== undefined) {
      const spared = except === undefined ? undefined : entry.members.get(except);
      if (spared?.epoch === entry.epoch) spared.epoch = epoch;
      entry.epoch = epoch;
    }
    return this.members(name);
  }

  async callOff(name: string, storedId: string): Promise<boolean> {
    requireEntry(name);
    requireStoredId(storedId);
    const member = this.#living(name)?.members.get(storedId);
    if (member === undefined || this.#clock() >= member.endsAt) return false;
    member.epoch = undefined;
    return true;
  }

  async remove(name: string, members: readonly MemberToRemove[]): Promise<number> {
    requireEntry(name);
    for (const { storedId, ticket } of members) {
      requireStoredId(storedId);
      if (ticket !== undefined) requireToken("ticket", ticket);
    }
    const entry = this.#living(name);
    let removed = 0;
    for (const { storedId, ticket } of members) {
      const member = entry?.members.get(storedId);
      if (member === undefined || (ticket !== undefined && ticket !== member.ticket)) continue;
      entry?.members.delete(storedId);
      if (this.#clock() < member.endsAt) removed++;
    }
    return removed;
  }

  async *scan(): AsyncIterable<string> {
    for (const name of [...this.#entries.keys()]) if (this.#living(name) !== undefined) yield name;
  }

  #holds({ members, epoch }: Entry, storedId: string): boolean {
    const member = members.get(storedId);
    return member !== undefined && member.epoch === epoch && this.#clock() < member.endsAt;
  }

  #living(name: string): Entry | undefined {
    const entry = this.#entries.get(name);
    return entry !== undefined && this.#clock() < entry.endsAt ? entry : undefined;
  }

  /** Goes on where the last sweep stopped: a map's iterator survives changes of the map. */
  #sweepSome(): void {
    const now = this.#clock();
    for (let step = 0; step < SWEEP_STEP; step++) {
      const next = this.#sweep.next();
      if (next.done) this.#sweep = this.#entries.entries();
      else if (now >= next.value[1].endsAt) this.#entries.delete(next.value[0]);
    }
  }
}

function requireEntry(entry: string): void {
  if (typeof entry !== "string") throw new TypeError("entry must be a string");
  if (!ENTRY.test(entry)) throw new RangeError("entry must be 16 to 64 characters of base64url");
}

function requireToken(field: string, token: string): void {
  if (typeof token !== "string") throw new TypeError(`${field} must be a string`);
  if (!TOKEN.test(token)) throw new RangeError(`${field} must be 1 to 64 characters of base64url`);
}

function requireStoredId(storedId: string): void {
  requireUtf8("storedId", storedId, MIN_STORED_ID_BYTES, MAX_STORED_ID_BYTES);
  if (/[{}]/.test(storedId)) throw new RangeError("storedId must not hold braces");
}
