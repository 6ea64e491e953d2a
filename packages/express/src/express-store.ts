/**
 * A store for express-session over core's sessions.
 *
 * The middleware hands a session over without a word about where it came from. But a new one must not overwrite another, and one that was read must
 * not come back after its end: so every session is marked when it is generated or read.
 */
import { channel } from "node:diagnostics_channel";
import {
  DIAGNOSTICS_CHANNEL,
  decode,
  encode,
  hasCode,
  SealedSessionError,
  type SessionStore,
} from "@sealed-session/core";
import { Session, type SessionData, Store } from "express-session";
import { answer } from "./callback.js";
import { neverThrowAsJson, refuseBigInt } from "./json-form.js";
import {
  cookieLifeMs,
  expiresMs,
  isSame,
  type PlainSession,
  plainOf,
  type Snapshot,
  snapshotOf,
} from "./plain-session.js";

/** What this process saved so short a time ago, and has not touched since, is read with the expiry that it was saved with. */
const JUST_SAVED_MS = 1000;

/** Options of {@link expressStore}. */
export interface ExpressStoreOptions {
  /**
   * How long sessions live. `cookie`: each as long as its own `cookie.maxAge` or `cookie.expires`, and the idle time of the session store where it has
   * none; a request that changes nothing costs GET and PEXPIRE. `idle`: all as long as the session store says; a request that changes nothing costs one
   * GETEX, given `resave: false`.
   *
   * @defaultValue "cookie"
   */
  readonly expiry?: "cookie" | "idle" | undefined;
  /**
   * What becomes of the save of a session that has ended since it was read. `ignore`: nothing, and an event `session-save-ignored` on the diagnostics
   * channel. `error`: the error `STORE_CONFLICT`. It does not come back either way.
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

/** Called once and later: with an error, or with what was asked for. */
export type Callback<R> = (error: unknown, result?: R) => void;

/** What is known of a session object. */
interface Mark {
  readonly sid: string;
  isNew: boolean;
  /** Whether a save failed that may have reached the store all the same. */
  isDoubtful: boolean;
  /** Whether it was ended, by somebody else, while it was begun: it must not be begun again. */
  isOver: boolean;
  /** What the session store returned or wrote. */
  origin: object | undefined;
  /** What the store holds. */
  snapshot: Snapshot | undefined;
  /** Never rejects. */
  saving: Promise<void> | undefined;
}

const events = channel(DIAGNOSTICS_CHANNEL);

/**
 * Makes a store for express-session.
 *
 * @param sessions - Where sessions are kept. Not closed by the store.
 * @param options - See {@link ExpressStoreOptions}.
 * @throws TypeError or RangeError when an option is wrong.
 */
export function expressStore<T = SessionData>(
  sessions: SessionStore<T>,
  options: ExpressStoreOptions = {},
): ExpressStore<T> {
  return new ExpressStore(sessions, options);
}

/**
 * A store for express-session. Callbacks are optional, and called once and later; without one an error is lost. Errors are core's
 * `SealedSessionError` and `UnsupportedValueError`; of a session that was read, `set` and `touch` do nothing once it has ended.
 */
export class ExpressStore<T = SessionData> extends Store {
  readonly #sessions: SessionStore<object>;
  readonly #isIdle: boolean;
  readonly #isLateSaveError: boolean;
  readonly #discardsTampered: boolean;
  readonly #ifUnchanged: boolean;
  readonly #marks = new WeakMap<object, Mark>();
  /** Sessions that are just now created, by session id. */
  readonly #creating = new Map<string, Promise<unknown>>();
  /** The session id of the last save, until that session is touched. */
  #lastSaved: string | undefined;
  #generate: ((request: Parameters<Store["createSession"]>[0]) => void) | undefined;

  /** @throws TypeError or RangeError when an option is wrong. */
  constructor(sessions: SessionStore<T>, options: ExpressStoreOptions = {}) {
    super();
    if (typeof sessions?.get !== "function")
      throw new TypeError("sessions must be a SessionStore of @sealed-session/core");
    this.#sessions = sessions as SessionStore<unknown> as SessionStore<object>;
    this.#isIdle = oneOf("expiry", options.expiry, "cookie", "idle") === "idle";
    this.#isLateSaveError = oneOf("onConflict", options.onConflict, "ignore", "error") === "error";
    this.#discardsTampered = oneOf("onTampered", options.onTampered, "throw", "discard") === "discard";
    this.#ifUnchanged = options.ifUnchanged ?? false;
  }

  /** Set by the middleware: gives a request a new session. */
  get generate(): ((request: Parameters<Store["createSession"]>[0]) => void) | undefined {
    const generate = this.#generate;
    if (generate === undefined) return undefined;
    return (request) => {
      generate(request);
      neverThrowAsJson(request.session);
      this.#mark(request.session, request.sessionID, { isNew: true });
    };
  }

  /** Called by the middleware, once. */
  set generate(generate: (request: Parameters<Store["createSession"]>[0]) => void) {
    this.#generate = generate;
  }

