/** What a fleet does while its KMS or its ring store is out, and how it comes back, in virtual time. */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import {
  DIAGNOSTICS_CHANNEL,
  type DiagnosticEvent,
  type EnvelopeStore,
  memoryStore,
  parseEnvelope,
  SessionStore,
} from "@sealed-session/core";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { SimulatedFleet, type SimulatedFleetOptions } from "./simulation-fleet.js";
import type { KmsMode } from "./simulation-kms.js";
import type { ProcessLife } from "./simulation-process.js";

const SECOND_MS = 1000;
const MINUTE_MS = 60 * SECOND_MS;
const HOUR_MS = 60 * MINUTE_MS;
const PROCESSES = 12;
const KMS_ANSWER_MS = 50;
/** A read of the ring's store and a little more. */
const STORE_MS = 5;
const RECHECK_MS = 5 * MINUTE_MS;
/** The longest pause of a circuit, with its jitter. */
const CIRCUIT_PAUSE_MS = 72 * SECOND_MS;
const STORED_ID = "a-session";

/** Events of all processes, from the start of each test. */
const events: DiagnosticEvent[] = [];
const noteEvent = (event: unknown) => void events.push(event as DiagnosticEvent);

beforeEach(() => {
  events.length = 0;
  subscribe(DIAGNOSTICS_CHANNEL, noteEvent);
});
afterEach(() => void unsubscribe(DIAGNOSTICS_CHANNEL, noteEvent));

describe("a KMS that gives no answer for ten minutes", () => {
  it.each<KmsMode>(["KMS_UNREACHABLE", "KMS_THROTTLED", "hanging"])(
    "fails no request of a process that was ready, nor makes it wait: %s",
    async (mode) => {
      const fleet = await startFleet();
      fleet.kms.mode = mode;
      const before = fleet.tally.numbers();
      await fleet.time.runFor(10 * MINUTE_MS);
      fleet.kms.mode = "up";
      await fleet.time.runFor(5 * MINUTE_MS);
      const { seals, opens, failed, waits } = fleet.tally.numbers();
      expect(seals - before.seals).toBeGreaterThan(PROCESSES * 60);
      expect(opens - before.opens).toBeGreaterThan(PROCESSES * 180);
      expect({ failed, waits }).toEqual({ failed: {}, waits: 0 });
      // It was missed.
      expect(typesOf(events)).toContain("kms-failed");
      await fleet.stop();
    },
  );

  it("lets a process that starts cold know at once, and with the circuit open without a call", async () => {
    const fleet = await startFleet();
    const { time, kms, processes } = fleet;
    const envelope = sealed(lifeOf(fleet, 1));
    kms.mode = "KMS_UNREACHABLE";
    await processes[0]?.stop();
    const life = processes[0]?.boot() as ProcessLife;
    const first = await failureOf(fleet, life.ring.ready());
    expect(first).toMatchObject({ error: { code: "KEY_UNAVAILABLE", cause: { code: "KMS_UNREACHABLE" } } });
    expect(life.kms.calls).toBe(1);
    expect(first.afterMs).toBeGreaterThanOrEqual(KMS_ANSWER_MS);
    expect(first.afterMs).toBeLessThan(KMS_ANSWER_MS + STORE_MS);

    for (let attempt = 2; attempt <= 5; attempt++) await failureOf(fleet, life.ring.ready());
    expect(typesOf(events)).toContain("kms-circuit-opened");
    const before = life.kms.calls;
    const attempts = [
      () => life.ring.ready(),
      () => life.sealer.seal({ user: 1 }, STORED_ID),
      () => life.sealer.open(envelope, STORED_ID),
    ];
    for (const attempt of attempts) {
      const { error, afterMs } = await failureOf(fleet, attempt());
      expect(error).toMatchObject({ code: "KEY_UNAVAILABLE", cause: { code: "KMS_UNREACHABLE" } });
      expect(afterMs).toBeLessThan(STORE_MS);
    }
    expect(life.kms.calls).toBe(before);

    kms.mode = "up";
    await time.runFor(2 * SECOND_MS);
    await time.runUntilSettled(life.ring.ready());
    expect(life.sealer.openSync(envelope, STORED_ID)).toEqual({ user: 1 });
    await fleet.stop();
  });

  it("is over for processes that started meanwhile without another restart", async () => {
    const fleet = await startFleet();
    const { time, kms, tally, processes } = fleet;
    kms.mode = "KMS_UNREACHABLE";
    const cold = processes.slice(0, 5);
    for (const process of cold) {
      await time.runUntilSettled(process.stop());
      void process.start();
    }
    await time.runFor(10 * MINUTE_MS);
    expect(cold.map(({ life }) => life.ready)).toEqual(cold.map(() => false));
    // A circuit that is open answers for the KMS: attempts every second for ten minutes are few calls.
    for (const { life } of cold) expect(life.kms.calls).toBeLessThan(30);
    kms.mode = "up";
    await time.runFor(CIRCUIT_PAUSE_MS + SECOND_MS);
    expect(cold.map(({ life }) => life.ready)).toEqual(cold.map(() => true));
    await time.runFor(5 * MINUTE_MS);
    const { failed, waits, firstUnwraps, met } = tally.numbers();
    expect({ failed, waits }).toEqual({ failed: {}, waits: 0 });
    // Calls that had to be made again are counted as such.
    expect(firstUnwraps / met).toBeGreaterThan(1.1);
    await fleet.stop();
  });

  it("puts off a rotation that was due, which then comes by itself and ahead of its time", async () => {
    const fleet = await startFleet();
    const { time, kms, tally } = fleet;
    const [first] = sealingKeys(fleet);
    const keySince = time.clock();
    await time.runFor(50 * MINUTE_MS);
    // From before the key is published to after its time.
    kms.mode = "KMS_UNREACHABLE";
    await time.runFor(20 * MINUTE_MS);
    expect(time.clock() - keySince).toBeGreaterThan(HOUR_MS);
    expect(sealingKeys(fleet)).toEqual([first]);
    expect(typesOf(events)).toContain("ring-rotation-failed");
    kms.mode = "up";
    // The pause of a circuit, a refresh interval until somebody publishes, and the two by which that is ahead.
    await time.runFor(CIRCUIT_PAUSE_MS + 3 * MINUTE_MS + 2 * SECOND_MS);
    const keys = sealingKeys(fleet);
    expect(keys).toHaveLength(1);
    expect(keys).not.toEqual([first]);
    expect(tally.numbers()).toMatchObject({ published: 2, failed: {}, waits: 0 });
    expect(tally.numbers().longestHandoverMs).toBeLessThan(MINUTE_MS);
    await fleet.stop();
  });
});

