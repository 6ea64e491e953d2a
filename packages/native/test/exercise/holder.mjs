/**
 * A process that holds a key, for a test that looks into its memory. The key is drawn here and told masked, so that nothing but what the
 * addon does with it leaves its bytes in memory.
 */
import { randomFillSync } from "node:crypto";
import { addon } from "./addon.mjs";

const KEY_BYTES = 32;
const keys = [];

const commands = {
  /** Imports a key and uses it in every way. @returns it under a mask. */
  import() {
    const secret = new Uint8Array(new ArrayBuffer(KEY_BYTES));
    const mask = new Uint8Array(KEY_BYTES);
    randomFillSync(secret);
    randomFillSync(mask);
    const masked = secret.map((byte, i) => byte ^ mask[i]);
    const key = addon.importKey(secret);
    secret.fill(0);
    use(key);
    keys.push(key);
    return { masked: [...masked], mask: [...mask] };
  },
  /** Wipes the last key. */
  release() {
    addon.releaseKey(keys.pop());
  },
  /** Holds the last key no more, and says nothing to the addon. */
  drop() {
    keys.pop();
  },
  /** Lets finalizers run, which the event loop calls. */
  async collect() {
    for (let i = 0; i < 4; i++) {
      globalThis.gc();
      await new Promise((resolve) => setImmediate(resolve));
    }
  },
  status: () => addon.status(),
  /** Puts bytes where no addon would, to show that the search finds them. */
  plant({ bytes }) {
    keys.push(Buffer.from(bytes));
  },
};

process.on("message", async ({ command, options }) => {
  process.send({ answer: (await commands[command](options)) ?? null });
});

function use(key) {
  const [nonce, message, sealed, plaintext] = [12, 100, 116, 100].map((size) => Buffer.alloc(size));
  addon.sealGcm(key, nonce, nonce, message, sealed, 0);
  if (!addon.openGcm(key, nonce, nonce, sealed, plaintext)) throw new Error("not opened");
  addon.aesBlocks(key, Buffer.alloc(64), Buffer.alloc(64));
  addon.hkdfSha256(key, nonce, message, Buffer.alloc(64));
  addon.hmacSha256(key, message, Buffer.alloc(32));
}
