/**
 * What the masters say of themselves, so that a walk over their keys can tell where keys may have come in meanwhile.
 */
import { setTimeout as delay } from "node:timers/promises";
import { connected, nodeName, refreshSlots, SLOT_COUNT } from "./cluster-map.js";
import { withinDeadline } from "./deadline.js";
import { type ClusterRedis, isCluster, type RedisClient, type RedisServer } from "./redis-client.js";
import { replyCode, unavailable } from "./store-error.js";

const POLL_MS = 100;

/** One master at one time. */
export interface MasterView {
  readonly server: RedisServer;
  /** Changes with every restart and failover, and with every change of ownership that this node won. */
  readonly identity: string;
  /** 1 for each slot that the node owns; empty without a cluster. */
  readonly owned: Uint8Array;
  /** The slots that come in just now and from where, as the node puts it; empty when there are none. */
  readonly importing: string;
}

/** How long to wait, in milliseconds. */
export interface ViewTimes {
  /** For each answer. */
  readonly commandTimeoutMs: number;
  /** For all masters to be there and to own all slots. */
  readonly failoverTimeoutMs: number;
}

/** @returns whether keys may have come to a master between two views of it without being met by a walk that began after the first. */
export function mayHaveGained(before: MasterView | undefined, after: MasterView): boolean {
  if (before === undefined || before.identity !== after.identity) return true;
  return after.owned.some((owned, slot) => owned === 1 && before.owned[slot] !== 1);
}

/**
 * @returns the masters by name. Waits while one does not answer, a slot has no owner, or slots go to a node that owns none yet, which
 *   ioredis does not know.
 * @throws SealedSessionError `STORE_UNAVAILABLE` after `failoverTimeoutMs`.
 */
export async function viewMasters(
  client: RedisClient,
  key: string,
  times: ViewTimes,
): Promise<ReadonlyMap<string, MasterView>> {
  const givesUpAt = performance.now() + times.failoverTimeoutMs;
  for (;;) {
    try {
      return isCluster(client)
        ? await viewCluster(client, key, times)
        : new Map([["", await viewSingle(client, times)]]);
    } catch (error) {
      if (performance.now() >= givesUpAt) throw error;
      await delay(POLL_MS);
    }
  }
}

async function viewSingle(server: RedisServer, times: ViewTimes): Promise<MasterView> {
  return { server, identity: await runIdOf(server, times), owned: new Uint8Array(0), importing: "" };
}

async function viewCluster(client: ClusterRedis, key: string, times: ViewTimes): Promise<Map<string, MasterView>> {
  await withinDeadline(times.commandTimeoutMs, async () => {
    await connected(client, key);
    await refreshSlots(client);
  });
  const nodes = await Promise.all(client.nodes("master").map((server) => viewNode(server, times)));
  const covered = new Uint8Array(SLOT_COUNT);
  for (const { owned } of nodes) {
    for (let slot = 0; slot < SLOT_COUNT; slot++) if (owned[slot] === 1) covered[slot] = 1;
  }
  if (covered.includes(0)) throw unavailable("a slot of the cluster has no master");
  const ids = new Set(nodes.map(({ id }) => id));
  if (nodes.some(({ targets }) => targets.some((id) => !ids.has(id)))) {
    throw unavailable("slots are moving to a node that owns none yet");
  }
  return new Map(nodes.map((node) => [nodeName(node.server), node]));
}

/** A master's own line of CLUSTER NODES: only there stand the slots that move. */
async function viewNode(server: RedisServer, times: ViewTimes) {
  const [runId, text] = await Promise.all([
    runIdOf(server, times),
    withinDeadline(times.commandTimeoutMs, () => server.cluster("NODES")),
  ]);
  const line = String(text)
    .split("\n")
    .map((row) => row.trim().split(" "))
    .find(([, , flags = ""]) => flags.split(",").includes("myself"));
  if (line === undefined) throw unavailable("CLUSTER NODES is not of the known form");
  const [id = "", , flags = "", , , , epoch = "", , ...slots] = line;
  if (!flags.split(",").includes("master")) throw unavailable("a node is no master any more");
  const owned = new Uint8Array(SLOT_COUNT);
  const targets: string[] = [];
  const importing: string[] = [];
  for (const entry of slots) {
    // "[93-<-id]" comes in, "[93->-id]" goes out, "0-92" and "94" are owned.
    const moving = /^\[\d+-([<>])-(\w+)\]$/.exec(entry);
    if (moving?.[1] === "<") importing.push(entry);
    if (moving?.[1] === ">") targets.push(moving[2] ?? "");
    const [first, last = first] = moving === null ? entry.split("-").map(Number) : [];
    if (first !== undefined && last !== undefined) owned.fill(1, first, last + 1);
  }
  const identity = `${id} ${epoch} ${runId}`;
  return { server, id, identity, owned, importing: importing.sort().join(" "), targets };
}

/** Cursors of SCAN are worth nothing to a server that was started anew. Empty where INFO is not allowed. */
async function runIdOf(server: RedisServer, { commandTimeoutMs }: ViewTimes): Promise<string> {
  return await withinDeadline(commandTimeoutMs, async () => {
    try {
      return /^run_id:(\w+)/m.exec(await server.info("server"))?.[1] ?? "";
    } catch (error) {
      if (replyCode(error) === "NOPERM") return "";
      throw error;
    }
  });
}
