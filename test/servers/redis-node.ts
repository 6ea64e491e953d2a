/**
 * One Redis server as tests see it, and the faults that they inflict on it.
 */

/** Where a server listens. */
export interface Address {
  readonly host: string;
  readonly port: number;
}

/** A server that was started or given. */
export interface RedisNode extends Address {
  /** Its process, if it is one that this process started. */
  readonly pid?: number;
  /** Its data directory, if it lies on this machine; it goes when the server is stopped. */
  readonly dir?: string;
  /**
   * Sends a signal to the server, in a container too. After SIGKILL it resolves when the server is gone.
   *
   * @throws Error for a server that was given: nobody but its owner may end it.
   */
  signal(signal: "SIGKILL" | "SIGSTOP" | "SIGCONT"): Promise<void>;
  /**
   * Starts the server again after it was killed, where it was and with what it had on its disk. Resolves when it takes connections.
   *
   * @throws Error for a server that was given, or one that runs.
   */
  restart(): Promise<void>;
}

/** Ends `node` without a farewell, as a crash does. Its directory stays until its server or cluster is stopped. */
export const killNode = (node: RedisNode): Promise<void> => node.signal("SIGKILL");

/** Ends {@link killNode}: the node comes back with the data and the view of the cluster that it had. */
export const restartNode = (node: RedisNode): Promise<void> => node.restart();

/** Makes `node` silent while its connections stay open, as a partition or a stalled machine does. */
export const pauseNode = (node: RedisNode): Promise<void> => node.signal("SIGSTOP");

/** Ends {@link pauseNode}. */
export const resumeNode = (node: RedisNode): Promise<void> => node.signal("SIGCONT");
