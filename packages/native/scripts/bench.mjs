/**
 * One message on the addon and on node:crypto, as core calls them: the best of many short rounds, in nanoseconds. The rounds of both take turns,
 * so that other work on the machine hits both.
 */
import { createCipheriv, createDecipheriv, createSecretKey, randomBytes } from "node:crypto";
import { addon } from "../test/exercise/addon.mjs";

const ROUNDS = 150;
const CALLS = 300;
const AAD_BYTES = 80;
const secret = randomBytes(32);
const [key, object] = [addon.importKey(secret), createSecretKey(secret)];
const [nonce, aad] = [randomBytes(12), randomBytes(AAD_BYTES)];
const options = { authTagLength: 16 };

console.log(
  `Node ${process.versions.node}, OpenSSL ${process.versions.openssl}, ${AAD_BYTES} B of additional data; ns for one message`,
);
for (const size of [64, 256, 4096]) {
  const plaintext = randomBytes(size);
  const out = Buffer.alloc(size + 16);
  const header = Buffer.concat([randomBytes(14), randomBytes(24)]);
  const envelope = Buffer.concat([header, Buffer.alloc(size + 16)]);
  const opened = Buffer.alloc(size);
  const context = aad.subarray(0, AAD_BYTES - header.length);
  const take = () => new Uint8Array(new ArrayBuffer(size));
  addon.sealGcm(key, nonce, aad, plaintext, out, 0);
  addon.sealEnvelope(key, envelope, 26, header.length, context, context.length, plaintext);
  const best = measure({
    "native seal": () => addon.sealGcm(key, nonce, aad, plaintext, out, 0),
    "native seal in place": () =>
      addon.sealEnvelope(key, envelope, 26, header.length, context, context.length, plaintext),
    "node seal": () => {
      const cipher = createCipheriv("aes-256-gcm", object, nonce, options);
      cipher.setAAD(aad);
      out.set(cipher.update(plaintext), 0);
      cipher.final();
      out.set(cipher.getAuthTag(), size);
    },
    "native open": () => addon.openGcm(key, nonce, aad, out, opened),
    "native open, new array": () => addon.openGcm(key, nonce, aad, out, take()),
    "native open in place": () => addon.openEnvelope(key, envelope, 26, header.length, context, context.length, opened),
    "node open": () => {
      const decipher = createDecipheriv("aes-256-gcm", object, nonce, options);
      decipher.setAAD(aad);
      decipher.setAuthTag(out.subarray(size));
      decipher.update(out.subarray(0, size));
      decipher.final();
    },
  });
  console.log(
    `${size} B: ${Object.entries(best)
      .map(([name, ns]) => `${name} ${Math.round(ns)}`)
      .join(", ")}`,
  );
}

function measure(cases) {
  const best = {};
  for (let round = 0; round < ROUNDS; round++) {
    for (const [name, call] of Object.entries(cases)) {
      const start = process.hrtime.bigint();
      for (let i = 0; i < CALLS; i++) call();
      best[name] = Math.min(best[name] ?? Number.POSITIVE_INFINITY, Number(process.hrtime.bigint() - start) / CALLS);
    }
  }
  return best;
}
