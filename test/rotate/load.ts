/**
 * Requests of an application during a run: reads, writes, touches, logins and logouts over a `SessionStore`, each checked at once and taken down in the
 * model.
 */
import { hasCode, type SessionStore } from "@sealed-session/core";
import { SeededRandom } from "../fleet/chaos-random.js";
import { type Content, contentOf, isContentOf, type Population } from "./population.js";
import type { SessionModel, Span } from "./session-model.js";

/** What a request does. `increment` is an update of a session that all lanes write. */
export type Operation = "get" | "set" | "update" | "touch" | "destroy" | "create" | "increment" | "look again";

/** How often each comes, of a hundred. */
const MIX: readonly (readonly [Operation, number])[] = [
  ["get", 30],
  ["set", 15],
  ["update", 15],
  ["touch", 12],
  ["destroy", 6],
  ["create", 7],
  ["increment", 8],
  ["look again", 7],
];
const WHEEL: readonly Operation[] = MIX.flatMap(([operation, share]) => Array<Operation>(share).fill(operation));

/** Numbers of sessions from `from` up to, but without, `to`. */
export interface Range {
  readonly from: number;
  readonly to: number;
}

/** Options of {@link Load}. */
export interface LoadOptions {
  readonly sessions: SessionStore<Content>;
  readonly model: SessionModel;
  readonly population: Population;
  /** The idle time of `sessions`, in milliseconds. */
  readonly idleMs: number;
  /** Requests that are under way at a time. */
  readonly lanes: number;
  readonly seed: string;
  /** Sessions that one lane works on alone, so that it knows what must be in them. */
  readonly own: Range;
  /** Sessions in which all lanes count. */
  readonly shared: Range;
  /** Numbers for sessions that are created. */
  readonly fresh: Range;
}

/** Lanes of requests, each with one under way. */
export class Load {
  /** What a request answered that it must not answer. */
  readonly problems: string[] = [];
  readonly #options: LoadOptions;
  readonly #lanes: Lane[];
  readonly #counts = new Map<Operation | "without an answer", number>();
  #running: Promise<unknown> = Promise.resolve();
  #isOn = false;
  #nextFresh: number;

  /** Nothing runs yet. */
  constructor(options: LoadOptions) {
    this.#options = options;
    this.#nextFresh = options.fresh.from;
    this.#lanes = Array.from({ length: options.lanes }, (_, number) => new Lane(options, number));
  }

  /** How many requests of each kind were answered, and how many were not. */
  get counts(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#counts);
  }

  /** Begins, or goes on. */
  resume(): void {
    this.#isOn = true;
    this.#running = Promise.all(this.#lanes.map((lane) => this.#run(lane)));
  }

  /** Resolves when no request is under way. */
  async pause(): Promise<void> {
    this.#isOn = false;
    await this.#running;
  }

  /** Resolves when every lane has done a request that began after the call. */
  async lap(): Promise<void> {
    await this.pause();
    this.resume();
  }

