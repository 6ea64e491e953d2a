/**
 * `awsKms` with the real AWS client against a KMS that fails when it is told to.
 */
import { inspect } from "node:util";
import { DecryptCommand, EncryptCommand, type KMSClient, type KMSClientConfig } from "@aws-sdk/client-kms";
import { type AwsKmsOptions, awsKms } from "@sealed-session/aws-kms";
import { hasCode, KeyRing, type Kms, KmsError, memoryKeyRingStore, Sealer } from "@sealed-session/core";
import { kmsSuite } from "@sealed-session/core/testing";
import { type FaultKms, type KmsFault, startFaultKms } from "@sealed-session/test/servers";
import { afterAll, beforeAll, beforeEach, describe, expect, it, vi } from "vitest";
import { clientOf } from "./kms-client.js";

const CONTEXT = {
  "sealed-session:ring": "web",
  "sealed-session:activates-at": "2026-01-02T03:04:05.678Z",
};
const ID = "1234abcd-12ab-34cd-56ef-1234567890ab";
const MULTI_REGION_ID = "mrk-1234abcd12ab34cd56ef1234567890ab";
/** What the server wraps begins with the key's id, which is no secret. */
const KEY_ID_BYTES = 36;
const ALL = ["generate", "wrap", "unwrap", "rewrap", "describe"] as const;

let server: FaultKms;
let client: KMSClient;
let keyId: string;
let otherKeyId: string;
beforeAll(async () => {
  server = await startFaultKms();
  client = clientOf(server.endpoint);
});
beforeEach(() => {
  server.fault = () => undefined;
  keyId = server.createKey();
  otherKeyId = server.createKey();
  server.calls.length = 0;
});
afterAll(async () => {
  client?.destroy();
  await server?.stop();
});

const someKey = () => Uint8Array.from({ length: 32 }, (_, index) => 255 - index);
const always = (fault: KmsFault) => () => fault;

/** @returns what `work` rejects with. */
async function failureOf(work: Promise<unknown>): Promise<KmsError> {
  const error: unknown = await work.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof KmsError)) throw new Error("no KmsError", { cause: error });
  return error;
}

/** @returns what each method does with a key that `prepare` may ready for it after a good wrap was made. */
async function failures(methods: readonly (typeof ALL)[number][], prepare: () => void): Promise<KmsError[]> {
  const kms = awsKms({ keyId, client });
  const { wrapped } = await kms.generate(CONTEXT);
  prepare();
  const found: KmsError[] = [];
  for (const method of methods) {
    if (method === "generate") found.push(await failureOf(kms.generate(CONTEXT)));
    if (method === "wrap") found.push(await failureOf(kms.wrap(someKey(), CONTEXT)));
    if (method === "unwrap") found.push(await failureOf(kms.unwrap(wrapped, CONTEXT)));
    if (method === "rewrap") found.push(await failureOf(kms.rewrap(wrapped, CONTEXT, { to: otherKeyId })));
    if (method === "describe") found.push(await failureOf(kms.describe()));
  }
  return found;
}

kmsSuite({ describe, it }, "awsKms, as every Kms", async () => ({
  kms: awsKms({ keyId, client }),
  close: async () => {},
}));

