/**
 * What happened in a run: every envelope, every key's history, and everything that went wrong.
 */
import { deepStrictEqual } from "node:assert/strict";
import type { KeyStatus } from "@sealed-session/core";
import type { Activation, Seal } from "./chaos-agreement.js";
import { contentOf, type HandedEnvelope } from "./chaos-messages.js";

/** An envelope as the process sealed it that is named in `by`. */
export interface SealedEnvelope extends HandedEnvelope, Seal {}

/** Something that must not happen. */
export interface ChaosFailure {
  /** In one line. */
  readonly what: string;
  /** The key that it is about. */
  readonly keyId?: string;
}

interface Note {
  readonly at: number;
  readonly keyId: string | undefined;
  readonly text: string;
}

/** The memory of the parent; the processes have none that lasts. */
export class ChaosLedger {
  readonly envelopes: SealedEnvelope[] = [];
  readonly failures: ChaosFailure[] = [];
  /** When each key that any process knew begins to seal. */
  readonly #activations = new Map<string, number>();
  readonly #notes: Note[] = [];
  readonly #startedAt = Date.now();
  /** Numbers of envelopes by the process that opened them. */
  readonly #openedBy = new Map<string, Set<number>>();
  #opened = 0;
  #longestSealMs = 0;

  /** Envelopes that were opened and held what was sealed, each as often as that. */
  get opened(): number {
    return this.#opened;
  }

  /** @returns how many different envelopes a process opened. */
  openedBy(name: string): number {
    return this.#openedBy.get(name)?.size ?? 0;
  }

  /** The longest time that a process took to seal, in milliseconds. */
  get longestSealMs(): number {
    return this.#longestSealMs;
  }

  /** Keys that any process knew. */
  get activations(): Activation[] {
    return [...this.#activations].map(([keyId, activatesAt]) => ({ keyId, activatesAt }));
  }

  /** @returns the new envelope with its number. */
  addEnvelope(sealed: Omit<SealedEnvelope, "number">): SealedEnvelope {
    const envelope = { ...sealed, number: this.envelopes.length };
    this.envelopes.push(envelope);
    this.#longestSealMs = Math.max(this.#longestSealMs, sealed.to - sealed.from);
    return envelope;
  }

  /** Takes down what was in an envelope. */
  addOpened(number: number, value: unknown, by: string): void {
    const envelope = this.envelopes[number];
    try {
      deepStrictEqual(value, contentOf(envelope?.storedId ?? ""));
      this.#opened++;
      this.#openedBy.set(by, (this.#openedBy.get(by) ?? new Set()).add(number));
    } catch {
      this.fail(`${by} found something else in ${this.describe(number)}`, envelope?.keyId);
    }
  }

  /** Takes down the keys that a process knows. */
  addKeys(keys: readonly KeyStatus[]): void {
    for (const { keyId, activatesAt } of keys) this.#activations.set(keyId, activatesAt);
  }

  /** Takes down something that may explain a failure. */
  note(text: string, keyId?: string): void {
    this.#notes.push({ at: Date.now(), keyId, text });
  }

  /** Takes down something that must not happen. */
  fail(what: string, keyId?: string): void {
    this.failures.push(keyId === undefined ? { what } : { what, keyId });
    this.note(`FAILURE: ${what}`, keyId);
  }

  /** @returns an envelope in a few words. */
  describe(number: number): string {
    const envelope = this.envelopes[number];
    if (envelope === undefined) return `envelope ${number}`;
    return `envelope ${number} (sealed by ${envelope.by} at ${this.#clock(envelope.to)} under ${envelope.keyId})`;
  }

  /** @returns all that is known of a key, and what befell the processes and servers meanwhile; a line each. */
  historyOf(keyId: string): string[] {
    const own = this.#notes.filter((note) => note.keyId === keyId);
    const [from, to] = [own[0]?.at ?? 0, own.at(-1)?.at ?? 0];
    return this.#notes
      .filter((note) => note.keyId === keyId || (note.keyId === undefined && note.at >= from && note.at <= to))
      .map(({ at, text }) => `${this.#clock(at)} ${text}`);
  }

  /** @returns the whole story, a line each. */
  history(): string[] {
    return this.#notes.map(({ at, keyId, text }) => `${this.#clock(at)} ${keyId ?? "-"} ${text}`);
  }

  /** @returns a time as seconds since the start of the run. */
  #clock(at: number): string {
    return `${((at - this.#startedAt) / 1000).toFixed(3)} s`;
  }
}
