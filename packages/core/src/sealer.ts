/**
 * Seals values into envelopes and opens them again: codec, key ring, cipher and layout together.
 *
 * The `Sync` methods are the warm path: they never wait, and throw `KEY_UNAVAILABLE` when a key is not at hand. The others wait for
 * the ring, and through it for the KMS, once a key is new to this process.
 */
import { backend } from "#backend";
import { importAesKey, NoncePool, SENDER_BYTES, TAG_BYTES } from "./aead.js";
import { requireInteger, requireUtf8 } from "./argument.js";
import type { SecretKey } from "./backend/backend.js";
import { equal } from "./bytes.js";
import { decode, encodeBorrowed } from "./codec.js";
import { type DataKey, decodeRecord, type KeyRecord, RecordState } from "./data-key.js";
import {
  DEFAULT_MAX_ENVELOPE_BYTES,
  type Envelope,
  type EnvelopeHeader,
  headerBytes,
  KEY_ID_BYTES,
  NONCE_OFFSET,
  parseEnvelope,
  writeContext,
  writeHeader,
} from "./envelope.js";
import { hasCode, rejected, revoked, SealedSessionError, UnsupportedValueError } from "./errors.js";
import type { KeyRing } from "./key-ring.js";
import { sessionIdBytes } from "./session-id.js";

const MAX_NOT_AFTER_MS = 0xffff_ffff * 1000;
const MIN_MAX_ENVELOPE_BYTES = 128;
const MAX_MAX_ENVELOPE_BYTES = 512 * 1_048_576;
const MAX_NAMESPACE_BYTES = 256;
export const DEFAULT_PURPOSE = "session";
const SCRATCH_BYTES = 1024;
const encoder = new TextEncoder();
const MAX_STORED_ID_BYTES = 0xffff;

/** Options of {@link Sealer}. */
export interface SealerOptions {
  /** The keys. Its clock and random source are the sealer's too. */
  readonly ring: KeyRing;
  /** Bound into every envelope: one written under another namespace does not open. At most 256 bytes of UTF-8. @defaultValue "" */
  readonly namespace?: string;
  /** What the envelopes are for, bound into them as well: 1 to 256 bytes of UTF-8. @defaultValue "session" */
  readonly purpose?: string;
  /** Longest envelope to write or read, in bytes: 128 to 536870912. @defaultValue 1048576 (1 MiB) */
  readonly maxEnvelopeBytes?: number;
  /** Every envelope needs the session id of its client, and one that does not is rejected (format 3.4). @defaultValue false */
  readonly clientBound?: boolean;
  /**
   * Whether a key record may travel with an envelope (format 3.5): not at all, only in envelopes that are read, or also in those that are written.
   *
   * @defaultValue "off"
   */
  readonly inlineKeys?: "off" | "read" | "write";
  /**
   * What this sealer seals is counted by somebody who is attached to the ring, as a {@link SessionStore} is. Otherwise this process retires no
   * key: nobody could say that nothing is sealed under it any more. Other processes that use the ring do, unless their `rotation` is manual.
   *
   * @defaultValue false
   */
  readonly counted?: boolean;
}

/** What a single value is sealed with. */
export interface SealOptions {
  /** Absolute end of life in milliseconds since 1970-01-01T00:00:00Z, rounded up to a second; in the envelope and authenticated. @defaultValue none */
  readonly notAfterMs?: number | undefined;
  /** The session id of the client; needed where `clientBound` is set. */
  readonly sessionId?: string | undefined;
}

/** What a single envelope is opened with. */
export interface OpenOptions {
  /** The session id of the client; needed where `clientBound` is set. */
  readonly sessionId?: string | undefined;
}

/** What is settled about an envelope before its content is known. */
interface Frame {
  readonly header: EnvelopeHeader;
  readonly headerLength: number;
  readonly storedId: string;
  /** The client's, where envelopes are bound to it. */
  readonly sessionId: Uint8Array | undefined;
  /** Longest plaintext. */
  readonly maxBytes: number;
}

