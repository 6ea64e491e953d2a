/**
 * What people and scripts see. People: stderr for what goes on, stdout for the result. Scripts (`--json`): one document on stdout, everything else on
 * stderr.
 */
import pc from "picocolors";
import { tell } from "./cli-error.js";
import type { ExitCode } from "./exit-code.js";
import { wrapped } from "./format.js";
import { type Progress, type ProgressOptions, startProgress } from "./progress.js";

/** A stream of the process, as far as it is used. */
export interface OutputStream {
  write(text: string): unknown;
  readonly isTTY?: boolean | undefined;
  readonly columns?: number | undefined;
}

/** Colours, or none of them. */
export type Colors = ReturnType<typeof pc.createColors>;

/** Something that works and should not stay as it is. */
export interface Warning {
  /** A stable word. */
  readonly code: string;
  /** For people. */
  readonly message: string;
}

/** What a command has to say at its end. */
export interface CommandResult {
  /** For scripts: JSON values only. */
  readonly document: Readonly<Record<string, unknown>>;
  /** For people; several lines, without a newline at the end. */
  readonly text: (colors: Colors, columns: number) => string;
  readonly exitCode: ExitCode;
}

/** How a {@link Terminal} behaves. */
export interface TerminalOptions {
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** One JSON document on stdout. */
  readonly json: boolean;
  /** Milliseconds, for rates. */
  readonly clock: () => number;
  /** Calls a function again and again, and returns what ends that. @defaultValue setInterval */
  readonly every?: ProgressOptions["every"];
}

const DEFAULT_COLUMNS = 80;

/** The two streams of one run. */
export class Terminal {
  /** Colours for stderr. */
  readonly colors: Colors;
  readonly #options: TerminalOptions;
  readonly #warnings: Warning[] = [];
  #progress: Progress | undefined;
  #hasDocument = false;

  constructor(options: TerminalOptions) {
    this.#options = options;
    this.colors = colorsFor(options.stderr, options.environment);
  }

  /** All warnings so far, each once. */
  get warnings(): readonly Warning[] {
    return this.#warnings;
  }

  /** Tells people what goes on. */
  say(line: string): void {
    const { stderr } = this.#options;
    this.#progress?.clear();
    // Only for eyes: who searches a log wants a sentence in one line.
    stderr.write(`${stderr.isTTY ? line.replace(/^\S.*$/gm, (part) => wrapped(part, columnsOf(stderr))) : line}\n`);
    this.#progress?.redraw();
  }

  /** Tells people, and the document at the end. The same warning is given once. */
  warn(warning: Warning): void {
    if (this.#warnings.some(({ code, message }) => code === warning.code && message === warning.message)) return;
    this.#warnings.push(warning);
    this.say(`${this.colors.yellow("warning:")} ${warning.message}`);
  }

  /** Begins to show how far something is; one thing at a time. */
  progress(title: string, base = 0): Progress {
    this.#progress?.stop();
    const { stderr, environment, clock, every } = this.#options;
    const isBar = stderr.isTTY === true && environment["TERM"] !== "dumb";
    const progress = startProgress(title, {
      stream: stderr,
      isBar,
      clock,
      base,
      ...(every !== undefined && { every }),
    });
    const stop = () => {
      progress.stop();
      if (this.#progress === shown) this.#progress = undefined;
    };
    const shown: Progress = { ...progress, stop };
    this.#progress = shown;
    return shown;
  }

  /** Gives the result. */
  finish({ document, text }: CommandResult): void {
    const { stdout, environment, json } = this.#options;
    this.#progress?.stop();
    if (json) this.#document(document);
    else stdout.write(`${text(colorsFor(stdout, environment), columnsOf(stdout))}\n`);
  }

  /** Tells of an error. @returns how the process ends. */
  fail(error: unknown): ExitCode {
    this.#progress?.stop();
    const { code, message, requestId, exitCode } = tell(error);
    const request = requestId === undefined ? "" : `\n  KMS request id ${requestId}`;
    this.say(`${this.colors.red("error:")} ${message}${this.colors.dim(` (${code})`)}${request}`);
    if (this.#options.json) this.#document({ error: { code, message, ...(requestId !== undefined && { requestId }) } });
    return exitCode;
  }

  /** Only ever one: what fails afterwards is told on stderr alone. */
  #document(document: object): void {
    if (this.#hasDocument) return;
    this.#hasDocument = true;
    this.#options.stdout.write(`${JSON.stringify(document, undefined, 2)}\n`);
  }
}

function columnsOf({ columns = DEFAULT_COLUMNS }: OutputStream): number {
  return columns;
}

/** NO_COLOR (no-color.org) wins over everything, FORCE_COLOR over what the stream is. */
function colorsFor({ isTTY = false }: OutputStream, environment: Readonly<Record<string, string | undefined>>): Colors {
  const { NO_COLOR: no = "", FORCE_COLOR: force = "", TERM: term } = environment;
  return pc.createColors(no === "" && (force !== "" ? force !== "0" : isTTY && term !== "dumb"));
}
