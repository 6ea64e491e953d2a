/**
 * Session ids and stored ids (format 3.6 and 4.3): the secret in the cookie, and what a store's key holds instead of it.
 */
import { backend } from "#backend";
import type { RandomFill } from "./aead.js";
import { base64url, utf8 } from "./bytes.js";

/** Shortest session id in bytes of UTF-8. */
const MIN_SESSION_ID_BYTES = 16;
/** Longest session id in bytes of UTF-8. */
const MAX_SESSION_ID_BYTES = 512;

const RANDOM_BYTES = 32;
const DIGEST_BYTES = 18;

/**
 * How a session id becomes a stored id: its digest (24 characters; a dump of the store then holds no usable token), or the
 * session id itself.
 */
export type StoredIdMode = "digest" | "verbatim";

/**
 * Makes a session id of 256 random bits: 43 characters of base64url, fit for a cookie. {@link SessionStore.create} does it by itself.
 *
 * @param random - Where the bits come from. Default: the system's CSPRNG.
 */
export function createSessionId(random: RandomFill = backend.randomFill): string {
  const bytes = new Uint8Array(RANDOM_BYTES);
  random(bytes);
  return base64url(bytes);
}

/**
 * @returns The UTF-8 form of a session id, or `undefined` when this is none: not a string, ill-formed Unicode, shorter than 16 or longer
 *   than 512 bytes.
 */
export function sessionIdBytes(sessionId: string): Uint8Array | undefined {
  if (typeof sessionId !== "string" || sessionId.length > MAX_SESSION_ID_BYTES || !sessionId.isWellFormed()) {
    return undefined;
  }
  const bytes = utf8(sessionId);
  return bytes.length < MIN_SESSION_ID_BYTES || bytes.length > MAX_SESSION_ID_BYTES ? undefined : bytes;
}

/**
 * Tells under which stored id a session lies (format 4.3), for programs that look into the store.
 *
 * @param sessionId - What the cookie holds.
 * @param mode - As in the {@link SessionStoreOptions} of the sessions. Default: `digest`, the first 18 bytes of SHA-256 in base64url.
 * @returns The stored id, or `undefined` when this is no session id at all (shorter than 16 or longer than 512 bytes of UTF-8, ill-formed) or,
 *   in `verbatim` mode, holds `{` or `}`, which would let a client choose its Redis Cluster slot.
 */
export function storedIdOf(sessionId: string, mode: StoredIdMode = "digest"): string | undefined {
  const bytes = sessionIdBytes(sessionId);
  if (bytes === undefined) return undefined;
  if (mode === "verbatim") return /[{}]/.test(sessionId) ? undefined : sessionId;
  return base64url(backend.sha256(bytes).subarray(0, DIGEST_BYTES));
}
