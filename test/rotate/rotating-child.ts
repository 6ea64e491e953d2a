/**
 * The process that re-seals, from outside.
 */
import { type ChildProcess, fork } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { untilNothingMissing } from "@sealed-session/test/servers";
import { build } from "esbuild";
import { beforeExit } from "../servers/exit-cleanup.js";
import type { FromRotating, RotatingSettings, ToRotating } from "./messages.js";

const PROGRAM = fileURLToPath(new URL("./rotating-process.ts", import.meta.url));
const START_DEADLINE_MS = 30_000;

/** What came of a run. */
export type RotatingResult = Extract<FromRotating, { type: "done" }>;

/** One process, which is made ready, does one run and ends. */
export class RotatingChild {
  /** How far it is. */
  progress = { examined: 0, resealed: 0, total: 0 };
  readonly #child: ChildProcess;
  readonly #folder: string;
  readonly #forget: () => void;
  readonly #collide: (storedIds: readonly string[]) => Promise<void>;
  readonly #done: Promise<RotatingResult>;
  #end: { readonly resolve: (result: RotatingResult) => void; readonly reject: (error: Error) => void } | undefined;
  #isReady = false;
  #isRunning = false;

  private constructor(
    folder: string,
    forget: () => void,
    settings: RotatingSettings,
    collide: (storedIds: readonly string[]) => Promise<void>,
  ) {
    this.#folder = folder;
    this.#forget = forget;
    this.#collide = collide;
    this.#done = new Promise((resolve, reject) => {
      this.#end = { resolve, reject };
    });
    // Whoever waits for the end is told; nobody may be waiting yet.
    this.#done.catch(() => {});
    this.#child = fork(join(folder, "rotating.cjs"), { execArgv: ["--expose-gc"], serialization: "advanced" });
    this.#tell({ type: "settings", settings });
    this.#child.on("message", (message: FromRotating) => this.#hear(message));
    this.#child.on("exit", (code, signal) => {
      this.#isRunning = false;
      this.#end?.reject(new Error(`the process that re-seals has ended with ${signal ?? code}`));
    });
  }

  /**
   * Starts a process and resolves when it holds the keys.
   *
   * @param collide - Changes these sessions, while the process has read them and is about to change them itself.
   */
  static async start(
    settings: RotatingSettings,
    collide: (storedIds: readonly string[]) => Promise<void>,
  ): Promise<RotatingChild> {
    // Synchronous up to `beforeExit`, so that no signal comes in between.
    const folder = mkdtempSync(join(tmpdir(), "sealed-session-rotating-"));
    const forget = beforeExit(() => rmSync(folder, { recursive: true, force: true }));
    // One file: it starts fast, and stays what it is while packages are built anew.
    await build({
      entryPoints: [PROGRAM],
      outfile: join(folder, "rotating.cjs"),
      bundle: true,
      platform: "node",
      format: "cjs",
      logLevel: "error",
    });
    const child = new RotatingChild(folder, forget, settings, collide);
    const ready = untilNothingMissing("a process with its keys", () => (child.#isReady ? undefined : "it"), {
      deadlineMs: START_DEADLINE_MS,
    });
    try {
      await Promise.race([ready, child.#done]);
    } catch (error) {
      child.stop();
      throw error;
    }
    return child;
  }

  /** Whether it re-seals just now. */
  get isRunning(): boolean {
    return this.#isRunning;
  }

  /** Begins to re-seal; resolves when everything is. */
  async run(): Promise<RotatingResult> {
    this.#isRunning = true;
    this.#tell({ type: "start" });
    return await this.#done;
  }

  /** Resolves when it has looked at so many. */
  async untilExamined(count: number): Promise<void> {
    const missing = () => {
      const { examined } = this.progress;
      if (!this.#isRunning) throw new Error(`re-sealing was over before ${count} sessions were looked at`);
      return examined >= count ? undefined : `${examined} of ${count}`;
    };
    await untilNothingMissing("sessions that were looked at", missing, { intervalMs: 5 });
  }

  /** Ends the process, and removes what it was made of. */
  stop(): void {
    this.#child.kill("SIGKILL");
    rmSync(this.#folder, { recursive: true, force: true });
    this.#forget();
  }

  #hear(message: FromRotating): void {
    switch (message.type) {
      case "ready":
        this.#isReady = true;
        return;
      case "progress":
        this.progress = message;
        return;
      case "about to change":
        this.#collide(message.storedIds).then(
          () => this.#tell({ type: "changed", number: message.number }),
          (error: Error) => this.#end?.reject(error),
        );
        return;
      case "done":
        this.#isRunning = false;
        this.#end?.resolve(message);
        return;
      case "failed":
        this.#isRunning = false;
        this.#end?.reject(new Error(`re-sealing failed: ${message.reason}`));
    }
  }

  #tell(message: ToRotating): void {
    if (this.#child.connected) this.#child.send(message, () => {});
  }
}
