/**
 * MessagePack scalars and headers, in their shortest forms, in a scratch buffer that grows up to a limit: the lower half of the
 * encoder. It holds plaintext, so it never leaves the codec, and is wiped after each value.
 */
import { EXT_TEXT } from "./codec-extensions.js";
import { Refusal } from "./codec-refusal.js";

const INITIAL_BYTES = 8192;
/** A buffer that outgrew this, in bytes, is not kept for the next value. */
const MAX_KEPT_BYTES = 1_048_576;
/** Room for any number, date or header, in bytes. Looked for before each value, so the limit is found passed one value late. */
const SLACK = 16;
/** Up to this length a loop beats the call of TextEncoder. */
const MAX_LOOP_LENGTH = 32;

const utf8 = new TextEncoder();

/** The bytes of one value at a time. */
export class Scratch {
  protected buffer: Uint8Array<ArrayBuffer> = new Uint8Array(INITIAL_BYTES);
  protected position = 0;
  protected maxBytes = 0;
  #view = new DataView(this.buffer.buffer);
  /** Up to here `SLACK` bytes fit. */
  #safeEnd = 0;

  /** Overwrites what the last value left behind. @returns Whether the buffer is of a size to keep. */
  wipe(): boolean {
    this.buffer.fill(0, 0, this.position);
    return this.buffer.length <= MAX_KEPT_BYTES;
  }

  protected start(maxBytes: number): void {
    this.position = 0;
    this.maxBytes = maxBytes;
    this.#safeEnd = Math.min(this.buffer.length, maxBytes + SLACK) - SLACK;
  }

  /** @throws Refusal `VALUE_TOO_LARGE` when `length` bytes more would pass the limit. */
  protected limit(length: number): void {
    if (length > this.maxBytes - this.position) {
      throw new Refusal("VALUE_TOO_LARGE", `more than ${this.maxBytes} bytes when encoded`);
    }
  }