/**
 * Seals and opens values, for programs that keep envelopes themselves; {@link SessionStore} is for web sessions. It holds no keys: those are
 * the ring's.
 */
export class Sealer {
  readonly #ring: KeyRing;
  readonly #contextStart: Uint8Array;
  readonly #maxEnvelopeBytes: number;
  readonly #clientBound: boolean;
  readonly #inlineKeys: "off" | "read" | "write";
  readonly #nonces: NoncePool;
  /** Where the authenticated bytes are put together: an array for each message costs as much as encrypting it. */
  #scratch = new Uint8Array(SCRATCH_BYTES);

  /** @throws TypeError or RangeError when an option is wrong. */
  constructor(options: SealerOptions) {
    this.#ring = options.ring;
    if (typeof this.#ring?.currentIfWarm !== "function") throw new TypeError("ring must be a KeyRing");
    const namespace = requireUtf8("namespace", options.namespace ?? "", 0, MAX_NAMESPACE_BYTES);
    const purpose = requireUtf8("purpose", options.purpose ?? DEFAULT_PURPOSE, 1, MAX_NAMESPACE_BYTES);
    this.#contextStart = writeContext(purpose, namespace) as Uint8Array;
    this.#maxEnvelopeBytes = requireInteger(
      "maxEnvelopeBytes",
      options.maxEnvelopeBytes ?? DEFAULT_MAX_ENVELOPE_BYTES,
      MIN_MAX_ENVELOPE_BYTES,
      MAX_MAX_ENVELOPE_BYTES,
    );
    this.#clientBound = options.clientBound ?? false;
    this.#inlineKeys = options.inlineKeys ?? "off";
    if (!["off", "read", "write"].includes(this.#inlineKeys)) {
      throw new RangeError('inlineKeys must be "off", "read" or "write"');
    }
    if (!(options.counted ?? false)) this.#ring.attach({ maxTtlMs: 0 });
    this.#nonces = new NoncePool(this.#ring.random, this.#ring.clock);
  }

  /**
   * Seals a value under a stored id.
   *
   * @param value - What the codec can keep; an `Uint8Array` is sealed as raw bytes.
   * @param storedId - Where the envelope will lie; it opens nowhere else.
   * @param options - See {@link SealOptions}.
   * @returns The envelope: 54 bytes longer than the encoded value, and 4 more with an end of life (format 3).
   * @throws UnsupportedValueError when the value cannot be kept; SealedSessionError `KEY_UNAVAILABLE`, `CLOCK_SKEW`, `CLOSED`.
   * @throws TypeError or RangeError when an option or the stored id is wrong.
   */
  async seal(value: unknown, storedId: string, options: SealOptions = {}): Promise<Uint8Array> {
    return this.#sealUnder(this.#ring.currentIfWarm() ?? (await this.#ring.current()), value, storedId, options);
  }

  /** As {@link Sealer.seal}, without waiting. @throws SealedSessionError `KEY_UNAVAILABLE` also when the key is not warm. */
  sealSync(value: unknown, storedId: string, options: SealOptions = {}): Uint8Array {
    const dataKey = this.#ring.currentIfWarm();
    if (dataKey === undefined) throw notWarm();
    return this.#sealUnder(dataKey, value, storedId, options);
  }

  /**
   * Opens an envelope.
   *
   * @param bytes - The envelope.
   * @param storedId - Where it lay.
   * @param options - See {@link OpenOptions}.
   * @returns The value.
   * @throws SealedSessionError `ENVELOPE_REJECTED` for everything that is wrong with the bytes or their place; `ENVELOPE_EXPIRED` when it is
   *   authentic and past its end of life; `KEY_REVOKED`, `KEY_RETIRED`, `KEY_DENIED`, `KEY_UNAVAILABLE`, `CLOSED`.
   */
  async open(bytes: Uint8Array, storedId: string, options: OpenOptions = {}): Promise<unknown> {
    const envelope = this.#parse(bytes);
    return this.#withKeyOf(envelope, (dataKey) => this.#openUnder(dataKey, envelope, storedId, options));
  }

  /** As {@link Sealer.open}, without waiting. @throws SealedSessionError `KEY_UNAVAILABLE` also when the key is not warm. */
  openSync(bytes: Uint8Array, storedId: string, options: OpenOptions = {}): unknown {
    const envelope = this.#parse(bytes);
    const dataKey = this.#ring.byIdIfWarm(envelope.keyId);
    if (dataKey === undefined) throw notWarm();
    return this.#openUnder(dataKey, envelope, storedId, options);
  }

  /**
   * Seals the content of an envelope anew, under the key that seals now: the same bytes inside, the same end of life and place.
   *
   * @param bytes - The envelope.
   * @param storedId - Where it lies.
   * @param options - See {@link OpenOptions}.
   * @returns The new envelope.
   * @throws SealedSessionError as {@link Sealer.open} and {@link Sealer.seal}.
   */
  async reseal(bytes: Uint8Array, storedId: string, options: OpenOptions = {}): Promise<Uint8Array> {
    const envelope = this.#parse(bytes);
    const plaintext = await this.#withKeyOf(envelope, (old) => this.#decrypt(old, envelope, storedId, options));
    try {
      const dataKey = this.#ring.currentIfWarm() ?? (await this.#ring.current());
      return this.#sealPlaintext(dataKey, plaintext, storedId, envelope.notAfter, options.sessionId);
    } finally {
      plaintext.fill(0);
    }
  }

  /** As {@link Sealer.reseal}, without waiting. @throws SealedSessionError `KEY_UNAVAILABLE` also when a key is not warm. */
  resealSync(bytes: Uint8Array, storedId: string, options: OpenOptions = {}): Uint8Array {
    const envelope = this.#parse(bytes);
    const old = this.#ring.byIdIfWarm(envelope.keyId);
    const dataKey = this.#ring.currentIfWarm();
    if (old === undefined || dataKey === undefined) throw notWarm();
    const plaintext = this.#decrypt(old, envelope, storedId, options);
    try {
      return this.#sealPlaintext(dataKey, plaintext, storedId, envelope.notAfter, options.sessionId);
    } finally {
      plaintext.fill(0);
    }
  }

  /** To be called when the process image was copied or restored from a snapshot, before it seals again (format 2.4). */
  reseed(): void {
    this.#nonces.reset();
    this.#ring.reseed();
  }

  #sealPlaintext(
    dataKey: DataKey,
    plaintext: Uint8Array,
    storedId: string,
    notAfter: number | undefined,
    clientId: string | undefined,
  ): Uint8Array {
    const frame = this.#frame(dataKey, storedId, notAfter, clientId);
    if (plaintext.length > frame.maxBytes) {
      throw new UnsupportedValueError("VALUE_TOO_LARGE", "", "the envelope would be longer than maxEnvelopeBytes");
    }
    return this.#encrypt(dataKey, plaintext, frame);
  }

