import { describe, expect, it } from "vitest";
import { VirtualTime } from "./virtual-time.js";

const START_MS = 1_000_000;

describe("virtual time", () => {
  it("stands still until it is run, and then goes as far as it was told", async () => {
    const time = new VirtualTime(START_MS);
    let ran = false;
    time.schedule(() => {
      ran = true;
    }, 0);
    await turnOfTheEventLoop();
    expect([ran, time.clock()]).toEqual([false, START_MS]);
    await time.runFor(86_400_000);
    expect([ran, time.clock()]).toEqual([true, START_MS + 86_400_000]);
  });

  it("runs tasks in the order of their times, and those of one time in the order in which they were scheduled", async () => {
    const time = new VirtualTime(START_MS);
    const ran: [time: number, seq: number][] = [];
    const expected: typeof ran = [];
    // Delays in no order, many of them the same.
    for (let seq = 0; seq < 2000; seq++) {
      const delayMs = (seq * 7919) % 503;
      time.schedule(() => ran.push([time.clock() - START_MS, seq]), delayMs);
      expected.push([delayMs, seq]);
    }
    expected.sort(([p, a], [q, b]) => p - q || a - b);
    await time.runFor(503);
    expect(ran).toEqual(expected);
    expect(time.events).toBe(2000);
  });

  it("runs what is due at the end of the run, and leaves the rest for the next one", async () => {
    const time = new VirtualTime(START_MS);
    const ran: string[] = [];
    time.schedule(() => ran.push("at the end"), 10);
    time.schedule(() => ran.push("after the end"), 11);
    await time.runFor(10);
    expect(ran).toEqual(["at the end"]);
    await time.runFor(1);
    expect(ran).toEqual(["at the end", "after the end"]);
  });

  it("takes a negative delay for none: time never goes back", async () => {
    const time = new VirtualTime(START_MS);
    const at: number[] = [];
    time.schedule(() => time.schedule(() => at.push(time.clock()), -5), 10);
    await time.runFor(20);
    expect(at).toEqual([START_MS + 10]);
  });

  it("runs no task that was cancelled, whether before its time or by another one of the same time", async () => {
    const time = new VirtualTime(START_MS);
    const ran: string[] = [];
    const cancels = ["early", "same time"].map((name) => time.schedule(() => ran.push(name), 10));
    const [cancelEarly, cancelSameTime] = cancels as [() => void, () => void];
    cancelEarly();
    time.schedule(() => {
      ran.push("other");
      cancelLate();
    }, 10);
    const cancelLate = time.schedule(() => ran.push("late"), 10);
    await time.runFor(10);
    expect(ran).toEqual(["same time", "other"]);
    cancelSameTime();
  });

  it("lets a chain of promises, ticks and asynchronous functions come to its end before the next event of the same time", async () => {
    const time = new VirtualTime(START_MS);
    const ran: string[] = [];
    const links = 1000;
    const chain = async (left: number): Promise<void> => {
      if (left === 0) return void ran.push(`end at ${time.clock() - START_MS}`);
      if (left % 3 === 0) await new Promise<void>((resolve) => process.nextTick(resolve));
      else await Promise.all([null, Promise.resolve()]);
      await chain(left - 1);
    };
    // More events than one turn of the event loop works off.
    for (let i = 0; i < 250; i++) {
      time.schedule(() => void chain(links), 5);
      time.schedule(() => ran.push("next"), 5);
    }
    await time.runFor(5);
    expect(ran).toEqual(Array.from({ length: 250 }, () => ["end at 5", "next"]).flat());
  });

  it("gives a delay that ends at its time, to the millisecond, for a thousand waiters at once", async () => {
    const time = new VirtualTime(START_MS);
    const late: number[] = [];
    const wait = async (ms: number) => {
      for (let round = 1; round <= 10; round++) {
        await time.delay(ms);
        late.push(time.clock() - START_MS - round * ms);
      }
    };
    const waits = Array.from({ length: 1000 }, (_, i) => wait(i + 1));
    await time.runUntilSettled(Promise.all(waits));
    expect(late).toHaveLength(10_000);
    expect(new Set(late)).toEqual(new Set([0]));
    expect(time.clock()).toBe(START_MS + 10_000);
  });

  it("waits for a promise no longer than it takes, and passes on what became of it", async () => {
    const time = new VirtualTime(START_MS);
    const answer = time.delay(30).then(() => "answer");
    expect(await time.runUntilSettled(answer)).toBe("answer");
    expect(time.clock()).toBe(START_MS + 30);
    const failure = time.delay(5).then(() => Promise.reject(new Error("no")));
    await expect(time.runUntilSettled(failure)).rejects.toThrow("no");
    expect(time.clock()).toBe(START_MS + 35);
  });

  it("gives up on a promise that is not settled within the time allowed", async () => {
    const time = new VirtualTime(START_MS);
    const never = new Promise(() => undefined);
    await expect(time.runUntilSettled(never, { withinMs: 100 })).rejects.toThrow("not settled within 100 ms");
    expect(time.clock()).toBe(START_MS + 100);
  });

  it("stops at a task that throws, with its error, and can go on with the tasks after it", async () => {
    const time = new VirtualTime(START_MS);
    const ran: string[] = [];
    time.schedule(() => {
      throw new Error("broken");
    }, 1);
    time.schedule(() => ran.push("after"), 2);
    await expect(time.runFor(10)).rejects.toThrow("broken");
    await turnOfTheEventLoop();
    expect([ran, time.clock()]).toEqual([[], START_MS + 1]);
    await time.runFor(9);
    expect(ran).toEqual(["after"]);
  });

  it("refuses two runs at once, and a delay that is no number", async () => {
    const time = new VirtualTime(START_MS);
    const run = time.runFor(10);
    await expect(time.runFor(10)).rejects.toThrow("running already");
    await run;
    expect(() => time.schedule(() => undefined, Number.NaN)).toThrow(RangeError);
  });
});

function turnOfTheEventLoop(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
