/**
 * What every `Kms` promises.
 */
import assert from "node:assert/strict";
import { hasCode } from "../errors.js";
import type { EncryptionContext, Kms } from "../kms.js";
import { type TestRunner, testWith, type UnderTest } from "./runner.js";

const CONTEXT: EncryptionContext = {
  "sealed-session:ring": "conformance",
  "sealed-session:activates-at": "2026-01-02T03:04:05.678Z",
};
/** Contexts that are not {@link CONTEXT}. */
const OTHER_CONTEXTS: Readonly<Record<string, EncryptionContext>> = {
  "with another value": { ...CONTEXT, "sealed-session:ring": "conformancf" },
  "with a value in another case": { ...CONTEXT, "sealed-session:ring": "Conformance" },
  "with another time": { ...CONTEXT, "sealed-session:activates-at": "2026-01-02T03:04:05.679Z" },
  "without its ring": { "sealed-session:activates-at": "2026-01-02T03:04:05.678Z" },
  "without its time": { "sealed-session:ring": "conformance" },
  "with an entry more": { ...CONTEXT, extra: "entry" },
  "with values exchanged": {
    "sealed-session:ring": "2026-01-02T03:04:05.678Z",
    "sealed-session:activates-at": "conformance",
  },
  "that is empty": {},
};
/** Positions of a wrapped key that are altered, one call each: all of a short one, a sample of a long one. */
const MAX_ALTERED_POSITIONS = 256;

/** A KMS as the suite sees it. */
export interface KmsUnderTest extends UnderTest {
  /** A KMS that works. */
  readonly kms: Kms;
}

/**
 * Registers the tests of a `Kms`. They make some three hundred calls; a real KMS may charge for them.
 *
 * @param runner - The test runner's functions.
 * @param name - What the tests are grouped under.
 * @param open - Makes what is tested, anew for each test.
 */
export function kmsSuite(runner: TestRunner, name: string, open: () => Promise<KmsUnderTest>): void {
  const test = testWith(runner, open);
  runner.describe(name, () => {
    runner.describe("round trips", () => registerRoundTrips(test));
    runner.describe("refusals", () => registerRefusals(test));
  });
}

type Test = (name: string, body: (underTest: KmsUnderTest) => Promise<void>) => void;

function registerRoundTrips(test: Test): void {
  test("has a name of 1 to 64 bytes of UTF-8", async ({ kms }) => {
    assert.ok(kms.name.isWellFormed());
    const { length } = new TextEncoder().encode(kms.name);
    assert.ok(length >= 1 && length <= 64, `${length} bytes`);
  });

  test("generates 32 bytes that it can unwrap again", async ({ kms }) => {
    const { dataKey, wrapped } = await kms.generate(CONTEXT);
    assert.equal(dataKey.length, 32);
    assertWrapped(wrapped, dataKey);
    assert.deepEqual(plain(await kms.unwrap(wrapped, CONTEXT)), plain(dataKey));
  });

  test("generates another key and another wrap each time", async ({ kms }) => {
    const first = await kms.generate(CONTEXT);
    const second = await kms.generate(CONTEXT);
    assert.notDeepEqual(plain(first.dataKey), plain(second.dataKey));
    assert.notDeepEqual(plain(first.wrapped), plain(second.wrapped));
  });

  test("wraps a given key so that it can unwrap it again", async ({ kms }) => {
    const dataKey = someKey();
    const wrapped = await kms.wrap(dataKey, CONTEXT);
    assertWrapped(wrapped, dataKey);
    assert.deepEqual(plain(await kms.unwrap(wrapped, CONTEXT)), someKey());
  });

  test("does not regard the order of the context's entries", async ({ kms }) => {
    const wrapped = await kms.wrap(someKey(), CONTEXT);
    const reversed = Object.fromEntries(Object.entries(CONTEXT).reverse());
    assert.deepEqual(plain(await kms.unwrap(wrapped, reversed)), someKey());
  });

  test("neither wipes nor keeps the caller's arrays", async ({ kms }) => {
    const dataKey = someKey();
    const wrapped = await kms.wrap(dataKey, CONTEXT);
    assert.deepEqual(dataKey, someKey());
    dataKey.fill(0);
    const copy = new Uint8Array(wrapped);
    const unwrapped = await kms.unwrap(wrapped, CONTEXT);
    assert.deepEqual(plain(wrapped), copy);
    unwrapped.fill(0);
    wrapped.fill(0);
    assert.deepEqual(plain(await kms.unwrap(copy, CONTEXT)), someKey());
  });

  test("gives away the arrays of a generated key", async ({ kms }) => {
    const { dataKey, wrapped } = await kms.generate(CONTEXT);
    const [keyCopy, wrappedCopy] = [plain(dataKey), plain(wrapped)];
    dataKey.fill(0);
    wrapped.fill(0);
    assert.deepEqual(plain(await kms.unwrap(wrappedCopy, CONTEXT)), keyCopy);
  });

  test("takes a view of a larger buffer for its own bytes alone", async ({ kms }) => {
    const { dataKey, wrapped } = await kms.generate(CONTEXT);
    const larger = new Uint8Array(wrapped.length + 32).fill(0xaa);
    larger.set(wrapped, 16);
    const view = larger.subarray(16, 16 + wrapped.length);
    assert.deepEqual(plain(await kms.unwrap(view, CONTEXT)), plain(dataKey));
  });
}

