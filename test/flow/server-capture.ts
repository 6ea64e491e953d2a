/**
 * Everything that the servers of a cluster see and hold, as bytes: commands as they come in, logs, memory and disk.
 */
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { readdir, readFile } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { join } from "node:path";
import { type RedisCluster, type RedisClusterNode, untilNothingMissing } from "@sealed-session/test/servers";
import { Redis } from "ioredis";

/**
 * For servers that hide nothing from a capture:
 *
 * - `rdbcompression no`: in RDB files, in DUMP and in AOF files that begin with an RDB, Redis would write strings of more than 20 bytes
 *   through LZF, which breaks plaintext up wherever it repeats itself. A search for bytes would then prove nothing.
 * - `slowlog-log-slower-than 0`: SLOWLOG has every command.
 * - `appendfsync no`: every command is in the AOF file before its answer is sent; the default may hold it back for two seconds.
 * - AOF files are rewritten when the capture says so, and not before: until then they have every command.
 */
export const TELLTALE_CONFIG = {
  rdbcompression: "no",
  "slowlog-log-slower-than": "0",
  "slowlog-max-len": "1000000",
  appendonly: "yes",
  appendfsync: "no",
  "auto-aof-rewrite-percentage": "0",
  loglevel: "debug",
};

/** Where the bytes of a capture come from. */
export const SOURCES = [
  /** MONITOR, as it is printed. */
  "MONITOR",
  /** SLOWLOG GET; an argument is cut after 128 bytes. */
  "SLOWLOG",
  /** SCAN. */
  "keys",
  /** DUMP of every key, without the key. */
  "DUMP",
  /** What BGSAVE wrote. */
  "RDB",
  /** AOF files with every command so far. */
  "AOF",
  /** AOF files after BGREWRITEAOF. */
  "AOF rewritten",
  "log",
  /** All files of the data directory, before and after BGSAVE and BGREWRITEAOF. */
  "disk",
  /** INFO, CLIENT LIST, CONFIG GET, ACL LOG, CLUSTER NODES. */
  "introspection",
] as const;

/** One of {@link SOURCES}. */
export type Source = (typeof SOURCES)[number];

/** What one server gave away. */
export interface NodeCapture {
  readonly role: RedisClusterNode["role"];
  readonly bytes: Readonly<Record<Source, Buffer>>;
  /** How many commands MONITOR printed, by name in capitals, without those that scripts called. */
  readonly monitored: ReadonlyMap<string, number>;
  /** How many commands SLOWLOG has, by name in capitals. */
  readonly slow: ReadonlyMap<string, number>;
}

/** A capture that is running. */
export interface ServerCapture {
  /** Waits for the replicas, then takes everything. */
  finish(): Promise<NodeCapture[]>;
}

/** Resolves when every server's MONITOR runs and its AOF takes commands. */
export async function startServerCapture(cluster: RedisCluster): Promise<ServerCapture> {
  const nodes = await Promise.all(cluster.nodes.map((node) => CapturedNode.start(node)));
  return {
    async finish() {
      await cluster.waitForReplicas();
      try {
        return await Promise.all(nodes.map((node) => node.capture()));
      } finally {
        for (const node of nodes) node.close();
      }
    },
  };
}

class CapturedNode {
  readonly #node: RedisClusterNode;
  readonly #dir: string;
  readonly #redis: Redis;
  readonly #monitor: Socket;
  readonly #printed: Buffer[] = [];

  static async start(node: RedisClusterNode): Promise<CapturedNode> {
    const captured = new CapturedNode(node);
    await captured.#start();
    return captured;
  }

  private constructor(node: RedisClusterNode) {
    if (node.dir === undefined) {
      throw new Error(
        "the files of these servers are not on this machine: set SEALED_SESSION_TEST_SOURCE to binary or apt",
      );
    }
    this.#node = node;
    this.#dir = node.dir;
    this.#redis = new Redis({ host: node.host, port: node.port, readOnly: true, enableReadyCheck: false, protocol: 2 });
    // Not a client's MONITOR: the bytes as the server sends them.
    this.#monitor = connect({ host: node.host, port: node.port });
    this.#monitor.on("data", (chunk) => this.#printed.push(chunk));
  }

