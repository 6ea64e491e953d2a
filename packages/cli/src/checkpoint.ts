/**
 * Where a long run stands, on the disk: so that one that was ended, by Ctrl-C or by kill -9, goes on instead of beginning anew.
 *
 * The file is replaced as a whole: written aside, flushed, renamed. Whoever reads it finds the old one or the new one.
 */
import { closeSync, fsyncSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { RotationCounts, WalkPosition } from "@sealed-session/core";
import { z } from "zod";
import { CliError } from "./cli-error.js";

/** What a checkpoint belongs to. A run goes on from it only where all of this is the same. */
export interface CheckpointScope {
  /** The command, such as `rotate sessions`. */
  readonly command: string;
  readonly ring: string;
  /** Of the keys in Redis. */
  readonly namespace: string;
  /** The key that the run seals under. */
  readonly keyId: string;
  readonly olderThanMs: number;
  /** As `1/1`. */
  readonly shard: string;
}

/** Where a run stands. */
export interface CheckpointState {
  /** When its first part began, in milliseconds since 1970-01-01T00:00:00Z. */
  readonly startedAt: number;
  readonly position: WalkPosition;
  readonly counts: RotationCounts;
  /** How many did not open, by the code of the reason. */
  readonly unopened: Readonly<Record<string, number>>;
}

/** How often a {@link Checkpoint} writes. */
export interface CheckpointOptions {
  /** Milliseconds. */
  readonly clock: () => number;
  /** @defaultValue 1000 */
  readonly intervalMs?: number;
}

const VERSION = 1;
const DEFAULT_INTERVAL_MS = 1000;
const MAX_BYTES = 16 * 1_048_576;

const count = z.number().int().min(0);
const counts = z.object({
  examined: count,
  resealed: count,
  current: count,
  younger: count,
  clientBound: count,
  overtaken: count,
  gone: count,
  expired: count,
  foreign: count,
  unopened: count,
  byKey: z.record(z.string(), count),
}) satisfies z.ZodType<RotationCounts>;
const scope = {
  command: z.string(),
  ring: z.string(),
  namespace: z.string(),
  keyId: z.string(),
  olderThanMs: count,
  shard: z.string(),
} satisfies Record<keyof CheckpointScope, z.ZodType>;
const file = z.object({
  format: z.literal("sealed-session checkpoint"),
  version: z.literal(VERSION),
  ...scope,
  startedAt: count,
  position: z.record(z.string(), z.unknown()),
  counts,
  unopened: z.record(z.string(), count),
});
const header = file.pick({ format: true }).extend({ version: count });

/** What a field of the scope is called when it does not fit. */
const NAMES: Readonly<Record<keyof CheckpointScope, string>> = {
  command: "another command",
  ring: "another ring",
  namespace: "another namespace",
  keyId: "another target key",
  olderThanMs: "another --older-than",
  shard: "another --shard",
};

/** The checkpoint file of one run. */
export class Checkpoint {
  readonly #path: string;
  readonly #scope: CheckpointScope;
  readonly #clock: () => number;
  readonly #intervalMs: number;
  #writtenAt = Number.NEGATIVE_INFINITY;
  #unwritten: CheckpointState | undefined;

  /** Nothing is read or written yet. */
  constructor(path: string, scope: CheckpointScope, { clock, intervalMs = DEFAULT_INTERVAL_MS }: CheckpointOptions) {
    this.#path = path;
    this.#scope = scope;
    this.#clock = clock;
    this.#intervalMs = intervalMs;
  }

  /**
   * Reads what an earlier run has left.
   *
   * @returns `undefined` when there is no file.
   * @throws CliError `CHECKPOINT_REFUSED` when it is none, is damaged, or belongs to another run.
   */
  read(): CheckpointState | undefined {
    const found = readCheckpoint(this.#path);
    if (found === undefined) return undefined;
    const differences = (Object.keys(NAMES) as (keyof CheckpointScope)[]).filter(
      (name) => found[name] !== this.#scope[name],
    );
    if (differences.length > 0) {
      const reasons = differences.map((name) => NAMES[name]).join(", ");
      throw refused(this.#path, `belongs to a run with ${reasons}; name another file, or remove it to begin anew`);
    }
    const { startedAt, position, counts: counted, unopened } = found;
    return { startedAt, position, counts: counted, unopened };
  }

  /** Notes where the run stands, and writes it once in a while. */
  note(state: CheckpointState): void {
    // The counts go on: kept as they are now, they belong to the position.
    this.#unwritten = structuredClone(state);
    const now = this.#clock();
    if (now < this.#writtenAt + this.#intervalMs && now >= this.#writtenAt) return;
    this.#writtenAt = now;
    this.flush();
  }

  /** Writes what was noted last. To be called at the end of a run that is not complete. */
  flush(): void {
    if (this.#unwritten === undefined) return;
    const content = { format: "sealed-session checkpoint", version: VERSION, ...this.#scope, ...this.#unwritten };
    replaceFile(this.#path, `${JSON.stringify(content)}\n`);
    this.#unwritten = undefined;
  }

  /** Takes the file away: the run is complete. */
  remove(): void {
    this.#unwritten = undefined;
    rmSync(this.#path, { force: true });
  }
}

/**
 * Which key the run of a checkpoint sealed under.
 *
 * @returns `undefined` when there is no file.
 * @throws CliError `CHECKPOINT_REFUSED` when it is none or is damaged.
 */
export function targetOfCheckpoint(path: string): string | undefined {
  return readCheckpoint(path)?.keyId;
}

function readCheckpoint(path: string): z.infer<typeof file> | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return undefined;
    throw refused(path, `cannot be read (${code})`);
  }
  if (text.length > MAX_BYTES) throw refused(path, "is not a checkpoint");
  let content: unknown;
  try {
    content = JSON.parse(text);
  } catch {
    throw refused(path, "is not a checkpoint, or is damaged");
  }
  const head = header.safeParse(content);
  if (!head.success) throw refused(path, "is not a checkpoint, or is damaged");
  if (head.data.version !== VERSION)
    throw refused(path, `has version ${head.data.version}, and this program writes ${VERSION}`);
  const parsed = file.safeParse(content);
  if (!parsed.success) throw refused(path, "is damaged");
  return parsed.data;
}

function refused(path: string, what: string): CliError {
  return new CliError("CHECKPOINT_REFUSED", `the checkpoint ${path} ${what}`);
}

/** The new content is on the disk before it takes the old one's name, and the name before this returns. */
function replaceFile(path: string, text: string): void {
  const draft = `${path}.new`;
  try {
    writeFileSync(draft, text, { mode: 0o600, flush: true });
    renameSync(draft, path);
  } catch (error) {
    rmSync(draft, { force: true });
    throw error;
  }
  flushDirectory(dirname(path));
}

function flushDirectory(path: string): void {
  // Windows opens no directories, and needs no such thing.
  if (process.platform === "win32") return;
  const directory = openSync(path, "r");
  try {
    fsyncSync(directory);
  } finally {
    closeSync(directory);
  }
}