describe("the options of awsKms", () => {
  const named = (options: Partial<AwsKmsOptions>) => awsKms({ keyId: ID, client, ...options }).name;
  const arn = (region: string, id: string, partition = "aws") =>
    `arn:${partition}:kms:${region}:111122223333:key/${id}`;

  it.each([
    [ID, `aws:${ID}`],
    [MULTI_REGION_ID, `aws:${MULTI_REGION_ID}`],
    [arn("eu-west-1", ID), `aws:eu-west-1:${ID}`],
    [arn("us-gov-west-1", ID, "aws-us-gov"), `aws:us-gov-west-1:${ID}`],
    [arn("us-isob-east-1", MULTI_REGION_ID, "aws-iso-b"), `aws:us-isob-east-1:${MULTI_REGION_ID}`],
  ])("%s gives the name %s, within 64 bytes", (given, name) => {
    expect(named({ keyId: given })).toBe(name);
    expect(name.length).toBeLessThanOrEqual(64);
  });

  it("the replicas of a multi-Region key have names of their own by ARN, so that one ring holds both", () => {
    const replicas = ["eu-west-1", "us-east-1"].map((region) =>
      awsKms({ keyId: arn(region, MULTI_REGION_ID), client }),
    );
    expect(() => new KeyRing({ name: "web", kms: replicas, store: memoryKeyRingStore() })).not.toThrow();
  });

  it("a given name goes before the one that follows from the key", () => {
    expect(named({ name: "frankfurt" })).toBe("frankfurt");
    expect(named({ name: "é".repeat(32) })).toHaveLength(32);
  });

  it.each([
    [{ keyId: 1 }, TypeError, "keyId"],
    [{ keyId: undefined }, TypeError, "keyId"],
    [{ keyId: "" }, RangeError, "keyId"],
    [{ keyId: "alias/sessions" }, RangeError, "keyId must be a key id or a key ARN; an alias is refused"],
    [{ keyId: "arn:aws:kms:eu-west-1:111122223333:alias/sessions" }, RangeError, "alias"],
    [{ keyId: arn("eu-west-1", `${ID} `) }, RangeError, "keyId"],
    [{ keyId: arn("eu-west-1", ID).replace("kms", "s3") }, RangeError, "keyId"],
    [{ keyId: "k".repeat(61) }, RangeError, "name must have 1 to 64 bytes of UTF-8; give a name"],
    [{ name: "" }, RangeError, "name"],
    [{ name: "é".repeat(33) }, RangeError, "name must have 1 to 64 bytes"],
    [{ name: "\ud800" }, RangeError, "name"],
    [{ name: 5 }, TypeError, "name"],
    [{ client: undefined }, TypeError, "client"],
    [{ client: null }, TypeError, "client"],
    [{ client: {} }, TypeError, "client.send"],
  ])("%j is refused", (options, type, message) => {
    const make = () => awsKms({ keyId: ID, client, ...(options as unknown as Partial<AwsKmsOptions>) });
    expect(make).toThrow(type);
    expect(make).toThrow(message);
  });

  it("a data key of another length is not sent", async () => {
    const kms = awsKms({ keyId, client });
    for (const length of [0, 16, 31, 33]) {
      await expect(kms.wrap(new Uint8Array(length), CONTEXT)).rejects.toThrow(RangeError);
    }
    await expect(kms.rewrap(new Uint8Array(9), CONTEXT, { to: "alias/new" })).rejects.toThrow("to must be a key id");
    expect(server.calls).toEqual([]);
  });
});

describe("every call", () => {
  it("carries exactly the key and the context that it was given", async () => {
    const kms = awsKms({ keyId, client });
    const { wrapped } = await kms.generate(CONTEXT);
    await kms.wrap(someKey(), CONTEXT);
    await kms.unwrap(wrapped, CONTEXT);
    const destinationContext = { ...CONTEXT, "sealed-session:ring": "other" };
    await kms.rewrap(wrapped, CONTEXT, { to: otherKeyId });
    await kms.rewrap(wrapped, CONTEXT, { to: otherKeyId, destinationContext });
    await kms.describe();
    expect(server.calls.map(({ requestId: _, ...call }) => call)).toEqual([
      { operation: "GenerateDataKey", keyId, context: CONTEXT },
      { operation: "Encrypt", keyId, context: CONTEXT },
      { operation: "Decrypt", keyId, context: CONTEXT },
      { operation: "ReEncrypt", keyId, context: CONTEXT, destinationKeyId: otherKeyId, destinationContext: CONTEXT },
      { operation: "ReEncrypt", keyId, context: CONTEXT, destinationKeyId: otherKeyId, destinationContext },
      { operation: "DescribeKey", keyId, context: {} },
    ]);
  });

  it("is refused under a context that was altered, lacks an entry or has one more", async () => {
    const kms = awsKms({ keyId, client });
    const { wrapped } = await kms.generate(CONTEXT);
    const { "sealed-session:ring": _, ...lacking } = CONTEXT;
    for (const context of [{ ...CONTEXT, "sealed-session:ring": "Web" }, lacking, { ...CONTEXT, more: "" }, {}]) {
      expect(await failureOf(kms.unwrap(wrapped, context))).toMatchObject({ code: "KMS_DENIED" });
      expect(await failureOf(kms.rewrap(wrapped, context, { to: otherKeyId }))).toMatchObject({ code: "KMS_DENIED" });
      expect(server.calls.at(-1)?.context).toEqual(context);
    }
  });

  it("is refused for what another key wrapped, which KMS would open if the key were not named", async () => {
    const other = awsKms({ keyId: otherKeyId, client });
    const { dataKey, wrapped } = await other.generate(CONTEXT);
    const error = await failureOf(awsKms({ keyId, client }).unwrap(wrapped, CONTEXT));
    expect(error).toMatchObject({ code: "KMS_DENIED", cause: { name: "IncorrectKeyException" } });
    const unnamed = await client.send(new DecryptCommand({ CiphertextBlob: wrapped, EncryptionContext: CONTEXT }));
    expect(Buffer.from(unnamed.Plaintext ?? [])).toEqual(Buffer.from(dataKey));
  });

  it("takes a key id as well as its ARN", async () => {
    const id = keyId.split("/").at(-1) as string;
    const { dataKey, wrapped } = await awsKms({ keyId, client }).generate(CONTEXT);
    const byId = awsKms({ keyId: id, client });
    expect(await byId.unwrap(wrapped, CONTEXT)).toEqual(dataKey);
    expect(await byId.describe()).toMatchObject({ arn: keyId });
  });

  it("gives away arrays that nothing else shares", async () => {
    const kms = awsKms({ keyId, client });
    const { dataKey, wrapped } = await kms.generate(CONTEXT);
    for (const bytes of [dataKey, wrapped, await kms.unwrap(wrapped, CONTEXT), await kms.wrap(someKey(), CONTEXT)]) {
      expect(bytes.buffer.byteLength).toBe(bytes.length);
    }
  });

  it("wipes what the SDK decoded, also where the answer is refused", async () => {
    const decoded: (Uint8Array | undefined)[] = [];
    const watched = clientOf(server.endpoint);
    watched.middlewareStack.add(
      (next) => async (args) => {
        const result = await next(args);
        decoded.push((result.output as { Plaintext?: Uint8Array }).Plaintext);
        return result;
      },
      { step: "initialize" },
    );
    const kms = awsKms({ keyId, client: watched });
    const { wrapped } = await kms.generate(CONTEXT);
    await kms.unwrap(wrapped, CONTEXT);
    server.fault = always({ kind: "wrong-key", keyId: otherKeyId });
    await failureOf(kms.generate(CONTEXT));
    await failureOf(kms.unwrap(wrapped, CONTEXT));
    watched.destroy();
    expect(decoded.map((bytes) => bytes?.length)).toEqual([32, 32, 32, 32]);
    expect(decoded.every((bytes) => bytes?.every((byte) => byte === 0))).toBe(true);
  });
});

