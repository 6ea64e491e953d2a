/** Processes of one ring in virtual time: clocks that can be set, timers that run only when time is let pass, and everything counted. */
import { decodeRecord, type KeyRecord } from "../../src/data-key.js";
import { KeyRing, type KeyRingOptions } from "../../src/key-ring.js";
import type { Kms } from "../../src/kms.js";
import { Sealer } from "../../src/sealer.js";
import { type FakeKms, fakeKms } from "./fake-kms.js";
import { START } from "./fixture.js";
import { type OpenRingStore, openRingStore } from "./open-ring-store.js";

/** A timer that was asked for. */
interface VirtualTimer {
  readonly delayMs: number;
  /** When it is due, in milliseconds of passed time. */
  readonly at: number;
  state: "waits" | "ran" | "cancelled";
}

/** A wall clock and timers. Nothing moves but in `advance`; timers do not care what the clock shows. */
export interface VirtualTime {
  /** Milliseconds since 1970-01-01T00:00:00Z. */
  now(): number;
  /** The ring's timer port. */
  schedule(task: () => void, delayMs: number): () => void;
  /** Every timer so far, the oldest first. */
  readonly timers: readonly VirtualTimer[];
  /** Sets the wall clock; no time passes. */
  set(now: number): void;
  /** Lets time pass: each timer that becomes due runs, in order, and all that follows from it. */
  advance(ms: number): Promise<void>;
  /** Lets time pass by as much as a call needs, up to a day, and no more than a step too much. */
  until<T>(call: Promise<T>, stepMs?: number): Promise<T>;
}

const DAY = 86_400_000;

/** @returns Virtual time with no timers; it begins at {@link START}. */
function virtualTime(): VirtualTime {
  let wall = START;
  let passed = 0;
  const timers: VirtualTimer[] = [];
  const waiting = new Map<VirtualTimer, () => void>();
  const passTo = (moment: number) => {
    wall += moment - passed;
    passed = moment;
  };
  const next = (before: number) => {
    let first: VirtualTimer | undefined;
    for (const timer of waiting.keys()) if (first === undefined || timer.at < first.at) first = timer;
    return first !== undefined && first.at <= before ? first : undefined;
  };
  const time: VirtualTime = {
    now: () => wall,
    timers,
    set(now) {
      wall = now;
    },
    schedule(task, delayMs) {
      const timer: VirtualTimer = { delayMs, at: passed + delayMs, state: "waits" };
      timers.push(timer);
      waiting.set(timer, task);
      return () => {
        if (waiting.delete(timer)) timer.state = "cancelled";
      };
    },
    async advance(ms) {
      const end = passed + ms;
      await quiet();
      for (let timer = next(end); timer !== undefined; timer = next(end)) {
        const task = waiting.get(timer) as () => void;
        waiting.delete(timer);
        timer.state = "ran";
        passTo(timer.at);
        task();
        await quiet();
      }
      passTo(end);
    },
    async until(call, stepMs = 1000) {
      let settled = false;
      const note = () => {
        settled = true;
      };
      call.then(note, note);
      await quiet();
      for (let waitedMs = 0; !settled && waitedMs < DAY; waitedMs += stepMs) await time.advance(stepMs);
      if (!settled) throw new Error("the call did not end within a day");
      return call;
    },
  };
  return time;
}

/** Everything that waits for nothing but promises has run: nothing here uses a real timer. */
async function quiet(): Promise<void> {
  for (let turn = 0; turn < 2; turn++) await new Promise((resolve) => setImmediate(resolve));
}

/** How a key came into the store: when, and from when on it seals. */
export interface Publication {
  readonly keyId: string;
  readonly at: number;
  readonly activatesAt: number;
}

/** One ring's store and KMS, and processes that share them. */
export interface VirtualWorld {
  readonly time: VirtualTime;
  readonly kms: FakeKms;
  readonly store: OpenRingStore;
  /** Another process, cold. */
  process(options?: Partial<KeyRingOptions>): KeyRing;
  /** All keys that came into the store, the first one first. */
  readonly publications: Publication[];
  /** What the store holds under a key id, decoded. */
  stored(keyId: string): KeyRecord;
}

