/** What stands between the ring and a KMS: how many calls, for how long, and when none. */
import { afterEach, describe, expect, it } from "vitest";
import { KmsError, type KmsErrorCode } from "../src/errors.js";
import type { KmsCallOptions } from "../src/kms.js";
import { KmsGate, type KmsGateOptions } from "../src/kms-gate.js";
import { type Schedule, systemSchedule } from "../src/schedule.js";
import { codeThrown, HOUR, START } from "./support/fixture.js";

const TIMEOUT_MS = 5000;
/** Jitter makes a first pause of 800 to 1200 ms. */
const MIDDLE = 0x80;

interface Task {
  readonly at: number;
  readonly run: () => void;
}

/** Time that passes only when told to, with every timer that is set. */
class VirtualTime {
  now = START;
  readonly tasks = new Set<Task>();
  readonly clock = () => this.now;
  readonly schedule: Schedule = (run, delayMs) => {
    const task = { at: this.now + delayMs, run };
    this.tasks.add(task);
    return () => void this.tasks.delete(task);
  };

  /** Lets time pass, in milliseconds, and everything happen that follows from it. */
  async advance(ms: number): Promise<void> {
    await settled();
    this.now += ms;
    for (const task of [...this.tasks].filter(({ at }) => at <= this.now)) {
      this.tasks.delete(task);
      task.run();
    }
    await settled();
  }
}

/** Everything that only waits for promises has happened. */
const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

/** A call that the test answers. */
class HeldCall<T = string> {
  signal: AbortSignal | undefined;
  isMade = false;
  resolve: (value: T) => void = () => {};
  reject: (error: unknown) => void = () => {};
  readonly #answer = new Promise<T>((resolve, reject) => {
    this.resolve = resolve;
    this.reject = reject;
  });
  readonly call = ({ signal }: KmsCallOptions) => {
    this.isMade = true;
    this.signal = signal;
    return this.#answer;
  };
}

const failure = (code: KmsErrorCode = "KMS_UNREACHABLE", message = "told to fail") =>
  new KmsError(code, message, { kms: "a" });
const failing = (error: unknown = failure()) => Promise.reject(error);

function openGate(options: Partial<KmsGateOptions> = {}) {
  const time = new VirtualTime();
  const changes: boolean[] = [];
  const gate = new KmsGate({
    kms: "a",
    clock: time.clock,
    schedule: time.schedule,
    random: (target) => void target.fill(0).fill(MIDDLE, 0, 1),
    timeoutMs: TIMEOUT_MS,
    onChange: (open) => void changes.push(open),
    ...options,
  });
  /** Fails so many calls, one after another. */
  const fail = async (times: number, error: unknown = failure()) => {
    for (let i = 0; i < times; i++) await gate.run(() => failing(error)).catch(() => {});
  };
  /** Makes held calls; what becomes of them is looked at later. */
  const hold = (count: number) =>
    Array.from({ length: count }, () => {
      const held = new HeldCall();
      const outcome = gate.run(held.call);
      outcome.catch(() => {});
      return Object.assign(held, { outcome });
    });
  /** Whether a call is let through now. Makes one that fails. */
  const letsThrough = async () => {
    let made = false;
    await gate
      .run(() => {
        made = true;
        return failing();
      })
      .catch(() => {});
    return made;
  };
  return { gate, time, changes, fail, hold, letsThrough };
}

const made = (calls: readonly { isMade: boolean }[]) => calls.filter(({ isMade }) => isMade).length;

describe("calls at once", () => {
  it("are eight, and the others start in their order as places become free", async () => {
    const { hold } = openGate();
    const calls = hold(12);
    expect(calls.map(({ isMade }) => isMade)).toEqual([...Array(8).fill(true), ...Array(4).fill(false)]);
    calls[5]?.resolve("five");
    expect(await calls[5]?.outcome).toBe("five");
    expect(calls.map(({ isMade }) => isMade)).toEqual([...Array(9).fill(true), ...Array(3).fill(false)]);
    calls[0]?.reject(failure("KMS_DENIED"));
    await settled();
    expect(made(calls)).toBe(10);
    expect(calls[10]?.isMade).toBe(false);
    for (const call of calls) call.resolve("done");
    expect(await Promise.all(calls.slice(1).map(({ outcome }) => outcome))).toHaveLength(11);
  });

  it("start within run when there is a place, so that a single call is not slower than without the gate", () => {
    const { hold } = openGate();
    expect(hold(1)[0]?.isMade).toBe(true);
  });

  it("are refused with KMS_THROTTLED when 1024 wait already, and that is no failure of the KMS", async () => {
    const { gate, changes, hold } = openGate();
    const calls = hold(8 + 1024);
    for (let i = 0; i < 6; i++) {
      const error = await gate.run(async () => "never").catch((thrown: unknown) => thrown);
      expect(error).toMatchObject({ code: "KMS_THROTTLED", kms: "a", message: "1024 calls are waiting already" });
    }
    expect(changes).toEqual([]);
    for (const call of calls) call.resolve("done");
    expect(await Promise.all(calls.map(({ outcome }) => outcome))).toEqual(Array(1032).fill("done"));
  });
});

