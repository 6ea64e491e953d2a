/**
 * Ctrl-C, or a terminal that goes away: the first asks the run to end cleanly, the second ends the process at once.
 */
import { ExitCode } from "./exit-code.js";

/** Part of `process`. */
interface SignalSource {
  on(signal: NodeJS.Signals, listener: () => void): unknown;
  off(signal: NodeJS.Signals, listener: () => void): unknown;
}

/** How an interruption is noticed and told. */
export interface InterruptionOptions {
  readonly signals: SignalSource;
  /** Milliseconds. */
  readonly clock: () => number;
  /** Told at the first one. */
  readonly onFirst: () => void;
  /** Ends the process at the second. */
  readonly exit: (code: ExitCode) => void;
}

/** A run that can be interrupted. */
export interface Interruption {
  /** Aborts at the first SIGINT, SIGTERM or SIGHUP. */
  readonly signal: AbortSignal;
  /** Stops listening. */
  dispose(): void;
}

/** npx passes on a signal that the terminal has sent to the whole group already: what comes twice within this time came once. */
const SAME_MS = 300;

/** Begins to listen. */
export function listenForInterruption({ signals, clock, onFirst, exit }: InterruptionOptions): Interruption {
  const controller = new AbortController();
  let firstAt: number | undefined;
  const listener = () => {
    if (firstAt === undefined) {
      firstAt = clock();
      controller.abort();
      onFirst();
    } else if (clock() - firstAt >= SAME_MS) {
      exit(ExitCode.interrupted);
    }
  };
  const names = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const name of names) signals.on(name, listener);
  return {
    signal: controller.signal,
    dispose: () => {
      for (const name of names) signals.off(name, listener);
    },
  };
}
