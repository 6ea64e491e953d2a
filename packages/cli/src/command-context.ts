/**
 * What a command is given beside the deployment and its own options.
 */
import { setTimeout as delay } from "node:timers/promises";
import { CliError } from "./cli-error.js";
import type { Terminal } from "./terminal.js";

/** The ports of a command. */
export interface CommandContext {
  readonly terminal: Terminal;
  /** Aborts when somebody interrupts. */
  readonly signal: AbortSignal;
  /** Milliseconds since 1970-01-01T00:00:00Z. */
  readonly clock: () => number;
  /** Resolves after some milliseconds. @throws CliError `INTERRUPTED` as soon as the signal aborts */
  readonly sleep: (ms: number) => Promise<void>;
  /** From 0 to 1. */
  readonly random: () => number;
}

/** @returns the context of a process: the system's clock, timers and chance. */
export function systemContext(terminal: Terminal, signal: AbortSignal): CommandContext {
  return {
    terminal,
    signal,
    clock: Date.now,
    random: Math.random,
    sleep: async (ms) => {
      try {
        await delay(ms, undefined, { signal });
      } catch {
        throw new CliError("INTERRUPTED", "interrupted while waiting");
      }
    },
  };
}
