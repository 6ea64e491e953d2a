/** Where bytes lie in the memory of another process, and whether the system keeps them out of the swap file. Linux, own user or root. */
import { closeSync, openSync, readFileSync, readSync } from "node:fs";

/** One place. */
export interface Find {
  readonly address: number;
  /** What is mapped there, as `/proc/<pid>/maps` calls it. */
  readonly mapping: string;
  /** The page is locked (`mlock`). */
  readonly locked: boolean;
}

interface Mapping {
  readonly start: number;
  readonly end: number;
  readonly name: string;
  readonly locked: boolean;
  readonly resident: boolean;
}

const CHUNK_BYTES = 8 * 1024 * 1024;

/** @returns Every place of the process where one of the needles lies. */
export function findInMemory(pid: number, needles: readonly Uint8Array[]): Find[] {
  const memory = openSync(`/proc/${pid}/mem`, "r");
  const overlap = Math.max(...needles.map(({ length }) => length)) - 1;
  try {
    return mappingsOf(pid).flatMap((mapping) => {
      const finds: Find[] = [];
      for (let at = mapping.start; at < mapping.end; at += CHUNK_BYTES - overlap) {
        const chunk = Buffer.alloc(Math.min(CHUNK_BYTES, mapping.end - at));
        const read = readSync(memory, chunk, 0, chunk.length, at);
        for (const needle of needles) {
          for (
            let found = chunk.indexOf(needle);
            found >= 0 && found < read;
            found = chunk.indexOf(needle, found + 1)
          ) {
            finds.push({ address: at + found, mapping: mapping.name, locked: mapping.locked });
          }
        }
      }
      return finds;
    });
  } finally {
    closeSync(memory);
  }
}

/** @returns How much the process has locked, in KiB. */
export function lockedKibibytes(pid: number): number {
  return Number(/^VmLck:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]);
}

/** The mappings that can be read and have a page in memory or in the swap file. */
function mappingsOf(pid: number): Mapping[] {
  const mappings: Mapping[] = [];
  for (const block of readFileSync(`/proc/${pid}/smaps`, "latin1").split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
    const [, start = "", end = "", permissions = "", name = ""] =
      /^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)$/m.exec(block) ?? [];
    const kibibytes = (field: string) => Number(new RegExp(`^${field}: +(\\d+) kB`, "m").exec(block)?.[1] ?? 0);
    mappings.push({
      start: Number.parseInt(start, 16),
      end: Number.parseInt(end, 16),
      name,
      locked: /^VmFlags:.* lo( |$)/m.test(block),
      resident:
        permissions.startsWith("r") && kibibytes("Rss") + kibibytes("Swap") > 0 && !/^\[v(var|syscall)/.test(name),
    });
  }
  return mappings.filter(({ resident }) => resident);
}
