/** How the process ends. The README has the table. */
export const ExitCode = {
  /** What was asked for is done. */
  done: 0,
  /** Something failed: Redis, the KMS, or this program. */
  failed: 1,
  /** Wrong usage or configuration. Nothing was changed. */
  usage: 2,
  /** Something is left under an old key, or the ring refused. */
  left: 3,
  /** Interrupted, and ended cleanly. */
  interrupted: 130,
} as const;
/** One of the numbers of {@link ExitCode}. */
export type ExitCode = (typeof ExitCode)[keyof typeof ExitCode];
