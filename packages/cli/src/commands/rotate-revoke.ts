/**
 * `rotate revoke`: an emergency. Ends every session under a key.
 */
import type { KeyStatus } from "@sealed-session/core";
import { CliError, tell } from "../cli-error.js";
import type { CommandContext } from "../command-context.js";
import { countSessions } from "../count-sessions.js";
import type { Deployment } from "../deployment.js";
import { ExitCode } from "../exit-code.js";
import { formatTime, pairsOf, sessionsOf } from "../format.js";
import { kmsText } from "../kms-text.js";
import { currentKey, requireKey } from "../ring-key.js";
import type { Colors, CommandResult } from "../terminal.js";

/** Says what revoking does, and how to mean it. @throws CliError `USAGE` without `--now`. */
export function requireNow(now: boolean, keyId: string): void {
  if (now) return;
  throw new CliError(
    "USAGE",
    `revoking key ${keyId} ends every session under it, at once and for good: those users log in again. Nothing was changed. ` +
      "If you mean it, run the same command with --now; to change keys without anybody noticing, run `rotate`",
  );
}

/** Revokes a key first, and counts then: in an emergency nobody waits for a count. */
export async function rotateRevoke(
  deployment: Deployment,
  keyId: string,
  context: CommandContext,
): Promise<CommandResult> {
  const { ring, keys } = deployment;
  const { terminal } = context;
  const { state: before } = await requireKey(deployment, keyId);
  await ring.revoke(keyId);
  const revokedAt = await keys.now().catch(() => context.clock());
  terminal.say(`Key ${keyId} is revoked. Counting what it ends.`);
  const successor = currentKey(deployment);
  if (successor === undefined) {
    terminal.warn({
      code: "NO_KEY_SEALS",
      message: "no key seals now: run `rotate key --now` as soon as a KMS answers",
    });
  }
  const { sessions, exitCode } = await countDropped(deployment, keyId, context);
  const document = {
    keyId,
    stateBefore: before,
    revokedAt: new Date(revokedAt).toISOString(),
    sessionsDropped: sessions ?? null,
    currentKeyId: successor?.keyId ?? null,
  };
  const text = (colors: Colors) =>
    revokedText({ keyId, revokedAt, sessions, successor }, colors) + kmsText(deployment.kmsRequests(), colors);
  return { document, text, exitCode };
}

async function countDropped(deployment: Deployment, keyId: string, context: CommandContext) {
  try {
    const { byKey } = await countSessions(deployment, context);
    return { sessions: byKey.get(keyId) ?? 0, exitCode: ExitCode.done };
  } catch (error) {
    const { message, exitCode } = tell(error);
    context.terminal.warn({
      code: "NOT_COUNTED",
      message: `the key is revoked, but its sessions were not counted: ${message}`,
    });
    return { sessions: undefined, exitCode };
  }
}

function revokedText(
  {
    keyId,
    revokedAt,
    sessions,
    successor,
  }: { keyId: string; revokedAt: number; sessions: number | undefined; successor: KeyStatus | undefined },
  colors: Colors,
): string {
  const pairs = [
    ["key id", colors.bold(keyId)],
    ["revoked", `${formatTime(revokedAt)}; others follow at their next refresh`],
    ["ended", sessions === undefined ? "not counted" : sessionsOf(sessions)],
    ["seals now", successor?.keyId ?? colors.red("no key")],
  ] as const;
  const note = `Put ${keyId} into revokedKeyIds with the next deployment:\n  whoever can write the ring could take the revocation back.`;
  return `${colors.cyan("A data key was revoked")}\n${pairsOf(pairs, colors.dim)}\n\n  ${colors.yellow(note)}`;
}
