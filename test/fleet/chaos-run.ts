/**
 * One run of the chaos test: storms, in which processes and masters die, and calms, in which all must agree; in the end every envelope of
 * the run is opened once more.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type KeyStatus, localKms } from "@sealed-session/core";
import { type RedisCluster, untilNothingMissing } from "@sealed-session/test/servers";
import { beforeExit } from "../servers/exit-cleanup.js";
import { agreedSwitches, disagreements } from "./chaos-agreement.js";
import { ChaosCluster } from "./chaos-cluster.js";
import { comesTrue } from "./chaos-condition.js";
import { buildWorker, Fleet } from "./chaos-fleet.js";
import { Handout, type Refusal } from "./chaos-handout.js";
import { type ChaosFailure, ChaosLedger, type SealedEnvelope } from "./chaos-ledger.js";
import type { FromWorker, WorkerSettings } from "./chaos-messages.js";
import { SeededRandom } from "./chaos-random.js";
import { ChaosStorm, type LostRecord } from "./chaos-storm.js";

const MEMBERS = ["ada", "bob", "cleo", "dan"] as const;
const READER = "reader";

const ROTATION_PERIOD_MS = 2_000;
const REFRESH_INTERVAL_MS = 200;
/** Long, so that a failover does not end sealing. */
const MAX_SEALING_AGE_MS = 60_000;
const SEAL_EVERY_MS = 15;

/** How long one storm is, when there is time for several. */
const STORM_MS = 15_000;
/** Nothing was killed for so long when processes must agree. */
const SETTLING_MS = 1_000;
/** Rotations that a calm has to see. */
const ROTATIONS_IN_CALM = 2;
/** What may pass by itself must have passed so long after the last fault. */
const PATIENCE_MS = 15_000;
/** For opening everything. */
const FINAL_PATIENCE_MS = 60_000;

/** Options of {@link runChaos}. */
export interface ChaosOptions {
  /** All its nodes run; they do so again in the end. */
  readonly cluster: RedisCluster;
  /** How long to kill, in seconds; the calms between come on top. */
  readonly seconds: number;
  /** The same seed makes the same choices. */
  readonly seed: number;
  /** A ring that no other run had. @defaultValue "chaos" */
  readonly ring?: string;
  /**
   * Counts a {@link ChaosReport.gapRefusals} as a failure.
   *
   * @defaultValue false
   */
  readonly strict?: boolean;
  /** Which promise of a ring store the processes break, to show that it is noticed. @defaultValue "redis", none */
  readonly store?: WorkerSettings["store"];
  /** Is told what is being done. @defaultValue nobody */
  readonly say?: (line: string) => void;
}

/** What came of a run. */
export interface ChaosReport {
  /** Envelopes that the processes sealed. */
  readonly envelopes: number;
  /** Envelopes that were opened on the way and in the end, each as often as that. */
  readonly opened: number;
  /** Envelopes that a fresh process opened in the end. */
  readonly openedAfresh: number;
  /** How often an open was tried again after a refusal that may pass. */
  readonly retried: number;
  /**
   * How often a process that never had a key rejected an envelope under it, while its record was lost with a master and not yet put back; it
   * opened later. Until then such a process cannot tell the key from one that never was.
   */
  readonly gapRefusals: number;
  /** How often each process was killed. */
  readonly deaths: readonly number[];
  readonly mastersKilled: number;
  /** Records that were lost with their master, and how long after the failover they were back, in milliseconds. */
  readonly recordsLost: readonly LostRecord[];
  /** Keys under which envelopes were sealed. */
  readonly keys: number;
  /** Rotations while nothing was killed, after which all processes sealed under the new key. */
  readonly agreedSwitches: number;
  /** The longest that a process took to seal, in milliseconds. */
  readonly longestSealMs: number;
  readonly failures: readonly ChaosFailure[];
  /** @returns what is known of a key, a line each. */
  historyOf(keyId: string): readonly string[];
  /** @returns the whole story, a line each. */
  history(): readonly string[];
}

/** Starts four processes on a ring of `cluster`, makes chaos, and reports. Rejects only when the chaos itself cannot be made. */
export async function runChaos(options: ChaosOptions): Promise<ChaosReport> {
  // Synchronous up to `beforeExit`, so that no signal comes in between.
  const directory = mkdtempSync(join(tmpdir(), "sealed-session-chaos-"));
  const remove = () => rmSync(directory, { recursive: true, force: true });
  const forget = beforeExit(remove);
  const keyFile = join(directory, "kms.key");
  const program = join(directory, "worker.cjs");
  const run = new ChaosRun(options, program, keyFile);
  try {
    localKms({ keyFile });
    await buildWorker(program);
    return await run.run();
  } finally {
    await run.stop();
    remove();
    forget();
  }
}

