/** Makes the published vectors. Everything in them follows from a seed, so that both backends make the same file. */
import { shake128 } from "@noble/hashes/sha3.js";
import { backend } from "#backend";
import { blindIndexEntry } from "../../src/blind-index.js";
import { utf8 } from "../../src/bytes.js";
import { encode } from "../../src/codec.js";
import { chooseCurrent } from "../../src/current-key.js";
import { deriveIndexKey, deriveKeys, encodeRecord, type KeyRecord, keyIdOf, RecordState } from "../../src/data-key.js";
import { encryptionContext } from "../../src/kms-set.js";
import { createSessionId, storedIdOf } from "../../src/session-id.js";
import { type SealPayloadOptions, sealPayload } from "./seal-payload.js";
import type { EnvelopeVector, RecordVector, VectorFile } from "./vector-file.js";
import { toVectorValue, VECTOR_NOTES } from "./vector-value.js";
import { hex, toHex } from "./vectors.js";

const NOW = 1_790_000_000_000;
const NOT_AFTER = NOW / 1000 + 3600;

const seed = shake128.create().update(utf8("sealed-session envelope v1 vectors"));
const draw = (length: number) => seed.xof(length);
const sessionId = () => createSessionId((target) => target.set(draw(target.length)));

/** Values of every kind that the payload can hold (clause 6.1). */
const VALUES: [name: string, value: unknown][] = [
  ["the session of the RFC", { user_id: 123, roles: ["admin"], created_at: 1_732_300_000 }],
  ["empty bin", new Uint8Array(0)],
  ["bin", Uint8Array.of(0, 1, 127, 128, 255)],
  ["null", null],
  ["booleans", [true, false]],
  [
    "integers at the borders of their forms",
    [0, 127, 128, 255, 256, 65_535, 65_536, 2 ** 32 - 1, -1, -32, -33, -128, -129, -32_768, -32_769, -(2 ** 31)],
  ],
  [
    "numbers that are floats",
    [
      0.5,
      -0,
      2 ** 32,
      -(2 ** 31) - 1,
      Number.MAX_SAFE_INTEGER,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
    ],
  ],
  ["BigInts of 64 bits", [0n, -1n, 2n ** 64n - 1n, -(2n ** 63n)]],
  ["BigInts beyond 64 bits", [2n ** 64n, -(2n ** 63n) - 1n, 2n ** 200n]],
  ["strings", ["", "ñandú 🦤", "x".repeat(32), "x".repeat(256)]],
  ["a string with unpaired surrogates", ["\ud83e", "a\udda4b"]],
  [
    "dates",
    [new Date(0), new Date(1_732_300_000_000), new Date(1_732_300_000_123), new Date(-1), new Date(2 ** 34 * 1000)],
  ],
  ["undefined and holes", Object.assign(new Array(3), { 1: undefined })],
  [
    "a Map and a Set",
    {
      map: new Map<unknown, unknown>([
        ["a", 1],
        [2, { b: null }],
      ]),
      set: new Set([1, "a", null]),
    },
  ],
  [
    "typed arrays",
    [Int8Array.of(-1), Uint16Array.of(1, 2), Float64Array.of(0.5), BigInt64Array.of(-5n), Buffer.of(1, 2, 3)],
  ],
  ["keys that are special to JavaScript", JSON.parse('{"__proto__": 1, "constructor": 2, "toJSON": 3}')],
  ["nested", { a: [{ b: [[{ c: null }]] }] }],
];

