/**
 * What is known of the sessions of one request: @fastify/session hands a session over to be saved without a word about where it came from.
 */

/** A session: new here, living in the store as far as is known, or ended. */
export class KnownSession {
  readonly sid: string;
  state: "new" | "stored" | "gone" = "new";
  /** What the session store returned or wrote. */
  origin: object | undefined;
  /** Of what the store holds. */
  fingerprint: Uint8Array | undefined;
  /** The end that the store was given in this request; `null` for none. */
  end: number | null | undefined;
  /** Whether a create failed that may have reached the store all the same. */
  isDoubtful = false;
  #last: Promise<unknown> = Promise.resolve();

  constructor(sid: string) {
    this.sid = sid;
  }

  /** Runs what concerns this session one after the other: a save that nobody waited for is followed by the one at the end of the request. */
  run<R>(task: () => Promise<R>): Promise<R> {
    const result = this.#last.then(task);
    this.#last = result.catch(() => {});
    return result;
  }
}

/** The sessions that one request has met. */
export class RequestSessions {
  /** Whether it was there before the first session was looked for: then a session that it does not know is new. */
  readonly isWhole: boolean;
  readonly #sessions = new Map<string, KnownSession>();

  constructor(isWhole: boolean) {
    this.isWhole = isWhole;
  }

  find(sid: string): KnownSession | undefined {
    return this.#sessions.get(sid);
  }

  findOrAdd(sid: string): KnownSession {
    const known = this.#sessions.get(sid) ?? new KnownSession(sid);
    this.#sessions.set(sid, known);
    return known;
  }
}
