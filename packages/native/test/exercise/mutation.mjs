/**
 * Every function with arguments of every kind, against a model on `node:crypto`: what is right gives the same bytes, what is wrong throws, and
 * no byte outside the output changes. `node mutation.mjs [rounds] [seed]`
 */
import { strict as assert } from "node:assert";
import { createCipheriv, createDecipheriv, createHmac, hkdfSync, randomBytes, randomInt } from "node:crypto";
import { addon } from "./addon.mjs";
import { backing, bytes, fill, generator, isBytes, isLength, number } from "./arguments.mjs";

const rounds = Number(process.argv[2] ?? 20_000);
const seed = Number(process.argv[3] ?? randomInt(2 ** 32));
const random = generator(seed);
const counts = {};

const wiped = liveKey(randomBytes(32));
addon.releaseKey(wiped.handle);
wiped.bytes = undefined;
// The first of these takes the place of the wiped one, which must not come back with it.
const keys = Array.from({ length: 8 }, () => liveKey(randomBytes(32)));
const oddKeys = [0, 1, 16, 31, 33, 64, 65, 200].map((size) => liveKey(randomBytes(size)));

const operations = { sealGcm, openGcm, sealEnvelope, openEnvelope, aesBlocks, hmacSha256, hkdfSha256, importKey };

try {
  for (let round = 0; round < rounds; round++) exercise(random.pick(Object.keys(operations)));
} catch (error) {
  console.error(`seed ${seed}`);
  throw error;
}
for (const [name, { right, wrong }] of Object.entries(counts)) {
  assert.ok(right > 0 && wrong > 0, `${name} was not tried in both ways`);
}
for (const { handle } of [...keys, ...oddKeys]) addon.releaseKey(handle);
assert.equal(addon.status().keys, 0);
console.log(`${rounds} calls, seed ${seed}: ${JSON.stringify(counts)}`);

/** One call: `args`, the views of them that may change, and the model: `undefined` where the call has to throw. */
function exercise(name) {
  const arena = backing(random, 512);
  fill(arena);
  const { args, expected } = operations[name](arena);
  if (random.chance(0.01)) args.length = random.below(args.length);
  const complete = args.length === addonArity(name);
  const views = args.filter(isBytes);
  const memories = [...new Set([arena, ...views.map(({ buffer }) => buffer)])].filter(
    ({ byteLength }) => byteLength > 0,
  );
  const before = new Map(memories.map((memory) => [memory, Buffer.from(new Uint8Array(memory))]));
  const model = complete ? expected(args) : undefined;
  counts[name] ??= { right: 0, wrong: 0 };
  const count = counts[name];
  if (model === undefined) {
    assert.throws(
      () => addon[name](...args),
      (error) => error instanceof TypeError || error instanceof RangeError || error.message === "this key was wiped",
    );
    count.wrong++;
  } else {
    const result = addon[name](...args);
    if (name === "importKey") addon.releaseKey(result);
    else assert.equal(result, model.result);
    count.right++;
    if (model.output?.length > 0) before.get(model.target.buffer).set(model.output, model.target.byteOffset + model.at);
  }
  for (const [memory, content] of before) assert.ok(content.equals(new Uint8Array(memory)), `${name} left other bytes`);
}

function addonArity(name) {
  return {
    sealGcm: 6,
    openGcm: 5,
    sealEnvelope: 7,
    openEnvelope: 7,
    aesBlocks: 3,
    hmacSha256: 3,
    hkdfSha256: 4,
    importKey: 1,
  }[name];
}

function liveKey(secret) {
  return { handle: addon.importKey(secret), bytes: secret };
}

function anyKey(mostly = keys) {
  const other = random.next();
  if (other < 0.01) return wiped;
  if (other < 0.02) return random.pick(oddKeys);
  if (other < 0.04)
    return {
      handle: random.pick([undefined, null, 0, 1n, {}, "key", new Uint8Array(32), new Proxy(keys[0].handle, {})]),
    };
  return random.pick(mostly);
}

