/**
 * `rotate sessions`: seals anew what is not under the current key.
 */
import type {
  RotateSessionsOptions as CoreOptions,
  RotationCounts,
  RotationProgress,
  RotationReport,
  Shard,
} from "@sealed-session/core";
import { Checkpoint } from "../checkpoint.js";
import type { CommandContext } from "../command-context.js";
import type { Deployment } from "../deployment.js";
import { formatDuration } from "../duration.js";
import { ExitCode } from "../exit-code.js";
import { formatCount, formatTime, indented, pairsOf, sessionsOf, tableOf } from "../format.js";
import { kmsText } from "../kms-text.js";

import type { Colors, CommandResult } from "../terminal.js";
import { type CountsByCode, endedOf, UnopenedList, type UnopenedSession } from "../unopened-list.js";

/** Options of {@link rotateSessions}. */
export interface RotateSessionsOptions {
  /** Only what lies under keys that began to seal longer ago, in milliseconds. @defaultValue 0 */
  readonly olderThanMs?: number | undefined;
  readonly dryRun?: boolean | undefined;
  /** Sessions looked at in a second. @defaultValue no limit */
  readonly rate?: number | undefined;
  /** Calls for each node at a time. @defaultValue 2 */
  readonly concurrency?: number | undefined;
  readonly shard?: Shard | undefined;
  /** Path of the checkpoint. @defaultValue none */
  readonly checkpoint?: string | undefined;
  /** Path of a list of what does not open. @defaultValue none */
  readonly unopened?: string | undefined;
}

/** The function of core that does it. */
export type RotateFunction = (options: CoreOptions) => Promise<RotationReport>;

/** What a run, and the runs that it went on from, have done. */
export interface SessionRotation extends RotationReport {
  /** Went on from a checkpoint. */
  readonly isResumed: boolean;
  /** The first of those that did not open in this run, and should be looked into. */
  readonly unopened: readonly UnopenedSession[];
  readonly unopenedByCode: CountsByCode;
  readonly shard: Shard;
}

/** How many of those that do not open people are shown. */
const MAX_SHOWN = 20;
const ALL: Shard = { index: 1, count: 1 };

/** Seals sessions anew. */
export async function rotateSessions(
  deployment: Deployment,
  options: RotateSessionsOptions,
  context: CommandContext,
  rotate: RotateFunction,
): Promise<CommandResult> {
  const rotation = await runRotation(deployment, options, context, rotate);
  return {
    document: { rotation: rotationDocument(rotation) },
    text: (colors) => rotationText(rotation, colors) + kmsText(deployment.kmsRequests(), colors),
    exitCode: exitCodeOf(rotation),
  };
}

/** Runs the rotation under the key that seals now, with its checkpoint and its progress. */
export async function runRotation(
  deployment: Deployment,
  {
    olderThanMs = 0,
    dryRun = false,
    rate,
    concurrency,
    shard = ALL,
    checkpoint: path,
    unopened: listPath,
  }: RotateSessionsOptions,
  { terminal, signal, clock }: CommandContext,
  rotate: RotateFunction,
): Promise<SessionRotation> {
  const { ring, sealer, store, namespace } = deployment;
  await ring.refresh();
  const { keyId } = await ring.current();
  const scope = { command: "rotate sessions", ring: ring.name, namespace, keyId, olderThanMs, shard: nameOf(shard) };
  const checkpoint = path === undefined ? undefined : new Checkpoint(path, scope, { clock });
  const earlier = checkpoint?.read();
  if (earlier !== undefined) {
    terminal.say(`Going on from ${path}: ${formatCount(earlier.counts.examined)} sessions were looked at before.`);
  }
  const startedAt = earlier?.startedAt ?? clock();
  const list = new UnopenedList(deployment.storedIds, earlier?.unopened, listPath);
  const progress = terminal.progress(dryRun ? "re-sealing (dry run)" : "re-sealing", earlier?.counts.examined);
  try {
    const report = await rotate({
      ring,
      sealer,
      store,
      olderThanMs,
      dryRun,
      signal,
      ...(rate !== undefined && { ratePerSecond: rate }),
      ...(concurrency !== undefined && { concurrency }),
      ...(shard.count > 1 && { shard }),
      ...(earlier !== undefined && { position: earlier.position, counts: earlier.counts }),
      onPosition: (position, counts) => checkpoint?.note({ startedAt, position, counts, unopened: list.byCode }),
      onProgress: (state) => progress.update(progressOf(state, shard)),
      onUnopened: (storedId, code) => list.add(storedId, code),
    });
    if (report.isInterrupted) checkpoint?.flush();
    else checkpoint?.remove();
    if (report.isInterrupted && path !== undefined) terminal.say(`The same command goes on from ${path}.`);
    return {
      ...report,
      startedAt,
      isResumed: earlier !== undefined,
      unopened: list.first,
      unopenedByCode: list.byCode,
      shard,
    };
  } catch (error) {
    // What was reached counts also when the run fails.
    checkpoint?.flush();
    throw error;
  } finally {
    progress.stop();
    list.close();
  }
}

