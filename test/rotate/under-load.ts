/**
 * One run: sessions are written, a process of its own re-seals them while requests go on, and everything in the store is compared with the model.
 */
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KeyRing, localKms, SessionStore } from "@sealed-session/core";
import { redisKeyRingStore, redisStore } from "@sealed-session/redis";
import { type RedisCluster, untilNothingMissing } from "@sealed-session/test/servers";
import type { Cluster } from "ioredis";
import { clusterAt } from "../adapters/redis-deployment.js";
import { beforeExit } from "../servers/exit-cleanup.js";
import { type Comparison, compare } from "./comparison.js";
import { Load, type Operation, type Range } from "./load.js";
import type { Lie } from "./messages.js";
import { type Content, Population } from "./population.js";
import { RotatingChild, type RotatingResult } from "./rotating-child.js";
import { SessionModel } from "./session-model.js";
import { fill, type Place, readExpiries } from "./stored-sessions.js";

const IDLE_SECONDS = 7200;
const IDLE_MS = 1000 * IDLE_SECONDS;
/** A request rides out a failover. */
const REQUEST_TIMEOUT_MS = 20_000;
/** Of the sessions, those that requests are about; the others are left alone. */
const BUSY_SHARE = 0.2;
const CREATED_SHARE = 0.1;
const SHARED = 20;
/** What happens to a contended session between the read and the change of its envelope, in turn. */
const COLLISIONS: readonly Operation[] = ["update", "set", "destroy", "touch"];

/** Options of {@link rotateUnderLoad}. */
export interface UnderLoadOptions {
  readonly cluster: RedisCluster;
  /** How many there are at the start. */
  readonly sessions: number;
  readonly seed: string;
  /** Requests under way at a time. @defaultValue 4 */
  readonly lanes?: number;
  /** Sessions that are changed by a request between the read and the change of their envelope, for certain. @defaultValue one of a hundred */
  readonly contended?: number;
  /** Sessions looked at in a second. @defaultValue no limit */
  readonly ratePerSecond?: number | undefined;
  /** @defaultValue none */
  readonly lie?: Lie | undefined;
  /** What befalls the cluster meanwhile. @returns the slots that have moved */
  readonly disturb?: (run: DisturbedRun) => Promise<ReadonlySet<number>>;
  /** Is told what is being done, and how far that is. */
  readonly say?: (what: string, done: number, total: number) => void;
}

/** What those see who disturb. */
export interface DisturbedRun {
  readonly cluster: RedisCluster;
  readonly load: Load;
  readonly child: RotatingChild;
  readonly place: Place;
  /** Of the key that seals now. */
  readonly keyId: string;
  /** How many sessions there were at the start. */
  readonly sessions: number;
}

/** What came of a run. */
export interface UnderLoadReport extends Comparison {
  readonly sessions: number;
  readonly created: number;
  readonly destroyed: number;
  readonly living: number;
  /** Sessions of which one request had no answer. */
  readonly unknown: number;
  /** Sessions that were changed between the read and the change of their envelope, for certain. */
  readonly contended: number;
  /** How many requests of each kind there were while it was re-sealed. */
  readonly load: Readonly<Record<string, number>>;
  /** Answers that no request should have had. */
  readonly problems: readonly string[];
  readonly result: RotatingResult;
}

