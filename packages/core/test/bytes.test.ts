import { afterAll, describe, expect, it, vi } from "vitest";
import * as withBuffer from "../src/bytes.js";

vi.resetModules();
vi.stubGlobal("Buffer", undefined);
const withoutBuffer = await import("../src/bytes.js");
vi.unstubAllGlobals();

describe.each([
  ["with Buffer", withBuffer],
  ["without Buffer", withoutBuffer],
])("bytes %s", (_, { base64url, fromBase64url, latin1 }) => {
  it("reads base64url back as written, at every length and byte", () => {
    for (let length = 0; length < 260; length++) {
      const bytes = Uint8Array.from({ length }, (_, i) => (i * 37 + length) & 0xff);
      expect(base64url(bytes)).toBe(Buffer.from(bytes).toString("base64url"));
      expect(fromBase64url(base64url(bytes))).toEqual(bytes);
    }
  });

  it.each(["A", "AA=", "AB", "A+", "A/", " AA", "AAAAA", "é"])(
    "refuses %j, which is not canonical base64url",
    (text) => {
      expect(fromBase64url(text)).toBeUndefined();
    },
  );

  it("makes one character of each byte", () => {
    const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
    const text = latin1(bytes, 1, 256);
    expect([...text].map((character) => character.charCodeAt(0))).toEqual([...bytes.subarray(1)]);
  });
});

it("really ran both ways", () => {
  expect(withoutBuffer.base64url).not.toBe(withBuffer.base64url);
});

afterAll(() => vi.unstubAllGlobals());
