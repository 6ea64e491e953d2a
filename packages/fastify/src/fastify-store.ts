/**
 * A store for @fastify/session over core's sessions.
 *
 * @fastify/session calls `set` for everything: a new session, a changed one, and one of which only the expiry has moved. What was read in the same
 * request tells them apart.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { channel } from "node:diagnostics_channel";
import { EventEmitter } from "node:events";
import type { SessionStore as SessionStoreOfPlugin } from "@fastify/session";
import { DIAGNOSTICS_CHANNEL, hasCode, SealedSessionError, type SessionStore } from "@sealed-session/core";
import type { Session } from "fastify";
import { answer } from "./callback.js";
import { endOf, fingerprintOf, type PlainSession, plainOf, slideCookie, ttlMsUntil } from "./plain-session.js";
import { KnownSession, RequestSessions } from "./request-sessions.js";

/** Each failed attempt means that somebody else has created or ended the session. */
const PUT_ATTEMPTS = 16;

/** Options of {@link fastifyStore}. */
export interface FastifyStoreOptions {
  /**
   * How long sessions live. `cookie`: each as long as its own `cookie.maxAge` or `cookie.expires`, and the idle time of the session store where it has
   * none; a request that changes nothing costs GET and PEXPIRE. `idle`: all as long as the session store says; a request that changes nothing costs one
   * GETEX.
   *
   * @defaultValue "cookie"
   */
  readonly expiry?: "cookie" | "idle" | undefined;
  /**
   * What becomes of the save of a session that has ended since it was read. `ignore`: nothing, and an event `session-save-ignored` on the diagnostics
   * channel. `error`: the error `STORE_CONFLICT`, unless only the expiry has moved. The session does not come back either way.
   *
   * @defaultValue "ignore"
   */
  readonly onConflict?: "ignore" | "error" | undefined;
  /**
   * What becomes of a session whose envelope was tampered with, or whose key this ring does not know. `throw`: the error `ENVELOPE_REJECTED`. `discard`: it
   * counts as none, and the client gets a new one; the envelope is left where it is.
   *
   * @defaultValue "throw"
   */
  readonly onTampered?: "throw" | "discard" | undefined;
  /**
   * Saves only if nobody else has saved since the session was read, and is the error `STORE_CONFLICT` otherwise. By default the last one wins.
   *
   * @defaultValue false
   */
  readonly ifUnchanged?: boolean | undefined;
}

/** What {@link fastifyStore} makes. Callbacks are called once and later. As `MemoryStore` it is an EventEmitter, and emits nothing. */
export type FastifyStore = SessionStoreOfPlugin;

/**
 * Makes a store for the option `store` of @fastify/session, where the plugin of this package cannot be used.
 *
 * Without the plugin it knows what a request has read as long as that goes on in the asynchronous context of the read. Elsewhere, and for a session that
 * is new, a save is written as `MemoryStore` would, in two commands; there it also brings a session back that was destroyed meanwhile.
 *
 * @param sessions - Where sessions are kept. Not closed by the store.
 * @param options - See {@link FastifyStoreOptions}.
 * @throws TypeError or RangeError when an option is wrong.
 */
export function fastifyStore(sessions: SessionStore<Session>, options: FastifyStoreOptions = {}): FastifyStore {
  return new SealedStore(sessions, options);
}

const events = channel(DIAGNOSTICS_CHANNEL);

/** The store, with what the plugin tells it of requests. */
export class SealedStore extends EventEmitter implements FastifyStore {
  readonly #sessions: SessionStore<object>;
  readonly #isIdle: boolean;
  readonly #isLateSaveError: boolean;
  readonly #discardsTampered: boolean;
  readonly #ifUnchanged: boolean;
  readonly #requests = new AsyncLocalStorage<RequestSessions>();
  /** Session objects whose origin is known, whatever context they are saved in. */
  readonly #known = new WeakMap<object, KnownSession>();

  /** @throws TypeError or RangeError when an option is wrong. */
  constructor(sessions: SessionStore<Session>, options: FastifyStoreOptions) {
    super();
    if (typeof sessions?.regenerate !== "function") {
      throw new TypeError("sessions must be a SessionStore of @sealed-session/core");
    }
    this.#sessions = sessions as SessionStore<unknown> as SessionStore<object>;
    this.#isIdle = oneOf("expiry", options.expiry, "cookie", "idle") === "idle";
    this.#isLateSaveError = oneOf("onConflict", options.onConflict, "ignore", "error") === "error";
    this.#discardsTampered = oneOf("onTampered", options.onTampered, "throw", "discard") === "discard";
    this.#ifUnchanged = options.ifUnchanged ?? false;
  }