describe("describe and rewrap", () => {
  it("describe tells whether the key can be used, of what kind it is, and whether it spans regions", async () => {
    const multiRegion = server.createKey({ multiRegion: true });
    const kind = { spec: "SYMMETRIC_DEFAULT", usage: "ENCRYPT_DECRYPT" };
    const kms = awsKms({ keyId, client });
    expect(await kms.describe()).toEqual({ arn: keyId, enabled: true, state: "Enabled", multiRegion: false, ...kind });
    expect(await awsKms({ keyId: multiRegion, client }).describe()).toMatchObject({ multiRegion: true });
    for (const state of ["Disabled", "PendingDeletion"] as const) {
      server.setState(keyId, state);
      expect(await kms.describe()).toMatchObject({ enabled: false, state });
    }
  });

  it("rewrap moves a data key to another KMS key, and it never leaves KMS", async () => {
    const [kms, other] = [awsKms({ keyId, client }), awsKms({ keyId: otherKeyId, client })];
    const { dataKey, wrapped } = await kms.generate(CONTEXT);
    const moved = await kms.rewrap(wrapped, CONTEXT, { to: otherKeyId });
    expect(server.calls.map(({ operation }) => operation)).toEqual(["GenerateDataKey", "ReEncrypt"]);
    expect(await other.unwrap(moved, CONTEXT)).toEqual(dataKey);
    expect(await failureOf(kms.unwrap(moved, CONTEXT))).toMatchObject({ code: "KMS_DENIED" });
    expect(await failureOf(other.rewrap(wrapped, CONTEXT, { to: keyId }))).toMatchObject({ code: "KMS_DENIED" });
  });

  it("a ring moves to another KMS key by ReEncrypt alone: its data keys never leave KMS, and every call has the context", async () => {
    const store = memoryKeyRingStore();
    const [old, next] = [awsKms({ keyId, client }), awsKms({ keyId: otherKeyId, client })];
    const ring = new KeyRing({ name: "web", kms: old, store });
    const envelope = await new Sealer({ ring }).seal("a session", "stored-id");
    ring.close();
    server.calls.length = 0;
    const moving = new KeyRing({ name: "web", kms: [next, old], store, rotation: "manual" });
    expect(await moving.rewrap({ to: next.name })).toMatchObject([{ outcome: "rewrapped inside the KMS" }]);
    moving.close();
    const operations = server.calls.map(({ operation }) => operation);
    expect(new Set(operations)).toEqual(new Set(["Decrypt", "ReEncrypt"]));
    expect(operations.filter((operation) => operation === "ReEncrypt")).toHaveLength(1);
    expect(server.calls.every(({ context }) => context["sealed-session:ring"] === "web")).toBe(true);
    server.setState(keyId, "Disabled");
    const moved = new KeyRing({ name: "web", kms: next, store });
    expect(await new Sealer({ ring: moved }).open(envelope, "stored-id")).toBe("a session");
    moved.close();
  });

  it("rewrapTo leaves it to the caller where the keys are of two regions, or the target is no key in AWS", async () => {
    const arnIn = (region: string) => `arn:aws:kms:${region}:111122223333:key/${ID}`;
    const here = awsKms({ keyId: arnIn("eu-west-1"), client });
    const there = awsKms({ keyId: arnIn("us-east-1"), client: clientOf(server.endpoint) });
    const other: Kms = { ...here, name: "other" };
    for (const target of [there, other]) {
      expect(await here.rewrapTo?.(target, Uint8Array.of(1), CONTEXT)).toBeUndefined();
    }
    expect(server.calls).toEqual([]);
  });
});

