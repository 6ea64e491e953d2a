/**
 * The port to a database that keeps envelopes: bytes under a stored id, with a time to live.
 *
 * A store knows nothing of keys or sessions. `storeSuite` of `@sealed-session/core/testing` proves an implementation.
 */

/** The longest time to live that a store has to accept, in milliseconds: ten years of 365 days. */
export const MAX_TTL_MS = 315_360_000_000;

/** Options of {@link EnvelopeStore.get}. */
export interface GetEnvelopeOptions {
  /**
   * Sets the time to live anew in the same command, in milliseconds.
   *
   * @defaultValue The time to live stays as it is.
   */
  readonly slideMs?: number;
}

/** When {@link EnvelopeStore.set} writes: `always`, only under an id where nothing lives, or only over a living envelope. */
export type SetCondition = "always" | "absent" | "present";

/** Options of {@link EnvelopeStore.set}. */
export interface SetEnvelopeOptions {
  /** Time to live from now on, in milliseconds: 1 to {@link MAX_TTL_MS}. */
  readonly ttlMs: number;
  /**
   * `absent` writes only under a new id, `present` only over a living envelope.
   *
   * @defaultValue "always"
   */
  readonly condition?: SetCondition;
}

/** Options of {@link EnvelopeStore.compareAndSet}. */
export interface CompareAndSetOptions {
  /**
   * Time to live from now on, in milliseconds.
   *
   * @defaultValue The remaining time to live is kept, to the millisecond.
   */
  readonly ttlMs?: number;
}

/** Options of {@link EnvelopeStore.destroy}. */
export interface DestroyEnvelopeOptions {
  /**
   * Remove these bytes, and only these.
   *
   * @defaultValue Whatever lives under the id is removed.
   */
  readonly expected?: Uint8Array;
}

/**
 * Keeps envelopes. All methods reject with `STORE_UNAVAILABLE` when the database cannot be asked within the store's deadline;
 * the outcome of a write is then unknown. None of them ever answers "no such session" for that reason.
 *
 * A stored id is 1 to 512 bytes of well-formed UTF-8 without `{` and `}` (braces would choose a Redis Cluster slot), an envelope
 * is at least one byte. Methods reject with a `TypeError` or `RangeError` on anything else, and on a time to live that is not an
 * integer from 1 to {@link MAX_TTL_MS}.
 */
export interface EnvelopeStore {
  /**
   * Reads an envelope.
   *
   * @returns The envelope, or `undefined` when none lives under this id. The array belongs to the caller.
   */
  get(storedId: string, options?: GetEnvelopeOptions): Promise<Uint8Array | undefined>;

  /**
   * Writes an envelope with a time to live.
   *
   * @returns `false` when the condition did not hold. A refused `absent` whose stored bytes equal these is a success: a
   *   client may have sent the command twice.
   */
  set(storedId: string, envelope: Uint8Array, options: SetEnvelopeOptions): Promise<boolean>;

  /**
   * Replaces an envelope if it still is, byte for byte, the expected one.
   *
   * @returns `false` when another envelope, or none, lives under this id. Bytes that already equal `envelope` are a success:
   *   `ttlMs` then applies as if they had just been written.
   */
  compareAndSet(
    storedId: string,
    expected: Uint8Array,
    envelope: Uint8Array,
    options?: CompareAndSetOptions,
  ): Promise<boolean>;

  /** Sets the time to live anew, in milliseconds. @returns `false` when nothing lives under this id. */
  touch(storedId: string, ttlMs: number): Promise<boolean>;

  /**
   * Removes an envelope.
   *
   * @returns `false` when nothing lived under this id, or not the expected bytes.
   */
  destroy(storedId: string, options?: DestroyEnvelopeOptions): Promise<boolean>;

  /**
   * Tells how long an envelope still lives.
   *
   * @returns The remaining time to live in milliseconds, or `undefined` when nothing lives under this id. {@link MAX_TTL_MS} for an
   *   envelope that somebody has deprived of its expiry.
   */
  ttlMs(storedId: string): Promise<number | undefined>;

  /**
   * Walks over the stored ids of all envelopes, each once, in no order. What lives from the start of the walk to its end
   * is met; what comes or goes meanwhile may be met.
   */
  scan(): AsyncIterable<string>;
}
