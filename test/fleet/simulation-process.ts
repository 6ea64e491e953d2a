/** One process of a simulated fleet: a real ring and a real sealer, started and stopped over and over, with requests of its own. */
import { hasCode, KeyRing, Sealer } from "@sealed-session/core";
import type { SimulatedEnvelope } from "./simulation-envelopes.js";
import type { SimulatedFleet } from "./simulation-fleet.js";
import type { KmsClient } from "./simulation-kms.js";

const SECOND_MS = 1000;
/** Pause between two attempts to become ready. */
const START_RETRY_MS = SECOND_MS;
/** AES keys of other processes' senders: few, since every living KeyObject slows the garbage collector, and a thousand processes hold a quarter of a million. */
const MAX_CACHED_SENDERS = 2;

/** From a start of a process to its end. */
export interface ProcessLife {
  readonly ring: KeyRing;
  readonly sealer: Sealer;
  readonly kms: KmsClient;
  /** Seals and opens that wait. */
  readonly waiting: Set<Promise<void>>;
  ready: boolean;
  stopped: boolean;
}

/** A place in the fleet in which one life follows another. */
export class SimulatedProcess {
  readonly #fleet: SimulatedFleet;
  #life: ProcessLife | undefined;
  /** The last thing that this process sealed, in this life or the one before. */
  #own: SimulatedEnvelope | undefined;

  constructor(fleet: SimulatedFleet) {
    this.#fleet = fleet;
  }

  /** The present life; throws when the process is stopped. */
  get life(): ProcessLife {
    if (this.#life === undefined) throw new Error("the process is stopped");
    return this.#life;
  }

  /** Makes a ring with a clock that is a bit off; asks nothing yet. */
  boot(): ProcessLife {
    const { time, random, kms, store, tally, ringOptions, clockErrorMs, sessionTtlMs } = this.#fleet;
    const errorMs = Math.round(random.between(-clockErrorMs, clockErrorMs));
    const client = kms.client();
    const ring = new KeyRing({
      name: "fleet",
      kms: client,
      store,
      clock: () => Math.floor(time.clock()) + errorMs,
      random: random.fill,
      maxCachedSenders: MAX_CACHED_SENDERS,
      ...ringOptions,
    });
    // As a session store does, so that keys retire.
    ring.attach({ maxTtlMs: sessionTtlMs, count: async () => tally.sessionsByKey(sessionTtlMs) }, this.#fleet);
    const sealer = new Sealer({ ring, counted: true });
    this.#life = { ring, sealer, kms: client, waiting: new Set(), ready: false, stopped: false };
    tally.started();
    return this.#life;
  }

  /** Boots, tries to become ready until it is, and serves requests from then on. Leaves a process alone that runs already. */
  async start(): Promise<void> {
    if (this.#life !== undefined) return;
    const { time, tally } = this.#fleet;
    const life = this.boot();
    const startedAt = time.clock();
    while (!life.stopped) {
      try {
        await life.ring.ready();
        break;
      } catch (error) {
        if (life.stopped) return;
        // Anything else is a fault of the ring, and ends the run.
        if (!hasCode(error, "KEY_UNAVAILABLE", "CLOCK_SKEW")) throw error;
        tally.startFailed();
        await time.delay(START_RETRY_MS);
      }
    }
    if (life.stopped) return;
    life.ready = true;
    tally.becameReady(life.kms, time.clock() - startedAt);
    this.#requestLater(life);
  }

  /** Takes no more requests, ends those that wait, and forgets its keys. */
  async stop(): Promise<void> {
    const life = this.#life;
    if (life === undefined) return;
    this.#life = undefined;
    life.stopped = true;
    this.#fleet.tally.stopped(life.kms);
    await Promise.all(life.waiting);
    life.ring.close();
  }

  /** Seals once a second from one virtual time to another, in whatever life it is then. */
  sealEachSecond(fromMs: number, untilMs: number): void {
    const { time, random } = this.#fleet;
    const sealAndGoOn = () => {
      if (this.#life?.ready) this.#seal(this.#life);
      if (time.clock() < untilMs) time.schedule(sealAndGoOn, SECOND_MS);
    };
    time.schedule(sealAndGoOn, fromMs - time.clock() + random.between(0, SECOND_MS));
  }

  #requestLater(life: ProcessLife): void {
    const { time, random, requestEveryMs } = this.#fleet;
    time.schedule(() => {
      if (life.stopped) return;
      this.#request(life);
      this.#requestLater(life);
    }, random.waitOf(requestEveryMs));
  }

  /** What the requests of a moment do: a session is written, and three are read. */
  #request(life: ProcessLife): void {
    const { envelopes } = this.#fleet;
    const toOpen = [this.#own, envelopes.justSealed(), envelopes.old()];
    this.#seal(life);
    for (const envelope of toOpen) {
      if (envelope !== undefined) this.#open(life, envelope);
    }
  }

  #seal(life: ProcessLife): void {
    const number = this.#fleet.envelopes.nextNumber();
    const storedId = `session-${number}`;
    const value = { user: number, roles: ["admin"] };
    try {
      this.#sealed(life.sealer.sealSync(value, storedId), storedId, number);
    } catch (error) {
      this.#afterFailure(life, error, async () =>
        this.#sealed(await life.sealer.seal(value, storedId), storedId, number),
      );
    }
  }

  #open(life: ProcessLife, { bytes, storedId, number }: SimulatedEnvelope): void {
    try {
      this.#opened(life.sealer.openSync(bytes, storedId), number);
    } catch (error) {
      this.#afterFailure(life, error, async () => this.#opened(await life.sealer.open(bytes, storedId), number));
    }
  }

  #sealed(bytes: Uint8Array, storedId: string, number: number): void {
    this.#own = { bytes, storedId, number };
    this.#fleet.tally.sealed(bytes);
    this.#fleet.envelopes.add(this.#own);
  }

  #opened(value: unknown, number: number): void {
    if ((value as { user: number }).user !== number) throw new Error("an envelope opened to another value");
    this.#fleet.tally.openedEnvelope();
  }

  /** A seal or an open that could not be done at once is counted, and done with waiting. */
  #afterFailure(life: ProcessLife, error: unknown, again: () => Promise<void>): void {
    if (!hasCode(error, "KEY_UNAVAILABLE")) {
      this.#failed(error);
      return;
    }
    const wait = this.#wait(life, again).finally(() => life.waiting.delete(wait));
    life.waiting.add(wait);
  }

  async #wait(life: ProcessLife, again: () => Promise<void>): Promise<void> {
    const { tally } = this.#fleet;
    tally.waited();
    const before = life.kms.calls;
    try {
      await again();
    } catch (error) {
      this.#failed(error);
    } finally {
      if (life.kms.calls > before) tally.waitedForKms();
    }
  }

  #failed(error: unknown): void {
    const code = typeof error === "object" && error !== null && "code" in error ? String(error.code) : String(error);
    this.#fleet.tally.failedWith(code);
  }
}
