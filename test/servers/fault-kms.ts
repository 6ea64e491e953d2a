/**
 * A KMS on the loopback interface that speaks AWS's protocol (JSON 1.1) and fails when it is told to. It logs what it is asked, and binds what it
 * wraps to key and context with AES-256-GCM, so that a client's mistakes show. It takes any signature.
 */
import { createCipheriv, createDecipheriv, randomBytes, randomUUID } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";

const NONCE_BYTES = 12;
const TAG_BYTES = 16;
/** A UUID, or `mrk-` and 32 hexadecimal digits. */
const KEY_ID_BYTES = 36;
const REGION = "eu-west-1";
const KIND = { KeySpec: "SYMMETRIC_DEFAULT", KeyUsage: "ENCRYPT_DECRYPT" };

/** As in KeyMetadata; a missing key is one that was never made. */
export type KmsKeyState = "Enabled" | "Disabled" | "PendingDeletion";

/** One request, as it came. Of a ReEncrypt, `keyId` and `context` are the source's. */
export interface KmsCall {
  readonly operation: "GenerateDataKey" | "Encrypt" | "Decrypt" | "ReEncrypt" | "DescribeKey";
  readonly keyId: string | undefined;
  readonly context: Readonly<Record<string, string>>;
  readonly destinationKeyId?: string;
  readonly destinationContext?: Readonly<Record<string, string>>;
  readonly requestId: string;
}

/** What happens to one request instead of, or before, its answer. */
export type KmsFault =
  /** An error answer of AWS. Without a name the body is no JSON, as from a proxy. */
  | { readonly kind: "error"; readonly status: number; readonly name?: string; readonly message?: string }
  /** The connection is reset. */
  | { readonly kind: "reset" }
  /** The right answer comes when the promise is fulfilled. */
  | { readonly kind: "wait"; readonly until: Promise<unknown> }
  /** The right answer with a stray letter before its last value: JSON.parse says so and quotes the value, a plaintext key. */
  | { readonly kind: "malformed" }
  /** The answer without these fields, or with others in their place. */
  | { readonly kind: "alter"; readonly fields: Readonly<Record<string, unknown>> }
  /** A plaintext key of so many bytes. */
  | { readonly kind: "plaintext-length"; readonly bytes: number }
  /** The answer that another key would give. */
  | { readonly kind: "wrong-key"; readonly keyId: string };

/** A running server. */
export interface FaultKms {
  readonly endpoint: string;
  /** All requests so far. */
  readonly calls: KmsCall[];
  /** Says what happens to a request; `undefined` answers it. */
  fault: (call: KmsCall) => KmsFault | undefined;
  /** @returns the ARN of a new key. */
  createKey(options?: { readonly multiRegion?: boolean }): string;
  setState(keyId: string, state: KmsKeyState): void;
  stop(): Promise<void>;
}

interface Key {
  readonly id: string;
  readonly arn: string;
  readonly secret: Buffer;
  state: KmsKeyState;
}

type Keys = ReadonlyMap<string, Key>;
type Fields = Readonly<Record<string, unknown>>;

/** An error answer of the server's own. */
class Refusal extends Error {
  override readonly name: string;

  constructor(name: string, message = "refused") {
    super(message);
    this.name = name;
  }
}

/** Starts a server on a free port. */
export async function startFaultKms(): Promise<FaultKms> {
  const keys = new Map<string, Key>();
  const server = createServer((request, response) => {
    respond(kms, keys, request, response).catch(() => response.destroy());
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject).listen(0, "127.0.0.1", resolve);
  });
  const kms: FaultKms = {
    endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    calls: [],
    fault: () => undefined,
    createKey({ multiRegion = false } = {}) {
      const id = multiRegion ? `mrk-${randomBytes(16).toString("hex")}` : randomUUID();
      const arn = `arn:aws:kms:${REGION}:111122223333:key/${id}`;
      keys.set(id, { id, arn, secret: randomBytes(32), state: "Enabled" });
      return arn;
    },
    setState(keyId, state) {
      existing(keys, keyId).state = state;
    },
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return kms;
}

async function respond(kms: FaultKms, keys: Keys, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk as Buffer);
  const input = JSON.parse(Buffer.concat(chunks).toString()) as Fields;
  const call = callOf(String(request.headers["x-amz-target"]), input);
  kms.calls.push(call);
  const fault = kms.fault(call);
  const send = (status: number, body: string) => {
    response.writeHead(status, { "content-type": "application/x-amz-json-1.1", "x-amzn-requestid": call.requestId });
    response.end(body);
  };
  switch (fault?.kind) {
    case "reset":
      request.socket.resetAndDestroy();
      return;
    case "error":
      send(fault.status, fault.name === undefined ? "<html>" : errorBody(fault.name, fault.message));
      return;
    case "wait":
      await fault.until;
  }
  try {
    const output = altered(answer(keys, call, input, fault), fault);
    const body = JSON.stringify(output);
    send(200, fault?.kind === "malformed" ? body.replace(/"(?=[^"]*"}$)|$/, 'x"') : body);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    send(400, errorBody(error.name, error.message));
  }
}

