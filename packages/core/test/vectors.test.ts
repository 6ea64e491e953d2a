import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { backend } from "#backend";
import { deriveAesKey } from "../src/aead.js";
import { blindIndexEntry } from "../src/blind-index.js";
import { decode, encode } from "../src/codec.js";
import { chooseCurrent } from "../src/current-key.js";
import { decodeRecord, deriveIndexKey, deriveKeys, keyIdOf } from "../src/data-key.js";
import { parseEnvelope } from "../src/envelope.js";
import { encryptionContext } from "../src/kms-set.js";
import { storedIdOf } from "../src/session-id.js";
import { codeThrown } from "./support/fixture.js";
import { makeVectors } from "./support/make-vectors.js";
import { sealPayload } from "./support/seal-payload.js";
import type { EnvelopeVector, VectorFile } from "./support/vector-file.js";
import { openVector } from "./support/vector-reader.js";
import { toVectorValue } from "./support/vector-value.js";
import { hex, readVectors, toHex } from "./support/vectors.js";

const ours = readVectors<VectorFile>("envelope-v1.json");
const theirs = readVectors<VectorFile>("envelope_v1_second_implementation.json");

describe("the published file", () => {
  it("is what this code makes", async () => {
    const path = fileURLToPath(new URL("../../../test/vectors/envelope-v1.json", import.meta.url));
    await expect(`${JSON.stringify(makeVectors(), null, 1)}\n`).toMatchFileSnapshot(path);
  });

  it("has at least 60 envelopes, half of them refusals, of every stage", () => {
    const refusals = ours.envelope.filter(({ reject }) => reject !== undefined);
    expect(ours.envelope.length).toBeGreaterThanOrEqual(60);
    expect(refusals.length).toBeGreaterThanOrEqual(ours.envelope.length / 2);
    const stages = new Set(refusals.map(({ reject }) => reject?.stage));
    expect([...stages].sort()).toEqual(["decode", "expired", "key", "open", "parse"]);
  });
});

describe("the file of the second implementation", () => {
  it("has 307 entries", () => {
    expect(theirs.derive.length + theirs.storedId.length + theirs.index.length + theirs.envelope.length).toBe(307);
  });

  it("has no more envelopes that need shapes than the three that are not read yet", () => {
    const shaped = theirs.envelope.filter((vector) => vector.ok !== undefined && needsShapes(vector));
    expect(shaped.map(({ name }) => name)).toEqual(["shapes root", "shapes in array", "shapes in map"]);
  });
});

describe.each([
  ["the published file", ours],
  ["the second implementation's file", theirs],
])("%s", (_, file) => {
  it.each(file.derive)("derives commitment, key id, sealing key and index key of $dataKey (1.2, 1.3)", (vector) => {
    const { commitment, sealingKey } = deriveKeys(hex(vector.dataKey));
    expect(toHex(commitment)).toBe(vector.commitment);
    expect(toHex(commitment.subarray(0, 12))).toBe(vector.keyId);
    expect(toHex(sealingKey)).toBe(vector.sealingKey);
    expect(toHex(deriveIndexKey(hex(vector.dataKey)))).toBe(vector.indexKey);
  });

  it.each(file.storedId)("digests a session id to $storedId (4.3)", ({ sessionId, storedId }) => {
    expect(storedIdOf(sessionId)).toBe(storedId);
  });

  it.each(file.index)("makes the blind index entry $entry (1.4)", ({ dataKey, namespace, name, value, entry }) => {
    const indexKey = backend.importKey(deriveIndexKey(hex(dataKey)));
    expect(toHex(blindIndexEntry(indexKey, namespace, name, value))).toBe(entry);
  });

  const opening = file.envelope.filter((vector) => vector.ok !== undefined && !needsShapes(vector));
  it.each(opening)("opens $name", async (vector) => {
    const { ok } = vector as { ok: NonNullable<EnvelopeVector["ok"]> };
    const value = await openVector(vector);
    expect(comparable(value, ok.value)).toEqual(ok.value);

    const bytes = hex(vector.envelope);
    const envelope = parseEnvelope(bytes);
    if (envelope === undefined) throw new Error("not parsed");
    const dataKey = vector.keys.find((key) => toHex(deriveKeys(hex(key)).commitment) === ok.commitment) as string;
    expect(toHex(deriveAesKey(backend, backend.importKey(hex(ok.sealingKey)), envelope.nonce))).toBe(ok.aesKey);
    expect(toHex(encode(value))).toBe(ok.plaintext);
    const again = sealPayload(hex(ok.plaintext), {
      ...envelope,
      dataKey: hex(dataKey),
      sealingKey: hex(ok.sealingKey),
      context: [vector.purpose, vector.namespace, vector.id],
    });
    expect(toHex(again.envelope)).toBe(vector.envelope);
    expect(toHex(again.aad)).toBe(ok.aad);
  });

  const refused = file.envelope.filter(({ reject }) => reject !== undefined);
  it.each(refused)("refuses $name", async (vector) => {
    const code = vector.reject?.stage === "expired" ? "ENVELOPE_EXPIRED" : "ENVELOPE_REJECTED";
    expect(await codeThrown(openVector(vector))).toBe(code);
  });

  it("was read to the last entry", () => {
    const shaped = file.envelope.filter((vector) => vector.ok !== undefined && needsShapes(vector));
    expect(opening.length + refused.length + shaped.length).toBe(file.envelope.length);
  });
});

describe("key records of the published file (5.1, 5.2)", () => {
  it.each(ours.record ?? [])("$reject$ok.state", ({ ring, record, ok }) => {
    const decoded = decodeRecord(hex(record));
    if (ok === undefined) return expect(decoded).toBeUndefined();
    expect(toHex(decoded?.commitment as Uint8Array)).toBe(ok.commitment);
    expect(decoded).toMatchObject({ activatesAt: ok.activatesAt, state: ok.state });
    expect(decoded?.wraps.map(({ kms }) => kms)).toEqual(ok.kmsNames);
    expect(encryptionContext(ring, ok.activatesAt)).toEqual(ok.context);
  });
});

describe("the current key in the published file (5.5)", () => {
  it.each(ours.current ?? [])("is $current", ({ records, now, policy, current }) => {
    const chosen = chooseCurrent(
      records.map((record) => decodeRecord(hex(record)) as NonNullable<ReturnType<typeof decodeRecord>>),
      now,
      policy,
    );
    expect(chosen === undefined ? null : Buffer.from(keyIdOf(chosen), "base64url").toString("hex")).toBe(current);
  });
});

describe("payloads of the published file (6.1, 6.2)", () => {
  it.each(ours.payload ?? [])("$bytes", async ({ bytes, value, reject }) => {
    if (reject !== undefined) return expect(await codeThrown(() => decode(hex(bytes)))).toBe("PAYLOAD_MALFORMED");
    expect(toVectorValue(decode(hex(bytes)))).toEqual(value);
  });
});

function needsShapes({ shapes }: EnvelopeVector): boolean {
  return shapes !== undefined;
}

/** The second file writes a 64-bit integer as a JSON number, which cannot say that it is a BigInt here. */
function comparable(value: unknown, expected: unknown): unknown {
  return typeof value === "bigint" && typeof expected === "number" ? Number(value) : toVectorValue(value);
}
