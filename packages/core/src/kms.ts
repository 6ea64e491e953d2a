/**
 * The port to a key management service: it makes, wraps and unwraps data keys, and never sees a session.
 *
 * The key ring calls it once for each data key and process and then once every few minutes, never in a warm request.
 */

/**
 * Additional data that the KMS authenticates with a wrapped key, as names and values. KMS audit logs show it in clear:
 * nothing that names a person or a session belongs here.
 */
export type EncryptionContext = Readonly<Record<string, string>>;

/** A new data key, in clear and wrapped. */
export interface GeneratedDataKey {
  /** 32 random bytes. The receiver owns the array and wipes it. */
  readonly dataKey: Uint8Array;
  /** The same key, wrapped: 1 to 4096 bytes. */
  readonly wrapped: Uint8Array;
}

/** What every call to a KMS may be given. */
export interface KmsCallOptions {
  /** Aborts the call; it then rejects with `KMS_UNREACHABLE`. */
  readonly signal?: AbortSignal;
}

/**
 * A key management service holding one key-encryption key.
 *
 * Every method rejects with a {@link KmsError} of one of four codes. Two are answers: `KMS_DENIED` (it knows who asks and refuses: no permission,
 * or bytes and context that do not belong together) and `KMS_DISABLED` (the key is disabled, pending deletion or gone). A process that is given
 * one of them for a data key that it had opened forgets the key, and its sessions count as gone. The other two are outages, through which data keys
 * in memory serve on: `KMS_THROTTLED`, and `KMS_UNREACHABLE` (also a time-out, credentials that expired, a wrong clock). When in doubt it is an outage.
 */
export interface Kms {
  /** Names the key-encryption key in key records: 1 to 64 bytes of UTF-8, the same in every process of a fleet. */
  readonly name: string;

  /**
   * Makes a data key of 32 bytes and wraps it.
   *
   * @param context - What {@link Kms.unwrap} will have to be given as well.
   */
  generate(context: EncryptionContext, options?: KmsCallOptions): Promise<GeneratedDataKey>;

  /**
   * Wraps a data key of 32 bytes. The caller keeps and wipes `dataKey`.
   *
   * @returns The wrapped key, 1 to 4096 bytes.
   */
  wrap(dataKey: Uint8Array, context: EncryptionContext, options?: KmsCallOptions): Promise<Uint8Array>;

  /**
   * Unwraps what {@link Kms.generate} or {@link Kms.wrap} returned for the same context.
   *
   * @returns 32 bytes, owned and wiped by the caller.
   */
  unwrap(wrapped: Uint8Array, context: EncryptionContext, options?: KmsCallOptions): Promise<Uint8Array>;

  /**
   * Wraps a wrapped data key under another KMS without the data key leaving either, where that can be done. Optional.
   *
   * @param target - The other one.
   * @param wrapped - What this one wrapped.
   * @param context - What it was wrapped with, and will be wrapped with again.
   * @returns What `target` opens, or `undefined` where the two cannot do it between them.
   */
  rewrapTo?(
    target: Kms,
    wrapped: Uint8Array,
    context: EncryptionContext,
    options?: KmsCallOptions,
  ): Promise<Uint8Array | undefined>;
}