describe("a KMS that gives no answer for longer than the outage limit", () => {
  it("ends sealing and opening with KEY_UNAVAILABLE, and both come back with it, without a restart", async () => {
    const outageLimitMs = 30 * MINUTE_MS;
    const fleet = await startFleet({ ring: { ...RING, rotationPeriodMs: 24 * HOUR_MS, outageLimitMs } });
    const { time, kms, tally } = fleet;
    const envelope = sealed(lifeOf(fleet, 0));
    kms.mode = "KMS_UNREACHABLE";
    // The KMS was last heard of at most a re-check before it went.
    await time.runFor(outageLimitMs - RECHECK_MS);
    expect(tally.numbers()).toMatchObject({ failed: {}, waits: 0 });
    expect(typesOf(events)).not.toContain("key-suspended");
    await time.runFor(RECHECK_MS + SECOND_MS);
    for (const { sealer } of lives(fleet)) {
      expect(() => sealer.sealSync({ user: 2 }, STORED_ID)).toThrow(expect.objectContaining(UNAVAILABLE));
      expect(() => sealer.openSync(envelope, STORED_ID)).toThrow(expect.objectContaining(UNAVAILABLE));
      for (const attempt of [sealer.seal({ user: 2 }, STORED_ID), sealer.open(envelope, STORED_ID)]) {
        const { error, afterMs } = await failureOf(fleet, attempt);
        expect(error).toMatchObject({ ...UNAVAILABLE, cause: { code: "KMS_UNREACHABLE" } });
        // A call that asks whether the KMS is back, at most.
        expect(afterMs).toBeLessThan(KMS_ANSWER_MS + 2 * STORE_MS);
      }
    }
    expect(countOf(events, "key-suspended")).toBe(PROCESSES);
    expect(Object.keys(tally.numbers().failed)).toEqual(["KEY_UNAVAILABLE"]);

    kms.mode = "up";
    await time.runFor(CIRCUIT_PAUSE_MS + MINUTE_MS);
    const { failures } = tally;
    for (const { sealer } of lives(fleet)) expect(sealer.openSync(envelope, STORED_ID)).toEqual({ user: 1 });
    expect(sealingKeys(fleet)).toHaveLength(1);
    await time.runFor(5 * MINUTE_MS);
    expect(tally.failures).toBe(failures);
    expect(tally.numbers().published).toBe(1);
    await fleet.stop();
  });
});