function callOf(target: string, input: Fields): KmsCall {
  const [, operation] = target.split("TrentService.");
  return {
    operation: operation as KmsCall["operation"],
    keyId: (input["KeyId"] ?? input["SourceKeyId"]) as string | undefined,
    context: (input["EncryptionContext"] ?? input["SourceEncryptionContext"] ?? {}) as KmsCall["context"],
    ...(operation === "ReEncrypt" && {
      destinationKeyId: String(input["DestinationKeyId"]),
      destinationContext: (input["DestinationEncryptionContext"] ?? {}) as KmsCall["context"],
    }),
    requestId: randomUUID(),
  };
}

function errorBody(name: string, message = "no"): string {
  return JSON.stringify({ __type: name, message });
}

function altered(output: Fields, fault: KmsFault | undefined): Fields {
  if (fault?.kind === "alter") return { ...output, ...fault.fields };
  if (fault?.kind !== "plaintext-length") return output;
  return { ...output, Plaintext: randomBytes(fault.bytes).toString("base64") };
}

function answer(keys: Keys, call: KmsCall, input: Fields, fault: KmsFault | undefined): Fields {
  const other = fault?.kind === "wrong-key" ? existing(keys, fault.keyId) : undefined;
  switch (call.operation) {
    case "GenerateDataKey": {
      const key = other ?? usable(keys, call.keyId);
      const dataKey = randomBytes(Number(input["NumberOfBytes"]));
      return {
        CiphertextBlob: wrap(key, dataKey, call.context),
        KeyId: key.arn,
        Plaintext: dataKey.toString("base64"),
      };
    }
    case "Encrypt": {
      const key = other ?? usable(keys, call.keyId);
      return { CiphertextBlob: wrap(key, bytesOf(input["Plaintext"]), call.context), KeyId: key.arn };
    }
    case "Decrypt": {
      const { key, dataKey } = unwrap(keys, call, bytesOf(input["CiphertextBlob"]));
      return { KeyId: (other ?? key).arn, Plaintext: dataKey.toString("base64") };
    }
    case "ReEncrypt": {
      const { key, dataKey } = unwrap(keys, call, bytesOf(input["CiphertextBlob"]));
      const destination = other ?? usable(keys, call.destinationKeyId);
      const blob = wrap(destination, dataKey, call.destinationContext ?? {});
      return { CiphertextBlob: blob, KeyId: destination.arn, SourceKeyId: key.arn };
    }
    case "DescribeKey": {
      const { id, arn, state } = existing(keys, call.keyId);
      const metadata = { Arn: arn, KeyId: id, KeyState: state, Enabled: state === "Enabled", ...KIND };
      return { KeyMetadata: { ...metadata, MultiRegion: id.startsWith("mrk-") } };
    }
    default:
      throw new Refusal("UnknownOperationException");
  }
}

function existing(keys: Keys, keyId: string | undefined): Key {
  const key = keys.get(keyId?.split(":key/").at(-1) ?? "");
  if (key === undefined) throw new Refusal("NotFoundException", "Key does not exist");
  return key;
}

function usable(keys: Keys, keyId: string | undefined): Key {
  const key = existing(keys, keyId);
  if (key.state === "Disabled") throw new Refusal("DisabledException", `${key.arn} is disabled.`);
  if (key.state !== "Enabled") throw new Refusal("KMSInvalidStateException", `${key.arn} is pending deletion.`);
  return key;
}

/** @returns key id || nonce || ciphertext || tag, in base64. */
function wrap(key: Key, dataKey: Buffer, context: KmsCall["context"]): string {
  const nonce = randomBytes(NONCE_BYTES);
  const cipher = createCipheriv("aes-256-gcm", key.secret, nonce).setAAD(aadOf(context));
  const sealed = Buffer.concat([cipher.update(dataKey), cipher.final(), cipher.getAuthTag()]);
  return Buffer.concat([Buffer.from(key.id), nonce, sealed]).toString("base64");
}

function unwrap(keys: Keys, call: KmsCall, blob: Buffer): { key: Key; dataKey: Buffer } {
  const wrappedBy = keys.get(blob.subarray(0, KEY_ID_BYTES).toString("latin1"));
  const sealed = blob.subarray(KEY_ID_BYTES + NONCE_BYTES);
  if (wrappedBy === undefined || sealed.length <= TAG_BYTES) throw new Refusal("InvalidCiphertextException");
  const key = usable(keys, call.keyId ?? wrappedBy.id);
  if (key !== wrappedBy) throw new Refusal("IncorrectKeyException");
  const nonce = blob.subarray(KEY_ID_BYTES, KEY_ID_BYTES + NONCE_BYTES);
  const decipher = createDecipheriv("aes-256-gcm", key.secret, nonce, { authTagLength: TAG_BYTES });
  decipher.setAAD(aadOf(call.context)).setAuthTag(sealed.subarray(-TAG_BYTES));
  try {
    return { key, dataKey: Buffer.concat([decipher.update(sealed.subarray(0, -TAG_BYTES)), decipher.final()]) };
  } catch {
    throw new Refusal("InvalidCiphertextException");
  }
}

/** Whatever the order of its entries. */
function aadOf(context: KmsCall["context"]): Buffer {
  return Buffer.from(JSON.stringify(Object.entries(context).sort(([a], [b]) => (a < b ? -1 : 1))));
}

function bytesOf(base64: unknown): Buffer {
  return Buffer.from(String(base64), "base64");
}
