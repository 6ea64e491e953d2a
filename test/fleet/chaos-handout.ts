/**
 * Hands envelopes to processes until each was opened: fresh ones of others and old ones. A refusal that may pass is tried again, any
 * other is a failure at once.
 */
import type { Fleet } from "./chaos-fleet.js";
import type { ChaosLedger, SealedEnvelope } from "./chaos-ledger.js";
import type { FromWorker } from "./chaos-messages.js";
import type { SeededRandom } from "./chaos-random.js";

/** What a process may answer while servers fail over; everything else about an envelope that is genuine is wrong. */
const TEMPORARY = new Set(["KEY_UNAVAILABLE", "STORE_UNAVAILABLE"]);
const RETRY_MS = 100;
/** Envelopes that a process has at once. */
const MAX_IN_HAND = 200;
const TICK_MS = 10;

interface Task {
  readonly envelope: SealedEnvelope;
  /** Only this process will do; otherwise any. */
  readonly to: string | undefined;
  /** When the envelope was first to be opened. */
  readonly since: number;
  notBefore: number;
  refusals: number;
  lastRefusal: string;
}

/** Tells whether a refusal that is wrong as a rule may pass here. */
export type MayPass = (name: string, envelope: SealedEnvelope, refusal: Refusal) => boolean;

/** What a process says that did not open an envelope. */
export type Refusal = Extract<FromWorker, { type: "refused" }>;

/** The envelopes that are to be opened, and who has them. */
export class Handout {
  readonly #fleet: Fleet;
  readonly #ledger: ChaosLedger;
  readonly #random: SeededRandom;
  readonly #mayPass: MayPass;
  #waiting: Task[] = [];
  /** By process and number of the envelope. */
  readonly #inHand = new Map<string, Map<number, Task[]>>();
  readonly #timer: NodeJS.Timeout;
  #retried = 0;

  constructor(fleet: Fleet, ledger: ChaosLedger, random: SeededRandom, mayPass: MayPass) {
    this.#fleet = fleet;
    this.#ledger = ledger;
    this.#random = random;
    this.#mayPass = mayPass;
    this.#timer = setInterval(() => this.#handOut(), TICK_MS);
  }

  /** Refusals after which an envelope was handed out again. */
  get retried(): number {
    return this.#retried;
  }

  /** Has a new envelope opened by somebody else, and an old one too. */
  addFresh(envelope: SealedEnvelope): void {
    const others = this.#fleet.running.filter((name) => name !== envelope.by);
    this.add(envelope, this.#random.pick(others));
    const old = this.#random.pick(this.#ledger.envelopes);
    if (old !== undefined) this.add(old);
  }

  /** Has an envelope opened by `to`, or else by any process. One that dies leaves it to the others. */
  add(envelope: SealedEnvelope, to?: string): void {
    this.#waiting.push({ envelope, to, since: Date.now(), notBefore: 0, refusals: 0, lastRefusal: "no answer" });
  }

  /** How many envelopes that were to be opened at this time, in milliseconds since 1970-01-01T00:00:00Z, are not yet. */
  leftFrom(time: number): number {
    return this.#tasks().filter(({ since }) => since <= time).length;
  }

  /** Gives up on envelopes that were to be opened at this time, and reports each. */
  abandonFrom(time: number): void {
    for (const { envelope, since, refusals, lastRefusal } of this.#tasks()) {
      if (since > time) continue;
      const what = this.#ledger.describe(envelope.number);
      this.#ledger.fail(`${what} could not be opened, ${refusals} refusals: ${lastRefusal}`, envelope.keyId);
    }
    this.#waiting = [];
    this.#inHand.clear();
  }

  /** Takes the answer of a process. */
  heard(name: string, message: Extract<FromWorker, { type: "opened" }> | Refusal): void {
    const task = this.#takeBack(name, message.number);
    if (task === undefined) return;
    if (message.type === "opened") {
      this.#ledger.addOpened(message.number, message.value, name);
    } else if (TEMPORARY.has(message.code) || this.#mayPass(name, task.envelope, message)) {
      this.#retried++;
      const refusal = { refusals: task.refusals + 1, lastRefusal: `${name} said ${message.code} ${message.reason}` };
      this.#waiting.push(Object.assign(task, refusal, { notBefore: Date.now() + RETRY_MS }));
    } else {
      const what = this.#ledger.describe(message.number);
      this.#ledger.fail(`${name} refused ${what}: ${message.code}`, task.envelope.keyId);
    }
  }

  /** A process has ended: what it had goes to others. */
  ended(name: string): void {
    for (const tasks of this.#inHand.get(name)?.values() ?? []) {
      this.#waiting.push(...tasks.map((task) => ({ ...task, to: undefined })));
    }
    this.#inHand.delete(name);
    this.#waiting = this.#waiting.map((task) => (task.to === name ? { ...task, to: undefined } : task));
  }

  /** Hands out nothing more. */
  stop(): void {
    clearInterval(this.#timer);
  }

  #handOut(): void {
    const now = Date.now();
    const running = this.#fleet.running;
    const parcels = new Map<string, SealedEnvelope[]>();
    const kept: Task[] = [];
    for (const task of this.#waiting) {
      const name = task.to ?? this.#random.pick(running);
      const hand = name === undefined ? undefined : this.#handOf(name);
      if (name === undefined || hand === undefined || task.notBefore > now || hand.size >= MAX_IN_HAND) {
        kept.push(task);
        continue;
      }
      const { number } = task.envelope;
      hand.set(number, [...(hand.get(number) ?? []), task]);
      parcels.set(name, [...(parcels.get(name) ?? []), task.envelope]);
    }
    this.#waiting = kept;
    for (const [name, envelopes] of parcels) {
      this.#fleet.send(name, { open: envelopes.map(({ number, storedId, bytes }) => ({ number, storedId, bytes })) });
    }
  }

  #takeBack(name: string, number: number): Task | undefined {
    const hand = this.#inHand.get(name);
    const tasks = hand?.get(number);
    const task = tasks?.shift();
    if (tasks?.length === 0) hand?.delete(number);
    return task;
  }

  #handOf(name: string): Map<number, Task[]> {
    const hand = this.#inHand.get(name) ?? new Map<number, Task[]>();
    this.#inHand.set(name, hand);
    return hand;
  }

  #tasks(): Task[] {
    return [...this.#waiting, ...[...this.#inHand.values()].flatMap((hand) => [...hand.values()].flat())];
  }
}
