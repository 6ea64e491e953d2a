/**
 * `rotate status`: the keys of the ring, how old they are, and how many sessions lie under each.
 */
import type { KeyStatus } from "@sealed-session/core";
import { tell } from "../cli-error.js";
import type { CommandContext } from "../command-context.js";
import { countOfKey, countSessions, othersOf, type SessionCount } from "../count-sessions.js";
import type { Deployment } from "../deployment.js";
import { ExitCode } from "../exit-code.js";
import { formatCount, indented, sessionsOf, tableOf, widthOf } from "../format.js";
import type { RingPolicy } from "../ring-policy.js";
import type { Colors, CommandResult } from "../terminal.js";

/** Options of {@link rotateStatus}. */
export interface RotateStatusOptions {
  /** Looks at about so many sessions only. @defaultValue all */
  readonly sample?: number | undefined;
}

/** What is known of a ring. */
export interface RingStatus {
  readonly keys: readonly KeyStatus[];
  readonly count: SessionCount;
  /** When it was looked at, in milliseconds since 1970-01-01T00:00:00Z. */
  readonly at: number;
}

const STATE_COLORS: Readonly<Record<string, "green" | "cyan" | "red" | "yellow" | "dim">> = {
  current: "green",
  "pre-active": "cyan",
  retired: "dim",
  revoked: "red",
  denied: "red",
  unverified: "yellow",
  unknown: "red",
};
const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;

/** Shows the ring. */
export async function rotateStatus(
  deployment: Deployment,
  { sample }: RotateStatusOptions,
  context: CommandContext,
): Promise<CommandResult> {
  const status = await readStatus(deployment, context, sample);
  return {
    document: statusDocument(deployment, status),
    text: (colors, columns) => statusText(deployment, status, colors, columns),
    exitCode: ExitCode.done,
  };
}

/** Reads the ring and counts. */
export async function readStatus(
  deployment: Deployment,
  context: CommandContext,
  sample?: number,
): Promise<RingStatus> {
  await deployment.ring.refresh();
  await warnOfKeys(deployment, context);
  const count = await countSessions(deployment, context, sample);
  return { keys: deployment.ring.status(), count, at: context.clock() };
}

/** The status for scripts. */
export function statusDocument({ policy }: Deployment, { keys, count, at }: RingStatus): Record<string, unknown> {
  const rows = keys.map(({ keyId, state, activatesAt, kms }) => ({
    keyId,
    state,
    activatesAt: new Date(activatesAt).toISOString(),
    ageMs: at - activatesAt,
    kms,
    ...countDocument(count, keyId),
  }));
  const strangers = strangersOf(keys, count).map((keyId) => ({
    keyId,
    state: "unknown",
    activatesAt: null,
    ageMs: null,
    kms: [],
    ...countDocument(count, keyId),
  }));
  return {
    at: new Date(at).toISOString(),
    policy,
    keys: [...rows, ...strangers],
    sessions: { total: count.total, examined: count.examined, isSample: count.isSample, noEnvelopes: othersOf(count) },
  };
}

/** The status for people. */
export function statusText(deployment: Deployment, status: RingStatus, colors: Colors, columns: number): string {
  const { ring, namespace, policy } = deployment;
  const { keys, count, at } = status;
  const place = namespace === "" ? "" : ` in the namespace ${namespace}`;
  const title = colors.cyan(`Ring ${ring.name}${place}`);
  const rule = colors.dim(
    `a new key every ${span(policy.rotationPeriodMs)}; one seals for ${span(policy.maxSealingAgeMs)} at most`,
  );
  if (keys.length === 0 && count.byKey.size === 0) return `${title}\n  ${rule}\n\n  There is no key yet.`;
  const names = [...new Set(keys.flatMap(({ kms }) => kms))];
  const written = table(status, policy, colors, (kms) => kms.join(", "));
  const fits = written.split("\n").every((line) => widthOf(line) + 2 <= columns);
  const numbered = () =>
    table(status, policy, colors, (kms) => kms.map((name) => `[${names.indexOf(name) + 1}]`).join(" "));
  const legend = fits ? [] : names.map((name, index) => `  ${colors.dim(`[${index + 1}]`)} ${name}`);
  return [
    title,
    `  ${rule}`,
    "",
    indented(fits ? written : numbered()),
    ...(legend.length > 0 ? ["", ...legend] : []),
    "",
    `  ${summary(count)}`,
    ...notes(status, policy, at).map((note) => `  ${colors.yellow(note)}`),
  ].join("\n");
}

