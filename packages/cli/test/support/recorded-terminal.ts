/** A terminal whose streams are texts, and whose time and timers a test moves. */
import { type OutputStream, Terminal } from "../../src/terminal.js";

/** What a test may set. */
export interface RecordOptions {
  readonly json?: boolean;
  readonly environment?: Record<string, string>;
  /** Columns of stderr where it is a terminal. */
  readonly columns?: number;
}

/** @returns a terminal and what it wrote. */
export function recordedTerminal({ json = false, environment = {}, columns }: RecordOptions = {}) {
  const [out, err] = [[] as string[], [] as string[]];
  const tty = columns === undefined ? {} : { isTTY: true, columns };
  const stream = (texts: string[]): OutputStream & { on(): void } => ({
    write: (text: string) => texts.push(text),
    on: () => {},
    ...tty,
  });
  let now = 0;
  const timers = new Set<() => void>();
  const terminal = new Terminal({
    stdout: stream(out),
    stderr: stream(err),
    environment,
    json,
    clock: () => now,
    every: (_intervalMs, run) => {
      timers.add(run);
      return () => timers.delete(run);
    },
  });
  return {
    terminal,
    stdout: () => out.join(""),
    stderr: () => err.join(""),
    /** Lets time pass, and what is to happen every five seconds happen once. */
    tick: (ms: number) => {
      now += ms;
      for (const run of timers) run();
    },
    timers: () => timers.size,
  };
}
