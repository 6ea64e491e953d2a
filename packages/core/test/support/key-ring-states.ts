/** The set-ups of the ring's state table: virtual time, one key with an envelope under it, one process, and what befalls them. */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { decodeRecord, encodeRecord, type KeyRecord, RecordState } from "../../src/data-key.js";
import { DIAGNOSTICS_CHANNEL, type DiagnosticEvent } from "../../src/diagnostics.js";
import type { KmsErrorCode } from "../../src/errors.js";
import { KeyRing, type KeyRingOptions } from "../../src/key-ring.js";
import { Sealer } from "../../src/sealer.js";
import { type FakeKms, fakeKms } from "./fake-kms.js";
import { HOUR, MINUTE, START } from "./fixture.js";
import { type OpenRingStore, openRingStore } from "./open-ring-store.js";

const SECOND = 1000;
const STORED_ID = "id";
/** The defaults, written out: the table is about these. */
const TIMES = {
  rotationPeriodMs: 24 * HOUR,
  maxSealingAgeMs: 48 * HOUR,
  refreshIntervalMs: MINUTE,
  recheckIntervalMs: 5 * MINUTE,
  outageLimitMs: 6 * HOUR,
  kmsTimeoutMs: 5 * SECOND,
};
/**
 * From the change to the look at its outcome: enough for a refresh, for the next re-check, for the five refresh intervals after which a denied
 * record is sent to the KMS again, and for the longest pause of a circuit breaker.
 */
const SETTLING_MS = 15 * MINUTE;
/** What a call may wait for a KMS that hangs: to open a record, again before it publishes, and to make a key. */
const PATIENCE_MS = 3 * TIMES.kmsTimeoutMs;

/** What became of the key's record. */
export const RECORDS = [
  "enabled",
  "revoked",
  "retired",
  "revoked by configuration",
  "gone",
  "with junk as its wrap",
  "with another time",
  "moved from another ring",
] as const;
/** What the process held when that happened. */
export const CACHES = ["cold", "warm", "denied before", "suspended"] as const;
/** How the KMS answers from then on. */
export const KMS_STATES = ["answers", "denies", "disabled", "throttled", "unreachable", "hangs"] as const;
/** Where the clock stands in the life of the key. */
export const CLOCKS = ["before its time", "in its time", "past its sealing age", "set back in its time"] as const;

/** One combination. */
export interface Cell {
  readonly record: (typeof RECORDS)[number];
  readonly cache: (typeof CACHES)[number];
  readonly kms: (typeof KMS_STATES)[number];
  readonly clock: (typeof CLOCKS)[number];
}

/** What a call came to: its value, or the code of its error with that of the KMS behind it. */
export type Outcome = { readonly value: unknown } | { readonly code: unknown; readonly cause: unknown };

/** What is to be seen in one cell. */
interface Sighting {
  /** The id of the key that sealed, as the value. */
  readonly seal: Outcome;
  /** What the envelope held, as the value. */
  readonly open: Outcome;
  /** The key's id, as `seal` would show it. */
  readonly keyId: string;
  /** Whether the store holds the key's record as it once was. */
  readonly inStore: boolean;
  /** Whether a process like this one, with a KMS that answers, could ever have held the key with the record in this state. */
  readonly couldHold: boolean;
}

/** A wall clock that can be set, and timers that do not care. */
interface VirtualTime {
  /** Milliseconds since 1970-01-01T00:00:00Z. */
  now(): number;
  /** The ring's timer port. */
  schedule(task: () => void, delayMs: number): () => void;
  /** Sets the wall clock; no time passes. */
  set(now: number): void;
  /** Lets time pass: each timer that becomes due runs, in order, and all that follows from it. */
  advance(ms: number): Promise<void>;
}

/** @returns Virtual time with no timers; it begins at {@link START}. */
function virtualTime(): VirtualTime {
  let wall = START;
  let passed = 0;
  const timers = new Set<{ readonly at: number; readonly task: () => void }>();
  const passTo = (moment: number) => {
    wall += moment - passed;
    passed = moment;
  };
  return {
    now: () => wall,
    set(now) {
      wall = now;
    },
    schedule(task, delayMs) {
      const timer = { at: passed + delayMs, task };
      timers.add(timer);
      return () => void timers.delete(timer);
    },
    async advance(ms) {
      const end = passed + ms;
      await quiet();
      for (;;) {
        const [next] = [...timers].sort((a, b) => a.at - b.at);
        if (next === undefined || next.at > end) break;
        timers.delete(next);
        passTo(next.at);
        next.task();
        await quiet();
      }
      passTo(end);
    },
  };
}

