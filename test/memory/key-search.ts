/**
 * Looks for keys in the memory and in the heap snapshots of a process, in every form in which something may have written them down.
 */
import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { type Needle, NeedleSearch } from "../flow/needle-search.js";
import type { KeyKind, KnownKey } from "./known-keys.js";
import { withMemoryOf } from "./process-memory.js";
import type { ServiceProcess } from "./service-process.js";

const HALF_BYTES = 16;
const NUL = 0x00;
const SPACE = 0x20;

/** A half of a key is a find: the rest of it may have been overwritten. */
export interface KeyFind {
  readonly key: KnownKey;
  readonly half: "first" | "second";
  /** "raw", or how it was written down. */
  readonly form: string;
}

/** What was found in a heap snapshot, and how many strings that has. */
export interface SnapshotFinds {
  readonly finds: readonly KeyFind[];
  readonly strings: number;
}

interface HalfKey extends Needle {
  readonly kind: KeyKind;
  readonly key: KnownKey;
  readonly half: KeyFind["half"];
}

/** A search for a fixed set of keys. */
export class KeySearch {
  readonly #search: NeedleSearch;

  constructor(keys: readonly KnownKey[]) {
    this.#search = new NeedleSearch(keys.flatMap(needlesOf));
  }

  /** @returns what is in the memory of the service. */
  async inMemoryOf({ pid }: ServiceProcess): Promise<KeyFind[]> {
    return withMemoryOf(pid, (pieces) => this.#find(pieces));
  }

  /** @param folder - Where the snapshot lies for a moment. @returns what is in the strings that live on the service's heap. */
  async inHeapSnapshotOf(service: ServiceProcess, folder: string): Promise<SnapshotFinds> {
    const path = join(folder, "service.heapsnapshot");
    await service.tell("writeHeapSnapshot", { path });
    // The strings of the program, and names of functions, properties and the like.
    const { strings } = JSON.parse(readFileSync(path, "utf8")) as { strings: string[] };
    rmSync(path);
    return { finds: this.#find(strings.map((text) => Buffer.from(text, "latin1"))), strings: strings.length };
  }

  #find(haystacks: Iterable<Uint8Array>): KeyFind[] {
    return [...this.#search.find(haystacks)].flatMap(([needle, forms]) => {
      const { key, half } = needle as HalfKey;
      return [...forms].map((form) => ({ key, half, form }));
    });
  }
}

/** @returns what was found, in short and without the keys. */
export function summaryOf(finds: readonly KeyFind[]): string[] {
  const counts = new Map<string, number>();
  for (const { key, half, form } of finds) {
    const name = `${key.kind}, ${half} half, ${form}`;
    counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  return [...counts].map(([name, count]) => `${name}: ${count}`).sort();
}

function needlesOf(key: KnownKey): HalfKey[] {
  return (["first", "second"] as const).flatMap((half) => {
    const value = half === "first" ? key.bytes.subarray(0, HALF_BYTES) : key.bytes.subarray(HALF_BYTES);
    const needle: HalfKey = { kind: key.kind, key, half, value };
    // V8 writes a space into a snapshot where a string has a NUL.
    return value.includes(NUL) ? [needle, { ...needle, value: spaced(value) }] : [needle];
  });
}

function spaced(bytes: Uint8Array): Uint8Array {
  return bytes.map((byte) => (byte === NUL ? SPACE : byte));
}
