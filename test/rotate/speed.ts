/**
 * How fast sessions are re-sealed: beside a bare loop of GET and SET over the same keys, and beside a second run, which finds nothing to do. The three take
 * turns, each round. Ends with exit code 1 when a bar is missed.
 *
 * `--sessions 100000 --rounds 5` are the defaults; `--json <file>` writes all times; `--write` puts the table into docs/rotation-results.md.
 */
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { KeyRing, localKms, memoryKeyRingStore, Sealer } from "@sealed-session/core";
import { rotateSessions } from "@sealed-session/redis/rotate";
import { startRedisCluster, untilNothingMissing } from "@sealed-session/test/servers";
import type { Cluster } from "ioredis";
import { clusterAt } from "../adapters/redis-deployment.js";
import { markdownOf, missedBars } from "../fleet/simulation-report.js";
import { Population } from "./population.js";
import { barred, count, plain, positive, versionsRow, writeResults } from "./results-page.js";
import { fill } from "./stored-sessions.js";

/** Keys of one SCAN, and of one pipeline of the bare loop. */
const BARE_PAGE = 512;
/** Speed of re-sealing as a part of that of the bare loop. */
const LEAST_SHARE = 0.5;
/** Speed of a second run as a multiple of the first one's. */
const LEAST_GAIN = 5;

const { values } = parseArgs({
  options: {
    sessions: { type: "string", default: "100000" },
    rounds: { type: "string", default: "5" },
    json: { type: "string" },
    write: { type: "boolean", default: false },
  },
});
const sessions = positive("sessions", values.sessions);
const rounds = positive("rounds", values.rounds);

interface Round {
  /** Milliseconds. */
  readonly bareMs: number;
  readonly resealMs: number;
  readonly secondMs: number;
}

const folder = mkdtempSync(join(tmpdir(), "sealed-session-speed-"));
const cluster = await startRedisCluster();
try {
  const results = await measure();
  const median = (which: keyof Round) => medianOf(results.map((round) => round[which]));
  const [bareMs, resealMs, secondMs] = [median("bareMs"), median("resealMs"), median("secondMs")];
  const [share, gain] = [bareMs / resealMs, resealMs / secondMs];
  const rows = [
    plain("Sessions, rounds", `${count(sessions)}, ${rounds}; medians`),
    plain("(a) Re-sealing all of them", speed(resealMs)),
    plain("(b) SCAN, GET and SET KEEPTTL of the same, all masters side by side", speed(bareMs)),
    plain("(c) Re-sealing again, with nothing to do", speed(secondMs)),
    barred("Speed of (a) as a part of (b)", floored(share), `at least ${LEAST_SHARE}`, share >= LEAST_SHARE),
    barred("Speed of (c) as a multiple of (a)", floored(gain), `at least ${LEAST_GAIN}`, gain >= LEAST_GAIN),
    versionsRow(`rotate:speed --sessions ${sessions} --rounds ${rounds}`, cluster.source),
  ];
  console.log(markdownOf(rows));
  const missed = missedBars(rows);
  for (const { measure, value, bar } of missed) console.error(`missed: ${measure}: ${value}, must be ${bar}`);
  if (values.json !== undefined) {
    const document = { sessions, rounds: results, medians: { bareMs, resealMs, secondMs }, share, gain };
    writeFileSync(values.json, `${JSON.stringify(document, null, 2)}\n`);
  }
  if (values.write) writeResults("speed", markdownOf(rows));
  process.exitCode = missed.length === 0 ? 0 : 1;
} finally {
  await cluster.stop();
  rmSync(folder, { recursive: true, force: true });
}

async function measure(): Promise<Round[]> {
  const namespace = `speed-${randomBytes(6).toString("hex")}`;
  const client = clusterAt(cluster.addresses());
  const store = memoryKeyRingStore();
  const kms = localKms({ keyFile: join(folder, "kms.key") });
  const ring = new KeyRing({ name: "speed", kms, store, rotation: "manual" });
  try {
    await ring.publish({ delayMs: 0 });
    const filler = clusterAt(cluster.addresses(), { enableAutoPipelining: true });
    await fill({ client: filler, namespace, population: new Population(namespace) }, ring, sessions);
    filler.disconnect();
    console.error(`${count(sessions)} sessions are written, ${cluster.source}`);
    const sealer = new Sealer({ ring, counted: true });
    /** @returns How many were sealed anew. */
    const reseal = async () => (await rotateSessions({ client, namespace, ring, sealer })).counts.resealed;
    const results: Round[] = [];
    for (let round = 1; round <= rounds; round++) {
      const bareMs = await timeOf(sessions, () => rewriteBare(client, namespace));
      await nextKey(ring);
      const resealMs = await timeOf(sessions, reseal);
      const secondMs = await timeOf(0, reseal);
      results.push({ bareMs, resealMs, secondMs });
      console.error(
        `round ${round} of ${rounds}: bare ${speed(bareMs)}; re-sealing ${speed(resealMs)}; again ${speed(secondMs)}`,
      );
    }
    return results;
  } finally {
    ring.close();
    client.disconnect();
  }
}

/** Times a run, which has to write so many. */
async function timeOf(expected: number, run: () => Promise<number>): Promise<number> {
  const startedAt = performance.now();
  const written = await run();
  const elapsedMs = performance.now() - startedAt;
  if (written !== expected) throw new Error(`${written} sessions were written instead of ${expected}`);
  return elapsedMs;
}

/** Reads everything and writes it back. @returns How many */
async function rewriteBare(client: Cluster, namespace: string): Promise<number> {
  let written = 0;
  await Promise.all(
    client.nodes("master").map(async (node) => {
      let cursor = "0";
      do {
        const [next, keys] = await node.scanBuffer(cursor, "MATCH", `${namespace}:session:*`, "COUNT", BARE_PAGE);
        cursor = next.toString();
        const reads = node.pipeline();
        for (const key of keys) reads.getBuffer(key);
        const found = (await reads.exec()) ?? [];
        const writes = node.pipeline();
        for (const [index, key] of keys.entries()) writes.set(key, found[index]?.[1] as Buffer, "KEEPTTL");
        await writes.exec();
        written += keys.length;
      } while (cursor !== "0");
    }),
  );
  return written;
}

async function nextKey(ring: KeyRing): Promise<void> {
  const { keyId: old } = await ring.current();
  await ring.publish({ delayMs: 0 });
  await untilNothingMissing("the new key", async () => ((await ring.current()).keyId === old ? "it" : undefined));
}

function medianOf(numbers: readonly number[]): number {
  const sorted = [...numbers].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? Number.NaN)) / 2;
}

/** Never up: what misses a bar must not look as if it met it. */
function floored(ratio: number): string {
  return (Math.floor(1000 * ratio) / 1000).toFixed(3);
}

function speed(ms: number): string {
  return `${(ms / 1000).toFixed(2)} s, ${count(Math.round((1000 * sessions) / ms))}/s`;
}
