/**
 * Names of keys (format 5.7) and the checks of what becomes part of one. Braces are refused everywhere: Redis Cluster would take
 * what stands between them for the name of the slot.
 */
import { MAX_TTL_MS } from "@sealed-session/core";

const MAX_NAMESPACE_BYTES = 128;
const MAX_STORED_ID_BYTES = 512;
const MAX_RING_BYTES = 128;
const MAX_RECORD_BYTES = 8192;
const MAX_TIMEOUT_MS = 3_600_000;
/** Ids that need no further look: those that we make. */
const PLAIN_ID = /^[\w-]{1,512}$/;
const KEY_ID = /^[\w-]{16}$/;

/** @returns `session:` in its namespace: what stands before a stored id. */
export function sessionPrefix(namespace: string | undefined): string {
  return `${namespacePrefix(namespace)}session:`;
}

/** @returns `session-keys:` in its namespace: what stands before the name of a ring. */
export function ringPrefix(namespace: string | undefined): string {
  return `${namespacePrefix(namespace)}session-keys:`;
}

/** @returns whether `text` may be a stored id. */
export function isStoredId(text: string): boolean {
  return PLAIN_ID.test(text) || nameProblem(text, MAX_STORED_ID_BYTES) === undefined;
}

/** @throws TypeError or RangeError when `storedId` cannot be part of a key. */
export function requireStoredId(storedId: string): void {
  if (typeof storedId !== "string" || !PLAIN_ID.test(storedId)) requireName("storedId", storedId, MAX_STORED_ID_BYTES);
}

/** @throws TypeError or RangeError when `ring` cannot be part of a key. */
export function requireRing(ring: string): void {
  requireName("ring", ring, MAX_RING_BYTES);
}

/** @returns whether `text` is a key id: 12 bytes in base64url. */
export function isKeyId(text: unknown): text is string {
  return typeof text === "string" && KEY_ID.test(text);
}

/** @throws RangeError when `keyId` is no key id. */
export function requireKeyId(field: string, keyId: unknown): void {
  if (!isKeyId(keyId)) throw new RangeError(`${field} must be 12 bytes in base64url`);
}

/** @returns the same bytes as a Buffer: ioredis turns any other array into text. */
export function requireEnvelope(field: string, envelope: Uint8Array): Buffer {
  return requireBytes(field, envelope, Number.POSITIVE_INFINITY);
}

/** @returns the same bytes as a Buffer. */
export function requireRecord(field: string, record: Uint8Array): Buffer {
  return requireBytes(field, record, MAX_RECORD_BYTES);
}

/** @returns `ttlMs`, a time to live in milliseconds. */
export function requireTtl(field: string, ttlMs: number): number {
  return requireInteger(field, ttlMs, MAX_TTL_MS);
}

/** @returns `timeoutMs`, from 1 ms to an hour. */
export function requireTimeout(field: string, timeoutMs: number): number {
  return requireInteger(field, timeoutMs, MAX_TIMEOUT_MS);
}

/** @returns a pattern for MATCH that stands for the text itself. */
export function escapeGlob(text: string): string {
  return text.replace(/[*?[\]\\]/g, "\\$&");
}

function namespacePrefix(namespace = ""): string {
  if (namespace === "") return "";
  requireName("namespace", namespace, MAX_NAMESPACE_BYTES);
  // "session:session:…" would look like ids of the store that has no namespace.
  if (namespace.split(":").includes("session")) throw new RangeError('namespace must not hold "session" as a part');
  return `${namespace}:`;
}

function requireName(field: string, name: unknown, maxBytes: number): void {
  if (typeof name !== "string") throw new TypeError(`${field} must be a string`);
  const problem = nameProblem(name, maxBytes);
  if (problem !== undefined) throw new RangeError(`${field} must ${problem}`);
}

function nameProblem(name: string, maxBytes: number): string | undefined {
  if (!name.isWellFormed()) return "be well-formed Unicode";
  const length = Buffer.byteLength(name);
  if (length < 1 || length > maxBytes) return `have 1 to ${maxBytes} bytes of UTF-8`;
  return /[{}]/.test(name) ? "not hold braces" : undefined;
}

function requireBytes(field: string, bytes: Uint8Array, maxBytes: number): Buffer {
  if (!(bytes instanceof Uint8Array)) throw new TypeError(`${field} must be a Uint8Array`);
  if (bytes.length === 0) throw new RangeError(`${field} must not be empty`);
  if (bytes.length > maxBytes) throw new RangeError(`${field} must have at most ${maxBytes} bytes`);
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function requireInteger(field: string, value: number, max: number): number {
  if (typeof value !== "number") throw new TypeError(`${field} must be a number`);
  if (!Number.isInteger(value) || value < 1 || value > max) {
    throw new RangeError(`${field} must be an integer from 1 to ${max}`);
  }
  return value;
}