function table(
  { keys, count, at }: RingStatus,
  policy: RingPolicy,
  colors: Colors,
  kmsText: (kms: readonly string[]) => string,
): string {
  const rows = keys.map((key) => [
    key.keyId,
    colored(key.state, colors),
    age(key, policy, at),
    new Date(key.activatesAt).toISOString().slice(0, 16).replace("T", " "),
    kmsText(key.kms),
    countText(count, key.keyId),
  ]);
  const strangers = strangersOf(keys, count).map((keyId) => [
    keyId,
    colored("unknown", colors),
    "",
    "",
    "",
    countText(count, keyId),
  ]);
  return tableOf(
    [
      { head: "key id" },
      { head: "state" },
      { head: "age" },
      { head: "seals from (UTC)" },
      { head: "KMS" },
      { head: "sessions", align: "right" },
    ],
    [...rows, ...strangers],
  );
}

/** Against the period while a key seals; after that it does not matter. */
function age({ state, activatesAt }: KeyStatus, { rotationPeriodMs }: RingPolicy, at: number): string {
  const ms = at - activatesAt;
  if (ms < 0) return `in ${span(-ms)}`;
  return state === "current" ? `${span(ms)} of ${span(rotationPeriodMs)}` : span(ms);
}

/** In one unit, in hours up to three days: "26 h of 24 h" is read at a glance. */
function span(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 120_000) return `${Math.floor(ms / 1000)} s`;
  if (ms < 2 * HOUR_MS) return `${Math.floor(ms / 60_000)} min`;
  return ms < 3 * DAY_MS ? `${Math.floor(ms / HOUR_MS)} h` : `${Math.floor(ms / DAY_MS)} d`;
}

function notes({ keys, count }: RingStatus, { rotationPeriodMs }: RingPolicy, at: number): string[] {
  const current = keys.find(({ state }) => state === "current");
  const hasNext = keys.some(({ state }) => state === "pre-active");
  const strangers = strangersOf(keys, count);
  return [
    ...(current === undefined ? ["No key seals."] : []),
    ...(current !== undefined && !hasNext && at - current.activatesAt > rotationPeriodMs
      ? ["A new key is due, and none is published."]
      : []),
    ...(strangers.length > 0 ? ["Some sessions lie under keys that are not in this ring: they do not open."] : []),
  ];
}

function summary(count: SessionCount): string {
  const others = othersOf(count);
  const noEnvelopes = others === 0 ? "" : `; ${formatCount(others)} of them are no envelopes, or ended meanwhile`;
  return count.isSample
    ? `About ${sessionsOf(count.total)}; ${formatCount(count.examined)} were looked at${noEnvelopes}.`
    : `${sessionsOf(count.total)}, all looked at${noEnvelopes}.`;
}

function countText(count: SessionCount, keyId: string): string {
  const { sessions, margin } = countOfKey(count, keyId);
  return margin === undefined ? formatCount(sessions) : `${formatCount(sessions)} ±${formatCount(margin)}`;
}

function countDocument(count: SessionCount, keyId: string): Record<string, unknown> {
  const { sessions, margin = 0 } = countOfKey(count, keyId);
  return { sessions, sessionsMargin: margin };
}

/** Keys that envelopes name and the ring does not have. */
function strangersOf(keys: readonly KeyStatus[], { byKey }: SessionCount): string[] {
  return [...byKey.keys()].filter((keyId) => keys.every((key) => key.keyId !== keyId)).sort();
}

function colored(state: string, colors: Colors): string {
  const name = STATE_COLORS[state];
  return name === undefined ? state : colors[name](state);
}

/** Why keys are not open: the states do not say it. */
async function warnOfKeys({ ring }: Deployment, { terminal }: CommandContext): Promise<void> {
  if (!ring.status().some(({ state }) => state === "unverified")) return;
  await ring.ready().catch((error: unknown) => {
    const { message } = tell(error);
    terminal.warn({ code: "KEYS_UNVERIFIED", message: `not every key was opened: ${message}` });
  });
}
