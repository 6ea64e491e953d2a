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
import { codeOf, hasCode, SealedSessionError } from "./errors.js";
import type { EncryptionContext, Kms } from "./kms.js";
import { KmsGate } from "./kms-gate.js";
import type { Schedule } from "./schedule.js";

/** What came of opening a record. */
export interface UnwrapOutcome {
  /** The verified key, or `undefined`. */
  readonly dataKey: DataKey | undefined;
  /** The name of the KMS that opened it, or `undefined`. */
  readonly kms: string | undefined;
  /** A KMS was asked, and each that was asked answered that these bytes do not open. `false` when one could not answer. */
  readonly refused: boolean;
  /** The last KMS's error. */
  readonly failure: unknown;
}

/** How a {@link KmsSet} behaves. Times are in milliseconds. */
export interface KmsSetOptions {
  /** After which a call counts as unanswered: a KMS that hangs must not hang the ring. */
  readonly timeoutMs: number;
  /** Milliseconds since 1970-01-01T00:00:00Z. */
  readonly clock: () => number;
  /** How time passes. */
  readonly schedule: Schedule;
  /** How the data keys behave that are opened. */
  readonly dataKeys: DataKeyOptions;
}

interface Member {
  readonly kms: Kms;
  readonly gate: KmsGate;
}

/** One to eight KMSs with names of their own, in the order of preference. */
export class KmsSet {
  readonly #ring: string;
  readonly #members: readonly Member[];
  readonly #options: KmsSetOptions;

  /** @throws TypeError or RangeError when a member is not a KMS, or the set is empty, too large or has a name twice. */
  constructor(ring: string, kms: Kms | readonly Kms[], options: KmsSetOptions) {
    this.#ring = ring;
    this.#options = options;
    const list = Array.isArray(kms) ? [...(kms as readonly Kms[])] : [kms as Kms];
    requireInteger("kms.length", list.length, 1, MAX_WRAPS);
    for (const member of list) {
      requireMethods("kms", member, "generate", "wrap", "unwrap");
      requireUtf8("kms.name", member.name, 1, MAX_KMS_NAME_BYTES);
    }
    if (new Set(list.map(({ name }) => name)).size < list.length) {
      throw new RangeError("every kms must have a name of its own");
    }
    this.#members = list.map((member) => ({ kms: member, gate: this.#gateOf(member.name) }));
  }

  /** Names of the KMSs, in the order of preference. */
  get names(): readonly string[] {
    return this.#members.map(({ kms }) => kms.name);
  }

