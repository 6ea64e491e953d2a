/**
 * Web sessions as an application sees them: objects under session ids, in a store that only holds envelopes.
 */
import { requireInteger, requireMethods } from "./argument.js";
import { asBulkStore, type EnvelopePage } from "./bulk-store.js";
import { base64url, equal } from "./bytes.js";
import { report } from "./diagnostics.js";
import { PEEK_BYTES, parseEnvelope, peekEnvelope } from "./envelope.js";
import { type EnvelopeStore, type GetEnvelopeOptions, MAX_TTL_MS } from "./envelope-store.js";
import { codeOf, hasCode, SealedSessionError, UnsupportedValueError } from "./errors.js";
import type { KeyRing } from "./key-ring.js";
import { type AdoptPlaintextOptions, PlaintextAdoption } from "./plaintext-adoption.js";
import {
  type Admission,
  DRAFT_MS,
  type Found,
  type Occupant,
  overtaken,
  PrincipalIndex,
  type PrincipalIndexOptions,
  type PrincipalSession,
  requirePrincipal,
} from "./principal-index.js";
import { DEFAULT_PURPOSE, Sealer, type SealerOptions } from "./sealer.js";
import { createSessionId, type StoredIdMode, storedIdOf } from "./session-id.js";

const DEFAULT_IDLE_SECONDS = 86_400;
const MAX_SECONDS = MAX_TTL_MS / 1000;
/** How far the clocks of two processes may be apart when they meet in one session while its principal logs in. */
const CLOCK_TOLERANCE_MS = 60_000;
/** Each failed attempt means that another writer succeeded. */
const UPDATE_ATTEMPTS = 16;

/** Options of {@link SessionStore}. Times are in seconds, 1 to 315360000 (ten years of 365 days). */
export interface SessionStoreOptions<T = unknown> extends Omit<SealerOptions, "counted"> {
  /** The keys. */
  readonly ring: KeyRing;
  /** Where the envelopes lie. */
  readonly store: EnvelopeStore;
  /** Idle time-out: the time to live of a session, in seconds. @defaultValue 86400 (24 h) */
  readonly idleSeconds?: number;
  /** Whether reads and writes of a session start its idle time anew; otherwise it ends `idleSeconds` after its creation. @defaultValue true */
  readonly sliding?: boolean;
  /** Absolute life from the creation, in seconds; authenticated in the envelope, so that no clock or command of the store extends it. @defaultValue none */
  readonly absoluteSeconds?: number;
  /** What the store's key holds instead of the session id. @defaultValue "digest" */
  readonly storedIds?: StoredIdMode;
  /**
   * Takes sessions over that another store wrote in clear: what is not found here is looked for there, sealed with what is left of its time to live,
   * and removed there. Until it ends, a session that is nowhere costs two commands more. The other store's processes do not see what was taken over:
   * all processes have to change to this store at one time. An absolute life begins when a session is taken over.
   *
   * @defaultValue none
   */
  readonly adopt?: AdoptPlaintextOptions;
  /**
   * Tells to whom a session belongs, such as its user id: 1 to 1024 bytes of UTF-8, or `undefined` or `null` while nobody is logged in. With it sessions can be
   * listed and ended by principal. It is called for each session that is read or written, and must not change it. A session of which it returns anything else
   * is not written (TypeError, RangeError); one that is there already is read as nobody's. Needs `principalIndex` and
   * `absoluteSeconds`: an entry of the index ends with the absolute life of its session, and no read has to renew it.
   *
   * @defaultValue none
   */
  readonly principal?: (session: T) => string | null | undefined;
  /** Where the index of principals lies. It holds no principal, only names that tell nothing without the index key. @defaultValue none */
  readonly principalIndex?: PrincipalIndexOptions;
  /**
   * What {@link SessionStore.listFor} tells of a session, such as the browser and the town: taken at the login, and kept sealed, about 8000 bytes at most.
   *
   * @defaultValue nothing
   */
  readonly device?: (session: T) => unknown;
  /** Most living sessions of one principal, 1 to 10000: when one more logs in, the one whose login is longest ago is ended. @defaultValue no limit */
  readonly maxPerPrincipal?: number;
}

/** How long a session lives that is written or touched now. */
export interface LifeOptions {
  /** Time to live from now on, in milliseconds: 1 to 315360000000, cut at the end of the absolute life. @defaultValue `idleSeconds` of the store */
  readonly ttlMs?: number | undefined;
}

/** Options of {@link SessionStore.get}. */
export interface GetSessionOptions {
  /** Starts the idle time anew. @defaultValue `sliding` of the store */
  readonly slide?: boolean | undefined;
}

/** Options of {@link SessionStore.set}. */
export interface SetSessionOptions extends LifeOptions {
  /** The object that came from this store and of which `session` is a copy. @defaultValue `session` itself */
  readonly origin?: object | undefined;
  /** Writes only if nobody else has written since `origin` was read. @defaultValue false: the last one wins */
  readonly ifUnchanged?: boolean | undefined;
}

/** Options of {@link SessionStore.touch}. */
export interface TouchSessionOptions extends LifeOptions {
  /** The object that came from this store: with it the end of the absolute life is known without another read. */
  readonly origin?: object | undefined;
}

/** Options of {@link SessionStore.listFor}. */
export interface ListForOptions {
  /** The session id of whoever asks: its session is marked as `current`. @defaultValue none */
  readonly current?: string | undefined;
}

