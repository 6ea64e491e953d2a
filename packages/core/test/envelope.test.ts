import { describe, expect, it } from "vitest";
import {
  type EnvelopeHeader,
  headerBytes,
  MAX_RECORD_BYTES,
  NONCE_OFFSET,
  parseEnvelope,
  writeContext,
  writeHeader,
} from "../src/envelope.js";
import { toHex } from "./support/vectors.js";

const keyId = Uint8Array.from({ length: 12 }, (_, i) => 0x10 + i);
const nonce = Uint8Array.from({ length: 24 }, (_, i) => 0x40 + i);

/** An envelope with one byte of ciphertext, unless told otherwise. */
function envelopeOf(header: Partial<EnvelopeHeader> = {}, sealedBytes = 17): Uint8Array {
  const full = { keyId, ...header };
  const length = headerBytes(full);
  const bytes = new Uint8Array(length + sealedBytes).fill(0xaa, length);
  writeHeader(bytes, full);
  bytes.set(nonce, NONCE_OFFSET);
  return bytes;
}
const changed = (bytes: Uint8Array, at: number, value: number) => bytes.map((byte, i) => (i === at ? value : byte));

describe("the header (3)", () => {
  it("is magic, version and flags, key id and nonce: 38 bytes", () => {
    expect(headerBytes({ keyId })).toBe(38);
    expect(toHex(envelopeOf().subarray(0, 38))).toBe(`e510${toHex(keyId)}${toHex(nonce)}`);
  });

  it.each([
    ["no flag", {}, 0x10, 38],
    ["INLINE_KEY", { inlineRecord: Uint8Array.of(1) }, 0x11, 41],
    ["NOT_AFTER", { notAfter: 0 }, 0x12, 42],
    ["CLIENT_BOUND", { clientBound: true }, 0x18, 38],
    ["all three", { clientBound: true, notAfter: 1, inlineRecord: Uint8Array.of(1, 2) }, 0x1b, 46],
  ] as [string, Partial<EnvelopeHeader>, number, number][])(
    "with %s reads back as written",
    (_, header, second, length) => {
      const bytes = envelopeOf(header);
      expect(bytes[1]).toBe(second);
      const parsed = parseEnvelope(bytes);
      expect(parsed).toEqual({
        keyId,
        nonce,
        notAfter: header.notAfter,
        clientBound: header.clientBound ?? false,
        inlineRecord: header.inlineRecord,
        header: bytes.subarray(0, length),
        sealed: bytes.subarray(length),
      });
    },
  );

  it.each([
    [0, "00000000"],
    [1, "00000001"],
    [0x01020304, "01020304"],
    [0x80000000, "80000000"],
    [0xffffffff, "ffffffff"],
  ])("holds NOT_AFTER %i as an unsigned big-endian number (3.3)", (notAfter, text) => {
    const bytes = envelopeOf({ notAfter });
    expect(toHex(bytes.subarray(38, 42))).toBe(text);
    expect(parseEnvelope(bytes)?.notAfter).toBe(notAfter);
  });

  it("holds NOT_AFTER before the inline record, whose length is big-endian too", () => {
    const bytes = envelopeOf({ notAfter: 0x01020304, inlineRecord: new Uint8Array(0x0102).fill(7) });
    expect(toHex(bytes.subarray(38, 45))).toBe("01020304010207");
    expect(parseEnvelope(bytes)?.inlineRecord).toHaveLength(0x0102);
  });

  it("leaves the nonce and what follows to its caller", () => {
    const target = new Uint8Array(60).fill(0x55);
    writeHeader(target, { keyId });
    expect(target.subarray(14).every((byte) => byte === 0x55)).toBe(true);
  });
});

describe("an envelope's parts", () => {
  it("are views of its bytes, also where those lie within another array", () => {
    const outer = new Uint8Array(200);
    const original = envelopeOf({ notAfter: 5, inlineRecord: Uint8Array.of(1, 2, 3) });
    outer.set(original, 50);
    const bytes = outer.subarray(50, 50 + original.length);
    const parsed = parseEnvelope(bytes);
    if (parsed?.inlineRecord === undefined) throw new Error("not parsed");
    for (const [part, offset, length] of [
      [parsed.keyId, 2, 12],
      [parsed.nonce, 14, 24],
      [parsed.inlineRecord, 44, 3],
      [parsed.header, 0, 47],
      [parsed.sealed, 47, 17],
    ] as const) {
      expect(part.buffer).toBe(outer.buffer);
      expect([part.byteOffset - bytes.byteOffset, part.length]).toEqual([offset, length]);
    }
  });

  it("leave no byte out: header and sealed are the whole envelope", () => {
    const bytes = envelopeOf({ notAfter: 5 }, 100);
    const { header, sealed } = parseEnvelope(bytes) as { header: Uint8Array; sealed: Uint8Array };
    expect(toHex(header) + toHex(sealed)).toBe(toHex(bytes));
  });
});

