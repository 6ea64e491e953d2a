import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { type SimulationOptions, type SimulationResult, simulate } from "./simulation.js";
import { missedBars, reportOf } from "./simulation-report.js";

const PAGE = new URL("../../docs/fleet.md", import.meta.url);
const SMALL: SimulationOptions = { processes: 40, hours: 4, seed: 7 };
const SMALLER: SimulationOptions = { processes: 20, hours: 3, seed: 7 };
const MINUTE_MS = 60_000;

describe("a fleet of 40 processes in four hours with a rotation every hour, restarts and a deploy", () => {
  const run = once(() => simulate(SMALL));

  it("does enough to say something: starts, rotations, requests and re-checks", async () => {
    const numbers = await run();
    // Each process starts first, is restarted by the deploy, and once more.
    expect(numbers).toMatchObject({ lives: 120, readyLives: 120 });
    expect(numbers.handovers).toBeGreaterThanOrEqual(3);
    expect(numbers.seals).toBeGreaterThan(15_000);
    expect(numbers.opens).toBeGreaterThan(20_000);
    expect(numbers.rechecks).toBeGreaterThan(1000);
    expect(numbers.ringReads.total).toBeGreaterThan(40 * 4 * 60);
  });

  it("asks the KMS for a data key hardly more than once in each life of a process", async () => {
    const { firstUnwraps, met, lives } = await run();
    expect(met).toBeGreaterThan(lives);
    expect(firstUnwraps / met).toBeLessThanOrEqual(1.1);
  });

  it("asks it again once in each re-check interval, and for no more than one key", async () => {
    const { rechecks, processes, hours } = await run();
    // Every five minutes, and up to a refresh interval sooner.
    expect(rechecks).toBeGreaterThan(processes * hours * 11);
    expect(rechecks).toBeLessThan(processes * hours * 16);
  });

  it("lets no seal or open wait for the KMS once ready() is fulfilled, and fails none", async () => {
    expect(await run()).toMatchObject({ waits: 0, waitsWithKmsCall: 0, failed: {}, failedStarts: 0 });
  });

  it("seals under one key but for a window of one refresh interval around each handover", async () => {
    const { longestHandoverMs, refreshIntervalMs, shortestLeadMs } = await run();
    // Clocks are up to a second off either way: two processes cannot agree to the millisecond.
    expect(longestHandoverMs).toBeGreaterThan(0);
    expect(longestHandoverMs).toBeLessThanOrEqual(refreshIntervalMs);
    // Since everybody has opened the key before it seals.
    expect(shortestLeadMs).toBeGreaterThan(0);
  });

  it("clears every bar of the report", async () => {
    const rows = reportOf(await run());
    expect(missedBars(rows)).toEqual([]);
    expect(rows.filter(({ bar }) => bar !== undefined)).toHaveLength(6);
  });

  it("gives the same numbers for the same seed, and others for another", async () => {
    const small = { processes: 5, hours: 2 };
    const [first, again, other] = [
      await simulate({ ...small, seed: 1 }),
      await simulate({ ...small, seed: 1 }),
      await simulate({ ...small, seed: 2 }),
    ];
    const cost = { wallMs: 0, cpuMs: 0 };
    expect({ ...again, ...cost }).toEqual({ ...first, ...cost });
    expect(other.events).not.toBe(first.events);
  });
});

describe("a fleet whose sessions live for half an hour", () => {
  it("retires its first keys within some hours, and loses no session by it", async () => {
    const numbers = await simulate({ processes: 10, hours: 7, seed: 7, sessionTtlMs: 30 * MINUTE_MS });
    expect(missedMeasures(numbers)).toEqual([]);
    // 2 h of sealing age, the life of a session, 1 h until sessions are sealed anew, 1 h of allowance, and up to 1 h of chance.
    expect(numbers.retired).toBeGreaterThanOrEqual(2);
    expect(numbers.retired).toBeLessThanOrEqual(3);
  });
});

describe("a fleet that starts at one moment in an empty ring", () => {
  it("agrees on one key, though the clocks of half its processes are behind that of whoever publishes it", async () => {
    const numbers = await simulate({ processes: 60, hours: 1, seed: 7, firstStartsMs: 0 });
    expect(missedMeasures(numbers)).toEqual([]);
    // The first and the next one ahead of its time; and some more at the start, of processes for whose clocks the first one lies in the future.
    expect(numbers.published).toBeLessThanOrEqual(6);
  });
});

describe("the check", () => {
  it("fails for a fleet whose timers go off ten refresh intervals late: requests wait", async () => {
    // So seldom that the requests themselves do not keep the rings fresh.
    const quiet = { ...SMALLER, requestEveryMs: 10 * MINUTE_MS };
    expect(missedMeasures(await simulate(quiet))).toEqual([]);
    const late = await simulate({ ...quiet, timersLateMs: 10 * MINUTE_MS });
    expect(missedMeasures(late)).toContain("Seals and opens that waited, after `ready()`");
    expect(late.waits).toBeGreaterThan(50);
    expect(late.slowestSpreadMs).toBeGreaterThan(2 * MINUTE_MS);
  });

  it("fails for a fleet whose clocks are off by more than a refresh interval: two keys seal for too long", async () => {
    const numbers = await simulate({ ...SMALLER, clockErrorMs: 2 * MINUTE_MS });
    expect(missedMeasures(numbers)).toContain("Longest time in which two keys sealed");
    expect(numbers.longestHandoverMs).toBeGreaterThan(MINUTE_MS);
  });
});

describe("docs/fleet.md", () => {
  it("shows the table of a full run with all its lines, and every bar in it", async () => {
    const page = readFileSync(PAGE, "utf8");
    const rows = reportOf(await simulate({ processes: 1, hours: 1, seed: 1 }));
    for (const { measure, bar } of rows) {
      const line = page.split("\n").find((text) => text.startsWith(`| ${measure} |`));
      expect(line, measure).toBeDefined();
      if (bar?.startsWith("at most")) expect(line).toContain(`| ${bar} |`);
    }
    expect(page).toContain("1000 processes, 24 h, seed 1");
  });
});

function missedMeasures(result: SimulationResult): string[] {
  return missedBars(reportOf(result)).map(({ measure }) => measure);
}

/** Runs it for the first test that asks, and gives the others the same. */
function once<T>(run: () => Promise<T>): () => Promise<T> {
  let result: Promise<T> | undefined;
  return () => {
    result ??= run();
    return result;
  };
}
