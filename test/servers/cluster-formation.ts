/**
 * Makes one cluster of servers that run in cluster mode, with CLUSTER commands and without redis-cli.
 */
import type { Redis } from "ioredis";
import { untilNothingMissing } from "./condition.js";
import { ask, parseInfo } from "./connection.js";
import type { Address } from "./redis-node.js";

const SLOTS = 16_384;

type Missing = () => Promise<string | undefined>;

/**
 * Shares the slots out among `masters`, attaches `replicas` to them in turn and waits until all agree on it. That takes
 * two seconds from the start of the servers, and little more: so long Redis keeps a new master from taking commands
 * (CLUSTER_WRITABLE_DELAY).
 */
export async function formCluster(masters: readonly Address[], replicas: readonly Address[]): Promise<void> {
  const all = [...masters, ...replicas];
  await Promise.all(masters.map((master, index) => takeSlots(master, index, masters.length)));
  await Promise.all(all.map((node) => meet(node, all)));
  const masterIds = await Promise.all(masters.map((master) => ask(master, myId)));
  await Promise.all(
    replicas.map(async (replica, index) => {
      const masterId = masterIds[index % masters.length] ?? "";
      await untilNothingMissing(`${name(replica)} becomes a replica`, () => missingReplicate(replica, masterId));
    }),
  );
  await untilWhole(all, masters.length, replicas.length);
}

/** Waits until all nodes agree that none of them is missing, and replicas hold what was written before. */
export async function untilWhole(all: readonly Address[], masters: number, replicas: number): Promise<void> {
  await untilNothingMissing("a cluster on which all nodes agree", () =>
    firstMissing(all.map((node) => () => missingInView(node, masters, replicas))),
  );
  await untilNothingMissing("replicas in step", await missingReplication(all));
}

/**
 * @returns a question: which replica among `nodes` does not yet hold what its master had written when this function
 * was called?
 */
export async function missingReplication(nodes: readonly Address[]): Promise<Missing> {
  const writtenBefore = new Map(
    await Promise.all(nodes.map(async (node) => [node.port, (await replication(node)).offset] as const)),
  );
  return () =>
    firstMissing(
      nodes.map((node) => async () => {
        const state = await replication(node);
        if (state.role === "master") return undefined;
        if (!state.linkUp) return `${name(node)}: link to its master`;
        const goal = writtenBefore.get(state.masterPort) ?? 0;
        return state.offset >= goal ? undefined : `${name(node)}: ${goal - state.offset} bytes of its master's writes`;
      }),
    );
}

/** @returns what the server that `redis` is connected to is now. */
export async function readRole(redis: Redis): Promise<"master" | "replica"> {
  return parseInfo(await redis.info("replication")).get("role") === "master" ? "master" : "replica";
}

async function takeSlots(master: Address, index: number, masters: number): Promise<void> {
  const first = Math.floor((index * SLOTS) / masters);
  const end = Math.floor(((index + 1) * SLOTS) / masters);
  await ask(master, async (redis) => {
    // ADDSLOTSRANGE is shorter but needs Redis 7.
    await redis.cluster("ADDSLOTS", ...Array.from({ length: end - first }, (_, offset) => first + offset));
    // Masters with one epoch would first have to settle which of them is the elder.
    await redis.cluster("SET-CONFIG-EPOCH", index + 1);
  });
}

/** Everybody meets everybody: gossip alone would take another second to make all known to all. */
async function meet(node: Address, all: readonly Address[]): Promise<void> {
  await ask(node, async (redis) => {
    for (const other of all) if (other !== node) await redis.cluster("MEET", other.host, other.port);
  });
}

async function missingReplicate(replica: Address, masterId: string): Promise<string | undefined> {
  return await ask(replica, async (redis) => {
    try {
      await redis.cluster("REPLICATE", masterId);
      return undefined;
    } catch (error) {
      // "Unknown node" until the handshake with it is through.
      return String(error);
    }
  });
}

/** What is missing in the picture that `node` has of the cluster. */
async function missingInView(node: Address, masters: number, replicas: number): Promise<string | undefined> {
  const [info, lines] = await ask(node, async (redis) => [
    parseInfo((await redis.cluster("INFO")) as string),
    ((await redis.cluster("NODES")) as string).trim().split("\n"),
  ]);
  const views = lines.map((line) => {
    const [, , flags = "", , , , , link, ...slots] = line.split(" ");
    return { flags: flags.split(","), linked: link === "connected", slots: slots.length };
  });
  const unsettled = views.filter(
    (view) => !view.linked || view.flags.some((flag) => /handshake|fail|noaddr/.test(flag)),
  );
  const wanted: readonly [string, string | number | undefined, string | number][] = [
    ["cluster_state", info.get("cluster_state"), "ok"],
    ["cluster_slots_ok", info.get("cluster_slots_ok"), String(SLOTS)],
    ["nodes", views.length, masters + replicas],
    ["masters with slots", views.filter((view) => view.flags.includes("master") && view.slots > 0).length, masters],
    ["replicas", views.filter((view) => view.flags.includes("slave")).length, replicas],
    ["nodes without a link or in handshake", unsettled.length, 0],
  ];
  const [what, found, expected] = wanted.find(([, found, expected]) => found !== expected) ?? [];
  return what === undefined ? undefined : `${name(node)}: ${what} is ${found} instead of ${expected}`;
}

async function replication(node: Address) {
  const info = parseInfo(await ask(node, (redis) => redis.info("replication")));
  const role = info.get("role") === "master" ? "master" : "replica";
  return {
    role,
    linkUp: info.get("master_link_status") === "up" && info.get("master_sync_in_progress") === "0",
    masterPort: Number(info.get("master_port")),
    offset: Number(info.get(role === "master" ? "master_repl_offset" : "slave_repl_offset")),
  };
}

async function firstMissing(questions: readonly Missing[]): Promise<string | undefined> {
  const answers = await Promise.all(
    questions.map((question) => question().catch((error: unknown) => `an answer (${String(error)})`)),
  );
  return answers.find((answer) => answer !== undefined);
}

async function myId(redis: Redis): Promise<string> {
  return (await redis.cluster("MYID")) as string;
}

function name({ host, port }: Address): string {
  return `${host}:${port}`;
}
