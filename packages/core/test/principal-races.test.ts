/**
 * Logins, logouts and ordinary requests at once: every command of every process waits for its turn, and a seed decides whose turn it is, who dies, and when time
 * passes. What is claimed must hold in all orders.
 */
import { describe, expect, it } from "vitest";
import { parseEnvelope } from "../src/envelope.js";
import { storedIdOf } from "../src/session-id.js";
import type { SessionStore } from "../src/session-store.js";
import { HOUR, START } from "./support/fixture.js";
import { INDEX_PERIOD, principalFixture, type Session } from "./support/principal-fixture.js";

const SECOND = 1000;
const DRAFT_MS = 30 * SECOND;
const DAY = 24 * HOUR;
/** The long runs take minutes. */
const TIMEOUT_MS = 900_000;
const ORDERS = process.env["SEALED_SESSION_BARS"] === "full" ? 20_000 : 600;
const stored = (sessionId: string) => storedIdOf(sessionId) as string;

/** Numbers from 0 to 1 that depend on the seed alone (mulberry32). */
function randomOf(seed: number): () => number {
  let state = Math.imul(seed + 1, 0x9e3779b1);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

interface Turn {
  readonly actor: string;
  readonly command: string;
  readonly args: readonly unknown[];
  go(): void;
}

/** All commands that wait for their turn, and those that had it. */
class Turns {
  readonly waiting: Turn[] = [];
  readonly log: { readonly actor: string; readonly command: string; readonly args: readonly unknown[] }[] = [];
  readonly dead = new Set<string>();
  isOpen = false;

  before(actor: string): (command: string, args: readonly unknown[]) => Promise<void> | void {
    return (command, args) => {
      if (this.isOpen) return undefined;
      return new Promise((resolve) => this.waiting.push({ actor, command, args, go: resolve }));
    };
  }

  /** Gives turns until nobody waits who lives. */
  async run(choose: (turns: readonly Turn[]) => Turn | undefined): Promise<void> {
    for (let turns = 0; ; turns++) {
      await new Promise((resolve) => setImmediate(resolve));
      if (turns > 10_000)
        throw new Error(`nobody goes on: ${this.waiting.map(({ actor, command }) => `${actor} ${command}`)}`);
      const living = this.waiting.filter(({ actor }) => !this.dead.has(actor));
      if (living.length === 0) return;
      const turn = choose(living);
      if (turn === undefined) continue;
      this.waiting.splice(this.waiting.indexOf(turn), 1);
      this.log.push(turn);
      turn.go();
    }
  }

  /** The places in the log at which an actor, or anybody, sent a command that fits. */
  places(command: string, fits: (args: readonly unknown[], actor: string) => boolean): number[] {
    return this.log.flatMap((turn, place) => (turn.command === command && fits(turn.args, turn.actor) ? [place] : []));
  }
}

type Action = (sessions: SessionStore<Session>, world: World) => Promise<unknown>;

interface World {
  /** A session in which nobody was logged in at the beginning. */
  readonly shared: string;
  /** One of ada's, from long ago. */
  readonly old: string;
  /** Makes ids that somebody else may try to use too. */
  readonly ownId: string;
}

const ACTIONS: Readonly<Record<string, Action>> = {
  "logs in": (sessions) => sessions.create({ user: "ada" }),
  "logs in under an id of its own": (sessions, { ownId }) => sessions.create({ user: "ada" }, ownId),
  "logs in under an id that is in use": (sessions, { shared }) => sessions.create({ user: "ada" }, shared),
  "logs in by set": (sessions, { shared }) => sessions.set(shared, { user: "ada" }),
  "logs in by set of what it read": async (sessions, { shared }) => {
    const session = await sessions.get(shared);
    if (session !== undefined) await sessions.set(shared, Object.assign(session, { user: "ada" }));
  },
  "logs in by update": (sessions, { shared }) => sessions.update(shared, (session) => ({ ...session, user: "ada" })),
  "logs in by regenerate": (sessions, { shared }) =>
    sessions.regenerate(shared, (session) => ({ ...session, user: "ada" })),
  "logs bob in": (sessions, { shared }) => sessions.set(shared, { user: "bob" }),
  "makes it nobody's": (sessions, { shared }) => sessions.update(shared, () => ({})),
  "makes the old one nobody's": async (sessions, { old }) => {
    const session = await sessions.get(old);
    if (session !== undefined) await sessions.set(old, {}, { origin: session });
  },
  "regenerates the old one": (sessions, { old }) => sessions.regenerate(old),
  "regenerates the old one again and again": async (sessions, { old }) => {
    let sessionId: string | undefined = old;
    for (let time = 0; time < 3 && sessionId !== undefined; time++) sessionId = await sessions.regenerate(sessionId);
  },
  "counts a visit of the old one": (sessions, { old }) =>
    sessions.update(old, (session) => ({ ...session, visits: (session.visits ?? 0) + 1 })),
  "sets the old one": (sessions, { old }) => sessions.set(old, { user: "ada", device: "old" }),
  "touches the old one": (sessions, { old }) => sessions.touch(old, { ttlMs: HOUR }),
  "logs the old one out": async (sessions, { old }) => {
    const [mine] = (await sessions.listFor("ada", { current: old })).filter(({ current }) => current);
    return mine !== undefined && (await sessions.destroyFor("ada", mine.handle));
  },
  "uses it": async (sessions, { shared }) => {
    const session = await sessions.get(shared);
    if (session !== undefined) await sessions.set(shared, { ...session, visits: 1 }, { origin: session });
  },
  "uses the old one": async (sessions, { old }) => {
    const session = await sessions.get(old);
    if (session !== undefined) await sessions.set(old, { ...session, visits: 1 }, { origin: session, ttlMs: 2 * HOUR });
  },
  "counts a visit": (sessions, { shared }) =>
    sessions.update(shared, (session) => ({ ...session, visits: (session.visits ?? 0) + 1 })),
  "touches it": async (sessions, { shared }) => {
    const session = await sessions.get(shared);
    await sessions.touch(shared, { ttlMs: HOUR, origin: session });
  },
  "ends it": (sessions, { shared }) => sessions.destroy(shared),
  "lists ada's": (sessions) => sessions.listFor("ada"),
  "ends ada's latest": async (sessions) => {
    const [latest] = await sessions.listFor("ada");
    if (latest !== undefined) await sessions.destroyFor("ada", latest.handle);
  },
  "logs ada out everywhere": (sessions) => sessions.destroyAllFor("ada"),
  "logs ada out elsewhere": (sessions, { old }) => sessions.destroyAllFor("ada", { except: old }),
};

interface Plan {
  readonly actions: readonly string[];
  readonly maxPerPrincipal?: number;
  /** Two index keys, of which the older one has the old session. */
  readonly rotated?: boolean;
  /** One actor dies before a command of its own. */
  readonly crash?: boolean;
  /** Time passes between commands. */
  readonly slow?: boolean;
}

async function act(seed: number, plan: Plan) {
  const random = randomOf(seed);
  const limit = plan.maxPerPrincipal === undefined ? {} : { maxPerPrincipal: plan.maxPerPrincipal };
  const fixture = principalFixture({ idleSeconds: 40 * 24 * 3600, absoluteSeconds: 45 * 24 * 3600, ...limit });
  const { open, sessions, advance, indexRing, ring } = fixture;
  const old = await sessions.create({ user: "ada", device: "old" });
  if (plan.rotated) {
    await indexRing.publish({ delayMs: 0 });
    advance(INDEX_PERIOD);
    await indexRing.refresh();
  }
  await ring.current();
  const shared = await sessions.create({});
  advance(5 * SECOND);
  const started = fixture.now();
  const turns = new Turns();
  const world = { shared, old, ownId: "an-id-that-two-may-want" };
  const actors = plan.actions.map((action, index) => {
    const actor = `${index}: ${action}`;
    const own = open({}, turns.before(actor));
    return { actor, action, outcome: (ACTIONS[action] as Action)(own, world) };
  });
  const outcomes = new Map<string, PromiseSettledResult<unknown>>();
  for (const { actor, outcome } of actors) {
    outcome.then(
      (value) => outcomes.set(actor, { status: "fulfilled", value }),
      (reason: unknown) => outcomes.set(actor, { status: "rejected", reason }),
    );
  }
  await turns.run((waiting) => {
    if (plan.slow && random() < 0.05) advance(Math.floor(random() * 20 * SECOND));
    const turn = waiting[Math.floor(random() * waiting.length)] as Turn;
    if (plan.crash && turns.dead.size === 0 && random() < 0.08) {
      turns.dead.add(turn.actor);
      return undefined;
    }
    return turn;
  });
  turns.isOpen = true;
  return { ...fixture, turns, outcomes, world, started };
}

type Acted = Awaited<ReturnType<typeof act>>;

/** Sessions of a principal that open now, by stored id. */
async function livingOf({ open }: Acted, user: string): Promise<string[]> {
  const living: string[] = [];
  for await (const [storedId, session] of open().all()) if (session.user === user) living.push(storedId);
  return living;
}

/** What holds whatever has happened, once drafts have ended. */
async function expectAllFound(acted: Acted, label: string): Promise<void> {
  const { sessions, advance } = acted;
  advance(DRAFT_MS + SECOND);
  for (const user of ["ada", "bob"]) {
    const living = await livingOf(acted, user);
    expect(await sessions.listFor(user), `${label}: living sessions of ${user} are in the index`).toHaveLength(
      living.length,
    );
    await sessions.destroyAllFor(user);
    expect(await livingOf(acted, user), `${label}: after that ${user} is logged out`).toEqual([]);
  }
}

/** A session that was noted before somebody who logged everybody out renewed the epoch has gone when that call has returned. */
async function expectOvertaken(acted: Acted, label: string): Promise<void> {
  const { turns, outcomes, world } = acted;
  for (const [actor, { status }] of outcomes) {
    const isElsewhere = actor.endsWith("elsewhere");
    if (status !== "fulfilled" || !(isElsewhere || actor.endsWith("everywhere"))) continue;
    for (const storedId of await livingOf(acted, "ada")) {
      if (isElsewhere && storedId === stored(world.old)) continue;
      const notedAfter = turns.places("index.add", ([entry, id], _) => {
        const [renewed] = turns.places("index.renew", ([name], by) => by === actor && name === entry);
        const noted = turns.places("index.add", ([name, other]) => name === entry && other === id);
        return id === storedId && (renewed === undefined || (noted.at(-1) as number) > renewed);
      });
      expect(notedAfter.length, `${label}: a session that ${actor} has missed`).toBeGreaterThan(0);
    }
  }
}

function planOf(seed: number): Plan {
  const random = randomOf(~seed);
  const names = Object.keys(ACTIONS);
  const actions = Array.from(
    { length: 2 + Math.floor(random() * 4) },
    () => names[Math.floor(random() * names.length)] as string,
  );
  return {
    actions,
    ...(random() < 0.3 ? { maxPerPrincipal: 1 + Math.floor(random() * 2) } : {}),
    rotated: random() < 0.3,
    crash: random() < 0.4,
    slow: random() < 0.3,
  };
}

/** One to three, of which the first gives the session another id. */
function usesOfTheOld(seed: number): string[] {
  const random = randomOf(seed ^ 0x5bd1e995);
  const regenerating = ["regenerates the old one", "regenerates the old one again and again"];
  const others = [
    ...regenerating,
    "uses the old one",
    "counts a visit of the old one",
    "sets the old one",
    "touches the old one",
    "lists ada's",
    "logs in",
  ];
  const pick = (from: readonly string[]) => from[Math.floor(random() * from.length)] as string;
  return [pick(regenerating), ...Array.from({ length: Math.floor(random() * 3) }, () => pick(others))];
}

describe("whatever happens at once, in any order, and whoever dies in it", { timeout: TIMEOUT_MS }, () => {
  it("every living session of a principal is in the index, and ends with the next logout everywhere", async () => {
    for (let seed = 0; seed < ORDERS; seed++) {
      const plan = planOf(seed);
      await expectAllFound(await act(seed, plan), `seed ${seed}, ${JSON.stringify(plan)}`);
    }
  });

  it("no session lives whose login was noted before everybody was logged out", async () => {
    for (let seed = 0; seed < ORDERS; seed++) {
      const plan = { ...planOf(seed), maxPerPrincipal: 100 };
      const logout = seed % 2 === 0 ? "logs ada out everywhere" : "logs ada out elsewhere";
      const acted = await act(seed, { ...plan, actions: [logout, "logs in", ...plan.actions] });
      if (!acted.turns.dead.size) {
        for (const [actor, outcome] of acted.outcomes) {
          if (outcome.status === "rejected") expect(outcome.reason, `seed ${seed}: ${actor}`).toHaveProperty("code");
        }
      }
      acted.advance(DRAFT_MS + SECOND);
      await expectOvertaken(acted, `seed ${seed}`);
    }
  });

  it("no session lives that goes on from one which was logged out everywhere, or alone", async () => {
    for (let seed = 0; seed < ORDERS * 2; seed++) {
      const logout = seed % 2 === 0 ? "logs ada out everywhere" : "logs the old one out";
      const plan: Plan = { actions: [logout, ...usesOfTheOld(seed)], rotated: seed % 3 === 0, slow: seed % 5 === 0 };
      // A process that dies before it ends the old session leaves a new one whose id nobody has got, and of which a logout of the old one alone does not know.
      const acted = await act(seed, { ...plan, crash: seed % 4 === 0 });
      acted.advance(DRAFT_MS + SECOND);
      const outcome = acted.outcomes.get(`0: ${logout}`);
      if (outcome?.status !== "fulfilled" || outcome.value === false) continue;
      const living: string[] = [];
      for await (const [, session] of acted.open().all()) if (session.device === "old") living.push(session.device);
      expect(living, `seed ${seed}, ${JSON.stringify(plan)}`).toEqual([]);
    }
  });

  it("a principal has no more sessions than it may", async () => {
    for (let seed = 0; seed < ORDERS / 2; seed++) {
      const maxPerPrincipal = 1 + (seed % 3);
      const actions = [
        "logs in",
        "logs in by set",
        "logs in",
        "logs in by regenerate",
        "logs in",
        ...planOf(seed).actions,
      ];
      const acted = await act(seed, { actions, maxPerPrincipal, crash: seed % 2 === 0 });
      acted.advance(DRAFT_MS + SECOND);
      expect((await livingOf(acted, "ada")).length, `seed ${seed}`).toBeLessThanOrEqual(maxPerPrincipal);
    }
  });
});

describe("what happens at once", { timeout: TIMEOUT_MS }, () => {
  it("makes no login fail but by a logout: those that are noted after it live, and those that fail leave nothing", async () => {
    for (let seed = 0; seed < ORDERS / 2; seed++) {
      const actions = ["logs in", "logs in", "lists ada's", "logs ada out everywhere", "logs in", "lists ada's"];
      const acted = await act(seed, { actions });
      const living = await livingOf(acted, "ada");
      for (const [actor, outcome] of acted.outcomes) {
        if (!actor.endsWith("logs in")) continue;
        const [added] = acted.turns.log.filter((turn) => turn.actor === actor && turn.command === "index.add");
        const [entry, storedId] = (added as Turn).args as [string, string];
        const [noted] = acted.turns.places("index.add", (_, by) => by === actor);
        const [renewed] = acted.turns.places("index.renew", ([name]) => name === entry);
        const label = `seed ${seed}: ${actor}`;
        if ((noted as number) > (renewed as number)) expect(outcome.status, label).toBe("fulfilled");
        if (outcome.status === "rejected") expect(outcome.reason, label).toMatchObject({ code: "LOGIN_OVERTAKEN" });
        expect(living.includes(storedId), label).toBe((noted as number) > (renewed as number));
      }
    }
  });

  it("leaves a session that was logged in its whole life, and every visit counted, whatever other requests of it were under way", async () => {
    for (let seed = 0; seed < ORDERS / 2; seed++) {
      const actions = ["logs in by update", "touches it", "counts a visit", "uses it", "touches it", "counts a visit"];
      const withoutUses = actions.filter((action) => action !== "uses it");
      const acted = await act(seed, { actions: seed % 2 === 0 ? actions : withoutUses });
      const { envelopes, world, sessions, outcomes } = acted;
      for (const [actor, outcome] of outcomes) expect(outcome.status, `seed ${seed}: ${actor}`).toBe("fulfilled");
      const envelope = (await envelopes.get(stored(world.shared))) as Uint8Array;
      expect(parseEnvelope(envelope)?.notAfter, `seed ${seed}`).toBe((START + 45 * DAY) / SECOND);
      acted.advance(DRAFT_MS + SECOND);
      const session = await sessions.get(world.shared);
      expect(session, `seed ${seed}`).toBeDefined();
      if (seed % 2 === 1) expect(session, `seed ${seed}`).toEqual({ user: "ada", visits: 2 });
    }
  });

  it("lets a session go on under one new id, whatever other requests of it were under way", async () => {
    for (let seed = 0; seed < ORDERS / 2; seed++) {
      const plan: Plan = { actions: usesOfTheOld(seed), rotated: seed % 3 === 0 };
      const acted = await act(seed, plan);
      const label = `seed ${seed}, ${JSON.stringify(plan)}`;
      for (const [actor, outcome] of acted.outcomes) expect(outcome.status, `${label}: ${actor}`).toBe("fulfilled");
      acted.advance(DRAFT_MS + SECOND);
      const living: string[] = [];
      for await (const [storedId, session] of acted.open().all()) if (session.device === "old") living.push(storedId);
      expect(living, label).toHaveLength(1);
      expect(living, label).not.toContain(stored(acted.world.old));
      expect(
        (await acted.sessions.listFor("ada")).filter(({ device }) => device === "old"),
        label,
      ).toHaveLength(1);
    }
  });

  it("does not take a session out of the index that its principal has logged in again, while its leaving was being noted", async () => {
    const { open, sessions } = principalFixture();
    const sessionId = await sessions.create({ user: "ada" });
    const turns = new Turns();
    const leaving = open({}, turns.before("leaves")).update(sessionId, () => ({}));
    let login: Promise<boolean> | undefined;
    let isLoggedIn = false;
    await turns.run((waiting) => {
      const [turn] = waiting as [Turn];
      // The session is nobody's by now.
      if (turn.command !== "index.remove") return turn;
      login ??= sessions.set(sessionId, { user: "ada" }).finally(() => {
        isLoggedIn = true;
      });
      return isLoggedIn ? turn : undefined;
    });
    await leaving;
    expect(await login).toBe(true);
    expect(await sessions.get(sessionId)).toEqual({ user: "ada" });
    expect(await sessions.listFor("ada")).toHaveLength(1);
    expect(await sessions.destroyAllFor("ada")).toBe(1);
  });

  it("does not shorten a session by what another request has read while its principal logged in", async () => {
    const { open, sessions, envelopes } = principalFixture();
    const sessionId = await sessions.create({});
    const turns = new Turns();
    const login = open({}, turns.before("logs in")).set(sessionId, { user: "ada" });
    let read: Promise<Session | undefined> | undefined;
    await turns.run((waiting) => {
      const [turn] = waiting as [Turn];
      if (turn.command === "index.holds") read ??= sessions.get(sessionId);
      return turn;
    });
    expect(await login).toBe(true);
    const session = (await read) as Session;
    expect(session).toEqual({ user: "ada" });
    delete session.user;
    expect(await sessions.set(sessionId, session)).toBe(true);
    const envelope = (await envelopes.get(stored(sessionId))) as Uint8Array;
    expect(parseEnvelope(envelope)?.notAfter).toBe((START + 30 * DAY) / SECOND);
  });
});

describe("a process that dies while a principal logs in", () => {
  it.each(["index.holds", "session.compareAndSet"])(
    "before %s leaves a session that is in the index, and in the store for half a minute",
    async (command) => {
      for (const action of ["logs in", "logs in by set", "logs in by update"]) {
        const { open, sessions, envelopes, indexed, advance } = principalFixture({ idleSeconds: 24 * 3600 });
        const shared = await sessions.create({});
        const turns = new Turns();
        void (ACTIONS[action] as Action)(open({}, turns.before("dying")), { shared, old: "", ownId: "" });
        // A session that is there already is written by compareAndSet too: it dies before the second one.
        let spared = action !== "logs in" && command === "session.compareAndSet" ? 1 : 0;
        await turns.run((waiting) => {
          const [turn] = waiting as [Turn];
          if (turn.command !== command || spared-- > 0) return turn;
          turns.dead.add("dying");
          return undefined;
        });
        const [storedId] = (await indexed()) as [string];
        expect(await envelopes.ttlMs(storedId), action).toBe(DRAFT_MS);
        advance(DRAFT_MS);
        expect(await envelopes.get(storedId), action).toBeUndefined();
      }
    },
  );

  it("after everybody was logged out, and before it asks, leaves a session that ends within half a minute whatever its client does", async () => {
    const { open, sessions, advance } = principalFixture({ idleSeconds: 24 * 3600 });
    const sessionId = "an-id-of-the-client-itself";
    const turns = new Turns();
    void open({}, turns.before("dying")).create({ user: "ada" }, sessionId);
    let logout: Promise<number> | undefined;
    await turns.run((waiting) => {
      const [turn] = waiting as [Turn];
      if (turn.command === "session.set" && logout === undefined) {
        logout = sessions.destroyAllFor("ada");
        return undefined;
      }
      if (turn.command !== "index.holds") return turn;
      turns.dead.add("dying");
      return undefined;
    });
    expect(await logout).toBe(0);
    expect(await sessions.listFor("ada")).toEqual([]);
    // Whoever has the session id slides it, touches it and writes it as much as it likes.
    for (let second = 0; second < 30; second++) {
      const session = (await sessions.get(sessionId)) as Session;
      expect(session, `${second} s`).toMatchObject({ user: "ada" });
      await sessions.touch(sessionId, { ttlMs: HOUR, origin: session });
      await sessions.set(sessionId, { ...session, visits: second }, { origin: session });
      await sessions.update(sessionId, (found) => found);
      advance(SECOND);
    }
    expect(await sessions.get(sessionId)).toBeUndefined();
    expect(await sessions.regenerate(sessionId)).toBeUndefined();
  });

  it.each(["ada", "bob"])(
    "leaves no session that another login of the same id gives its life, after %s was logged out everywhere",
    async (user) => {
      const { open, sessions, advance, indexRing } = principalFixture({ idleSeconds: 24 * 3600 });
      await indexRing.current();
      const turns = new Turns();
      const sessionId = "an-id-that-two-log-in-with";
      const first = open({}, turns.before("first")).create({ user: "ada" }, sessionId);
      void open({}, turns.before("dying")).create({ user }, sessionId);
      const logout = open({}, turns.before("logout")).destroyAllFor(user);
      const order = [
        ["first", "index.add"],
        ["first", "session.set"],
        ["first", "index.holds"],
        ["dying", "index.add"],
        // Ends the first one's draft, so that the other one can write under the same id.
        ["logout", "index.renew"],
        ["logout", "session.destroy"],
        ["logout", "index.remove"],
        ["dying", "session.set"],
        // Here it dies, and the first one finds what it has written.
      ];
      const settled = Promise.allSettled([first, logout]);
      await turns.run((waiting) => {
        const [next] = order;
        if (next === undefined) {
          turns.dead.add("dying");
          return waiting.find(({ actor }) => actor !== "dying");
        }
        const [actor, command] = next;
        const turn = waiting.find((one) => one.actor === actor && one.command === command);
        if (turn !== undefined) order.shift();
        return turn;
      });
      await settled;
      advance(DRAFT_MS);
      expect(await sessions.get(sessionId)).toBeUndefined();
    },
  );
});