  /** @returns Whether one of the KMSs has this name. */
  has(name: string): boolean {
    return this.#members.some(({ kms }) => kms.name === name);
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
      for (const { kms, gate } of this.#members) {
        try {
          if (bytes === undefined) {
            const generated = await gate.run(
              (options) => kms.generate(context, options),
              ({ dataKey }) => wipe(dataKey),
            );
            if (generated.dataKey.length !== KEY_BYTES) throw new RangeError(`a data key must have ${KEY_BYTES} bytes`);
            bytes = generated.dataKey;
            wraps.push({ kms: kms.name, wrapped: generated.wrapped });
          } else {
            const dataKey = bytes;
            wraps.push({
              kms: kms.name,
              wrapped: await gate.run((options) => kms.wrap(dataKey, context, options)),
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
    for (const { kms, gate } of this.#members) {
      const wrap = record.wraps.find((candidate) => candidate.kms === kms.name);
      if (wrap === undefined) continue;
      asked++;
      try {
        const bytes = await gate.run((options) => kms.unwrap(wrap.wrapped, context, options), wipe);
        const dataKey = this.#verified(bytes, record.commitment);
        if (dataKey !== undefined) return { dataKey, kms: kms.name, refused: false, failure: undefined };
        refused++;
      } catch (error) {
        failure = error;
        if (hasCode(error, "KMS_DENIED", "KMS_DISABLED")) refused++;
        this.#reportFailure(kms, error);
      }
    }
    return { dataKey: undefined, kms: undefined, refused: asked > 0 && refused === asked, failure };
  }

  /**
   * Whether a KMS opens the wrap that a record has by it.
   *
   * @throws What kept the KMS from answering.
   */
  async opens(record: KeyRecord, name: string): Promise<boolean> {
    const outcome = await this.unwrap({ ...record, wraps: record.wraps.filter(({ kms }) => kms === name) });
    outcome.dataKey?.wipe();
    if (outcome.dataKey === undefined && !outcome.refused && outcome.failure !== undefined) throw outcome.failure;
    return outcome.dataKey !== undefined;
  }

  /**
   * Wraps the data key of a record under one more KMS: inside the KMSs where they can do that, else through this process.
   *
   * @throws KmsError of the KMS that failed last; SealedSessionError `KEY_UNAVAILABLE` when none opens the record, or the new wrap does not open to the
   *   same key.
   */
  async rewrap(record: KeyRecord, to: string): Promise<{ readonly wrap: WrappedKey; readonly isInside: boolean }> {
    const context = encryptionContext(this.#ring, record.activatesAt);
    const target = this.#members.find(({ kms }) => kms.name === to) as Member;
    const sources = this.#members.flatMap((member) => {
      const wrap = record.wraps.find(({ kms }) => kms === member.kms.name);
      return wrap === undefined || member === target ? [] : [{ ...member, wrapped: wrap.wrapped }];
    });
    let failure: unknown;
    for (const { kms, gate, wrapped } of sources) {
      try {
        const inside = await gate.run(async (options) => kms.rewrapTo?.(target.kms, wrapped, context, options));
        const bytes = inside ?? (await this.#wrapAnew(kms, gate, target, wrapped, context));
        const wrap = { kms: to, wrapped: bytes };
        // Nothing is written that does not open: the old wraps may be dropped one day.
        const outcome = await this.unwrap({ ...record, wraps: [wrap] });
        outcome.dataKey?.wipe();
        if (outcome.dataKey !== undefined) return { wrap, isInside: inside !== undefined };
        failure = outcome.failure;
      } catch (error) {
        failure = error;
        this.#reportFailure(kms, error);
      }
    }
    throw failure ?? new SealedSessionError("KEY_UNAVAILABLE", `ring ${this.#ring}: no KMS opens this key`);
  }

  async #wrapAnew(
    kms: Kms,
    gate: KmsGate,
    target: Member,
    wrapped: Uint8Array,
    context: EncryptionContext,
  ): Promise<Uint8Array> {
    const dataKey = await gate.run((options) => kms.unwrap(wrapped, context, options), wipe);
    try {
      return await target.gate.run((options) => target.kms.wrap(dataKey, context, options));
    } finally {
      dataKey.fill(0);
    }
  }

  #verified(bytes: Uint8Array, commitment: Uint8Array): DataKey | undefined {
    try {
      if (bytes.length !== KEY_BYTES) return undefined;
      const dataKey = new DataKey(bytes, this.#options.dataKeys);
      if (equal(dataKey.commitment, commitment)) return dataKey;
      dataKey.wipe();
      return undefined;
    } finally {
      bytes.fill(0);
    }
  }

  #gateOf(kms: string): KmsGate {
    const { clock, schedule, timeoutMs, dataKeys } = this.#options;
    const onChange = (open: boolean) =>
      report({ type: open ? "kms-circuit-opened" : "kms-circuit-closed", ring: this.#ring, kms });
    return new KmsGate({ kms, clock, schedule, timeoutMs, random: dataKeys.random, onChange });
  }

  #reportFailure(kms: Kms, error: unknown): void {
    report({ type: "kms-failed", ring: this.#ring, kms: kms.name, code: codeOf(error) });
  }
}

/** For what a KMS answers after its time: nobody waits for it any more. */
function wipe(bytes: Uint8Array): void {
  bytes.fill(0);
}

/** What every wrap of a record is bound to (format 5.2). */
export function encryptionContext(ring: string, activatesAt: number): EncryptionContext {
  return {
    "sealed-session:ring": ring,
    "sealed-session:activates-at": new Date(activatesAt).toISOString(),
  };
}