  #sealUnder(dataKey: DataKey, value: unknown, storedId: string, options: SealOptions): Uint8Array {
    const frame = this.#frame(dataKey, storedId, notAfterSeconds(options.notAfterMs), options.sessionId);
    return encodeBorrowed(value, frame, (plaintext) => this.#encrypt(dataKey, plaintext, frame));
  }

  #frame(dataKey: DataKey, storedId: string, notAfter: number | undefined, clientId: string | undefined): Frame {
    const header: EnvelopeHeader = {
      keyId: dataKey.keyIdBytes,
      notAfter,
      clientBound: this.#clientBound,
      inlineRecord: this.#inlineKeys === "write" ? this.#ring.inlineRecordOf(dataKey) : undefined,
    };
    if (!isStoredId(storedId)) throw new RangeError("storedId must be well-formed Unicode of at most 65535 bytes");
    const sessionId = this.#clientBound ? requireSessionId(clientId) : undefined;
    if (sessionId !== undefined && storedId === clientId) {
      throw new RangeError("storedId must not be the session id: the store would hold the client's secret");
    }
    const headerLength = headerBytes(header);
    const maxBytes = Math.max(this.#maxEnvelopeBytes - headerLength - TAG_BYTES, 0);
    return { header, headerLength, storedId, sessionId, maxBytes };
  }

