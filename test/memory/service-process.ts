/**
 * Starts `service.mjs` in a process of its own and talks to it.
 */
import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";

const MODULE = fileURLToPath(new URL("./service.mjs", import.meta.url));

/** Where the service has its keys from: a local KMS and a directory, or AWS KMS and its own memory. */
export type ServiceKeys =
  | { readonly keyFile: string; readonly directory: string }
  | { readonly keyIds: readonly string[]; readonly client: object };

/** A web session and the first 38 bytes of its envelope, in base64. */
export interface SessionHeader {
  readonly sessionId: string;
  readonly header: string;
}

/** What the service has written, without anything secret but session ids. */
export interface ServiceState {
  /** The ring; each record is in base64. */
  readonly records: readonly { readonly keyId: string; readonly record: string }[];
  readonly sessions: readonly SessionHeader[];
  readonly clientBoundSessions: readonly SessionHeader[];
}

/** The service's commands: what each takes, and what it answers. */
interface Commands {
  start: [ServiceKeys & { readonly name: string }, undefined];
  use: [{ readonly senders: number; readonly sessions: number; readonly clientBoundSessions: number }, undefined];
  rotate: [Record<never, never>, undefined];
  read: [{ readonly sessions: readonly { readonly sessionId: string; readonly envelope: string }[] }, undefined];
  report: [Record<never, never>, ServiceState];
  writeHeapSnapshot: [{ readonly path: string }, undefined];
  close: [Record<never, never>, undefined];
  collectGarbage: [Record<never, never>, undefined];
  plantBytes: [{ readonly key: readonly number[] }, undefined];
  plantText: [
    { readonly key: readonly number[]; readonly encoding: BufferEncoding; readonly upperCase: boolean },
    undefined,
  ];
}

interface Answer {
  readonly id: number;
  readonly answer?: unknown;
  readonly failure?: string;
}

/** The service in its process. */
export class ServiceProcess {
  readonly pid: number;
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, { resolve: (answer: unknown) => void; reject: (error: Error) => void }>();
  #lastId = 0;

  /** @param native - Whether the service uses the addon. */
  constructor(native: boolean) {
    this.#child = fork(MODULE, [], {
      // Without the limit a snapshot cuts strings at 1024 characters.
      execArgv: ["--expose-gc", "--heap-snapshot-string-limit=10000000"],
      env: {
        PATH: process.env["PATH"],
        SEALED_SESSION_NATIVE: native ? "require" : "off",
        AWS_SDK_JS_NODE_VERSION_SUPPORT_WARNING_DISABLED: "true",
      },
    });
    if (this.#child.pid === undefined) throw new Error("the service did not start");
    this.pid = this.#child.pid;
    this.#child.on("message", (message) => this.#settle(message as Answer));
    this.#child.on("exit", (code, signal) => this.#failAll(new Error(`the service ended: ${code ?? signal}`)));
  }

  /** Sends one command. @returns its answer. Rejects when the command fails or the process ends. */
  async tell<C extends keyof Commands>(command: C, options: Commands[C][0]): Promise<Commands[C][1]> {
    const id = ++this.#lastId;
    const answer = new Promise<unknown>((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
    this.#child.send({ id, command, options });
    return (await answer) as Commands[C][1];
  }

  /** Ends the process. */
  stop(): void {
    this.#child.kill("SIGKILL");
  }

  #settle({ id, answer, failure }: Answer): void {
    const waiting = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (failure === undefined) waiting?.resolve(answer);
    else waiting?.reject(new Error(`in the service: ${failure}`));
  }

  #failAll(error: Error): void {
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
  }
}