/** Payloads that no encoder should write, or not in that form. */
const PAYLOADS: [bytes: string, value: { value: unknown } | string][] = [
  ["cc01", { value: 1 }],
  ["cd0001", { value: 1 }],
  ["d30000000000000001", { value: 1n }],
  ["d90161", { value: "a" }],
  ["dd00000001c0", { value: [null] }],
  ["ca3fc00000", { value: 1.5 }],
  ["a3efbbbf", { value: "\ufeff" }],
  ["d5040201", { value: Buffer.of(1) }],
  ["c70cff3b9ac9ffffffffffffffffff", { value: new Date(-1) }],
  [
    "c70d019401c0cf0000000000000001c0",
    {
      value: new Map<unknown, unknown>([
        [1, null],
        [1n, null],
      ]),
    },
  ],
  [`${"91".repeat(100)}c0`, { value: nested(100) }],
  ["d40001", "a hole that is the whole value"],
  ["81a161d40001", "a hole as the value of a map"],
  ["c7050192d40001c0", "a hole as a key of a Map"],
  ["c7040291d40001", "a hole as an element of a Set"],
  ["d50191c0", "a Map with a key and no value"],
  ["d401c0", "a Map that is no array"],
  ["c705019401c001c0", "a key of a Map twice"],
  ["c70d019400c0cb8000000000000000c0", "the keys 0 and -0 of a Map"],
  ["c70302920101", "an element of a Set twice"],
  ["c7030291c0c0", "a Set with bytes after its array"],
  ["d40301", "a BigInt of extension 3 that fits 64 bits"],
  ["c70a0300010000000000000000", "a BigInt of extension 3 that is longer than it must be"],
  ["d5040601", "a typed array of half an element"],
  ["d5042001", "a typed array of an unknown kind"],
  ["c70004", "a typed array without its kind"],
  ["d5050061", "a string of extension 5 without an unpaired surrogate"],
  ["d40500", "a string of extension 5 of half a unit"],
  ["d4ff00", "a timestamp of one byte"],
  ["c1", "a byte that no value begins with"],
  ["", "nothing"],
  ["c0c0", "bytes after the value"],
  ["91", "an array without its element"],
  ["a2c328", "invalid UTF-8"],
  ["a3eda080", "a surrogate in UTF-8"],
  ["a2c080", "an overlong form in UTF-8"],
  ["dfffffffff", "a length past the end"],
  ["82a16101a16102", "a key twice"],
  ["8101c0", "a key that is no string"],
  ["c7016300", "an extension that is not defined"],
  ["d40002", "undefined with other data"],
  ["d6ff", "a timestamp that is cut"],
  ["d7ffee6b280000000000", "a timestamp with more than 999999999 ns"],
  [`${"91".repeat(101)}c0`, "101 levels"],
];

/** @returns null inside so many arrays. */
function nested(levels: number): unknown {
  return levels === 0 ? null : [nested(levels - 1)];
}

/** @returns The whole file. */
export function makeVectors(): VectorFile {
  const dataKeys = Array.from({ length: 4 }, () => draw(32));
  return {
    notes: VECTOR_NOTES,
    derive: dataKeys.map((dataKey) => {
      const { commitment, sealingKey } = deriveKeys(dataKey);
      return {
        dataKey: toHex(dataKey),
        commitment: toHex(commitment),
        keyId: toHex(commitment.subarray(0, 12)),
        sealingKey: toHex(sealingKey),
        indexKey: toHex(deriveIndexKey(dataKey)),
      };
    }),
    storedId: ["0123456789abcdef", "é".repeat(8), "x".repeat(512), sessionId()].map((id) => ({
      sessionId: id,
      storedId: storedIdOf(id) as string,
    })),
    index: [
      ["", "principal", "123"],
      ["eu", "principal", "123"],
      ["eu", "principal", "ñandú"],
      ["", "", ""],
    ].map(([namespace, name, value], i) => ({
      dataKey: toHex(dataKeys[i] as Uint8Array),
      ...({ namespace, name, value } as { namespace: string; name: string; value: string }),
      entry: toHex(
        blindIndexEntry(
          backend.importKey(deriveIndexKey(dataKeys[i] as Uint8Array)),
          namespace as string,
          name as string,
          value as string,
        ),
      ),
    })),
    record: recordVectors(),
    current: currentVectors(),
    payload: PAYLOADS.map(([bytes, expected]) =>
      typeof expected === "string" ? { bytes, reject: expected } : { bytes, value: toVectorValue(expected.value) },
    ),
    envelope: envelopeVectors(),
  };
}