  #encrypt(dataKey: DataKey, plaintext: Uint8Array, { header, headerLength, storedId, sessionId }: Frame): Uint8Array {
    const envelope = new Uint8Array(headerLength + plaintext.length + TAG_BYTES);
    writeHeader(envelope, header);
    this.#nonces.take(envelope, NONCE_OFFSET + SENDER_BYTES);
    const { sender, aesKey: processKey } = dataKey.nextSender();
    envelope.set(sender, NONCE_OFFSET);
    const aad = this.#aad(envelope, headerLength, storedId);
    const nonce = envelope.subarray(NONCE_OFFSET + SENDER_BYTES, NONCE_OFFSET + 2 * SENDER_BYTES);
    if (sessionId === undefined) {
      backend.sealGcm(processKey, nonce, aad, plaintext, envelope, headerLength);
    } else {
      withClientKey(dataKey, sessionId, sender, (aesKey) => {
        backend.sealGcm(aesKey, nonce, aad, plaintext, envelope, headerLength);
      });
    }
    return envelope;
  }

  #parse(bytes: Uint8Array): Envelope {
    const envelope = parseEnvelope(bytes, this.#maxEnvelopeBytes);
    if (envelope === undefined || envelope.clientBound !== this.#clientBound) throw rejected();
    this.#recordOf(envelope);
    return envelope;
  }

  /** The key record that travels with an envelope: well-formed, and of the key that the header names. */
  #recordOf({ inlineRecord, keyId }: Envelope): KeyRecord | undefined {
    if (inlineRecord === undefined) return undefined;
    const record = this.#inlineKeys === "off" ? undefined : decodeRecord(inlineRecord);
    if (record === undefined || !equal(record.commitment.subarray(0, KEY_ID_BYTES), keyId)) throw rejected();
    return record;
  }

  #openUnder(dataKey: DataKey, envelope: Envelope, storedId: string, options: OpenOptions): unknown {
    const plaintext = this.#decrypt(dataKey, envelope, storedId, options);
    try {
      return decode(plaintext, { maxBytes: this.#maxEnvelopeBytes });
    } catch (error) {
      throw hasCode(error, "PAYLOAD_MALFORMED") ? rejected() : error;
    } finally {
      plaintext.fill(0);
    }
  }

  /** @returns The plaintext, to be wiped. */
  #decrypt(dataKey: DataKey, envelope: Envelope, storedId: string, options: OpenOptions): Uint8Array {
    const { nonce, sealed, header } = envelope;
    if (!isStoredId(storedId)) throw rejected();
    // The key id in the header is only the beginning of the commitment.
    const record = this.#recordOf(envelope);
    if (record !== undefined && !equal(record.commitment, dataKey.commitment)) throw rejected();
    const aad = this.#aad(header, header.length, storedId);
    const plaintext = this.#clientBound
      ? withClientKey(dataKey, requireSessionId(options.sessionId), nonce, (aesKey) =>
          backend.openGcm(aesKey, nonce.subarray(SENDER_BYTES), aad, sealed),
        )
      : dataKey.open(nonce, aad, sealed);
    if (plaintext === undefined) throw rejected();
    if (envelope.notAfter === undefined || this.#ring.clock() < envelope.notAfter * 1000) return plaintext;
    plaintext.fill(0);
    throw new SealedSessionError("ENVELOPE_EXPIRED", "the envelope is past its end of life");
  }

  async #withKeyOf<T>(envelope: Envelope, use: (dataKey: DataKey) => T): Promise<T> {
    const warm = this.#ring.byIdIfWarm(envelope.keyId);
    if (warm !== undefined) return use(warm);
    const record = this.#recordOf(envelope);
    if (record === undefined) return use(await this.#ring.byId(envelope.keyId));
    // Where the ring knows the key, the ring's state decides: a revoked key does not come back in an envelope.
    const known = await this.#ring.byId(envelope.keyId).catch((error: unknown) => {
      if (!hasCode(error, "ENVELOPE_REJECTED")) throw error;
      return undefined;
    });
    if (known !== undefined) return use(known);
    const dataKey = await this.#ring.openInline(record);
    try {
      const result = use(dataKey);
      // Only now is the record known to be the one that was sealed with.
      if (record.state !== RecordState.enabled) throw revoked();
      return result;
    } finally {
      dataKey.wipe();
    }
  }

  /**
   * Header and context (format 4). The result is good until the next call: nothing may run between this and the cipher that takes it.
   *
   * @param storedId - One that {@link isStoredId} has let through.
   */
  #aad(bytes: Uint8Array, headerLength: number, storedId: string): Uint8Array {
    const start = this.#contextStart;
    const idAt = headerLength + start.length + 2;
    // UTF-8 of a UTF-16 unit has at most three bytes.
    const needed = idAt + 3 * storedId.length;
    if (this.#scratch.length < needed) this.#scratch = new Uint8Array(needed);
    const scratch = this.#scratch;
    for (let i = 0; i < headerLength; i++) scratch[i] = bytes[i] as number;
    scratch.set(start, headerLength);
    const idBytes = writeUtf8(storedId, scratch, idAt);
    scratch[idAt - 2] = idBytes >>> 8;
    scratch[idAt - 1] = idBytes;
    return scratch.subarray(0, idAt + idBytes);
  }
}

