/**
 * Blind index entries (format 1.4): a name for a value, such as a user id, that tells nothing without the index key.
 */
import { backend } from "#backend";
import type { SecretKey } from "./backend/backend.js";
import { writeContext } from "./envelope.js";

const ENTRY_BYTES = 16;

/**
 * @param indexKey - Derived from a data key of an index ring.
 * @param namespace - As in the envelopes.
 * @param name - Name of the index.
 * @param value - What is looked up.
 * @returns 16 bytes of HMAC-SHA256 (RFC 2104).
 * @throws RangeError when a part is ill-formed Unicode or longer than 65535 bytes of UTF-8.
 */
export function blindIndexEntry(indexKey: SecretKey, namespace: string, name: string, value: string): Uint8Array {
  const context = writeContext("index", namespace, name, value);
  if (context === undefined) {
    throw new RangeError("namespace, name and value must be well-formed Unicode of at most 65535 bytes");
  }
  return backend.hmacSha256(indexKey, context).slice(0, ENTRY_BYTES);
}
