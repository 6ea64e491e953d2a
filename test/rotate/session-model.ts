/**
 * What must be in the store: every session of a run, as those who wrote it were told. It lies outside the process that re-seals.
 */
import { type Content, isContentOf } from "./population.js";

/** From when to when by the clock something happened, in milliseconds since 1970-01-01T00:00:00Z. */
export interface Span {
  readonly from: number;
  readonly to: number;
}

/** What lies in the store under the id of a session. */
export interface FoundSession {
  /** Of the key that it is sealed under; `undefined` when it is no envelope. */
  readonly keyId: string | undefined;
  /** What it holds; an error when it does not open. */
  readonly content: unknown;
  /** When it expires, in milliseconds since 1970-01-01T00:00:00Z; -1 for never. */
  readonly expiresAt: number;
}

/** Something that must not be. */
export type Difference =
  | "lost"
  | "came back"
  | "does not open"
  | "under an old key"
  | "other content"
  | "other expiry, untouched"
  | "other expiry, touched";

/** An exact time may be off by this, in milliseconds. */
const TOLERANCE_MS = 1;

const LIVING = 1;
const DESTROYED = 2;

/** Sessions by their numbers. */
export class SessionModel {
  /** How many there can be. */
  readonly capacity: number;
  readonly #states: Uint8Array;
  readonly #versions: Uint32Array;
  /** When each expires: at the earliest and at the latest. */
  readonly #earliest: Float64Array;
  readonly #latest: Float64Array;
  readonly #isTouched: Uint8Array;
  /** Writes whose outcome nobody knows, for each session that has such. */
  readonly #unknown = new Map<number, { writes: number; mayBeGone: boolean; mayBeThere: boolean }>();

  /** @param capacity - How many there can be. */
  constructor(capacity: number) {
    this.capacity = capacity;
    this.#states = new Uint8Array(capacity);
    this.#versions = new Uint32Array(capacity);
    this.#earliest = new Float64Array(capacity);
    this.#latest = new Float64Array(capacity);
    this.#isTouched = new Uint8Array(capacity);
  }

  /** A session was there before the run. */
  found(index: number, expiresAt: number): void {
    this.#states[index] = LIVING;
    this.#earliest[index] = expiresAt;
    this.#latest[index] = expiresAt;
  }

  /** A session was created, and its idle time began. */
  created(index: number, span: Span, idleMs: number): void {
    this.#states[index] = LIVING;
    this.touched(index, span, idleMs);
  }

  /** Its idle time began anew. */
  touched(index: number, { from, to }: Span, idleMs: number): void {
    const isFirst = this.#isTouched[index] === 0;
    this.#isTouched[index] = 1;
    // Of several that came at once nobody knows which one was last.
    this.#earliest[index] = Math.max(isFirst ? 0 : (this.#earliest[index] ?? 0), from + idleMs);
    this.#latest[index] = Math.max(isFirst ? 0 : (this.#latest[index] ?? 0), to + idleMs);
  }

  /** It was written in its next version, and its idle time began anew. */
  written(index: number, span: Span, idleMs: number): void {
    this.#versions[index] = this.version(index) + 1;
    this.touched(index, span, idleMs);
  }

  /** It was ended, or found to have been. */
  destroyed(index: number): void {
    this.#states[index] = DESTROYED;
  }

  /** Nobody knows whether something was done. */
  unknown(index: number, what: "write" | "touch" | "destroy" | "create"): void {
    const outcomes = this.#unknown.get(index) ?? { writes: 0, mayBeGone: false, mayBeThere: false };
    if (what === "write") outcomes.writes++;
    if (what === "destroy") outcomes.mayBeGone = true;
    if (what === "create") outcomes.mayBeThere = true;
    this.#unknown.set(index, outcomes);
  }

  /** @returns Whether it lives, as far as was told. */
  isLiving(index: number): boolean {
    return this.#states[index] === LIVING;
  }

  /** @returns Whether the outcome of a command on it is not known. */
  isUnknown(index: number): boolean {
    return this.#unknown.has(index);
  }

  /** @returns How often it was written. */
  version(index: number): number {
    return this.#versions[index] ?? 0;
  }

  /** @returns Whether its time to live was left alone, so that it must expire at the very time it would have. */
  isUntouched(index: number): boolean {
    return this.#isTouched[index] === 0 && !this.#unknown.has(index);
  }

  /** How many live, and of how many the outcome of a command is not known. */
  get counts(): { readonly living: number; readonly destroyed: number; readonly unknown: number } {
    let [living, destroyed] = [0, 0];
    for (const state of this.#states) {
      if (state === LIVING) living++;
      if (state === DESTROYED) destroyed++;
    }
    return { living, destroyed, unknown: this.#unknown.size };
  }

  /** @returns Whether a version is one that a reader may find. */
  mayHold(index: number, version: number): boolean {
    const least = this.version(index);
    return version >= least && version <= least + (this.#unknown.get(index)?.writes ?? 0);
  }

  /** @returns How many milliseconds an expiry lies outside of what it may be. */
  deviationMs(index: number, expiresAt: number): number {
    return Math.max((this.#earliest[index] ?? 0) - expiresAt, expiresAt - (this.#latest[index] ?? 0), 0);
  }

  /** @returns What is wrong with what lies in the store after the run, where `undefined` stands for nothing at all. */
  differencesOf(index: number, found: FoundSession | undefined, keyId: string): Difference[] {
    const unknown = this.#unknown.get(index);
    const isLiving = this.isLiving(index);
    if (found === undefined) return isLiving && unknown?.mayBeGone !== true ? ["lost"] : [];
    if (!isLiving && unknown?.mayBeThere !== true) return ["came back"];
    if (found.content instanceof Error) return ["does not open"];
    const differences: Difference[] = [];
    if (found.keyId !== keyId) differences.push("under an old key");
    const isContent = isContentOf(found.content, index);
    if (!isContent || !this.mayHold(index, (found.content as Content).version)) differences.push("other content");
    const expiry = this.#expiryDifference(index, found.expiresAt);
    if (expiry !== undefined) differences.push(expiry);
    return differences;
  }

  #expiryDifference(index: number, expiresAt: number): Difference | undefined {
    if (this.#unknown.has(index)) return expiresAt > 0 ? undefined : "other expiry, touched";
    if (this.deviationMs(index, expiresAt) <= TOLERANCE_MS) return undefined;
    return this.isUntouched(index) ? "other expiry, untouched" : "other expiry, touched";
  }
}
