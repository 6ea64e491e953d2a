/**
 * `sealed-session rotate sessions --checkpoint <file>` is killed twenty times, each time in the midst of its work, and started again: in the end everything
 * is as after one run that nobody has disturbed.
 */
import { randomBytes } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KeyRing, localKms } from "@sealed-session/core";
import { redisKeyRingStore } from "@sealed-session/redis";
import { type RedisCluster, startRedisCluster, untilNothingMissing } from "@sealed-session/test/servers";
import type { Cluster } from "ioredis";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { clusterAt } from "../adapters/redis-deployment.js";
import { runJson, startCommand } from "../cli/command.js";
import { SeededRandom } from "../fleet/chaos-random.js";
import { ask, parseInfo } from "../servers/connection.js";
import { type Comparison, compare } from "./comparison.js";
import { Population } from "./population.js";
import { SessionModel } from "./session-model.js";
import { fill, type Place, readExpiries } from "./stored-sessions.js";

const SESSIONS = 6000;
const KILLS = 20;
const SEED = 20_260_101;
/** Slow enough that each kill hits a run that is under way. */
const RATE = 5000;
/** Each process makes sure of the records of this many keys, which is a change too. */
const KEYS = 2;
/** The last kill comes before so much is done. */
const LAST_KILL = 0.9;

let cluster: RedisCluster;
let client: Cluster;
beforeAll(async () => {
  cluster = await startRedisCluster();
  client = clusterAt(cluster.addresses(), { enableAutoPipelining: true });
});
afterAll(async () => {
  client?.disconnect();
  await cluster?.stop();
});

interface RotationDocument {
  readonly rotation: {
    readonly isResumed: boolean;
    readonly isInterrupted: boolean;
    readonly counts: Readonly<Record<string, number>>;
  };
}

/** Of the checkpoint. */
type CheckpointDocument = Pick<RotationDocument["rotation"], "counts">;

