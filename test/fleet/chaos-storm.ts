/**
 * A storm: processes and masters die, in an order that follows from a seed, and at least one record vanishes with its master.
 */
import { setTimeout as delay } from "node:timers/promises";
import { untilNothingMissing } from "@sealed-session/test/servers";
import type { ChaosCluster } from "./chaos-cluster.js";
import { comesTrue } from "./chaos-condition.js";
import type { Fleet } from "./chaos-fleet.js";
import type { ChaosLedger } from "./chaos-ledger.js";
import { SeededRandom, ShuffledBag } from "./chaos-random.js";

/** How often each process dies in a storm. */
const DEATHS_IN_STORM = 2;
/** A process that has a record must have put it back so long after the failover: time to find the new master and to read the ring. */
const PUT_BACK_MS = 5_000;

/** A key whose record vanished with its master. */
export interface LostRecord {
  readonly keyId: string;
  /** How long after another master had the ring that one had the record, in milliseconds; `undefined` when it did not come back. */
  readonly backAfterMs: number | undefined;
}

/** A time in which the servers do not have a record, in milliseconds since 1970-01-01T00:00:00Z. */
interface Gap {
  readonly keyId: string;
  readonly from: number;
  to: number;
}

/** What a storm acts on. */
export interface StormOptions {
  readonly members: readonly string[];
  readonly fleet: Fleet;
  readonly cluster: ChaosCluster;
  readonly ledger: ChaosLedger;
  /** The keys that each running process holds opened. */
  readonly held: ReadonlyMap<string, ReadonlySet<string>>;
  readonly seed: string;
  readonly say: (line: string) => void;
}

/** Makes storms, one after the other. */
export class ChaosStorm {
  readonly #options: StormOptions;
  readonly #faults: ShuffledBag<() => Promise<void>>;
  readonly #lost: LostRecord[] = [];
  readonly #gaps: Gap[] = [];
  /** It holds a record that no server has, and must not die with it. */
  #witness: string | undefined;
  #storms = 0;

  constructor(options: StormOptions) {
    this.#options = options;
    const { cluster, seed } = options;
    const random = new SeededRandom(`${seed} faults`);
    this.#faults = new ShuffledBag(
      [
        () => cluster.killOwner(),
        () => cluster.killOther((nodes) => random.pick(nodes)),
        () => cluster.blinkOwner(),
        () => this.#loseRecord(),
      ],
      random,
    );
  }

  /** Records that were lost so far. */
  get lost(): readonly LostRecord[] {
    return this.#lost;
  }

  /** @returns whether the servers did not have the key's record then, or had it back for less than `graceMs`. */
  isInGap(keyId: string, at: number, graceMs: number): boolean {
    return this.#gaps.some((gap) => gap.keyId === keyId && at >= gap.from && at <= gap.to + graceMs);
  }

  /**
   * Kills servers, one after the other, and processes all the while. Ends when its time has come, the cluster is whole and every process has
   * died often enough.
   */
  async rage(durationMs: number): Promise<void> {
    const { members, fleet, say } = this.#options;
    say("storm");
    const endsAt = Date.now() + durationMs;
    const deaths = () => members.map((name) => fleet.deathsOf(name));
    const before = deaths();
    const ending = new AbortController();
    const killing = this.#killProcesses(ending.signal);
    try {
      // The one fault that must not be left to chance comes first.
      if (this.#storms++ === 0) await this.#loseRecord();
      while (Date.now() < endsAt) await this.#faults.take()?.();
      await untilNothingMissing("every process to die", () => {
        const counts = deaths().map((count, index) => count - (before[index] ?? 0));
        return counts.every((count) => count >= DEATHS_IN_STORM) ? undefined : `more deaths than ${counts.join()}`;
      });
    } finally {
      ending.abort();
      await killing;
    }
  }

  /** Kills up to all processes at once, and starts each again after a while. */
  async #killProcesses(ending: AbortSignal): Promise<void> {
    const { members, fleet, seed } = this.#options;
    const random = new SeededRandom(`${seed} storm ${this.#storms}`);
    const victims = new ShuffledBag(members, random);
    const counts = new ShuffledBag([1, 1, 1, 2, 2, members.length], random);
    const restarts: Promise<void>[] = [];
    const pause = (ms: number) => delay(ms, undefined, { signal: ending }).catch(() => {});
    while (!ending.aborted) {
      await pause(random.between(400, 1_400));
      if (ending.aborted) break;
      const chosen = Array.from({ length: counts.take() ?? 1 }, () => {
        return victims.take((name) => name !== this.#witness && fleet.running.includes(name));
      });
      for (const name of new Set(chosen)) {
        if (name === undefined) continue;
        const downMs = random.between(20, 1_000);
        restarts.push(
          fleet
            .kill(name)
            .then(() => pause(downMs))
            .then(() => fleet.start(name)),
        );
      }
    }
    await Promise.all(restarts);
  }

  /**
   * Has a record vanish with its master after processes have sealed under it. One of them must live: the format lets a key seal that no
   * replica confirmed, once two refresh intervals have passed, and what neither a server nor a process has is gone.
   */
  async #loseRecord(): Promise<void> {
    const { cluster, ledger, say } = this.#options;
    say("the ring's master is cut off from its replica");
    try {
      const { keyId, revive } = await cluster.loseRecord((keyIds) => this.#lonelyKey(keyIds));
      say(`the record of ${keyId} is gone from all servers; ${this.#witness} has it`);
      const takenOverAt = Date.now();
      const isBack = await comesTrue(PUT_BACK_MS, async () => (await cluster.keyIds()).includes(keyId));
      for (const gap of this.#gaps) gap.to = Math.min(gap.to, Date.now());
      this.#lost.push({ keyId, backAfterMs: isBack ? Date.now() - takenOverAt : undefined });
      if (!isBack) ledger.fail("a lost record was not put back", keyId);
      await revive();
    } finally {
      this.#witness = undefined;
    }
  }

  /** @returns one of `keyIds` under which there are envelopes; a process that holds it is from now on spared. */
  #lonelyKey(keyIds: readonly string[]): string | undefined {
    const { fleet, ledger, held } = this.#options;
    for (const keyId of keyIds) {
      if (!ledger.envelopes.some((envelope) => envelope.keyId === keyId)) continue;
      this.#witness = fleet.ready.find((name) => held.get(name)?.has(keyId));
      if (this.#witness === undefined) continue;
      this.#gaps.push({ keyId, from: Date.now(), to: Number.POSITIVE_INFINITY });
      return keyId;
    }
    return undefined;
  }
}