  async #run(lane: Lane): Promise<void> {
    while (this.#isOn) {
      const [operation, index] = this.#choose(lane);
      await this.run(operation, index);
      if (operation === "destroy") lane.left(index);
      if (operation === "create") lane.owns(index);
    }
  }

  #choose(lane: Lane): [Operation, number] {
    const { shared, fresh } = this.#options;
    const wanted = WHEEL[lane.random.between(0, WHEEL.length - 1)] as Operation;
    if (wanted === "increment") return [wanted, lane.random.between(shared.from, shared.to - 1)];
    if (wanted === "create" && this.#nextFresh < fresh.to) return [wanted, this.#nextFresh++];
    if (wanted === "look again") {
      const index = lane.pickLeft();
      if (index !== undefined) return [wanted, index];
    }
    // Once no more are created none is destroyed either: some must be left.
    const isForOwn = wanted !== "create" && wanted !== "look again" && wanted !== "destroy";
    const isWanted = isForOwn || (wanted === "destroy" && this.#nextFresh < fresh.to);
    return [isWanted ? wanted : "get", lane.pickOwn()];
  }

  /** Makes one request about one session. What it answers is compared with the model, and goes into it. */
  async run(operation: Operation, index: number): Promise<void> {
    const { model, population } = this.#options;
    // A command that was given up may still be carried out: nobody could tell what must be there.
    if (operation !== "increment" && model.isUnknown(index)) return;
    const from = Date.now();
    const span = (): Span => ({ from, to: Date.now() });
    try {
      await this.#ask(operation, index, population.sessionId(index), span);
      this.#count(operation);
    } catch (error) {
      if (!hasCode(error, "STORE_UNAVAILABLE")) {
        this.problems.push(`${operation}: ${String(error)}`);
        return;
      }
      this.#count("without an answer");
      const isWrite = operation === "set" || operation === "update" || operation === "increment";
      const isEnd = operation === "destroy" || operation === "create";
      model.unknown(index, isWrite ? "write" : isEnd ? operation : "touch");
    }
  }

  async #ask(operation: Operation, index: number, id: string, span: () => Span): Promise<void> {
    const { sessions, model, idleMs } = this.#options;
    const expect = (what: boolean, problem: string) => {
      if (!what) this.problems.push(`${operation}: ${problem}`);
    };
    const next = () => contentOf(index, model.version(index) + 1);
    switch (operation) {
      case "get": {
        expect(this.#isRight(await sessions.get(id), index), "not what was written");
        model.touched(index, span(), idleMs);
        return;
      }
      case "set": {
        const session = await sessions.get(id);
        expect(this.#isRight(session, index), "not what was written");
        // An object that came from the store is written in one command.
        expect(session !== undefined && (await sessions.set(id, Object.assign(session, next()))), "no such session");
        model.written(index, span(), idleMs);
        return;
      }
      case "update": {
        const written = await sessions.update(id, (session) => {
          expect(this.#isRight(session, index), "not what was written");
          return next();
        });
        expect(written !== undefined, "no such session");
        model.written(index, span(), idleMs);
        return;
      }
      case "increment": {
        const written = await sessions.update(id, ({ version }) => contentOf(index, version + 1));
        expect(written !== undefined, "no such session");
        model.written(index, span(), idleMs);
        return;
      }
      case "touch": {
        expect(await sessions.touch(id), "no such session");
        model.touched(index, span(), idleMs);
        return;
      }
      case "destroy": {
        // Not what it answers: a client that has reconnected asks once more, and then there is none.
        await sessions.destroy(id);
        model.destroyed(index);
        return;
      }
      case "create": {
        await sessions.create(contentOf(index, 0), id);
        model.created(index, span(), idleMs);
        return;
      }
      case "look again": {
        expect((await sessions.get(id)) === undefined, "a destroyed session came back");
        return;
      }
    }
  }

  #isRight(session: Content | undefined, index: number): boolean {
    return isContentOf(session, index) && this.#options.model.mayHold(index, session.version);
  }

  #count(what: Operation | "without an answer"): void {
    this.#counts.set(what, (this.#counts.get(what) ?? 0) + 1);
  }
}

/** What one lane works on. */
class Lane {
  readonly random: SeededRandom;
  readonly #own: number[] = [];
  readonly #left: number[] = [];

  constructor({ own, lanes, seed }: LoadOptions, number: number) {
    this.random = new SeededRandom(`${seed} lane ${number}`);
    for (let index = own.from + number; index < own.to; index += lanes) this.#own.push(index);
  }

  pickOwn(): number {
    return this.random.pick(this.#own) as number;
  }

  pickLeft(): number | undefined {
    return this.random.pick(this.#left);
  }

  owns(index: number): void {
    this.#own.push(index);
  }

  left(index: number): void {
    const at = this.#own.indexOf(index);
    this.#own[at] = this.#own.at(-1) as number;
    this.#own.pop();
    this.#left.push(index);
  }
}