  /** Reads a session. No session is `undefined`, as is an id that cannot be one. */
  get(sid: string, callback: (error: unknown, session?: Session | null) => void): void {
    const request = this.#requests.getStore() ?? new RequestSessions(false);
    answer(
      () => this.#get(sid, request),
      // What goes on from here, goes on in a context that knows of this session.
      (error, session) => this.#requests.run(request, () => callback(error, session as Session | undefined)),
    );
  }

  /** Writes a session: one that is new here if its id is free, one that was read here if it still exists, and anything else in any case. */
  set(sid: string, session: Session, callback?: (error?: unknown) => void): void {
    answer(() => this.#set(sid, session), callback && ((error) => (error ? callback(error) : callback())));
  }

  /** Ends a session. */
  destroy(sid: string, callback?: (error?: unknown) => void): void {
    answer(() => this.#destroy(sid), callback && ((error) => (error ? callback(error) : callback())));
  }

  /** Goes on in the context of a request. */
  run(request: RequestSessions, next: () => void): void {
    this.#requests.run(request, next);
  }

  /** Keeps in mind where the session object of a request came from, should its context get lost. */
  bind(request: RequestSessions, session: object): void {
    if (hasSessionId(session) && !this.#known.has(session)) {
      this.#known.set(session, request.findOrAdd(session.sessionId));
    }
  }

  /**
   * Tells whether a session holds changes that @fastify/session, which compares JSON, may not see: in a Map, a Set, a typed array or a BigInt.
   *
   * @param savesNew - Whether @fastify/session saves new sessions anyway.
   * @param savesStored - Whether it saves others anyway.
   */
  isChanged(session: object, savesNew: boolean, savesStored: boolean): boolean {
    const known = this.#known.get(session);
    if (known?.state === "stored") return !savesStored && !isSame(known.fingerprint, fingerprintOf(plainOf(session)));
    return !savesNew && Object.values(session).some((value) => typeof value === "bigint");
  }

  async #get(sid: string, request: RequestSessions): Promise<PlainSession | undefined> {
    const read = async () => {
      const session = await this.#read(sid);
      if (session !== undefined) this.#loaded(request.findOrAdd(sid), session);
      return session;
    };
    return request.find(sid)?.run(read) ?? read();
  }

  async #read(sid: string): Promise<PlainSession | undefined> {
    try {
      return (await this.#sessions.get(sid, { slide: this.#isIdle ? undefined : false })) as PlainSession | undefined;
    } catch (error) {
      if (this.#discardsTampered && hasCode(error, "ENVELOPE_REJECTED")) return undefined;
      throw error;
    }
  }

  #loaded(known: KnownSession, session: PlainSession): void {
    known.fingerprint = fingerprintOf(session);
    known.state = "stored";
    known.origin = session;
    known.end = undefined;
    this.#known.set(session, known);
    slideCookie(session);
  }

  async #set(sid: string, session: object): Promise<void> {
    // Now, and not when it is written: the application goes on changing the session.
    const plain = plainOf(session);
    const fingerprint = fingerprintOf(plain);
    const request = this.#requests.getStore();
    const known = this.#find(sid, session, request);
    const written = known ?? request?.findOrAdd(sid) ?? new KnownSession(sid);
    if (hasSessionId(session)) this.#known.set(session, written);
    await written.run(async () => {
      try {
        if (known !== undefined) return await this.#save(known, plain, fingerprint);
        await this.#put(sid, plain);
        this.#wrote(written, plain, fingerprint);
      } catch (error) {
        // Fastify saves again when it answers with this error: by then the login would not be overtaken.
        if (hasCode(error, "LOGIN_OVERTAKEN")) written.state = "gone";
        throw error;
      }
    });
  }

