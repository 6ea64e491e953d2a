/**
 * Takes web sessions over that another store wrote in clear: each is sealed with what is left of its time to live, and its plaintext removed.
 *
 * The plaintext and the envelope lie under two keys, which no command changes at once. So the envelope is written first, and nobody is logged out
 * in between. Then the plaintext goes, if it still is what was sealed: if it has changed, the newer one is sealed; if somebody has ended the session,
 * the envelope goes too. A process that dies between the two leaves both; the envelope counts then, and the walk removes the plaintext.
 */
import { requireInteger, requireMethods } from "./argument.js";
import { report } from "./diagnostics.js";
import { peekEnvelope } from "./envelope.js";
import { type EnvelopeStore, MAX_TTL_MS } from "./envelope-store.js";
import { codeOf, type ErrorCode, UnsupportedValueError } from "./errors.js";
import type { KeyRing } from "./key-ring.js";
import type { PlaintextSession, PlaintextSource } from "./plaintext-source.js";
import type { Sealer } from "./sealer.js";

/** A plaintext with less than this to live, in milliseconds, may have expired when it is found gone. */
const EXPIRY_SLACK_MS = 50;
/** Each failed attempt means that another writer succeeded. */
const ATTEMPTS = 16;

/**
 * What became of a session: `sealed` now; `present`: an envelope lay there already; `gone`: there is no plaintext, or somebody ended the session
 * meanwhile; `refused`: it cannot be read or sealed, and was left alone.
 */
export type Adoption = "sealed" | "present" | "gone" | "refused";

/** Where sessions in clear come from, and for how long. Times are in milliseconds since 1970-01-01T00:00:00Z. */
export interface AdoptPlaintextOptions {
  /** The sessions in clear. */
  readonly from: PlaintextSource;
  /**
   * When this ends: from then on nothing in clear is read any more. Until then whoever can write to the place of the plaintext can make sessions, as
   * before; so it should be no later than what the other store wrote lives.
   */
  readonly until: number;
  /**
   * The plaintext lies under the very keys where the envelopes belong, and they take its place. Needs `verbatim` stored ids.
   *
   * @defaultValue false
   */
  readonly inPlace?: boolean;
}

/** What {@link PlaintextAdoption} works with. */
export interface PlaintextAdoptionParts {
  /** Its clock counts. */
  readonly ring: KeyRing;
  /** Seals the sessions. */
  readonly sealer: Pick<Sealer, "seal">;
  /** Where the envelopes go. */
  readonly store: EnvelopeStore;
  /** Where the sessions lie in clear. */
  readonly from: PlaintextSource;
  /** The envelope takes the place of the session in clear. */
  readonly inPlace: boolean;
  /** For sessions without an end, in milliseconds. */
  readonly idleMs: number;
  /** Absolute life from now on: plaintext does not tell when it began. In milliseconds. */
  readonly absoluteMs: number | undefined;
}

/** Seals sessions in clear, one by one. Requests and the walk go through it both, in any number of processes at a time. */
export class PlaintextAdoption {
  readonly #parts: PlaintextAdoptionParts;

  /** @throws TypeError or RangeError when a part is wrong. */
  constructor(parts: PlaintextAdoptionParts) {
    requireMethods("from", parts.from, "read", "parse", "remove", "destroy");
    requireInteger("idleMs", parts.idleMs, 1, MAX_TTL_MS);
    this.#parts = parts;
  }

