/**
 * How far a long run is: a bar on a terminal, a line every five seconds elsewhere.
 */
import { SingleBar } from "cli-progress";
import { formatDuration } from "./duration.js";
import { formatCount } from "./format.js";
import type { OutputStream } from "./terminal.js";

/** Where a run stands. */
interface ProgressState {
  readonly done: number;
  /** About how much there is; what is not known is left out. */
  readonly total?: number;
  /** What else is to be said, such as counts. */
  readonly detail?: string;
  /** Takes the place of the numbers. */
  readonly text?: string;
}

/** Something that is shown until it is stopped. */
export interface Progress {
  update(state: ProgressState): void;
  /** Takes the bar off its line, for a line of text. */
  clear(): void;
  /** Puts it back. */
  redraw(): void;
  /** Takes it away; may be called twice. */
  stop(): void;
}

/** How {@link startProgress} shows. */
export interface ProgressOptions {
  readonly stream: OutputStream;
  /** A bar that is drawn anew in its place, or else lines. */
  readonly isBar: boolean;
  /** Milliseconds. */
  readonly clock: () => number;
  /** What an earlier run had done. */
  readonly base: number;
  /** Calls a function again and again, and returns what ends that. @defaultValue setInterval, which does not hold the process open */
  readonly every?: (intervalMs: number, run: () => void) => () => void;
}

const LINE_EVERY_MS = 5000;
/** The rate is that of the last so many milliseconds: a pause or a failover must not show for the rest of the run. */
const RATE_WINDOW_MS = 15_000;
const SAMPLE_EVERY_MS = 500;
const MAX_BAR = 24;
const MIN_BAR = 8;

/** Begins to show how far something is. */
export function startProgress(title: string, options: ProgressOptions): Progress {
  return options.isBar ? startBar(title, options) : startLines(title, options);
}

function startBar(title: string, { stream, clock, base }: ProgressOptions): Progress {
  const meter = new RateMeter(clock, base);
  let state: ProgressState = { done: base };
  // One bar for each stretch without a line of text: at its end it puts the cursor back to where it began.
  const draw = () => {
    const bar = new SingleBar({
      // Of one piece: only a text of its own knows how much room is left.
      format: () => lineOf(title, state, meter, (stream.columns ?? 80) - 1),
      stream: stream as NodeJS.WritableStream,
      forceRedraw: true,
      clearOnComplete: true,
      // The terminal's wrapping stays as it is: nothing has to be mended when the process is killed.
      linewrap: true,
      // SIGINT is this program's own matter.
      gracefulExit: false,
    });
    bar.start(1, 0);
    return bar;
  };
  let bar: SingleBar | undefined = draw();
  let isStopped = false;
  const clear = () => {
    bar?.stop();
    bar = undefined;
  };
  return {
    update: (next) => {
      state = next;
      meter.note(next.done);
    },
    clear,
    redraw: () => {
      if (!isStopped) bar ??= draw();
    },
    stop: () => {
      isStopped = true;
      clear();
    },
  };
}

function startLines(title: string, { stream, clock, base, every = everyInterval }: ProgressOptions): Progress {
  const meter = new RateMeter(clock, base);
  let state: ProgressState = { done: base };
  const cancel = every(LINE_EVERY_MS, () => stream.write(`${title}: ${textOf(state, meter)}\n`));
  return {
    update: (next) => {
      state = next;
      meter.note(next.done);
    },
    clear: () => {},
    redraw: () => {},
    stop: cancel,
  };
}

/** Title, bar, numbers; the bar takes what is left, and where too little is left the detail goes. */
function lineOf(title: string, state: ProgressState, meter: RateMeter, columns: number): string {
  const whole = textOf(state, meter);
  const { detail: _, ...numbers } = state;
  const text = title.length + whole.length + MIN_BAR + 4 <= columns ? whole : textOf(numbers, meter);
  const room = Math.min(MAX_BAR, Math.max(MIN_BAR, columns - title.length - text.length - 4));
  const share = shareOf(state) ?? 0;
  const filled = Math.round(room * share);
  const bar = shareOf(state) === undefined ? "" : `${"█".repeat(filled)}${"░".repeat(room - filled)}  `;
  return `${title}  ${bar}${text}`.slice(0, Math.max(1, columns));
}

/** `45 %, 12,300 of about 27,000, 1,230/s, 12 s left; re-sealed 12,000` */
function textOf(state: ProgressState, meter: RateMeter): string {
  const { done, total, detail, text } = state;
  if (text !== undefined) return text;
  const share = shareOf(state);
  const rate = meter.perSecond();
  const left =
    total !== undefined && rate > 0 && total > done ? formatDuration((1000 * (total - done)) / rate) : undefined;
  const parts = [
    share === undefined ? undefined : `${Math.floor(100 * share)} %`,
    share === undefined ? formatCount(done) : `${formatCount(done)} of about ${formatCount(total as number)}`,
    `${formatCount(Math.round(rate))}/s`,
    left === undefined ? undefined : `${left} left`,
  ];
  const numbers = parts.filter((part) => part !== undefined).join(", ");
  return detail === undefined ? numbers : `${numbers}; ${detail}`;
}

/** From 0 to 1. An estimate that turned out too low is none. */
function shareOf({ done, total }: ProgressState): number | undefined {
  return total === undefined || total <= 0 || done > total ? undefined : done / total;
}

/** How much is done in a second, lately. */
class RateMeter {
  readonly #clock: () => number;
  #samples: { readonly at: number; readonly done: number }[];
  #last: { readonly at: number; readonly done: number };

  constructor(clock: () => number, base: number) {
    this.#clock = clock;
    this.#last = { at: clock(), done: base };
    this.#samples = [this.#last];
  }

  note(done: number): void {
    const at = this.#clock();
    this.#last = { at, done };
    const newest = this.#samples.at(-1);
    if (newest !== undefined && at - newest.at < SAMPLE_EVERY_MS) return;
    this.#samples.push(this.#last);
    while (this.#samples.length > 2 && at - (this.#samples[1]?.at ?? at) >= RATE_WINDOW_MS) this.#samples.shift();
  }

  /** By now and not by the last note: a run that stands still slows down. */
  perSecond(): number {
    const [first] = this.#samples;
    const elapsedMs = this.#clock() - (first?.at ?? 0);
    return elapsedMs <= 0 ? 0 : (1000 * (this.#last.done - (first?.done ?? 0))) / elapsedMs;
  }
}

function everyInterval(intervalMs: number, run: () => void): () => void {
  const timer = setInterval(run, intervalMs);
  timer.unref();
  return () => clearInterval(timer);
}
