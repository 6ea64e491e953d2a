/**
 * What the SDK throws, as one of the four codes of `KmsError`.
 *
 * The SDK's error does not go on as the `cause`: it holds the whole response, and where an answer is no JSON its message quotes from it,
 * plaintext key and all. What goes on is a copy of what people need: name, status and a message without anything that could be a key.
 */
import { KmsError, type KmsErrorCode } from "@sealed-session/core";

/**
 * Answers of substance, and throttling, by name. Whatever else AWS says counts as no answer, with every status: a ring takes a denial at its word
 * and drops its keys, so that all users are logged out, while without an answer it keeps them for the hours of its `outageLimitMs`.
 *
 * So these are not here, though AWS answers with a status from 400 to 499:
 * - Credentials that expired or are broken, and a clock that is wrong, on our side: ExpiredTokenException, UnrecognizedClientException,
 *   InvalidSignatureException, RequestExpired, OptInRequired and the like. KMS has not come to ask who may use the key.
 * - AccessDenied without `Exception`: STS's answer to whoever fetches the credentials. KMS was not asked.
 * - A name that is new, or none: from a proxy, or from a release of KMS that nobody here has seen. To keep a denied key until the outage's limit
 *   is the smaller harm, and whoever wants it gone disables it: that name is known.
 */
const CODE_OF: Readonly<Record<string, KmsErrorCode>> = {
  AccessDeniedException: "KMS_DENIED",
  IncorrectKeyException: "KMS_DENIED",
  InvalidArnException: "KMS_DENIED",
  InvalidCiphertextException: "KMS_DENIED",
  InvalidGrantTokenException: "KMS_DENIED",
  InvalidKeyUsageException: "KMS_DENIED",
  ValidationException: "KMS_DENIED",
  DisabledException: "KMS_DISABLED",
  NotFoundException: "KMS_DISABLED",
  LimitExceededException: "KMS_THROTTLED",
  RequestLimitExceeded: "KMS_THROTTLED",
  RequestThrottled: "KMS_THROTTLED",
  RequestThrottledException: "KMS_THROTTLED",
  SlowDown: "KMS_THROTTLED",
  ThrottledException: "KMS_THROTTLED",
  Throttling: "KMS_THROTTLED",
  ThrottlingException: "KMS_THROTTLED",
  TooManyRequestsException: "KMS_THROTTLED",
};
/**
 * KMS says this name for a key that somebody has scheduled for deletion or taken the imported material from, and also for every failure of a custom
 * key store, such as a proxy that does not respond (its guide: "Key states", "Troubleshooting external key stores"). Only the message tells them apart.
 */
const INVALID_STATE = "KMSInvalidStateException";
const TAKEN_AWAY = /\bis pending (?:deletion|replica deletion|import)\b/;
const HTTP_TOO_MANY_REQUESTS = 429;
/** Longest part of a message that is copied. */
const MAX_MESSAGE_LENGTH = 512;
/** A key of 32 bytes, or what wraps one, in base64 or hex: at least 43 characters. */
const MAY_BE_KEY = /[A-Za-z0-9+/_=]{43,}/g;
/** Errors of the SDK's own, and of Node's sockets, whose messages quote no answer. */
const PLAIN_NAMES: readonly string[] = ["CredentialsProviderError", "TimeoutError"];
const SYSTEM_CODE = /^E[A-Z_]+$/;
const ERROR_NAME = /^[A-Za-z][\w.]{0,63}$/;

/** An error of the SDK, as far as it is looked at. Any of it may be missing. */
interface SdkError {
  readonly name?: unknown;
  readonly message?: unknown;
  readonly code?: unknown;
  readonly $fault?: unknown;
  readonly $retryable?: { readonly throttling?: unknown } | undefined;
  readonly $metadata?: { readonly httpStatusCode?: unknown; readonly requestId?: unknown } | undefined;
}

/** @returns The `KmsError` for what a call to the SDK threw. */
export function kmsFailure(kms: string, operation: string, thrown: unknown): KmsError {
  const error: SdkError = typeof thrown === "object" && thrown !== null ? thrown : {};
  const { httpStatusCode: status, requestId } = error.$metadata ?? {};
  const name = typeof error.name === "string" && ERROR_NAME.test(error.name) ? error.name : "Error";
  const isAnswer = typeof status === "number" && status >= 300;
  const message = `AWS KMS ${operation}: ${name}${isAnswer ? `, status ${status}` : ""}`;
  return new KmsError(codeOf(error, name, isAnswer ? status : undefined), message, {
    kms,
    cause: copyOf(error, name),
    ...(typeof requestId === "string" && { requestId }),
  });
}

function codeOf(error: SdkError, name: string, status: number | undefined): KmsErrorCode {
  // Without a status nobody answered: the network, a time-out, missing credentials, or an answer that is none.
  if (status === undefined) return "KMS_UNREACHABLE";
  if (name === INVALID_STATE) return TAKEN_AWAY.test(String(error.message)) ? "KMS_DISABLED" : "KMS_UNREACHABLE";
  const code = Object.hasOwn(CODE_OF, name) ? CODE_OF[name] : undefined;
  if (code !== undefined) return code;
  const isThrottled = status === HTTP_TOO_MANY_REQUESTS || error.$retryable?.throttling === true;
  return isThrottled ? "KMS_THROTTLED" : "KMS_UNREACHABLE";
}

function copyOf(error: SdkError, name: string): Error {
  const code = typeof error.code === "string" && SYSTEM_CODE.test(error.code) ? error.code : undefined;
  const isPlain = error.$fault !== undefined || code !== undefined || PLAIN_NAMES.includes(name);
  const message = isPlain && typeof error.message === "string" ? error.message : "";
  const copy = new Error(message.replaceAll(MAY_BE_KEY, "…").slice(0, MAX_MESSAGE_LENGTH));
  copy.name = name;
  return code === undefined ? copy : Object.assign(copy, { code });
}
