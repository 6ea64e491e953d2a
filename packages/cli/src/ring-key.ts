/**
 * Keys of the ring as commands deal with them: found by id, waited for.
 */
import type { KeyStatus } from "@sealed-session/core";
import { CliError } from "./cli-error.js";
import type { CommandContext } from "./command-context.js";
import type { Deployment } from "./deployment.js";
import { formatDuration } from "./duration.js";
import { formatTime } from "./format.js";

const POLL_MS = 1000;
const GRACE_MS = 10_000;

/**
 * Reads the ring and finds a key.
 *
 * @throws CliError `KEY_UNKNOWN`; SealedSessionError `KEY_UNAVAILABLE` when the ring cannot be read.
 */
export async function requireKey({ ring }: Deployment, keyId: string): Promise<KeyStatus> {
  await ring.refresh();
  const key = ring.status().find((status) => status.keyId === keyId);
  if (key === undefined) throw new CliError("KEY_UNKNOWN", `the ring ${ring.name} has no key ${keyId}`);
  return key;
}

/** @returns the key that seals in this process's view, or `undefined`. */
export function currentKey({ ring }: Deployment): KeyStatus | undefined {
  return ring.status().find(({ state }) => state === "current");
}

/**
 * Waits until a key seals, or a later one does.
 *
 * @param until - Not before this time, in milliseconds since 1970-01-01T00:00:00Z.
 * @returns `false` when somebody interrupted.
 * @throws CliError `KEY_NOT_SEALING` when it does not within four refresh intervals after that.
 */
export async function waitUntilSealing(
  deployment: Deployment,
  context: CommandContext,
  keyId: string,
  until: number,
): Promise<boolean> {
  try {
    await waitOrThrow(deployment, context, keyId, until);
    return true;
  } catch (error) {
    if (context.signal.aborted) return false;
    throw error;
  }
}

async function waitOrThrow(
  deployment: Deployment,
  { terminal, clock, sleep }: CommandContext,
  keyId: string,
  until: number,
): Promise<void> {
  const { ring, policy } = deployment;
  const startedAt = clock();
  const givesUpAt = until + 4 * policy.refreshIntervalMs + GRACE_MS;
  if (until > startedAt) terminal.say(`Waiting until the key seals everywhere, at ${formatTime(until)}.`);
  const progress = terminal.progress("waiting");
  let failure: unknown;
  try {
    for (;;) {
      const now = clock();
      const left = Math.max(0, until - now);
      progress.update({ done: now - startedAt, total: until - startedAt, text: `${formatDuration(left)} left` });
      if (left === 0) {
        try {
          await ring.refresh();
          if (seals(deployment, keyId)) return;
        } catch (error) {
          if (error instanceof CliError) throw error;
          failure = error;
        }
      }
      if (now >= givesUpAt) {
        throw new CliError("KEY_NOT_SEALING", `key ${keyId} does not seal: ${stateOf(deployment, keyId)}`, {
          cause: failure,
        });
      }
      await sleep(left === 0 ? Math.min(POLL_MS, policy.refreshIntervalMs) : Math.min(POLL_MS, left));
    }
  } finally {
    progress.stop();
  }
}

function seals(deployment: Deployment, keyId: string): boolean {
  const key = deployment.ring.status().find((status) => status.keyId === keyId);
  if (key === undefined || key.state === "revoked" || key.state === "retired") {
    throw new CliError("KEY_NOT_SEALING", `key ${keyId} was ${key?.state ?? "removed from the ring"} meanwhile`);
  }
  const current = currentKey(deployment);
  return current !== undefined && (current.keyId === keyId || current.activatesAt > key.activatesAt);
}

function stateOf({ ring }: Deployment, keyId: string): string {
  const state = ring.status().find((status) => status.keyId === keyId)?.state;
  if (state === "unverified" || state === "denied") return "no KMS has opened it";
  return state === "open-only" ? "no second copy of it is confirmed" : `its state is ${state ?? "unknown"}`;
}