/** Writes sessions, re-seals them under load, and compares. */
export async function rotateUnderLoad(options: UnderLoadOptions): Promise<UnderLoadReport> {
  const { cluster, sessions: count, seed, lanes = 4, ratePerSecond, lie, disturb, say = () => {} } = options;
  const contended = options.contended ?? Math.ceil(count / 100);
  // Synchronous up to `beforeExit`, so that no signal comes in between.
  const folder = mkdtempSync(join(tmpdir(), "sealed-session-rotate-"));
  const remove = () => rmSync(folder, { recursive: true, force: true });
  const forget = beforeExit(remove);
  const keyFile = join(folder, "kms.key");
  const namespace = `rotate-${randomBytes(6).toString("hex")}`;
  const client = clusterAt(cluster.addresses(), { maxRedirections: 200 });
  let bulk = connectForBulk(cluster);
  const keys = redisKeyRingStore(client, { namespace, onWarning: () => {} });
  const ringOf = () => new KeyRing({ name: namespace, kms: localKms({ keyFile }), store: keys, rotation: "manual" });
  const ring = ringOf();
  const reader = ringOf();
  let load: Load | undefined;
  let child: RotatingChild | undefined;
  try {
    const population = new Population(seed);
    const place = { client: bulk, namespace, population };
    const ranges = rangesOf(count, contended);
    const model = new SessionModel(ranges.fresh.to);
    await ring.publish({ delayMs: 0 });
    await fill(place, ring, count, (done) => say("written", done, count));
    await readExpiries(
      place,
      count,
      (index, expiresAt) => model.found(index, expiresAt),
      (done) => say("times to live read", done, count),
    );

    const store = redisStore(client, { namespace, commandTimeoutMs: REQUEST_TIMEOUT_MS });
    const sessions = new SessionStore<Content>({ ring, store, idleSeconds: IDLE_SECONDS });
    load = new Load({ sessions, model, population, idleMs: IDLE_MS, lanes, seed, ...ranges });
    load.resume();
    const keyId = await nextKey(ring);
    // What was sealed under the old key by then has been written.
    await load.lap();
    const contendedIds = new Map<string, number>();
    for (let index = 0; index < contended; index++) contendedIds.set(population.storedId(index), index);
    const requests = load;
    const collide = async (storedIds: readonly string[]) => {
      const indices = storedIds.map((storedId) => contendedIds.get(storedId) as number);
      await Promise.all(
        indices.map((index) => requests.run(COLLISIONS[index % COLLISIONS.length] as Operation, index)),
      );
    };
    const settings = { addresses: cluster.addresses(), namespace, ring: namespace, keyFile, ratePerSecond, lie };
    child = await RotatingChild.start({ ...settings, contended: [...contendedIds.keys()] }, collide);
    const before = load.counts;
    const watched = child;
    const watch = setInterval(() => say("looked at", watched.progress.examined, count), 250);
    const running = child.run();
    const disturbing = disturb?.({ cluster, load, child, place, keyId, sessions: count });
    let movedSlots: ReadonlySet<number>;
    let result: RotatingResult;
    try {
      [result, movedSlots = new Set()] = await Promise.all([running, disturbing]);
    } finally {
      clearInterval(watch);
      await load.pause();
    }
    child.stop();

    // ioredis does not follow redirections of commands that it sends together.
    bulk.disconnect();
    bulk = connectForBulk(cluster);
    const comparison = await compare({ ...place, client: bulk }, reader, {
      model,
      keyId,
      movedSlots,
      onDone: (done) => say("compared", done, model.capacity),
    });
    const during = Object.entries(load.counts).map(([what, total]) => [what, total - (before[what] ?? 0)] as const);
    return {
      ...comparison,
      ...model.counts,
      sessions: count,
      created: load.counts["create"] ?? 0,
      contended,
      load: Object.fromEntries(during),
      problems: load.problems,
      result,
    };
  } finally {
    child?.stop();
    await load?.pause();
    ring.close();
    reader.close();
    await keys.close();
    client.disconnect();
    bulk.disconnect();
    remove();
    forget();
  }
}

function connectForBulk(cluster: RedisCluster): Cluster {
  return clusterAt(cluster.addresses(), { enableAutoPipelining: true });
}

/** The parts that sessions play, by their numbers. */
function rangesOf(count: number, contended: number): { own: Range; shared: Range; fresh: Range } {
  const shared = { from: contended, to: contended + SHARED };
  const own = { from: shared.to, to: shared.to + Math.floor(count * BUSY_SHARE) };
  return { shared, own, fresh: { from: count, to: count + Math.ceil(count * CREATED_SHARE) } };
}

/** Publishes a key. @returns Its id, when it seals. */
async function nextKey(ring: KeyRing): Promise<string> {
  const { keyId: old } = await ring.current();
  await ring.publish({ delayMs: 0 });
  let keyId = old;
  await untilNothingMissing("the new key", async () => {
    ({ keyId } = await ring.current());
    return keyId === old ? "it" : undefined;
  });
  return keyId;
}