describe("a KMS that refuses", () => {
  it.each<KmsMode>(["KMS_DENIED", "KMS_DISABLED"])(
    "ends every session within the re-check interval, and none for good: %s",
    async (mode) => {
      const fleet = await startFleet();
      const { time, kms, tally } = fleet;
      const envelope = sealed(lifeOf(fleet, 0));
      const store = memoryStore({ clock: time.clock });
      const id = await sessions(lifeOf(fleet, 0), store).create({ user: 1 });

      kms.mode = mode;
      await time.runFor(RECHECK_MS + SECOND_MS);
      for (const life of lives(fleet)) {
        expect(await failureOf(fleet, life.sealer.open(envelope, STORED_ID))).toMatchObject({
          error: { code: "KEY_DENIED" },
        });
        expect(await failureOf(fleet, life.sealer.seal({ user: 2 }, STORED_ID))).toMatchObject({ error: UNAVAILABLE });
        expect(await time.runUntilSettled(sessions(life, store).get(id))).toBeUndefined();
      }
      expect(countOf(events, "key-denied")).toBe(PROCESSES);
      expect(Object.keys(tally.numbers().failed).sort()).toEqual(["KEY_DENIED", "KEY_UNAVAILABLE"]);

      kms.mode = "up";
      // What was refused is sent again after five refresh intervals.
      await time.runFor(6 * MINUTE_MS + 2 * SECOND_MS);
      for (const life of lives(fleet)) {
        expect(life.sealer.openSync(envelope, STORED_ID)).toEqual({ user: 1 });
        expect(await time.runUntilSettled(sessions(life, store).get(id))).toEqual({ user: 1 });
      }
      expect(sealingKeys(fleet)).toHaveLength(1);
      const { failures } = tally;
      await time.runFor(5 * MINUTE_MS);
      expect(tally.failures).toBe(failures);
      await fleet.stop();
    },
  );

  it("is not asked again by every request that finds no key, nor is the ring's store", async () => {
    const processes = 5;
    const fleet = await startFleet({ processes, requestEveryMs: SECOND_MS / 4 });
    fleet.kms.mode = "KMS_DENIED";
    await fleet.time.runFor(RECHECK_MS + SECOND_MS);
    const before = fleet.tally.numbers();
    const minutes = 5;
    await fleet.time.runFor(minutes * MINUTE_MS);
    const after = fleet.tally.numbers();
    const eachMinute = (count: number) => count / processes / minutes;
    expect(
      eachMinute((after.failed["KEY_UNAVAILABLE"] ?? 0) - (before.failed["KEY_UNAVAILABLE"] ?? 0)),
    ).toBeGreaterThan(200);
    expect(eachMinute(after.kmsCalls.total - before.kmsCalls.total)).toBeLessThan(4);
    // One in each sixtieth of a refresh interval at most, and those that the ring makes anyway.
    expect(eachMinute(after.ringReads.total - before.ringReads.total)).toBeLessThan(62);
    await fleet.stop();
  });
});

