/**
 * Failures of Redis as the caller sees them: `STORE_UNAVAILABLE`, without a key and without a byte of data.
 *
 * ioredis hangs the command with all its arguments on its errors, and Redis quotes arguments in some of its messages. So an error
 * never goes on as it came: its cause is a copy of what is known to be harmless.
 */
import { SealedSessionError } from "@sealed-session/core";

/** The first word of an error reply, such as MOVED, LOADING or WRONGTYPE; Redis 6.2 puts a preface before those of scripts. */
const REPLY_CODE = /^(?:.*@user_script: ?\d+: )?-*([A-Z][A-Z0-9_]{1,30})\b/s;
const HARMLESS_FIELDS = ["code", "errno", "syscall", "address", "port"] as const;

/**
 * @param error - What ioredis threw; one of ours goes through as it is.
 * @returns an error with the code `STORE_UNAVAILABLE`.
 */
export function storeError(error: unknown): SealedSessionError {
  if (error instanceof SealedSessionError) return error;
  const cause = harmless(error);
  return new SealedSessionError("STORE_UNAVAILABLE", `Redis cannot be asked: ${cause.message}`, { cause });
}

/** @returns an error with the code `STORE_UNAVAILABLE` for something that Redis did not say itself. */
export function unavailable(reason: string): SealedSessionError {
  return new SealedSessionError("STORE_UNAVAILABLE", `Redis cannot be asked: ${reason}`);
}

/** @returns the first word of an error reply of Redis, or `undefined` for any other error. */
export function replyCode(error: unknown): string | undefined {
  return isReply(error) ? REPLY_CODE.exec(error.message)?.[1] : undefined;
}

/** For what may be forbidden to us: an answer that is refused is an empty one; no answer at all goes on as a failure. */
export function emptyIfRefused(error: unknown): string {
  if (replyCode(error) === undefined) throw error;
  return "";
}

function harmless(error: unknown): Error {
  const cause = new Error(harmlessMessage(error));
  if (error instanceof Error) {
    cause.name = String(error.name);
    for (const field of HARMLESS_FIELDS) {
      const value: unknown = Reflect.get(error, field);
      if (typeof value === "string" || typeof value === "number") Reflect.set(cause, field, value);
    }
  }
  return cause;
}

function harmlessMessage(error: unknown): string {
  if (isReply(error)) return `it answered ${replyCode(error) ?? "with an error"}`;
  if (!(error instanceof Error)) return "something failed that is no error";
  // "Too many Cluster redirections. Last error: ReplyError: …" quotes a reply.
  return error.message.replace(/(Last error:\s*\w*:?\s*[A-Z]*).*$/s, "$1");
}

function isReply(error: unknown): error is Error {
  return error instanceof Error && error.name === "ReplyError";
}
