/**
 * How many sessions there are under each key: all of them, or a sample.
 */
import type { CommandContext } from "./command-context.js";
import type { Deployment } from "./deployment.js";

/** What a count found. */
export interface SessionCount {
  /** All that lie there. One that moved meanwhile may be counted twice. */
  readonly total: number;
  /** How many of them were looked at. */
  readonly examined: number;
  /** Whether fewer were looked at than there are. */
  readonly isSample: boolean;
  /** Those that were looked at, by key id. */
  readonly byKey: ReadonlyMap<string, number>;
}

/** How many there are, or probably are. */
export interface CountOfKey {
  readonly sessions: number;
  /** With a probability of 95 % the count is this much more or less; `undefined` where it is none of chance. */
  readonly margin: number | undefined;
}

/** 95 % of a normal distribution. */
const Z = 1.96;

/**
 * Walks over all sessions and reads the first bytes of each, or of about `sample` of them that chance picks from all nodes alike.
 *
 * @throws CliError `INTERRUPTED`; SealedSessionError `STORE_UNAVAILABLE`.
 */
export async function countSessions(
  { store, sessions }: Deployment,
  { terminal, signal, random }: CommandContext,
  sample?: number,
): Promise<SessionCount> {
  const estimate = await store.estimate();
  const chance = sample === undefined || estimate <= sample ? 1 : sample / estimate;
  const progress = terminal.progress("counting sessions");
  let total = 0;
  let examined = 0;
  const isChosen = () => {
    const chosen = random() < chance;
    if (chosen) examined++;
    return chosen;
  };
  const onWalked = (walked: number) => {
    total = walked;
    progress.update({ done: walked, total: estimate });
  };
  store.watch = { signal, onWalked, ...(chance < 1 && { isChosen }) };
  try {
    const byKey = await sessions.countByKey();
    const isSample = chance < 1;
    return { total, examined: isSample ? examined : total, isSample, byKey };
  } finally {
    store.watch = {};
    progress.stop();
  }
}

/** @returns what a count says about one key. */
export function countOfKey({ total, examined, isSample, byKey }: SessionCount, keyId: string): CountOfKey {
  const found = byKey.get(keyId) ?? 0;
  if (!isSample) return { sessions: found, margin: undefined };
  if (examined === 0) return { sessions: 0, margin: total };
  const share = found / examined;
  // A sample without a hit still leaves room for about three in it.
  const spread = found === 0 || found === examined ? 3 / examined : Z * Math.sqrt((share * (1 - share)) / examined);
  return { sessions: Math.round(share * total), margin: Math.ceil(spread * total) };
}

/** @returns how many of those that were looked at are no envelopes, or went away meanwhile. */
export function othersOf({ examined, byKey }: SessionCount): number {
  return Math.max(0, examined - [...byKey.values()].reduce((sum, count) => sum + count, 0));
}
