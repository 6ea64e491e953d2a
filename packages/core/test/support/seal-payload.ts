/** Seals bytes that the codec would never write, with any header, context and nonce: for vectors and refusals. */
import { backend } from "#backend";
import { deriveAesKey, SENDER_BYTES, TAG_BYTES } from "../../src/aead.js";
import { concat } from "../../src/bytes.js";
import { deriveKeys } from "../../src/data-key.js";
import {
  type EnvelopeHeader,
  headerBytes,
  KEY_ID_BYTES,
  NONCE_OFFSET,
  writeContext,
  writeHeader,
} from "../../src/envelope.js";

/** What a payload is sealed with. */
export interface SealPayloadOptions extends Partial<EnvelopeHeader> {
  /** 32 bytes. */
  readonly dataKey: Uint8Array;
  /** Parts of the context. */
  readonly context: readonly string[];
  /** 24 bytes. */
  readonly nonce: Uint8Array;
  /** Instead of the one derived from the data key: 32 bytes. */
  readonly sealingKey?: Uint8Array;
}

/** @returns The envelope and what was derived on the way. */
export function sealPayload(plaintext: Uint8Array, options: SealPayloadOptions) {
  const { commitment, sealingKey } = deriveKeys(options.dataKey);
  const header = { ...options, keyId: commitment.subarray(0, KEY_ID_BYTES) };
  const length = headerBytes(header);
  const envelope = new Uint8Array(length + plaintext.length + TAG_BYTES);
  writeHeader(envelope, header);
  envelope.set(options.nonce, NONCE_OFFSET);
  const aad = concat(envelope.subarray(0, length), writeContext(...options.context) as Uint8Array);
  const usedKey = options.sealingKey ?? sealingKey;
  const aesKey = deriveAesKey(backend, backend.importKey(usedKey), options.nonce);
  backend.sealGcm(backend.importKey(aesKey), options.nonce.subarray(SENDER_BYTES), aad, plaintext, envelope, length);
  return { envelope, commitment, sealingKey: usedKey, aesKey, aad };
}
