/**
 * The cipher of format section 2: XAES-256-GCM (c2sp.org/XAES-256-GCM), and where its nonces come from.
 *
 * The 24-byte nonce is a sender (12 bytes, one for each process and data key) and 12 random bytes. The sender selects the
 * AES key, so a warm message costs one AES-256-GCM call.
 */
import type { Backend, SecretKey } from "./backend/backend.js";

/** Length of a key in bytes. */
export const KEY_BYTES = 32;
/** Length of an XAES-256-GCM nonce in bytes: the sender, then the random part. */
export const NONCE_BYTES = 24;
/** Length of a sender, and of the random part, in bytes. */
export const SENDER_BYTES = 12;
/** Length of the tag in bytes. */
export const TAG_BYTES = 16;

/** Fills an array of at most 65536 bytes with random bytes of a CSPRNG. */
export type RandomFill = (target: Uint8Array) => void;

const BLOCK_BYTES = 16;

/**
 * Derives the AES key that XAES-256-GCM uses under the first 12 bytes of a nonce: the counter-mode KDF of NIST SP 800-108r1
 * over AES-256-CMAC, with label "X" and the 12 bytes as context.
 *
 * @returns 32 bytes, to be wiped by the caller.
 */
export function deriveAesKey(backend: Backend, key: SecretKey, sender: Uint8Array): Uint8Array {
  const l = backend.aesBlocks(key, new Uint8Array(BLOCK_BYTES));
  const k1 = doubled(l);
  l.fill(0);
  // Both messages fill one block, so that CMAC is a single AES call on the message XORed with its subkey K1.
  const blocks = new Uint8Array(2 * BLOCK_BYTES);
  for (const counter of [1, 2]) {
    const block = blocks.subarray((counter - 1) * BLOCK_BYTES, counter * BLOCK_BYTES);
    block.set([0, counter, 0x58, 0]);
    block.set(sender.subarray(0, SENDER_BYTES), 4);
    for (let i = 0; i < BLOCK_BYTES; i++) block[i] = (block[i] as number) ^ (k1[i] as number);
  }
  const derived = backend.aesBlocks(key, blocks);
  k1.fill(0);
  blocks.fill(0);
  return derived;
}

/** As {@link deriveAesKey}, imported into the backend. */
export function importAesKey(backend: Backend, key: SecretKey, sender: Uint8Array): SecretKey {
  const bytes = deriveAesKey(backend, key, sender);
  const aesKey = backend.importKey(bytes);
  bytes.fill(0);
  return aesKey;
}

/** Seals one message on its own. @returns The ciphertext and the tag. */
export function sealXaes(
  backend: Backend,
  key: SecretKey,
  nonce: Uint8Array,
  aad: Uint8Array,
  plaintext: Uint8Array,
): Uint8Array {
  const aesKey = importAesKey(backend, key, nonce);
  try {
    const out = new Uint8Array(plaintext.length + TAG_BYTES);
    backend.sealGcm(aesKey, nonce.subarray(SENDER_BYTES), aad, plaintext, out, 0);
    return out;
  } finally {
    aesKey.wipe();
  }
}

/** Opens one message on its own. @returns The plaintext, or `undefined` when the tag does not verify. */
export function openXaes(
  backend: Backend,
  key: SecretKey,
  nonce: Uint8Array,
  aad: Uint8Array,
  sealed: Uint8Array,
): Uint8Array | undefined {
  const aesKey = importAesKey(backend, key, nonce);
  try {
    return backend.openGcm(aesKey, nonce.subarray(SENDER_BYTES), aad, sealed);
  } finally {
    aesKey.wipe();
  }
}

/** The random parts of nonces, cut from a pool that one CSPRNG call fills (format 2.4). */
export class NoncePool {
  /** Slices drawn at once: `randomFill` costs about as much for 3 KiB as for 12 bytes. */
  static readonly #SLICES = 256;
  static readonly #MAX_AGE_MS = 1000;

  readonly #random: RandomFill;
  readonly #clock: () => number;
  readonly #pool = new Uint8Array(NoncePool.#SLICES * SENDER_BYTES);
  #next = NoncePool.#SLICES;
  #filledAt = 0;

  /** Nothing is drawn before the first {@link NoncePool.take}. */
  constructor(random: RandomFill, clock: () => number) {
    this.#random = random;
    this.#clock = clock;
  }

  /** Moves 12 fresh random bytes to `target` at `offset`. They are gone from the pool before anybody can use them. */
  take(target: Uint8Array, offset: number): void {
    const now = this.#clock();
    const age = now - this.#filledAt;
    // A clock that was set back also counts as too old.
    if (this.#next === NoncePool.#SLICES || age > NoncePool.#MAX_AGE_MS || age < 0) {
      this.#random(this.#pool);
      this.#filledAt = now;
      this.#next = 0;
    }
    const start = this.#next++ * SENDER_BYTES;
    target.set(this.#pool.subarray(start, start + SENDER_BYTES), offset);
    this.#pool.fill(0, start, start + SENDER_BYTES);
  }

  /** Drops what is left, so that a restored process image does not repeat it. */
  reset(): void {
    this.#pool.fill(0);
    this.#next = NoncePool.#SLICES;
  }
}

/** Multiplication by x in GF(2^128), as CMAC's subkeys need it (NIST SP 800-38B section 6.1). */
function doubled(block: Uint8Array): Uint8Array {
  const result = new Uint8Array(BLOCK_BYTES);
  for (let i = 0; i < BLOCK_BYTES; i++) {
    result[i] = ((block[i] as number) << 1) | ((block[i + 1] ?? 0) >> 7);
  }
  result[BLOCK_BYTES - 1] = (result[BLOCK_BYTES - 1] as number) ^ (((block[0] as number) >> 7) * 0x87);
  return result;
}