describe("an error of AWS becomes", () => {
  const BY_NAME: readonly (readonly [code: string, name: string, status: number])[] = [
    ["KMS_DENIED", "AccessDeniedException", 400],
    ["KMS_DENIED", "InvalidCiphertextException", 400],
    ["KMS_DENIED", "IncorrectKeyException", 400],
    ["KMS_DENIED", "InvalidKeyUsageException", 400],
    ["KMS_DENIED", "InvalidGrantTokenException", 400],
    ["KMS_DENIED", "InvalidArnException", 400],
    ["KMS_DENIED", "ValidationException", 400],
    ["KMS_DISABLED", "DisabledException", 400],
    ["KMS_DISABLED", "NotFoundException", 400],
    ["KMS_THROTTLED", "ThrottlingException", 400],
    ["KMS_THROTTLED", "LimitExceededException", 400],
    ["KMS_THROTTLED", "RequestLimitExceeded", 503],
    ["KMS_THROTTLED", "RequestThrottled", 400],
    ["KMS_THROTTLED", "RequestThrottledException", 400],
    ["KMS_THROTTLED", "SlowDown", 503],
    ["KMS_THROTTLED", "ThrottledException", 400],
    ["KMS_THROTTLED", "Throttling", 400],
    ["KMS_THROTTLED", "TooManyRequestsException", 400],
    ["KMS_THROTTLED", "TooManyRequestsException", 429],
    ["KMS_THROTTLED", "ThrottlingException", 503],
    ["KMS_THROTTLED", "SomethingNewException", 429],
    ["KMS_UNREACHABLE", "KMSInternalException", 500],
    ["KMS_UNREACHABLE", "KeyUnavailableException", 500],
    ["KMS_UNREACHABLE", "DependencyTimeoutException", 503],
    ["KMS_UNREACHABLE", "DependencyTimeoutException", 400],
    ["KMS_UNREACHABLE", "SomethingNewException", 500],
    ["KMS_UNREACHABLE", "SomethingNewException", 408],
    ["KMS_UNREACHABLE", "SomethingNewException", 400],
    ["KMS_UNREACHABLE", "SomethingNewException", 403],
    ["KMS_UNREACHABLE", "constructor", 403],
    // Credentials that are broken, and clocks: KMS has not come to ask who may use the key.
    ["KMS_UNREACHABLE", "ExpiredTokenException", 400],
    ["KMS_UNREACHABLE", "ExpiredToken", 403],
    ["KMS_UNREACHABLE", "UnrecognizedClientException", 400],
    ["KMS_UNREACHABLE", "InvalidClientTokenId", 403],
    ["KMS_UNREACHABLE", "InvalidSignatureException", 400],
    ["KMS_UNREACHABLE", "SignatureDoesNotMatch", 403],
    ["KMS_UNREACHABLE", "IncompleteSignature", 400],
    ["KMS_UNREACHABLE", "IncompleteSignatureException", 400],
    ["KMS_UNREACHABLE", "MissingAuthenticationToken", 403],
    ["KMS_UNREACHABLE", "MissingAuthenticationTokenException", 400],
    ["KMS_UNREACHABLE", "RequestExpired", 400],
    ["KMS_UNREACHABLE", "RequestTimeTooSkewed", 403],
    ["KMS_UNREACHABLE", "InvalidIdentityToken", 400],
    ["KMS_UNREACHABLE", "OptInRequired", 403],
    ["KMS_UNREACHABLE", "NotAuthorized", 401],
    ["KMS_UNREACHABLE", "AccessDenied", 403],
    // Of a request that KMS could not read.
    ["KMS_UNREACHABLE", "ValidationError", 400],
    ["KMS_UNREACHABLE", "SerializationException", 400],
    ["KMS_UNREACHABLE", "UnknownOperationException", 404],
  ];

  it.each(BY_NAME)("%s: %s with status %i", async (code, name, status) => {
    const found = await failures(ALL, () => {
      server.fault = always({ kind: "error", status, name });
    });
    const requestIds = server.calls.slice(1).map(({ requestId }) => requestId);
    for (const [index, error] of found.entries()) {
      expect(error).toMatchObject({ code, kms: awsKms({ keyId, client }).name, requestId: requestIds[index] });
      expect(error.message).toMatch(/^AWS KMS \w+: \w+, status \d+$/);
    }
    expect(server.calls).toHaveLength(1 + ALL.length);
  });

  it("KMS_THROTTLED: a name that is not known, of which the SDK says that it throttles", async () => {
    const told = clientOf(server.endpoint);
    const throttling = (error: unknown) =>
      Promise.reject(Object.assign(error as Error, { $retryable: { throttling: true } }));
    told.middlewareStack.add((next) => (args) => next(args).catch(throttling), { step: "initialize" });
    server.fault = always({ kind: "error", status: 400, name: "SomethingNewException" });
    expect(await failureOf(awsKms({ keyId, client: told }).generate(CONTEXT))).toMatchObject({ code: "KMS_THROTTLED" });
    told.destroy();
  });

  const BY_STATE = ["Disabled", "PendingDeletion"] as const;
  it.each(BY_STATE)("KMS_DISABLED: the key is %s", async (state) => {
    const found = await failures(["generate", "wrap", "unwrap", "rewrap"], () => server.setState(keyId, state));
    expect(found.map(({ code }) => code)).toEqual(Array(4).fill("KMS_DISABLED"));
  });

  it("KMS_DISABLED: the key is gone, or was never there", async () => {
    const { wrapped } = await awsKms({ keyId, client }).generate(CONTEXT);
    const gone = awsKms({ keyId: ID, client });
    const calls = [
      () => gone.generate(CONTEXT),
      () => gone.wrap(someKey(), CONTEXT),
      () => gone.unwrap(wrapped, CONTEXT),
      () => gone.describe(),
    ];
    for (const call of calls) expect(await failureOf(call())).toMatchObject({ code: "KMS_DISABLED" });
  });

  const STATES: readonly (readonly [code: string, what: string])[] = [
    ["KMS_DISABLED", "is pending deletion."],
    ["KMS_DISABLED", "is pending replica deletion."],
    ["KMS_DISABLED", "is pending import."],
    ["KMS_UNREACHABLE", "is unavailable."],
    ["KMS_UNREACHABLE", "is not pending deletion."],
    ["KMS_UNREACHABLE", "cannot be used: the external key store proxy did not respond in time."],
  ];
  it.each(STATES)("%s: a KMSInvalidStateException that says: the key %s", async (code, what) => {
    const found = await failures(ALL, () => {
      const message = `${keyId} ${what}`;
      server.fault = always({ kind: "error", status: 400, name: "KMSInvalidStateException", message });
    });
    expect(found.map((error) => error.code)).toEqual(Array(ALL.length).fill(code));
  });

  const NO_ANSWER: readonly (readonly [what: string, fault: KmsFault])[] = [
    ["the connection is reset", { kind: "reset" }],
    ["a proxy answers with status 400", { kind: "error", status: 400 }],
    ["a proxy answers with status 403", { kind: "error", status: 403 }],
    ["a proxy answers with status 404", { kind: "error", status: 404 }],
    ["a proxy answers with status 407", { kind: "error", status: 407 }],
    ["a proxy answers with status 500", { kind: "error", status: 500 }],
    ["a proxy answers with status 502", { kind: "error", status: 502 }],
    ["a proxy answers with status 503", { kind: "error", status: 503 }],
    ["the answer is no JSON", { kind: "malformed" }],
  ];
  it.each(NO_ANSWER)("KMS_UNREACHABLE: %s", async (_, fault) => {
    const found = await failures(ALL, () => {
      server.fault = always(fault);
    });
    expect(found.map(({ code }) => code)).toEqual(Array(ALL.length).fill("KMS_UNREACHABLE"));
  });

  it("KMS_UNREACHABLE: a server that is not there, and credentials that are not to be had", async () => {
    const gone = await startFaultKms();
    await gone.stop();
    const failing: readonly KMSClientConfig[] = [
      { endpoint: gone.endpoint },
      { credentials: () => Promise.reject(new Error("no credentials")) },
    ];
    for (const config of failing) {
      const broken = clientOf(server.endpoint, config);
      const error = await failureOf(awsKms({ keyId, client: broken }).generate(CONTEXT));
      expect(error).toMatchObject({ code: "KMS_UNREACHABLE", requestId: undefined });
      broken.destroy();
    }
  });

  it("KMS_UNREACHABLE: STS denies the credentials that KMS would be asked with", async () => {
    const denied = Object.assign(new Error("Not authorized to perform sts:AssumeRoleWithWebIdentity"), {
      name: "AccessDenied",
      $fault: "client",
      $metadata: { httpStatusCode: 403, requestId: "of-sts" },
    });
    const broken = clientOf(server.endpoint, { credentials: () => Promise.reject(denied) });
    const error = await failureOf(awsKms({ keyId, client: broken }).generate(CONTEXT));
    expect(error).toMatchObject({ code: "KMS_UNREACHABLE", cause: { name: "AccessDenied", message: denied.message } });
    expect(server.calls).toEqual([]);
    broken.destroy();
  });

  it("KMS_UNREACHABLE: the client's time-out runs out", async () => {
    server.fault = always({ kind: "wait", until: new Promise(() => {}) });
    const requestHandler = { requestTimeout: 20, throwOnRequestTimeout: true };
    const impatient = clientOf(server.endpoint, { requestHandler });
    const error = await failureOf(awsKms({ keyId, client: impatient }).generate(CONTEXT));
    expect(error).toMatchObject({ code: "KMS_UNREACHABLE", cause: { name: "TimeoutError" } });
    impatient.destroy();
  });

  it("KMS_UNREACHABLE: the signal is aborted while KMS is slow", async () => {
    const { wrapped } = await awsKms({ keyId, client }).generate(CONTEXT);
    const kms = awsKms({ keyId, client });
    const calls: readonly ((signal: AbortSignal) => Promise<unknown>)[] = [
      (signal) => kms.generate(CONTEXT, { signal }),
      (signal) => kms.wrap(someKey(), CONTEXT, { signal }),
      (signal) => kms.unwrap(wrapped, CONTEXT, { signal }),
      (signal) => kms.rewrap(wrapped, CONTEXT, { to: otherKeyId, signal }),
      (signal) => kms.describe({ signal }),
    ];
    for (const call of calls) {
      const abort = new AbortController();
      const reason = new Error("enough");
      server.fault = () => {
        abort.abort(reason);
        return { kind: "wait", until: new Promise(() => {}) };
      };
      const error = await failureOf(call(abort.signal));
      expect(error).toMatchObject({ code: "KMS_UNREACHABLE", cause: reason });
      expect(error.message).toMatch(/the call was aborted$/);
    }
  });

  it("nothing when KMS is slow and answers", async () => {
    const { promise, resolve } = withResolvers();
    server.fault = always({ kind: "wait", until: promise });
    const generated = awsKms({ keyId, client }).generate(CONTEXT);
    await vi.waitFor(() => expect(server.calls).toHaveLength(1));
    resolve();
    expect((await generated).dataKey).toHaveLength(32);
  });
});

