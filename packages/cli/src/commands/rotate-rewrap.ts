/**
 * `rotate rewrap`: wraps the ring's data keys under another KMS key. It works on keys, of which there is a handful, and touches no session.
 */
import type { RewrappedKey } from "@sealed-session/core";
import { CliError, tell } from "../cli-error.js";
import type { CommandContext } from "../command-context.js";
import type { Deployment } from "../deployment.js";
import { ExitCode } from "../exit-code.js";
import { indented, tableOf } from "../format.js";
import { kmsText } from "../kms-text.js";
import type { Colors, CommandResult } from "../terminal.js";

/** Options of {@link rotateRewrap}. */
export interface RotateRewrapOptions {
  /** The name of the KMS that is to wrap every key. */
  readonly to: string;
  /** Takes the wraps of `ring.droppedKms` out of the ring (format 5.6). */
  readonly dropOld: boolean;
}

/** Wraps anew. Ends with {@link ExitCode.left} while a key is not wrapped under the KMS. */
export async function rotateRewrap(
  deployment: Deployment,
  { to, dropOld }: RotateRewrapOptions,
  { terminal }: CommandContext,
): Promise<CommandResult> {
  const { ring, kms, droppedKms } = deployment;
  if (!kms.includes(to)) {
    throw new CliError(
      "USAGE",
      `--to must be the name of a KMS in ring.kms: ${kms.map((name) => `"${name}"`).join(", ")}`,
    );
  }
  if (dropOld && droppedKms.length === 0) {
    throw new CliError(
      "USAGE",
      "--drop-old needs ring.droppedKms, the names of the KMSs that were given up: first in the configuration of every process, then here",
    );
  }
  const keys = await ring.rewrap({ to, dropOld });
  for (const { keyId, failure } of keys) {
    if (failure !== undefined)
      terminal.warn({ code: "NOT_REWRAPPED", message: `key ${keyId}: ${tell(failure).message}` });
  }
  const isDone = keys.every(({ outcome }) => outcome !== "failed");
  return {
    document: { to, dropOld, keys: keys.map(keyDocument) },
    text: (colors) => rewrapText(to, keys, colors) + kmsText(deployment.kmsRequests(), colors),
    exitCode: isDone ? ExitCode.done : ExitCode.left,
  };
}

function keyDocument({ keyId, outcome, kms, failure }: RewrappedKey): Record<string, unknown> {
  if (failure === undefined) return { keyId, outcome, kms };
  const { code, message, requestId } = tell(failure);
  return { keyId, outcome, kms, error: { code, message, ...(requestId !== undefined && { requestId }) } };
}

function rewrapText(to: string, keys: readonly RewrappedKey[], colors: Colors): string {
  const rows = keys.map(({ keyId, outcome, kms }) => [
    keyId,
    outcome === "failed" ? colors.red(outcome) : outcome,
    kms.join("\n"),
  ]);
  const table = tableOf([{ head: "key id" }, { head: "outcome" }, { head: "wrapped by" }], rows);
  return `${colors.cyan(`Data keys under ${to}`)}\n${indented(table)}`;
}
