/**
 * The port to web sessions in clear that another store wrote, for the time in which they are taken over.
 */

/** A web session in clear. */
export interface PlaintextSession {
  /** What lies there, byte for byte. */
  readonly raw: Uint8Array;
  /** How long it still lives, in milliseconds; `undefined` when it has no end. */
  readonly ttlMs: number | undefined;
}

/**
 * What became of a plaintext that was to be removed: `removed`, also by an earlier or another such call; `changed`: it is another one now, and was
 * left; `gone`: somebody has ended the session, or its time has.
 */
export type PlaintextRemoval = "removed" | "changed" | "gone";

/**
 * Web sessions in clear, by session id. All methods that ask a database reject with `STORE_UNAVAILABLE` when it cannot be asked.
 */
export interface PlaintextSource {
  /** Reads a session. @returns `undefined` when none lives under this id, or one that was removed. */
  read(sessionId: string): Promise<PlaintextSession | undefined>;

  /** Makes the session object of its bytes; pure. @throws when they are no session. */
  parse(raw: Uint8Array): unknown;

  /**
   * Removes a session that was taken over, if it still is, byte for byte, this one.
   *
   * For at least ten seconds it has to be told apart from one that somebody has ended, and be `removed` whenever it is asked for again: a client may
   * send the command twice, two processes may take the same session over, and neither must be taken for a logout.
   */
  remove(sessionId: string, raw: Uint8Array): Promise<PlaintextRemoval>;

  /** Ends a session, whatever lies there. @returns `false` when there was none. */
  destroy(sessionId: string): Promise<boolean>;
}

/** A {@link PlaintextSource} for walks over all its sessions. */
export interface BulkPlaintextSource extends PlaintextSource {
  /**
   * Visits the ids of all sessions, page by page; nodes side by side, one page of each at a time. What lives from the start of the walk to its end is
   * visited; an id may come again.
   *
   * @returns When all is visited, or the signal has ended it. Rejects with what `visit` rejected with, or `STORE_UNAVAILABLE`.
   */
  walk(
    visit: (sessionIds: readonly string[]) => Promise<void>,
    options?: { readonly signal?: AbortSignal | undefined },
  ): Promise<void>;
  /** @returns About how many there are. */
  estimate(): Promise<number>;
}
