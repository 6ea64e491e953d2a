/**
 * Why a value cannot be encoded, and where it stands: thrown at the value, caught and passed on by every container around it,
 * so that the path is only built when something is wrong.
 */
import { type ErrorCode, UnsupportedValueError } from "./errors.js";

type RefusalCode = Extract<ErrorCode, `VALUE_${string}`>;

const MAX_PATH_LENGTH = 200;
/** Shorter than a token of 128 bits in hexadecimal or 256 in base64url: whole, it must not land in a log. */
const MAX_KEY_LENGTH = 31;
const ELLIPSIS = "…";

const IDENTIFIER = /^[\p{ID_Start}$_][\p{ID_Continue}$]*$/u;
/** What JSON leaves as it is and a log or a terminal may obey: C1 controls, bidirectional overrides, line separators, odd spaces. */
const UNPRINTABLE = /(?! )[\p{C}\p{Z}]/gu;

/** A refusal on its way to the root. Not an `Error`: only the one that leaves the codec needs a stack. */
export class Refusal {
  readonly #code: RefusalCode;
  readonly #reason: string;
  readonly #cause: unknown;
  /** The containers around the value and the step from each to the next, innermost first. */
  readonly #containers: object[] = [];
  readonly #steps: string[] = [];

  /**
   * @param code - What kind of refusal it is.
   * @param reason - What is wrong, without the value.
   * @param cause - What the application's code threw, where it threw.
   */
  constructor(code: RefusalCode, reason: string, cause?: unknown) {
    this.#code = code;
    this.#reason = reason;
    this.#cause = cause;
  }

  /** @returns The refusal that was caught; any other error came from a getter, a `toJSON` or a proxy of the application. */
  static from(error: unknown): Refusal {
    return error instanceof Refusal ? error : new Refusal("VALUE_UNSUPPORTED", "reading it threw an error", error);
  }

  /**
   * Notes a container that the refusal passes through.
   *
   * @param container - The object around the value.
   * @param step - The way from it to the value; empty when it is itself at fault.
   */
  inside(container: object, step: string): this {
    this.#containers.push(container);
    this.#steps.push(step);
    return this;
  }

  /** @returns The error for the caller of the codec. */
  toError(): UnsupportedValueError {
    const containers = this.#containers.reverse();
    const steps = this.#steps.reverse();
    // Nobody looks for cycles while all goes well: an endless value passes a limit, and then has a container inside itself.
    const repeated = containers.findIndex((container, index) => containers.indexOf(container) < index);
    const error =
      repeated > 0 && this.#code !== "VALUE_UNSUPPORTED"
        ? new UnsupportedValueError("VALUE_CYCLIC", joined(steps.slice(0, repeated)), "a container inside itself")
        : new UnsupportedValueError(this.#code, joined(steps), this.#reason);
    if (this.#cause !== undefined) Object.defineProperty(error, "cause", { value: this.#cause, configurable: true });
    return error;
  }
}

/** The step to a property: its name, cut and made printable, since a key may be data that nobody meant to see in a log. */
export function keyStep(key: string): string {
  if (key.length <= MAX_KEY_LENGTH && IDENTIFIER.test(key)) return `.${key}`;
  const quoted = JSON.stringify(key.slice(0, MAX_KEY_LENGTH)).slice(1, -1).replace(UNPRINTABLE, escaped);
  return `["${key.length > MAX_KEY_LENGTH || quoted.length > MAX_KEY_LENGTH ? shortened(quoted) : quoted}"]`;
}

function shortened(text: string): string {
  return text.slice(0, MAX_KEY_LENGTH - ELLIPSIS.length).toWellFormed() + ELLIPSIS;
}

function escaped(character: string): string {
  return `\\u{${(character.codePointAt(0) as number).toString(16)}}`;
}

/** Joins the steps; of a long path only the beginning and the end remain. */
function joined(steps: readonly string[]): string {
  const path = steps.join("").replace(/^\./, "");
  if (path.length <= MAX_PATH_LENGTH) return path;
  const half = (MAX_PATH_LENGTH - ELLIPSIS.length) / 2;
  return `${path.slice(0, Math.ceil(half)).toWellFormed()}${ELLIPSIS}${path.slice(-Math.floor(half)).toWellFormed()}`;
}
