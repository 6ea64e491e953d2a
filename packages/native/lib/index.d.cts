/** A key in the addon's memory, outside the JavaScript heap. Wiped by {@link NativeAddon.releaseKey}, or when it is garbage-collected. */
declare const handle: unique symbol;

/** How much there is of what, in this thread. */
interface NativeStatus {
  /** Keys that live. */
  readonly keys: number;
  /** Cipher contexts with a key schedule; one for each key and direction in use. */
  readonly contexts: number;
  /** Those of them that lie in memory which the system keeps out of the swap file. */
  readonly lockedContexts: number;
  /** Pieces of 16 KiB that hold keys. */
  readonly chunks: number;
  /** Those of them that are locked. */
  readonly lockedChunks: number;
}

/**
 * AES-256-GCM, AES-256, HMAC-SHA256 and HKDF-SHA256 on the OpenSSL of the node binary. For `@sealed-session/core`, which knows how nonces are
 * to be chosen; use that.
 *
 * All lengths are in bytes; arrays are `Uint8Array`s or `Buffer`s and may overlap. Every function throws TypeError for a wrong type, RangeError
 * for a wrong length, and Error "this key was wiped".
 */
interface NativeAddon {
  /** Copies a key: 32 bytes for AES, 0 to 65536 for HMAC and HKDF. The caller wipes its own. */
  importKey(bytes: Uint8Array): NativeAddon.Key;
  /** Wipes a key; does nothing the second time. */
  releaseKey(key: NativeAddon.Key): void;
  /** Writes `plaintext.length + 16` bytes to `out` at `offset`. `nonce` has 12 bytes. */
  sealGcm(
    key: NativeAddon.Key,
    nonce: Uint8Array,
    aad: Uint8Array,
    plaintext: Uint8Array,
    out: Uint8Array,
    offset: number,
  ): void;
  /**
   * Writes `sealed.length - 16` bytes, which is the length of `out`.
   *
   * @returns whether the tag verified; if not, `out` holds zeros.
   */
  openGcm(key: NativeAddon.Key, nonce: Uint8Array, aad: Uint8Array, sealed: Uint8Array, out: Uint8Array): boolean;
  /**
   * Seals behind a header that is in place already, and holds the nonce: header and the first `contextLength` bytes of `context` are
   * authenticated. `envelope.length` is `headerLength + plaintext.length + 16`.
   */
  sealEnvelope(
    key: NativeAddon.Key,
    envelope: Uint8Array,
    nonceOffset: number,
    headerLength: number,
    context: Uint8Array,
    contextLength: number,
    plaintext: Uint8Array,
  ): void;
  /** Opens such an envelope. @returns as {@link NativeAddon.openGcm}. */
  openEnvelope(
    key: NativeAddon.Key,
    envelope: Uint8Array,
    nonceOffset: number,
    headerLength: number,
    context: Uint8Array,
    contextLength: number,
    out: Uint8Array,
  ): boolean;
  /** AES-256 of each block of 16 bytes on its own. */
  aesBlocks(key: NativeAddon.Key, blocks: Uint8Array, out: Uint8Array): void;
  /** `out` has 32 bytes. */
  hmacSha256(key: NativeAddon.Key, data: Uint8Array, out: Uint8Array): void;
  /** Fills `out`, at most 8160 bytes. */
  hkdfSha256(key: NativeAddon.Key, salt: Uint8Array, info: Uint8Array, out: Uint8Array): void;
  /** For tests and for people who want to know whether memory is locked. */
  status(): NativeStatus;
}

declare namespace NativeAddon {
  type Key = { readonly [handle]: never };
}

declare const addon: NativeAddon;
export = addon;