describe("the deadline of a call", () => {
  it("aborts its signal and rejects with KMS_UNREACHABLE, even when the call heeds no signal", async () => {
    const { time, hold } = openGate();
    const [call] = hold(1);
    await time.advance(TIMEOUT_MS - 1);
    expect(call?.signal?.aborted).toBe(false);
    await time.advance(1);
    expect(call?.signal?.aborted).toBe(true);
    await expect(call?.outcome).rejects.toMatchObject({
      name: "KmsError",
      code: "KMS_UNREACHABLE",
      kms: "a",
      message: "no answer within 5000 ms",
    });
  });

  it("gives the same error when the call rejects over the signal", async () => {
    const { gate, time } = openGate();
    const outcome = gate.run(
      ({ signal }) =>
        new Promise((_, reject) => signal?.addEventListener("abort", () => reject(new Error("the call's own")))),
    );
    const thrown = outcome.catch((error: unknown) => error);
    await time.advance(TIMEOUT_MS);
    expect(await thrown).toMatchObject({ code: "KMS_UNREACHABLE", message: "no answer within 5000 ms" });
  });

  it("begins when the call starts, not when it begins to wait", async () => {
    const { time, hold } = openGate();
    const calls = hold(9);
    await time.advance(TIMEOUT_MS - 1);
    calls[0]?.resolve("done");
    await time.advance(0);
    expect(calls[8]?.isMade).toBe(true);
    await time.advance(TIMEOUT_MS - 1);
    expect(calls[8]?.signal?.aborted).toBe(false);
    await time.advance(1);
    expect(await codeThrown(calls[8]?.outcome as Promise<string>)).toBe("KMS_UNREACHABLE");
  });

  it("gives its place away, so that calls that hang for ever do not block the KMS", async () => {
    const { time, hold } = openGate();
    const hanging = hold(4);
    await time.advance(1);
    const next = hold(5)[4];
    expect(next?.isMade).toBe(false);
    await time.advance(TIMEOUT_MS - 1);
    for (const { outcome } of hanging) expect(await codeThrown(outcome)).toBe("KMS_UNREACHABLE");
    expect(next?.isMade).toBe(true);
  });

  it("hands what comes after it to discard and to nobody else", async () => {
    const { gate, time } = openGate();
    const held = new HeldCall<Uint8Array>();
    const outcome = codeThrown(gate.run(held.call, (late) => late.fill(0)));
    await time.advance(TIMEOUT_MS);
    expect(await outcome).toBe("KMS_UNREACHABLE");
    const key = new Uint8Array(32).fill(7);
    held.resolve(key);
    await settled();
    expect(key).toEqual(new Uint8Array(32));
  });

  it("does not touch what comes in time", async () => {
    const { gate, time } = openGate();
    const held = new HeldCall<Uint8Array>();
    const outcome = gate.run(held.call, (late) => late.fill(0));
    await time.advance(TIMEOUT_MS - 1);
    held.resolve(new Uint8Array(32).fill(7));
    await time.advance(TIMEOUT_MS);
    expect(await outcome).toEqual(new Uint8Array(32).fill(7));
  });

  describe("and nothing that comes after it", () => {
    const unhandled: unknown[] = [];
    const collect = (error: unknown) => void unhandled.push(error);
    afterEach(() => void process.off("unhandledRejection", collect));

    it.each([
      ["a rejection", (held: HeldCall<Uint8Array>) => held.reject(new Error("late"))],
      ["an answer that discard trips over", (held: HeldCall<Uint8Array>) => held.resolve(undefined as never)],
    ])("is an unhandled rejection: %s", async (_, answerLate) => {
      process.on("unhandledRejection", collect);
      const { gate, time } = openGate();
      const held = new HeldCall<Uint8Array>();
      const outcome = codeThrown(gate.run(held.call, (late) => late.fill(0)));
      await time.advance(TIMEOUT_MS);
      expect(await outcome).toBe("KMS_UNREACHABLE");
      answerLate(held);
      await settled();
      await settled();
      expect(unhandled).toEqual([]);
    });
  });

  it("leaves no timer behind, whatever came of the call", async () => {
    const { gate, time, hold, letsThrough } = openGate();
    hold(1);
    expect(time.tasks.size).toBe(1);
    await gate.run(async () => "done");
    await letsThrough();
    await settled();
    expect(time.tasks.size).toBe(1);
    await time.advance(TIMEOUT_MS);
    expect(time.tasks.size).toBe(0);
  });
});

