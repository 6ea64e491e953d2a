/** A KMS in memory that counts its calls, can be told to fail, and can be held up. */
import { KmsError, type KmsErrorCode } from "../../src/errors.js";
import type { EncryptionContext, Kms } from "../../src/kms.js";

export interface FakeKms extends Kms {
  /** Calls so far, by method. */
  readonly calls: { generate: number; wrap: number; unwrap: number };
  /** All data keys that it generated, in clear. */
  readonly made: Uint8Array[];
  /** The contexts of all calls. */
  readonly contexts: EncryptionContext[];
  /** Makes every call fail with this code. */
  failWith: KmsErrorCode | undefined;
  /** Every call waits for this promise. */
  gate: Promise<void>;
}

let count = 0;

/** Wraps by remembering: a wrapped key is a ticket for the data key and its context. */
export function fakeKms(name = "fake"): FakeKms {
  const tickets = new Map<string, { dataKey: Uint8Array; context: string }>();
  const enter = async (method: "generate" | "wrap" | "unwrap", context: EncryptionContext) => {
    kms.calls[method]++;
    kms.contexts.push(context);
    await kms.gate;
    if (kms.failWith !== undefined) throw new KmsError(kms.failWith, "told to fail", { kms: name, requestId: "req-1" });
  };
  const store = (dataKey: Uint8Array, context: EncryptionContext) => {
    const wrapped = new TextEncoder().encode(`${name}:${++count}`);
    tickets.set(String(wrapped), { dataKey: dataKey.slice(), context: JSON.stringify(context) });
    return wrapped;
  };
  const kms: FakeKms = {
    name,
    calls: { generate: 0, wrap: 0, unwrap: 0 },
    contexts: [],
    made: [],
    failWith: undefined,
    gate: Promise.resolve(),
    async generate(context) {
      await enter("generate", context);
      const dataKey = crypto.getRandomValues(new Uint8Array(32));
      kms.made.push(dataKey.slice());
      return { dataKey, wrapped: store(dataKey, context) };
    },
    async wrap(dataKey, context) {
      await enter("wrap", context);
      return store(dataKey, context);
    },
    async unwrap(wrapped, context) {
      await enter("unwrap", context);
      const ticket = tickets.get(String(wrapped));
      if (ticket?.context !== JSON.stringify(context))
        throw new KmsError("KMS_DENIED", "no such ticket", { kms: name });
      return ticket.dataKey.slice();
    },
  };
  return kms;
}
