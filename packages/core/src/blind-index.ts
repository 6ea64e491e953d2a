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
  return blind(indexKey, "index", namespace, name, value);
}

/**
 * Names one member of an index for people who may see it in a list, such as "log out that device": it opens nothing, and is no stored id either.
 *
 * @returns 16 bytes, as {@link blindIndexEntry}; the first part of the context is `handle`.
 * @throws RangeError as {@link blindIndexEntry}.
 */
export function blindHandle(indexKey: SecretKey, namespace: string, name: string, storedId: string): Uint8Array {
  return blind(indexKey, "handle", namespace, name, storedId);
}

function blind(indexKey: SecretKey, kind: string, namespace: string, name: string, value: string): Uint8Array {
  const context = writeContext(kind, namespace, name, value);
  if (context === undefined) {
    throw new RangeError("namespace, name and value must be well-formed Unicode of at most 65535 bytes");
  }
  return backend.hmacSha256(indexKey, context).slice(0, ENTRY_BYTES);
}
