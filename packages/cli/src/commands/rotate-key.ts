/**
 * `rotate key`: publishes a new data key.
 */
import type { KeyStatus } from "@sealed-session/core";
import type { CommandContext } from "../command-context.js";
import type { Deployment } from "../deployment.js";
import { formatDuration } from "../duration.js";
import { ExitCode } from "../exit-code.js";
import { formatTime, pairsOf } from "../format.js";
import { kmsText } from "../kms-text.js";
import { requireKey, waitUntilSealing } from "../ring-key.js";
import type { Colors, CommandResult } from "../terminal.js";

/** Options of {@link rotateKey}. */
export interface RotateKeyOptions {
  /** The key seals at once, before all processes know it. */
  readonly now: boolean;
  /** Returns when the key seals. */
  readonly wait: boolean;
}

/** A key that was published. */
export interface PublishedKey {
  readonly key: KeyStatus;
  /** When every process knows it, in milliseconds since 1970-01-01T00:00:00Z: it is then that none seals with another one. */
  readonly settlesAt: number;
}

/** Publishes a key, and waits for it where that is wanted. */
export async function rotateKey(
  deployment: Deployment,
  options: RotateKeyOptions,
  context: CommandContext,
): Promise<CommandResult> {
  const { key, settlesAt } = await publishKey(deployment, options, context);
  const isWaited = !options.wait || (await waitUntilSealing(deployment, context, key.keyId, key.activatesAt));
  const published = options.wait && isWaited ? await requireKey(deployment, key.keyId) : key;
  return {
    document: { key: keyDocument(published, settlesAt) },
    text: (colors) => keyText(published, context.clock(), colors) + kmsText(deployment.kmsRequests(), colors),
    // The key is there, whoever interrupted the wait.
    exitCode: isWaited ? ExitCode.done : ExitCode.interrupted,
  };
}

/** Publishes a key. @returns it, or the one with which another process came first. */
export async function publishKey(
  deployment: Deployment,
  { now }: Pick<RotateKeyOptions, "now">,
  { terminal, clock }: CommandContext,
): Promise<PublishedKey> {
  const { ring, kms, policy } = deployment;
  const known = await knownKeys(deployment);
  const keyId = await ring.publish(now ? { delayMs: 0 } : {});
  if (known.has(keyId))
    terminal.warn({ code: "ALREADY_PUBLISHED", message: `another process was first: key ${keyId}` });
  const key = await requireKey(deployment, keyId);
  for (const name of kms.filter((name) => !key.kms.includes(name))) {
    terminal.warn({ code: "WRAP_MISSING", message: `the KMS ${name} does not wrap key ${keyId}: it failed` });
  }
  return { key, settlesAt: Math.max(key.activatesAt, clock() + (now ? 2 * policy.refreshIntervalMs : 0)) };
}

/** A key for scripts. */
export function keyDocument({ keyId, state, activatesAt, kms }: KeyStatus, settlesAt: number): Record<string, unknown> {
  return {
    keyId,
    state,
    activatesAt: new Date(activatesAt).toISOString(),
    settlesAt: new Date(settlesAt).toISOString(),
    kms,
  };
}

function keyText({ keyId, state, activatesAt, kms }: KeyStatus, now: number, colors: Colors): string {
  const ahead = activatesAt - now;
  const when = ahead > 0 ? `${formatTime(activatesAt)}, in ${formatDuration(ahead)}` : formatTime(activatesAt);
  const waits =
    state === "open-only" || state === "unverified"
      ? [["", "as soon as a second copy of it is confirmed"] as const]
      : [];
  const pairs = [
    ["key id", colors.bold(keyId)],
    ["seals from", when],
    ...waits,
    ["wrapped by", kms.join(", ")],
  ] as const;
  return `${colors.cyan("A new data key is in the ring")}\n${pairsOf(pairs, colors.dim)}`;
}

async function knownKeys({ ring }: Deployment): Promise<ReadonlySet<string>> {
  await ring.refresh();
  return new Set(ring.status().map(({ keyId }) => keyId));
}
