/**
 * Waits for a condition: asks again at a short interval, and says at the deadline what was still missing.
 */
import { setTimeout as delay } from "node:timers/promises";

/** Options of {@link untilNothingMissing}. */
export interface WaitOptions {
  /**
   * When to give up, in milliseconds from now.
   *
   * @default 30_000
   */
  readonly deadlineMs?: number;
  /**
   * Time between two questions, in milliseconds.
   *
   * @default 25
   */
  readonly intervalMs?: number;
}

/**
 * Resolves as soon as `missing` answers `undefined`; its other answers say what is missing. What `missing` throws ends
 * the wait at once.
 *
 * @throws Error that names `goal` and the last answer, at the deadline.
 */
export async function untilNothingMissing(
  goal: string,
  missing: () => string | undefined | Promise<string | undefined>,
  { deadlineMs = 30_000, intervalMs = 25 }: WaitOptions = {},
): Promise<void> {
  const givesUpAt = performance.now() + deadlineMs;
  for (;;) {
    const answer = await missing();
    if (answer === undefined) return;
    if (performance.now() >= givesUpAt) throw new Error(`${goal}: after ${deadlineMs} ms still missing: ${answer}`);
    await delay(intervalMs);
  }
}
