/**
 * `rotate seal`: takes over the plaintext sessions of another store.
 */
import type { Shard } from "@sealed-session/core";
import type { SealReport } from "@sealed-session/redis/rotate";
import type { CommandContext } from "../command-context.js";
import type { Deployment } from "../deployment.js";
import { formatDuration } from "../duration.js";
import { ExitCode } from "../exit-code.js";
import { formatCount, formatTime, pairsOf } from "../format.js";
import { kmsText } from "../kms-text.js";

import type { Colors, CommandResult } from "../terminal.js";

/** Options of {@link rotateSeal}. */
export interface RotateSealOptions {
  /** What the keys of the plaintext sessions begin with, such as `sess:`. */
  readonly prefix: string;
  readonly dryRun: boolean;
  /** Sessions looked at in a second. @defaultValue no limit */
  readonly rate?: number | undefined;
  readonly shard?: Shard | undefined;
}

/** Seals what lies there in clear. Ends with {@link ExitCode.left} while something is left that is no session. */
export async function rotateSeal(
  deployment: Deployment,
  { prefix, dryRun, rate, shard }: RotateSealOptions,
  { terminal, signal }: CommandContext,
): Promise<CommandResult> {
  const progress = terminal.progress(dryRun ? "sealing (dry run)" : "sealing");
  const sealing = deployment.sealPlaintext({
    prefix,
    dryRun,
    signal,
    ...(rate !== undefined && { ratePerSecond: rate }),
    ...(shard !== undefined && { shard }),
    onProgress: ({ examined, sealed, total }) =>
      progress.update({
        done: examined,
        total: Math.round(total / (shard?.count ?? 1)),
        detail: `${formatCount(sealed)} sealed`,
      }),
  });
  const report = await sealing.finally(() => progress.stop());
  const { startedAt, endedAt, isInterrupted, examined, sealed, skipped, unreadable } = report;
  return {
    document: {
      sealing: {
        prefix,
        startedAt: new Date(startedAt).toISOString(),
        endedAt: new Date(endedAt).toISOString(),
        isInterrupted,
        isDryRun: dryRun,
        shard: shard ?? { index: 1, count: 1 },
        counts: { examined, sealed, unreadable },
        skipped,
      },
    },
    text: (colors) => sealText(report, dryRun, colors) + kmsText(deployment.kmsRequests(), colors),
    exitCode: isInterrupted ? ExitCode.interrupted : unreadable > 0 && !dryRun ? ExitCode.left : ExitCode.done,
  };
}

function sealText(report: SealReport, isDryRun: boolean, colors: Colors): string {
  const { startedAt, endedAt, isInterrupted, examined, sealed, skipped, unreadable } = report;
  const title = isInterrupted
    ? "Interrupted: plaintext sessions sealed so far"
    : isDryRun
      ? "Dry run: nothing was changed"
      : "Plaintext sessions sealed";
  const pairs = [
    ["from", formatTime(startedAt)],
    ["to", `${formatTime(endedAt)}, ${formatDuration(endedAt - startedAt)}`],
    ["looked at", formatCount(examined)],
    [isDryRun ? "to seal" : "sealed", formatCount(sealed)],
    ...Object.entries(skipped).map(([why, count]) => ["skipped", `${formatCount(count)} ${why}`] as const),
    ...(unreadable > 0
      ? [["no sessions", colors.red(`${formatCount(unreadable)} that cannot be read, left alone`)] as const]
      : []),
  ] as const;
  return `${colors.cyan(title)}\n${pairsOf(pairs, colors.dim)}`;
}