describe("a ring that is deleted from its store under load", () => {
  it("fails no request, and is put back by the processes that know it within a refresh interval", async () => {
    const fleet = await startFleet();
    const { time, store, tally } = fleet;
    const envelope = sealed(lifeOf(fleet, 0));
    // Until the next key lies there too.
    await time.runFor(56 * MINUTE_MS);
    const before = await time.runUntilSettled(store.read("fleet"));
    expect(before).toHaveLength(2);
    const { generates } = tally.numbers();
    store.wipe();
    expect(await time.runUntilSettled(store.read("fleet"))).toEqual([]);
    await time.runFor(MINUTE_MS);
    const after = await time.runUntilSettled(store.read("fleet"));
    expect(byKeyId(after)).toEqual(byKeyId(before));
    expect(countOf(events, "key-record-restored")).toBeGreaterThanOrEqual(2);

    // Who starts now finds everything; and the next rotation comes as if nothing had happened.
    await time.runUntilSettled(fleet.processes[1]?.stop() as Promise<void>);
    void fleet.processes[1]?.start();
    await time.runFor(10 * MINUTE_MS);
    expect(lifeOf(fleet, 1).sealer.openSync(envelope, STORED_ID)).toEqual({ user: 1 });
    expect(sealingKeys(fleet)).toHaveLength(1);
    expect(tally.numbers()).toMatchObject({ failed: {}, waits: 0, published: 2, generates });
    await fleet.stop();
  });
});

const RING = { rotationPeriodMs: HOUR_MS, refreshIntervalMs: MINUTE_MS, recheckIntervalMs: RECHECK_MS };
const UNAVAILABLE = { code: "KEY_UNAVAILABLE" };

/** A fleet whose processes are all ready and have requests every ten seconds. */
async function startFleet(options: Partial<SimulatedFleetOptions> = {}): Promise<SimulatedFleet> {
  const defaults = { processes: PROCESSES, seed: 1, kmsAnswerMs: KMS_ANSWER_MS, requestEveryMs: 10 * SECOND_MS };
  const fleet = new SimulatedFleet({ ...defaults, ring: RING, ...options });
  for (const process of fleet.processes) {
    fleet.time.schedule(() => void process.start(), fleet.random.between(0, 30 * SECOND_MS));
  }
  await fleet.time.runFor(2 * MINUTE_MS);
  const readyLives = fleet.processes.length;
  expect(fleet.tally.numbers()).toMatchObject({ readyLives, failedStarts: 0, failed: {}, waits: 0 });
  return fleet;
}

function lives(fleet: SimulatedFleet): ProcessLife[] {
  return fleet.processes.map(({ life }) => life);
}

function lifeOf(fleet: SimulatedFleet, index: number): ProcessLife {
  return lives(fleet)[index] as ProcessLife;
}

function sealed({ sealer }: ProcessLife): Uint8Array {
  return sealer.sealSync({ user: 1 }, STORED_ID);
}

/** The ids of the keys under which the processes seal, each once. */
function sealingKeys(fleet: SimulatedFleet): string[] {
  const ids = lives(fleet).map((life) => parseEnvelope(sealed(life))?.keyId as Uint8Array);
  return [...new Set(ids.map((id) => Buffer.from(id).toString("base64url")))];
}

function sessions({ ring }: ProcessLife, store: EnvelopeStore): SessionStore<{ user: number }> {
  return new SessionStore<{ user: number }>({ ring, store });
}

/** What a promise is rejected with, and after what virtual time. */
async function failureOf({ time }: SimulatedFleet, promise: Promise<unknown>) {
  const start = time.clock();
  const error = await time.runUntilSettled(
    promise.then(
      () => undefined,
      (reason: unknown) => reason,
    ),
  );
  return { error, afterMs: time.clock() - start };
}

function typesOf(some: readonly DiagnosticEvent[]): Set<string> {
  return new Set(some.map(({ type }) => type));
}

function countOf(some: readonly DiagnosticEvent[], type: DiagnosticEvent["type"]): number {
  return some.filter((event) => event.type === type).length;
}

function byKeyId(records: readonly { keyId: string; record: Uint8Array }[]) {
  return new Map(records.map(({ keyId, record }) => [keyId, Buffer.from(record).toString("hex")]));
}