class ChaosRun {
  readonly #options: ChaosOptions;
  readonly #ledger = new ChaosLedger();
  readonly #cluster: ChaosCluster;
  readonly #fleet: Fleet;
  readonly #handout: Handout;
  /** The keys that each running process holds opened. */
  readonly #held = new Map<string, ReadonlySet<string>>();
  readonly #storm: ChaosStorm;
  /** Nothing is killed, and everything must work. */
  #calm = false;
  #switches = 0;
  #gapRefusals = 0;

  constructor(options: ChaosOptions, program: string, keyFile: string) {
    const { cluster, seed, ring = "chaos", store = "redis" } = options;
    this.#options = options;
    this.#cluster = new ChaosCluster(cluster, ring);
    const settings = {
      addresses: cluster.addresses(),
      ring,
      keyFile,
      rotationPeriodMs: ROTATION_PERIOD_MS,
      refreshIntervalMs: REFRESH_INTERVAL_MS,
      maxSealingAgeMs: MAX_SEALING_AGE_MS,
      sealEveryMs: SEAL_EVERY_MS,
      store,
    };
    this.#fleet = new Fleet(program, settings, {
      heard: (name, message) => this.#heard(name, message),
      ended: (name, killed) => this.#ended(name, killed),
    });
    this.#handout = new Handout(this.#fleet, this.#ledger, new SeededRandom(`${seed} handout`), (...refusal) =>
      this.#isGapRefusal(...refusal),
    );
    this.#storm = new ChaosStorm({
      members: MEMBERS,
      fleet: this.#fleet,
      cluster: this.#cluster,
      ledger: this.#ledger,
      held: this.#held,
      seed: String(seed),
      say: (line) => this.#say(line),
    });
  }

  async run(): Promise<ChaosReport> {
    for (const name of MEMBERS) this.#fleet.start(name);
    await this.#untilAllReady();
    for (let leftMs = this.#options.seconds * 1000; leftMs > 0; ) {
      const startedAt = Date.now();
      await this.#storm.rage(Math.min(leftMs, STORM_MS));
      leftMs -= Date.now() - startedAt;
      // What is lost for good does not get better.
      if (this.#storm.lost.some(({ backAfterMs }) => backAfterMs === undefined)) break;
      await this.#calmDown();
    }
    const deaths = MEMBERS.map((name) => this.#fleet.deathsOf(name));
    const openedAfresh = await this.#openAll();
    return this.#report(deaths, openedAfresh);
  }

  async stop(): Promise<void> {
    this.#handout.stop();
    await this.#fleet.stop();
  }

  #report(deaths: readonly number[], openedAfresh: number): ChaosReport {
    const ledger = this.#ledger;
    return {
      envelopes: ledger.envelopes.length,
      opened: ledger.opened,
      openedAfresh,
      retried: this.#handout.retried,
      gapRefusals: this.#gapRefusals,
      deaths,
      mastersKilled: this.#cluster.mastersKilled,
      recordsLost: this.#storm.lost,
      keys: this.#sealedKeyIds().size,
      agreedSwitches: this.#switches,
      longestSealMs: ledger.longestSealMs,
      failures: ledger.failures,
      historyOf: (keyId) => ledger.historyOf(keyId),
      history: () => ledger.history(),
    };
  }

  /** Waits until all processes seal under the same keys, and everything that was to be opened is. */
  async #calmDown(): Promise<void> {
    await this.#cluster.waitUntilWhole();
    await this.#untilAllReady();
    this.#say("calm");
    this.#calm = true;
    const calmFrom = Date.now();
    const opened = await comesTrue(PATIENCE_MS, () => this.#handout.leftFrom(calmFrom) === 0);
    if (!opened) this.#handout.abandonFrom(calmFrom);
    await this.#untilComplete();
    const window = { from: calmFrom + SETTLING_MS, to: Number.POSITIVE_INFINITY };
    const switches = () => agreedSwitches(this.#sealsIn(window), this.#ledger.activations, MEMBERS, window).length;
    const agreed = await comesTrue(PATIENCE_MS, () => switches() >= ROTATIONS_IN_CALM);
    if (!agreed) this.#ledger.fail(`in a calm only ${switches()} new keys were sealed under by all`);
    for (const what of disagreements(this.#sealsIn(window), this.#ledger.activations, REFRESH_INTERVAL_MS)) {
      this.#ledger.fail(what);
    }
    this.#switches += switches();
    this.#calm = false;
  }

  /** Every key that envelopes need is in the ring, on both of its servers. */
  async #untilComplete(): Promise<void> {
    let missing: string[] = [];
    const isComplete = async () => {
      missing = await this.#cluster.missingOf(this.#sealedKeyIds());
      return missing.length === 0;
    };
    if (await comesTrue(PATIENCE_MS, isComplete)) return;
    for (const keyId of missing) this.#ledger.fail("a key that sealed is not on both servers of the ring", keyId);
  }

  /** Has every envelope of the run opened by all processes, and then by one that has nothing but the ring. */
  async #openAll(): Promise<number> {
    this.#say("all four open everything");
    await this.#openBy(MEMBERS);
    await this.#fleet.stop();
    this.#say("a fresh process opens everything");
    this.#fleet.start(READER, { sealEveryMs: 0 });
    await this.#openBy([READER]);
    return this.#ledger.openedBy(READER);
  }

  async #openBy(names: readonly string[]): Promise<void> {
    const { envelopes } = this.#ledger;
    for (const name of names) for (const envelope of envelopes) this.#handout.add(envelope, name);
    const count = envelopes.length;
    const addedBy = Date.now();
    const opened = await comesTrue(FINAL_PATIENCE_MS, () => this.#handout.leftFrom(addedBy) === 0);
    if (!opened) this.#handout.abandonFrom(addedBy);
    for (const name of names) {
      const missing = count - this.#ledger.openedBy(name);
      if (missing > 0) this.#ledger.fail(`${name} has not opened ${missing} of ${count} envelopes`);
    }
  }

  #heard(name: string, message: FromWorker): void {
    switch (message.type) {
      case "sealed":
        this.#handout.addFresh(this.#ledger.addEnvelope({ ...message, by: name }));
        break;
      case "not-sealed":
        this.#ledger.note(`${name} could not seal: ${message.code} ${message.reason}`);
        // One that starts while the servers fail over has no key yet.
        if (message.warm || this.#calm) this.#ledger.fail(`${name} stopped sealing: ${message.code} ${message.reason}`);
        break;
      case "opened":
      case "refused":
        this.#handout.heard(name, message);
        break;
      case "keys":
        this.#held.set(name, new Set(message.keys.filter(isHeld).map(({ keyId }) => keyId)));
        this.#ledger.addKeys(message.keys);
        break;
      case "note":
        this.#ledger.note(`${name}: ${message.text}`, message.keyId);
        break;
    }
  }

  /** Whether a process could not know better. Up to two refresh intervals after the record is back it may not have looked again. */
  #isGapRefusal(name: string, { keyId }: SealedEnvelope, { code, at }: Refusal): boolean {
    const isIt =
      code === "ENVELOPE_REJECTED" &&
      !this.#held.get(name)?.has(keyId) &&
      this.#storm.isInGap(keyId, at, 2 * REFRESH_INTERVAL_MS);
    if (isIt) this.#gapRefusals++;
    return isIt && !this.#options.strict;
  }

  #ended(name: string, killed: boolean): void {
    this.#held.delete(name);
    this.#handout.ended(name);
    this.#ledger.note(`${name} ended`);
    if (!killed) this.#ledger.fail(`${name} ended by itself`);
  }

  async #untilAllReady(): Promise<void> {
    await untilNothingMissing("all processes at work", () => {
      const missing = MEMBERS.filter((name) => !this.#fleet.ready.includes(name));
      const failures = this.#ledger.failures.map(({ what }) => what);
      return missing.length === 0 ? undefined : [missing.join(), ...failures].join("; ");
    });
  }

  #sealsIn({ from, to }: { from: number; to: number }): SealedEnvelope[] {
    return this.#ledger.envelopes.filter((seal) => seal.from >= from && seal.to <= to);
  }

  #sealedKeyIds(): Set<string> {
    return new Set(this.#ledger.envelopes.map(({ keyId }) => keyId));
  }

  #say(line: string): void {
    this.#ledger.note(line);
    this.#options.say?.(line);
  }
}

/** Whether the process can open with this key. */
function isHeld({ state }: KeyStatus): boolean {
  return state === "pre-active" || state === "current" || state === "open-only";
}
