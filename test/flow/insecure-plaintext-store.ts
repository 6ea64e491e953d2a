/**
 * Takes the encryption off again, for one purpose: to prove that a search which finds nothing in sealed sessions would have found them.
 */
import { decode, type EnvelopeStore, encode, type Sealer } from "@sealed-session/core";

/**
 * Stands between a session store and `inner`, opens every envelope on its way in and writes what was in it, in clear. On its way out the
 * plaintext is sealed anew, so that the session store notices nothing.
 *
 * @param sealer - One with the same options as the session store's.
 */
export function insecurePlaintextStore(inner: EnvelopeStore, sealer: Sealer): EnvelopeStore {
  const plaintext = async (storedId: string, envelope: Uint8Array) => encode(await sealer.open(envelope, storedId));
  return {
    async get(storedId, options) {
      const bytes = await inner.get(storedId, options);
      return bytes && (await sealer.seal(decode(bytes), storedId));
    },
    async set(storedId, envelope, options) {
      return inner.set(storedId, await plaintext(storedId, envelope), options);
    },
    async compareAndSet(storedId, expected, envelope, options) {
      const [before, after] = [await plaintext(storedId, expected), await plaintext(storedId, envelope)];
      return inner.compareAndSet(storedId, before, after, options);
    },
    touch: (storedId, ttlMs) => inner.touch(storedId, ttlMs),
    destroy: (storedId) => inner.destroy(storedId),
    ttlMs: (storedId) => inner.ttlMs(storedId),
    scan: () => inner.scan(),
  };
}
