import { existsSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Cluster } from "ioredis";
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from "vitest";
import { untilNothingMissing } from "./condition.js";
import { ask } from "./connection.js";
import { beforeExit } from "./exit-cleanup.js";
import {
  type Address,
  killNode,
  pauseNode,
  type RedisCluster,
  restartNode,
  resumeNode,
  startRedis,
  startRedisCluster,
} from "./index.js";
import { launchOnFreePort, PortTakenError } from "./lane.js";
import { CLUSTER_BUS_OFFSET } from "./port.js";
import { BASE_CONFIG } from "./redis-server.js";
import { chooseSource, type Source, sourceCandidates } from "./source.js";
import { endsOfProcess, startClusterInProcess } from "./test-process.js";

/** Docker is one more lane where continuous integration, or you, say that an engine is there. */
const lanes: readonly (Source | undefined)[] =
  process.env["SEALED_SESSION_TEST_DOCKER"] === "1" ? [undefined, "docker"] : [undefined];
const named = lanes.map((source) => ({
  lane: source ?? "the first source that can be had",
  choice: { ...(source && { source }) },
}));
process.stdout.write(`servers are tested from: ${named.map(({ lane }) => lane).join(", ")}\n`);

/** Directories of servers are made here, so that what is left behind shows. */
const scratch = mkdtempSync(join(tmpdir(), "sealed-session-servers-test-"));

beforeAll(() => {
  process.env["TMPDIR"] = scratch;
});

const removeScratch = () => rmSync(scratch, { recursive: true, force: true, maxRetries: 10, retryDelay: 20 });
const forgetScratch = beforeExit(removeScratch);

afterAll(() => {
  removeScratch();
  forgetScratch();
});

describe.each(named)("a cluster from $lane", ({ choice }) => {
  let cluster: RedisCluster;
  let client: Cluster;

  beforeAll(async () => {
    const startedAt = performance.now();
    cluster = await startRedisCluster({ ...choice, config: { "cluster-node-timeout": "1000" } });
    process.stdout.write(`${cluster.source}: cluster in ${Math.round(performance.now() - startedAt)} ms\n`);
    client = new Cluster(cluster.addresses());
  });

  afterAll(async () => {
    client?.disconnect();
    await cluster?.stop();
  });

  test("has three masters with a replica each", () => {
    expect(cluster.nodes.map((node) => node.role)).toEqual([...Array(3).fill("master"), ...Array(3).fill("replica")]);
  });

  test("covers all slots on every node", async () => {
    for (const node of cluster.nodes) {
      expect(await ask(node, (redis) => redis.cluster("INFO"))).toMatch(
        /cluster_state:ok\r\ncluster_slots_assigned:16384/,
      );
    }
  });

  test("runs with the configuration it was given, over its own", async () => {
    for (const node of cluster.nodes) {
      const setting = (name: string) => ask(node, (redis) => redis.config("GET", name));
      expect(await setting("cluster-node-timeout")).toEqual(["cluster-node-timeout", "1000"]);
      expect(await setting("appendonly")).toEqual(["appendonly", "yes"]);
      expect(await setting("save")).toEqual(["save", ""]);
    }
  });

  test("gives back what a cluster client wrote, under keys of all masters", async () => {
    const keys = Array.from({ length: 64 }, (_, index) => `servers:${index}`);
    await Promise.all(keys.map((key) => client.set(key, `value of ${key}`)));
    expect(await Promise.all(keys.map((key) => client.get(key)))).toEqual(keys.map((key) => `value of ${key}`));
    const sizes = await Promise.all(client.nodes("master").map((master) => master.dbsize()));
    expect(sizes.filter((size) => size > 0)).toHaveLength(3);
  });

  test("has every write on the replicas once they were waited for", async () => {
    const keys = Array.from({ length: 64 }, (_, index) => `replicated:${index}`);
    await Promise.all(keys.map((key) => client.set(key, "here")));
    await cluster.waitForReplicas();
    const replicas = cluster.nodes.filter((node) => node.role === "replica");
    const found = await Promise.all(replicas.map((replica) => ask(replica, (redis) => redis.keys("replicated:*"))));
    expect(found.flat().sort()).toEqual(keys.sort());
  });

  test("is used as it is, with a warning, where the environment gives it", async () => {
    const warning = vi.spyOn(process.stderr, "write").mockReturnValue(true);
    onTestFinished(() => warning.mockRestore());
    vi.stubEnv(
      "SEALED_SESSION_TEST_REDIS_CLUSTER",
      cluster
        .addresses()
        .map(({ host, port }) => `${host}:${port}`)
        .join(),
    );
    onTestFinished(() => void vi.unstubAllEnvs());
    const given = await startRedisCluster({ source: "env" });
    expect(given.source).toBe("given by SEALED_SESSION_TEST_REDIS_CLUSTER");
    expect(given.nodes.map(({ port, role }) => [port, role])).toEqual(
      cluster.nodes.map(({ port, role }) => [port, role]),
    );
    expect(warning.mock.calls.join()).toContain("tests write to the servers");
    await given.waitForReplicas();
    await given.stop();
    expect(await Promise.all(cluster.nodes.map(answers))).toEqual(Array(6).fill(true));
  });

  test("has a node that is silent while it is paused, and answers when it is resumed", async () => {
    const [, , , replica] = cluster.nodes;
    if (replica === undefined) throw new Error("no replica");
    await pauseNode(replica);
    await expect(ask(replica, (redis) => redis.ping())).rejects.toThrow(/timed out/i);
    await resumeNode(replica);
    expect(await ask(replica, (redis) => redis.ping())).toBe("PONG");
    await cluster.waitForReplicas();
  });

  test("has a replica that takes over from a master that was killed", async () => {
    const [master, , , replica] = cluster.nodes;
    if (master === undefined || replica === undefined) throw new Error("no nodes");
    await killNode(master);
    expect(await answers(master)).toBe(false);
    await untilNothingMissing("failover", async () => {
      const [role] = (await ask(replica, (redis) => redis.role())) as [string];
      return role === "master" ? undefined : `a master, it is a ${role}`;
    });
    await cluster.waitForReplicas();
  });

  test("has a node that comes back after it was killed, as the replica of the one that took over", async () => {
    const [master, , , successor] = cluster.nodes;
    if (master === undefined || successor === undefined) throw new Error("no nodes");
    await expect(restartNode(successor)).rejects.toThrow(`${successor.port} runs`);
    await restartNode(master);
    await cluster.waitUntilWhole();
    const [role, , masterPort] = (await ask(master, (redis) => redis.role())) as [string, string, number];
    expect([role, masterPort]).toEqual(["slave", successor.port]);
    const keysOf = async (node: Address) => (await ask(node, (redis) => redis.keys("*"))).sort();
    expect((await keysOf(master)).length).toBeGreaterThan(0);
    expect(await keysOf(master)).toEqual(await keysOf(successor));
  });

  test("is gone with its directories when it was stopped, and may be stopped twice", async () => {
    client.disconnect();
    await cluster.stop();
    await cluster.stop();
    expect(await Promise.all(cluster.nodes.map(answers))).toEqual(Array(6).fill(false));
    expect(leftBehind()).toEqual([]);
  });

  test.each(["SIGINT", "SIGTERM"] as const)("is gone when its process ends by %s", async (signal) => {
    const { child, nodes } = await startClusterInProcess(choice);
    onTestFinished(() => void child.kill("SIGKILL"));
    expect(await Promise.all(nodes.map(answers))).toEqual(Array(6).fill(true));
    child.kill(signal);
    expect(await endsOfProcess(child)).toEqual({ code: null, signal });
    await untilNothingMissing("the end of servers", async () => {
      const alive = await Promise.all(nodes.map(answers));
      return alive.includes(true) ? JSON.stringify(alive) : undefined;
    });
    expect(nodes.flatMap(({ dir }) => (dir === undefined ? [] : [existsSync(dir)]))).not.toContain(true);
  });
});