describe("the circuit", () => {
  it.each(["KMS_UNREACHABLE", "KMS_THROTTLED"] as const)("opens after five failures in a row: %s", async (code) => {
    const { gate, changes, fail, letsThrough } = openGate();
    await fail(4, failure(code));
    expect(changes).toEqual([]);
    await fail(1, failure(code));
    expect(changes).toEqual([true]);
    expect(await letsThrough()).toBe(false);
    await expect(gate.run(async () => "done")).rejects.toMatchObject({
      name: "KmsError",
      code: "KMS_UNREACHABLE",
      kms: "a",
      message: expect.stringContaining("the circuit is open"),
      cause: failure(code),
    });
  });

  it("opens over deadlines too", async () => {
    const { time, changes, hold } = openGate();
    hold(5);
    await time.advance(TIMEOUT_MS);
    expect(changes).toEqual([true]);
  });

  it.each([
    ["a TypeError of the adapter", new TypeError("x is not a function")],
    ["another code of the library", Object.assign(new Error("no"), { code: "LOCAL_KMS_REFUSED" })],
    ["something that is no error", "out of order"],
  ])("lets %s pass unchanged, and counts it as a failure", async (_, error) => {
    const { gate, changes, fail } = openGate();
    expect(await gate.run(() => failing(error)).catch((thrown: unknown) => thrown)).toBe(error);
    await fail(4, error);
    expect(changes).toEqual([true]);
    expect(await gate.run(async () => "done").catch(({ cause }) => cause)).toBe(error);
  });

  it("takes a call that throws before it returns a promise like one that rejects", async () => {
    const { gate, time, changes } = openGate();
    const error = new TypeError("x is not a function");
    for (let i = 0; i < 5; i++) {
      const outcome = gate.run(() => {
        throw error;
      });
      expect(await outcome.catch((thrown: unknown) => thrown)).toBe(error);
    }
    expect(changes).toEqual([true]);
    await settled();
    expect(time.tasks.size).toBe(0);
  });

  it.each([
    ["a result", () => Promise.resolve("done")],
    ["KMS_DENIED", () => failing(failure("KMS_DENIED"))],
    ["KMS_DISABLED", () => failing(failure("KMS_DISABLED"))],
  ])("counts anew after an answer: %s", async (_, answer) => {
    const { gate, changes, fail } = openGate();
    for (let i = 0; i < 10; i++) {
      await fail(4);
      await gate.run<unknown>(answer).catch(() => {});
    }
    expect(changes).toEqual([]);
    await fail(5);
    expect(changes).toEqual([true]);
  });

  it("never opens over denials", async () => {
    const { changes, fail } = openGate();
    await fail(20, failure("KMS_DENIED"));
    await fail(20, failure("KMS_DISABLED"));
    expect(changes).toEqual([]);
  });

  it("rejects the calls that wait when it opens, without making them", async () => {
    const { changes, hold } = openGate();
    const calls = hold(30);
    for (const call of calls.slice(0, 5)) call.reject(failure());
    await settled();
    expect(changes).toEqual([true]);
    // Four of the five that ended gave their places away before the fifth opened the circuit.
    const waited = calls.filter(({ isMade }) => !isMade);
    expect(waited).toHaveLength(30 - 12);
    for (const { outcome } of waited) {
      await expect(outcome).rejects.toMatchObject({ code: "KMS_UNREACHABLE", cause: failure() });
    }
    for (const call of calls) call.resolve("done");
    expect(await calls[7]?.outcome).toBe("done");
    expect(made(calls)).toBe(12);
  });

  it("is not moved by answers to what was asked before it opened", async () => {
    const { gate, time, changes, hold, fail, letsThrough } = openGate();
    const [ok, denied, failed] = hold(3);
    await fail(5);
    ok?.resolve("done");
    denied?.reject(failure("KMS_DENIED"));
    expect(await ok?.outcome).toBe("done");
    await settled();
    await expect(gate.run(async () => "done")).rejects.toMatchObject({ cause: failure() });
    await time.advance(999);
    failed?.reject(failure());
    await settled();
    expect(await letsThrough()).toBe(false);
    await time.advance(1);
    expect(await letsThrough()).toBe(true);
    expect(changes).toEqual([true]);
  });

  it("names the latest failure as the cause, also the one of a probe", async () => {
    const { gate, time, fail } = openGate();
    await fail(5);
    await time.advance(1000);
    await fail(1, failure("KMS_THROTTLED", "slow down"));
    await expect(gate.run(async () => "done")).rejects.toMatchObject({
      code: "KMS_UNREACHABLE",
      cause: { code: "KMS_THROTTLED", message: "slow down" },
    });
  });

  it("lets exactly one call through after the pause, and rejects the others at once", async () => {
    const { gate, time, changes, hold, fail } = openGate();
    await fail(5);
    await time.advance(1000);
    const calls = hold(10);
    expect(calls.map(({ isMade }) => isMade)).toEqual([true, ...Array(9).fill(false)]);
    for (const { outcome } of calls.slice(1)) expect(await codeThrown(outcome)).toBe("KMS_UNREACHABLE");
    calls[0]?.resolve("done");
    expect(await calls[0]?.outcome).toBe("done");
    expect(changes).toEqual([true, false]);
    expect(await gate.run(async () => "done")).toBe("done");
    expect(made(hold(9))).toBe(8);
  });

  it.each(["KMS_DENIED", "KMS_DISABLED"] as const)("closes when the probe is answered with %s", async (code) => {
    const { time, changes, fail } = openGate();
    await fail(5);
    await time.advance(1000);
    await fail(1, failure(code));
    expect(changes).toEqual([true, false]);
  });

  it("counts from nothing and pauses for one second again once it was closed", async () => {
    const { gate, time, changes, fail, letsThrough } = openGate();
    await fail(5);
    await time.advance(1000);
    await fail(1);
    await time.advance(2000);
    await gate.run(async () => "done");
    await fail(4);
    expect(changes).toEqual([true, false]);
    await fail(1);
    expect(changes).toEqual([true, false, true]);
    await time.advance(999);
    expect(await letsThrough()).toBe(false);
    await time.advance(1);
    expect(await letsThrough()).toBe(true);
  });

  it.each([
    ["0.8 times", 0x00, 0.8],
    ["once", 0x80, 1],
    ["1.2 times", 0xff, 1.2],
  ])("pauses %s one second, doubled with each failed probe up to sixty, as chance has it", async (_, byte, factor) => {
    const { time, changes, fail, letsThrough } = openGate({
      random: (target) => void (byte === MIDDLE ? target.fill(0).fill(byte, 0, 1) : target.fill(byte)),
    });
    await fail(5);
    for (const seconds of [1, 2, 4, 8, 16, 32, 60, 60, 60]) {
      await time.advance(seconds * 1000 * factor - 1);
      expect(await letsThrough()).toBe(false);
      await time.advance(1);
      expect(await letsThrough()).toBe(true);
    }
    expect(changes).toEqual([true]);
  });

  it("is probed again when a probe got no answer in time", async () => {
    const { time, hold, fail, letsThrough } = openGate();
    await fail(5);
    await time.advance(1000);
    const [probe] = hold(1);
    await time.advance(TIMEOUT_MS);
    expect(await codeThrown(probe?.outcome as Promise<string>)).toBe("KMS_UNREACHABLE");
    expect(await letsThrough()).toBe(false);
    await time.advance(2000);
    expect(await letsThrough()).toBe(true);
  });

  it("has room for its probe whatever still runs", async () => {
    const { time, hold, fail } = openGate();
    const running = hold(7);
    await fail(5);
    await time.advance(1000);
    expect(made(running)).toBe(7);
    expect(made(hold(2))).toBe(1);
  });

  it("is not kept open by a clock that was set back", async () => {
    const { time, fail, letsThrough } = openGate();
    await fail(5);
    time.now -= HOUR;
    expect(await letsThrough()).toBe(true);
    time.now += 1999;
    expect(await letsThrough()).toBe(false);
    time.now += 1;
    expect(await letsThrough()).toBe(true);
  });

  it("sets no timer for its pauses", async () => {
    const { time, fail } = openGate();
    await fail(5);
    await settled();
    expect(time.tasks.size).toBe(0);
  });
});

describe("the system's schedule", () => {
  /** Timers that hold the process open. */
  const timers = () => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;

  it("runs a task once, in its time", async () => {
    const order: string[] = [];
    await new Promise<void>((resolve) => {
      systemSchedule(() => {
        order.push("later");
        resolve();
      }, 20);
      systemSchedule(() => void order.push("sooner"), 1);
    });
    expect(order).toEqual(["sooner", "later"]);
  });

  it("does not run what was cancelled", async () => {
    const order: string[] = [];
    const cancel = systemSchedule(() => void order.push("cancelled"), 1);
    cancel();
    cancel();
    await new Promise<void>((resolve) => void systemSchedule(resolve, 5));
    expect(order).toEqual([]);
  });

  it("does not run what is far off at once", async () => {
    const order: string[] = [];
    const cancel = systemSchedule(() => void order.push("in 1000 days"), 1000 * 24 * HOUR);
    await new Promise<void>((resolve) => void systemSchedule(resolve, 20));
    cancel();
    expect(order).toEqual([]);
  });

  it("does not hold the process open", () => {
    const before = timers();
    const cancel = systemSchedule(() => {}, HOUR);
    expect(timers()).toBe(before);
    cancel();
  });
});
