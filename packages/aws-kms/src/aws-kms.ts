/**
 * One symmetric KMS key as a `Kms`: data keys are made, wrapped and unwrapped by AWS.
 *
 * The key ring calls it once for each data key and process. Retries are the SDK's alone.
 */
import {
  DecryptCommand,
  type DecryptCommandOutput,
  DescribeKeyCommand,
  type DescribeKeyCommandOutput,
  EncryptCommand,
  type EncryptCommandOutput,
  GenerateDataKeyCommand,
  type GenerateDataKeyCommandOutput,
  ReEncryptCommand,
  type ReEncryptCommandOutput,
} from "@aws-sdk/client-kms";
import {
  type EncryptionContext,
  type GeneratedDataKey,
  type Kms,
  type KmsCallOptions,
  KmsError,
} from "@sealed-session/core";
import { isSameKey, regionOf, requireKeyId, requireName } from "./key-id.js";
import { kmsFailure } from "./kms-failure.js";

const DATA_KEY_BYTES = 32;
/** Format 5.1. KMS itself makes about 200 for a data key. */
const MAX_WRAPPED_BYTES = 4096;
const ANYTHING = /^/;

/** What the SDK's `send` is given beside the command. */
export interface KmsSendOptions {
  /** Aborts the call. */
  readonly abortSignal?: AbortSignal;
}

/** The part of `KMSClient` that is used. Region, credentials, endpoint (also a FIPS one), time-outs and retries are the client's. */
export interface KmsClient {
  /** Makes a data key. */
  send(command: GenerateDataKeyCommand, options?: KmsSendOptions): Promise<GenerateDataKeyCommandOutput>;
  /** Wraps a data key. */
  send(command: EncryptCommand, options?: KmsSendOptions): Promise<EncryptCommandOutput>;
  /** Unwraps a data key. */
  send(command: DecryptCommand, options?: KmsSendOptions): Promise<DecryptCommandOutput>;
  /** Wraps a wrapped key under another KMS key. */
  send(command: ReEncryptCommand, options?: KmsSendOptions): Promise<ReEncryptCommandOutput>;
  /** Describes the KMS key. */
  send(command: DescribeKeyCommand, options?: KmsSendOptions): Promise<DescribeKeyCommandOutput>;
}

/** Options of {@link awsKms}. */
export interface AwsKmsOptions {
  /** Key id or key ARN of a symmetric encryption key. An alias is refused: once it is pointed at another key, nothing opens any more. */
  readonly keyId: string;
  /** The `KMSClient` of the key's region. It stays the caller's: nothing is set on it, and it is not destroyed. */
  readonly client: KmsClient;
  /**
   * Names the key in key records, 1 to 64 bytes of UTF-8: the same in every process, and never given to another key.
   *
   * @defaultValue `aws:<region>:<id>` for an ARN, `aws:<id>` for a key id. With the id alone, the replicas of a multi-Region key have one
   *   name: each region opens with its own what the others wrapped.
   */
  readonly name?: string;
}

/** Options of {@link AwsKms.rewrap}. */
export interface RewrapOptions extends KmsCallOptions {
  /** Key id or key ARN under which the data key is wrapped anew, in the same region. */
  readonly to: string;
  /** What the new wrap is bound to. @defaultValue the context of the old one */
  readonly destinationContext?: EncryptionContext;
}

/** What AWS says about a key. */
export interface AwsKeyDescription {
  /** Its ARN. */
  readonly arn: string;
  /** It can be used now. */
  readonly enabled: boolean;
  /** `Enabled`, `Disabled`, `PendingDeletion`, `PendingImport`, `Unavailable` and so on. */
  readonly state: string;
  /** `SYMMETRIC_DEFAULT` for a key that can be used here. */
  readonly spec: string;
  /** `ENCRYPT_DECRYPT` for a key that can be used here. */
  readonly usage: string;
  /** It is, or may have, a replica in another region. */
  readonly multiRegion: boolean;
}

/** A key in AWS KMS. All methods reject with a `KmsError` of one of the four codes, with AWS's request id where it answered. */
export interface AwsKms extends Kms {
  /** Asks AWS about the key (DescribeKey), for checks. The ring never calls it. */
  describe(options?: KmsCallOptions): Promise<AwsKeyDescription>;

  /**
   * Wraps a wrapped data key under another KMS key of the region, inside KMS: the data key never leaves it (ReEncrypt). For moving to another key.
   *
   * @param wrapped - What this key wrapped.
   * @param context - What it was wrapped with.
   * @returns The wrapped key for an `awsKms` of the other key, 1 to 4096 bytes.
   * @throws TypeError or RangeError when `to` is no key id and no key ARN.
   */
  rewrap(wrapped: Uint8Array, context: EncryptionContext, options: RewrapOptions): Promise<Uint8Array>;
}