describe("no envelope (3.2)", () => {
  it("begins with another byte than 0xe5", () => {
    const bytes = envelopeOf();
    for (let magic = 0; magic < 256; magic++) {
      expect(parseEnvelope(changed(bytes, 0, magic)) !== undefined).toBe(magic === 0xe5);
    }
  });

  it("is of another version than 1, or has a flag that this reader does not know", () => {
    // Long enough for each field that a flag may announce.
    const bytes = envelopeOf({}, 400);
    bytes.set([0, 1, 0, 1, 0, 1], 38);
    for (let second = 0; second < 256; second++) {
      const isKnown = second >> 4 === 1 && (second & 4) === 0;
      expect(parseEnvelope(changed(bytes, 1, second)) !== undefined).toBe(isKnown);
    }
  });

  it.each([
    ["without flags", {}],
    ["with NOT_AFTER", { notAfter: 1 }],
    ["with INLINE_KEY", { inlineRecord: new Uint8Array(300).fill(1) }],
    ["with both", { notAfter: 1, inlineRecord: Uint8Array.of(1) }],
  ] as [string, Partial<EnvelopeHeader>][])("%s has less than one byte of ciphertext and a tag", (_, header) => {
    const bytes = envelopeOf(header, 17);
    expect(parseEnvelope(bytes)).toBeDefined();
    for (let length = 0; length < bytes.length; length++)
      expect(parseEnvelope(bytes.subarray(0, length))).toBeUndefined();
    expect(parseEnvelope(envelopeOf(header, 16))).toBeUndefined();
  });

  it("is longer than the reader's maximum", () => {
    const bytes = envelopeOf({}, 962);
    expect(bytes).toHaveLength(1000);
    expect(parseEnvelope(bytes, 1000)).toBeDefined();
    expect(parseEnvelope(bytes, 999)).toBeUndefined();
    expect(parseEnvelope(envelopeOf({}, 1_048_576 - 38))).toBeDefined();
    expect(parseEnvelope(envelopeOf({}, 1_048_577 - 38))).toBeUndefined();
  });

  it("has an inline record of 0 or more than 8192 bytes, or one that runs past the end", () => {
    const withLength = (length: number, room: number) => {
      const bytes = envelopeOf({ inlineRecord: new Uint8Array(room).fill(1) });
      bytes.set([length >> 8, length & 0xff], 38);
      return parseEnvelope(bytes)?.inlineRecord?.length;
    };
    expect(withLength(0, 10)).toBeUndefined();
    expect(withLength(1, 1)).toBe(1);
    expect(withLength(MAX_RECORD_BYTES, MAX_RECORD_BYTES)).toBe(8192);
    expect(withLength(8193, 8193)).toBeUndefined();
    expect(withLength(0xffff, 0xffff)).toBeUndefined();
    // Within the envelope, but the ciphertext and the tag would be missing.
    expect(withLength(101, 100)).toBeUndefined();
    expect(withLength(8192, 100)).toBeUndefined();
  });
});

describe("a context (4.2)", () => {
  it("is each part as a 16-bit length and its UTF-8 bytes", () => {
    expect(toHex(writeContext("ab", "", "é") as Uint8Array)).toBe("0002616200000002c3a9");
    expect(toHex(writeContext("x".repeat(258)) as Uint8Array).slice(0, 8)).toBe("01027878");
    expect(writeContext()).toEqual(new Uint8Array(0));
  });

  it("tells parts apart that are shifted into each other", () => {
    expect(writeContext("ab", "cd")).not.toEqual(writeContext("a", "bcd"));
  });

  it.each([
    ["of 65535 bytes", "a".repeat(65_535), true],
    ["of 65536 bytes", "a".repeat(65_536), false],
    ["of 65534 bytes in fewer characters", "é".repeat(32_767), true],
    ["of 65536 bytes in fewer characters", "é".repeat(32_768), false],
    ["with a high surrogate alone", "a\ud800", false],
    ["with a low surrogate alone", "\udc00a", false],
    ["with a pair of surrogates", "\u{1f600}", true],
  ])("with a part %s: %#", (_, part, accepted) => {
    expect(writeContext("a", part, "b") !== undefined).toBe(accepted);
  });
});
