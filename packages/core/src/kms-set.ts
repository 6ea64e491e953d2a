/**
 * The KMSs of one ring: every data key is wrapped under all of them and opened by the first that answers (format 5.2 and 5.3).
 */
import { KEY_BYTES } from "./aead.js";
import { requireInteger, requireMethods, requireUtf8 } from "./argument.js";
import { equal } from "./bytes.js";
import {
  DataKey,
  type DataKeyOptions,
  deriveKeys,
  type KeyRecord,
  MAX_KMS_NAME_BYTES,
  MAX_WRAPS,
  RecordState,
  type WrappedKey,
} from "./data-key.js";
import { report } from "./diagnostics.js";
import { codeOf, hasCode, KmsError, SealedSessionError } from "./errors.js";
import type { EncryptionContext, Kms, KmsCallOptions } from "./kms.js";

/** What came of opening a record. */
export interface UnwrapOutcome {
  /** The verified key, or `undefined`. */
  readonly dataKey: DataKey | undefined;
  /** A KMS was asked, and each that was asked answered that these bytes do not open. `false` when one could not answer. */
  readonly refused: boolean;
  /** The last KMS's error. */
  readonly failure: unknown;
}

/** One to eight KMSs with names of their own, in the order of preference. */
export class KmsSet {
  readonly #ring: string;
  readonly #members: readonly Kms[];
  readonly #timeoutMs: number;
  readonly #dataKeyOptions: DataKeyOptions;

  /**
   * @param timeoutMs - After which a call counts as unanswered: a KMS that hangs must not hang the ring.
   * @throws TypeError or RangeError when a member is not a KMS, or the set is empty, too large or has a name twice.
   */
  constructor(ring: string, kms: Kms | readonly Kms[], timeoutMs: number, dataKeyOptions: DataKeyOptions) {
    this.#timeoutMs = timeoutMs;
    this.#ring = ring;
    this.#members = Array.isArray(kms) ? [...(kms as readonly Kms[])] : [kms as Kms];
    this.#dataKeyOptions = dataKeyOptions;
    requireInteger("kms.length", this.#members.length, 1, MAX_WRAPS);
    for (const member of this.#members) {
      requireMethods("kms", member, "generate", "wrap", "unwrap");
      requireUtf8("kms.name", member.name, 1, MAX_KMS_NAME_BYTES);
    }
    if (new Set(this.#members.map(({ name }) => name)).size < this.#members.length) {
      throw new RangeError("every kms must have a name of its own");
    }
  }

  /** @returns Whether one of the KMSs has this name. */
  has(name: string): boolean {
    return this.#members.some((member) => member.name === name);
  }

  /**
   * Makes the record of a new data key. The first KMS that answers makes the key, the others wrap it; one that fails is reported and left out.
   *
   * @throws SealedSessionError `KEY_UNAVAILABLE` when none makes a key.
   */
  async generate(activatesAt: number): Promise<KeyRecord> {
    const context = encryptionContext(this.#ring, activatesAt);
    const wraps: WrappedKey[] = [];
    let bytes: Uint8Array | undefined;
    let failure: unknown;
    try {
      for (const kms of this.#members) {
        try {
          if (bytes === undefined) {
            const generated = await this.#ask(kms, (options) => kms.generate(context, options));
            bytes = generated.dataKey;
            wraps.push({ kms: kms.name, wrapped: generated.wrapped });
          } else {
            const dataKey = bytes;
            wraps.push({
              kms: kms.name,
              wrapped: await this.#ask(kms, (options) => kms.wrap(dataKey, context, options)),
            });
          }
        } catch (error) {
          failure = error;
          this.#reportFailure(kms, error);
        }
      }
      if (bytes === undefined) {
        throw new SealedSessionError("KEY_UNAVAILABLE", `ring ${this.#ring}: no KMS makes a data key`, {
          cause: failure,
        });
      }
      const { commitment, sealingKey } = deriveKeys(bytes);
      sealingKey.fill(0);
      return { commitment, activatesAt, state: RecordState.enabled, wraps };
    } finally {
      bytes?.fill(0);
    }
  }

  /** Opens a record by the first KMS that can, and checks the whole commitment (format 1.3). */
  async unwrap(record: KeyRecord): Promise<UnwrapOutcome> {
    const context = encryptionContext(this.#ring, record.activatesAt);
    let asked = 0;
    let refused = 0;
    let failure: unknown;
    for (const kms of this.#members) {
      const wrap = record.wraps.find((candidate) => candidate.kms === kms.name);
      if (wrap === undefined) continue;
      asked++;
      try {
        const bytes = await this.#ask(kms, (options) => kms.unwrap(wrap.wrapped, context, options));
        const dataKey = this.#verified(bytes, record.commitment);
        if (dataKey !== undefined) return { dataKey, refused: false, failure: undefined };
        refused++;
      } catch (error) {
        failure = error;
        if (hasCode(error, "KMS_DENIED", "KMS_DISABLED")) refused++;
        this.#reportFailure(kms, error);
      }
    }
    return { dataKey: undefined, refused: asked > 0 && refused === asked, failure };
  }

  #verified(bytes: Uint8Array, commitment: Uint8Array): DataKey | undefined {
    try {
      if (bytes.length !== KEY_BYTES) return undefined;
      const dataKey = new DataKey(bytes, this.#dataKeyOptions);
      if (equal(dataKey.commitment, commitment)) return dataKey;
      dataKey.wipe();
      return undefined;
    } finally {
      bytes.fill(0);
    }
  }

  #ask<T>(kms: Kms, call: (options: KmsCallOptions) => Promise<T>): Promise<T> {
    const signal = AbortSignal.timeout(this.#timeoutMs);
    return new Promise((resolve, reject) => {
      const expire = () => {
        const message = `no answer within ${this.#timeoutMs} ms`;
        reject(new KmsError("KMS_UNREACHABLE", message, { kms: kms.name }));
      };
      signal.addEventListener("abort", expire, { once: true });
      call({ signal })
        .then(resolve, reject)
        .finally(() => signal.removeEventListener("abort", expire));
    });
  }

  #reportFailure(kms: Kms, error: unknown): void {
    report({ type: "kms-failed", ring: this.#ring, kms: kms.name, code: codeOf(error) });
  }
}

/** What every wrap of a record is bound to (format 5.2). */
export function encryptionContext(ring: string, activatesAt: number): EncryptionContext {
  return {
    "sealed-session:ring": ring,
    "sealed-session:activates-at": new Date(activatesAt).toISOString(),
  };
}
