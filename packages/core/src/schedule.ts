/** How time passes: the one place of core that sets timers. */

/**
 * Calls `task` once after `delayMs` milliseconds.
 *
 * @returns What cancels it; to be called at any time, also more than once.
 */
export type Schedule = (task: () => void, delayMs: number) => () => void;

/** Of a delay that does not fit into 31 bits, 24.8 days, setTimeout makes 1 ms. */
const MAX_DELAY_MS = 2 ** 31 - 1;

/** The platform's timers; what is further off than 24.8 days comes then. They do not hold a process open, where the platform knows that. */
export const systemSchedule: Schedule = (task, delayMs) => {
  const timer: { unref?(): unknown } = setTimeout(task, Math.min(delayMs, MAX_DELAY_MS));
  timer.unref?.();
  return () => clearTimeout(timer as NodeJS.Timeout);
};
