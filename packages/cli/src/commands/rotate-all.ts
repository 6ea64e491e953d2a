/**
 * `rotate`: a new key, the wait until all processes seal with it, all sessions under it, and a look at what is left.
 */
import type { KeyStatus } from "@sealed-session/core";
import { targetOfCheckpoint } from "../checkpoint.js";
import type { CommandContext } from "../command-context.js";
import type { Deployment } from "../deployment.js";
import { ExitCode } from "../exit-code.js";
import { formatCount } from "../format.js";
import { kmsText } from "../kms-text.js";
import { requireKey, waitUntilSealing } from "../ring-key.js";
import type { Colors, CommandResult } from "../terminal.js";
import { keyDocument, publishKey } from "./rotate-key.js";
import {
  exitCodeOf,
  type RotateFunction,
  type RotateSessionsOptions,
  rotationDocument,
  rotationText,
  runRotation,
} from "./rotate-sessions.js";
import { type RingStatus, readStatus, statusDocument, statusText } from "./rotate-status.js";

/** Options of {@link rotateAll}. */
export interface RotateAllOptions extends Omit<RotateSessionsOptions, "dryRun" | "shard"> {
  /** The key seals at once, before all processes know it. */
  readonly now: boolean;
}

/** What sessions were just being written when the last process changed keys. */
const IN_FLIGHT_MS = 2000;

/** Rotates everything. Ends with {@link ExitCode.left} while anything lies under an old key. */
export async function rotateAll(
  deployment: Deployment,
  options: RotateAllOptions,
  context: CommandContext,
  rotate: RotateFunction,
): Promise<CommandResult> {
  const { terminal } = context;
  const { key, settlesAt } = await newKey(deployment, options, context);
  const requests = (colors: Colors) => kmsText(deployment.kmsRequests(), colors);
  const done = { key: keyDocument(key, settlesAt), rotation: null, status: null, left: null };
  if (!(await waitUntilSealing(deployment, context, key.keyId, settlesAt + IN_FLIGHT_MS))) {
    const text = (colors: Colors) => `Interrupted before any session was re-sealed.${requests(colors)}`;
    return { document: done, text, exitCode: ExitCode.interrupted };
  }
  const rotation = await runRotation(deployment, options, context, rotate);
  const rotated = {
    ...done,
    key: keyDocument(await requireKey(deployment, key.keyId), settlesAt),
    rotation: rotationDocument(rotation),
  };
  if (!rotation.isInterrupted) terminal.say("Counting what is left under old keys.");
  const status = rotation.isInterrupted ? undefined : await statusUnlessInterrupted(deployment, context);
  if (status === undefined) {
    const text = (colors: Colors) => rotationText(rotation, colors) + requests(colors);
    return { document: rotated, text, exitCode: ExitCode.interrupted };
  }
  const left = leftUnderOldKeys(status, key);
  const total = Object.values(left).reduce((sum, count) => sum + count, 0);
  const isLeft = total > 0 || exitCodeOf(rotation) === ExitCode.left;
  return {
    document: { ...rotated, status: statusDocument(deployment, status), left: { total, byKey: left } },
    text: (colors, columns) => {
      const verdict =
        total === 0
          ? colors.green("Nothing is left under an old key.")
          : `${colors.red(`${formatCount(total)} left under old keys.`)} Run \`rotate sessions\` again; what stays then is named above.`;
      const parts = [rotationText(rotation, colors), statusText(deployment, status, colors, columns), `  ${verdict}`];
      return parts.join("\n\n") + requests(colors);
    },
    exitCode: isLeft ? ExitCode.left : ExitCode.done,
  };
}

async function statusUnlessInterrupted(
  deployment: Deployment,
  context: CommandContext,
): Promise<RingStatus | undefined> {
  try {
    return await readStatus(deployment, context);
  } catch (error) {
    if (context.signal.aborted) return undefined;
    throw error;
  }
}

/** A new one; or the one of a run that was interrupted after it had published its own. */
async function newKey(deployment: Deployment, { now, checkpoint }: RotateAllOptions, context: CommandContext) {
  const target = checkpoint === undefined ? undefined : targetOfCheckpoint(checkpoint);
  if (target === undefined) {
    const published = await publishKey(deployment, { now }, context);
    context.terminal.say(`Key ${published.key.keyId} is in the ring.`);
    return published;
  }
  const key = await requireKey(deployment, target);
  context.terminal.say(`No new key: ${checkpoint} belongs to a run under key ${target}, which goes on.`);
  return { key, settlesAt: key.activatesAt };
}

/** Sessions under keys older than the new one, or under none of the ring. What a revoked key sealed has ended already. */
function leftUnderOldKeys({ keys, count }: RingStatus, target: KeyStatus): Record<string, number> {
  const left: Record<string, number> = {};
  for (const [keyId, sessions] of count.byKey) {
    const key = keys.find((candidate) => candidate.keyId === keyId);
    if (key?.keyId === target.keyId || key?.state === "revoked") continue;
    if (key === undefined || key.activatesAt <= target.activatesAt) left[keyId] = sessions;
  }
  return left;
}
