/**
 * What the command itself refuses, and how any error is told: a code, a sentence, an exit code. Never a secret, an id of a session or session data.
 */
import { hasCode, KmsError } from "@sealed-session/core";
import { CommanderError } from "commander";
import { ExitCode } from "./exit-code.js";

/** The codes of {@link CliError}. */
export type CliErrorCode =
  /** A flag, an argument or a command is wrong. */
  | "USAGE"
  /** A field of the configuration is wrong. */
  | "CONFIG_INVALID"
  /** The configuration file does not exist, or cannot be loaded. */
  | "CONFIG_UNREADABLE"
  /** The checkpoint belongs to another run. */
  | "CHECKPOINT_REFUSED"
  /** The ring has no such key. */
  | "KEY_UNKNOWN"
  /** The key that was to seal does not. */
  | "KEY_NOT_SEALING"
  /** Redis cannot be reached. */
  | "REDIS_UNREACHABLE"
  /** Somebody interrupted. */
  | "INTERRUPTED";

const EXIT_CODES: Readonly<Record<CliErrorCode, ExitCode>> = {
  USAGE: ExitCode.usage,
  CONFIG_INVALID: ExitCode.usage,
  CONFIG_UNREADABLE: ExitCode.usage,
  CHECKPOINT_REFUSED: ExitCode.usage,
  KEY_UNKNOWN: ExitCode.usage,
  KEY_NOT_SEALING: ExitCode.failed,
  REDIS_UNREACHABLE: ExitCode.failed,
  INTERRUPTED: ExitCode.interrupted,
};
const MAX_CAUSES = 4;

/** An error of the command itself. */
export class CliError extends Error {
  override readonly name = "CliError";
  /** What happened, as a stable word. */
  readonly code: CliErrorCode;

  /** @param message - For people; holds no secret. */
  constructor(code: CliErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.code = code;
  }
}

/** An error as it is told. */
export interface ToldError {
  readonly code: string;
  readonly message: string;
  /** The request id of the KMS behind it, to be looked up in its audit log. */
  readonly requestId?: string;
  readonly exitCode: ExitCode;
}

/** @returns how an error is told. */
export function tell(error: unknown): ToldError {
  if (error instanceof CommanderError) {
    return { code: "USAGE", message: withoutValues(error.message), exitCode: ExitCode.usage };
  }
  const message = [...chainOf(error)].map(({ message }) => message).join(": ");
  const requestId = [...chainOf(error)].find(isKmsError)?.requestId;
  return {
    code: codeOf(error),
    message: message === "" ? "something failed that says no more" : message,
    ...(requestId !== undefined && { requestId }),
    exitCode: exitCodeOf(error),
  };
}

function codeOf(error: unknown): string {
  const code: unknown = typeof error === "object" && error !== null && "code" in error ? error.code : undefined;
  return typeof code === "string" ? code : "UNEXPECTED";
}

function exitCodeOf(error: unknown): ExitCode {
  if (error instanceof CliError) return EXIT_CODES[error.code];
  if (hasCode(error, "KEY_IN_USE")) return ExitCode.left;
  return hasCode(error, "LOCAL_KMS_REFUSED") ? ExitCode.usage : ExitCode.failed;
}

/** An error, what led to it, what led to that. */
function* chainOf(error: unknown): Generator<Error> {
  let next = error;
  for (let depth = 0; depth <= MAX_CAUSES && next instanceof Error; depth++) {
    yield next;
    next = next.cause;
  }
}

function isKmsError(error: Error): error is KmsError {
  // Also one of another copy of the package.
  return error instanceof KmsError || error.name === "KmsError";
}

/** The parser quotes what was typed: `--redis-password=…` must not come back. */
function withoutValues(message: string): string {
  return message.replace(/^error: /, "").replace(/('--?[\w-]+)=[^']*'/, "$1'");
}