  /** Makes room for `length` bytes and a header. */
  protected reserve(length = 0): void {
    const end = this.position + length;
    if (end <= this.#safeEnd) return;
    this.limit(length);
    const longest = this.maxBytes + SLACK;
    const grown = new Uint8Array(Math.min(Math.max(this.buffer.length * 2, end + SLACK), longest));
    grown.set(this.buffer.subarray(0, this.position));
    this.buffer.fill(0);
    this.buffer = grown;
    this.#view = new DataView(grown.buffer);
    this.#safeEnd = grown.length - SLACK;
  }

  protected putByte(byte: number): void {
    this.buffer[this.position++] = byte;
  }

  protected putUint32(value: number): void {
    this.#view.setUint32(this.position, value);
    this.position += 4;
  }

  protected putNumber(value: number): void {
    const { buffer } = this;
    if (value >>> 0 === value && (value !== 0 || 1 / value > 0)) {
      if (value < 0x80) buffer[this.position++] = value;
      else this.putLength(0xcc, value);
    } else if (value >> 0 === value && value !== 0) {
      if (value >= -0x20) {
        buffer[this.position++] = value;
      } else if (value >= -0x80) {
        buffer[this.position++] = 0xd0;
        buffer[this.position++] = value;
      } else if (value >= -0x8000) {
        buffer[this.position++] = 0xd1;
        this.#view.setInt16(this.position, value);
        this.position += 2;
      } else {
        buffer[this.position++] = 0xd2;
        this.putUint32(value);
      }
    } else {
      buffer[this.position++] = 0xcb;
      // The bits of a NaN would be the engine's choice.
      if (Number.isNaN(value)) this.#view.setBigUint64(this.position, 0x7ff8n << 48n);
      else this.#view.setFloat64(this.position, value);
      this.position += 8;
    }
  }

  /** Puts an integer of 64 bits. */
  protected putBigInt(value: bigint): void {
    this.buffer[this.position++] = value < 0n ? 0xd3 : 0xcf;
    this.#view.setBigUint64(this.position, BigInt.asUintN(64, value));
    this.position += 8;
  }

  protected putText(text: string): void {
    const { length } = text;
    if (length > MAX_LOOP_LENGTH) {
      this.#putLongText(text);
      return;
    }
    if (this.position + length > this.#safeEnd) this.reserve(length);
    const { buffer } = this;
    let end = this.position + textHeaderBytes(length);
    for (let i = 0; i < length; i++) {
      const unit = text.charCodeAt(i);
      if (unit > 0x7f) {
        this.#putLongText(text);
        return;
      }
      buffer[end++] = unit;
    }
    this.#putTextHeader(length);
    this.position = end;
  }

  protected putBin(bytes: Uint8Array): void {
    this.reserve(bytes.length);
    this.putLength(0xc4, bytes.length);
    this.putBytes(bytes);
  }

  protected putBytes(bytes: Uint8Array): void {
    this.buffer.set(bytes, this.position);
    this.position += bytes.length;
  }

  protected putArrayHeader(length: number): void {
    if (length < 16) this.buffer[this.position++] = 0x90 | length;
    else this.#putLongHeader(0xdc, length);
  }

  protected putMapHeader(size: number): void {
    if (size < 16) this.buffer[this.position++] = 0x80 | size;
    else this.#putLongHeader(0xde, size);
  }

  /** Puts the header of an extension and makes room for its payload. */
  protected putExtension(type: number, length: number): void {
    this.reserve(length);
    const fixed = FIXED_EXTENSIONS.indexOf(length);
    if (fixed >= 0) this.buffer[this.position++] = 0xd4 + fixed;
    else this.putLength(0xc7, length);
    this.buffer[this.position++] = type;
  }

  /** Puts a header, or an unsigned integer, whose marker for 8 bits is followed by those for 16 and 32. */
  protected putLength(marker: number, length: number): void {
    if (length < 0x100) {
      this.buffer[this.position++] = marker;
      this.buffer[this.position++] = length;
    } else {
      this.#putLongHeader(marker + 1, length);
    }
  }

  #putLongHeader(marker: number, length: number): void {
    if (length < 0x1_0000) {
      this.buffer[this.position] = marker;
      this.#view.setUint16(this.position + 1, length);
      this.position += 3;
    } else {
      this.buffer[this.position] = marker + 1;
      this.#view.setUint32(this.position + 1, length);
      this.position += 5;
    }
  }

  #putTextHeader(length: number): void {
    if (length < 32) this.buffer[this.position++] = 0xa0 | length;
    else this.putLength(0xd9, length);
  }

  #putLongText(text: string): void {
    const { length } = text;
    if (!text.isWellFormed()) {
      this.putExtension(EXT_TEXT, length * 2);
      for (let i = 0; i < length; i++, this.position += 2) this.#view.setUint16(this.position, text.charCodeAt(i));
      return;
    }
    this.limit(length);
    this.reserve(Math.min(length * 3, this.maxBytes - this.position));
    const header = textHeaderBytes(length);
    const payload = this.position + header;
    const { read, written } = utf8.encodeInto(text, this.buffer.subarray(payload));
    if (read < length) this.limit(Number.POSITIVE_INFINITY);
    const shift = textHeaderBytes(written) - header;
    if (shift > 0) this.buffer.copyWithin(payload + shift, payload, payload + written);
    this.#putTextHeader(written);
    this.position += written;
  }
}

/** Lengths of a payload for which there is a shorter header. */
const FIXED_EXTENSIONS = [1, 2, 4, 8, 16];

/** @returns The size of the header in front of a payload of `length` bytes. */
export function extensionHeaderBytes(length: number): number {
  if (FIXED_EXTENSIONS.includes(length)) return 2;
  if (length < 0x100) return 3;
  return length < 0x1_0000 ? 4 : 6;
}

function textHeaderBytes(length: number): number {
  if (length < 32) return 1;
  if (length < 0x100) return 2;
  return length < 0x1_0000 ? 3 : 5;
}
