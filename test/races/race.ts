/**
 * One race: requests of several processes at a few sessions, in an order that a seed determines, and what may be left afterwards.
 */
import { hasCode } from "@sealed-session/core";
import { SeededRandom } from "../fleet/chaos-random.js";
import type { World } from "./express-world.js";
import { Interleaving } from "./interleaving.js";

/** A save: its token is in the content that it wrote. */
interface Save {
  readonly token: string;
  readonly from: number;
  to: number;
}

/** One session and what was done to it. Times are steps of the order. */
interface Line {
  readonly sessionId: string;
  readonly saves: Save[];
  /** Log-outs and regenerations that began. */
  ends: number;
  /** When the first log-out, or regeneration, was complete. */
  endedAt: number;
}

/** What was done in a race. */
export type Work = "visit" | "save" | "logout" | "regenerate" | "rotate";

/** What came out of a race. */
export interface Outcome {
  /** What is wrong: empty when nothing is. */
  readonly faults: readonly string[];
  readonly steps: number;
  readonly work: Readonly<Record<Work, number>>;
}

const LINES = 2;
const MOST_REQUESTS = 6;

/** Runs one race. @param begin - Makes the order known to the world's store. */
export async function race(world: World, seed: number, begin: (order: Interleaving) => void): Promise<Outcome> {
  const random = new SeededRandom(`race ${seed}`);
  const order = new Interleaving(random);
  const faults: string[] = [];
  const work: Record<Work, number> = { visit: 0, save: 0, logout: 0, regenerate: 0, rotate: 0 };
  const lines: Line[] = [];
  let tokens = 0;
  const pick = <T>(items: readonly T[]): T => random.pick(items) as T;

  /** Saves, and knows of it. */
  const save = async (line: Line, run: () => Promise<void>, token: string) => {
    const entry: Save = { token, from: order.now, to: Number.POSITIVE_INFINITY };
    line.saves.push(entry);
    await run();
    entry.to = order.now;
  };
  const login = async (): Promise<Line> => {
    const process = pick(world.processes);
    const token = `t${++tokens}`;
    const request = process.generate(token);
    const line: Line = { sessionId: request.sessionID, saves: [], ends: 0, endedAt: Number.POSITIVE_INFINITY };
    lines.push(line);
    await save(line, () => process.save(request), token);
    return line;
  };
  /** A request whose session is read. What ended before it began must not be found. */
  const load = async (line: Line) => {
    const process = pick(world.processes);
    const from = order.now;
    const request = await process.load(line.sessionId);
    if (request !== undefined && line.endedAt < from) faults.push("a session was found after its end");
    if (request === undefined && line.ends === 0) faults.push("a session was lost");
    return { process, request };
  };
  const acts: Record<Work, (line: Line) => Promise<void>> = {
    visit: async (line) => {
      const { process, request } = await load(line);
      if (request !== undefined) await process.touch(request);
    },
    save: async (line) => {
      const { process, request } = await load(line);
      if (request === undefined) return;
      const token = `t${++tokens}`;
      request.session.token = token;
      await save(line, () => process.save(request), token);
    },
    logout: async (line) => {
      line.ends++;
      const { process } = await load(line);
      await process.destroy(line.sessionId);
      line.endedAt = Math.min(line.endedAt, order.now);
    },
    regenerate: async (line) => {
      line.ends++;
      const { process, request } = await load(line);
      if (request === undefined) return;
      await process.destroy(line.sessionId);
      line.endedAt = Math.min(line.endedAt, order.now);
      await login();
    },
    rotate: async () => {
      await pick(world.processes).rotate();
    },
  };

  const begun = new Interleaving(random);
  begin(begun);
  await begun.run(Array.from({ length: LINES }, () => async () => void (await login())));
  for (const line of lines) {
    // Before the race, as far as its times go.
    line.saves[0] = { token: (line.saves[0] as Save).token, from: -1, to: -1 };
  }
  const kinds = Object.keys(acts) as Work[];
  const requests = Array.from({ length: random.between(2, MOST_REQUESTS) }, () => {
    const kind = pick(kinds);
    const line = pick(lines);
    work[kind]++;
    return () => acts[kind](line);
  });
  if (work.rotate > 0) await world.publish();
  begin(order);
  await order.run(requests);

  for (const line of lines) {
    const content = await world.contentOf(line.sessionId).catch((error: unknown) => {
      faults.push(hasCode(error, "ENVELOPE_REJECTED") ? "a session does not open" : String(error));
      return undefined;
    });
    if (line.endedAt < Number.POSITIVE_INFINITY && content !== undefined) faults.push("a session came back");
    if (line.ends === 0 && content === undefined) faults.push("a session was lost");
    if (content === undefined) continue;
    const last = line.saves.find(({ token }) => token === content.token);
    if (last === undefined) faults.push("a session holds what nobody saved");
    else if (line.saves.some(({ from, to }) => from > last.to && to < Number.POSITIVE_INFINITY)) {
      faults.push("a save was lost");
    }
  }
  return { faults, steps: order.now, work };
}
