import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type EnvelopeStore, localKms } from "@sealed-session/core";
import { describe, expect, it } from "vitest";
import { type Lie, World } from "./express-world.js";
import type { Interleaving } from "./interleaving.js";
import { type Outcome, race, type Work } from "./race.js";

const kms = localKms({ keyFile: join(mkdtempSync(join(tmpdir(), "races-")), "key") });
/** Races of one world: each may add a key to its ring. */
const RACES_PER_WORLD = 200;
const FULL = process.env["SEALED_SESSION_BARS"] === "full";
const RACES = FULL ? 100_000 : 1000;

async function races(count: number, firstSeed: number, lie?: Lie): Promise<Outcome & { readonly races: number }> {
  const faults: string[] = [];
  const work: Record<Work, number> = { visit: 0, save: 0, logout: 0, regenerate: 0, rotate: 0 };
  let steps = 0;
  for (let done = 0; done < count; done += RACES_PER_WORLD) {
    let order: Interleaving | undefined;
    const world = await World.open(kms, () => order as Interleaving, lie);
    for (let n = done; n < Math.min(count, done + RACES_PER_WORLD); n++) {
      const outcome = await race(world, firstSeed + n, (begun) => {
        order = begun;
      });
      faults.push(...outcome.faults.map((fault) => `seed ${firstSeed + n}: ${fault}`));
      steps += outcome.steps;
      for (const [kind, times] of Object.entries(outcome.work)) work[kind as Work] += times;
    }
    world.close();
  }
  return { faults, steps, work, races: count };
}

describe("requests of several processes in any order", () => {
  it(
    "lose no session and no save, and nothing comes back after its end",
    async () => {
      const { faults, steps, work } = await races(RACES, 1);
      expect(faults).toEqual([]);
      // Everything had its part in it.
      for (const times of Object.values(work)) expect(times).toBeGreaterThan(RACES / 3);
      expect(steps).toBeGreaterThan(10 * RACES);
      if (FULL) console.info(`${RACES} races, ${steps} steps`, work);
    },
    FULL ? 3_600_000 : 120_000,
  );
});

/** Stores that break one promise each. */
const LIES: Record<string, { readonly lie: Lie; readonly fault: string }> = {
  "saves whether the session exists or not": {
    lie: (store) => ({ ...store, set: (id, bytes, options) => store.set(id, bytes, { ttlMs: options.ttlMs }) }),
    fault: "came back",
  },
  "exchanges an envelope whatever is there": {
    lie: (store) => ({
      ...store,
      compareAndSet: async (id, _, bytes) => {
        await store.set(id, bytes, { ttlMs: 1_000_000 });
        return true;
      },
    }),
    fault: "came back",
  },
  "exchanges an envelope whichever is there": {
    lie: (store) => ({
      ...store,
      compareAndSet: (id, _, bytes) => store.set(id, bytes, { ttlMs: 1_000_000, condition: "present" }),
    }),
    fault: "a save was lost",
  },
  "forgets a log-out now and then": {
    lie: (store) => {
      let calls = 0;
      const destroy: EnvelopeStore["destroy"] = async (...args) => ++calls % 5 === 0 || (await store.destroy(...args));
      return { ...store, destroy };
    },
    fault: "came back",
  },
};

describe("the races notice a store that", () => {
  it.each(Object.entries(LIES))("%s", async (_, { lie, fault }) => {
    const { faults } = await races(600, 1_000_000, lie);
    expect(faults.filter((text) => text.includes(fault))).not.toEqual([]);
  });
});
