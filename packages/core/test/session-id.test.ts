import { describe, expect, it } from "vitest";
import { base64url } from "../src/bytes.js";
import { createSessionId, storedIdOf } from "../src/session-id.js";

describe("createSessionId", () => {
  it("makes 43 characters of base64url from 32 random bytes", () => {
    expect(createSessionId((target) => void target.fill(0xff))).toBe(`${"_".repeat(42)}8`);
    expect(createSessionId()).toMatch(/^[A-Za-z0-9_-]{43}$/);
    expect(createSessionId()).not.toBe(createSessionId());
  });
});

describe("storedIdOf", () => {
  it("is base64url of the first 18 bytes of SHA-256 (4.3)", () => {
    // SHA-256 of sixteen "a", as sha256sum prints it.
    expect(storedIdOf("a".repeat(16))).toBe(
      base64url(Buffer.from("0c0beacef8877bbf2416eb00f2b5dc96354e26dd1df5517320459b1236860f8c".slice(0, 36), "hex")),
    );
  });

  it("is the session id itself in verbatim mode", () => {
    expect(storedIdOf("0123456789abcdef", "verbatim")).toBe("0123456789abcdef");
  });

  it.each([
    ["shorter than 16 bytes", "a".repeat(15)],
    ["longer than 512 bytes", "a".repeat(513)],
    ["longer than 512 bytes in UTF-8 alone", "é".repeat(257)],
    ["empty", ""],
    ["ill-formed", `${"a".repeat(16)}\ud800`],
    ["not a string", 1234567890123456 as unknown as string],
  ])("knows no stored id for a session id that is %s (3.6)", (_, id) => {
    expect(storedIdOf(id)).toBeUndefined();
    expect(storedIdOf(id, "verbatim")).toBeUndefined();
  });

  it.each(["a".repeat(512), "é".repeat(256), "é".repeat(8), "a".repeat(16)])(
    "takes a session id at the limits (3.6)",
    (id) => {
      expect(storedIdOf(id)).toHaveLength(24);
    },
  );

  it.each(["{aaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaa}", "a{b}aaaaaaaaaaaaaaaa"])(
    "refuses braces in verbatim mode, where they would choose the cluster's slot",
    (id) => {
      expect(storedIdOf(id, "verbatim")).toBeUndefined();
      expect(storedIdOf(id)).toHaveLength(24);
    },
  );
});
