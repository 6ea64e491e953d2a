/**
 * `rotate seal`: adopts plaintext sessions that another store wrote.
 */
import { CliError } from "../cli-error.js";
import type { CommandContext } from "../command-context.js";
import type { Deployment } from "../deployment.js";
import { formatDuration } from "../duration.js";
import { ExitCode } from "../exit-code.js";
import { formatCount, formatTime, pairsOf } from "../format.js";
import { kmsText } from "../kms-text.js";
import type { Shard } from "../option-values.js";
import type { CommandResult } from "../terminal.js";

/** Options of {@link rotateSeal}. */
export interface RotateSealOptions {
  /** What the keys of the plaintext sessions begin with, such as `sess:`. */
  readonly prefix: string;
  /** The envelope takes the plaintext's place under its own key; otherwise it goes to the key that the session store reads. */
  readonly inPlace: boolean;
  readonly dryRun: boolean;
  /** Sessions looked at in a second. @defaultValue no limit */
  readonly rate?: number | undefined;
  readonly shard?: Shard | undefined;
}

/** What a run has done. Times are in milliseconds since 1970-01-01T00:00:00Z. */
interface SealReport {
  readonly startedAt: number;
  readonly endedAt: number;
  readonly isInterrupted: boolean;
  readonly examined: number;
  readonly sealed: number;
  /** By a few words that say why. */
  readonly skipped: Readonly<Record<string, number>>;
  /** Left as they are because they could not be read as sessions. */
  readonly unreadable: number;
}

/** The function that does it. */
export type SealFunction = (
  deployment: Deployment,
  options: RotateSealOptions & {
    readonly signal: AbortSignal;
    readonly onProgress: (state: {
      readonly examined: number;
      readonly sealed: number;
      readonly total: number;
    }) => void;
  },
) => Promise<SealReport>;

/** Seals what lies there in clear. */
export async function rotateSeal(
  deployment: Deployment,
  options: RotateSealOptions,
  { terminal, signal }: CommandContext,
  seal: SealFunction | undefined,
): Promise<CommandResult> {
  if (seal === undefined) throw new CliError("NOT_AVAILABLE", "rotate seal is not available in this version");
  const progress = terminal.progress(options.dryRun ? "sealing (dry run)" : "sealing");
  const onProgress: Parameters<SealFunction>[1]["onProgress"] = ({ examined, sealed, total }) =>
    progress.update({ done: examined, total, detail: `${formatCount(sealed)} sealed` });
  const report = await seal(deployment, { ...options, signal, onProgress }).finally(() => progress.stop());
  const { startedAt, endedAt, isInterrupted, examined, sealed, skipped, unreadable } = report;
  return {
    document: {
      ...report,
      prefix: options.prefix,
      isDryRun: options.dryRun,
      startedAt: new Date(startedAt).toISOString(),
      endedAt: new Date(endedAt).toISOString(),
    },
    text: (colors) => {
      const pairs = [
        ["from", formatTime(startedAt)],
        ["to", `${formatTime(endedAt)}, ${formatDuration(endedAt - startedAt)}`],
        ["looked at", formatCount(examined)],
        [options.dryRun ? "to seal" : "sealed", formatCount(sealed)],
        ...Object.entries(skipped).map(([why, count]) => ["skipped", `${formatCount(count)} ${why}`] as const),
        ...(unreadable > 0 ? [["unreadable", colors.red(`${formatCount(unreadable)}, left alone`)] as const] : []),
      ] as const;
      const title = isInterrupted ? "Interrupted: sessions sealed so far" : "Plaintext sessions sealed";
      return `${colors.cyan(title)}\n${pairsOf(pairs, colors.dim)}${kmsText(deployment.kmsRequests(), colors)}`;
    },
    exitCode: isInterrupted ? ExitCode.interrupted : unreadable > 0 ? ExitCode.left : ExitCode.done,
  };
}