  async #start(): Promise<void> {
    await once(this.#monitor, "connect");
    this.#monitor.write("MONITOR\r\n");
    await untilNothingMissing("MONITOR", () => (this.#printed.length > 0 ? undefined : "its answer"));
    // A new replica rewrites its AOF once it has its master's data.
    await this.#untilIdle();
  }

  async capture(): Promise<NodeCapture> {
    const monitor = await this.#endOfMonitor();
    await this.#untilIdle();
    const slowlog = (await this.#redis.callBuffer("SLOWLOG", "GET", "-1")) as unknown[];
    const before = await readFiles(this.#dir);
    const keys = await this.#keys();
    const dumps = await Promise.all(keys.map((key) => this.#redis.dumpBuffer(key)));
    await this.#run("BGSAVE");
    await this.#run("BGREWRITEAOF");
    const after = await readFiles(this.#dir);
    const isRdb = (name: string) => name.endsWith(".rdb") && !isAof(name);
    return {
      role: this.#node.role,
      monitored: countMonitored(monitor),
      slow: countBy(slowlog.map((entry) => String(((entry as unknown[])[3] as unknown[])[0]))),
      bytes: {
        MONITOR: monitor,
        SLOWLOG: joined(leaves(slowlog)),
        keys: joined(keys),
        DUMP: joined(dumps.flatMap((dump) => dump ?? [])),
        RDB: ofFiles(after, isRdb),
        AOF: ofFiles(before, isAof),
        "AOF rewritten": ofFiles(after, isAof),
        log: ofFiles(after, (name) => name.endsWith(".log")),
        disk: joined([...before.values(), ...after.values()]),
        introspection: await this.#introspection(),
      },
    };
  }

  close(): void {
    this.#monitor.destroy();
    this.#redis.disconnect();
  }

  /** @returns what MONITOR has printed of all commands that were answered before this call. */
  async #endOfMonitor(): Promise<Buffer> {
    const last = randomUUID();
    await this.#redis.echo(last);
    await untilNothingMissing("MONITOR", () => (Buffer.concat(this.#printed).includes(last) ? undefined : "its end"));
    this.#monitor.destroy();
    return Buffer.concat(this.#printed);
  }

  async #keys(): Promise<Buffer[]> {
    const keys: Buffer[] = [];
    let cursor = "0";
    do {
      const [next, page] = await this.#redis.scanBuffer(cursor, "COUNT", 1000);
      keys.push(...page);
      cursor = String(next);
    } while (cursor !== "0");
    return keys;
  }

  async #introspection(): Promise<Buffer> {
    const commands = [
      ["INFO", "everything"],
      ["CLIENT", "LIST"],
      ["CONFIG", "GET", "*"],
      ["ACL", "LOG"],
      ["CLUSTER", "NODES"],
    ] as const;
    const answers = await Promise.all(commands.map(([name, ...args]) => this.#redis.callBuffer(name, ...args)));
    return joined(leaves(answers));
  }

  async #run(command: "BGSAVE" | "BGREWRITEAOF"): Promise<void> {
    await this.#redis.call(command);
    await this.#untilIdle();
    const persistence = await this.#persistence();
    for (const name of ["rdb_last_bgsave_status", "aof_last_bgrewrite_status", "aof_last_write_status"]) {
      if (persistence.get(name) !== "ok") throw new Error(`${command}: ${name} is ${persistence.get(name)}`);
    }
  }

  /** Resolves when nothing is on its way to the disk. */
  async #untilIdle(): Promise<void> {
    await untilNothingMissing("files that are complete", async () => {
      const persistence = await this.#persistence();
      const busy = [
        "rdb_bgsave_in_progress",
        "aof_rewrite_in_progress",
        "aof_rewrite_scheduled",
        "aof_buffer_length",
        "aof_pending_rewrite",
      ].find((name) => persistence.get(name) !== "0");
      return busy === undefined ? undefined : `${busy} is ${persistence.get(busy)}`;
    });
  }

  async #persistence(): Promise<ReadonlyMap<string, string>> {
    const lines = (await this.#redis.info("persistence")).split("\r\n");
    return new Map(lines.map((line) => line.split(":") as [string, string]));
  }
}

/** Also `appendonly.aof` of servers before 7.0, and `appendonlydir/*.base.rdb`. */
function isAof(name: string): boolean {
  return name.includes("appendonly");
}

async function readFiles(dir: string): Promise<Map<string, Buffer>> {
  const entries = await readdir(dir, { recursive: true, withFileTypes: true });
  const paths = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  const files = await Promise.all(
    paths.map(async (path) => {
      try {
        return [[path.slice(dir.length), await readFile(path)] as const];
      } catch (error) {
        // Redis removes the AOF files that a rewrite has replaced in the background.
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
        throw error;
      }
    }),
  );
  return new Map(files.flat());
}

function ofFiles(files: ReadonlyMap<string, Buffer>, isWanted: (name: string) => boolean): Buffer {
  return joined([...files].filter(([name]) => isWanted(name)).map(([, bytes]) => bytes));
}

/** A line is `1700000000.000001 [0 127.0.0.1:50000] "SET" "key" …`, with `lua` instead of the address for what a script calls. */
function countMonitored(printed: Buffer): ReadonlyMap<string, number> {
  const lines = printed.toString("latin1").split("\r\n");
  return countBy(lines.flatMap((line) => /^\+\d+\.\d+ \[\d+ (?!lua\])[^\]]*\] "([^"]*)"/.exec(line)?.[1] ?? []));
}

function countBy(names: readonly string[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const name of names) counts.set(name.toUpperCase(), (counts.get(name.toUpperCase()) ?? 0) + 1);
  return counts;
}

/** All strings and numbers of a reply. */
function leaves(reply: unknown): Buffer[] {
  if (Array.isArray(reply)) return reply.flatMap(leaves);
  return [Buffer.isBuffer(reply) ? reply : Buffer.from(String(reply))];
}

/** A line feed between two keeps what is in neither from appearing in both. */
function joined(parts: readonly Uint8Array[]): Buffer {
  return Buffer.concat(parts.flatMap((part) => [part, Uint8Array.of(10)]));
}
