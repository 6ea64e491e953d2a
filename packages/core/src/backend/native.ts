/**
 * The backend on the addon of `@sealed-session/native`: AES-256-GCM in one call a message, and keys in locked memory outside the JavaScript
 * heap. What needs no key comes from `node:crypto`.
 */
import { createRequire } from "node:module";
import type { Backend, SecretKey } from "./backend.js";
import { backend as node } from "./node.js";

const PACKAGE = "@sealed-session/native";
const TAG_BYTES = 16;
const HASH_BYTES = 32;

/** A key in the addon's memory. */
declare const handle: unique symbol;
type Handle = { readonly [handle]: never };

/** What the addon exports. It checks every type and length itself; keys that nobody holds any more are wiped by the garbage collector. */
export interface NativeAddon {
  /** @throws RangeError when the key is longer than 65536 bytes. */
  importKey(bytes: Uint8Array): Handle;
  releaseKey(key: Handle): void;
  sealGcm(
    key: Handle,
    nonce: Uint8Array,
    aad: Uint8Array,
    plaintext: Uint8Array,
    out: Uint8Array,
    offset: number,
  ): void;
  /** @returns whether the tag verified; `out` holds zeros otherwise. */
  openGcm(key: Handle, nonce: Uint8Array, aad: Uint8Array, sealed: Uint8Array, out: Uint8Array): boolean;
  aesBlocks(key: Handle, blocks: Uint8Array, out: Uint8Array): void;
  hmacSha256(key: Handle, data: Uint8Array, out: Uint8Array): void;
  hkdfSha256(key: Handle, salt: Uint8Array, info: Uint8Array, out: Uint8Array): void;
}

/** @throws whatever `require` throws: the package is not there, or has no binary that this Node loads. */
export function loadAddon(): NativeAddon {
  return createRequire(import.meta.url)(PACKAGE) as NativeAddon;
}

/** @returns The primitives of an addon. */
export function nativeBackend(addon: NativeAddon): Backend {
  class NativeKey implements SecretKey {
    readonly handle: Handle;

    constructor(bytes: Uint8Array) {
      this.handle = addon.importKey(bytes);
    }

    wipe(): void {
      addon.releaseKey(this.handle);
    }
  }
  const slab = new Slab();
  const handleOf = (key: SecretKey) => (key as NativeKey).handle;

  return {
    name: "native",
    randomFill: node.randomFill,
    sha256: node.sha256,

    importKey(bytes) {
      return new NativeKey(bytes);
    },

    hmacSha256(key, data) {
      const out = secretBytes(HASH_BYTES);
      addon.hmacSha256(handleOf(key), data, out);
      return out;
    },

    hkdfSha256(key, salt, info, length) {
      const out = secretBytes(length);
      addon.hkdfSha256(handleOf(key), salt, info, out);
      return out;
    },

    aesBlocks(key, blocks) {
      const out = secretBytes(blocks.length);
      addon.aesBlocks(handleOf(key), blocks, out);
      return out;
    },

    sealGcm(key, nonce, aad, plaintext, out, offset) {
      addon.sealGcm(handleOf(key), nonce, aad, plaintext, out, offset);
    },

    openGcm(key, nonce, aad, sealed) {
      if (sealed.length < TAG_BYTES) return undefined;
      const plaintext = slab.take(sealed.length - TAG_BYTES);
      return addon.openGcm(handleOf(key), nonce, aad, sealed, plaintext) ? plaintext : undefined;
    },
  };
}

/**
 * Plaintexts are cut from a piece of memory of their own: an array for each costs more than opening a message. None is given out twice. What is
 * as short as a key never shares its buffer with anything.
 */
class Slab {
  static readonly #BYTES = 16_384;
  static readonly #MIN_BYTES = 65;
  static readonly #MAX_BYTES = 2048;

  #buffer = new ArrayBuffer(0);
  #next = 0;

  take(length: number): Uint8Array {
    if (length < Slab.#MIN_BYTES || length > Slab.#MAX_BYTES) return secretBytes(length);
    if (this.#next + length > this.#buffer.byteLength) {
      this.#buffer = new ArrayBuffer(Slab.#BYTES);
      this.#next = 0;
    }
    const bytes = new Uint8Array(this.#buffer, this.#next, length);
    this.#next += length;
    return bytes;
  }
}

/** V8 keeps small arrays in its own heap and moves them about, which leaves copies behind; an ArrayBuffer stays where it is. */
function secretBytes(length: number): Uint8Array {
  return new Uint8Array(new ArrayBuffer(length));
}
