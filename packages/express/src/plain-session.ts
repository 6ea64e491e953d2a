/**
 * A session of express-session as plain data: without its methods, and with a cookie that is data too.
 */
import { encode, MAX_TTL_MS } from "@sealed-session/core";

/** Beyond what any session store allows: here nothing is to be refused. */
const NO_LIMITS = { maxBytes: 2 ** 30, maxDepth: 1000 };
/** Setting `cookie.maxAge` reads the clock twice, so that `originalMaxAge` now and then loses a millisecond. */
const SAME_LIFE_MS = 1000;
/** Where a test has replaced the clock, `Date` is another class, which the codec refuses. */
const GenuineDate = Date;

/** A cookie as it is stored. */
interface PlainCookie {
  readonly [attribute: string]: unknown;
  expires?: unknown;
  readonly originalMaxAge?: unknown;
  readonly maxAge?: unknown;
}

/** A session as it is stored. */
export interface PlainSession {
  readonly [key: string]: unknown;
  readonly cookie?: PlainCookie | undefined;
}

/** What a session held at one time, to be compared. */
export interface Snapshot {
  readonly bytes: Uint8Array;
  readonly originalMaxAge: unknown;
}

/** @throws TypeError When it is no object. */
export function plainOf(session: unknown): PlainSession {
  if (typeof session !== "object" || session === null) throw new TypeError("session must be an object");
  const plain: Record<string, unknown> = { ...session };
  const { cookie } = plain;
  if (typeof cookie === "object" && cookie !== null) plain["cookie"] = plainCookie(cookie);
  return plain;
}

function plainCookie(cookie: object): PlainCookie {
  // As in JSON: a Cookie stands for its data, what is undefined is left out, and an invalid date is none.
  const data: object = "toJSON" in cookie && typeof cookie.toJSON === "function" ? cookie.toJSON() : cookie;
  const plain: Record<string, unknown> = Object.fromEntries(
    Object.entries(data).filter(([, value]) => value !== undefined),
  );
  if (plain["expires"] instanceof GenuineDate) plain["expires"] = new GenuineDate(plain["expires"]);
  if (Number.isNaN(expiresMs(plain))) plain["expires"] = null;
  return plain;
}

/** @returns When a cookie expires, in milliseconds since 1970-01-01T00:00:00Z; `undefined` for one that lives as long as the browser. */
export function expiresMs({ expires }: PlainCookie): number | undefined {
  return expires instanceof GenuineDate || typeof expires === "string" ? new Date(expires).getTime() : undefined;
}

/** @returns How long a session's cookie lives from now on, in milliseconds, also less than none; `undefined` for as long as the browser. */
export function cookieLifeMs({ cookie }: PlainSession): number | undefined {
  if (cookie === undefined || cookie === null) return undefined;
  const expires = expiresMs(cookie);
  const lifeMs = expires === undefined ? cookie.maxAge : expires - Date.now();
  return typeof lifeMs === "number" && !Number.isNaN(lifeMs) ? Math.min(Math.ceil(lifeMs), MAX_TTL_MS) : undefined;
}

/** @throws UnsupportedValueError When the session holds what cannot be sealed. */
export function snapshotOf({ cookie, ...data }: PlainSession): Snapshot {
  // Only the end of its life changes with every request; how long it is meant to be does not.
  const { expires: _, originalMaxAge, ...attributes } = cookie ?? {};
  return { bytes: encode({ ...data, cookie: attributes }, NO_LIMITS), originalMaxAge };
}

/** @returns Whether two snapshots are of the same session, and it had not changed. */
export function isSame(one: Snapshot, other: Snapshot): boolean {
  return isSameLife(one.originalMaxAge, other.originalMaxAge) && Buffer.compare(one.bytes, other.bytes) === 0;
}

function isSameLife(one: unknown, other: unknown): boolean {
  if (typeof one === "number" && typeof other === "number") return Math.abs(one - other) < SAME_LIFE_MS;
  return one === other;
}
