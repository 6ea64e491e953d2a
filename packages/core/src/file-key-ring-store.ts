/**
 * A key ring store in a directory: for a single machine, or as the ring's second place on a volume that several share.
 *
 * A ring is one JSON file per generation, `ring-<name>.<generation>.json`, and the highest generation is the ring. A writer makes
 * the next one aside (mode 0600), flushes it and links it into place with link(2), which fails if somebody else was faster: an
 * atomic compare-and-set between processes, and between machines that share the volume. A lock file would need somebody to
 * decide that its holder is dead, and process ids say nothing across containers. No file is ever changed or overwritten.
 */
import { type FileHandle, link, open, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { backend } from "#backend";
import { requireUtf8 } from "./argument.js";
import { utf8 } from "./bytes.js";
import { SealedSessionError } from "./errors.js";
import {
  isKeyId,
  type KeyRingStore,
  mayWrite,
  requireRing,
  requireWrite,
  type StoredKeyRecord,
  type WriteKeyRecordOptions,
  type WriteKeyRecordResult,
} from "./key-ring-store.js";

const FILE_VERSION = 1;
/** A ring holds a handful of records of at most 8 KiB. */
const MAX_FILE_BYTES = 16 * 1024 * 1024;
const GENERATION_DIGITS = 10;
/** Older ones are removed. Many are kept because a directory listing may miss what changes meanwhile. */
const KEPT_GENERATIONS = 16;
/** Times that a reader or writer begins anew because somebody else was faster. */
const ATTEMPTS = 100;
/** A file name has at most 255 bytes; longer names of rings end in a digest. */
const MAX_ENCODED_LENGTH = 180;
const ENCODED_PREFIX_LENGTH = 100;

/** Options of {@link fileKeyRingStore}. */
export interface FileKeyRingStoreOptions {
  /**
   * Path of a directory that exists. It is not made: a volume that is not mounted must not look like an empty ring. Its file
   * system needs hard links.
   */
  readonly directory: string;
  /**
   * The store's clock: milliseconds since 1970-01-01T00:00:00Z.
   *
   * @defaultValue Date.now
   */
  readonly clock?: () => number;
}

/**
 * Keeps rings in a directory. Rejects with `STORE_UNAVAILABLE` when the directory is missing, the file system fails, or the newest
 * file of a ring is damaged; that file is then left as it is, and no write goes past it.
 *
 * @throws TypeError or RangeError when an option is wrong.
 */
export function fileKeyRingStore({ directory, clock = Date.now }: FileKeyRingStoreOptions): KeyRingStore {
  requireUtf8("directory", directory, 1, 4096);
  if (typeof clock !== "function") throw new TypeError("clock must be a function");
  return new FileKeyRingStore(directory, clock);
}

/** What a ring was when it was read. */
interface Head {
  /** 0 for a ring without a file. */
  readonly generation: number;
  readonly records: ReadonlyMap<string, Uint8Array>;
}

class FileKeyRingStore implements KeyRingStore {
  readonly #directory: string;
  readonly #clock: () => number;

  constructor(directory: string, clock: () => number) {
    this.#directory = directory;
    this.#clock = clock;
  }

  async read(ring: string): Promise<readonly StoredKeyRecord[]> {
    requireRing(ring);
    const { records } = await orUnavailable("read", () => this.#head(ring));
    return [...records].map(([keyId, record]) => ({ keyId, record }));
  }

  async write(
    ring: string,
    keyId: string,
    record: Uint8Array,
    options: WriteKeyRecordOptions = {},
  ): Promise<WriteKeyRecordResult> {
    requireWrite(ring, keyId, record, options);
    const bytes = new Uint8Array(record);
    return await orUnavailable("written", () => this.#write(ring, keyId, bytes, options));
  }

  async now(): Promise<number> {
    return this.#clock();
  }

  async #write(ring: string, keyId: string, record: Uint8Array, options: WriteKeyRecordOptions) {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const head = await this.#head(ring);
      if (!mayWrite(head.records, keyId, record, options)) return { written: false, durable: false };
      const there = head.records.get(keyId);
      const done =
        there !== undefined && Buffer.compare(there, record) === 0
          ? await this.#flush(ring, head.generation)
          : await this.#advance(ring, head.generation + 1, new Map(head.records).set(keyId, record));
      if (done) return { written: true, durable: true };
    }
    throw unavailable(`other processes kept writing: given up after ${ATTEMPTS} attempts`);
  }

  /** Reads the newest generation. */
  async #head(ring: string): Promise<Head> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      const generation = Math.max(0, ...(await this.#generations(ring)));
      if (generation === 0) return { generation, records: new Map() };
      const text = await readText(this.#path(ring, generation));
      // Gone: removed by writers who have come further meanwhile.
      if (text !== undefined) return { generation, records: parseRing(ring, text, fileName(ring, generation)) };
    }
    throw unavailable(`other processes kept writing: given up after ${ATTEMPTS} attempts`);
  }

  async #generations(ring: string): Promise<number[]> {
    const prefix = `${encodeRing(ring)}.`;
    const names = await readdir(this.#directory);
    return names.flatMap((name) => {
      const digits = name.startsWith(prefix) ? /^(\d+)\.json$/.exec(name.slice(prefix.length))?.[1] : undefined;
      return digits?.length === GENERATION_DIGITS ? [Number(digits)] : [];
    });
  }

  /** @returns `false` when somebody else has made this generation or a later one: the caller reads again. */
  async #advance(ring: string, generation: number, records: ReadonlyMap<string, Uint8Array>): Promise<boolean> {
    const draft = join(this.#directory, `${encodeRing(ring)}.${globalThis.crypto.randomUUID()}.new`);
    try {
      await writeFlushed(draft, formatRing(ring, records));
      await link(draft, this.#path(ring, generation));
    } catch (error) {
      if (isErrno(error, "EEXIST")) return false;
      throw error;
    } finally {
      await rm(draft, { force: true });
    }
    await flushDirectory(this.#directory);
    const generations = await this.#generations(ring);
    // Whoever stands still for long enough can link a generation that has been and gone. It never counts, so: read again.
    if (Math.max(...generations) >= generation + KEPT_GENERATIONS) return false;
    const old = generations.filter((other) => other <= generation - KEPT_GENERATIONS);
    await Promise.all(old.map((other) => rm(this.#path(ring, other), { force: true })));
    return true;
  }

  /** Makes sure that what was read is on disk: whoever linked it may have died before it flushed the directory. */
  async #flush(ring: string, generation: number): Promise<boolean> {
    // Windows flushes only what is open for writing.
    const file = await openIfThere(this.#path(ring, generation), "r+");
    if (file === undefined) return false;
    await flushAndClose(file);
    await flushDirectory(this.#directory);
    return true;
  }

  #path(ring: string, generation: number): string {
    return join(this.#directory, fileName(ring, generation));
  }
}

function fileName(ring: string, generation: number): string {
  return `${encodeRing(ring)}.${String(generation).padStart(GENERATION_DIGITS, "0")}.json`;
}

/** One name for each ring also where the file system ignores case, and none with a meaning of its own. */
function encodeRing(ring: string): string {
  const encoded = Buffer.from(ring)
    .toString("latin1")
    .replace(/[^a-z0-9_-]/g, percent);
  if (encoded.length <= MAX_ENCODED_LENGTH) return `ring-${encoded}`;
  const digest = Buffer.from(backend.sha256(utf8(ring))).toString("hex");
  return `ring-${encoded.slice(0, ENCODED_PREFIX_LENGTH)}~${digest}`;
}

function percent(character: string): string {
  return `%${character.charCodeAt(0).toString(16).padStart(2, "0")}`;
}

function formatRing(ring: string, records: ReadonlyMap<string, Uint8Array>): string {
  const entries = [...records].map(([keyId, record]) => [keyId, Buffer.from(record).toString("base64")]);
  return `${JSON.stringify({ version: FILE_VERSION, ring, records: Object.fromEntries(entries) }, undefined, 2)}\n`;
}

function parseRing(ring: string, text: string, name: string): ReadonlyMap<string, Uint8Array> {
  const records = new Map<string, Uint8Array>();
  const file: unknown = parseJson(text);
  if (!isObject(file) || file["version"] !== FILE_VERSION || file["ring"] !== ring || !isObject(file["records"])) {
    throw damaged(name);
  }
  for (const [keyId, base64] of Object.entries(file["records"])) {
    const record = typeof base64 === "string" ? Buffer.from(base64, "base64") : Buffer.alloc(0);
    if (!isKeyId(keyId) || record.length === 0 || record.toString("base64") !== base64) throw damaged(name);
    records.set(keyId, new Uint8Array(record));
  }
  return records;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

async function readText(path: string): Promise<string | undefined> {
  const file = await openIfThere(path, "r");
  if (file === undefined) return undefined;
  try {
    if ((await file.stat()).size > MAX_FILE_BYTES)
      throw unavailable(`a file of the ring exceeds ${MAX_FILE_BYTES} bytes`);
    return await file.readFile("utf8");
  } finally {
    await file.close();
  }
}

async function openIfThere(path: string, flags: "r" | "r+"): Promise<FileHandle | undefined> {
  try {
    return await open(path, flags);
  } catch (error) {
    if (isErrno(error, "ENOENT")) return undefined;
    throw error;
  }
}

async function writeFlushed(path: string, text: string): Promise<void> {
  const file = await open(path, "wx", 0o600);
  try {
    await file.writeFile(text);
  } catch (error) {
    await file.close();
    throw error;
  }
  await flushAndClose(file);
}

/** Without it a new name may be lost with the machine. Windows flushes no directories. */
async function flushDirectory(directory: string): Promise<void> {
  if (process.platform !== "win32") await flushAndClose(await open(directory, "r"));
}

async function flushAndClose(file: FileHandle): Promise<void> {
  try {
    await file.sync();
  } finally {
    await file.close();
  }
}

async function orUnavailable<T>(what: "read" | "written", task: () => Promise<T>): Promise<T> {
  try {
    return await task();
  } catch (cause) {
    if (cause instanceof SealedSessionError) throw cause;
    const reason = isErrno(cause, "ENOENT") ? "the directory does not exist" : "the file system failed";
    throw unavailable(`it cannot be ${what}: ${reason}`, cause);
  }
}

function damaged(name: string): SealedSessionError {
  return unavailable(
    `the file ${name} is damaged: put back a good copy, or move it away to go back to the one before it`,
  );
}

function unavailable(reason: string, cause?: unknown): SealedSessionError {
  return new SealedSessionError(
    "STORE_UNAVAILABLE",
    `key ring in files: ${reason}`,
    cause === undefined ? {} : { cause },
  );
}

function isErrno(error: unknown, code: string): boolean {
  return typeof error === "object" && error !== null && "code" in error && error.code === code;
}
