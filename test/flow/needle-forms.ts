/**
 * The forms in which a value may turn up in bytes: as it is, or as something on the way has written it down.
 */

/** How much of a text is looked for, in characters: also a copy that was cut short is a find. */
const FRAGMENT_CHARACTERS = 16;
const FRAGMENT_BYTES = 16;

const SHORT_ESCAPES = new Map([
  [0x5c, "\\\\"],
  [0x22, '\\"'],
  [0x0a, "\\n"],
  [0x0d, "\\r"],
  [0x09, "\\t"],
  [0x07, "\\a"],
  [0x08, "\\b"],
]);

/** Bytes and the name of the form that they are. */
export type Form = readonly [name: string, bytes: Buffer];

/** @returns the forms of the beginning of `value`, each once. Values should differ from their first character on. */
export function formsOf(value: string | number | Uint8Array): Form[] {
  const forms = typeof value === "string" ? formsOfText(value) : formsOfOther(value);
  const seen = new Set<string>();
  return forms.filter(([, bytes]) => {
    const name = bytes.toString("latin1");
    return !seen.has(name) && seen.add(name);
  });
}

/** @returns `bytes` as MONITOR, the log and redis-cli print them (`sdscatrepr`). */
function asRedisPrints(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes)
    text += SHORT_ESCAPES.get(byte) ?? (isPrintable(byte) ? String.fromCharCode(byte) : `\\x${hex(byte)}`);
  return text;
}

function formsOfOther(value: number | Uint8Array): Form[] {
  if (typeof value !== "number") return formsOfBytes(Buffer.from(value).subarray(0, FRAGMENT_BYTES));
  const float = Buffer.alloc(8);
  float.writeDoubleBE(value);
  const reversed = Buffer.from(float).reverse();
  return [...formsOfText(String(value)), ...formsOfBytes(float), ...formsOfBytes(reversed)];
}

function formsOfText(value: string): Form[] {
  const fragment = [...value].slice(0, FRAGMENT_CHARACTERS).join("");
  const little = Buffer.from(fragment, "utf16le");
  const percent = encodeURIComponent(fragment);
  const json = JSON.stringify(fragment).slice(1, -1);
  const asciiJson = json.replace(/[^ -~]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return [
    ...formsOfBytes(Buffer.from(fragment)),
    ["UTF-16LE", little],
    ["UTF-16BE", Buffer.from(little).swap16()],
    ["percent-encoded", Buffer.from(percent)],
    ["percent-encoded in lower case", Buffer.from(percent.replace(/%../g, (code) => code.toLowerCase()))],
    ["form-encoded", Buffer.from(new URLSearchParams([["", fragment]]).toString().slice(1))],
    ["JSON", Buffer.from(json)],
    ["JSON in ASCII", Buffer.from(asciiJson)],
  ];
}

function formsOfBytes(bytes: Buffer): Form[] {
  const texts: [string, string][] = [
    ["escaped", asRedisPrints(bytes)],
    ["hex", bytes.toString("hex")],
    ["hex in upper case", bytes.toString("hex").toUpperCase()],
    ["hex with spaces", [...bytes].map(hex).join(" ")],
    ["hex escapes", [...bytes].map((byte) => `\\x${hex(byte)}`).join("")],
    ["percent escapes", [...bytes].map((byte) => `%${hex(byte).toUpperCase()}`).join("")],
    // What becomes of a Uint8Array that somebody takes for a string, or prints.
    ["decimals", bytes.join(",")],
    ["decimals with spaces", bytes.join(", ")],
    ["JSON of an Uint8Array", JSON.stringify(new Uint8Array(bytes)).slice(0, -1)],
  ];
  for (const shift of [0, 1, 2] as const) {
    texts.push([`base64 from bit ${8 * shift}`, shiftedBase64(bytes, shift, "base64")]);
    texts.push([`base64url from bit ${8 * shift}`, shiftedBase64(bytes, shift, "base64url")]);
  }
  return [["raw", bytes], ...texts.map(([name, text]) => [name, Buffer.from(text)] as const)];
}

/** The characters that are the same whatever stands before and behind the bytes, with `shift` bytes (modulo 3) before them. */
function shiftedBase64(bytes: Buffer, shift: 0 | 1 | 2, alphabet: "base64" | "base64url"): string {
  const text = Buffer.concat([Buffer.alloc(shift), bytes]).toString(alphabet);
  return text.slice(Math.ceil((8 * shift) / 6), Math.floor((8 * (shift + bytes.length)) / 6));
}

function isPrintable(byte: number): boolean {
  return byte >= 0x20 && byte <= 0x7e;
}

function hex(byte: number): string {
  return byte.toString(16).padStart(2, "0");
}