function isAesKey({ bytes: secret }) {
  return secret?.length === 32;
}

function sealGcm(arena) {
  const key = anyKey();
  const size = random.below(120);
  const offset = random.below(20);
  const [nonce, aad, plaintext] = [12, random.below(100), size].map((length) => bytes(random, arena, length));
  const out = bytes(random, arena, size + 16 + offset + random.below(2));
  return {
    args: [key.handle, nonce, aad, plaintext, out, number(random, offset)],
    expected([, ...rest]) {
      const at = rest[4];
      if (![nonce, aad, plaintext, out].every(isBytes) || !isLength(at) || !isAesKey(key) || nonce.length !== 12)
        return undefined;
      if (at + plaintext.length + 16 > out.length) return undefined;
      return { result: undefined, target: out, at, output: seal(key.bytes, nonce, [aad], plaintext) };
    },
  };
}

function openGcm(arena) {
  const key = anyKey();
  const size = random.below(120);
  const [nonce, aad, sealed] = [12, random.below(100), size + 16].map((length) => bytes(random, arena, length));
  if (random.chance(0.7) && isAesKey(key))
    place(sealed, () => seal(key.bytes, nonce, [aad], randomBytes(sealed.length - 16)), [nonce, aad]);
  const out = bytes(random, arena, size);
  return {
    args: [key.handle, nonce, aad, sealed, out],
    expected() {
      if (![nonce, aad, sealed, out].every(isBytes) || !isAesKey(key) || nonce.length !== 12) return undefined;
      if (sealed.length < 16 || out.length !== sealed.length - 16) return undefined;
      return opening(key.bytes, nonce, [aad], sealed, out);
    },
  };
}

function envelopeArguments(arena) {
  const [size, header] = [random.below(120), 12 + random.below(60)];
  const nonceAt = random.below(header - 11);
  const context = bytes(random, arena, random.below(80));
  const contextLength = isBytes(context) ? random.below(context.length + 1) : 0;
  const envelope = bytes(random, arena, header + size + 16);
  return {
    size,
    envelope,
    nonceAt: number(random, nonceAt),
    header: number(random, header),
    context,
    contextLength: number(random, contextLength),
  };
}

function framingIsRight({ envelope, nonceAt, header, context, contextLength }) {
  if (![envelope, context].every(isBytes) || ![nonceAt, header, contextLength].every(isLength)) return false;
  return header + 16 <= envelope.length && nonceAt + 12 <= header && contextLength <= context.length;
}

function sealEnvelope(arena) {
  const key = anyKey();
  const frame = envelopeArguments(arena);
  const { envelope, nonceAt, header, context, contextLength, size } = frame;
  const plaintext = bytes(random, arena, size);
  return {
    args: [key.handle, envelope, nonceAt, header, context, contextLength, plaintext],
    expected() {
      if (!framingIsRight(frame) || !isBytes(plaintext) || !isAesKey(key)) return undefined;
      if (envelope.length !== header + plaintext.length + 16) return undefined;
      const aad = [envelope.subarray(0, header), Buffer.from(context).subarray(0, contextLength)];
      const output = seal(key.bytes, envelope.subarray(nonceAt, nonceAt + 12), aad, plaintext);
      return { result: undefined, target: envelope, at: header, output };
    },
  };
}

function openEnvelope(arena) {
  const key = anyKey();
  const frame = envelopeArguments(arena);
  const { envelope, nonceAt, header, context, contextLength, size } = frame;
  const parts = () => [envelope.subarray(0, header), Buffer.from(context).subarray(0, contextLength)];
  const nonce = () => envelope.subarray(nonceAt, nonceAt + 12);
  if (random.chance(0.7) && isAesKey(key) && framingIsRight(frame)) {
    const sealed = envelope.subarray(header);
    place(sealed, () => seal(key.bytes, nonce(), parts(), randomBytes(sealed.length - 16)), parts());
  }
  const out = bytes(random, arena, size);
  return {
    args: [key.handle, envelope, nonceAt, header, context, contextLength, out],
    expected() {
      if (!framingIsRight(frame) || !isBytes(out) || !isAesKey(key)) return undefined;
      const sealed = envelope.subarray(header);
      if (out.length !== sealed.length - 16) return undefined;
      return opening(key.bytes, nonce(), parts(), sealed, out);
    },
  };
}

