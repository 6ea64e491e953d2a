/**
 * The KMS of a simulated fleet: it wraps with AES-256-GCM, answers after a virtual while, can be stopped, and knows what each process has
 * asked it before.
 */
import { createCipheriv, createDecipheriv } from "node:crypto";
import {
  type EncryptionContext,
  type Kms,
  type KmsCallOptions,
  KmsError,
  type KmsErrorCode,
} from "@sealed-session/core";
import type { SeededRandom } from "./simulation-random.js";
import type { VirtualTime } from "./virtual-time.js";

const NONCE_BYTES = 12;
const TAG_BYTES = 16;
const KEY_BYTES = 32;

/** What a KMS does with calls: it serves them, answers each with an error, or never answers. */
export type KmsMode = "up" | KmsErrorCode | "hanging";

/** The methods of a KMS. */
export type KmsMethod = "generate" | "wrap" | "unwrap";

/** Whoever wants to know of calls and answers. `wrapped` names a wrapped key: the same text for the same bytes. */
export interface KmsObserver {
  /** A process life sends a call. */
  called(client: KmsClient, method: KmsMethod, wrapped: string | undefined): void;
  /** A process life has a data key in clear for the first time. */
  opened(client: KmsClient, wrapped: string): void;
}

/** One process life's way to the KMS. */
export interface KmsClient extends Kms {
  /** Calls that it sent so far. */
  readonly calls: number;
  /** Wrapped keys that it asked for. */
  readonly asked: ReadonlySet<string>;
  /** Wrapped keys that it was given. */
  readonly opened: ReadonlySet<string>;
}

/** Options of {@link SimulatedKms}. */
export interface SimulatedKmsOptions {
  readonly time: VirtualTime;
  readonly random: SeededRandom;
  /** Virtual milliseconds from a call to its answer. */
  readonly answerMs: number;
  readonly observer?: KmsObserver;
}

/** A KMS with one key-encryption key, which all processes of a fleet share. */
export class SimulatedKms {
  /** What happens to calls from now on, also to those under way. */
  mode: KmsMode = "up";
  readonly #options: SimulatedKmsOptions;
  readonly #key = new Uint8Array(KEY_BYTES);

  constructor(options: SimulatedKmsOptions) {
    this.#options = options;
    options.random.fill(this.#key);
  }

  /** Makes the client of one process life. */
  client(name = "simulated"): KmsClient {
    const { observer } = this.#options;
    const asked = new Set<string>();
    const opened = new Set<string>();
    let calls = 0;
    const ask = async <T>(
      method: KmsMethod,
      wrapped: string | undefined,
      options: KmsCallOptions | undefined,
      answer: () => T,
    ): Promise<T> => {
      calls++;
      observer?.called(client, method, wrapped);
      if (wrapped !== undefined) asked.add(wrapped);
      await this.#answer(name, options?.signal);
      return answer();
    };
    const client: KmsClient = {
      name,
      asked,
      opened,
      get calls() {
        return calls;
      },
      generate: (context, options) =>
        ask("generate", undefined, options, () => {
          const dataKey = new Uint8Array(KEY_BYTES);
          this.#options.random.fill(dataKey);
          return { dataKey, wrapped: this.#wrap(dataKey, context) };
        }),
      wrap: (dataKey, context, options) => ask("wrap", undefined, options, () => this.#wrap(dataKey, context)),
      unwrap: async (wrapped, context, options) => {
        const id = nameOf(wrapped);
        const dataKey = await ask("unwrap", id, options, () => this.#unwrap(name, wrapped, context));
        if (!opened.has(id)) {
          opened.add(id);
          observer?.opened(client, id);
        }
        return dataKey;
      },
    };
    return client;
  }

  async #answer(name: string, signal: AbortSignal | undefined): Promise<void> {
    if (this.mode === "hanging") {
      await new Promise<void>((_, reject) => {
        const abort = () => reject(new KmsError("KMS_UNREACHABLE", "the call was aborted", { kms: name }));
        if (signal?.aborted) abort();
        signal?.addEventListener("abort", abort, { once: true });
      });
    }
    await this.#options.time.delay(this.#options.answerMs);
    const mode: KmsMode = this.mode;
    if (mode === "up") return;
    const code = mode === "hanging" ? "KMS_UNREACHABLE" : mode;
    throw new KmsError(code, "the simulated KMS was told to answer so", { kms: name });
  }

  #wrap(dataKey: Uint8Array, context: EncryptionContext): Uint8Array {
    const nonce = new Uint8Array(NONCE_BYTES);
    this.#options.random.fill(nonce);
    const cipher = createCipheriv("aes-256-gcm", this.#key, nonce).setAAD(aadOf(context));
    return Uint8Array.from(Buffer.concat([nonce, cipher.update(dataKey), cipher.final(), cipher.getAuthTag()]));
  }

  #unwrap(name: string, wrapped: Uint8Array, context: EncryptionContext): Uint8Array {
    try {
      const end = wrapped.length - TAG_BYTES;
      const decipher = createDecipheriv("aes-256-gcm", this.#key, wrapped.subarray(0, NONCE_BYTES));
      decipher.setAAD(aadOf(context)).setAuthTag(wrapped.subarray(end));
      return Uint8Array.from(Buffer.concat([decipher.update(wrapped.subarray(NONCE_BYTES, end)), decipher.final()]));
    } catch (cause) {
      throw new KmsError("KMS_DENIED", "the wrapped key does not belong to this context", { kms: name, cause });
    }
  }
}

/** @returns The text that stands for a wrapped key in a {@link KmsObserver}. */
export function nameOf(wrapped: Uint8Array): string {
  return Buffer.from(wrapped.buffer, wrapped.byteOffset, wrapped.length).toString("latin1");
}

function aadOf(context: EncryptionContext): Uint8Array {
  return Buffer.from(JSON.stringify(Object.entries(context).sort(([a], [b]) => (a < b ? -1 : 1))));
}