/** Everything that waits for nothing but promises has run: nothing here uses a real timer. */
async function quiet(): Promise<void> {
  for (let i = 0; i < 2; i++) await new Promise((resolve) => setImmediate(resolve));
}

/** Sets a cell up, lets it settle, and looks. */
export async function lookAt(cell: Cell): Promise<Sighting> {
  const world = await worldOf(cell);
  const { time, store, key } = world;
  time.set(START + STARTS[cell.clock]);
  const processes = cell.cache === "cold" ? [world.process(), world.process()] : [await warmProcess(world)];
  const [opener, sealer = opener] = processes as [KeyRing, KeyRing?];
  if (cell.cache !== "cold") await fall(cell.cache, opener, world);

  RECORD_CHANGES[cell.record](world);
  setKms(world.kms, cell.kms);
  if (cell.clock === "set back in its time") time.set(time.now() - HOUR);
  if (cell.cache !== "cold") await time.advance(SETTLING_MS);

  const patienceMs = cell.kms === "hangs" ? PATIENCE_MS : 0;
  const open = await outcomeOf(time, patienceMs, new Sealer({ ring: opener }).open(key.envelope, STORED_ID));
  const seal = await outcomeOf(time, patienceMs, sealedUnder(sealer));
  const inStore = Buffer.from(store.records.get(key.keyId) ?? []).equals(key.record);
  for (const ring of processes) ring.close();
  return { seal, open, keyId: key.keyId, inStore, couldHold: await couldHold(world) };
}

/** When each set-up begins, from the key's time. What follows takes up to seven hours and must not leave the position. */
const STARTS: Record<Cell["clock"], number> = {
  "before its time": -20 * HOUR,
  "in its time": HOUR,
  "past its sealing age": TIMES.maxSealingAgeMs + HOUR,
  "set back in its time": 3 * HOUR,
};

interface World {
  readonly time: VirtualTime;
  readonly kms: FakeKms;
  readonly store: OpenRingStore;
  /** The key whose time is {@link START}. */
  readonly key: KeyUnderTest;
  /** Another process, cold. */
  process(options?: Partial<KeyRingOptions>): KeyRing;
}

interface KeyUnderTest {
  readonly keyId: string;
  readonly keyIdBytes: Uint8Array;
  /** The record's bytes as they were published. */
  readonly record: Uint8Array;
  readonly envelope: Uint8Array;
}

async function worldOf({ record }: Cell): Promise<World> {
  const time = virtualTime();
  const kms = fakeKms();
  const store = openRingStore(time.now);
  const isForeign = record === "moved from another ring";
  const common = { ...TIMES, kms, clock: time.now, random: pseudoRandom(), schedule: time.schedule };
  const home = isForeign ? { name: "other", store: openRingStore(time.now) } : { name: "web", store };
  const key = await makeKey(new KeyRing({ ...common, ...home }), home.store);
  const revokedKeyIds = record === "revoked by configuration" ? [key.keyId] : [];
  const process = (options = {}) => new KeyRing({ ...common, name: "web", store, revokedKeyIds, ...options });
  return { time, kms, store, key, process };
}

async function makeKey(ring: KeyRing, store: OpenRingStore): Promise<KeyUnderTest> {
  const { keyId, keyIdBytes } = await ring.current();
  const envelope = await new Sealer({ ring }).seal("content", STORED_ID);
  const record = store.records.get(keyId) as Uint8Array;
  ring.close();
  return { keyId, keyIdBytes: keyIdBytes.slice(), record, envelope };
}

/** Every run is the same, and no jitter is at the edge of its range. */
function pseudoRandom(): KeyRingOptions["random"] & {} {
  let state = 1;
  return (target) => {
    for (let i = 0; i < target.length; i++) {
      state = (Math.imul(state, 1103515245) + 12345) >>> 0;
      target[i] = state >>> 16;
    }
  };
}

async function warmProcess({ process }: World): Promise<KeyRing> {
  const ring = process();
  await ring.ready();
  return ring;
}

const FALLS: Record<
  "denied before" | "suspended",
  [event: DiagnosticEvent["type"], state: Cell["kms"], withinMs: number]
