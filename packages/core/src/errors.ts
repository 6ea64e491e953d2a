/**
 * Every error of the library: one base class, a closed list of codes.
 *
 * Recognise an error by its `code`, not by its class: two copies of a package may meet in one process. Messages name
 * the field and the limit, never a value that came from a session, a key or an id. `docs/errors.md` says for each code
 * what happened, what to do and whether a retry is safe.
 */

/**
 * The codes of {@link SealedSessionError}, in four families: the envelope is bad, the key is not to be had, try later,
 * the value or the call is wrong. [Errors](../../../docs/errors.md) says for each what happened, what to do and whether a retry is safe.
 */
export type ErrorCode =
  // This envelope is bad: the session is lost, or somebody altered it.
  | "ENVELOPE_REJECTED"
  | "ENVELOPE_EXPIRED"
  | "KEY_REVOKED"
  | "KEY_RETIRED"
  | "KEY_DENIED"
  // A key is not to be had: raise an alarm.
  | "KEY_UNAVAILABLE"
  | "KEY_RECORD_INVALID"
  | "KEY_IN_USE"
  | "KMS_DENIED"
  | "KMS_DISABLED"
  | "LOCAL_KMS_REFUSED"
  | "CLOCK_SKEW"
  // Try later.
  | "KMS_THROTTLED"
  | "KMS_UNREACHABLE"
  | "STORE_UNAVAILABLE"
  | "STORE_CONFLICT"
  | "LOGIN_OVERTAKEN"
  // The value or the call is wrong.
  | "VALUE_UNSUPPORTED"
  | "VALUE_CYCLIC"
  | "VALUE_TOO_DEEP"
  | "VALUE_TOO_LARGE"
  | "PAYLOAD_MALFORMED"
  | "SESSION_ID_INVALID"
  | "SESSION_EXISTS"
  | "CLOSED";

/** The base class of all errors that this library throws, apart from `TypeError` and `RangeError` for wrong arguments. */
export class SealedSessionError extends Error {
  /** Name of the class, for logs; tell errors apart by {@link SealedSessionError.code}. */
  override readonly name: string = "SealedSessionError";
  /** What happened, as a stable word. */
  readonly code: ErrorCode;

  /**
   * @param code - What happened.
   * @param message - For people; holds no secret, no session id and no session data.
   * @param options - The `cause`, when another error led here.
   */
  constructor(code: ErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** A value that cannot be sealed faithfully. The session was not written. */
export class UnsupportedValueError extends SealedSessionError {
  /** Name of the class, for logs. */
  override readonly name = "UnsupportedValueError";
  /** Where the value stands, such as `cart.items[3].price`; empty for the value itself. */
  readonly path: string;

  /**
   * @param code - One of the `VALUE_` codes.
   * @param path - Where the value stands.
   * @param reason - What is wrong with it, without the value.
   */
  constructor(code: Extract<ErrorCode, `VALUE_${string}`>, path: string, reason: string) {
    super(code, `${path === "" ? "the value" : path}: ${reason}`);
    this.path = path;
  }
}

/** The four ways in which a KMS fails: {@link Kms} says what each means. */
export type KmsErrorCode = Extract<ErrorCode, `KMS_${string}`>;

/** A failure that a KMS reported, or that kept it from answering. */
export class KmsError extends SealedSessionError {
  /** Name of the class, for logs. */
  override readonly name = "KmsError";
  /** The name of the KMS, as in a key record's wrap. */
  readonly kms: string;
  /** The request id that the KMS gave, to be looked up in its audit log. */
  readonly requestId: string | undefined;

  /**
   * @param code - `KMS_DENIED`: it will not do this for us, or not with these bytes and this context. `KMS_DISABLED`: the
   *   key is disabled or gone. `KMS_THROTTLED` and `KMS_UNREACHABLE`: no answer of substance, ask again later.
   * @param message - For people.
   * @param details - The KMS's name, its request id and the error behind this one.
   */
  constructor(code: KmsErrorCode, message: string, details: { kms: string; requestId?: string; cause?: unknown }) {
    super(code, message, details.cause === undefined ? undefined : { cause: details.cause });
    this.kms = details.kms;
    this.requestId = details.requestId;
  }
}

/**
 * Tells whether an error carries one of the given codes, whatever copy of this package made it.
 *
 * @param error - Anything that was thrown.
 * @param codes - The codes to look for.
 * @returns `false` also for anything that is no error.
 */
export function hasCode(error: unknown, ...codes: readonly ErrorCode[]): boolean {
  return (
    typeof error === "object" && error !== null && "code" in error && (codes as readonly unknown[]).includes(error.code)
  );
}

/** @returns The one error for everything that is wrong with an envelope: same code, same message, no detail. */
export function rejected(): SealedSessionError {
  return new SealedSessionError("ENVELOPE_REJECTED", "the envelope was rejected");
}

/** @returns The error for an envelope under a revoked key. */
export function revoked(): SealedSessionError {
  return new SealedSessionError("KEY_REVOKED", "the data key of this envelope was revoked");
}

/** @returns The error for an envelope under a key that the KMS had opened and refuses now. */
export function denied(cause: unknown): SealedSessionError {
  return new SealedSessionError("KEY_DENIED", "the KMS denies the data key of this envelope", { cause });
}

/** @returns The code of an error of this library, for diagnostics. */
export function codeOf(error: unknown): ErrorCode | undefined {
  return typeof error === "object" && error !== null && "code" in error ? (error.code as ErrorCode) : undefined;
}