/**
 * Makes a `Kms` of a symmetric key in AWS KMS: GenerateDataKey, Encrypt and Decrypt, each with the encryption context, and Decrypt always with
 * the key's id, so that KMS refuses what another key wrapped.
 *
 * Nothing is retried here: `maxAttempts` of the client counts, and the ring's `kmsTimeoutMs` bounds all attempts together.
 *
 * | code | when |
 * |---|---|
 * | `KMS_DENIED` | no permission, another key, a key of another kind, or a wrapped key that does not belong to the context |
 * | `KMS_DISABLED` | the key is disabled, pending deletion, without its imported material, or gone |
 * | `KMS_THROTTLED` | KMS throttles |
 * | `KMS_UNREACHABLE` | no answer, an answer that cannot be understood, a status from 500, or the call was aborted; no credentials, or such as AWS does not take (expired, wrongly signed, by a wrong clock); a custom key store that is disconnected or out; any answer whose name is not known |
 *
 * The `cause` of an error is a copy of the SDK's error without the response, since that may hold a key.
 *
 * @throws TypeError or RangeError when an option is wrong.
 */
export function awsKms(options: AwsKmsOptions): AwsKms {
  const { keyId, client, name } = options;
  requireKeyId("keyId", keyId);
  if (typeof client !== "object" || client === null) throw new TypeError("client must be an object");
  if (typeof client.send !== "function") throw new TypeError("client.send must be a function");
  return new KeyInAws(requireName(name, keyId), keyId, client);
}

class KeyInAws implements AwsKms {
  readonly name: string;
  readonly #keyId: string;
  readonly #client: KmsClient;

  constructor(name: string, keyId: string, client: KmsClient) {
    this.name = name;
    this.#keyId = keyId;
    this.#client = client;
  }

