/**
 * The keys of a run, so that they can be looked for: what the KMS handed out and what format 1.2, 2.1 and 3.4 derive from it, written
 * once more with `node:crypto` alone.
 */
import { createCipheriv, createDecipheriv, hkdfSync } from "node:crypto";
import type { Kms } from "@sealed-session/core";

const KEY_BYTES = 32;
const TAG_BYTES = 16;
const NONCE_OFFSET = 14;
const SENDER_BYTES = 12;
/** Header of an envelope without optional fields. */
const HEADER_BYTES = 38;

/** What a KMS was asked and returned, in hex. */
export interface KmsRecord {
  /** Every data key that it returned in clear. */
  readonly dataKeys: Set<string>;
  /** Every wrapped key that it was given: they came from the ring. A key that was made is not always published. */
  readonly wrapped: Set<string>;
  generated: number;
  unwrapped: number;
}

/** @returns a record, and a way to make a KMS write into it. */
export function kmsRecorder(): { record: KmsRecord; recording: (kms: Kms) => Kms } {
  const record: KmsRecord = { dataKeys: new Set(), wrapped: new Set(), generated: 0, unwrapped: 0 };
  const recording = (kms: Kms): Kms => ({
    name: kms.name,
    async generate(context, options) {
      const generated = await kms.generate(context, options);
      // The receiver wipes the array.
      record.dataKeys.add(hex(generated.dataKey));
      record.generated++;
      return generated;
    },
    wrap: (dataKey, context, options) => kms.wrap(dataKey, context, options),
    async unwrap(wrapped, context, options) {
      const dataKey = await kms.unwrap(wrapped, context, options);
      record.dataKeys.add(hex(dataKey));
      record.wrapped.add(hex(wrapped));
      record.unwrapped++;
      return dataKey;
    },
  });
  return { record, recording };
}

/** @returns a key that is derived from the data key (or, for a client's key, from the sealing key) under `sealed-session/v1/<info>`. */
export function derive(key: Uint8Array, info: string): Buffer {
  return Buffer.from(hkdfSync("sha256", key, "", `sealed-session/v1/${info}`, KEY_BYTES));
}

/** @returns the AES key of one sender: XAES-256-GCM's key derivation. */
export function aesKeyOf(sealingKey: Uint8Array, sender: Uint8Array): Buffer {
  const aes = (blocks: Uint8Array) =>
    createCipheriv("aes-256-ecb", sealingKey, null).setAutoPadding(false).update(blocks);
  const zero = BigInt(`0x${aes(Buffer.alloc(16)).toString("hex")}`);
  const doubled = BigInt.asUintN(128, (zero << 1n) ^ (zero >> 127n ? 0x87n : 0n));
  const subkey = Buffer.from(doubled.toString(16).padStart(32, "0"), "hex");
  const blocks = [1, 2].map((counter) => {
    const block = Buffer.concat([Uint8Array.of(0, counter, 0x58, 0), sender]);
    return block.map((byte, index) => byte ^ (subkey[index] ?? 0));
  });
  return aes(Buffer.concat(blocks));
}

/** @returns the sender of an envelope: the first half of its nonce. */
export function senderOf(envelope: Uint8Array): Uint8Array {
  return envelope.subarray(NONCE_OFFSET, NONCE_OFFSET + SENDER_BYTES);
}

/** @returns the plaintext of an envelope without optional fields, of the empty namespace; throws when it does not open. */
export function openWith(aesKey: Uint8Array, envelope: Uint8Array, storedId: string): Buffer {
  const context = ["session", "", storedId].flatMap((part) => {
    const length = Buffer.alloc(2);
    length.writeUInt16BE(Buffer.byteLength(part));
    return [length, Buffer.from(part)];
  });
  const nonce = envelope.subarray(NONCE_OFFSET + SENDER_BYTES, HEADER_BYTES);
  const decipher = createDecipheriv("aes-256-gcm", aesKey, nonce, { authTagLength: TAG_BYTES });
  decipher.setAAD(Buffer.concat([envelope.subarray(0, HEADER_BYTES), ...context]));
  decipher.setAuthTag(envelope.subarray(-TAG_BYTES));
  return Buffer.concat([decipher.update(envelope.subarray(HEADER_BYTES, -TAG_BYTES)), decipher.final()]);
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}
