import assert from "node:assert/strict";
import { runInNewContext } from "node:vm";
import { afterEach, describe, expect, test, vi } from "vitest";
import { type CodecLimits, decode, encode, encodeBorrowed } from "../src/codec.js";
import { toLittleEndian } from "../src/codec-extensions.js";
import { UnsupportedValueError } from "../src/errors.js";

const LONE_HIGH = "\ud800";
const LONE_LOW = "\udc00";

function bytes(hex: string): Uint8Array {
  return Uint8Array.from(hex.match(/[0-9a-f]{2}/g) ?? [], (byte) => Number.parseInt(byte, 16));
}

function hex(value: Uint8Array): string {
  return Array.from(value, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Stands for a hole in the list given to {@link sparse}. */
const GAP = Symbol("gap");

function sparse(...items: unknown[]): unknown[] {
  const array = new Array<unknown>(items.length);
  for (const [index, item] of items.entries()) if (item !== GAP) array[index] = item;
  return array;
}

function nested(levels: number, wrap: (inner: unknown) => unknown): unknown {
  let value: unknown = null;
  for (let level = 0; level < levels; level++) value = wrap(value);
  return value;
}

function refusal(value: unknown, limits?: Partial<CodecLimits>): UnsupportedValueError {
  try {
    encode(value, limits);
  } catch (error) {
    assert(error instanceof UnsupportedValueError);
    return error;
  }
  throw new Error("the value was not refused");
}

function expectMalformed(payload: Uint8Array | string, options?: Parameters<typeof decode>[1]): void {
  const input = typeof payload === "string" ? bytes(payload) : payload;
  expect(() => decode(input, options)).toThrow(
    expect.objectContaining({ code: "PAYLOAD_MALFORMED", message: "the payload is malformed" }),
  );
}

/** A view that does not begin where its buffer does, nor at a multiple of its element size in it. */
function unaligned(source: Uint8Array): Uint8Array {
  const padded = new Uint8Array(source.length + 3);
  padded.set(source, 3);
  return padded.subarray(3);
}

class Money {
  readonly #cents: number;
  constructor(cents: number) {
    this.#cents = cents;
  }
  toJSON(): unknown {
    return { cents: this.#cents };
  }
}
class Point {
  x = 1;
}

/** Every form that the encoder writes: the value, and its bytes. */
const FORMS: readonly (readonly [name: string, value: unknown, bytes: string])[] = [
  ["null", null, "c0"],
  ["false", false, "c2"],
  ["true", true, "c3"],
  ["0", 0, "00"],
  ["127", 127, "7f"],
  ["128", 128, "cc80"],
  ["255", 255, "ccff"],
  ["256", 256, "cd0100"],
  ["65535", 65535, "cdffff"],
  ["65536", 65536, "ce00010000"],
  ["the highest uint 32", 4294967295, "ceffffffff"],
  ["an integer above uint 32", 4294967296, "cb41f0000000000000"],
  ["the highest safe integer", Number.MAX_SAFE_INTEGER, "cb433fffffffffffff"],
  ["-1", -1, "ff"],
  ["-32", -32, "e0"],
  ["-33", -33, "d0df"],
  ["-128", -128, "d080"],
  ["-129", -129, "d1ff7f"],
  ["-32768", -32768, "d18000"],
  ["-32769", -32769, "d2ffff7fff"],
  ["the lowest int 32", -2147483648, "d280000000"],
  ["an integer below int 32", -2147483649, "cbc1e0000000200000"],
  ["minus zero", -0, "cb8000000000000000"],
  ["a fraction", 0.5, "cb3fe0000000000000"],
  ["NaN", Number.NaN, "cb7ff8000000000000"],
  ["Infinity", Number.POSITIVE_INFINITY, "cb7ff0000000000000"],
  ["-Infinity", Number.NEGATIVE_INFINITY, "cbfff0000000000000"],
  ["0n", 0n, "cf0000000000000000"],
  ["1n", 1n, "cf0000000000000001"],
  ["the highest uint 64", 2n ** 64n - 1n, "cfffffffffffffffff"],
  ["-1n", -1n, "d3ffffffffffffffff"],
  ["the lowest int 64", -(2n ** 63n), "d38000000000000000"],
  ["a BigInt above uint 64", 2n ** 64n, "c70903010000000000000000"],
  ["a BigInt below int 64", -(2n ** 63n) - 1n, "c70903ff7fffffffffffffff"],
  ["a BigInt of 72 bits with a sign byte", 2n ** 71n, "c70a0300800000000000000000"],
  ["a negative BigInt of exactly 72 bits", -(2n ** 71n), "c70903800000000000000000"],
  ["an empty string", "", "a0"],
  ["a string of 31 bytes", "a".repeat(31), `bf${"61".repeat(31)}`],
  ["a string of 32 bytes", "a".repeat(32), `d920${"61".repeat(32)}`],
  ["a string of 33 bytes", "a".repeat(33), `d921${"61".repeat(33)}`],
  ["a string of 255 bytes", "a".repeat(255), `d9ff${"61".repeat(255)}`],
  ["a string of 256 bytes", "a".repeat(256), `da0100${"61".repeat(256)}`],
  ["a string of 65536 bytes", "a".repeat(65536), `db00010000${"61".repeat(65536)}`],
  ["a string of 16 two-byte characters", "é".repeat(16), `d920${"c3a9".repeat(16)}`],
  ["a string of 128 two-byte characters", "é".repeat(128), `da0100${"c3a9".repeat(128)}`],
  ["a string of 32768 two-byte characters", "é".repeat(32768), `db00010000${"c3a9".repeat(32768)}`],
  ["a string with a byte order mark", "\ufeffa", "a4efbbbf61"],
  ["a string with U+FFFD", "\ufffd", "a3efbfbd"],
  ["a surrogate pair", "🍺", "a4f09f8dba"],
  ["an unpaired high surrogate", LONE_HIGH, "d505d800"],
  ["an unpaired low surrogate", `a${LONE_LOW}`, "d6050061dc00"],
  ["an empty Uint8Array", new Uint8Array(), "c400"],
  ["an Uint8Array", Uint8Array.of(1, 2), "c4020102"],
  ["an Uint8Array of 256 bytes", new Uint8Array(256), `c50100${"00".repeat(256)}`],
  ["an Uint8Array of 65536 bytes", new Uint8Array(65536), `c600010000${"00".repeat(65536)}`],
  ["a nested Uint8Array", [Uint8Array.of(1)], "91c40101"],
  ["a nested Buffer", [Buffer.of(1, 2)], "91c703040201" + "02"],
  ["an ArrayBuffer", Uint8Array.of(7).buffer, "d5040007"],
  ["an empty ArrayBuffer", new ArrayBuffer(0), "d40400"],
  ["a DataView", new DataView(Uint8Array.of(7, 8).buffer), "c70304010708"],
  ["an Int8Array", Int8Array.of(-1), "d50403ff"],
  ["an Uint8ClampedArray", Uint8ClampedArray.of(300), "d50404ff"],
  ["an Int16Array", Int16Array.of(-2), "c7030405feff"],
  ["an Uint16Array", Uint16Array.of(0x0102), "c70304060201"],
  ["an Int32Array", Int32Array.of(-2), "c7050407feffffff"],
  ["an Uint32Array", Uint32Array.of(1), "c705040801000000"],
  ["a Float32Array", Float32Array.of(1), "c70504090000803f"],
  ["a Float64Array", Float64Array.of(1), "c709040a000000000000f03f"],
  ["a BigInt64Array", BigInt64Array.of(-2n), "c709040bfeffffffffffffff"],
  ["a BigUint64Array", BigUint64Array.of(1n), "c709040c0100000000000000"],
  ["a Date of whole seconds", new Date(1514862245000), "d6ff5a4af6a5"],
  ["a Date with milliseconds", new Date(1514862245678), "d7ffa1a5d6005a4af6a5"],
  ["the last Date of 64 bits", new Date(17179869183999), "d7ffee2e1f03ffffffff"],
  ["the first Date of 96 bits", new Date(17179869184000), "c70cff000000000000000400000000"],
  ["a Date before 1970", new Date(-1), "c70cff3b8b87c0ffffffffffffffff"],
  ["the first Date of all", new Date(-8.64e15), "c70cff00000000fffff82457de8000"],
  ["undefined", undefined, "d40000"],
  ["an undefined element and a hole", sparse(undefined, GAP, 1), "93d40000d4000101"],
  ["an empty array", [], "90"],
  ["an array of 16", new Array(16).fill(0), `dc0010${"00".repeat(16)}`],
  ["an array of 65536", new Array(65536).fill(0), `dd00010000${"00".repeat(65536)}`],
  ["an empty object", {}, "80"],
  ["an object with undefined", { a: undefined }, "81a161d40000"],
  ["an object with a key that has an unpaired surrogate", { [LONE_HIGH]: 1 }, "81d505d80001"],
  ["an empty Map", new Map(), "d40190"],
  ["a Map", new Map<unknown, unknown>([["a", 1]]), "d60192a16101"],
  [
    "a Map with keys of any kind",
    new Map<unknown, unknown>([
      [1, 2],
      [[], {}],
    ]),
    "c705019401029080",
  ],
  ["an empty Set", new Set(), "d40290"],
  ["a Set", new Set([1, "a"]), "d6029201a161"],
  [
    "a Set of 16 with a payload of 19 bytes",
    new Set(Array.from({ length: 16 }, (_, i) => i)),
    "c71302dc0010000102030405060708090a0b0c0d0e0f",
  ],
];

describe("the forms of values", () => {
  test.each(FORMS)("%s is written as listed and read back as it was", (_name, value, expected) => {
    const encoded = encode(value);
    expect(hex(encoded)).toBe(expected);
    assert.deepStrictEqual(decode(encoded), value);
    assert.deepStrictEqual(decode(Buffer.from(encoded)), value);
    assert.deepStrictEqual(decode(unaligned(encoded)), value);
  });
});

describe("what comes back", () => {
  test("a Buffer at the root is raw bytes, and comes back as an Uint8Array", () => {
    expect(hex(encode(Buffer.of(1, 2)))).toBe("c4020102");
    assert.deepStrictEqual(decode(encode(Buffer.of(1, 2))), Uint8Array.of(1, 2));
  });

  test("binary data is a copy, and has a buffer of its own", () => {
    const encoded = encode([Uint8Array.of(1, 2), Buffer.of(3), Int16Array.of(4), Uint8Array.of(5).buffer]);
    const [plain, buffer, array, raw] = decode(encoded) as [Uint8Array, Buffer, Int16Array, ArrayBuffer];
    encoded.fill(0xff);
    assert.deepStrictEqual([plain, buffer, array], [Uint8Array.of(1, 2), Buffer.of(3), Int16Array.of(4)]);
    expect(raw.byteLength).toBe(1);
    expect([plain, buffer, array].map((view) => view.buffer.byteLength)).toStrictEqual([2, 1, 2]);
  });

  test("a view of part of a buffer, aligned or not, keeps its own bytes only", () => {
    const source = Uint8Array.of(0, 1, 2, 3, 4, 5, 6, 7, 8);
    const values = [
      source.subarray(1, 3),
      new DataView(source.buffer, 1, 2),
      new Uint16Array(source.buffer, 2, 1),
      Buffer.from(source.buffer, 3, 2),
    ];
    const decoded = decode(encode(values)) as ArrayBufferView[];
    const contents = decoded.map((view) => hex(new Uint8Array(view.buffer, view.byteOffset, view.byteLength)));
    expect(contents).toStrictEqual(["0102", "0102", "0203", "0304"]);
  });

  test("shared memory and a resizable buffer are kept as what they hold at the moment", () => {
    const shared = new Uint8Array(new SharedArrayBuffer(2));
    shared.set([1, 2]);
    const resizable = new ArrayBuffer(2, { maxByteLength: 8 });
    const tracking = new Uint16Array(resizable);
    resizable.resize(4);
    const decoded = decode(encode([shared, resizable, tracking]));
    assert.deepStrictEqual(decoded, [Uint8Array.of(1, 2), new ArrayBuffer(4), Uint16Array.of(0, 0)]);
  });

  test("elements of more than a byte are little-endian on every machine", () => {
    const elements = bytes("0102030405060708");
    toLittleEndian(elements, 4, false);
    expect(hex(elements)).toBe("0403020108070605");
    toLittleEndian(elements, 4, true);
    expect(hex(elements)).toBe("0403020108070605");
  });

  test("objects have the prototype Object.prototype, whatever root prototype or realm they came from", () => {
    const bare = Object.assign(Object.create(null), { a: 1 });
    const foreign = runInNewContext(
      "({ a: 1, list: [1, , 2], when: new Date(5), map: new Map([[1, new Set([2])]]), raw: new Uint8Array([3]), wide: new Int16Array([4]) })",
    );
    assert.deepStrictEqual(decode(encode(bare)), { a: 1 });
    assert.deepStrictEqual(decode(encode(foreign)), {
      a: 1,
      list: sparse(1, GAP, 2),
      when: new Date(5),
      map: new Map([[1, new Set([2])]]),
      raw: Uint8Array.of(3),
      wide: Int16Array.of(4),
    });
  });

  test.each(["__proto__", "constructor", "toString", "hasOwnProperty", "isPrototypeOf", "toJSON", "length", "", "0"])(
    "the key %j is a property of the object's own, and nothing else changes",
    (key) => {
      const value = Object.defineProperty({}, key, { value: { polluted: true }, enumerable: true });
      const decoded = decode(encode([value])) as [Record<string, unknown>];
      expect(Object.getPrototypeOf(decoded[0])).toBe(Object.prototype);
      expect(Object.getOwnPropertyDescriptor(decoded[0], key)).toStrictEqual({
        value: { polluted: true },
        writable: true,
        enumerable: true,
        configurable: true,
      });
      expect("polluted" in {}).toBe(false);
    },
  );

  test("keys of equal length, beginning and end are told apart, again and again", () => {
    const value = { abcd_1_wxyz: 1, abcd_2_wxyz: 2, é_: 3, ab: 4, ba: 5, ["k".repeat(31)]: 6, ["k".repeat(32)]: 7 };
    for (let round = 0; round < 3; round++) assert.deepStrictEqual(decode(encode(value)), value);
  });

  test("properties that are not enumerable are left out, with symbols among them", () => {
    const value = Object.defineProperties({ a: 1 }, { id: { value: 2 }, [Symbol("s")]: { value: 3 } });
    assert.deepStrictEqual(decode(encode(value)), { a: 1 });
  });

  test("a getter is read once", () => {
    const read = vi.fn(() => 7);
    assert.deepStrictEqual(
      decode(
        encode({
          get a() {
            return read();
          },
        }),
      ),
      { a: 7 },
    );
    expect(read).toHaveBeenCalledTimes(1);
  });

  test("a proxy of a plain object or array is what it shows", () => {
    assert.deepStrictEqual(decode(encode(new Proxy({ a: [new Proxy([1], {})] }, {}))), { a: [[1]] });
  });

  test("an object that stands in two places comes back as two", () => {
    const shared = { a: 1 };
    const [first, second] = decode(encode([shared, shared])) as object[];
    assert.deepStrictEqual([first, second], [shared, shared]);
    expect(first).not.toBe(second);
  });

  test("every NaN has the same bytes", () => {
    const [other] = new Float64Array(BigUint64Array.of(0xfff8_0000_0000_0001n).buffer);
    expect(hex(encode(other))).toBe("cb7ff8000000000000");
  });

  test("the same value has the same bytes, whatever was encoded before", () => {
    const value = { a: "x", b: [1, { c: 2 }] };
    const before = hex(encode(value));
    encode({ other: "y".repeat(100_000) });
    expect(() => encode({ a: () => 1 })).toThrow();
    expect(hex(encode(value))).toBe(before);
  });
});

describe("toJSON", () => {
  test("an instance, a plain object or an array that has one is taken in the form that it returns", () => {
    const own = { hidden: 1, toJSON: () => ({ shown: 2 }) };
    const list = Object.assign([1, 2], { toJSON: () => [3] });
    const decoded = decode(encode({ money: new Money(5), own, list, url: new URL("https://example.com/") }));
    assert.deepStrictEqual(decoded, { money: { cents: 5 }, own: { shown: 2 }, list: [3], url: "https://example.com/" });
  });

  test("it counts where only the name of the class is that of a built-in one", () => {
    const Named = {
      Map: class {
        toJSON() {
          return "form";
        }
      },
    }.Map;
    const claiming = Object.assign(Object.create({ constructor: Map }), { toJSON: () => "form" });
    assert.deepStrictEqual(decode(encode([new Named(), claiming])), ["form", "form"]);
  });

  test("it is called with the key, like JSON.stringify does", () => {
    const keys: unknown[] = [];
    const spy = { toJSON: (key: unknown) => keys.push(key) };
    encode({ a: spy, list: [0, spy], map: new Map<unknown, unknown>([[0, spy]]) });
    encode(spy);
    expect(keys).toStrictEqual(["a", "1", "", ""]);
  });

  test("its result may be anything that can be encoded, and values inside that have their toJSON called", () => {
    const form = [undefined, new Date(1), new Map([[1, new Money(2)]])];
    assert.deepStrictEqual(decode(encode({ toJSON: () => form })), [
      undefined,
      new Date(1),
      new Map([[1, { cents: 2 }]]),
    ]);
  });

  test("a toJSON of the result is not called", () => {
    expect(refusal({ toJSON: () => new Money(1) }).code).toBe("VALUE_UNSUPPORTED");
    expect(
      refusal({
        a: {
          toJSON() {
            return this;
          },
        },
      }).path,
    ).toBe("a.toJSON");
  });

  test("a key toJSON that holds no function is data", () => {
    assert.deepStrictEqual(decode(encode({ toJSON: "yes" })), { toJSON: "yes" });
  });

  test("a Date, Map or Buffer keeps its own form whatever its toJSON", () => {
    const map = new Map([[1, 2]]);
    Object.defineProperty(map, "toJSON", { value: () => "no" });
    assert.deepStrictEqual(decode(encode([new Date(0), map, Buffer.of(1)])), [
      new Date(0),
      new Map([[1, 2]]),
      Buffer.of(1),
    ]);
  });

  test("Map keys and Set elements whose forms are equal are refused, since they would not come back", () => {
    const text = { toJSON: () => "a" };
    expect(refusal(new Set([text, { ...text }])).path).toBe("<set 1>");
    expect(
      refusal(
        new Map<unknown, unknown>([
          [text, 1],
          ["a", 2],
        ]),
      ).path,
    ).toBe("<map key 0>");
    assert.deepStrictEqual(
      decode(encode(new Set([text, "b", { toJSON: () => ({}) }, {}]))),
      new Set(["a", "b", {}, {}]),
    );
  });
});

describe("refusals", () => {
  const invalid = new Date(Number.NaN);
  const detached = new Uint8Array(4);
  structuredClone(detached, { transfer: [detached.buffer] });
  const { proxy: revoked, revoke } = Proxy.revocable({}, {});
  revoke();

  test.each<[name: string, value: unknown]>([
    ["a function", () => 1],
    ["a symbol", Symbol("s")],
    ["an instance of a class", new Point()],
    ["an object whose prototype is a plain object", Object.create({ a: 1 })],
    ["an object whose prototype has none, but is no Object.prototype", Object.create(Object.create(null))],
    ["an invalid Date", invalid],
    ["a boxed number", Object(1)],
    ["a boxed string", Object("a")],
    ["a boxed boolean", Object(false)],
    ["a boxed BigInt", Object(1n)],
    ["a boxed symbol", Object(Symbol("s"))],
    ["an Error", new Error("secret")],
    ["a RegExp", /secret/],
    ["a Promise", Promise.resolve()],
    ["a WeakMap", new WeakMap()],
    ["a WeakSet", new WeakSet()],
    ["a generator", (function* () {})()],
    ["a SharedArrayBuffer", new SharedArrayBuffer(1)],
    ["a class derived from Map", new (class extends Map {})()],
    ["a class derived from Set", new (class extends Set {})()],
    ["a class derived from Date", new (class extends Date {})()],
    ["a class derived from Array", new (class extends Array {})()],
    ["a class derived from Uint8Array", new (class extends Uint8Array {})()],
    ["a class derived from Float64Array", new (class extends Float64Array {})()],
    ["a class derived from ArrayBuffer", new (class extends ArrayBuffer {})(1)],
    [
      "a class derived from Map with a toJSON",
      new (class extends Map {
        toJSON() {
          return 1;
        }
      })(),
    ],
    ["an array without a prototype", Object.setPrototypeOf([], null)],
    ["an array with the prototype of objects", Object.setPrototypeOf([], Object.prototype)],
    ["only the prototype of a Map", Object.create(Map.prototype)],
    ["only the prototype of a Date", Object.create(Date.prototype)],
    ["only the prototype of an Array", Object.create(Array.prototype)],
    ["only the prototype of an ArrayBuffer", Object.create(ArrayBuffer.prototype)],
    ["only the prototype of an Uint8Array", Object.create(Uint8Array.prototype)],
    ["only the prototype of an Int16Array", Object.create(Int16Array.prototype)],
    ["an array with a named property", Object.assign([1], { a: 1 })],
    ["an array with a hole and a named property", Object.assign(sparse(GAP, 1), { a: 1 })],
    ["an array with a symbol key", Object.assign([1], { [Symbol("s")]: 1 })],
    ["the result of a match", "ab".match(/a/)],
    ["an object with a symbol key", { [Symbol("s")]: 1 }],
    ["a Map with a property", Object.assign(new Map(), { a: 1 })],
    ["a Set with a symbol key", Object.assign(new Set(), { [Symbol("s")]: 1 })],
    ["a Date with a property", Object.assign(new Date(0), { a: 1 })],
    ["an ArrayBuffer with a property", Object.assign(new ArrayBuffer(1), { a: 1 })],
    ["an Uint8Array whose memory is gone", detached],
    ["a revoked proxy", revoked],
    ["a proxy of a Map", new Proxy(new Map(), {})],
    [
      "a proxy of an array that lies about its length",
      new Proxy([1], { get: (list, key) => (key === "length" ? 1.5 : Reflect.get(list, key)) }),
    ],
  ])("%s is refused, at the root and inside, and with its path", (_name, value) => {
    expect(refusal(value)).toMatchObject({ code: "VALUE_UNSUPPORTED", name: "UnsupportedValueError", path: "" });
    expect(refusal({ cart: { items: [0, value] } })).toMatchObject({
      code: "VALUE_UNSUPPORTED",
      path: "cart.items[1]",
    });
    expect(refusal(new Map([["k", value]]))).toMatchObject({ code: "VALUE_UNSUPPORTED", path: "<map value 0>" });
    expect(refusal({ value }).message).not.toContain("secret");
  });

  test("an error of a getter, a toJSON or a proxy is the cause, and the path says where it was thrown", () => {
    const cause = new Error("theirs");
    const fail = () => {
      throw cause;
    };
    const cases: [unknown, string][] = [
      [
        {
          a: {
            get b() {
              return fail();
            },
          },
        },
        "a.b",
      ],
      [{ a: [{ toJSON: fail }] }, "a[0]"],
      [
        {
          a: {
            get toJSON() {
              return fail();
            },
          },
        },
        "a",
      ],
      [{ a: new Proxy({}, { ownKeys: fail }) }, "a"],
      [{ a: new Proxy({}, { getPrototypeOf: fail }) }, "a"],
      [new Set([{ toJSON: fail }]), "<set 0>"],
      [{ toJSON: fail }, ""],
    ];
    for (const [value, path] of cases) {
      const error = refusal(value);
      expect(error).toMatchObject({ code: "VALUE_UNSUPPORTED", path });
      expect(error.cause).toBe(cause);
      expect(error.message).not.toContain("theirs");
    }
    expect(cases).toHaveLength(7);
  });

  test("a refusal inside an encode that a toJSON calls is a cause too", () => {
    const error = refusal({ a: { toJSON: () => encode({ b: () => 1 }) } });
    expect(error).toMatchObject({
      code: "VALUE_UNSUPPORTED",
      path: "a",
      cause: { code: "VALUE_UNSUPPORTED", path: "b" },
    });
  });

  test("what was refused without an error has no cause", () => {
    expect(
      Object.hasOwn(
        refusal(() => 1),
        "cause",
      ),
    ).toBe(false);
  });
});

describe("the path of a refusal", () => {
  const fault = () => 1;

  test.each<[name: string, value: unknown, path: string]>([
    ["properties and elements", { cart: { items: [0, 0, 0, { price: fault }] } }, "cart.items[3].price"],
    ["an element of the root", [fault], "[0]"],
    ["identifiers in any script", { größe: { $a_1: fault } }, "größe.$a_1"],
    ["other keys in quotes", { "odd key": { "": { 1: { 'a"b': fault } } } }, '["odd key"][""]["1"]["a\\"b"]'],
    ["a Map value", { prefs: new Map([["secret", fault]]) }, "prefs<map value 0>"],
    [
      "a Map key, never printed",
      {
        prefs: new Map<unknown, unknown>([
          [1, 1],
          [{ secret: fault }, 1],
        ]),
      },
      "prefs<map key 1>.secret",
    ],
    ["a Set element", { tags: new Set([1, 2, fault]) }, "tags<set 2>"],
    ["a toJSON form", { a: { toJSON: () => ({ b: fault }) } }, "a.b"],
    ["control characters, escaped", { "a\n\u001b\u0085\u202e\ud800": fault }, '["a\\n\\u001b\\u{85}\\u{202e}\\ud800"]'],
  ])("shows %s", (_name, value, path) => {
    const error = refusal(value);
    expect(error.path).toBe(path);
    expect(error.message).toBe(`${path}: a function cannot be stored faithfully`);
  });

  test("is empty for the value itself, which the message names", () => {
    expect(refusal(fault)).toMatchObject({ path: "", message: "the value: a function cannot be stored faithfully" });
  });

  test("shows no more than 31 characters of a key", () => {
    expect(refusal({ ["k".repeat(31)]: fault }).path).toBe("k".repeat(31));
    expect(refusal({ ["k".repeat(32)]: fault }).path).toBe(`["${"k".repeat(30)}…"]`);
    expect(refusal({ ["\n".repeat(31)]: fault }).path).toBe(`["${"\\n".repeat(15)}…"]`);
    expect(refusal({ [`${"k".repeat(29)}🍺🍺`]: fault }).path.isWellFormed()).toBe(true);
  });

  test("has at most 200 characters, and then keeps its beginning and its end", () => {
    const { path } = refusal({ first: nested(40, (inner) => ({ middle: inner ?? { last: fault } })) });
    expect(path).toHaveLength(200);
    expect(path).toMatch(/^first\.middle\.middle.*….*\.middle\.last$/);
  });
});

describe("limits", () => {
  const containers: [name: string, wrap: (inner: unknown) => unknown][] = [
    ["objects", (inner) => ({ a: inner })],
    ["arrays", (inner) => [inner]],
    ["Map values", (inner) => new Map([["a", inner]])],
    ["Map keys", (inner) => new Map([[inner, 1]])],
    ["Sets", (inner) => new Set([inner])],
  ];

  test.each(containers)("100 levels of %s are kept, 101 are refused", (_name, wrap) => {
    const value = nested(100, wrap);
    assert.deepStrictEqual(decode(encode(value)), value);
    const error = refusal(wrap(value));
    expect(error.code).toBe("VALUE_TOO_DEEP");
    expect(error.message).toContain("more than 100 levels deep");
  });

  test.each(containers)("a decoder refuses one level of %s more than it allows", (_name, wrap) => {
    const payload = encode(nested(4, wrap));
    expect(decode(payload, { maxDepth: 4 })).toBeDefined();
    expectMalformed(payload, { maxDepth: 3 });
  });

  test.each(containers)("1000 levels of %s fit the stack, where they are allowed", (_name, wrap) => {
    const payload = encode(nested(1000, wrap), { maxDepth: 1000 });
    const reencoded = encode(decode(payload, { maxDepth: 1000 }), { maxDepth: 1000 });
    expect(Buffer.compare(reencoded, payload)).toBe(0);
  });

  test("without levels there are only values that hold no other", () => {
    expect(decode(encode("a", { maxDepth: 0 }), { maxDepth: 0 })).toBe("a");
    expect(refusal([], { maxDepth: 0 }).code).toBe("VALUE_TOO_DEEP");
    expectMalformed("90", { maxDepth: 0 });
  });

  test.each(FORMS)("%s fits in exactly as many bytes as it has, and not in one less", (_name, value) => {
    const encoded = encode(value);
    assert.deepStrictEqual(encode(value, { maxBytes: encoded.length }), encoded);
    expect(refusal(value, { maxBytes: encoded.length - 1 }).code).toBe("VALUE_TOO_LARGE");
    assert.deepStrictEqual(decode(encoded, { maxBytes: encoded.length }), decode(encoded));
    expectMalformed(encoded, { maxBytes: encoded.length - 1 });
  });

  test("the largest value of the default limit has 1 MiB", () => {
    expect(encode("é".repeat(524_285))).toHaveLength(1_048_575);
    expect(refusal("é".repeat(524_286)).code).toBe("VALUE_TOO_LARGE");
    expect(encode({ a: "a".repeat(1_048_568) })).toHaveLength(1_048_576);
    const error = refusal({ a: "a".repeat(1_048_569) });
    expect(error.code).toBe("VALUE_TOO_LARGE");
    expect(error.message).toContain("more than 1048576 bytes when encoded");
  });

  test("a value far larger than memory is refused at once", () => {
    const sparse: unknown[] = [];
    sparse.length = 4_000_000_000;
    expect(refusal({ sparse })).toMatchObject({ code: "VALUE_TOO_LARGE", path: "sparse" });
    expect(refusal([1n << 20_000_000n])).toMatchObject({ code: "VALUE_TOO_LARGE", path: "[0]" });
    expect(refusal([-1n << 20_000_000n])).toMatchObject({ code: "VALUE_TOO_LARGE", path: "[0]" });
    expect(refusal(new Set(Array.from({ length: 2_000_000 }, (_, i) => i)))).toMatchObject({ code: "VALUE_TOO_LARGE" });
  });

  test("values of many sizes grow the scratch buffer step by step, up to limits of any size", () => {
    for (const length of [8_000, 8_190, 8_200, 20_000, 300_000, 3_000_000]) {
      const value = [Uint8Array.from({ length }, (_, i) => i), "a".repeat(length), "é".repeat(length)];
      assert.deepStrictEqual(decode(encode(value, { maxBytes: 2 ** 30 }), { maxBytes: 2 ** 30 }), value);
    }
  });

  test.each<[Partial<CodecLimits>, string]>([
    [{ maxBytes: -1 }, "maxBytes"],
    [{ maxBytes: 2 ** 30 + 1 }, "maxBytes"],
    [{ maxBytes: 1.5 }, "maxBytes"],
    [{ maxDepth: -1 }, "maxDepth"],
    [{ maxDepth: 1001 }, "maxDepth"],
  ])("%j is out of range", (limits, field) => {
    expect(() => encode(1, limits)).toThrow(RangeError);
    expect(() => decode(Uint8Array.of(1), limits)).toThrow(field);
  });
});

describe("cycles", () => {
  test.each<[name: string, make: () => unknown, path: string]>([
    [
      "an object in itself",
      () => {
        const a: Record<string, unknown> = {};
        a["self"] = a;
        return a;
      },
      "self",
    ],
    [
      "an array in itself",
      () => {
        const a: unknown[] = [0];
        a.push(a);
        return a;
      },
      "[1]",
    ],
    [
      "a Map in its own value",
      () => {
        const m = new Map<unknown, unknown>();
        m.set("k", m);
        return m;
      },
      "<map value 0>",
    ],
    [
      "a Map as its own key",
      () => {
        const m = new Map<unknown, unknown>();
        m.set(m, 1);
        return m;
      },
      "<map key 0>",
    ],
    [
      "a Set in itself",
      () => {
        const s = new Set<unknown>();
        s.add(s);
        return s;
      },
      "<set 0>",
    ],
    [
      "a longer way round",
      () => {
        const user: Record<string, unknown> = {};
        user["posts"] = [{ author: user }];
        return { user };
      },
      "user.posts[0].author",
    ],
    [
      "a toJSON that leads back",
      () => {
        const a: Record<string, unknown> = {};
        a["toJSON"] = () => ({ a });
        return a;
      },
      "a",
    ],
  ])("%s is refused as a cycle, with the shortest path to it", (_name, make, path) => {
    expect(refusal(make())).toMatchObject({ code: "VALUE_CYCLIC", path });
  });

  test("a cycle is recognised even when its bytes pass the size limit first", () => {
    const value: Record<string, unknown> = { text: "x".repeat(50_000) };
    value["self"] = value;
    expect(refusal(value)).toMatchObject({ code: "VALUE_CYCLIC", path: "self" });
  });

  test("the same object beside itself is not a cycle", () => {
    const shared = { a: 1 };
    expect(() => encode({ x: shared, y: [shared, [shared]] })).not.toThrow();
    expect(refusal({ x: shared, y: [shared, nested(100, (inner) => [inner])] }).code).toBe("VALUE_TOO_DEEP");
  });
});

describe("the scratch buffer", () => {
  const scratch = () => encodeBorrowed(1, {}, (borrowed) => borrowed.buffer);
  const isZero = (buffer: ArrayBufferLike) => new Uint8Array(buffer).every((byte) => byte === 0);

  test("is lent for the time of a call, whose result is passed on", () => {
    const [length, borrowed] = encodeBorrowed({ a: "secret" }, {}, (view) => {
      expect(hex(view)).toBe("81a161a6736563726574");
      return [view.length, view] as const;
    });
    expect(length).toBe(10);
    expect(isZero(borrowed.buffer)).toBe(true);
  });

  test.each<[name: string, run: () => unknown]>([
    [
      "a value was encoded",
      () => encode({ a: "secret", m: new Map([[1, "0123456789"]]), s: new Set(["0123456789ab"]) }),
    ],
    ["a value was refused", () => refusal({ a: "secret", b: () => 1 })],
    ["a value was too large", () => refusal(["secret".repeat(10), "é".repeat(30)], { maxBytes: 80 })],
    [
      "a text was begun and found too large",
      () => refusal(["x", `${"secret".repeat(5)}${LONE_HIGH}`], { maxBytes: 40 }),
    ],
    [
      "a getter threw",
      () =>
        refusal({
          a: "secret",
          get b() {
            throw new Error("theirs");
          },
        }),
    ],
    ["the value outgrew it", () => encode(["secret".repeat(1000), "secret".repeat(1000)])],
    [
      "the borrower threw",
      () =>
        expect(() =>
          encodeBorrowed("secret", {}, () => {
            throw new Error("theirs");
          }),
        ).toThrow("theirs"),
    ],
    [
      "nested collections of lengths with a short header were encoded",
      () => encode(new Set([new Set(["0123456789abc"]), "x"])),
    ],
  ])("holds nothing after %s", (_name, run) => {
    const before = scratch();
    run();
    expect(isZero(before)).toBe(true);
    expect(isZero(scratch())).toBe(true);
  });

  test("is kept for the next value, unless it has grown beyond 1 MiB", () => {
    expect(scratch()).toBe(scratch());
    const before = scratch();
    encode("a".repeat(2_000_000), { maxBytes: 4_000_000 });
    expect(scratch()).not.toBe(before);
    expect(scratch().byteLength).toBeLessThanOrEqual(1_048_576);
  });

  test("is not shared with a value that is encoded meanwhile", () => {
    const inner = { toJSON: () => encode({ inner: "text" }) };
    assert.deepStrictEqual(decode(encode({ a: "before", b: inner, c: "after" })), {
      a: "before",
      b: encode({ inner: "text" }),
      c: "after",
    });
    const outer = encodeBorrowed([1, 2, 3], {}, (view) => {
      expect(hex(encode("other"))).toBe("a56f74686572");
      return hex(view);
    });
    expect(outer).toBe("93010203");
  });

  test("is not what encode returns", () => {
    const first = encode([1, 2, 3]);
    encode("something else");
    expect(hex(first)).toBe("93010203");
    expect(first.buffer.byteLength).toBe(4);
  });
});

describe("longer forms that are not ours", () => {
  test.each<[name: string, payload: string, value: unknown]>([
    ["a float 32", "ca3fc00000", 1.5],
    ["a float 64 that is an integer", "cb3ff0000000000000", 1],
    ["a NaN with other bits", "cbfff8000000000001", Number.NaN],
    ["a small number as uint 64 is a BigInt", "cf0000000000000001", 1n],
    ["a number that is not negative as int 64", "d30000000000000001", 1n],
    ["int 32", "d200000001", 1],
    ["str 32", "db0000000161", "a"],
    ["bin 32", "c60000000101", Uint8Array.of(1)],
    ["array 32", "dd0000000101", [1]],
    ["map 32", "df00000001a16101", { a: 1 }],
    ["a key as str 32", "81db000000016101", { a: 1 }],
    ["ext 8 for undefined", "c7010000", undefined],
    ["ext 32 for a hole", "91c9000000010001", sparse(GAP)],
    ["a Map of array 32", "c90000000701dd000000020102", new Map([[1, 2]])],
    ["a timestamp of 96 bits", "c70cff000000000000000000000001", new Date(1000)],
    ["nanoseconds, cut to the millisecond below", "c70cff000f423fffffffffffffffff", new Date(-1000)],
    ["the last nanosecond of the last Date", "c70cff000f423f000007dba8218000", new Date(8.64e15)],
  ])("%s is read", (_name, payload, value) => {
    assert.deepStrictEqual(decode(bytes(payload)), value);
  });
});

describe("malformed payloads", () => {
  test.each<[name: string, payload: string]>([
    ["nothing at all", ""],
    ["the byte that is never used", "c1"],
    ["the byte that is never used, inside", "91c1"],
    ["a byte after the value", "c0c0"],
    ["a string cut short", "a261"],
    ["a bin cut short", "c40201"],
    ["a bin of 4 GiB", "c6ffffffff"],
    ["a string of 4 GiB", "dbffffffff"],
    ["an array of 4 Gi elements", "ddffffffff"],
    ["a map of 4 Gi entries", "dfffffffff"],
    ["an extension of 4 GiB", "c9ffffffff04"],
    ["an extension without a type", "d4"],
    ["a map with a key and no value", "81a161"],
    ["a number key", "8101c0"],
    ["a nil key", "81c0c0"],
    ["a bin key", "81c40161c0"],
    ["an array key", "8190c0"],
    ["a hole as a key", "81d40001c0"],
    ["a key twice", "82a16101a16102"],
    ["a key twice, in two forms", "82a16101d9016102"],
    ["an index key twice", "82a13001a13002"],
    ["__proto__ twice", "82a95f5f70726f746f5f5f80a95f5f70726f746f5f5f80"],
    ["a key with an unpaired surrogate twice", "82d505d80001d505d80002"],
    ["a byte that begins no UTF-8", "a1ff"],
    ["a continuation byte alone", "a180"],
    ["an overlong slash", "a2c0af"],
    ["an overlong NUL", "a2c080"],
    ["a surrogate in UTF-8", "a3eda080"],
    ["a surrogate pair in UTF-8", "a6eda080edb080"],
    ["a code point above U+10FFFF", "a4f4908080"],
    ["a character cut by the next", "a2c361"],
    ["a character cut by the end", "a261c3"],
    ["invalid UTF-8 behind 40 characters", `d929${"61".repeat(40)}ff`],
    ["invalid UTF-8 in a key", "81a1ffc0"],
    ["an extension type that is not ours", "d40600"],
    ["a negative extension type that is not the timestamp", "d4fe00"],
    ["undefined with another payload", "d40002"],
    ["undefined without a payload", "c70000"],
    ["undefined with two bytes", "d5000000"],
    ["a hole at the root", "d40001"],
    ["a hole as a value", "81a161d40001"],
    ["a hole in a Map", "d70192d40001d4000100"],
    ["a hole in a Set", "d60291d40001"],
    ["a Map that is not an array", "d40180"],
    ["a Map with a key and no value", "d5019101"],
    ["a Map with bytes after its array", "d5019000"],
    ["a Map whose array runs past its end", "d5019201"],
    ["a Map whose element runs past its end", "d60192a3010161"],
    ["a Map with bytes after its array, inside another value", "92d5019000"],
    ["a Map of three items, with a fourth behind them", "c705019301020304"],
    ["a Map without a payload", "c70001"],
    ["a Map with a key twice", "c705019401010102"],
    ["a Map with 0 and -0", "c70d01940001cb800000000000000002"],
    ["a Map with NaN twice", "c7150194cb7ff800000000000001cb7ff800000000000102"],
    ["a Set with an element twice", "c70302920101"],
    ["a Set with bytes after its array", "d5029000"],
    ["an empty BigInt", "c70003"],
    ["a BigInt of 8 bytes", "d7037fffffffffffffff"],
    ["a BigInt that uint 64 holds", "c7090300ffffffffffffffff"],
    ["a BigInt with a zero byte too many", "c70a03007f0000000000000000"],
    ["a BigInt with a sign byte too many", "c70a03ff800000000000000000"],
    ["binary data without a kind", "c70004"],
    ["binary data of an unknown kind", "d4040d"],
    ["half an element", "d5040500"],
    ["text of an odd length", "d405d8"],
    ["text of an odd length, inside another value", "92c70305d80061"],
    ["well-formed text in the form for ill-formed text", "d5050061"],
    ["empty text in the form for ill-formed text", "c70005"],
    ["a surrogate pair in the form for ill-formed text", "d605d83cdf7a"],
    ["a timestamp of 5 bytes", "c705ff0000000000"],
    ["a timestamp without a payload", "c700ff"],
    ["nanoseconds of a whole second, in 64 bits", "d7ffee6b280000000000"],
    ["nanoseconds of a whole second, in 96 bits", "c70cff3b9aca000000000000000000"],
    ["a time after the last Date", "c70cff000f4240000007dba8218000"],
    ["a time before the first Date", "c70cff3b8b87c0fffff82457de7fff"],
    ["a time that no number holds", "c70cff000000007fffffffffffffff"],
  ])("%s: refused", (_name, payload) => {
    expectMalformed(payload);
    expectMalformed(unaligned(bytes(payload)));
  });

  test("invalid UTF-8 is found in strings of every length, in every place", () => {
    for (let length = 1; length <= 70; length++) {
      for (let place = 0; place < length; place++) {
        const payload = encode("a".repeat(length));
        payload[payload.length - length + place] = 0xff;
        expectMalformed(payload);
      }
    }
  });

  test("every truncation of a valid payload is refused", () => {
    const encoded = encode(FORMS.filter(([, , form]) => form.length < 100).map(([, value]) => value));
    for (let length = 0; length < encoded.length; length++) expectMalformed(encoded.subarray(0, length));
    expect(encoded.length).toBeGreaterThan(400);
  });

  test("nested arrays never make room for more elements than there are bytes", () => {
    const payload = new Uint8Array(1000);
    // Each of the headers announces less than what is left behind it.
    for (let level = 0; level < 70; level++) payload.set(bytes("dc0300"), level * 3);
    let elements = 0;
    const counting = new Proxy(Array, {
      construct(target, [length]: [number]) {
        elements += length;
        return new target(length);
      },
    });
    vi.stubGlobal("Array", counting);
    let error: unknown;
    try {
      decode(payload);
    } catch (caught) {
      error = caught;
    } finally {
      vi.unstubAllGlobals();
    }
    expect(error).toMatchObject({ code: "PAYLOAD_MALFORMED" });
    expect(elements).toBe(0x300);
  });

  test("an object with very many keys is read, and one repeated among them found", () => {
    const keys = Array.from({ length: 50_000 }, (_, i) => `key-${i}`);
    const value = Object.fromEntries(keys.map((key) => [key, 1]));
    const encoded = encode(value);
    assert.deepStrictEqual(decode(encoded), value);
    const last = encoded.length - 2;
    expect(String.fromCharCode(encoded[last] as number)).toBe("9");
    encoded[last] = "8".charCodeAt(0);
    expectMalformed(encoded);
  });

  test("floats are malformed where only integers are expected, whole numbers too", () => {
    expectMalformed("cb3ff0000000000000", { integersOnly: true });
    expectMalformed("91ca3f800000", { integersOnly: true });
    assert.deepStrictEqual(decode(bytes("9301cf0000000000000002a161"), { integersOnly: true }), [1, 2n, "a"]);
  });

  test.each([undefined, null, "a", [0xc0], {}])("%j is not a payload at all", (input) => {
    expect(() => decode(input as never)).toThrow(TypeError);
  });
});

describe("without a global Buffer", () => {
  afterEach(() => {
    vi.unstubAllGlobals();
    vi.resetModules();
  });

  test("everything works as with it, and an Uint8Array stands for a Buffer", async () => {
    const payload = encode([Buffer.of(1, 2), "Zoë", "x".repeat(100), 2n ** 70n]);
    vi.resetModules();
    vi.stubGlobal("Buffer", undefined);
    const portable = await import("../src/codec.js");
    const value = portable.decode(payload);
    const again = portable.encode(value);
    vi.unstubAllGlobals();
    assert.deepStrictEqual(value, [Uint8Array.of(1, 2), "Zoë", "x".repeat(100), 2n ** 70n]);
    assert.deepStrictEqual(decode(again), value);
  });
});
