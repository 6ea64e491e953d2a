/** What the binaries are built from, in one hash: it lies beside each of them. */
import { createHash } from "node:crypto";
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const addon = fileURLToPath(new URL("../addon/", import.meta.url));

/** @returns SHA-256 of the C sources and the build description, in hexadecimal. */
export function sourcesHash() {
  const hash = createHash("sha256");
  const sources = readdirSync(`${addon}src`).map((file) => `src/${file}`);
  for (const file of [...sources, "binding.gyp"].sort()) {
    // A checkout may have other line ends.
    const text = readFileSync(addon + file, "utf8").replaceAll("\r\n", "\n");
    hash.update(`${file}\0${text.length}\0${text}`);
  }
  return hash.digest("hex");
}
