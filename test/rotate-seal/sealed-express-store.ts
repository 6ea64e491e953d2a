/**
 * A store for express-session over a `SessionStore`: what an application needs at least.
 */
import { createSessionId, type SessionStore } from "@sealed-session/core";
import { type SessionData, Store } from "express-session";

/** Keeps plain copies of the sessions, their cookie included. */
export class SealedExpressStore extends Store {
  readonly #sessions: SessionStore<SessionData>;
  /** Ids of sessions that begin just now: any other one that is saved and not there has ended, and must not come back. */
  readonly #begun = new Set<string>();

  constructor(sessions: SessionStore<SessionData>) {
    super();
    this.#sessions = sessions;
  }

  /** For the option `genid`. */
  newId(): string {
    const id = createSessionId();
    this.#begun.add(id);
    return id;
  }

  override get(sid: string, callback: (error: unknown, session?: SessionData | null) => void): void {
    this.#sessions.get(sid).then((session) => callback(null, session ?? null), callback);
  }

  override set(sid: string, session: SessionData, callback?: (error?: unknown) => void): void {
    this.#save(sid, JSON.parse(JSON.stringify(session)) as SessionData).then(() => callback?.(), callback);
  }

  override touch(sid: string, _: SessionData, callback?: (error?: unknown) => void): void {
    this.#sessions.touch(sid).then(() => callback?.(), callback);
  }

  override destroy(sid: string, callback?: (error?: unknown) => void): void {
    this.#begun.delete(sid);
    this.#sessions.destroy(sid).then(() => callback?.(), callback);
  }

  async #save(sid: string, session: SessionData): Promise<void> {
    if (this.#begun.delete(sid)) await this.#sessions.create(session, sid);
    else await this.#sessions.set(sid, session);
  }
}