function registerRefusals(test: Test): void {
  for (const [what, context] of Object.entries(OTHER_CONTEXTS)) {
    test(`refuses a context ${what}`, async ({ kms }) => {
      const generated = await kms.generate(CONTEXT);
      await assert.rejects(kms.unwrap(generated.wrapped, context), denied);
      await assert.rejects(kms.unwrap(await kms.wrap(someKey(), CONTEXT), context), denied);
    });
  }

  test("refuses a wrapped key that was altered in any byte", async ({ kms }) => {
    const { wrapped } = await kms.generate(CONTEXT);
    const step = Math.max(1, Math.ceil(wrapped.length / MAX_ALTERED_POSITIONS));
    for (let position = 0; position < wrapped.length; position += step) {
      const altered = new Uint8Array(wrapped);
      altered[position] = (altered[position] ?? 0) ^ (1 << (position % 8));
      await assert.rejects(kms.unwrap(altered, CONTEXT), denied, `byte ${position}`);
    }
  });

  test("refuses a wrapped key that is cut short, extended or empty", async ({ kms }) => {
    const { wrapped } = await kms.generate(CONTEXT);
    const half = wrapped.length >> 1;
    for (const bytes of [
      new Uint8Array(0),
      wrapped.slice(0, 1),
      wrapped.slice(0, half),
      wrapped.slice(0, -1),
      wrapped.slice(1),
      Uint8Array.of(...wrapped, 0),
    ]) {
      await assert.rejects(kms.unwrap(bytes, CONTEXT), denied, `${bytes.length} bytes`);
    }
  });

  test("refuses bytes that it never made", async ({ kms }) => {
    await assert.rejects(kms.unwrap(new Uint8Array(93).fill(1), CONTEXT), denied);
  });

  test("names itself in its errors, and nothing that was in the call", async ({ kms }) => {
    const { dataKey, wrapped } = await kms.generate(CONTEXT);
    const error: unknown = await kms
      .unwrap(wrapped, { ...CONTEXT, extra: "s3cret" })
      .catch((reason: unknown) => reason);
    assert.ok(denied(error));
    assert.equal((error as { kms?: unknown }).kms, kms.name);
    const message = String((error as Error).message);
    const hidden = ["s3cret", ...[dataKey, wrapped].map((bytes) => Buffer.from(bytes).toString("base64"))];
    for (const text of hidden) assert.ok(!message.includes(text));
  });

  test("answers KMS_UNREACHABLE under a signal that is aborted already", async ({ kms }) => {
    const { wrapped } = await kms.generate(CONTEXT);
    const options = { signal: AbortSignal.abort() };
    const unreachable = (error: unknown) => hasCode(error, "KMS_UNREACHABLE");
    await assert.rejects(kms.generate(CONTEXT, options), unreachable);
    await assert.rejects(kms.wrap(someKey(), CONTEXT, options), unreachable);
    await assert.rejects(kms.unwrap(wrapped, CONTEXT, options), unreachable);
  });
}

function denied(error: unknown): boolean {
  return hasCode(error, "KMS_DENIED");
}

function assertWrapped(wrapped: Uint8Array, dataKey: Uint8Array): void {
  assert.ok(wrapped.length >= 1 && wrapped.length <= 4096, `${wrapped.length} bytes`);
  assert.equal(Buffer.from(wrapped).includes(Buffer.from(dataKey)), false, "the wrapped key holds the key in clear");
}

function someKey(): Uint8Array {
  return Uint8Array.from({ length: 32 }, (_, index) => index * 5 + 1);
}

/** A copy as a plain array: a Buffer does not deep-equal one. */
function plain(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes);
}