/** Derives the AES key of one client-bound message, uses it and wipes what was derived. */
function withClientKey<T>(
  dataKey: DataKey,
  sessionId: Uint8Array,
  sender: Uint8Array,
  use: (aesKey: SecretKey) => T,
): T {
  const clientKey = dataKey.clientKey(sessionId);
  let aesKey: SecretKey | undefined;
  try {
    aesKey = importAesKey(backend, clientKey, sender);
    return use(aesKey);
  } finally {
    clientKey.wipe();
    aesKey?.wipe();
  }
}

function requireSessionId(sessionId: string | undefined): Uint8Array {
  const bytes = sessionId === undefined ? undefined : sessionIdBytes(sessionId);
  if (bytes !== undefined) return bytes;
  throw new TypeError("sessionId must be a session id: the envelopes of this sealer are bound to their clients");
}

function notAfterSeconds(notAfterMs: number | undefined): number | undefined {
  if (notAfterMs === undefined) return undefined;
  return Math.ceil(requireInteger("notAfterMs", notAfterMs, 0, MAX_NOT_AFTER_MS) / 1000);
}

function notWarm(): SealedSessionError {
  return new SealedSessionError("KEY_UNAVAILABLE", "the key is not at hand in this process yet");
}

/** @returns whether it can be part of a context (format 4.2). */
function isStoredId(storedId: string): boolean {
  if (3 * storedId.length <= MAX_STORED_ID_BYTES) return storedId.isWellFormed();
  return writeContext(storedId) !== undefined;
}

/** Writes well-formed text, most of it ASCII. @returns How many bytes it took. */
function writeUtf8(text: string, target: Uint8Array, offset: number): number {
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit >= 0x80) return encoder.encodeInto(text, target.subarray(offset)).written;
    target[offset + i] = unit;
  }
  return text.length;
}
