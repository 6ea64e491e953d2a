/** The backend on `node:crypto`. Keys are KeyObjects: outside the JavaScript heap, and 14 times faster than raw bytes on Node 24. */
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  createSecretKey,
  hkdfSync,
  type KeyObject,
  randomFillSync,
} from "node:crypto";
import type { Backend, SecretKey } from "./backend.js";

const TAG_BYTES = 16;
const GCM_OPTIONS = { authTagLength: TAG_BYTES };

class NodeKey implements SecretKey {
  #object: KeyObject | undefined;

  constructor(bytes: Uint8Array) {
    this.#object = createSecretKey(bytes);
  }

  get object(): KeyObject {
    if (this.#object === undefined) throw new Error("this key was wiped");
    return this.#object;
  }

  /** OpenSSL clears the bytes when the KeyObject is collected; Node has no call that does it sooner. */
  wipe(): void {
    this.#object = undefined;
  }
}

/** The primitives of `node:crypto`. */
export const backend: Backend = {
  name: "node",

  randomFill(target) {
    randomFillSync(target);
  },

  sha256(data) {
    return createHash("sha256").update(data).digest();
  },

  hmacSha256(key, data) {
    return createHmac("sha256", keyObject(key)).update(data).digest();
  },

  hkdfSha256(key, salt, info, length) {
    return new Uint8Array(hkdfSync("sha256", keyObject(key), salt, info, length));
  },

  importKey(bytes) {
    return new NodeKey(bytes);
  },

  aesBlocks(key, blocks) {
    const cipher = createCipheriv("aes-256-ecb", keyObject(key), null).setAutoPadding(false);
    return cipher.update(blocks);
  },

  sealGcm(key, nonce, aad, plaintext, out, offset) {
    const cipher = createCipheriv("aes-256-gcm", keyObject(key), nonce, GCM_OPTIONS);
    cipher.setAAD(aad);
    out.set(cipher.update(plaintext), offset);
    cipher.final();
    out.set(cipher.getAuthTag(), offset + plaintext.length);
  },

  openGcm(key, nonce, aad, sealed) {
    const decipher = createDecipheriv("aes-256-gcm", keyObject(key), nonce, GCM_OPTIONS);
    decipher.setAAD(aad);
    decipher.setAuthTag(sealed.subarray(sealed.length - TAG_BYTES));
    const plaintext = decipher.update(sealed.subarray(0, sealed.length - TAG_BYTES));
    try {
      decipher.final();
    } catch {
      plaintext.fill(0);
      return undefined;
    }
    return plaintext;
  },
};

function keyObject(key: SecretKey): KeyObject {
  return (key as NodeKey).object;
}