/** Options of {@link SessionStore.destroyAllFor}. */
export interface DestroyAllForOptions {
  /** The session id of a session that goes on, such as the one in which a password was changed. @defaultValue none */
  readonly except?: string | undefined;
}

/** Where a session object came from. */
interface Origin {
  readonly storedId: string;
  /** Whose it was then: it has been noted in the index. */
  readonly principal: string | undefined;
  readonly notAfterMs: number | undefined;
  readonly keyId: Uint8Array;
  readonly envelope: Uint8Array;
}

/** A session as it is to be written. */
interface Version<T> {
  readonly storedId: string;
  readonly sessionId: string;
  readonly session: T;
  /** The end of its absolute life. */
  readonly notAfterMs: number | undefined;
  /** Without it the session keeps the time to live that it has. */
  readonly ttlMs: number | undefined;
  /** When the principal had logged in, where that is not now. */
  readonly loggedInAt?: number | undefined;
  /** The stored id whose session goes on under this one. */
  readonly replaces?: string | undefined;
  /** What is noted of that session. */
  readonly replacedNote?: Found | undefined;
}

/** Writes an envelope. @returns `false` when the condition did not hold under which it is written. */
type Write = (envelope: Uint8Array, life: Life | undefined) => Promise<boolean>;
type Life = { readonly ttlMs: number };

/**
 * Keeps sessions of type `T`.
 *
 * "No such session" is `undefined` or `false`: never there, expired, destroyed, an id that cannot be one, or sealed under a key that was revoked or
 * retired, or that the KMS denies. A store or KMS that cannot be asked throws `STORE_UNAVAILABLE` or `KEY_UNAVAILABLE` instead: nobody is logged out because a server failed
 * over. Bytes that were tampered with throw `ENVELOPE_REJECTED`.
 */
export class SessionStore<T = unknown> {
  readonly #store: EnvelopeStore;
  readonly #ring: KeyRing;
  readonly #sealer: Sealer;
  /** The idle time-out, in seconds. */
  readonly idleSeconds: number;
  readonly #maxEnvelopeBytes: number | undefined;
  readonly #idleMs: number;
  readonly #absoluteMs: number | undefined;
  readonly #sliding: boolean;
  readonly #storedIds: StoredIdMode;
  readonly #clientBound: boolean;
  readonly #adopt: AdoptPlaintextOptions | undefined;
  readonly #adoption: PlaintextAdoption | undefined;
  readonly #origins = new WeakMap<object, Origin>();
  readonly #principal: ((session: T) => string | null | undefined) | undefined;
  readonly #device: ((session: T) => unknown) | undefined;
  readonly #index: PrincipalIndex | undefined;

