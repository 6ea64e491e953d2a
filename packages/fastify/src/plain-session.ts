/**
 * A session of @fastify/session as plain data: without its methods, and with a cookie that is data too.
 */
import { encode, MAX_TTL_MS } from "@sealed-session/core";

/** Beyond what any session store allows: here nothing is to be refused. */
const NO_LIMITS = { maxBytes: 2 ** 30, maxDepth: 1000 };

/** A cookie as it is stored. */
interface PlainCookie {
  [attribute: string]: unknown;
  expires?: unknown;
}

/** A session as it is stored. */
export interface PlainSession {
  [key: string]: unknown;
  cookie?: PlainCookie | null;
}

/** @throws TypeError when it is no object. */
export function plainOf(session: unknown): PlainSession {
  if (typeof session !== "object" || session === null) throw new TypeError("session must be an object");
  // Its symbols are what @fastify/session keeps for itself.
  const plain: PlainSession = Object.fromEntries(Object.entries(session));
  if (typeof plain.cookie === "object" && plain.cookie !== null) plain.cookie = plainCookie(plain.cookie);
  return plain;
}

function plainCookie(cookie: PlainCookie): PlainCookie {
  const { toJSON } = cookie;
  const data: object = typeof toJSON === "function" ? toJSON.call(cookie) : cookie;
  const plain: PlainCookie = {};
  for (const [attribute, value] of Object.entries(data)) {
    // What it was when the session was read; the next one to read it makes its own of `expires`.
    if (value !== undefined && attribute !== "originalExpires") plain[attribute] = value;
  }
  return plain;
}

/** @returns The life that each request starts anew, in milliseconds; `undefined` when there is a fixed end, or none. */
function maxAgeOf(cookie: PlainCookie): number | undefined {
  const maxAge = cookie["originalMaxAge"] || cookie["maxAge"];
  return typeof maxAge === "number" && !Number.isNaN(maxAge) ? maxAge : undefined;
}

/** @returns When the cookie ends, in milliseconds since 1970-01-01T00:00:00Z; `undefined` when the browser decides. */
export function endOf({ cookie }: PlainSession): number | undefined {
  if (typeof cookie !== "object" || cookie === null) return undefined;
  const { expires } = cookie;
  if (expires instanceof Date || typeof expires === "string") {
    const end = new Date(expires).getTime();
    if (!Number.isNaN(end)) return end;
  }
  const maxAge = maxAgeOf(cookie);
  return maxAge === undefined ? undefined : Date.now() + maxAge;
}

/** @returns What is left until `end`, as a time to live that every store takes; 0 or less when it is over. */
export function ttlMsUntil(end: number): number {
  return Math.min(Math.ceil(end - Date.now()), MAX_TTL_MS);
}

/** Lets the cookie of a session that was read follow all slides of its life, of which the envelope does not know. */
export function slideCookie({ cookie }: PlainSession): void {
  if (typeof cookie !== "object" || cookie === null) return;
  const maxAge = maxAgeOf(cookie);
  if (maxAge !== undefined) cookie.expires = new Date(Date.now() + maxAge);
}

/**
 * What a session holds, to be compared: all but the end of a life that each request starts anew.
 *
 * @returns `undefined` when it holds something that cannot be sealed: the write will say what.
 */
export function fingerprintOf(plain: PlainSession): Uint8Array | undefined {
  try {
    return encode(withoutSlide(plain), NO_LIMITS);
  } catch {
    return undefined;
  }
}

function withoutSlide(plain: PlainSession): PlainSession {
  const { cookie } = plain;
  if (typeof cookie !== "object" || cookie === null || maxAgeOf(cookie) === undefined) return plain;
  const { expires: _, ...rest } = cookie;
  return { ...plain, cookie: rest };
}
