/** What holds for every value and every payload, and between this codec and msgpackr. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { Packr } from "msgpackr";
import { expect, test } from "vitest";
import { decode, encode } from "../src/codec.js";
import { hasCode } from "../src/errors.js";

const RUNS = 2000;
const key = fc.oneof(
  fc.string({ maxLength: 40 }),
  fc.string({ unit: "binary", maxLength: 10 }),
  fc.constantFrom("__proto__", "constructor", "toString", "", "0", "user_id", "created_at"),
);
/** Any UTF-16 code units, paired or not. */
const text = fc.oneof(
  fc.string({ maxLength: 300 }),
  fc.string({ unit: "binary", maxLength: 300 }),
  fc.array(fc.nat(0xffff), { maxLength: 40 }).map((units) => String.fromCharCode(...units)),
);
const number = fc.oneof(
  fc.integer(),
  fc.double(),
  fc.maxSafeInteger(),
  fc.constantFrom(0, -0, Number.NaN, 2 ** 32, -(2 ** 31)),
);
const scalar = fc.oneof(
  fc.constantFrom(null, undefined, true, false),
  number,
  fc.bigInt({ min: -(2n ** 65n), max: 2n ** 65n }),
  fc.bigInt({ min: -(2n ** 600n), max: 2n ** 600n }),
  text,
  fc.date({ noInvalidDate: true }),
);
const binary = fc.tuple(fc.uint8Array({ maxLength: 80 }), fc.nat(12)).map(([source, kind]) => {
  const { buffer } = Uint8Array.from(source.subarray(0, source.length - (source.length % 8)));
  const makers: readonly (() => object)[] = [
    () => buffer,
    () => new DataView(buffer),
    () => Buffer.from(buffer),
    () => new Uint8Array(buffer),
    () => new Int8Array(buffer),
    () => new Uint8ClampedArray(buffer),
    () => new Int16Array(buffer),
    () => new Uint16Array(buffer),
    () => new Int32Array(buffer),
    () => new Float32Array(buffer),
    () => new Float64Array(buffer),
    () => new BigInt64Array(buffer),
    () => new BigUint64Array(buffer),
  ];
  return (makers[kind] as () => object)();
});

const { value: anyValue } = fc.letrec<{ value: unknown }>((tie) => {
  const inner = tie("value");
  return {
    value: fc.oneof(
      { maxDepth: 5, withCrossShrink: true },
      scalar,
      binary,
      fc.array(inner, { maxLength: 20 }),
      fc.sparseArray(inner, { maxLength: 20, maxNumElements: 6 }),
      fc.dictionary(key, inner, { maxKeys: 20, noNullPrototype: true }),
      fc.array(fc.tuple(inner, inner), { maxLength: 8 }).map((entries) => new Map(entries)),
      fc.array(inner, { maxLength: 8 }).map((items) => new Set(items)),
    ),
  };
});

/** Buffers at the root come back as plain arrays; everything else must not be at the root to show that. */
const anySession = anyValue.map((value) => ({ value }));

/** Decodes; the only way to fail is `PAYLOAD_MALFORMED`. */
function decodeOrRefuse(payload: Uint8Array): { readonly value: unknown } | undefined {
  try {
    return { value: decode(payload) };
  } catch (error) {
    assert(hasCode(error, "PAYLOAD_MALFORMED"), error as Error);
    return undefined;
  }
}

/** What was decoded from whatever bytes is a value like any other: it can be stored, and comes back as it was. */
function expectStorable(value: unknown): void {
  const encoded = encode([value]);
  assert.deepStrictEqual(decode(encoded), [value]);
  expect(Buffer.compare(encode(decode(encoded)), encoded)).toBe(0);
}

test("every value comes back as it was: types, prototypes, holes, order of keys", () => {
  fc.assert(
    fc.property(anySession, (session) => {
      const encoded = encode(session);
      const decoded = decode(encoded);
      assert.deepStrictEqual(decoded, session);
      expect(Buffer.compare(encode(decoded), encoded)).toBe(0);
    }),
    { numRuns: RUNS },
  );
});