  /** @throws TypeError or RangeError when an option is wrong. */
  constructor(options: SessionStoreOptions<T>) {
    this.#store = requireMethods(
      "store",
      options.store,
      "get",
      "set",
      "compareAndSet",
      "touch",
      "destroy",
      "ttlMs",
      "scan",
    );
    this.#sealer = new Sealer({ ...options, counted: true });
    this.#ring = options.ring;
    this.#maxEnvelopeBytes = options.maxEnvelopeBytes;
    this.idleSeconds = requireInteger("idleSeconds", options.idleSeconds ?? DEFAULT_IDLE_SECONDS, 1, MAX_SECONDS);
    this.#idleMs = 1000 * this.idleSeconds;
    this.#absoluteMs =
      options.absoluteSeconds === undefined
        ? undefined
        : 1000 * requireInteger("absoluteSeconds", options.absoluteSeconds, 1, MAX_SECONDS);
    this.#sliding = options.sliding ?? true;
    this.#storedIds = options.storedIds ?? "digest";
    if (this.#storedIds !== "digest" && this.#storedIds !== "verbatim") {
      throw new RangeError('storedIds must be "digest" or "verbatim"');
    }
    if (this.#storedIds === "verbatim" && options.clientBound) {
      throw new RangeError(
        "clientBound needs digest storedIds: with verbatim ones the store holds the client's secret",
      );
    }
    this.#clientBound = options.clientBound ?? false;
    this.#adopt = options.adopt;
    this.#adoption = this.#adopt === undefined ? undefined : this.#adoptionOf(this.#adopt);
    this.#ring.attach({ maxTtlMs: this.#idleMs, count: () => this.countByKey() }, this.#store);
    this.#principal = options.principal;
    this.#device = options.device;
    this.#index = this.#principalIndexOf(options);
  }

  /**
   * Starts a session.
   *
   * @param session - What the codec can keep.
   * @param ownId - A session id that the caller made, as hard to guess. Default: a new one with 256 random bits.
   * @param life - See {@link LifeOptions}.
   * @returns The session id, for the cookie.
   * @throws SealedSessionError `SESSION_EXISTS` when a session lives under this id, `SESSION_ID_INVALID`, `KEY_UNAVAILABLE`, `STORE_UNAVAILABLE`;
   *   `LOGIN_OVERTAKEN` when its principal was logged out everywhere meanwhile; UnsupportedValueError.
   */
  async create(session: T, ownId?: string, { ttlMs }: LifeOptions = {}): Promise<string> {
    const sessionId = ownId ?? createSessionId(this.#ring.random);
    const storedId = this.#requireStoredId(sessionId);
    // One that lives in clear under this id becomes an envelope, and so is in the way.
    if (ownId !== undefined && this.#isAdopting()) await this.#adoption?.adopt(sessionId, storedId);
    const notAfterMs = this.#endOfLife(undefined);
    const version = { storedId, sessionId, session, notAfterMs, ttlMs: this.#ttl(notAfterMs, ttlMs) };
    if (await this.#insert(version)) return sessionId;
    throw new SealedSessionError("SESSION_EXISTS", "a session lives under this id already");
  }

  /**
   * Reads a session and, where sessions slide, starts its idle time anew in the same command.
   *
   * @param sessionId - What the cookie holds.
   * @param options - See {@link GetSessionOptions}.
   * @returns The session, or `undefined` when there is no such session.
   * @throws SealedSessionError `ENVELOPE_REJECTED`, `KEY_UNAVAILABLE`, `STORE_UNAVAILABLE`, `CLOSED`.
   */
  async get(sessionId: string, { slide = this.#sliding }: GetSessionOptions = {}): Promise<T | undefined> {
    const storedId = this.#storedId(sessionId);
    if (storedId === undefined) return undefined;
    const bytes = await this.#read(storedId, sessionId, slide ? { slideMs: this.#idleMs } : undefined);
    if (bytes === undefined) return undefined;
    const found = await this.#open(bytes, storedId, sessionId);
    if (found === undefined) return undefined;
    const resealed = await this.#resealWhenDue(bytes, storedId, sessionId);
    if (resealed !== undefined) this.#remember(found.session, storedId, resealed);
    return found.session;
  }

  /**
   * Replaces a session that still exists; a destroyed one does not come back. Of concurrent writers the last one wins.
   *
   * An object that came from this store, changed or not, is written in one command. For any other one the session is read first, since the
   * end of its absolute life has to be kept.
   *
   * A session that gets another principal by it is logged in, which takes four commands more.
   *
   * @param options - See {@link SetSessionOptions}.
   * @returns `false` when there is no such session.
   * @throws SealedSessionError `SESSION_ID_INVALID`, `STORE_CONFLICT`, `LOGIN_OVERTAKEN`, `ENVELOPE_REJECTED`, `KEY_UNAVAILABLE`, `STORE_UNAVAILABLE`;
   *   UnsupportedValueError.
   * @throws TypeError when `ifUnchanged` is asked for an object that did not come from this store under this id.
   */
  async set(sessionId: string, session: T, options: SetSessionOptions = {}): Promise<boolean> {
    const storedId = this.#requireStoredId(sessionId);
    const found = this.#originOf(options.origin ?? session);
    const origin = found?.storedId === storedId ? found : undefined;
    const { ttlMs, ifUnchanged = false } = options;
    if (ifUnchanged && origin === undefined) {
      throw new TypeError("ifUnchanged needs an origin: an object that came from this store, under this id");
    }
    const isTtlKnown = this.#sliding || ttlMs !== undefined;
    if (origin === undefined || !isTtlKnown || !this.#mayOverwrite(origin)) {
      return (await this.#update(sessionId, () => session, options, origin)) !== undefined;
    }
    const notAfterMs = this.#endOfLife(origin.notAfterMs);
    // What was read as a principal's is in the index. It must not be put over what another request has made of it since: nobody's session, which has left the index.
    const keepsPrincipal = origin.principal !== undefined && origin.principal === this.#principalOf(session);
    const written = await this.#save(
      { storedId, sessionId, session, notAfterMs, ttlMs: this.#ttl(notAfterMs, ttlMs) },
      origin.principal,
      (envelope, life) =>
        ifUnchanged || keepsPrincipal
          ? this.#store.compareAndSet(storedId, origin.envelope, envelope, life)
          : this.#store.set(storedId, envelope, { ...(life as Life), condition: "present" }),
    );
    if (written) return true;
    if (!ifUnchanged) return keepsPrincipal && (await this.#update(sessionId, () => session, options)) !== undefined;
    if ((await this.#store.get(storedId)) !== undefined) throw changed();
    return false;
  }

  /**
   * Reads a session, changes it, and writes it unless another writer came first; then again from the start.
   *
   * @param change - Gets the session and returns the new one. It may be called several times.
   * @returns The session as written, or `undefined` when there is no such session.
   * @throws SealedSessionError `STORE_CONFLICT` after 16 attempts; as {@link SessionStore.set}.
   */
  update(sessionId: string, change: (session: T) => T | Promise<T>): Promise<T | undefined> {
    return this.#update(sessionId, change, {});
  }

  /**
   * Starts the idle time anew where sessions slide. Without an absolute life it opens a session only to seal it anew, when its key no longer
   * seals: it tells whether something lies there, and whether that opens is for `get` to say.
   *
   * @param options - See {@link TouchSessionOptions}. With `ttlMs` the session gets that time to live, also where sessions do not slide.
   * @returns `false` when there is no such session.
   * @throws SealedSessionError `STORE_UNAVAILABLE`; where sessions have an absolute life, as {@link SessionStore.get}.
   */
  async touch(sessionId: string, { ttlMs, origin }: TouchSessionOptions = {}): Promise<boolean> {
    const storedId = this.#storedId(sessionId);
    if (storedId === undefined) return false;
    if (ttlMs !== undefined) return this.#setTtl(sessionId, storedId, ttlMs, origin);
    // Only the envelope knows whether its absolute life has ended.
    if (this.#absoluteMs !== undefined) return (await this.get(sessionId)) !== undefined;
    const bytes = await this.#read(storedId, sessionId, this.#sliding ? { slideMs: this.#idleMs } : undefined);
    if (bytes === undefined) return false;
    await this.#resealWhenDue(bytes, storedId, sessionId);
    return true;
  }

  /**
   * Ends a session. It opens nothing, so it also removes what can no longer be opened.
   *
   * @returns `false` when there was none.
   * @throws SealedSessionError `STORE_UNAVAILABLE`.
   */
  async destroy(sessionId: string): Promise<boolean> {
    const storedId = this.#storedId(sessionId);
    if (storedId === undefined) return false;
    // Before the envelope: whoever takes the plaintext over just now finds it gone, and removes the envelope too.
    const wasInClear = await this.#destroyPlaintext(sessionId);
    return (await this.#store.destroy(storedId)) || wasInClear;
  }

  /**
   * Moves a session to a new id, as every login should (session fixation). Its absolute life goes on. A session that is just being ended, by
   * {@link SessionStore.destroyAllFor} or {@link SessionStore.destroyFor}, goes nowhere: `LOGIN_OVERTAKEN`.
   *
   * @param change - Gets the session and returns the one to be kept. Default: the session as it is.
   * @returns The new session id, or `undefined` when there is no such session, also when it was destroyed meanwhile.
   * @throws As {@link SessionStore.create}.
   */
  async regenerate(
    sessionId: string,
    change: (session: T) => T | Promise<T> = (session) => session,
  ): Promise<string | undefined> {
    const storedId = this.#storedId(sessionId);
    if (storedId === undefined) return undefined;
    for (let attempt = 0; attempt < UPDATE_ATTEMPTS; attempt++) {
      const bytes = await this.#read(storedId, sessionId);
      const found = bytes === undefined ? undefined : await this.#open(bytes, storedId, sessionId);
      if (bytes === undefined || found === undefined) return undefined;
      const notAfterMs = this.#endOfLife(found.notAfterMs);
      const remainingMs = this.#sliding ? this.#idleMs : await this.#store.ttlMs(storedId);
      if (remainingMs === undefined) return undefined;
      const before = this.#principalIn(found.session);
      const session = await change(found.session);

      const newId = createSessionId(this.#ring.random);
      const newStoredId = this.#requireStoredId(newId);
      const ttlMs = Math.max(1, Math.min(remainingMs, this.#ttl(notAfterMs)));
      const after = this.#principalOf(session);
      const noted = before === undefined ? undefined : await this.#index?.noted(before, storedId);
      const goesOn = before !== undefined && before === after;
      if (goesOn && noted?.standing === undefined) {
        // Logged out, and just about to end: what goes on from it would escape.
        if (noted?.found.length) throw this.#reported(overtaken());
        // It has ended since it was read, or was never noted.
        if (!(await this.#store.compareAndSet(storedId, bytes, bytes))) continue;
      }
      const inserted = await this.#insert({
        storedId: newStoredId,
        sessionId: newId,
        session,
        notAfterMs,
        ttlMs,
        loggedInAt: goesOn ? noted?.loggedInAt : undefined,
        replaces: goesOn ? storedId : undefined,
        replacedNote: goesOn ? noted?.standing : undefined,
      });
      // The old session has changed, ended, or was logged out since it was read.
      if (!inserted) continue;
      if (await this.#store.destroy(storedId, { expected: bytes })) {
        if (noted !== undefined) await this.#index?.forget(noted);
        // A plaintext that was left over would bring the old id back to life.
        await this.#destroyPlaintext(sessionId);
        return newId;
      }
      // Logged out in between, and the new id must not outlive that; or changed, and the change must not be lost.
      await this.#store.destroy(newStoredId);
    }
    throw conflict();
  }

  /**
   * Tells when the absolute life of a session ends, of which this store knows by the object that it returned or wrote.
   *
   * @returns Milliseconds since 1970-01-01T00:00:00Z, or `undefined` when it has no such end, or the object is none of this store's.
   */
  absoluteEndOf(session: T): number | undefined {
    return this.#originOf(session)?.notAfterMs;
  }

  /**
   * Walks over all sessions that open. What does not open is passed over and reported on the diagnostics channel.
   *
   * @returns The stored id and the session, in no order; the session id is nowhere in the store unless `storedIds` is `verbatim`.
   * @throws SealedSessionError `KEY_UNAVAILABLE`, `STORE_UNAVAILABLE`; TypeError where sessions are bound to their clients.
   */
  async *all(): AsyncGenerator<readonly [storedId: string, session: T], void> {
    for await (const storedId of this.#store.scan()) {
      const bytes = await this.#store.get(storedId);
      const found = bytes === undefined ? undefined : await this.#openOfAll(bytes, storedId);
      if (found !== undefined) yield [storedId, found.session];
    }
  }

  /** Counts what lies in the store, whether it opens or not. @throws SealedSessionError `STORE_UNAVAILABLE`. */
  async count(): Promise<number> {
    let count = 0;
    for await (const _ of this.#store.scan()) count++;
    return count;
  }

  /**
   * Lists the living sessions of a principal: "your devices". Also those that are bound to their clients. What the index holds of sessions that have ended
   * is removed.
   *
   * @param principal - As the option `principal` returns it.
   * @param options - See {@link ListForOptions}.
   * @returns The sessions, the latest login first.
   * @throws SealedSessionError `KEY_UNAVAILABLE`, `STORE_UNAVAILABLE`, `CLOSED`; TypeError without the option `principal`.
   */
  async listFor(principal: string, { current }: ListForOptions = {}): Promise<PrincipalSession[]> {
    const index = this.#requireIndex();
    return index.list(requirePrincipal(principal), current === undefined ? undefined : this.#storedId(current));
  }

  /**
   * Ends all sessions of a principal: "log out everywhere". When it returns, no session opens whose login was complete before the call, also none that has got
   * another id since, and a login that was under way, whose session would have been missed, fails with `LOGIN_OVERTAKEN`.
   *
   * @param principal - As the option `principal` returns it.
   * @param options - See {@link DestroyAllForOptions}.
   * @returns How many sessions have ended.
   * @throws SealedSessionError `KEY_UNAVAILABLE`, `STORE_UNAVAILABLE`, `CLOSED`: some may go on, and the call is to be made again; TypeError without the
   *   option `principal`.
   */
  async destroyAllFor(principal: string, { except }: DestroyAllForOptions = {}): Promise<number> {
    const index = this.#requireIndex();
    return index.endAll(requirePrincipal(principal), except === undefined ? undefined : this.#storedId(except));
  }

  /**
   * Ends one session of a principal: "log out that device".
   *
   * @param principal - As the option `principal` returns it; the handle of another principal's session names none.
   * @param handle - As {@link SessionStore.listFor} returned it.
   * @returns `false` when there is no such session, also when it has got another id, and so another handle, meanwhile. After `true` none goes on from it.
   * @throws SealedSessionError as {@link SessionStore.destroyAllFor}.
   */
  async destroyFor(principal: string, handle: string): Promise<boolean> {
    return this.#requireIndex().endOne(requirePrincipal(principal), handle);
  }

  /** Ends every session that lives throughout the call. @throws SealedSessionError `STORE_UNAVAILABLE`. */
  async clear(): Promise<void> {
    for await (const storedId of this.#store.scan()) await this.#store.destroy(storedId);
  }

  /**
   * Walks over all sessions and counts them by the key that sealed them; opens none. For operators, and for the ring before it retires a key.
   *
   * @returns How many there are under each key, by key id in base64url. What is no envelope is not counted; a session that
   *   moves to another node meanwhile may be counted twice, but none is left out.
   * @throws SealedSessionError `STORE_UNAVAILABLE`.
   */
  async countByKey(): Promise<Map<string, number>> {
    const counts = new Map<string, number>();
    const count = async (page: EnvelopePage) => {
      for (const head of await page.peek(page.storedIds, PEEK_BYTES)) {
        const envelope = head === undefined ? undefined : peekEnvelope(head);
        if (envelope === undefined) continue;
        const keyId = base64url(envelope.keyId);
        counts.set(keyId, (counts.get(keyId) ?? 0) + 1);
      }
    };
    await asBulkStore(this.#store).walk(count, { peekBytes: () => PEEK_BYTES });
    return counts;
  }

  /** To be called when the process image was copied or restored from a snapshot, before it seals again (format 2.4). */
  reseed(): void {
    this.#sealer.reseed();
    this.#index?.reseed();
  }

  async #update(
    sessionId: string,
    change: (session: T) => T | Promise<T>,
    { ttlMs, ifUnchanged = false }: SetSessionOptions,
    origin?: Origin,
  ): Promise<T | undefined> {
    const storedId = this.#requireStoredId(sessionId);
    for (let attempt = 0; attempt < UPDATE_ATTEMPTS; attempt++) {
      const bytes = await this.#read(storedId, sessionId);
      const found = bytes === undefined ? undefined : await this.#open(bytes, storedId, sessionId);
      if (bytes === undefined || found === undefined) return undefined;
      if (ifUnchanged && origin !== undefined && !equal(bytes, origin.envelope)) throw changed();
      const before = this.#principalIn(found.session);
      const session = await change(found.session);
      const notAfterMs = this.#endOfLife(found.notAfterMs);
      const isTtlKnown = this.#sliding || ttlMs !== undefined;
      const written = await this.#save(
        { storedId, sessionId, session, notAfterMs, ttlMs: isTtlKnown ? this.#ttl(notAfterMs, ttlMs) : undefined },
        before,
        (envelope, life) => this.#store.compareAndSet(storedId, bytes, envelope, life),
      );
      if (written) return session;
    }
    throw conflict();
  }

  async #setTtl(sessionId: string, storedId: string, ttlMs: number, origin: object | undefined): Promise<boolean> {
    const known = this.#originOf(origin);
    if (known?.storedId === storedId && !this.#mayBeDraft(known))
      return this.#store.touch(storedId, this.#ttl(known.notAfterMs, ttlMs));
    if (this.#absoluteMs === undefined && !this.#isAdopting()) {
      return this.#store.touch(storedId, this.#ttl(undefined, ttlMs));
    }
    const bytes = await this.#read(storedId, sessionId);
    const found = bytes === undefined ? undefined : await this.#open(bytes, storedId, sessionId);
    // The end of a draft must not become the time to live of the session that it is just becoming.
    const notAfterMs = found === undefined || this.#mayBeDraft(found) ? undefined : found.notAfterMs;
    return found !== undefined && this.#store.touch(storedId, this.#ttl(notAfterMs, ttlMs));
  }

  async #openOfAll(bytes: Uint8Array, storedId: string): Promise<{ session: T } | undefined> {
    try {
      return await this.#open(bytes, storedId);
    } catch (error) {
      if (hasCode(error, "ENVELOPE_REJECTED")) return undefined;
      throw error;
    }
  }

  /** Reads an envelope; one that is not there is made of the plaintext, where sessions are taken over. */
  async #read(storedId: string, sessionId: string, options?: GetEnvelopeOptions): Promise<Uint8Array | undefined> {
    const bytes = await this.#store.get(storedId, options);
    if (!this.#isAdopting()) return bytes;
    const inPlace = this.#adopt?.inPlace ?? false;
    const isSettled = bytes === undefined ? inPlace : !inPlace || peekEnvelope(bytes) !== undefined;
    if (isSettled) return bytes;
    const adoption = await this.#adoption?.adopt(sessionId, storedId);
    // What is there in clear no longer may have become an envelope since we looked.
    return adoption === "refused" ? undefined : this.#store.get(storedId, options);
  }

  async #destroyPlaintext(sessionId: string): Promise<boolean> {
    if (!this.#isAdopting() || this.#adopt?.inPlace === true) return false;
    return (await this.#adopt?.from.destroy(sessionId)) ?? false;
  }

  #isAdopting(): boolean {
    return this.#adopt !== undefined && this.#ring.clock() < this.#adopt.until;
  }

  #adoptionOf({ from, until, inPlace = false }: AdoptPlaintextOptions): PlaintextAdoption {
    requireInteger("adopt.until", until, 0, Number.MAX_SAFE_INTEGER);
    if (inPlace && this.#storedIds !== "verbatim") {
      throw new RangeError("adopt.inPlace needs verbatim storedIds: plaintext lies under session ids");
    }
    return new PlaintextAdoption({
      ring: this.#ring,
      sealer: this.#sealer,
      store: this.#store,
      from,
      inPlace,
      idleMs: this.#idleMs,
      absoluteMs: this.#absoluteMs,
    });
  }

  #insert(version: Version<T>): Promise<boolean> {
    const { storedId } = version;
    return this.#save(version, undefined, (envelope, life) =>
      this.#store.set(storedId, envelope, { ...(life as Life), condition: "absent" }),
    );
  }

  /**
   * Writes a session.
   *
   * @param before - The principal of what it replaces.
   * @param write - Is called with the envelope; without a time to live it keeps the one that is there.
   */
  async #save(version: Version<T>, before: string | undefined, write: Write): Promise<boolean> {
    const { storedId, sessionId, session, notAfterMs } = version;
    const principal = this.#principalOf(session);
    const left = before === undefined || before === principal ? undefined : await this.#index?.noted(before, storedId);
    let written: boolean;
    if (this.#index !== undefined && principal !== undefined && principal !== before) {
      written = await this.#login(this.#index, principal, version, write);
    } else {
      const envelope = await this.#seal(session, storedId, sessionId, notAfterMs);
      written = await write(envelope, version.ttlMs === undefined ? undefined : { ttlMs: version.ttlMs });
      if (written) this.#remember(session, storedId, envelope);
    }
    if (written && left !== undefined) await this.#index?.forget(left);
    return written;
  }

  /**
   * Writes a session in which a principal logs in. Index and session lie in different slots of the cluster, and nothing writes both at once, so: it is noted in
   * the index; the session is written as a draft, which ends by itself after seconds; the index is asked whether nobody has logged the principal out
   * everywhere meanwhile; and only then the session gets its life. Whoever logs out everywhere either finds it in the index, or comes first and has
   * renewed the epoch. A process that dies in between leaves a draft.
   *
   * The draft's end is authenticated in the envelope. A time to live alone would not do: a request with the same session id may slide it.
   */
  async #login(index: PrincipalIndex, principal: string, version: Version<T>, write: Write): Promise<boolean> {
    const { storedId, sessionId, session, loggedInAt, replaces, replacedNote } = version;
    const notAfterMs = version.notAfterMs as number;
    const ttlMs = version.ttlMs ?? (await this.#store.ttlMs(storedId));
    if (ttlMs === undefined) return false;
    // Whatever cannot be sealed is refused before anything is written.
    const draftEndMs = Math.min(notAfterMs, Math.floor(this.#ring.clock()) + DRAFT_MS);
    const draft = await this.#seal(session, storedId, sessionId, draftEndMs);
    // What was read in a draft may be given a longer life by whoever wrote that; no session lives longer than this.
    const latestEndMs = this.#endOfLife(undefined) as number;
    const admission = await index.enter(principal, storedId, {
      endsAt: this.#mayBeDraft({ notAfterMs }) ? latestEndMs : notAfterMs,
      device: this.#device?.(session),
      loggedInAt,
      replaces: replacedNote,
    });
    if (admission === undefined) return false;
    // The note stays: a session of the same principal that lives here already may rely on it.
    if (!(await write(draft, { ttlMs: Math.min(ttlMs, DRAFT_MS) }))) return false;
    try {
      if (!(await index.holds(admission))) throw overtaken();
      await index.enforceLimit(principal, replaces);
      await this.#settle({ ...version, ttlMs }, draft, () => index.holds(admission));
      return true;
    } catch (error) {
      await this.#abandon(index, admission);
      throw this.#reported(error);
    }
  }

  #reported(error: unknown): unknown {
    if (hasCode(error, "LOGIN_OVERTAKEN")) report({ type: "login-overtaken", ring: this.#ring.name });
    return error;
  }

  /**
   * Gives a draft its life.
   *
   * @param holds - Asks the index once more: what another request has written may stand there instead of a session that was ended.
   */
  async #settle(
    { storedId, sessionId, session, notAfterMs, ttlMs }: Version<T>,
    draft: Uint8Array,
    holds: () => Promise<boolean>,
  ): Promise<void> {
    const draftEnd = parseEnvelope(draft, this.#maxEnvelopeBytes)?.notAfter;
    let expected = draft;
    let value = session;
    for (let attempt = 0; attempt < UPDATE_ATTEMPTS; attempt++) {
      const envelope = await this.#seal(value, storedId, sessionId, notAfterMs);
      if (await this.#store.compareAndSet(storedId, expected, envelope, { ttlMs: ttlMs as number })) {
        if (expected === draft) this.#remember(session, storedId, envelope);
        return;
      }
      // Another request with this session id has written: what it read in the draft gets the draft's end, and has to be given its life too.
      const bytes = await this.#store.get(storedId);
      const found = bytes === undefined ? undefined : await this.#open(bytes, storedId, sessionId);
      if (bytes === undefined || found === undefined) throw overtaken();
      if (found.notAfterMs !== (draftEnd as number) * 1000) return;
      const foundPrincipal = this.#principalIn(found.session);
      // Of another principal's login nobody has asked the index yet.
      if (foundPrincipal !== undefined && foundPrincipal !== this.#principalOf(session)) return;
      if (!(await holds())) throw overtaken();
      expected = bytes;
      value = found.session;
    }
    throw conflict();
  }

  /** A login that failed leaves no session behind, as far as that can be done now; the rest ends by itself. Not by its bytes: others may have written. */
  async #abandon(index: PrincipalIndex, admission: Admission): Promise<void> {
    try {
      await this.#store.destroy(admission.storedId);
      await index.withdraw(admission);
    } catch {
      // What kept the login from being completed is thrown already.
    }
  }

  async #look(storedId: string, principal: string): Promise<Occupant> {
    const bytes = await this.#store.get(storedId);
    if (bytes === undefined) return "none";
    // Only its client can open it.
    if (this.#clientBound) return "principal's";
    const found = await this.#openOfAll(bytes, storedId);
    if (found === undefined) return "closed";
    if (this.#principalIn(found.session) === principal) return "principal's";
    // A replica may be behind. Nothing is written where these bytes are there, and the master tells whether they are.
    return (await this.#store.compareAndSet(storedId, bytes, bytes)) ? "another's" : "closed";
  }

  /** The principal of a session that is to be written. @throws TypeError or RangeError when it cannot be one. */
  #principalOf(session: T): string | undefined {
    const principal = this.#principal?.(session) ?? undefined;
    return principal === undefined ? undefined : requirePrincipal(principal);
  }

  /** The principal of a session that was read. One that cannot be written is nobody's: one session of before must not keep others from being read. */
  #principalIn(session: T): string | undefined {
    const principal = this.#principal?.(session) ?? undefined;
    try {
      return principal === undefined ? undefined : requirePrincipal(principal);
    } catch {
      return undefined;
    }
  }

  /** Sessions that were taken over from another store, or written by a process without the index, are noted when they are met. */
  async #catchUp(session: T, storedId: string, notAfterMs: number | undefined): Promise<void> {
    const principal = this.#principal?.(session) ?? undefined;
    if (principal === undefined) return;
    const endsAt = notAfterMs ?? (this.#endOfLife(undefined) as number);
    await this.#index?.catchUp(principal, storedId, { endsAt, device: this.#device?.(session) });
  }

  #isCatchingUp(): boolean {
    return this.#index !== undefined && (this.#index.isCatchingUp || this.#isAdopting());
  }

  #requireIndex(): PrincipalIndex {
    if (this.#index === undefined) throw new TypeError("this needs the options principal and principalIndex");
    return this.#index;
  }

  #principalIndexOf(options: SessionStoreOptions<T>): PrincipalIndex | undefined {
    const { principal, principalIndex, device, maxPerPrincipal, namespace = "", purpose = DEFAULT_PURPOSE } = options;
    for (const [field, value] of Object.entries({ principal, device })) {
      if (value !== undefined && typeof value !== "function") throw new TypeError(`${field} must be a function`);
    }
    if (principal === undefined || principalIndex === undefined) {
      if ([principal, principalIndex, device, maxPerPrincipal].every((option) => option === undefined))
        return undefined;
      throw new TypeError("principal and principalIndex need each other; device and maxPerPrincipal need both");
    }
    if (this.#absoluteMs === undefined) {
      throw new RangeError(
        "principal needs absoluteSeconds: an entry of the index ends with the absolute life of its session",
      );
    }
    return new PrincipalIndex({
      ...principalIndex,
      sealingRing: this.#ring,
      sessions: this.#store,
      namespace,
      purpose,
      absoluteMs: this.#absoluteMs,
      max: maxPerPrincipal,
      look: (storedId, of) => this.#look(storedId, of),
    });
  }

  async #seal(session: T, storedId: string, sessionId: string, notAfterMs: number | undefined): Promise<Uint8Array> {
    // Most likely a change that forgot its return: written, it could not be told from no session.
    if (session === undefined) {
      throw new UnsupportedValueError("VALUE_UNSUPPORTED", "", "a session must not be undefined");
    }
    return this.#sealer.seal(session, storedId, { notAfterMs, sessionId });
  }

  /** Notes where an object came from, and what has to be kept when it is written back. The header is authentic, or our own. */
  #remember(session: T, storedId: string, envelope: Uint8Array): { notAfterMs: number | undefined } {
    const header = parseEnvelope(envelope, this.#maxEnvelopeBytes);
    const notAfterMs = header?.notAfter === undefined ? undefined : header.notAfter * 1000;
    if (header !== undefined && typeof session === "object" && session !== null) {
      const principal = this.#principalIn(session);
      this.#origins.set(session, { storedId, principal, notAfterMs, keyId: header.keyId, envelope });
    }
    return { notAfterMs };
  }

  /**
   * Seals a session anew when its key stopped sealing some time ago (format 5.6), so that the key can retire. Whoever writes meanwhile wins: what
   * it wrote is under the key that seals now. Reading must not fail because of this.
   *
   * @returns The new envelope, where it was written.
   */
  async #resealWhenDue(bytes: Uint8Array, storedId: string, sessionId: string): Promise<Uint8Array | undefined> {
    const envelope = parseEnvelope(bytes, this.#maxEnvelopeBytes);
    if (envelope === undefined || !this.#ring.isResealDue(envelope.keyId)) return undefined;
    try {
      const resealed = await this.#sealer.reseal(bytes, storedId, { sessionId });
      if (!(await this.#store.compareAndSet(storedId, bytes, resealed))) return undefined;
      report({ type: "session-resealed", ring: this.#ring.name });
      return resealed;
    } catch (error) {
      report({ type: "session-reseal-failed", ring: this.#ring.name, code: codeOf(error) });
      return undefined;
    }
  }

  #originOf(session: unknown): Origin | undefined {
    return typeof session === "object" && session !== null ? this.#origins.get(session) : undefined;
  }

  /** Not what has ended, nor what a revoked key sealed: that would bring it back to life. */
  #mayOverwrite(origin: Origin): boolean {
    const { notAfterMs, keyId } = origin;
    const hasEnded = notAfterMs !== undefined && notAfterMs <= this.#ring.clock();
    return !hasEnded && !this.#mayBeDraft(origin) && this.#ring.byIdIfWarm(keyId) !== undefined;
  }

  /** Whether an object may have been read while a login was under way: the end of life that it knows is then not the session's. */
  #mayBeDraft({ notAfterMs }: Pick<Origin, "notAfterMs">): boolean {
    return (
      this.#index !== undefined &&
      notAfterMs !== undefined &&
      notAfterMs <= this.#ring.clock() + DRAFT_MS + CLOCK_TOLERANCE_MS
    );
  }

  /** @returns `undefined` when the session counts as gone. */
  async #open(
    bytes: Uint8Array,
    storedId: string,
    sessionId?: string,
  ): Promise<{ session: T; notAfterMs: number | undefined } | undefined> {
    try {
      const session = (await this.#openWarmFirst(bytes, storedId, sessionId)) as T;
      const { notAfterMs } = this.#remember(session, storedId, bytes);
      if (sessionId !== undefined && this.#isCatchingUp()) await this.#catchUp(session, storedId, notAfterMs);
      return { session, notAfterMs };
    } catch (error) {
      const gone = (["ENVELOPE_EXPIRED", "KEY_REVOKED", "KEY_RETIRED", "KEY_DENIED"] as const).find((code) =>
        hasCode(error, code),
      );
      if (gone !== undefined) {
        report({ type: "session-dropped", code: gone });
        return undefined;
      }
      if (hasCode(error, "ENVELOPE_REJECTED")) report({ type: "envelope-rejected" });
      throw error;
    }
  }

  #openWarmFirst(bytes: Uint8Array, storedId: string, sessionId: string | undefined): unknown {
    try {
      return this.#sealer.openSync(bytes, storedId, { sessionId });
    } catch (error) {
      if (!hasCode(error, "KEY_UNAVAILABLE")) throw error;
      return this.#sealer.open(bytes, storedId, { sessionId });
    }
  }

  /** The end of a session's absolute life: the one that it has, or one from now on where it has none yet. */
  #endOfLife(notAfterMs: number | undefined): number | undefined {
    if (notAfterMs !== undefined || this.#absoluteMs === undefined) return notAfterMs;
    return Math.floor(this.#ring.clock()) + this.#absoluteMs;
  }

  /** A time to live, cut at the end of the absolute life. */
  #ttl(notAfterMs: number | undefined, wantedMs = this.#idleMs): number {
    requireInteger("ttlMs", wantedMs, 1, MAX_TTL_MS);
    if (notAfterMs === undefined) return wantedMs;
    return Math.max(1, Math.min(wantedMs, notAfterMs - Math.floor(this.#ring.clock())));
  }

  #storedId(sessionId: string): string | undefined {
    return storedIdOf(sessionId, this.#storedIds);
  }

  #requireStoredId(sessionId: string): string {
    const storedId = this.#storedId(sessionId);
    if (storedId !== undefined) return storedId;
    const limit = this.#storedIds === "verbatim" ? " without braces" : "";
    throw new SealedSessionError("SESSION_ID_INVALID", `a session id must have 16 to 512 bytes of UTF-8${limit}`);
  }
}

function changed(): SealedSessionError {
  return new SealedSessionError("STORE_CONFLICT", "somebody else has written this session since it was read");
}

function conflict(): SealedSessionError {
  return new SealedSessionError("STORE_CONFLICT", `other writers came first ${UPDATE_ATTEMPTS} times`);
}
