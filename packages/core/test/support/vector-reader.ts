/** Opens a vector with a ring that holds exactly the data keys it names. */
import { deriveKeys, encodeRecord, keyIdOf, RecordState } from "../../src/data-key.js";
import { KmsError } from "../../src/errors.js";
import { KeyRing } from "../../src/key-ring.js";
import { memoryKeyRingStore } from "../../src/key-ring-store.js";
import type { Kms } from "../../src/kms.js";
import { Sealer } from "../../src/sealer.js";
import type { EnvelopeVector } from "./vector-file.js";
import { hex } from "./vectors.js";

/** A KMS whose wrapped keys are the keys themselves, and which opens those of one list. */
function listKms(keys: readonly string[]): Kms {
  const unused = () => Promise.reject(new Error("vectors only open"));
  return {
    name: "list",
    generate: unused,
    wrap: unused,
    async unwrap(wrapped) {
      if (!keys.includes(Buffer.from(wrapped).toString("hex"))) {
        throw new KmsError("KMS_DENIED", "not in the list", { kms: "list" });
      }
      return wrapped.slice();
    },
  };
}

/** @returns The value, through the public API. */
export async function openVector(vector: EnvelopeVector): Promise<unknown> {
  const clock = () => vector.now;
  const store = memoryKeyRingStore({ clock });
  for (const dataKey of vector.keys) {
    const { commitment } = deriveKeys(hex(dataKey));
    const wraps = [{ kms: "list", wrapped: hex(dataKey) }];
    const record = { commitment, activatesAt: vector.now, state: RecordState.enabled, wraps };
    await store.write("vectors", keyIdOf(record), encodeRecord(record));
  }
  const ring = new KeyRing({ name: "vectors", kms: listKms(vector.keys), store, clock });
  const sealer = new Sealer({
    ring,
    namespace: vector.namespace,
    purpose: vector.purpose,
    clientBound: vector.sessionId !== undefined,
    inlineKeys: "read",
  });
  const options = vector.sessionId === undefined ? {} : { sessionId: vector.sessionId };
  try {
    return await sealer.open(hex(vector.envelope), vector.id, options);
  } finally {
    ring.close();
  }
}