describe("an answer that is not right is refused:", () => {
  it.each([0, 16, 31, 33, 64])("a data key of %i bytes", async (bytes) => {
    const found = await failures(["generate", "unwrap"], () => {
      server.fault = always({ kind: "plaintext-length", bytes });
    });
    // What opens and has another length was wrapped by somebody else; what was just made so is a fault.
    const unwrapped = bytes === 0 ? ["KMS_DENIED", "KMS_UNREACHABLE"] : ["KMS_DENIED"];
    expect(found[0]?.code).toBe("KMS_UNREACHABLE");
    expect(unwrapped).toContain(found[1]?.code);
  });

  it("a key of another length that somebody wrapped under our KMS key and context", async () => {
    const command = new EncryptCommand({ KeyId: keyId, Plaintext: new Uint8Array(16), EncryptionContext: CONTEXT });
    const { CiphertextBlob = new Uint8Array() } = await client.send(command);
    const error = await failureOf(awsKms({ keyId, client }).unwrap(CiphertextBlob, CONTEXT));
    expect(error).toMatchObject({ code: "KMS_DENIED", requestId: server.calls.at(-1)?.requestId });
  });

  it("one of another key", async () => {
    const found = await failures(["generate", "wrap", "unwrap"], () => {
      server.fault = always({ kind: "wrong-key", keyId: otherKeyId });
    });
    const third = server.createKey();
    server.fault = () => undefined;
    const moved = await failures(["rewrap"], () => {
      server.fault = always({ kind: "wrong-key", keyId: third });
    });
    for (const error of [...found, ...moved]) {
      expect(error).toMatchObject({ code: "KMS_DENIED", message: expect.stringContaining("another key") });
    }
  });

  it.each([
    ["no wrapped key", { CiphertextBlob: undefined }, ["generate", "wrap", "rewrap"]],
    ["an empty wrapped key", { CiphertextBlob: "" }, ["generate", "wrap", "rewrap"]],
    ["a wrapped key of more than 4096 bytes", { CiphertextBlob: "A".repeat(5464) }, ["generate", "wrap", "rewrap"]],
    ["no data key", { Plaintext: undefined }, ["generate", "unwrap"]],
    ["no description", { KeyMetadata: undefined }, ["describe"]],
    ["half a description", { KeyMetadata: { KeyId: ID } }, ["describe"]],
  ] as const)("one with %s", async (_, fields, methods) => {
    const found = await failures(methods, () => {
      server.fault = always({ kind: "alter", fields });
    });
    expect(found.map(({ code }) => code)).toEqual(methods.map(() => "KMS_UNREACHABLE"));
  });
});

