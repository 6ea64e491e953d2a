/**
 * From promises to the callbacks that @fastify/session wants.
 */
import { SealedSessionError } from "@sealed-session/core";

/**
 * Runs `work` at once and calls back later, exactly once. What the callback throws is the caller's own affair: it ends up where an exception of
 * any callback does, and in no promise.
 */
export function answer<R>(work: () => Promise<R>, callback: ((error: unknown, result?: R) => void) | undefined): void {
  // The inner function turns what is thrown at once into a rejection too.
  (async () => work())().then(
    (result) => {
      if (callback) process.nextTick(callback, null, result);
    },
    (error: unknown) => {
      if (callback) process.nextTick(callback, presentable(error));
    },
  );
}

/** @fastify/session takes an error whose code is ENOENT for "no such session", and nothing at all for success. */
function presentable(error: unknown): unknown {
  const isMisleading = !error || (typeof error === "object" && "code" in error && error.code === "ENOENT");
  if (!isMisleading) return error;
  return new SealedSessionError("STORE_UNAVAILABLE", "the store or the KMS cannot be reached", { cause: error });
}
