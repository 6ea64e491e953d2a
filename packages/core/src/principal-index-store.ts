/**
 * The port to a database that keeps the principal index: which stored ids belong to one principal, under a blind name that tells nothing.
 *
 * A store knows nothing of keys, principals or sessions. `principalIndexSuite` of `@sealed-session/core/testing` proves an implementation.
 */

import type { EnvelopeStore } from "./envelope-store.js";

/** A stored id in an entry of the index. */
export interface IndexMember {
  /** Which session. */
  readonly storedId: string;
  /** What the member was added with; tells it from one that was added under the same stored id later. */
  readonly ticket: string;
  /** Counts up with each member that is added to the entry: of two members the one with the larger number came later. */
  readonly order: number;
  /** For how long it has been there, in milliseconds by the store's clock. */
  readonly ageMs: number;
  /** What it was added with. */
  readonly data: Uint8Array;
  /** Whether it was called off since it was added: by {@link PrincipalIndexStore.renew} or {@link PrincipalIndexStore.callOff}. */
  readonly isCalledOff: boolean;
}

/** What names a member that is to be removed. */
export interface MemberToRemove {
  /** Which session. */
  readonly storedId: string;
  /** Removes it only if it was added with this ticket. @defaultValue Whatever is there under the stored id is removed. */
  readonly ticket?: string;
}

/** Options of {@link PrincipalIndexStore.add}. */
export interface AddMemberOptions {
  /** How long the member lives, in milliseconds: 1 to 315360000000. It ends then, never earlier and never later. */
  readonly ttlMs: number;
  /** What no other member was ever added with: 1 to 64 characters of base64url. */
  readonly ticket: string;
  /** What is kept with it: 1 to 8192 bytes. */
  readonly data: Uint8Array;
  /** The epoch of the entry where it has none yet: what was never one, 1 to 64 characters of base64url. */
  readonly epoch: string;
  /** Adds it only while the member of this stored id is there and was not called off. @defaultValue It is added in any case. */
  readonly replaces?: string | undefined;
}

/** Options of {@link PrincipalIndexStore.renew}. */
export interface RenewOptions {
  /** Stored id of a member that is not called off. @defaultValue none */
  readonly except?: string | undefined;
}

/**
 * Keeps entries of the index. An entry has members and an _epoch_, a token that is replaced by {@link PrincipalIndexStore.renew}. A member keeps the epoch
 * in which it was added; in another one it counts as called off. An entry lives as long as the member that ends last, and its epoch with it. Each method
 * is one atomic step on one entry.
 *
 * All methods reject with `STORE_UNAVAILABLE` when the database cannot be asked within the store's deadline; the outcome of a write is then unknown. An
 * entry is named by 16 to 64 characters of base64url; stored ids are those of {@link EnvelopeStore}, from 16 bytes. Methods reject with a `TypeError` or
 * `RangeError` on anything else.
 */
export interface PrincipalIndexStore {
  /**
   * Adds a member, or puts it in the place of the one of the same stored id. With the ticket that is there already it changes nothing: a client may have
   * sent the command twice.
   *
   * @returns The epoch in which the member was added; `undefined` when `replaces` did not hold, or the member was called off before the command came twice.
   */
  add(entry: string, storedId: string, options: AddMemberOptions): Promise<string | undefined>;

  /** @returns Whether the entry's epoch still is this one, and it has a member of this stored id that was added in it and not called off. */
  holds(entry: string, storedId: string, epoch: string): Promise<boolean>;

  /** @returns All members that have not ended, in no order. */
  members(entry: string): Promise<readonly IndexMember[]>;

  /**
   * Gives the entry another epoch and so calls its members off, so that whoever has just added one learns of it, and nothing replaces one. An entry that
   * does not exist needs none: no epoch of it is held by anybody.
   *
   * @param epoch - What was never one: 1 to 64 characters of base64url.
   * @param options - See {@link RenewOptions}.
   * @returns All members that have not ended, in the same step.
   */
  renew(entry: string, epoch: string, options?: RenewOptions): Promise<readonly IndexMember[]>;

  /** Calls one member off; it stays. @returns `false` when it is not there. */
  callOff(entry: string, storedId: string): Promise<boolean>;

  /** Walks over the names of all entries, each once, in no order, as {@link EnvelopeStore.scan}. */
  scan(): AsyncIterable<string>;

  /** Removes members; the epoch stays. @returns How many were removed. */
  remove(entry: string, members: readonly MemberToRemove[]): Promise<number>;
}