describe("an error holds no secret:", () => {
  /** Of what may be a secret, each run of eight characters must be missing, in base64 as in hex. */
  function expectAbsent(error: unknown, secret: Uint8Array): void {
    const shown = inspect(error, { depth: 10, showHidden: true, maxStringLength: null, maxArrayLength: null });
    for (const encoding of ["base64", "hex", "latin1"] as const) {
      const text = Buffer.from(secret).toString(encoding);
      for (let at = 0; at + 8 <= text.length; at++) expect(shown).not.toContain(text.slice(at, at + 8));
    }
    expect(shown).not.toContain(Array.from(secret.subarray(0, 8)).join(", "));
  }

  it("an answer that is no JSON is not quoted, though the SDK quotes a plaintext key from it", async () => {
    const kms = awsKms({ keyId, client });
    const dataKey = someKey();
    const wrapped = await kms.wrap(dataKey, CONTEXT);
    server.fault = always({ kind: "malformed" });
    const command = new DecryptCommand({ KeyId: keyId, CiphertextBlob: wrapped, EncryptionContext: CONTEXT });
    const raw: unknown = await client.send(command).catch((error: unknown) => error);
    expect(String(raw)).toContain(Buffer.from(dataKey).toString("base64").slice(0, 8));
    const error = await failureOf(kms.unwrap(wrapped, CONTEXT));
    expectAbsent(error, dataKey);
    expectAbsent(error, wrapped.subarray(KEY_ID_BYTES));
  });

  it("nothing of the call or its answer is in any failure, also where the answer repeats it", async () => {
    const dataKey = someKey();
    const kms = awsKms({ keyId, client });
    const wrapped = await kms.wrap(dataKey, CONTEXT);
    const echo = [dataKey, wrapped].map((bytes) => Buffer.from(bytes).toString("base64")).join(" ");
    const hex = Buffer.from(dataKey).toString("hex");
    const faults: readonly KmsFault[] = [
      { kind: "error", status: 400, name: "ValidationException", message: `Value '${echo}' at ${hex}` },
      { kind: "error", status: 500, name: "KMSInternalException", message: echo },
      { kind: "error", status: 503 },
      { kind: "reset" },
      { kind: "malformed" },
      { kind: "wrong-key", keyId: otherKeyId },
    ];
    for (const fault of faults) {
      server.fault = always(fault);
      for (const call of [() => kms.wrap(dataKey, CONTEXT), () => kms.unwrap(wrapped, CONTEXT)]) {
        const error = await failureOf(call());
        expectAbsent(error, dataKey);
        expectAbsent(error, wrapped.subarray(KEY_ID_BYTES));
      }
    }
  });

  it("but it says what AWS said to the operator", async () => {
    const message = `User: arn:aws:sts::111122223333:assumed-role/web/i-1 is not authorized to perform: kms:Decrypt on resource: ${keyId}`;
    server.fault = always({ kind: "error", status: 400, name: "AccessDeniedException", message });
    const error = await failureOf(awsKms({ keyId, client }).generate(CONTEXT));
    expect(error.cause).toMatchObject({ name: "AccessDeniedException", message });
    expect(error.message).toBe("AWS KMS GenerateDataKey: AccessDeniedException, status 400");
  });
});