/** How the process ends after this run. */
export function exitCodeOf(rotation: SessionRotation): ExitCode {
  const { isInterrupted, isDryRun, counts } = rotation;
  if (isInterrupted) return ExitCode.interrupted;
  // What stays under an old key whatever this command does.
  return !isDryRun && brokenOf(rotation) + counts.clientBound > 0 ? ExitCode.left : ExitCode.done;
}

/** The run for scripts. */
export function rotationDocument(rotation: SessionRotation): Record<string, unknown> {
  const { keyId, startedAt, endedAt, isInterrupted, isDryRun, isResumed, counts, unopened, unopenedByCode, shard } =
    rotation;
  const { byKey, ...numbers } = counts;
  return {
    keyId,
    startedAt: new Date(startedAt).toISOString(),
    endedAt: new Date(endedAt).toISOString(),
    isInterrupted,
    isDryRun,
    isResumed,
    shard,
    counts: numbers,
    foundUnderKey: byKey,
    unopened: { total: counts.unopened, byCode: unopenedByCode, first: unopened },
  };
}

/** The run for people. */
export function rotationText(rotation: SessionRotation, colors: Colors): string {
  const { keyId, startedAt, endedAt, isInterrupted, isDryRun, counts, shard } = rotation;
  const tookMs = endedAt - startedAt;
  // Between the runs of one that was resumed anything may have gone by.
  const rate =
    tookMs > 0 && !rotation.isResumed ? `, ${formatCount(Math.round((1000 * counts.examined) / tookMs))}/s` : "";
  const title = isInterrupted
    ? "Interrupted: sessions re-sealed so far"
    : isDryRun
      ? "Dry run: nothing was changed"
      : "Sessions re-sealed";
  const skipped = skippedOf(rotation);
  const broken = brokenOf(rotation);
  const pairs = [
    ["under key", colors.bold(keyId)],
    ...(shard.count > 1 ? [["shard", nameOf(shard)] as const] : []),
    ["from", formatTime(startedAt)],
    ["to", `${formatTime(endedAt)}, ${formatDuration(tookMs)}`],
    ["looked at", `${sessionsOf(counts.examined)}${rate}`],
    [isDryRun ? "to re-seal" : "re-sealed", formatCount(counts.resealed)],
    ["under it before", formatCount(counts.current)],
    ...skipped.map(([what, count]) => ["skipped", `${formatCount(count)} ${what}`] as const),
    ...(broken > 0 ? [["do not open", colors.red(`${formatCount(broken)}, left alone`)] as const] : []),
  ] as const;
  const paragraphs = [
    `${colors.cyan(title)}\n${pairsOf(pairs, colors.dim)}`,
    byKeyText(counts, keyId, colors),
    unopenedText(rotation, colors),
  ];
  return paragraphs.filter((paragraph) => paragraph !== "").join("\n\n");
}

/** Those that do not open, and have not ended. */
function brokenOf({ counts, unopenedByCode }: SessionRotation): number {
  return counts.unopened - endedOf(unopenedByCode);
}

function skippedOf({ counts, unopenedByCode }: SessionRotation): [what: string, count: number][] {
  const reasons: [string, number][] = [
    ["under a key that is not older than --older-than", counts.younger],
    ["bound to their clients: only a request with the cookie re-seals them", counts.clientBound],
    ["written by somebody else meanwhile, under the current key", counts.overtaken],
    ["under a revoked or retired key: they have ended", endedOf(unopenedByCode)],
    ["ended meanwhile", counts.gone],
    ["past the end of their absolute life", counts.expired],
    ["that are no envelopes", counts.foreign],
  ];
  return reasons.filter(([, count]) => count > 0);
}

function byKeyText({ byKey }: Readonly<RotationCounts>, current: string, colors: Colors): string {
  const rows = Object.entries(byKey)
    .sort(([, a], [, b]) => b - a)
    .map(([keyId, count]) => [keyId === current ? colors.green(keyId) : keyId, formatCount(count)]);
  if (rows.length === 0) return "";
  return indented(tableOf([{ head: "found under key" }, { head: "sessions", align: "right" }], rows));
}

function unopenedText(rotation: SessionRotation, colors: Colors): string {
  const shown = rotation.unopened.slice(0, MAX_SHOWN);
  if (shown.length === 0) return "";
  const table = tableOf(
    [{ head: "stored id" }, { head: "why" }],
    shown.map(({ storedId, code }) => [storedId, code]),
  );
  const hidden = brokenOf(rotation) - shown.length;
  const more = hidden > 0 ? `\n  … ${formatCount(hidden)} more: --unopened <file> lists them all` : "";
  return `${colors.cyan("These do not open")}\n${indented(table)}${more}`;
}

function progressOf(state: RotationProgress, { count }: Shard) {
  const { examined, resealed, current, unopened } = state;
  const parts: [number, string][] = [
    [resealed, "re-sealed"],
    [current, "current"],
    [Math.max(0, examined - resealed - current - unopened), "skipped"],
    [unopened, "do not open"],
  ];
  const detail = parts.flatMap(([number, what]) => (number > 0 ? [`${formatCount(number)} ${what}`] : [])).join(", ");
  return { done: examined, total: Math.round(state.total / count), ...(detail !== "" && { detail }) };
}

function nameOf({ index, count }: Shard): string {
  return `${index}/${count}`;
}