/** Sessions under an old key, and a folder from which they can be re-sealed. */
class Deployment {
  readonly place: Place = {
    client,
    namespace: `kill-${randomBytes(6).toString("hex")}`,
    population: new Population("kill"),
  };
  readonly folder = mkdtempSync(join(tmpdir(), "sealed-session-kill-"));
  readonly checkpoint = join(this.folder, "run.json");
  readonly args = ["rotate", "sessions", "--checkpoint", this.checkpoint];
  readonly #keys = redisKeyRingStore(client, { namespace: this.place.namespace, onWarning: () => {} });
  readonly #ring = new KeyRing({
    name: "web",
    kms: localKms({ keyFile: join(this.folder, "local.key") }),
    store: this.#keys,
    rotation: "manual",
  });
  readonly #model = new SessionModel(SESSIONS);
  /** What the masters had changed before anything was re-sealed. */
  #changesBefore = 0;

  static async start(): Promise<Deployment> {
    const deployment = new Deployment();
    await deployment.#start();
    return deployment;
  }

  async #start(): Promise<void> {
    const { namespace } = this.place;
    const nodes = cluster.addresses().map(({ host, port }) => `${host}:${port}`);
    const config = {
      redis: { nodes, namespace },
      ring: { name: "web", kms: { type: "local", keyFile: "local.key" } },
    };
    writeFileSync(join(this.folder, "sealed-session.config.json"), JSON.stringify(config));
    await this.#ring.publish({ delayMs: 0 });
    const { keyId } = await this.#ring.current();
    await fill(this.place, this.#ring, SESSIONS);
    await readExpiries(this.place, SESSIONS, (index, expiresAt) => this.#model.found(index, expiresAt));
    await this.#ring.publish({ delayMs: 0 });
    expect((await this.#ring.current()).keyId).not.toBe(keyId);
    this.#changesBefore = await changesOf(cluster);
  }

  /** @returns How many sessions were re-sealed, by whatever process, and changes to the ring. */
  async resealed(): Promise<number> {
    return (await changesOf(cluster)) - this.#changesBefore;
  }

  async endState(): Promise<Comparison> {
    const { keyId } = await this.#ring.current();
    return await compare(this.place, this.#ring, { model: this.#model, keyId });
  }

  async close(): Promise<void> {
    this.#ring.close();
    await this.#keys.close();
    rmSync(this.folder, { recursive: true });
  }
}

/** @returns How many changes the masters have made since their start. */
async function changesOf({ nodes }: RedisCluster): Promise<number> {
  const counts = nodes
    .filter(({ role }) => role === "master")
    .map((node) => ask(node, async (redis) => parseInfo(await redis.info("persistence"))));
  return (await Promise.all(counts)).reduce((sum, info) => sum + Number(info.get("rdb_changes_since_last_save")), 0);
}

/** A file that is replaced is another one. */
const identityOf = (path: string) => (existsSync(path) ? statSync(path).ino : undefined);

describe("re-sealing that is killed again and again", () => {
  it(`ends as if nothing had been, after ${KILLS} times`, async () => {
    const killed = await Deployment.start();
    const random = new SeededRandom(`${SEED} kills`);
    const points = Array.from({ length: KILLS }, () => random.between(1, LAST_KILL * SESSIONS)).sort((a, b) => a - b);
    const kills: { point: number; from: number; to: number; atCheckpoint: boolean }[] = [];
    try {
      for (const point of points) {
        const from = await killed.resealed();
        const checkpoint = identityOf(killed.checkpoint);
        // Some are to die right after they have noted where they stand.
        const atCheckpoint = random.between(0, 2) === 0;
        const { child, ended } = startCommand([...killed.args, "--rate", String(RATE)], { cwd: killed.folder });
        let to = from;
        await untilNothingMissing(
          "the next kill",
          async () => {
            to = await killed.resealed();
            if (to < point || to <= from + KEYS) return `${to} of ${point} sessions`;
            return atCheckpoint && identityOf(killed.checkpoint) === checkpoint ? "a checkpoint" : undefined;
          },
          { intervalMs: 5 },
        );
        child.kill("SIGKILL");
        // It had not ended, and did not fail.
        expect(await ended).toMatchObject({ code: null, stdout: "" });
        kills.push({ point, from, to, atCheckpoint });
      }
      const { counts } = JSON.parse(readFileSync(killed.checkpoint, "utf8")) as CheckpointDocument;
      const examinedBefore = Number(counts["examined"]);
      const { document, code } = await runJson<RotationDocument>(killed.args, { cwd: killed.folder });
      expect({ code, ...document.rotation }).toMatchObject({ code: 0, isResumed: true, isInterrupted: false });
      expect(existsSync(killed.checkpoint)).toBe(false);
      // Where it stood it went on, and did not look at all of them.
      expect(Number(document.rotation.counts["examined"]) - examinedBefore).toBeLessThan(SESSIONS);
      // No session was sealed anew twice.
      const changes = await killed.resealed();
      expect(changes).toBeGreaterThanOrEqual(SESSIONS);
      expect(changes).toBeLessThanOrEqual(SESSIONS + KEYS * (KILLS + 1));
    } finally {
      console.info(
        kills.map(({ point, to, atCheckpoint }) => `${point}: ${to}${atCheckpoint ? " (c)" : ""}`).join(", "),
      );
    }
    expect(kills).toHaveLength(KILLS);

    const whole = await Deployment.start();
    const { document } = await runJson<RotationDocument>(whole.args, { cwd: whole.folder });
    expect(document.rotation).toMatchObject({ isResumed: false, counts: { examined: SESSIONS, resealed: SESSIONS } });
    for (const deployment of [whole, killed]) {
      const { differences, deviationMs, untouched } = await deployment.endState();
      expect({ differences, untouched }).toEqual({ differences: {}, untouched: SESSIONS });
      expect(deviationMs).toBeLessThanOrEqual(1);
    }
    await Promise.all([killed.close(), whole.close()]);
  });

  it("is found out when a checkpoint says more than was done", async () => {
    const deployment = await Deployment.start();
    const { args, checkpoint, folder } = deployment;
    const { child, ended } = startCommand([...args, "--rate", String(RATE)], { cwd: folder });
    await untilNothingMissing("a checkpoint", () => (existsSync(checkpoint) ? undefined : "it"), { intervalMs: 5 });
    child.kill("SIGKILL");
    expect((await ended).code).toBeNull();
    const text = readFileSync(checkpoint, "utf8");
    const ahead = text.replace(/"cursor":"\d+"/, '"cursor":"done"');
    expect(ahead).not.toBe(text);
    writeFileSync(checkpoint, ahead);
    expect((await runJson<RotationDocument>(args, { cwd: folder })).code).toBe(0);
    const { differences } = await deployment.endState();
    expect(differences["under an old key"]).toBeGreaterThan(0);
    await deployment.close();
  });
});