  /** @returns `undefined` when nobody can tell, and when somebody sets a session by hand. */
  #find(sid: string, session: object, request: RequestSessions | undefined): KnownSession | undefined {
    const bound = this.#known.get(session);
    if (bound?.sid === sid) return bound;
    if (request === undefined || !hasSessionId(session) || session.sessionId !== sid) return undefined;
    return request.isWhole ? request.findOrAdd(sid) : request.find(sid);
  }

  async #save(known: KnownSession, plain: PlainSession, fingerprint: Uint8Array | undefined): Promise<void> {
    const { sid, origin } = known;
    const end = endOf(plain);
    if (end !== undefined && ttlMsUntil(end) <= 0) {
      if (known.state === "stored") await this.#sessions.destroy(sid);
      known.state = "gone";
    } else if (known.state === "gone") {
      this.#ignoreSave();
    } else if (known.state === "new") {
      await this.#create(known, plain);
      this.#wrote(known, plain, fingerprint);
    } else if (isSame(known.fingerprint, fingerprint)) {
      await this.#touch(known, end ?? null);
    } else if (await this.#sessions.set(sid, plain, { ...this.#life(plain), origin, ifUnchanged: this.#ifUnchanged })) {
      this.#wrote(known, plain, fingerprint);
    } else {
      known.state = "gone";
      this.#ignoreSave();
    }
  }

  /** In idle mode the read has done it. */
  async #touch(known: KnownSession, end: number | null): Promise<void> {
    if (this.#isIdle || known.end === end) return;
    const ttlMs = end === null ? undefined : ttlMsUntil(end);
    if (await this.#sessions.touch(known.sid, { ttlMs, origin: known.origin })) {
      known.end = end;
    } else {
      known.state = "gone";
      // Nothing is lost that the application would have to know of.
      reportIgnoredSave();
    }
  }

  async #create(known: KnownSession, plain: PlainSession): Promise<void> {
    try {
      await this.#sessions.create(plain, known.sid, this.#life(plain));
    } catch (error) {
      const isOurs = known.isDoubtful && hasCode(error, "SESSION_EXISTS");
      known.isDoubtful ||= hasCode(error, "STORE_UNAVAILABLE");
      if (!isOurs || !(await this.#sessions.set(known.sid, plain, this.#life(plain)))) throw error;
    }
  }

  /** Writes what is there or not, as `MemoryStore` does. */
  async #put(sid: string, plain: PlainSession): Promise<void> {
    const end = endOf(plain);
    if (end !== undefined && ttlMsUntil(end) <= 0) {
      await this.#sessions.destroy(sid);
      return;
    }
    for (let attempt = 1; ; attempt++) {
      if (await this.#sessions.set(sid, plain, this.#life(plain))) return;
      try {
        await this.#sessions.create(plain, sid, this.#life(plain));
        return;
      } catch (error) {
        if (attempt === PUT_ATTEMPTS || !hasCode(error, "SESSION_EXISTS")) throw error;
      }
    }
  }

  #wrote(known: KnownSession, plain: PlainSession, fingerprint: Uint8Array | undefined): void {
    known.state = "stored";
    known.origin = plain;
    known.fingerprint = fingerprint;
    known.end = endOf(plain) ?? null;
  }

  async #destroy(sid: string): Promise<void> {
    const request = this.#requests.getStore();
    if (request === undefined) {
      await this.#sessions.destroy(sid);
      return;
    }
    const known = request.findOrAdd(sid);
    await known.run(async () => {
      await this.#sessions.destroy(sid);
      known.state = "gone";
    });
  }

  #life(plain: PlainSession): { ttlMs: number | undefined } {
    const end = this.#isIdle ? undefined : endOf(plain);
    return { ttlMs: end === undefined ? undefined : Math.max(1, ttlMsUntil(end)) };
  }

  #ignoreSave(): void {
    if (this.#isLateSaveError) {
      throw new SealedSessionError("STORE_CONFLICT", "the session has ended since it was read");
    }
    reportIgnoredSave();
  }
}

function reportIgnoredSave(): void {
  if (events.hasSubscribers) events.publish({ type: "session-save-ignored" });
}

/** Tells the objects of @fastify/session from those that somebody makes by hand. */
function hasSessionId(session: object): session is { readonly sessionId: string } {
  return "sessionId" in session && "isSaved" in session && typeof session.sessionId === "string";
}

function isSame(one: Uint8Array | undefined, other: Uint8Array | undefined): boolean {
  return one !== undefined && other !== undefined && Buffer.compare(one, other) === 0;
}

function oneOf<V extends string>(field: string, value: V | undefined, ...values: readonly [V, ...V[]]): V {
  if (value === undefined) return values[0];
  if (!values.includes(value)) throw new RangeError(`${field} must be one of ${values.join(", ")}`);
  return value;
}
