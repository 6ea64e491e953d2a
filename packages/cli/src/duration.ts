/** Spans of time as people write and read them. */

const UNITS_MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000, w: 604_800_000 } as const;
const PART = /(\d{1,9})(ms|s|m|h|d|w)/g;
const WHOLE = /^(?:\d{1,9}(?:ms|s|m|h|d|w))+$/;
/** Ten years of 365 days, as everywhere. */
const MAX_MS = 3650 * UNITS_MS.d;

/**
 * Reads `24h`, `30m`, `90s`, `7d`, `1h30m`. A number without a unit is refused: nobody can tell what was meant.
 *
 * @returns milliseconds, or `undefined` when the text is none, or longer than 3650 days.
 */
export function parseDuration(text: string): number | undefined {
  if (!WHOLE.test(text)) return undefined;
  let total = 0;
  for (const [, count, unit] of text.matchAll(PART)) total += Number(count) * UNITS_MS[unit as keyof typeof UNITS_MS];
  return total <= MAX_MS ? total : undefined;
}

/** @returns a span in its one or two largest units: `2 d 3 h`, `1 min 5 s`, `0 s`. */
export function formatDuration(ms: number): string {
  const rounded = Math.max(0, ms);
  if (rounded > 0 && rounded < 1000) return `${Math.round(rounded)} ms`;
  const seconds = Math.round(rounded / 1000);
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), "d"],
    [Math.floor(seconds / 3600) % 24, "h"],
    [Math.floor(seconds / 60) % 60, "min"],
    [seconds % 60, "s"],
  ];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return "0 s";
  return parts
    .slice(first, first + 2)
    .filter(([count]) => count > 0)
    .map(([count, unit]) => `${count} ${unit}`)
    .join(" ");
}