function aesBlocks(arena) {
  const key = anyKey();
  const size = 16 * random.below(8);
  const [blocks, out] = [bytes(random, arena, size), bytes(random, arena, size)];
  return {
    args: [key.handle, blocks, out],
    expected() {
      if (![blocks, out].every(isBytes) || !isAesKey(key) || blocks.length % 16 !== 0 || out.length !== blocks.length)
        return undefined;
      const cipher = createCipheriv("aes-256-ecb", key.bytes, null).setAutoPadding(false);
      return { result: undefined, target: out, at: 0, output: cipher.update(Buffer.from(blocks)) };
    },
  };
}

function hmacSha256(arena) {
  const key = anyKey([...keys, ...oddKeys]);
  const [data, out] = [bytes(random, arena, random.below(200)), bytes(random, arena, 32)];
  return {
    args: [key.handle, data, out],
    expected() {
      if (![data, out].every(isBytes) || key.bytes === undefined || out.length !== 32) return undefined;
      return {
        result: undefined,
        target: out,
        at: 0,
        output: createHmac("sha256", key.bytes).update(Buffer.from(data)).digest(),
      };
    },
  };
}

function hkdfSha256(arena) {
  const key = anyKey([...keys, ...oddKeys]);
  const [salt, info, size] = [random.below(90), random.below(100), random.chance(0.02) ? 8161 : random.below(150)];
  const [saltBytes, infoBytes, out] = [salt, info, size].map((length) => bytes(random, arena, length));
  return {
    args: [key.handle, saltBytes, infoBytes, out],
    expected() {
      if (![saltBytes, infoBytes, out].every(isBytes) || key.bytes === undefined || out.length > 8160) return undefined;
      const output =
        out.length === 0
          ? Buffer.alloc(0)
          : hkdfSync("sha256", key.bytes, Buffer.from(saltBytes), Buffer.from(infoBytes), out.length);
      return { result: undefined, target: out, at: 0, output: Buffer.from(output) };
    },
  };
}

function importKey(arena) {
  const secret = bytes(random, arena, random.pick([32, 32, 0, 7, 100, random.chance(0.05) ? 65_537 : 64]));
  return {
    args: [secret],
    expected: () => (isBytes(secret) && secret.length <= 65_536 ? { result: undefined } : undefined),
  };
}

function seal(key, nonce, aad, plaintext) {
  const cipher = createCipheriv("aes-256-gcm", key, Buffer.from(nonce));
  cipher.setAAD(Buffer.concat(aad.map((part) => Buffer.from(part))));
  return Buffer.concat([cipher.update(Buffer.from(plaintext)), cipher.final(), cipher.getAuthTag()]);
}

function opening(key, nonce, aad, sealed, out) {
  const decipher = createDecipheriv("aes-256-gcm", key, Buffer.from(nonce));
  decipher.setAAD(Buffer.concat(aad.map((part) => Buffer.from(part))));
  decipher.setAuthTag(Buffer.from(sealed.subarray(sealed.length - 16)));
  const plaintext = decipher.update(Buffer.from(sealed.subarray(0, sealed.length - 16)));
  try {
    decipher.final();
    return { result: true, target: out, at: 0, output: plaintext };
  } catch {
    return { result: false, target: out, at: 0, output: Buffer.alloc(plaintext.length) };
  }
}

/** Makes a message that opens, where nothing that it is made of lies under it. */
function place(sealed, make, parts) {
  if (!isBytes(sealed) || sealed.length < 16 || !parts.every(isBytes)) return;
  if (parts[0].length !== 12 && parts.length === 2 && parts[0].length < 12) return;
  try {
    sealed.set(make());
  } catch {
    // The nonce has another length: there is no such message.
  }
}