describe("retries", () => {
  it.each([1, 2, 3])("are the SDK's alone: maxAttempts %i makes as many requests", async (maxAttempts) => {
    const patient = clientOf(server.endpoint, { maxAttempts });
    const kms = awsKms({ keyId, client: patient });
    server.fault = always({ kind: "error", status: 500, name: "KMSInternalException" });
    await failureOf(kms.generate(CONTEXT));
    expect(server.calls).toHaveLength(maxAttempts);
    patient.destroy();
  });

  it("hide a failure that passes, and a refusal causes none", async () => {
    const patient = clientOf(server.endpoint, { maxAttempts: 3 });
    const kms = awsKms({ keyId, client: patient });
    server.fault = () => (server.calls.length === 1 ? { kind: "reset" } : undefined);
    expect((await kms.generate(CONTEXT)).dataKey).toHaveLength(32);
    expect(server.calls).toHaveLength(2);
    server.fault = always({ kind: "error", status: 400, name: "AccessDeniedException" });
    await failureOf(kms.generate(CONTEXT));
    expect(server.calls).toHaveLength(3);
    patient.destroy();
  });
});

describe("a key ring over awsKms", () => {
  const SESSION_ID = "a-session-id-of-24-bytes";
  let now: number;
  let store: ReturnType<typeof memoryKeyRingStore>;
  beforeEach(() => {
    now = Date.parse("2026-01-02T03:04:05.678Z");
    const clock = () => now;
    store = memoryKeyRingStore({ clock });
  });
  /** A process of its own, over the one store. */
  const sealerOf = (...kms: Kms[]) =>
    new Sealer({ ring: new KeyRing({ name: "web", kms, store, clock: () => now, kmsTimeoutMs: 2000 }) });

  it("seals in one process and opens in another, and asks KMS once for each data key and process", async () => {
    const [first, second] = [sealerOf(awsKms({ keyId, client })), sealerOf(awsKms({ keyId, client }))];
    const envelopes: Uint8Array[] = [];
    for (let i = 0; i < 20; i++) envelopes.push(await first.seal({ i }, SESSION_ID));
    const firstCalls = server.calls.length;
    for (const [i, envelope] of envelopes.entries()) expect(await second.open(envelope, SESSION_ID)).toEqual({ i });
    expect(server.calls.length - firstCalls).toBe(1);
    for (const call of server.calls) {
      expect(call).toMatchObject({ keyId });
      expect(call.context).toEqual({
        "sealed-session:ring": "web",
        "sealed-session:activates-at": expect.stringMatching(/^2026-01-02T03:04:0\d\.\d{3}Z$/),
      });
    }
  });

  const OUT: readonly (readonly [what: string, code: string, fault: KmsFault])[] = [
    ["is out", "KMS_UNREACHABLE", { kind: "reset" }],
    ["throttles", "KMS_THROTTLED", { kind: "error", status: 400, name: "ThrottlingException" }],
    ["takes no expired credentials", "KMS_UNREACHABLE", { kind: "error", status: 400, name: "ExpiredTokenException" }],
    ["thinks the clock wrong", "KMS_UNREACHABLE", { kind: "error", status: 400, name: "InvalidSignatureException" }],
    ["has lost its key store", "KMS_UNREACHABLE", { kind: "error", status: 400, name: "KMSInvalidStateException" }],
  ];
  it.each(OUT)(
    "serves on while KMS %s, a new process does not start, and both do afterwards",
    async (_, code, fault) => {
      const running = sealerOf(awsKms({ keyId, client }));
      const envelope = await running.seal({ user: 1 }, SESSION_ID);
      server.fault = always(fault);
      now += 10 * 60_000;
      expect(await running.open(await running.seal({ user: 2 }, SESSION_ID), SESSION_ID)).toEqual({ user: 2 });
      const starting = sealerOf(awsKms({ keyId, client }));
      const error: unknown = await starting.open(envelope, SESSION_ID).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: "KEY_UNAVAILABLE", cause: { code } });
      server.fault = () => undefined;
      now += 6 * 60_000;
      expect(await starting.open(envelope, SESSION_ID)).toEqual({ user: 1 });
      expect(await running.open(envelope, SESSION_ID)).toEqual({ user: 1 });
    },
  );

  const DENIED: readonly (readonly [what: string, code: string, fault: KmsFault])[] = [
    ["denies", "KMS_DENIED", { kind: "error", status: 400, name: "AccessDeniedException" }],
    ["has its key disabled", "KMS_DISABLED", { kind: "error", status: 400, name: "DisabledException" }],
  ];
  it.each(DENIED)("neither seals nor opens while KMS %s, and does both afterwards", async (_, code, fault) => {
    const running = sealerOf(awsKms({ keyId, client }));
    const envelope = await running.seal({ user: 1 }, SESSION_ID);
    server.fault = always(fault);
    now += 10 * 60_000;
    await expect(running.open(envelope, SESSION_ID)).rejects.toMatchObject({ code: "KEY_DENIED", cause: { code } });
    await expect(running.seal({ user: 2 }, SESSION_ID)).rejects.toMatchObject({ code: "KEY_UNAVAILABLE" });
    const starting = sealerOf(awsKms({ keyId, client }));
    const cold = starting.open(envelope, SESSION_ID);
    await expect(cold).rejects.toMatchObject({ code: "KEY_UNAVAILABLE", cause: { code } });
    server.fault = () => undefined;
    now += 6 * 60_000;
    for (const sealer of [running, starting]) {
      expect(await sealer.open(await sealer.seal({ user: 3 }, SESSION_ID), SESSION_ID)).toEqual({ user: 3 });
      expect(await sealer.open(envelope, SESSION_ID)).toEqual({ user: 1 });
    }
  });

  it("opens by the second region while the first is out", async () => {
    const near = awsKms({ keyId, client, name: "near" });
    const far = awsKms({ keyId: otherKeyId, client, name: "far" });
    const envelope = await sealerOf(near, far).seal({ user: 1 }, SESSION_ID);
    server.fault = ({ keyId: asked }) => (asked === keyId ? { kind: "reset" } : undefined);
    expect(await sealerOf(near, far).open(envelope, SESSION_ID)).toEqual({ user: 1 });
  });

  it("opens no record that was moved to another ring", async () => {
    const [record] = await sealerOf(awsKms({ keyId, client }))
      .seal({ user: 1 }, SESSION_ID)
      .then(() => store.read("web"));
    if (record === undefined) throw new Error("the ring is empty");
    await store.write("other", record.keyId, record.record);
    const ring = new KeyRing({ name: "other", kms: awsKms({ keyId, client }), store, clock: () => now });
    await ring.refresh().catch((error: unknown) => expect(hasCode(error, "KEY_UNAVAILABLE")).toBe(true));
    expect(server.calls.at(-1)?.context).toMatchObject({ "sealed-session:ring": "other" });
    expect(ring.status()).toMatchObject([{ keyId: record.keyId, state: "unverified" }]);
  });
});

/** Promise.withResolvers came with Node 22. */
function withResolvers(): { promise: Promise<void>; resolve: () => void } {
  let resolve = () => {};
  const promise = new Promise<void>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}