function recordVectors(): RecordVector[] {
  const record: KeyRecord = {
    commitment: draw(32),
    activatesAt: NOW,
    state: RecordState.enabled,
    wraps: [
      { kms: "aws:eu-west-1", wrapped: draw(48) },
      { kms: "local", wrapped: draw(73) },
    ],
  };
  const good = [
    record,
    { ...record, state: RecordState.revoked },
    { ...record, state: RecordState.retired, wraps: [] },
  ];
  const time = BigInt(NOW);
  const wraps = [["local", Uint8Array.from(draw(73))]];
  const { commitment } = record;
  const bad: [string, unknown][] = [
    ["version 2", [2, commitment, time, 0, wraps]],
    ["commitment of 31 bytes", [1, commitment.subarray(0, 31), time, 0, wraps]],
    ["time as a float", [1, commitment, NOW, 0, wraps]],
    ["time after the year 9999", [1, commitment, 253_402_300_800_000n, 0, wraps]],
    ["state 3", [1, commitment, time, 3, wraps]],
    ["enabled without wraps", [1, commitment, time, 0, []]],
    ["a KMS twice", [1, commitment, time, 0, [...wraps, ...wraps]]],
    ["empty KMS name", [1, commitment, time, 0, [["", Uint8Array.of(1)]]]],
    ["empty wrapped key", [1, commitment, time, 0, [["local", new Uint8Array(0)]]]],
    ["six elements", [1, commitment, time, 0, wraps, 0]],
  ];
  return [
    ...good.map((value) => ({
      ring: "web",
      record: toHex(encodeRecord(value)),
      ok: {
        commitment: toHex(value.commitment),
        activatesAt: value.activatesAt,
        state: value.state,
        kmsNames: value.wraps.map(({ kms }) => kms),
        context: { ...encryptionContext("web", value.activatesAt) },
      },
    })),
    ...bad.map(([reject, value]) => ({ ring: "web", record: toHex(encode(value)), reject })),
    { ring: "web", record: `${toHex(encodeRecord(record))}00`, reject: "a byte after the record" },
  ];
}

function currentVectors(): NonNullable<VectorFile["current"]> {
  const hour = 3_600_000;
  const policy = { maxSealingAgeMs: 48 * hour };
  const record = (activatesAt: number, state: KeyRecord["state"] = 0): KeyRecord => ({
    commitment: draw(32),
    activatesAt,
    state,
    wraps: [{ kms: "local", wrapped: draw(73) }],
  });
  const cases = [
    [],
    [record(NOW - hour), record(NOW - 2 * hour)],
    [record(NOW), record(NOW + 1)],
    [record(NOW - 48 * hour)],
    [record(NOW - 48 * hour - 1)],
    [record(NOW - hour), record(NOW - hour), record(NOW - hour)],
    [record(NOW - hour), record(NOW - 1, 1)],
  ];
  return cases.map((records) => {
    const chosen = chooseCurrent(records, NOW, policy);
    const current = chosen === undefined ? null : Buffer.from(keyIdOf(chosen), "base64url").toString("hex");
    return { records: records.map((entry) => toHex(encodeRecord(entry))), now: NOW, policy, current };
  });
}

function envelopeVectors(): EnvelopeVector[] {
  const vectors: EnvelopeVector[] = [];
  const ok = (
    name: string,
    value: unknown,
    options: Partial<SealPayloadOptions> = {},
    namespace = "",
    purpose = "session",
  ) => {
    const vector = sealVector(name, value, options, namespace, purpose);
    vectors.push(vector);
    return vector;
  };
  for (const [name, value] of VALUES) ok(name, value);
  const plain = vectors[0] as EnvelopeVector;
  ok("namespace", VALUES[0]?.[1], {}, "eu");
  ok("namespace beyond ASCII", VALUES[0]?.[1], {}, "tenant-ñ");
  ok("purpose shapes", new Uint8Array([0x90]), {}, "", "shapes");
  const notAfter = ok("not-after", VALUES[0]?.[1], { notAfter: NOT_AFTER });
  ok("not-after at its last second", VALUES[0]?.[1], { notAfter: NOW / 1000 + 1 });
  ok("not-after as late as possible", VALUES[0]?.[1], { notAfter: 0xffff_ffff });
  const bound = ok("client-bound", VALUES[0]?.[1], { clientBound: true });
  ok("client-bound with not-after", VALUES[0]?.[1], { clientBound: true, notAfter: NOT_AFTER });
  const inline = ok("inline key", VALUES[0]?.[1], { inlineRecord: new Uint8Array(1) });
  ok("inline key with not-after", VALUES[0]?.[1], { inlineRecord: new Uint8Array(1), notAfter: NOT_AFTER });
  return [...vectors, ...refusals(plain, notAfter, bound, inline)];
}

