/**
 * What a source of servers has in common with the others: it launches one Redis on one port.
 */
import { freePort } from "./port.js";
import type { RedisNode } from "./redis-node.js";

/** Directives of redis.conf; a value of several words becomes several arguments. */
export type RedisConfig = Readonly<Record<string, string>>;

/** A source of servers that is ready to launch them. */
export interface Lane {
  /** One line for people, such as "redis-server 7.0.15 from the PATH". */
  readonly description: string;
  /**
   * Starts a server on 127.0.0.1 and resolves when it accepts connections.
   *
   * @throws PortTakenError if somebody else listens there.
   * @throws Error with the tail of the server's log if it does not start.
   */
  launch(port: number, config: RedisConfig): Promise<LaunchedRedis>;
}

/** A server that a {@link Lane} launched. */
export interface LaunchedRedis extends RedisNode {
  /** `false` from the moment the server has ended, for whatever reason. */
  isRunning(): Promise<boolean>;
  /** Ends the server at once, waits until it is gone and removes its directory. May be called again. */
  stop(): Promise<void>;
}

/** The port was taken between the question whether it is free and the start of the server. */
export class PortTakenError extends Error {
  override readonly name = "PortTakenError";
}

/** What a Redis log says when the server may be used. */
export const READY_LINE = "Ready to accept connections";

const PORT_ATTEMPTS = 10;
const LOG_TAIL_LINES = 20;

/** Launches a server with `config` on a port that is free, on another one if somebody is quicker to take it. */
export async function launchOnFreePort(lane: Lane, config: RedisConfig): Promise<LaunchedRedis> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await lane.launch(await freePort(), config);
    } catch (error) {
      if (!(error instanceof PortTakenError) || attempt === PORT_ATTEMPTS) throw error;
    }
  }
}

/** @returns `config` as arguments of redis-server. */
export function toArguments(config: RedisConfig): string[] {
  return Object.entries(config).flatMap(([name, value]) => [`--${name}`, ...(value === "" ? [""] : value.split(" "))]);
}

/** @returns the error for a server that ended, or was not ready in time, after it wrote `log`. */
export function startFailure(what: string, log: string, cause?: unknown): Error {
  const tail = log.trimEnd().split("\n").slice(-LOG_TAIL_LINES).join("\n");
  const message = `${what} did not start. The end of its log:\n${tail}`;
  const PortTaken = /Address already in use|Failed listening on port/.test(log) ? PortTakenError : Error;
  return new PortTaken(message, { cause });
}
