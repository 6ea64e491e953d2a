/**
 * Do all processes seal under one key? The question to the seals of a time in which nothing was killed.
 */

/** One seal. The key was chosen between `from` and `to`, in milliseconds since 1970-01-01T00:00:00Z. */
export interface Seal {
  readonly by: string;
  readonly keyId: string;
  readonly from: number;
  readonly to: number;
}

/** When a key begins to seal, in milliseconds since 1970-01-01T00:00:00Z. */
export interface Activation {
  readonly keyId: string;
  readonly activatesAt: number;
}

/**
 * Every seal must be under the newest key whose time has come, or within `toleranceMs` of that time under the one before. Clocks are those
 * of one machine.
 *
 * @returns the seals that are not, one sentence for each process and key.
 */
export function disagreements(
  seals: readonly Seal[],
  activations: readonly Activation[],
  toleranceMs: number,
): readonly string[] {
  const reigns = reignsOf(activations);
  const found = new Map<string, string>();
  for (const { by, keyId, from, to } of seals) {
    const reign = reigns.get(keyId);
    if (reign === undefined) {
      found.set(`${by} ${keyId}`, `${by} sealed under ${keyId}, which no ring has`);
    } else if (to < reign.from) {
      // The first one is the worst.
      const key = `${by} ${keyId} early`;
      if (!found.has(key)) found.set(key, `${by} sealed under ${keyId} ${reign.from - to} ms before its time`);
    } else if (from > reign.to + toleranceMs) {
      // The last one is the worst.
      found.set(`${by} ${keyId}`, `${by} sealed under ${keyId} ${from - reign.to} ms after the next key's time`);
    }
  }
  return [...found.values()];
}

/**
 * @returns the keys that all of `members` sealed under, and that followed on another key between `from` and `to`.
 */
export function agreedSwitches(
  seals: readonly Seal[],
  activations: readonly Activation[],
  members: readonly string[],
  { from, to }: Pick<Seal, "from" | "to">,
): readonly string[] {
  return activations
    .filter(({ activatesAt }) => activatesAt >= from && activatesAt <= to)
    .map(({ keyId }) => keyId)
    .filter((keyId) => members.every((member) => seals.some((seal) => seal.by === member && seal.keyId === keyId)));
}

/** From when to when each key seals, where all agree. Of two keys of one time the smaller key id seals. */
function reignsOf(activations: readonly Activation[]): Map<string, { from: number; to: number }> {
  const bytes = ({ keyId }: Activation) => Buffer.from(keyId, "base64url");
  const newestFirst = [...activations].sort((a, b) => b.activatesAt - a.activatesAt || bytes(a).compare(bytes(b)));
  const reigns = new Map<string, { from: number; to: number }>();
  let next = Number.POSITIVE_INFINITY;
  for (const { keyId, activatesAt } of newestFirst) {
    reigns.set(keyId, { from: activatesAt, to: next });
    next = activatesAt;
  }
  return reigns;
}
