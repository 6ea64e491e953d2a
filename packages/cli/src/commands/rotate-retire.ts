/**
 * `rotate retire`: writes a key's tombstone where nothing is sealed under it, and gives a receipt.
 */
import { hasCode, type KeyStatus } from "@sealed-session/core";
import type { CommandContext } from "../command-context.js";
import type { Deployment } from "../deployment.js";
import { ExitCode } from "../exit-code.js";
import { formatCount, formatTime, pairsOf } from "../format.js";
import { requireKey } from "../ring-key.js";
import type { RingPolicy } from "../ring-policy.js";
import { readStoredRecord } from "../stored-record.js";
import type { Colors, CommandResult } from "../terminal.js";

/** What is left of a key. */
interface Receipt {
  readonly keyId: string;
  /** In base64url: names the data key for ever, and tells nothing of it. */
  readonly commitment: string;
  /** By the clock of the ring's store, in ISO 8601. */
  readonly retiredAt: string;
  /** Under the key, found by the count. */
  readonly sessions: 0;
  /** All that the count looked at. */
  readonly counted: number;
  readonly how: "tombstone";
  /** KMSs whose wraps of the key are gone from the ring. */
  readonly removedWraps: readonly string[];
}

const TOMBSTONE = 2;

/**
 * Retires a key.
 *
 * @throws SealedSessionError `KEY_IN_USE` when it may still seal or sessions lie under it.
 */
export async function rotateRetire(
  deployment: Deployment,
  keyId: string,
  context: CommandContext,
): Promise<CommandResult> {
  const { ring, keys, store, policy } = deployment;
  const { terminal, signal, clock } = context;
  const key = await requireKey(deployment, keyId);
  const before = await readStoredRecord(keys, ring.name, keyId);
  const total = await store.estimate();
  const progress = terminal.progress("counting sessions");
  let counted = 0;
  const onWalked = (walked: number) => {
    counted = walked;
    progress.update({ done: walked, total });
  };
  // A count that was interrupted rejects: the ring takes no half one for a whole one.
  store.watch = { signal, onWalked };
  try {
    await ring.retire(keyId);
  } catch (error) {
    if (hasCode(error, "KEY_IN_USE")) terminal.say(whatToDo(key, policy, clock()));
    throw error;
  } finally {
    store.watch = {};
    progress.stop();
  }
  const after = await readStoredRecord(keys, ring.name, keyId);
  if (after?.state !== TOMBSTONE || after.kms.length > 0)
    throw new Error("the tombstone was written and could not be read back");
  const receipt: Receipt = {
    keyId,
    commitment: after.commitment,
    retiredAt: new Date(await keys.now()).toISOString(),
    sessions: 0,
    counted,
    how: "tombstone",
    removedWraps: before?.kms ?? [],
  };
  return { document: { receipt }, text: (colors) => receiptText(receipt, ring.name, colors), exitCode: ExitCode.done };
}

/** The rule is the ring's (format 5.6); this only says when it is worth another try. */
function whatToDo(
  { state, activatesAt }: KeyStatus,
  { maxSealingAgeMs, refreshIntervalMs }: RingPolicy,
  now: number,
): string {
  const earliest = activatesAt + maxSealingAgeMs + 2 * refreshIntervalMs;
  const moves = "`rotate status` shows what lies under it, and `rotate sessions` moves that.";
  if (state === "revoked" || now >= earliest) return `Nothing was changed. ${moves}`;
  const reason = "a process that is cut off from the ring may seal with it until its sealing age ends";
  return `Nothing was changed. The key can retire from ${formatTime(earliest)} on: ${reason}.`;
}

function receiptText(receipt: Receipt, ring: string, colors: Colors): string {
  const { keyId, commitment, retiredAt, counted, removedWraps } = receipt;
  const wraps = removedWraps.length === 0 ? "none were left" : removedWraps.join(", ");
  const pairs = [
    ["ring", ring],
    ["key id", colors.bold(keyId)],
    ["commitment", commitment],
    ["retired", formatTime(Date.parse(retiredAt))],
    ["sessions", `0 under this key, of ${formatCount(counted)} that were counted`],
    ["how", "a tombstone took the record's place, and was read back"],
    ["wraps removed", wraps],
  ] as const;
  const note = "Backups of the ring from before still hold the wrapped key:\n  it is gone for good when they are.";
  return `${colors.cyan("Receipt: a data key was retired")}\n${pairsOf(pairs, colors.dim)}\n\n  ${colors.dim(note)}`;
}
