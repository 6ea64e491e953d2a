/** One of several processes that write to the same rings: `node --import tsx key-ring-store-writer.ts <directory> <index>`. */
import { fileKeyRingStore } from "../src/file-key-ring-store.js";

const [directory = "", index = ""] = process.argv.slice(2);
const store = fileKeyRingStore({ directory });
const keyId = (number: number) => Buffer.alloc(12, Number(index) * 10 + number).toString("base64url");

const { written } = await store.write("published", keyId(0), Uint8Array.of(1), { onlyIfKeyIds: [] });
for (let number = 0; number < 10; number++) await store.write("shared", keyId(number), Uint8Array.of(1));
process.stdout.write(JSON.stringify({ published: written }));
