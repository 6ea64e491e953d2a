/** Small conversions between bytes and text, with the platform's fast path where there is one. */

const encoder = new TextEncoder();
const BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/** Node's Buffer where it exists: its conversions are several times faster than loops. */
const NodeBuffer: typeof Buffer | undefined = typeof Buffer === "undefined" ? undefined : Buffer;

/** @returns The UTF-8 form of a well-formed string. */
export function utf8(text: string): Uint8Array {
  return encoder.encode(text);
}

/** @returns The bytes, one after the other, in a new array. */
export function concat(...parts: readonly Uint8Array[]): Uint8Array {
  let length = 0;
  for (const part of parts) length += part.length;
  const result = new Uint8Array(length);
  let offset = 0;
  for (const part of parts) {
    result.set(part, offset);
    offset += part.length;
  }
  return result;
}

/** Compares public bytes. Not for secrets: the time depends on the content. */
export function equal(a: Uint8Array, b: Uint8Array): boolean {
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/** @returns One character for each byte: a compact key for a `Map`. */
export function latin1(bytes: Uint8Array, start: number, end: number): string {
  if (NodeBuffer) return NodeBuffer.prototype.latin1Slice.call(bytes, start, end);
  return String.fromCharCode(...bytes.subarray(start, end));
}

/** @returns base64url without padding (RFC 4648 section 5). */
export function base64url(bytes: Uint8Array): string {
  if (NodeBuffer) return NodeBuffer.prototype.base64urlSlice.call(bytes, 0, bytes.length);
  let text = "";
  for (let i = 0; i < bytes.length; i += 3) {
    const left = bytes.length - i;
    const group = ((bytes[i] as number) << 16) | ((bytes[i + 1] ?? 0) << 8) | (bytes[i + 2] ?? 0);
    for (let digit = 0; digit <= Math.min(left, 3); digit++) text += BASE64URL[(group >> (18 - 6 * digit)) & 63];
  }
  return text;
}

/** @returns The bytes of canonical base64url without padding, or `undefined` when the text is not of that form. */
export function fromBase64url(text: string): Uint8Array | undefined {
  const bytes = new Uint8Array(Math.floor((text.length * 3) / 4));
  let bits = 0;
  let group = 0;
  let length = 0;
  for (const character of text) {
    const digit = BASE64URL.indexOf(character);
    if (digit < 0) return undefined;
    group = ((group << 6) | digit) & 0xffff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes[length++] = (group >> bits) & 0xff;
    }
  }
  return base64url(bytes) === text ? bytes : undefined;
}