test("the result never depends on where the payload lies", () => {
  fc.assert(
    fc.property(anySession, fc.nat(9), (session, offset) => {
      const encoded = encode(session);
      const padded = new Uint8Array(encoded.length + 10).fill(0xc1);
      padded.set(encoded, offset);
      assert.deepStrictEqual(decode(padded.subarray(offset, offset + encoded.length)), session);
    }),
    { numRuns: RUNS / 4 },
  );
});

test("random bytes are a value that can be stored, or malformed", () => {
  const marker = fc.constantFrom(
    ...Array.from({ length: 0x40 }, (_, i) => 0xc0 + i),
    0x81,
    0x82,
    0x91,
    0x92,
    0xa1,
    0,
    1,
    2,
    3,
    4,
    5,
  );
  const payloads = fc.oneof(
    fc.uint8Array({ maxLength: 60 }),
    fc.array(fc.oneof(marker, fc.nat(12)), { maxLength: 40 }).map((list) => Uint8Array.from(list)),
  );
  let decoded = 0;
  fc.assert(
    fc.property(payloads, (payload) => {
      const result = decodeOrRefuse(payload);
      if (result === undefined) return;
      decoded++;
      expectStorable(result.value);
    }),
    { numRuns: 10 * RUNS },
  );
  expect(decoded).toBeGreaterThan(0);
});

test("a valid payload with some bytes changed, left out or added is a value that can be stored, or malformed", () => {
  const edit = fc.record({ at: fc.nat(), remove: fc.nat(2), insert: fc.uint8Array({ maxLength: 2 }) });
  let decoded = 0;
  let refused = 0;
  fc.assert(
    fc.property(anySession, fc.array(edit, { minLength: 1, maxLength: 3 }), (session, edits) => {
      let payload = [...encode(session)];
      for (const { at, remove, insert } of edits) payload = payload.toSpliced(at % payload.length, remove, ...insert);
      if (payload.length === 0) return;
      const result = decodeOrRefuse(Uint8Array.from(payload));
      if (result === undefined) {
        refused++;
      } else {
        decoded++;
        expectStorable(result.value);
      }
    }),
    { numRuns: 2 * RUNS },
  );
  expect(decoded).toBeGreaterThan(0);
  expect(refused).toBeGreaterThan(0);
});

/** What msgpackr and this codec write in the same standard forms. Binary data has to be compared as bytes: msgpackr reads Buffers. */
const { value: standardValue } = fc.letrec<{ value: unknown }>((tie) => {
  const inner = tie("value");
  return {
    value: fc.oneof(
      { maxDepth: 5 },
      fc.constantFrom(null, true, false),
      number.filter((value) => !Object.is(value, -0)),
      fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }),
      fc.string({ maxLength: 300, unit: "grapheme" }),
      fc.uint8Array({ maxLength: 300 }),
      fc.date({ noInvalidDate: true, min: new Date(0) }),
      fc.array(inner, { maxLength: 20 }),
      fc.dictionary(
        key.filter((name) => name.isWellFormed() && name !== "__proto__" && name !== "toJSON"),
        inner,
        { maxKeys: 20, noNullPrototype: true },
      ),
    ),
  };
});

/** The same value with every Buffer as the Uint8Array that it was. */
function withoutBuffers(value: unknown): unknown {
  if (value instanceof Uint8Array) return Uint8Array.from(value);
  if (Array.isArray(value)) return value.map(withoutBuffers);
  if (typeof value !== "object" || value === null || value instanceof Date) return value;
  return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, withoutBuffers(item)]));
}

test("msgpackr reads what this codec wrote, and the other way round", () => {
  const packr = new Packr({ useRecords: false });
  fc.assert(
    fc.property(standardValue, (standard) => {
      const value = { standard };
      assert.deepStrictEqual(withoutBuffers(packr.unpack(encode(value))), value);
      assert.deepStrictEqual(decode(Uint8Array.from(packr.pack(value))), value);
    }),
    { numRuns: RUNS },
  );
});
