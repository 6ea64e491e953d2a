/**
 * Web sessions as an application sees them: objects under session ids, in a store that only holds envelopes.
 */
import { requireInteger, requireMethods } from "./argument.js";
import { asBulkStore } from "./bulk-store.js";
import { base64url, equal } from "./bytes.js";
import { report } from "./diagnostics.js";
import { PEEK_BYTES, parseEnvelope, peekEnvelope } from "./envelope.js";
import { type EnvelopeStore, type GetEnvelopeOptions, MAX_TTL_MS } from "./envelope-store.js";
import { codeOf, hasCode, SealedSessionError, UnsupportedValueError } from "./errors.js";
import type { KeyRing } from "./key-ring.js";
import { type AdoptPlaintextOptions, PlaintextAdoption } from "./plaintext-adoption.js";
import { Sealer, type SealerOptions } from "./sealer.js";
import { createSessionId, type StoredIdMode, storedIdOf } from "./session-id.js";

const DEFAULT_IDLE_SECONDS = 86_400;
const MAX_SECONDS = MAX_TTL_MS / 1000;
/** Each failed attempt means that another writer succeeded. */
const UPDATE_ATTEMPTS = 16;

/** Options of {@link SessionStore}. Times are in seconds, 1 to 315360000 (ten years of 365 days). */
export interface SessionStoreOptions extends Omit<SealerOptions, "counted"> {
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

/** Where a session object came from. */
interface Origin {
  readonly storedId: string;
  readonly notAfterMs: number | undefined;
  readonly keyId: Uint8Array;
  readonly envelope: Uint8Array;
}

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
  readonly #maxEnvelopeBytes: number | undefined;
  readonly #idleMs: number;
  readonly #absoluteMs: number | undefined;
  readonly #sliding: boolean;
  readonly #storedIds: StoredIdMode;
  readonly #adopt: AdoptPlaintextOptions | undefined;
  readonly #adoption: PlaintextAdoption | undefined;
  readonly #origins = new WeakMap<object, Origin>();

  /** @throws TypeError or RangeError when an option is wrong. */
  constructor(options: SessionStoreOptions) {
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
    this.#idleMs = 1000 * requireInteger("idleSeconds", options.idleSeconds ?? DEFAULT_IDLE_SECONDS, 1, MAX_SECONDS);
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
    this.#adopt = options.adopt;
    this.#adoption = this.#adopt === undefined ? undefined : this.#adoptionOf(this.#adopt);
    this.#ring.attach({ maxTtlMs: this.#idleMs, count: () => this.countByKey() }, this.#store);
  }