describe.each(named)("a server from $lane", ({ choice }) => {
  test("comes back after it was killed with what it had, and is stopped for good", async () => {
    const server = await startRedis({ ...choice, config: {} });
    await ask(server, (redis) => redis.set("key", "value"));
    for (const round of [1, 2]) {
      await killNode(server);
      expect(await answers(server), `round ${round}`).toBe(false);
      await restartNode(server);
      expect(await ask(server, (redis) => redis.get("key")), `round ${round}`).toBe("value");
    }
    await server.stop();
    expect(await answers(server)).toBe(false);
    expect(leftBehind()).toEqual([]);
  });

  test("answers until it is stopped", async () => {
    const server = await startRedis({ ...choice, config: {} });
    expect(await ask(server, async (redis) => [await redis.set("key", "value"), await redis.get("key")])).toEqual([
      "OK",
      "value",
    ]);
    await server.stop();
    expect(await answers(server)).toBe(false);
  });

  test("takes another port when its own, or that of its cluster bus, is taken", async () => {
    const lane = await chooseSource(sourceCandidates("", true), choice);
    if (!("launch" in lane)) throw new Error("no lane");
    const config = { ...BASE_CONFIG, "cluster-enabled": "yes" };
    const server = await launchOnFreePort(lane, config);
    onTestFinished(() => server.stop());
    await expect(lane.launch(server.port, config)).rejects.toThrow(PortTakenError);
    await expect(lane.launch(server.port + CLUSTER_BUS_OFFSET, BASE_CONFIG)).rejects.toThrow(PortTakenError);
    await expect(lane.launch(server.port - CLUSTER_BUS_OFFSET, config)).rejects.toThrow(PortTakenError);
    const takenTwice = { ...lane, launch: vi.fn(lane.launch) };
    takenTwice.launch.mockRejectedValueOnce(new PortTakenError()).mockRejectedValueOnce(new PortTakenError());
    const other = await launchOnFreePort(takenTwice, config);
    expect(takenTwice.launch).toHaveBeenCalledTimes(3);
    await other.stop();
  });

  test("that does not start reports the end of its log and leaves nothing", async () => {
    const starting = startRedis({ ...choice, config: { "maxmemory-policy": "none-such" } });
    await expect(starting).rejects.toThrow(/did not start\. The end of its log:\n[\s\S]*maxmemory-policy/);
    expect(leftBehind()).toEqual([]);
  });
});

/** Directories of servers; tsx keeps one of its own there. */
function leftBehind(): string[] {
  return readdirSync(scratch).filter((name) => name.startsWith("sealed-session"));
}

async function answers(node: Address): Promise<boolean> {
  return ask(node, (redis) => redis.ping()).then(
    () => true,
    () => false,
  );
}