  /** Makes the session of a request from what {@link ExpressStore.get} called back with. For the middleware. */
  override createSession(request: Parameters<Store["createSession"]>[0], data: SessionData): Session & SessionData {
    const session = super.createSession(request, data);
    // The middleware hashes both.
    neverThrowAsJson(data);
    neverThrowAsJson(session);
    const { origin } = this.#marks.get(data) ?? {};
    this.#mark(session, request.sessionID, { origin, snapshot: snapshotOf(plainOf(session)) });
    return session;
  }

  /**
   * Reads a session; in `idle` mode its idle time starts anew. Calls back with `undefined` when there is no such session, and otherwise with plain
   * data whose `cookie.expires` is what the next touch would make it.
   */
  override get(sid: string, callback: Callback<(T & SessionData) | null>): void {
    answer(() => this.#get(sid), callback as Callback<object>, callback);
  }

  /**
   * Saves a session as it is now. A new one must have an id that no other session has, one that was read must still exist, and plain data replaces
   * whatever there is. Calls back with an error when it was not saved: `SESSION_EXISTS`, `SESSION_ID_INVALID`, `STORE_CONFLICT`, `VALUE_UNSUPPORTED` with a path, or as core.
   */
  override set(sid: string, session: SessionData, callback?: (error?: unknown) => void): void {
    answer(() => this.#save(sid, session), quiet(callback), callback);
  }

  /** Renews the life of a session, and saves it where it has changed in a way that JSON does not show. */
  override touch(sid: string, session: SessionData, callback?: (error?: unknown) => void): void {
    answer(() => this.#touch(sid, session), quiet(callback), callback);
  }

  /** Ends a session. */
  override destroy(sid: string, callback?: (error?: unknown) => void): void {
    answer(() => this.#destroy(sid), quiet(callback), callback);
  }

  /** Calls back with all sessions that open, by stored id: the session id where `storedIds` is `verbatim`, else its digest. For operators: it opens every one. */
  override all(callback: Callback<{ [storedId: string]: T & SessionData } | null>): void {
    answer(() => this.#all(), callback as Callback<object>, callback);
  }

  /** Calls back with the number of sessions. For operators: it walks over all. */
  override length(callback: Callback<number>): void {
    answer(() => this.#sessions.count(), callback, callback);
  }

  /** Ends all sessions. */
  override clear(callback?: (error?: unknown) => void): void {
    answer(() => this.#sessions.clear(), quiet(callback), callback);
  }

  async #get(sid: string): Promise<object | undefined> {
    const data = await this.#read(sid);
    if (typeof data !== "object") return data;
    this.#mark(data, sid, { origin: data });
    this.#renewExpiry(sid, data);
    return data;
  }

  async #read(sid: string): Promise<object | undefined> {
    try {
      return await this.#sessions.get(sid, this.#isIdle ? {} : { slide: false });
    } catch (error) {
      if (this.#discardsTampered && hasCode(error, "ENVELOPE_REJECTED")) return undefined;
      throw error;
    }
  }

  /** The store knows of a touch by its own clock alone: the cookie in the envelope is as old as the last save. */
  #renewExpiry(sid: string, data: object): void {
    const { cookie }: PlainSession = data as PlainSession;
    const before = cookie && expiresMs(cookie);
    if (cookie === undefined || before === undefined) return;
    const lifeMs = this.#isIdle ? 1000 * this.#sessions.idleSeconds : cookie.originalMaxAge;
    if (typeof lifeMs !== "number") return;
    const after = Math.min(Date.now() + lifeMs, this.#sessions.absoluteEndOf(data) ?? Number.POSITIVE_INFINITY);
    const isAsSaved = !this.#isIdle && this.#lastSaved === sid && Math.abs(after - before) < JUST_SAVED_MS;
    if (!isAsSaved) cookie.expires = new Date(after);
  }

  async #save(sid: string, session: object): Promise<void> {
    const plain = plainOf(session);
    refuseBigInt(plain);
    const snapshot = snapshotOf(plain);
    const mark = this.#markOf(sid, session);
    if (mark === undefined) return this.#replace(sid, plain);
    const before = mark.saving;
    // Whoever waits its turn must not save what is changed meanwhile.
    const content = before === undefined ? plain : (decode(encode(plain)) as PlainSession);
    const write = () =>
      this.#write(mark, content, snapshot).catch((error: unknown) => {
        // The middleware saves again when the error is answered, and nobody has checked a password in between.
        mark.isOver ||= hasCode(error, "LOGIN_OVERTAKEN");
        throw error;
      });
    const saved = before === undefined ? write() : before.then(write);
    const saving = saved.then(nothing, nothing).then(() => {
      if (mark.saving === saving) mark.saving = undefined;
    });
    mark.saving = saving;
    return saved;
  }

  async #write(mark: Mark, plain: PlainSession, snapshot: Snapshot): Promise<void> {
    const { sid, origin } = mark;
    if (mark.isOver) return this.#refuseLateSave();
    if (isOver(plain)) {
      if (!mark.isNew) await this.#sessions.destroy(sid);
      return;
    }
    const ttlMs = this.#ttlMs(plain);
    const isCreated = mark.isNew && (await this.#create(mark, plain, ttlMs));
    const options = { ttlMs, origin, ifUnchanged: this.#ifUnchanged && !mark.isNew };
    if (!isCreated && !(await this.#sessions.set(sid, plain, options))) return this.#refuseLateSave();
    Object.assign(mark, { isNew: false, origin: plain, snapshot });
    this.#lastSaved = sid;
  }

  /** @returns `false` when an earlier attempt, which had seemed to fail, has created the session. */
  async #create(mark: Mark, plain: PlainSession, ttlMs: number | undefined): Promise<boolean> {
    const creating = this.#sessions.create(plain, mark.sid, { ttlMs });
    this.#creating.set(mark.sid, creating);
    try {
      await creating;
      return true;
    } catch (error) {
      if (mark.isDoubtful && hasCode(error, "SESSION_EXISTS")) return false;
      mark.isDoubtful ||= hasCode(error, "STORE_UNAVAILABLE");
      throw error;
    } finally {
      if (this.#creating.get(mark.sid) === creating) this.#creating.delete(mark.sid);
    }
  }

  /** Writes plain data of the application's own making, over whatever there is; what was there keeps the end of its absolute life. */
  async #replace(sid: string, plain: PlainSession): Promise<void> {
    if (isOver(plain)) {
      await this.#sessions.destroy(sid);
      return;
    }
    const life = { ttlMs: this.#ttlMs(plain) };
    this.#lastSaved = sid;
    if (await this.#sessions.set(sid, plain, life)) return;
    try {
      await this.#sessions.create(plain, sid, life);
    } catch (error) {
      if (!hasCode(error, "SESSION_EXISTS")) throw error;
      // What lies there no longer opens, its key being revoked for instance.
      await this.#sessions.destroy(sid);
      await this.#sessions.create(plain, sid, life);
    }
  }

  async #touch(sid: string, session: object): Promise<void> {
    const mark = this.#markOf(sid, session);
    await mark?.saving;
    if (mark?.isNew || mark?.isOver) return;
    const plain = plainOf(session);
    if (isOver(plain)) {
      await this.#sessions.destroy(sid);
      return;
    }
    if (mark?.snapshot !== undefined && !isSame(mark.snapshot, snapshotOf(plain))) return this.#save(sid, session);
    // The read has renewed it already.
    if (this.#isIdle && mark !== undefined) return;
    if (this.#lastSaved === sid) this.#lastSaved = undefined;
    await this.#sessions.touch(sid, { ttlMs: this.#ttlMs(plain), origin: mark?.origin });
  }

  async #destroy(sid: string): Promise<void> {
    // A create that waits for its key would otherwise come after the end.
    await this.#creating.get(sid)?.catch(nothing);
    await this.#sessions.destroy(sid);
  }

  async #all(): Promise<object> {
    const all: Record<string, object> = Object.create(null);
    for await (const [storedId, session] of this.#sessions.all()) all[storedId] = session;
    return all;
  }

  #mark(session: object, sid: string, known: Partial<Mark>): void {
    const unknown = {
      isNew: false,
      isDoubtful: false,
      isOver: false,
      origin: undefined,
      snapshot: undefined,
      saving: undefined,
    };
    this.#marks.set(session, { ...unknown, ...known, sid });
  }

  #markOf(sid: string, session: object): Mark | undefined {
    // Generated by another store's hand, but a session all the same: it must not overwrite another one.
    if (!this.#marks.has(session) && session instanceof Session) this.#mark(session, sid, { isNew: true });
    const mark = typeof session === "object" ? this.#marks.get(session) : undefined;
    return mark?.sid === sid ? mark : undefined;
  }

  #ttlMs(plain: PlainSession): number | undefined {
    return this.#isIdle ? undefined : cookieLifeMs(plain);
  }

  #refuseLateSave(): void {
    if (this.#isLateSaveError) {
      throw new SealedSessionError("STORE_CONFLICT", "this session has ended since it was read, and was not saved");
    }
    if (events.hasSubscribers) events.publish({ type: "session-save-ignored" });
  }
}

/** @returns Whether the cookie has expired, and the session with it. */
function isOver(plain: PlainSession): boolean {
  const lifeMs = cookieLifeMs(plain);
  return lifeMs !== undefined && lifeMs <= 0;
}

function oneOf(field: string, value: unknown, ...[first, second]: readonly [string, string]): string {
  const chosen = value ?? first;
  if (chosen === first || chosen === second) return chosen as string;
  throw new RangeError(`${field} must be "${first}" or "${second}"`);
}

/** Calls back without arguments when all went well. */
function quiet(callback: ((error?: unknown) => void) | undefined): (() => void) | undefined {
  return callback && (() => callback());
}

function nothing(): void {}