> = {
  "denied before": ["key-denied", "denies", 0],
  suspended: ["key-suspended", "unreachable", TIMES.outageLimitMs],
};

/** Lets a warm process lose its keys, by the re-check that is denied or by an outage that lasts. */
async function fall(cache: Cell["cache"], ring: KeyRing, { time, kms, key }: World): Promise<void> {
  if (cache === "warm") return;
  const [event, state, withinMs] = FALLS[cache === "suspended" ? cache : "denied before"];
  setKms(kms, state);
  const deadline = time.now() + withinMs + TIMES.recheckIntervalMs + 2 * TIMES.refreshIntervalMs;
  const holdsKeys = () => ring.currentIfWarm() !== undefined || ring.byIdIfWarm(key.keyIdBytes) !== undefined;
  const events = new Set<string>();
  const collect = (event: unknown) => void events.add((event as DiagnosticEvent).type);
  subscribe(DIAGNOSTICS_CHANNEL, collect);
  while (holdsKeys() && time.now() <= deadline) await time.advance(TIMES.refreshIntervalMs);
  unsubscribe(DIAGNOSTICS_CHANNEL, collect);
  if (holdsKeys()) throw new Error(`the process still holds its keys: it should be ${cache}`);
  if (!events.has(event)) throw new Error(`the keys are gone for another reason: the process should be ${cache}`);
}

function setKms(kms: FakeKms, state: Cell["kms"]): void {
  const codes: Partial<Record<Cell["kms"], KmsErrorCode>> = {
    denies: "KMS_DENIED",
    disabled: "KMS_DISABLED",
    throttled: "KMS_THROTTLED",
    unreachable: "KMS_UNREACHABLE",
  };
  kms.failWith = codes[state];
  kms.gate = state === "hangs" ? new Promise(() => {}) : Promise.resolve();
}

const RECORD_CHANGES: Record<Cell["record"], (world: World) => void> = {
  enabled: () => {},
  revoked: (world) => alter(world, (record) => ({ ...record, state: RecordState.revoked })),
  retired: (world) => alter(world, (record) => ({ ...record, state: RecordState.retired, wraps: [] })),
  "revoked by configuration": () => {},
  gone: ({ store, key }) => void store.records.delete(key.keyId),
  "with junk as its wrap": (world) =>
    alter(world, (record) => ({ ...record, wraps: [{ kms: "fake", wrapped: Uint8Array.of(0xff) }] })),
  // A time that would make it the one that seals.
  "with another time": (world) => alter(world, (record) => ({ ...record, activatesAt: world.time.now() - MINUTE })),
  "moved from another ring": (world) => alter(world, (record) => record),
};

/** Writes the key's record into the ring, as somebody with write access could. */
function alter({ store, key }: World, change: (record: KeyRecord) => KeyRecord): void {
  store.records.set(key.keyId, encodeRecord(change(decodeRecord(key.record) as KeyRecord)));
}

/** Lets a call come to its end, or gives it up: `waits`. */
async function outcomeOf(time: VirtualTime, patienceMs: number, call: Promise<unknown>): Promise<Outcome> {
  let outcome: Outcome | undefined;
  call.then(
    (value) => {
      outcome = { value };
    },
    (error: { code?: unknown; cause?: { code?: unknown } }) => {
      outcome = { code: error.code ?? error, cause: error.cause?.code };
    },
  );
  await quiet();
  for (let waitedMs = 0; outcome === undefined && waitedMs < patienceMs; waitedMs += SECOND) {
    await time.advance(SECOND);
  }
  return outcome ?? { code: "waits", cause: undefined };
}

async function sealedUnder(ring: KeyRing): Promise<string> {
  const envelope = await new Sealer({ ring }).seal("content", STORED_ID);
  return Buffer.from(envelope.subarray(2, 14)).toString("base64url");
}

/** Asks a process whose KMS answers and whose ring holds the record as it was: in its ring, or moved into this one. */
async function couldHold({ time, kms, store, key, process }: World): Promise<boolean> {
  setKms(kms, "answers");
  const copy = openRingStore(time.now);
  for (const [keyId, record] of store.records) copy.records.set(keyId, record);
  copy.records.set(key.keyId, key.record);
  const ring = process({ store: copy });
  await ring.ready();
  const held = ring.byIdIfWarm(key.keyIdBytes) !== undefined;
  ring.close();
  return held;
}