  /**
   * Seals a session, if there is one in clear.
   *
   * @throws SealedSessionError `KEY_UNAVAILABLE`, `STORE_UNAVAILABLE`, `CLOSED`: the plaintext lies there still, or an envelope that opens.
   */
  async adopt(sessionId: string, storedId: string): Promise<Adoption> {
    const { ring, inPlace } = this.#parts;
    const adoption = await (inPlace ? this.#replace(sessionId, storedId) : this.#move(sessionId, storedId));
    if (adoption === "sealed") report({ type: "session-adopted", ring: ring.name });
    return adoption;
  }

  /** What {@link PlaintextAdoption.adopt} would do, by what lies there now. */
  async examine(sessionId: string, storedId: string): Promise<Adoption> {
    const { store, inPlace } = this.#parts;
    const { found } = await this.#read(sessionId);
    if (found === undefined) return "gone";
    if (isEnvelope(found.raw) || (!inPlace && (await store.ttlMs(storedId)) !== undefined)) return "present";
    return this.#parse(found.raw) === undefined ? "refused" : "sealed";
  }

  async #move(sessionId: string, storedId: string): Promise<Adoption> {
    const { store, from } = this.#parts;
    const first = await this.#read(sessionId);
    if (first.found === undefined) return "gone";
    let { found, readAt } = { ...first, found: first.found };
    // Under overlapping prefixes envelopes are met as well.
    if (isEnvelope(found.raw)) return "present";
    let ours: Uint8Array | undefined;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const envelope = await this.#seal(found, storedId, sessionId);
      if (envelope === undefined) return ours === undefined ? "refused" : "sealed";
      const ttlMs = this.#ttl(found, readAt);
      const isWritten =
        ours === undefined
          ? await store.set(storedId, envelope, { ttlMs, condition: "absent" })
          : // What somebody made of our envelope meanwhile is newer than any plaintext.
            await store.compareAndSet(storedId, ours, envelope, { ttlMs });
      if (isWritten) ours = envelope;
      const removal = await from.remove(sessionId, found.raw);
      if (removal === "removed") return ours === undefined ? "present" : "sealed";
      if (removal === "gone") {
        // What has expired was ended by nobody, and the envelope has its own time.
        if (this.#isOver(found, readAt)) return ours === undefined ? "present" : "sealed";
        // Whatever lies there by now was made of what we read before the session ended.
        await store.destroy(storedId);
        return "gone";
      }
      const again = await this.#read(sessionId);
      // Without a plaintext, `remove` tells at the next attempt who has taken it away.
      if (again.found !== undefined) ({ found, readAt } = { ...again, found: again.found });
    }
    // Somebody writes plaintext all the time. The envelope is as good as any of it.
    return ours === undefined ? "present" : "sealed";
  }

  async #replace(sessionId: string, storedId: string): Promise<Adoption> {
    const { store, idleMs, absoluteMs } = this.#parts;
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const { found } = await this.#read(sessionId);
      if (found === undefined) return "gone";
      if (isEnvelope(found.raw)) return "present";
      const envelope = await this.#seal(found, storedId, sessionId);
      if (envelope === undefined) return "refused";
      const isKept = absoluteMs === undefined && found.ttlMs !== undefined;
      const ttl = isKept ? undefined : { ttlMs: this.#cut(found.ttlMs ?? idleMs) };
      if (await store.compareAndSet(storedId, found.raw, envelope, ttl)) return "sealed";
    }
    return "gone";
  }

  async #read(sessionId: string): Promise<{ found: PlaintextSession | undefined; readAt: number }> {
    const readAt = this.#parts.ring.clock();
    return { found: await this.#parts.from.read(sessionId), readAt };
  }

  /** @returns `undefined` for what cannot be sealed. */
  async #seal({ raw }: PlaintextSession, storedId: string, sessionId: string): Promise<Uint8Array | undefined> {
    const session = this.#parse(raw);
    if (session === undefined) return undefined;
    const { ring, sealer, absoluteMs } = this.#parts;
    const notAfterMs = absoluteMs === undefined ? undefined : Math.floor(ring.clock()) + absoluteMs;
    try {
      return await sealer.seal(session, storedId, { notAfterMs, sessionId });
    } catch (error) {
      if (!(error instanceof UnsupportedValueError)) throw error;
      return this.#refuse(codeOf(error));
    }
  }

  #parse(raw: Uint8Array): object | undefined {
    try {
      const session = this.#parts.from.parse(raw);
      if (typeof session === "object" && session !== null) return session;
    } catch {
      // What a parser says may hold a piece of the session.
    }
    return this.#refuse("PAYLOAD_MALFORMED");
  }

  #refuse(code: ErrorCode | undefined): undefined {
    report({ type: "plaintext-refused", ring: this.#parts.ring.name, code });
    return undefined;
  }

  /** What is left of the time to live; a KMS may have been waited for since it was read. */
  #ttl({ ttlMs = this.#parts.idleMs }: PlaintextSession, readAt: number): number {
    return this.#cut(ttlMs - Math.max(0, Math.ceil(this.#parts.ring.clock() - readAt)));
  }

  #isOver({ ttlMs = MAX_TTL_MS }: PlaintextSession, readAt: number): boolean {
    return this.#parts.ring.clock() - readAt >= ttlMs - EXPIRY_SLACK_MS;
  }

  #cut(ttlMs: number): number {
    return Math.max(1, Math.min(ttlMs, this.#parts.absoluteMs ?? MAX_TTL_MS, MAX_TTL_MS));
  }
}

function isEnvelope(raw: Uint8Array): boolean {
  return peekEnvelope(raw) !== undefined;
}