  async generate(context: EncryptionContext, options?: KmsCallOptions): Promise<GeneratedDataKey> {
    const command = new GenerateDataKeyCommand({
      KeyId: this.#keyId,
      NumberOfBytes: DATA_KEY_BYTES,
      EncryptionContext: { ...context },
    });
    const answer = await this.#ask("GenerateDataKey", options, (send) => this.#client.send(command, send));
    const dataKey = takeSecret(answer.Plaintext);
    try {
      if (dataKey?.length !== DATA_KEY_BYTES) throw this.#misunderstood("GenerateDataKey", answer);
      this.#requireKey("GenerateDataKey", answer, answer.KeyId);
      return { dataKey, wrapped: this.#wrapped("GenerateDataKey", answer) };
    } catch (error) {
      dataKey?.fill(0);
      throw error;
    }
  }

  async wrap(dataKey: Uint8Array, context: EncryptionContext, options?: KmsCallOptions): Promise<Uint8Array> {
    if (dataKey.length !== DATA_KEY_BYTES) throw new RangeError(`dataKey must have ${DATA_KEY_BYTES} bytes`);
    const command = new EncryptCommand({ KeyId: this.#keyId, Plaintext: dataKey, EncryptionContext: { ...context } });
    const answer = await this.#ask("Encrypt", options, (send) => this.#client.send(command, send));
    this.#requireKey("Encrypt", answer, answer.KeyId);
    return this.#wrapped("Encrypt", answer);
  }

  async unwrap(wrapped: Uint8Array, context: EncryptionContext, options?: KmsCallOptions): Promise<Uint8Array> {
    const command = new DecryptCommand({
      KeyId: this.#keyId,
      CiphertextBlob: wrapped,
      EncryptionContext: { ...context },
    });
    const answer = await this.#ask("Decrypt", options, (send) => this.#client.send(command, send));
    const dataKey = takeSecret(answer.Plaintext);
    try {
      if (dataKey === undefined) throw this.#misunderstood("Decrypt", answer);
      this.#requireKey("Decrypt", answer, answer.KeyId);
      if (dataKey.length !== DATA_KEY_BYTES) {
        throw this.#error("KMS_DENIED", `what was wrapped has not ${DATA_KEY_BYTES} bytes`, "Decrypt", answer);
      }
      return dataKey;
    } catch (error) {
      dataKey?.fill(0);
      throw error;
    }
  }

  async rewrap(wrapped: Uint8Array, context: EncryptionContext, options: RewrapOptions): Promise<Uint8Array> {
    const { to, destinationContext = context } = options;
    requireKeyId("to", to);
    const command = new ReEncryptCommand({
      CiphertextBlob: wrapped,
      SourceKeyId: this.#keyId,
      SourceEncryptionContext: { ...context },
      DestinationKeyId: to,
      DestinationEncryptionContext: { ...destinationContext },
    });
    const answer = await this.#ask("ReEncrypt", options, (send) => this.#client.send(command, send));
    this.#requireKey("ReEncrypt", answer, answer.SourceKeyId);
    this.#requireKey("ReEncrypt", answer, answer.KeyId, to);
    return this.#wrapped("ReEncrypt", answer);
  }

  async rewrapTo(
    target: Kms,
    wrapped: Uint8Array,
    context: EncryptionContext,
    options?: KmsCallOptions,
  ): Promise<Uint8Array | undefined> {
    // ReEncrypt works within one region: where both names say which, or both keys are asked through one client.
    if (!(target instanceof KeyInAws)) return undefined;
    const region = regionOf(this.#keyId);
    const isSameRegion = region !== undefined && region === regionOf(target.#keyId);
    if (!isSameRegion && target.#client !== this.#client) return undefined;
    return this.rewrap(wrapped, context, { ...options, to: target.#keyId });
  }

  async describe(options?: KmsCallOptions): Promise<AwsKeyDescription> {
    const command = new DescribeKeyCommand({ KeyId: this.#keyId });
    const answer = await this.#ask("DescribeKey", options, (send) => this.#client.send(command, send));
    const { Arn, Enabled, KeySpec, KeyState, KeyUsage, MultiRegion } = answer.KeyMetadata ?? {};
    if (Arn === undefined || KeyState === undefined || KeySpec === undefined || KeyUsage === undefined) {
      throw this.#misunderstood("DescribeKey", answer);
    }
    this.#requireKey("DescribeKey", answer, Arn);
    const enabled = Enabled === true && KeyState === "Enabled";
    return { arn: Arn, enabled, state: KeyState, spec: KeySpec, usage: KeyUsage, multiRegion: MultiRegion === true };
  }

  async #ask<T>(
    operation: string,
    options: KmsCallOptions | undefined,
    call: (options: KmsSendOptions) => Promise<T>,
  ): Promise<T> {
    const signal = options?.signal;
    try {
      signal?.throwIfAborted();
      return await call(signal === undefined ? {} : { abortSignal: signal });
    } catch (error) {
      if (!signal?.aborted) throw kmsFailure(this.name, operation, error);
      const message = `AWS KMS ${operation}: the call was aborted`;
      throw new KmsError("KMS_UNREACHABLE", message, { kms: this.name, cause: signal.reason });
    } finally {
      // The SDK matches what it decodes from base64, and `RegExp.input` keeps the text, a key, until something else is matched.
      ANYTHING.test("");
    }
  }

  #wrapped(operation: string, answer: Answer & { readonly CiphertextBlob?: Uint8Array | undefined }): Uint8Array {
    const { length } = answer.CiphertextBlob ?? [];
    if (answer.CiphertextBlob === undefined || length < 1 || length > MAX_WRAPPED_BYTES) {
      throw this.#misunderstood(operation, answer);
    }
    return new Uint8Array(answer.CiphertextBlob);
  }

  #requireKey(operation: string, answer: Answer, answered: string | undefined, keyId = this.#keyId): void {
    if (isSameKey(answered, keyId)) return;
    throw this.#error("KMS_DENIED", "the answer is of another key", operation, answer);
  }

  #misunderstood(operation: string, answer: Answer): KmsError {
    return this.#error("KMS_UNREACHABLE", "the answer cannot be understood", operation, answer);
  }

  #error(code: "KMS_DENIED" | "KMS_UNREACHABLE", what: string, operation: string, { $metadata }: Answer): KmsError {
    const { requestId } = $metadata;
    const details = { kms: this.name, ...(requestId !== undefined && { requestId }) };
    return new KmsError(code, `AWS KMS ${operation}: ${what}`, details);
  }
}

/** What every answer of the SDK carries. */
interface Answer {
  readonly $metadata: { readonly requestId?: string | undefined };
}

/**
 * The SDK decodes into a shared pool of buffers: the receiver gets an array of its own, and the pool's bytes are wiped. The array is made of an
 * ArrayBuffer because V8 keeps other small ones on its heap: their bytes are copied when they are collected or used in native code, and what they were
 * copied from is never wiped.
 */
function takeSecret(bytes: Uint8Array | undefined): Uint8Array | undefined {
  if (bytes === undefined) return undefined;
  const own = new Uint8Array(new ArrayBuffer(bytes.length));
  own.set(bytes);
  bytes.fill(0);
  return own;
}