/** `inlineRecord` stands for the record of the vector's own key, `clientBound` for a session id of its own. */
function sealVector(
  name: string,
  value: unknown,
  options: Partial<SealPayloadOptions>,
  namespace: string,
  purpose: string,
): EnvelopeVector {
  const [dataKey, otherKey] = [draw(32), draw(32)];
  const client = sessionId();
  const id = storedIdOf(client) as string;
  const { commitment, sealingKey } = deriveKeys(dataKey);
  const record = {
    commitment,
    activatesAt: NOW,
    state: RecordState.enabled,
    wraps: [{ kms: "list", wrapped: dataKey }],
  };
  const info = utf8(`sealed-session/v1/client${client}`);
  const plaintext = encode(value);
  const sealed = sealPayload(plaintext, {
    ...options,
    ...(options.inlineRecord && { inlineRecord: encodeRecord(record) }),
    ...(options.clientBound && {
      sealingKey: backend.hkdfSha256(backend.importKey(sealingKey), new Uint8Array(0), info, 32),
    }),
    dataKey,
    context: [purpose, namespace, id],
    nonce: draw(24),
  });
  return {
    name,
    keys: [toHex(otherKey), toHex(dataKey)],
    purpose,
    namespace,
    id,
    now: NOW,
    envelope: toHex(sealed.envelope),
    ...(options.clientBound && { sessionId: client }),
    ok: {
      commitment: toHex(commitment),
      sealingKey: toHex(sealed.sealingKey),
      aesKey: toHex(sealed.aesKey),
      aad: toHex(sealed.aad),
      plaintext: toHex(plaintext),
      value: toVectorValue(value),
    },
  };
}

