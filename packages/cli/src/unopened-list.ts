/**
 * The sessions that did not open: counted by the reason, the first of them for the report, all of them in a file where one is named. Memory does not
 * grow with their number.
 */
import { createHash } from "node:crypto";
import { closeSync, openSync, writeSync } from "node:fs";
import type { StoredIdMode } from "@sealed-session/core";

/** One of them. */
export interface UnopenedSession {
  /** The stored id; where that is the session id itself, `sha256:` and its digest. */
  readonly storedId: string;
  /** Why, as a code of `docs/errors.md`. */
  readonly code: string;
}

/** How many of each reason there are, by code. */
export type CountsByCode = Readonly<Record<string, number>>;

/** How many of them a report names. */
const MAX_LISTED = 100;

/** Reasons by which a session has ended, and nobody has to look into it. */
const ENDED_BY = ["KEY_REVOKED", "KEY_RETIRED"];

/** @returns how many of them have ended, since their key was revoked or retired. */
export function endedOf(byCode: CountsByCode): number {
  return ENDED_BY.reduce((sum, code) => sum + (byCode[code] ?? 0), 0);
}

/** Collects them. */
export class UnopenedList {
  readonly #storedIds: StoredIdMode;
  readonly #file: number | undefined;
  readonly #first: UnopenedSession[] = [];
  readonly #byCode: Record<string, number>;

  /**
   * @param earlier - What an earlier run has counted.
   * @param storedIds - With `verbatim` a stored id is a session id, and is not written anywhere.
   * @param path - A file for all of them, a line each. @throws Error when it cannot be opened
   */
  constructor(storedIds: StoredIdMode, earlier: CountsByCode = {}, path?: string) {
    this.#storedIds = storedIds;
    this.#byCode = { ...earlier };
    this.#file = path === undefined ? undefined : openSync(path, "a", 0o600);
  }

  /** All of them, by code. */
  get byCode(): CountsByCode {
    return this.#byCode;
  }

  /** The first {@link MAX_LISTED} that somebody should look into. */
  get first(): readonly UnopenedSession[] {
    return this.#first;
  }

  add(storedId: string, code: string | undefined): void {
    const entry = { storedId: this.#named(storedId), code: code ?? "UNEXPECTED" };
    this.#byCode[entry.code] = (this.#byCode[entry.code] ?? 0) + 1;
    if (this.#first.length < MAX_LISTED && !ENDED_BY.includes(entry.code)) this.#first.push(entry);
    if (this.#file !== undefined) writeSync(this.#file, `${entry.storedId}\t${entry.code}\n`);
  }

  close(): void {
    if (this.#file !== undefined) closeSync(this.#file);
  }

  #named(storedId: string): string {
    if (this.#storedIds === "digest") return storedId;
    return `sha256:${createHash("sha256").update(storedId).digest("base64url")}`;
  }
}
