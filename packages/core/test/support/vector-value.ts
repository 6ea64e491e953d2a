/** Values that JSON cannot hold, as the tagged objects of the vector files: see the `notes` in each. */

/** @returns The value in a form for JSON. */
export function toVectorValue(value: unknown): unknown {
  if (typeof value === "string")
    return value.isWellFormed() ? value : { $utf16: Buffer.from(value, "utf16le").swap16().toString("hex") };
  if (typeof value === "bigint") return { $bigint: value.toString() };
  if (typeof value === "number" && (!Number.isFinite(value) || Object.is(value, -0)))
    return { $number: Object.is(value, -0) ? "-0" : String(value) };
  if (value === undefined) return { $undefined: true };
  if (value instanceof Date) return { $date: value.getTime() };
  if (value instanceof Map) return { $map: [...value].map((entry) => entry.map(toVectorValue)) };
  if (value instanceof Set) return { $set: [...value].map(toVectorValue) };
  if (ArrayBuffer.isView(value)) {
    const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("hex");
    return value.constructor === Uint8Array ? { $bytes: bytes } : { $typed: value.constructor.name, bytes };
  }
  if (Array.isArray(value))
    return Array.from(value, (item, index) => (index in value ? toVectorValue(item) : { $hole: true }));
  if (typeof value === "object" && value !== null) {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, toVectorValue(item)]));
  }
  return value;
}

/** The explanation for the files. */
export const VECTOR_NOTES = [
  "Binary is hex. Clauses are those of docs/envelope-format.md.",
  'Tagged values: {"$bigint": decimal}, {"$number": "NaN" | "Infinity" | "-Infinity" | "-0"}, {"$undefined": true}, {"$hole": true} (array element that is not there),',
  '{"$date": ms since 1970-01-01T00:00:00Z}, {"$map": [[key, value], …]}, {"$set": [value, …]}, {"$bytes": hex} (MessagePack bin), {"$typed": constructor, "bytes": hex} (extension 4),',
  '{"$utf16": hex, big-endian} (a string with unpaired surrogates, extension 5).',
  "An integer in a 64-bit MessagePack form is a BigInt, whatever its size.",
].join(" ");
