/** Reads the vector files of the top-level `test/vectors`, and says how many cases a bar runs. */
import { readFileSync } from "node:fs";

const folder = new URL("../../../../test/vectors/", import.meta.url);

/** @returns A vector file, parsed. */
export function readVectors<T>(name: string): T {
  return JSON.parse(readFileSync(new URL(name, folder), "utf8")) as T;
}

/** @returns The bytes of a hexadecimal text. */
export function hex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, "hex"));
}

/** @returns The hexadecimal text of bytes. */
export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

/** @returns `full` cases where the bars are run in full, a hundredth of them otherwise. */
export function barSize(full: number): number {
  return process.env["SEALED_SESSION_BARS"] === "full" ? full : Math.ceil(full / 100);
}
