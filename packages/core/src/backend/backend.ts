/**
 * What core needs from a cryptographic library. `#backend` in package.json names the one in use: `auto.ts` on Node, which takes `native.ts`
 * where its addon is installed and `node.ts` otherwise; `portable.ts` elsewhere. All give the same bytes.
 */

/** A key of 32 bytes, held by the backend. */
export interface SecretKey {
  /** Forgets the key; using it afterwards is an error. */
  wipe(): void;
}

/** The primitives of one library. All lengths are in bytes. */
export interface Backend {
  /** Which one this is. */
  readonly name: "native" | "node" | "portable";

  /** Fills an array of at most 65536 bytes from the system's CSPRNG. */
  randomFill(target: Uint8Array): void;

  /** SHA-256 (FIPS 180-4): 32 bytes. */
  sha256(data: Uint8Array): Uint8Array;

  /** HMAC-SHA256 (RFC 2104): 32 bytes. */
  hmacSha256(key: SecretKey, data: Uint8Array): Uint8Array;

  /** HKDF-SHA256 (RFC 5869): `length` bytes, at most 8160. */
  hkdfSha256(key: SecretKey, salt: Uint8Array, info: Uint8Array, length: number): Uint8Array;

  /** Takes a key of 32 bytes over; the caller still wipes its own array. */
  importKey(bytes: Uint8Array): SecretKey;

  /** AES-256 of each block of 16 bytes on its own, for the key derivation of XAES alone. */
  aesBlocks(key: SecretKey, blocks: Uint8Array): Uint8Array;

  /**
   * AES-256-GCM (NIST SP 800-38D) with a 12-byte nonce and a 16-byte tag. Writes the ciphertext and the tag into `out` at
   * `offset`: `plaintext.length + 16` bytes.
   */
  sealGcm(
    key: SecretKey,
    nonce: Uint8Array,
    aad: Uint8Array,
    plaintext: Uint8Array,
    out: Uint8Array,
    offset: number,
  ): void;

  /**
   * @returns The plaintext, or `undefined` when the tag (the last 16 bytes of `sealed`) does not verify. The caller wipes it, and does not hand
   *   out its buffer: other plaintexts may lie there.
   */
  openGcm(key: SecretKey, nonce: Uint8Array, aad: Uint8Array, sealed: Uint8Array): Uint8Array | undefined;
}
