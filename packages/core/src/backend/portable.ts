/** The backend in pure TypeScript, on @noble/ciphers and @noble/hashes, for platforms without `node:crypto`. */
import { ecb, gcm } from "@noble/ciphers/aes.js";
import { hkdf } from "@noble/hashes/hkdf.js";
import { hmac } from "@noble/hashes/hmac.js";
import { sha256 } from "@noble/hashes/sha2.js";
import type { Backend, SecretKey } from "./backend.js";

const TAG_BYTES = 16;

class PortableKey implements SecretKey {
  #bytes: Uint8Array | undefined;

  constructor(bytes: Uint8Array) {
    this.#bytes = Uint8Array.from(bytes);
  }

  get bytes(): Uint8Array {
    if (this.#bytes === undefined) throw new Error("this key was wiped");
    return this.#bytes;
  }

  wipe(): void {
    this.#bytes?.fill(0);
    this.#bytes = undefined;
  }
}

/** The primitives of noble. */
export const backend: Backend = {
  name: "portable",

  randomFill(target) {
    globalThis.crypto.getRandomValues(target as Uint8Array<ArrayBuffer>);
  },

  sha256(data) {
    return sha256(data);
  },

  hmacSha256(key, data) {
    return hmac(sha256, keyBytes(key), data);
  },

  hkdfSha256(key, salt, info, length) {
    return hkdf(sha256, keyBytes(key), salt, info, length);
  },

  importKey(bytes) {
    return new PortableKey(bytes);
  },

  aesBlocks(key, blocks) {
    return ecb(keyBytes(key), { disablePadding: true }).encrypt(blocks);
  },

  sealGcm(key, nonce, aad, plaintext, out, offset) {
    out.set(gcm(keyBytes(key), nonce, aad).encrypt(plaintext), offset);
  },

  openGcm(key, nonce, aad, sealed) {
    if (sealed.length < TAG_BYTES) return undefined;
    try {
      return gcm(keyBytes(key), nonce, aad).decrypt(sealed);
    } catch {
      return undefined;
    }
  },
};

function keyBytes(key: SecretKey): Uint8Array {
  return (key as PortableKey).bytes;
}