function refusals(
  plain: EnvelopeVector,
  notAfter: EnvelopeVector,
  bound: EnvelopeVector,
  inline: EnvelopeVector,
): EnvelopeVector[] {
  type Stage = NonNullable<EnvelopeVector["reject"]>["stage"];
  const list: EnvelopeVector[] = [];
  const add = (of: EnvelopeVector, mutation: string, stage: Stage, change: Partial<EnvelopeVector>) => {
    const { ok: _, ...rest } = of;
    list.push({ ...rest, ...change, name: `${of.name}: ${mutation}`, reject: { of: of.name, mutation, stage } });
  };
  const edit = (of: EnvelopeVector, change: (bytes: Uint8Array) => Uint8Array | undefined) => {
    const bytes = hex(of.envelope);
    return { envelope: toHex(change(bytes) ?? bytes) };
  };
  const xor = (of: EnvelopeVector, at: number, mask: number) =>
    edit(of, (bytes) => bytes.map((byte, i) => (i === at ? byte ^ mask : byte)));
  const stageOf = (at: number): Stage => (at < 2 ? "parse" : at < 14 ? "key" : "open");

  for (let at = 0; at < 42; at++) {
    add(notAfter, `header byte ${at} changed`, stageOf(at), xor(notAfter, at, at === 1 ? 0x10 : 0x01));
  }
  for (const [flag, name] of [
    [1, "INLINE_KEY"],
    [4, "SHAPES"],
  ] as const) {
    add(plain, `flag ${name} set`, "parse", xor(plain, 1, flag));
  }
  add(plain, "flag NOT_AFTER set", "open", xor(plain, 1, 2));
  add(plain, "flag CLIENT_BOUND set", "open", { ...xor(plain, 1, 8), sessionId: sessionId() });
  add(notAfter, "flag NOT_AFTER cleared", "open", xor(notAfter, 1, 2));
  add(bound, "flag CLIENT_BOUND cleared", "open", xor(bound, 1, 8));
  add(bound, "another client", "open", { sessionId: sessionId() });
  add(
    plain,
    "version 0",
    "parse",
    edit(plain, (bytes) => void bytes.set([0x00], 1)),
  );
  add(
    plain,
    "version 15",
    "parse",
    edit(plain, (bytes) => void bytes.set([0xf0], 1)),
  );
  add(plain, "JSON", "parse", { envelope: toHex(utf8('{"user_id":123,"roles":["admin"],"created_at":1732300000}')) });
  for (const length of [0, 1, 2, 13, 14, 37, 38, 39, 54]) {
    add(
      plain,
      `cut to ${length} bytes`,
      "parse",
      edit(plain, (bytes) => bytes.subarray(0, length)),
    );
  }
  for (const [cut, stage] of [
    [1, "open"],
    [15, "open"],
    [16, "open"],
  ] as const) {
    add(
      plain,
      `${cut} bytes cut off the end`,
      stage,
      edit(plain, (bytes) => bytes.subarray(0, bytes.length - cut)),
    );
  }
  add(
    plain,
    "a byte more",
    "open",
    edit(plain, (bytes) => Uint8Array.of(...bytes, 0)),
  );
  add(plain, "first byte of the ciphertext changed", "open", xor(plain, 38, 1));
  add(plain, "last byte of the tag changed", "open", xor(plain, hex(plain.envelope).length - 1, 0x80));
  add(plain, "another id", "open", { id: storedIdOf(sessionId()) as string });
  add(plain, "another namespace", "open", { namespace: "eu" });
  add(plain, "another purpose", "open", { purpose: "shapes" });
  add(plain, "namespace and id shifted", "open", { namespace: plain.id.slice(0, 1), id: plain.id.slice(1) });
  add(plain, "the key is not held", "key", { keys: [plain.keys[0] as string] });
  add(plain, "the key of another ring", "key", { keys: [toHex(draw(32))] });
  add(notAfter, "at the second of its end", "expired", { now: NOT_AFTER * 1000 });
  add(notAfter, "long after its end", "expired", { now: NOT_AFTER * 1000 + 1e10 });

  const recordAt = 38 + 2;
  add(
    inline,
    "record of length 0",
    "parse",
    edit(inline, (bytes) => void bytes.set([0, 0], 38)),
  );
  add(
    inline,
    "record longer than 8192 bytes",
    "parse",
    edit(inline, (bytes) => void bytes.set([0x20, 0x01], 38)),
  );
  add(
    inline,
    "record past the end",
    "parse",
    edit(inline, (bytes) => void bytes.set([0x1f, 0xff], 38)),
  );
  add(inline, "record that is none", "open", xor(inline, recordAt, 0x01));
  add(inline, "record of another key id", "open", xor(inline, recordAt + 4, 0x01));
  add(inline, "record whose commitment is not the key's", "open", xor(inline, recordAt + 4 + 31, 0x01));

  // Sealed around a record that does not fit: the tag verifies, and only the checks of 3.5 are left to refuse.
  const [otherKey, inlineKey] = inline.keys as [string, string];
  const recordOf = (commitment: Uint8Array) =>
    encodeRecord({
      commitment,
      activatesAt: NOW,
      state: RecordState.enabled,
      wraps: [{ kms: "list", wrapped: hex(inlineKey) }],
    });
  const { commitment } = deriveKeys(hex(inlineKey));
  const misfits: [string, Stage, Uint8Array][] = [
    ["a record that is none", "parse", Uint8Array.of(0xc0)],
    ["a record with a byte after it", "parse", Uint8Array.of(...recordOf(commitment), 0)],
    ["a record of another key id", "key", recordOf(deriveKeys(hex(otherKey)).commitment)],
    [
      "a record whose commitment differs after the key id",
      "key",
      recordOf(commitment.map((byte, i) => (i < 12 ? byte : byte ^ 1))),
    ],
  ];
  for (const [mutation, stage, inlineRecord] of misfits) {
    const sealed = sealPayload(hex((inline.ok as { plaintext: string }).plaintext), {
      dataKey: hex(inlineKey),
      inlineRecord,
      context: [inline.purpose, inline.namespace, inline.id],
      nonce: draw(24),
    });
    add(inline, `sealed with ${mutation}`, stage, { envelope: toHex(sealed.envelope) });
  }
  const { sessionId: _, ...withoutClient } = bound;
  add(withoutClient, "without the client's session id", "parse", {});

  // The key id is right, the sealing key is another data key's: what AES-GCM alone would let somebody arrange.
  const { envelope } = sealPayload(hex((plain.ok as { plaintext: string }).plaintext), {
    dataKey: hex(plain.keys[1] as string),
    sealingKey: deriveKeys(hex(plain.keys[0] as string)).sealingKey,
    context: [plain.purpose, plain.namespace, plain.id],
    nonce: draw(24),
  });
  add(plain, "sealed under another key than it names", "open", { envelope: toHex(envelope) });
  for (const [bytes, expected] of PAYLOADS) {
    if (typeof expected !== "string" || bytes === "") continue;
    const sealed = sealPayload(hex(bytes), {
      dataKey: hex(plain.keys[1] as string),
      context: [plain.purpose, plain.namespace, plain.id],
      nonce: draw(24),
    });
    add(plain, `payload with ${expected}`, "decode", { envelope: toHex(sealed.envelope) });
  }
  return list;
}