/** @param options - Options of every ring, over the world's own: all defaults, and random bytes that are the same in each run. */
export function virtualWorld(options: Partial<KeyRingOptions> = {}): VirtualWorld {
  const time = virtualTime();
  const kms = fakeKms();
  const store = openRingStore(time.now);
  const publications: Publication[] = [];
  const write = store.write;
  store.write = async (ring, keyId, record, conditions) => {
    const isNew = !store.records.has(keyId);
    const result = await write(ring, keyId, record, conditions);
    const activatesAt = decodeRecord(record)?.activatesAt as number;
    if (isNew && result.written) publications.push({ keyId, at: time.now(), activatesAt });
    return result;
  };
  const random = pseudoRandom(1);
  const common: KeyRingOptions = { name: "web", kms, store, clock: time.now, random, schedule: time.schedule };
  return {
    time,
    kms,
    store,
    publications,
    process: (own = {}) => new KeyRing({ ...common, ...options, ...own }),
    stored(keyId) {
      const record = decodeRecord(store.records.get(keyId) ?? new Uint8Array(0));
      if (record === undefined) throw new Error("the store holds no such record");
      return record;
    },
  };
}

/** @returns A source of bytes that look random and are the same in each run; not for keys. */
export function pseudoRandom(seed: number): NonNullable<KeyRingOptions["random"]> {
  let state = seed;
  return (target) => {
    for (let i = 0; i < target.length; i++) {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      target[i] = state >>> 16;
    }
  };
}

/** A KMS with some of its calls replaced. */
export const kmsWith = ({ name, generate, wrap, unwrap }: Kms, own: Partial<Kms>): Kms => ({
  name,
  generate,
  wrap,
  unwrap,
  ...own,
});

/** Processes that know all keys of the ring. */
export async function readyProcesses(
  world: VirtualWorld,
  count: number,
  options?: Partial<KeyRingOptions>,
): Promise<KeyRing[]> {
  const rings = Array.from({ length: count }, () => world.process(options));
  for (const ring of rings) await ring.ready();
  return rings;
}

/** Adds keys to the ring until it holds so many; each seals from its publication on. */
export async function fillRing({ time, store }: VirtualWorld, ring: KeyRing, count: number): Promise<string[]> {
  await ring.ready();
  while (store.records.size < count) {
    await time.advance(1);
    await ring.publish({ delayMs: 0 });
  }
  return [...store.records.keys()];
}

/** A process that holds ten keys, the first of which has sealed `old`, in a ring that nobody rotates. */
export async function warmProcess(options: Partial<KeyRingOptions> = {}) {
  const world = virtualWorld({ rotation: "manual", ...options });
  const job = world.process({ rotation: "automatic" });
  await job.ready();
  const old = await new Sealer({ ring: job, counted: true }).seal("old", "id");
  const ids = await fillRing(world, job, 10);
  job.close();
  const [ring] = (await readyProcesses(world, 1)) as [KeyRing];
  // Whoever wants to retire a key says what is counted.
  const sealer = new Sealer({ ring, counted: true });
  return {
    ...world,
    ring,
    ids,
    currentId: ids.at(-1) as string,
    /** What sealing comes to, and what opening the old envelope comes to: key ids, contents or codes. */
    async sealsAndOpens(): Promise<[unknown, unknown]> {
      const sealed = sealer.seal("new", "id").then((bytes) => Buffer.from(bytes.subarray(2, 14)).toString("base64url"));
      const [seal, open] = [sealed, sealer.open(old, "id")].map((call) =>
        call.catch((error: { code?: unknown }) => error.code ?? error),
      );
      return [await world.time.until(seal as Promise<unknown>), await world.time.until(open as Promise<unknown>)];
    },
    old,
  };
}

/** @returns How often the KMS was called since the last look, by method. */
export function callsOf(kms: FakeKms) {
  const { generate, wrap, unwrap } = kms.calls;
  Object.assign(kms.calls, { generate: 0, wrap: 0, unwrap: 0 });
  return { generate, wrap, unwrap };
}
