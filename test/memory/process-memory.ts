/**
 * The memory of another process, as its own user or root reads it on Linux: every page that it has, of every mapping that can be read.
 */
import { closeSync, openSync, readdirSync, readFileSync, readSync } from "node:fs";
import { untilNothingMissing } from "../servers/condition.js";

const CHUNK_BYTES = 4 * 1024 * 1024;
/** Read once more at the beginning of the next chunk, so that nothing is cut in two. */
const OVERLAP_BYTES = 1024;
const PAGEMAP_ENTRY_BYTES = 8;
/** The highest two bits of a pagemap entry: in memory, or swapped out (`Documentation/admin-guide/mm/pagemap.rst`). */
const PRESENT_OR_SWAPPED = 0xc0;
/** Made by the kernel for every process, and not readable from outside. */
const KERNEL_MAPPINGS = /^\[(vvar|vvar_vclock|vsyscall)\]$/;
/** Of an entry of the auxiliary vector: `AT_PAGESZ` (getauxval(3)). */
const PAGE_SIZE_TYPE = 6n;

interface Range {
  readonly start: number;
  readonly end: number;
}

/**
 * Stops a process and hands out its memory, piece by piece. It goes on when the last piece was taken.
 *
 * @param use - Gets the pieces. Each is overwritten by the next one.
 * @throws Error where the memory cannot be read, which must not be taken for memory that holds nothing.
 */
export async function withMemoryOf<T>(pid: number, use: (pieces: Iterable<Uint8Array>) => T): Promise<T> {
  if (process.platform !== "linux") {
    throw new Error(`the memory of a process is read from /proc/<pid>/mem, which ${process.platform} does not have`);
  }
  process.kill(pid, "SIGSTOP");
  try {
    await untilNothingMissing(`process ${pid} stops`, () => runningThread(pid), { intervalMs: 1 });
    return use(piecesOf(pid));
  } finally {
    process.kill(pid, "SIGCONT");
  }
}

function runningThread(pid: number): string | undefined {
  return readdirSync(`/proc/${pid}/task`).find((thread) => {
    const stat = readFileSync(`/proc/${pid}/task/${thread}/stat`, "latin1");
    return stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3) !== "T";
  });
}

function* piecesOf(pid: number): Generator<Uint8Array> {
  const memory = openReadable(`/proc/${pid}/mem`);
  const pagemap = openReadable(`/proc/${pid}/pagemap`);
  const pageBytes = pageSize();
  try {
    const chunk = Buffer.alloc(CHUNK_BYTES);
    for (const mapping of mappingsOf(pid)) {
      for (const { start, end } of pagesOf(pagemap, mapping, pageBytes)) {
        for (let at = start; at < end; at += CHUNK_BYTES - OVERLAP_BYTES) {
          const length = Math.min(CHUNK_BYTES, end - at);
          const read = readSync(memory, chunk, 0, length, at);
          if (read !== length) throw new Error(`only ${read} of ${length} bytes of process ${pid} could be read`);
          yield chunk.subarray(0, length);
        }
      }
    }
  } finally {
    closeSync(memory);
    closeSync(pagemap);
  }
}

function openReadable(path: string): number {
  try {
    return openSync(path, "r");
  } catch (cause) {
    const who = "its own user needs kernel.yama.ptrace_scope 0 or 1, others CAP_SYS_PTRACE";
    throw new Error(`${path} cannot be read here, so nothing is shown about what is in it: ${who}`, { cause });
  }
}

function pageSize(): number {
  const vector = readFileSync("/proc/self/auxv");
  for (let at = 0; at + 16 <= vector.length; at += 16) {
    if (vector.readBigUInt64LE(at) === PAGE_SIZE_TYPE) return Number(vector.readBigUInt64LE(at + 8));
  }
  throw new Error("the kernel does not tell its page size");
}

function mappingsOf(pid: number): Range[] {
  const lines = readFileSync(`/proc/${pid}/maps`, "latin1").trimEnd().split("\n");
  return lines.flatMap((line) => {
    const [range = "", permissions, , , , name = ""] = line.split(/ +/);
    if (!permissions?.startsWith("r") || KERNEL_MAPPINGS.test(name)) return [];
    const [start, end] = range.split("-").map((address) => Number.parseInt(address, 16));
    return [{ start: start as number, end: end as number }];
  });
}

/** The pages of a mapping that the process has. The others are zeros, or still as they are in a file. */
function* pagesOf(pagemap: number, { start, end }: Range, pageBytes: number): Generator<Range> {
  const first = start / pageBytes;
  const entries = Buffer.alloc(((end - start) / pageBytes) * PAGEMAP_ENTRY_BYTES);
  const read = readSync(pagemap, entries, 0, entries.length, first * PAGEMAP_ENTRY_BYTES);
  if (read !== entries.length) throw new Error("which pages a process has could not be read");
  let runStart: number | undefined;
  for (let page = 0; page <= entries.length / PAGEMAP_ENTRY_BYTES; page++) {
    const flags = entries[page * PAGEMAP_ENTRY_BYTES + PAGEMAP_ENTRY_BYTES - 1] ?? 0;
    const address = (first + page) * pageBytes;
    if ((flags & PRESENT_OR_SWAPPED) !== 0) {
      runStart ??= address;
    } else if (runStart !== undefined) {
      yield { start: runStart, end: address };
      runStart = undefined;
    }
  }
}