  /**
   * Starts a session.
   *
   * @param session - What the codec can keep.
   * @param ownId - A session id that the caller made, as hard to guess. Default: a new one with 256 random bits.
   * @param life - See {@link LifeOptions}.
   * @returns The session id, for the cookie.
   * @throws SealedSessionError `SESSION_EXISTS` when a session lives under this id, `SESSION_ID_INVALID`, `KEY_UNAVAILABLE`, `STORE_UNAVAILABLE`;
   *   UnsupportedValueError.
   */
  async create(session: T, ownId?: string, { ttlMs }: LifeOptions = {}): Promise<string> {
    const sessionId = ownId ?? createSessionId(this.#ring.random);
    const storedId = this.#requireStoredId(sessionId);
    // One that lives in clear under this id becomes an envelope, and so is in the way.
    if (ownId !== undefined && this.#isAdopting()) await this.#adoption?.adopt(sessionId, storedId);
    const notAfterMs = this.#endOfLife(undefined);
    await this.#insert(storedId, sessionId, session, notAfterMs, this.#ttl(notAfterMs, ttlMs));
    return sessionId;
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
   * @param options - See {@link SetSessionOptions}.
   * @returns `false` when there is no such session.
   * @throws SealedSessionError `SESSION_ID_INVALID`, `STORE_CONFLICT`, `ENVELOPE_REJECTED`, `KEY_UNAVAILABLE`, `STORE_UNAVAILABLE`; UnsupportedValueError.
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
    const envelope = await this.#seal(session, storedId, sessionId, notAfterMs);
    const life = { ttlMs: this.#ttl(notAfterMs, ttlMs) };
    const written = ifUnchanged
      ? await this.#store.compareAndSet(storedId, origin.envelope, envelope, life)
      : await this.#store.set(storedId, envelope, { ...life, condition: "present" });
    if (written) this.#remember(session, storedId, envelope);
    else if (ifUnchanged && (await this.#store.get(storedId)) !== undefined) throw changed();
    return written;
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
   * Moves a session to a new id, as every login should (session fixation). Its absolute life goes on.
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
      const session = await change(found.session);

      const newId = createSessionId(this.#ring.random);
      const newStoredId = this.#requireStoredId(newId);
      await this.#insert(
        newStoredId,
        newId,
        session,
        notAfterMs,
        Math.max(1, Math.min(remainingMs, this.#ttl(notAfterMs))),
      );
      if (await this.#store.destroy(storedId, { expected: bytes })) {
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
    await asBulkStore(this.#store).walk(async (page) => {
      for (const head of await page.peek(page.storedIds, PEEK_BYTES)) {
        const envelope = head === undefined ? undefined : peekEnvelope(head);
        if (envelope === undefined) continue;
        const keyId = base64url(envelope.keyId);
        counts.set(keyId, (counts.get(keyId) ?? 0) + 1);
      }
    });
    return counts;
  }

  /** To be called when the process image was copied or restored from a snapshot, before it seals again (format 2.4). */
  reseed(): void {
    this.#sealer.reseed();
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
      const session = await change(found.session);
      const notAfterMs = this.#endOfLife(found.notAfterMs);
      const envelope = await this.#seal(session, storedId, sessionId, notAfterMs);
      const isTtlKnown = this.#sliding || ttlMs !== undefined;
      const life = isTtlKnown ? { ttlMs: this.#ttl(notAfterMs, ttlMs) } : undefined;
      if (await this.#store.compareAndSet(storedId, bytes, envelope, life)) {
        this.#remember(session, storedId, envelope);
        return session;
      }
    }
    throw conflict();
  }

  async #setTtl(sessionId: string, storedId: string, ttlMs: number, origin: object | undefined): Promise<boolean> {
    const known = this.#originOf(origin);
    if (known?.storedId === storedId) return this.#store.touch(storedId, this.#ttl(known.notAfterMs, ttlMs));
    if (this.#absoluteMs === undefined && !this.#isAdopting()) {
      return this.#store.touch(storedId, this.#ttl(undefined, ttlMs));
    }
    const bytes = await this.#read(storedId, sessionId);
    const found = bytes === undefined ? undefined : await this.#open(bytes, storedId, sessionId);
    return found !== undefined && this.#store.touch(storedId, this.#ttl(found.notAfterMs, ttlMs));
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

  async #insert(
    storedId: string,
    sessionId: string,
    session: T,
    notAfterMs: number | undefined,
    ttlMs: number,
  ): Promise<void> {
    const envelope = await this.#seal(session, storedId, sessionId, notAfterMs);
    if (!(await this.#store.set(storedId, envelope, { ttlMs, condition: "absent" }))) {
      throw new SealedSessionError("SESSION_EXISTS", "a session lives under this id already");
    }
    this.#remember(session, storedId, envelope);
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
      this.#origins.set(session, { storedId, notAfterMs, keyId: header.keyId, envelope });
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
  #mayOverwrite({ notAfterMs, keyId }: Origin): boolean {
    const hasEnded = notAfterMs !== undefined && notAfterMs <= this.#ring.clock();
    return !hasEnded && this.#ring.byIdIfWarm(keyId) !== undefined;
  }

  /** @returns `undefined` when the session counts as gone. */
  async #open(
    bytes: Uint8Array,
    storedId: string,
    sessionId?: string,
  ): Promise<{ session: T; notAfterMs: number | undefined } | undefined> {
    try {
      const session = (await this.#openWarmFirst(bytes, storedId, sessionId)) as T;
      return { session, ...this.#remember(session, storedId, bytes) };
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
