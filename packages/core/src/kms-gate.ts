/**
 * The gate in front of one KMS: few calls at once, a deadline for each, and none while it fails again and again.
 *
 * A KMS that is out must cost a request microseconds and not a time-out, and must not be met by a whole fleet's calls at once when it is back.
 */
import type { RandomFill } from "./aead.js";
import { hasCode, KmsError } from "./errors.js";
import type { KmsCallOptions } from "./kms.js";
import type { Schedule } from "./schedule.js";

const MAX_RUNNING = 8;
const MAX_WAITING = 1024;
const FAILURES_TO_OPEN = 5;
const FIRST_PAUSE_MS = 1000;
const MAX_PAUSE_MS = 60_000;
/** Of a pause, either way: processes that lost the KMS together do not come back together. */
const JITTER = 0.2;

/** Options of {@link KmsGate}. */
export interface KmsGateOptions {
  /** The name of the KMS, for errors. */
  readonly kms: string;
  /** The time in milliseconds. */
  readonly clock: () => number;
  /** Sets the deadlines; nothing else is scheduled. */
  readonly schedule: Schedule;
  /** Spreads the pauses. */
  readonly random: RandomFill;
  /** How long a call may take, in milliseconds. The time that it waits for its turn does not count. */
  readonly timeoutMs: number;
  /** Told when the circuit opens and when it closes; not when a probe fails. Must not throw. */
  readonly onChange: (open: boolean) => void;
}

type Call<T> = (options: KmsCallOptions) => Promise<T>;
type Discard<T> = (late: T) => void;

/** A call that waits for its turn. */
interface Waiting {
  start(): void;
  reject(error: KmsError): void;
}

/** An open circuit. Times are in milliseconds. */
interface Circuit {
  readonly openedAt: number;
  /** Before the jitter. */
  readonly basePauseMs: number;
  readonly pauseMs: number;
  probing: boolean;
}

/** One for each KMS and ring. */
export class KmsGate {
  readonly #options: KmsGateOptions;
  readonly #waiting: Waiting[] = [];
  #running = 0;
  #failuresInARow = 0;
  #lastFailure: unknown;
  #circuit: Circuit | undefined;

  /** The options are trusted. */
  constructor(options: KmsGateOptions) {
    this.#options = options;
  }

  /**
   * Runs a call: at most 8 at once, the others in their order. It is given a signal that aborts at its deadline.
   *
   * After 5 failures in a row the circuit opens for 1 s, and for twice as long after each failed probe, up to 60 s, each ±20 %. A failure is
   * everything but a result, `KMS_DENIED` and `KMS_DISABLED`: these are answers, and close it.
   *
   * @param discard - Given the result of a call that was given up at its deadline and answered all the same, so that a key in it can be
   *   wiped: nobody else ever sees it.
   * @throws What the call throws, unchanged. KmsError `KMS_UNREACHABLE` when it gave no answer in time, whether or not it heeds the signal, or
   *   was not made since the circuit is open (`cause` is the last failure); `KMS_THROTTLED` when 1024 calls are waiting already.
   */
  run<T>(call: Call<T>, discard: Discard<T> = () => {}): Promise<T> {
    if (this.#circuit !== undefined) return this.#probe(this.#circuit, call, discard);
    if (this.#running < MAX_RUNNING) return this.#start(call, discard);
    if (this.#waiting.length >= MAX_WAITING) {
      return Promise.reject(this.#error("KMS_THROTTLED", `${MAX_WAITING} calls are waiting already`));
    }
    return new Promise((resolve, reject) => {
      this.#waiting.push({ start: () => void this.#start(call, discard).then(resolve, reject), reject });
    });
  }

  /** There is always room for a probe: the call that opened the circuit has ended, and none has started since. */
  #probe<T>(circuit: Circuit, call: Call<T>, discard: Discard<T>): Promise<T> {
    if (circuit.probing || !this.#isPauseOver(circuit)) return Promise.reject(this.#circuitIsOpen());
    circuit.probing = true;
    return this.#start(call, discard, true);
  }

  async #start<T>(call: Call<T>, discard: Discard<T>, isProbe = false): Promise<T> {
    this.#running++;
    try {
      const result = await this.#answerInTime(call, discard);
      this.#answered(isProbe);
      return result;
    } catch (error) {
      if (hasCode(error, "KMS_DENIED", "KMS_DISABLED")) this.#answered(isProbe);
      else this.#failed(error, isProbe);
      throw error;
    } finally {
      this.#running--;
      this.#waiting.shift()?.start();
    }
  }

  /** A call that is given up gives its place away as well: eight that hang for ever would otherwise be the end of the KMS. */
  #answerInTime<T>(call: Call<T>, discard: Discard<T>): Promise<T> {
    const { schedule, timeoutMs } = this.#options;
    return new Promise((resolve, reject) => {
      const controller = new AbortController();
      const cancel = schedule(() => {
        const error = this.#error("KMS_UNREACHABLE", `no answer within ${timeoutMs} ms`);
        reject(error);
        controller.abort(error);
      }, timeoutMs);
      const { signal } = controller;
      // The function is async for the sake of a call that throws at once.
      const answer = (async () => call({ signal }))();
      answer
        .then((result) => (signal.aborted ? discard(result) : resolve(result)), reject)
        // Only `discard` throws here, over an answer that is none: nobody waits for it any more.
        .catch(() => {})
        .finally(cancel);
    });
  }

  #answered(isProbe: boolean): void {
    this.#failuresInARow = 0;
    // What was asked before the circuit opened does not tell how the KMS is now: only a probe closes it.
    if (!isProbe) return;
    this.#circuit = undefined;
    this.#options.onChange(false);
  }

  #failed(error: unknown, isProbe: boolean): void {
    this.#lastFailure = error;
    if (this.#circuit !== undefined) {
      if (isProbe) this.#open(Math.min(2 * this.#circuit.basePauseMs, MAX_PAUSE_MS));
    } else if (++this.#failuresInARow >= FAILURES_TO_OPEN) {
      this.#open(FIRST_PAUSE_MS);
      for (const { reject } of this.#waiting.splice(0)) reject(this.#circuitIsOpen());
      this.#options.onChange(true);
    }
  }

  #open(basePauseMs: number): void {
    const { clock, random } = this.#options;
    const drawn = new Uint8Array(4);
    random(drawn);
    const fraction = new DataView(drawn.buffer).getUint32(0) / 2 ** 32;
    const pauseMs = basePauseMs * (1 - JITTER + 2 * JITTER * fraction);
    this.#circuit = { openedAt: clock(), basePauseMs, pauseMs, probing: false };
  }

  /** A clock that was set back ends the pause: waiting for it to catch up could take days. */
  #isPauseOver({ openedAt, pauseMs }: Circuit): boolean {
    const now = this.#options.clock();
    return now < openedAt || now - openedAt >= pauseMs;
  }

  #circuitIsOpen(): KmsError {
    return this.#error(
      "KMS_UNREACHABLE",
      "not asked, the circuit is open: it failed again and again",
      this.#lastFailure,
    );
  }

  #error(code: "KMS_THROTTLED" | "KMS_UNREACHABLE", message: string, cause?: unknown): KmsError {
    return new KmsError(code, message, { kms: this.#options.kms, cause });
  }
}
