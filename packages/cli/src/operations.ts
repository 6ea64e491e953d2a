/**
 * The functions of the libraries that the commands run. What is `undefined` is not there yet, and its command says so.
 */
import { rotateSessions } from "@sealed-session/core";
import type { SealFunction } from "./commands/rotate-seal.js";
import type { RotateFunction } from "./commands/rotate-sessions.js";

/** What can be done. */
export interface Operations {
  readonly rotateSessions: RotateFunction;
  readonly sealSessions: SealFunction | undefined;
}

/** What the installed libraries can do. */
export const operations: Operations = { rotateSessions, sealSessions: undefined };
