/**
 * Virtual time: a whole day passes as fast as the events of that day can be worked off, and everything that hangs on time (timers, clocks,
 * the delays of servers) goes by it alone.
 *
 * Each event runs as one `setImmediate` callback. Node drains the queues of microtasks and of `process.nextTick` wholly between two of
 * them (since Node 11, in timers.md under "setImmediate"), so a chain of promises, however long, ends at the virtual time of the event that
 * set it off, provided that none of its links waits for the real world. The callbacks are queued a hundred at a time: one turn of the event
 * loop then serves a hundred events, which makes an event five times cheaper than with a turn for each (0.2 µs and 1.0 µs).
 */

/** Events that one turn of the event loop works off. */
const BATCH = 100;

/** Stops a task that has not run yet; afterwards it does nothing. */
export type Cancel = () => void;

/** Options of {@link VirtualTime.runUntilSettled}. */
export interface RunOptions {
  /** The longest virtual time to wait, in milliseconds. @defaultValue one day */
  readonly withinMs?: number;
}

interface Event {
  /** When it runs, in virtual milliseconds. */
  readonly time: number;
  /** Events of one time run in the order in which they were scheduled. */
  readonly seq: number;
  task: (() => void) | undefined;
}

const DAY_MS = 86_400_000;

/** A clock and its timers. Nothing moves but in {@link VirtualTime.run}. */
export class VirtualTime {
  #now: number;
  #seq = 0;
  #events = 0;
  #running = false;
  /** A binary heap: the events at 2n+1 and 2n+2 are not before the one at n. */
  readonly #heap: Event[] = [];

  /** @param startMs - The first time, in milliseconds since 1970-01-01T00:00:00Z. */
  constructor(startMs = Date.UTC(2026, 0, 1)) {
    this.#now = startMs;
  }

  /** The virtual time in milliseconds since 1970-01-01T00:00:00Z; may be passed on without its object. */
  readonly clock = (): number => this.#now;

  /** How many events have run. */
  get events(): number {
    return this.#events;
  }

  /**
   * Runs a task once, `delayMs` from now; a delay of 0 or less means after what is due now. May be passed on without its object.
   *
   * @returns What cancels it.
   */
  readonly schedule = (task: () => void, delayMs: number): Cancel => {
    if (Number.isNaN(delayMs)) throw new RangeError("delayMs must be a number");
    const event: Event = { time: this.#now + Math.max(0, delayMs), seq: this.#seq++, task };
    this.#push(event);
    // It stays in the heap until its time: most timers that are cancelled are short.
    return () => {
      event.task = undefined;
    };
  };

  /** @returns A promise that is fulfilled `delayMs` from now. */
  delay(delayMs: number): Promise<void> {
    return new Promise((resolve) => {
      this.schedule(resolve, delayMs);
    });
  }

  /**
   * Works off all events up to and including `untilMs`; then it is `untilMs`.
   *
   * @param untilMs - In milliseconds since 1970-01-01T00:00:00Z.
   * @throws What a task throws; the events after it are left alone.
   */
  run(untilMs: number): Promise<void> {
    return this.#work(untilMs, () => false);
  }

  /** As {@link VirtualTime.run}, for so long from now. */
  async runFor(durationMs: number): Promise<void> {
    await this.run(this.#now + durationMs);
  }

  /**
   * Lets time pass until a promise has settled, and no longer.
   *
   * @returns What it was fulfilled with.
   * @throws What it was rejected with; an Error when it was not settled within {@link RunOptions.withinMs}.
   */
  async runUntilSettled<T>(promise: Promise<T>, { withinMs = DAY_MS }: RunOptions = {}): Promise<T> {
    let settled = false;
    const note = () => {
      settled = true;
    };
    promise.then(note, note);
    await this.#work(this.#now + withinMs, () => settled);
    if (!settled) throw new Error(`the promise was not settled within ${withinMs} ms of virtual time`);
    return promise;
  }

  #work(untilMs: number, isDone: () => boolean): Promise<void> {
    if (this.#running) return Promise.reject(new Error("time is running already"));
    this.#running = true;
    return new Promise((resolve, reject) => {
      let stopped = false;
      const stop = (end: () => void) => {
        stopped = true;
        this.#running = false;
        end();
      };
      const step = () => {
        // What is left of the batch in which the end came.
        if (stopped) return;
        if (isDone()) return stop(resolve);
        const event = this.#heap[0];
        if (event === undefined || event.time > untilMs) {
          this.#now = Math.max(this.#now, untilMs);
          return stop(resolve);
        }
        this.#pop();
        if (event.task === undefined) return;
        this.#now = event.time;
        this.#events++;
        try {
          event.task();
        } catch (error) {
          stop(() => reject(error));
        }
      };
      const queueBatch = () => {
        if (stopped) return;
        for (let i = 0; i < BATCH; i++) setImmediate(step);
        setImmediate(queueBatch);
      };
      queueBatch();
    });
  }

  #push(event: Event): void {
    const heap = this.#heap;
    let at = heap.length;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent] as Event;
      if (isBefore(above, event)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = event;
  }

  /** Takes the earliest event out. */
  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop() as Event;
    const length = heap.length;
    if (length === 0) return;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= length) break;
      const right = child + 1;
      if (right < length && isBefore(heap[right] as Event, heap[child] as Event)) child = right;
      const below = heap[child] as Event;
      if (isBefore(last, below)) break;
      heap[at] = below;
      at = child;
    }
    heap[at] = last;
  }
}

function isBefore(a: Event, b: Event): boolean {
  return a.time < b.time || (a.time === b.time && a.seq < b.seq);
}
