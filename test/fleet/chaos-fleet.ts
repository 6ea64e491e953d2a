/**
 * The processes: started, killed and started again.
 */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import type { FromWorker, ToWorker, WorkerSettings } from "./chaos-messages.js";

const WORKER = fileURLToPath(new URL("./chaos-worker.ts", import.meta.url));

/**
 * Makes one file of the program that the processes run and all that it imports: a process that dies often must start fast.
 *
 * @param file - Where to put it.
 */
export async function buildWorker(file: string): Promise<void> {
  await build({
    entryPoints: [WORKER],
    outfile: file,
    bundle: true,
    platform: "node",
    format: "cjs",
    logLevel: "error",
  });
}

/** Who listens to the processes. */
export interface FleetListener {
  /** A process has said something. */
  heard(name: string, message: FromWorker): void;
  /** A process has ended, `killed` or by itself. */
  ended(name: string, killed: boolean): void;
}

interface Member {
  child: ChildProcess | undefined;
  /** It is to end, so its end is no news. */
  doomed: boolean;
  /** It has sealed since it was started. */
  ready: boolean;
  deaths: number;
}

/** Processes by their names, each running or not. */
export class Fleet {
  readonly #program: string;
  readonly #settings: Omit<WorkerSettings, "name">;
  readonly #listener: FleetListener;
  readonly #members = new Map<string, Member>();

  /** @param program - What {@link buildWorker} made. */
  constructor(program: string, settings: Omit<WorkerSettings, "name">, listener: FleetListener) {
    this.#program = program;
    this.#settings = settings;
    this.#listener = listener;
  }

  /** Those that run, and are not just being killed. */
  get running(): string[] {
    return this.#names(({ child, doomed }) => child !== undefined && !doomed);
  }

  /** Those that run and have sealed. */
  get ready(): string[] {
    return this.#names(({ child, doomed, ready }) => child !== undefined && !doomed && ready);
  }

  /** @returns how often a process was killed. */
  deathsOf(name: string): number {
    return this.#members.get(name)?.deaths ?? 0;
  }

  /** Starts a process; `settings` go over those of the fleet. */
  start(name: string, settings: Partial<WorkerSettings> = {}): void {
    const member = this.#members.get(name) ?? { child: undefined, doomed: false, ready: false, deaths: 0 };
    if (member.child !== undefined) throw new Error(`${name} runs`);
    const message = JSON.stringify({ ...this.#settings, ...settings, name });
    const child = fork(this.#program, [message], { serialization: "advanced" });
    Object.assign(member, { child, doomed: false, ready: false });
    this.#members.set(name, member);
    child.on("message", (message: FromWorker) => {
      // What it had said by its end may be heard after that.
      if (message.type === "sealed" && member.child === child) member.ready = true;
      this.#listener.heard(name, message);
    });
    child.on("exit", () => {
      member.child = undefined;
      this.#listener.ended(name, member.doomed);
    });
  }

  /** Ends a process without a farewell, and resolves when it is gone and what it had said was heard. */
  async kill(name: string): Promise<void> {
    const member = this.#members.get(name);
    if (member?.child === undefined) return;
    const { child } = member;
    const gone = [once(child, "exit"), ...(child.connected ? [once(child, "disconnect")] : [])];
    if (!member.doomed) member.deaths++;
    member.doomed = true;
    child.kill("SIGKILL");
    await Promise.all(gone);
  }

  /** Hands envelopes to a process; one that is just dying does not get them. */
  send(name: string, message: ToWorker): void {
    const child = this.#members.get(name)?.child;
    if (child?.connected) child.send(message, () => {});
  }

  /** Ends all processes. */
  async stop(): Promise<void> {
    await Promise.all([...this.#members.keys()].map((name) => this.kill(name)));
  }

  #names(wanted: (member: Member) => boolean): string[] {
    return [...this.#members].filter(([, member]) => wanted(member)).map(([name]) => name);
  }
}
