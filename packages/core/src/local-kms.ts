/**
 * A KMS in the process itself, for development, tests and single machines: one 32-byte key from a file or from an environment
 * variable. The blob's layout is format 5.7.
 *
 * Whoever can read that key can open every session, so a production service uses a real KMS instead.
 */
import { closeSync, fstatSync, linkSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { backend } from "#backend";
import { KEY_BYTES, NONCE_BYTES, openXaes, type RandomFill, sealXaes, TAG_BYTES } from "./aead.js";
import { requireUtf8 } from "./argument.js";
import type { SecretKey } from "./backend/backend.js";
import { base64url, concat, fromBase64url } from "./bytes.js";
import { writeContext } from "./envelope.js";
import { KmsError, SealedSessionError } from "./errors.js";
import type { EncryptionContext, Kms, KmsCallOptions } from "./kms.js";

const BLOB_VERSION = 1;
const BLOB_BYTES = 1 + NONCE_BYTES + KEY_BYTES + TAG_BYTES;
const MAX_KMS_NAME_BYTES = 64;

/** Where {@link localKms} gets its key: exactly one of `keyFile` and `keyVariable`. */
export interface LocalKmsOptions {
  /** Path of a file with the key in base64url. Created with mode 0600 and a random key when it is missing. */
  readonly keyFile?: string;
  /** Name of an environment variable with the key in base64url (43 characters, no padding). */
  readonly keyVariable?: string;
  /** Name of this KMS in key records: 1 to 64 bytes of UTF-8. @defaultValue "local" */
  readonly name?: string;
  /** Allows `NODE_ENV=production`. @defaultValue false */
  readonly allowInProduction?: boolean;
  /** Source of random bytes. @defaultValue the system's CSPRNG */
  readonly random?: RandomFill;
}

/**
 * Makes a KMS from a local key, for development, tests and single machines. Reads the key at once, so that a wrong setting fails when
 * the process starts. Whoever can read that key can open every session.
 *
 * Its calls fail with {@link KmsError} `KMS_DENIED` for what it has not wrapped under this key and context, and with `KMS_UNREACHABLE` when
 * they are aborted.
 *
 * @throws SealedSessionError `LOCAL_KMS_REFUSED` under `NODE_ENV=production` without `allowInProduction`, or when the key is missing, is not
 *   32 bytes in base64url, or lies in a file that others may read.
 */
export function localKms(options: LocalKmsOptions): Kms {
  const { keyFile, keyVariable, allowInProduction = false, random = backend.randomFill } = options;
  const name = requireUtf8("name", options.name ?? "local", 1, MAX_KMS_NAME_BYTES);
  if ((keyFile === undefined) === (keyVariable === undefined)) {
    throw new TypeError("exactly one of keyFile and keyVariable must be given");
  }
  if (process.env["NODE_ENV"] === "production" && !allowInProduction) {
    throw new SealedSessionError(
      "LOCAL_KMS_REFUSED",
      "localKms keeps its key beside the data and is not meant for production; set allowInProduction to use it all the same",
    );
  }
  const bytes =
    keyFile === undefined
      ? keyFromEnvironment(keyVariable as string)
      : keyFromFile(requireUtf8("keyFile", keyFile, 1, 4096), random);
  const key = backend.importKey(bytes);
  bytes.fill(0);
  return new LocalKms(name, key, random);
}

class LocalKms implements Kms {
  readonly name: string;
  readonly #key: SecretKey;
  readonly #random: RandomFill;

  constructor(name: string, key: SecretKey, random: RandomFill) {
    this.name = name;
    this.#key = key;
    this.#random = random;
  }

  async generate(context: EncryptionContext, options?: KmsCallOptions) {
    const dataKey = new Uint8Array(KEY_BYTES);
    this.#random(dataKey);
    return { dataKey, wrapped: await this.wrap(dataKey, context, options) };
  }

  async wrap(dataKey: Uint8Array, context: EncryptionContext, options?: KmsCallOptions): Promise<Uint8Array> {
    this.#refuseAborted(options);
    if (dataKey.length !== KEY_BYTES) throw new RangeError(`dataKey must have ${KEY_BYTES} bytes`);
    const nonce = new Uint8Array(NONCE_BYTES);
    this.#random(nonce);
    return concat(Uint8Array.of(BLOB_VERSION), nonce, sealXaes(backend, this.#key, nonce, aadOf(context), dataKey));
  }

  async unwrap(wrapped: Uint8Array, context: EncryptionContext, options?: KmsCallOptions): Promise<Uint8Array> {
    this.#refuseAborted(options);
    if (wrapped.length === BLOB_BYTES && wrapped[0] === BLOB_VERSION) {
      const nonce = wrapped.subarray(1, 1 + NONCE_BYTES);
      const dataKey = openXaes(backend, this.#key, nonce, aadOf(context), wrapped.subarray(1 + NONCE_BYTES));
      if (dataKey !== undefined) return dataKey;
    }
    throw new KmsError("KMS_DENIED", "the wrapped key does not belong to this local key and context", {
      kms: this.name,
    });
  }

  #refuseAborted(options: KmsCallOptions | undefined): void {
    if (options?.signal?.aborted) {
      throw new KmsError("KMS_UNREACHABLE", "the call was aborted", { kms: this.name, cause: options.signal.reason });
    }
  }
}

/** The entries sorted by name, each name and value a part of format 4.2. */
function aadOf(context: EncryptionContext): Uint8Array {
  const parts = Object.entries(context)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .flat();
  const aad = writeContext(...parts);
  if (aad === undefined) throw new RangeError("context must be well-formed Unicode of at most 65535 bytes an entry");
  return aad;
}

function keyFromEnvironment(variable: string): Uint8Array {
  const text = process.env[variable];
  // The name is not repeated: whoever passes the key itself by mistake must not read it in a log.
  const source = "the environment variable that keyVariable names";
  if (text === undefined) throw new SealedSessionError("LOCAL_KMS_REFUSED", `${source} is not set`);
  return parseKey(text, source);
}

function keyFromFile(path: string, random: RandomFill): Uint8Array {
  try {
    return readKeyFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
  const key = new Uint8Array(KEY_BYTES);
  random(key);
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  // Written aside and linked into place: nobody reads half a key, and of two processes that start at once one key wins.
  const suffix = new Uint8Array(9);
  random(suffix);
  const draft = `${path}.${base64url(suffix)}.new`;
  try {
    writeFileSync(draft, `${base64url(key)}\n`, { mode: 0o600, flag: "wx", flush: true });
    linkSync(draft, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  } finally {
    key.fill(0);
    rmSync(draft, { force: true });
  }
  return readKeyFile(path);
}

function readKeyFile(path: string): Uint8Array {
  const file = openSync(path, "r");
  try {
    // Of the file that is read, not of what lies under its name a moment later.
    const { mode, uid } = fstatSync(file);
    const isOurs = process.getuid === undefined || uid === process.getuid();
    if (process.platform !== "win32" && ((mode & 0o077) !== 0 || !isOurs)) {
      throw new SealedSessionError(
        "LOCAL_KMS_REFUSED",
        `the key file ${path} must belong to the user of this process and be readable by it alone (mode 0600)`,
      );
    }
    return parseKey(readFileSync(file, "utf8").trim(), `the key file ${path}`);
  } finally {
    closeSync(file);
  }
}

function parseKey(text: string, source: string): Uint8Array {
  const bytes = fromBase64url(text);
  if (bytes?.length !== KEY_BYTES) {
    throw new SealedSessionError("LOCAL_KMS_REFUSED", `${source} must hold ${KEY_BYTES} bytes in base64url`);
  }
  return bytes;
}
