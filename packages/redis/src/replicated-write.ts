/**
 * A write that waits for a replica: WAIT says something only about the connection that wrote (format 5.4), and holds that connection up.
 * So it has connections of its own, one to each master that owns a key, opened when they are needed.
 */
import { movedTo, nodeName, ownerOf } from "./cluster-map.js";
import { withinDeadline } from "./deadline.js";
import { oneByOne } from "./redirection.js";
import { isCluster, type RedisClient, type RedisConnection, type RedisServer } from "./redis-client.js";
import { emptyIfRefused, replyCode, unavailable } from "./store-error.js";

/** Times that a write follows its key to another master. */
const MAX_REDIRECTIONS = 3;

/** How long to wait, in milliseconds. */
export interface ReplicatedWriteTimes {
  /** For the server's answers. */
  readonly commandTimeoutMs: number;
  /** For a replica to confirm. */
  readonly waitTimeoutMs: number;
}

/** What came of a script that writes. */
export interface ReplicatedReply {
  readonly reply: unknown;
  /** A replica has what the script wrote, or the server has no replica that it could wait for. */
  readonly replicated: boolean;
}

/** Runs scripts that write one key, one after the other. */
export class ReplicatedWriter {
  readonly #client: RedisClient;
  readonly #times: ReplicatedWriteTimes;
  readonly #connections = new Map<string, RedisConnection>();
  #last: Promise<unknown> = Promise.resolve();
  #closed = false;

  constructor(client: RedisClient, times: ReplicatedWriteTimes) {
    this.#client = client;
    this.#times = times;
  }

  /** Runs `lua` on the master of `key`, behind what was asked for before: one WAIT must not eat up another one's deadline. */
  run(lua: string, key: string, args: readonly (string | Buffer)[]): Promise<ReplicatedReply> {
    const turn = this.#last.then(() => this.#run(lua, key, args));
    this.#last = turn.catch(() => {});
    return turn;
  }

  /** Closes the connections that this object opened. */
  close(): void {
    this.#closed = true;
    for (const name of [...this.#connections.keys()]) this.#drop(name);
  }

  async #run(lua: string, key: string, args: readonly (string | Buffer)[]): Promise<ReplicatedReply> {
    const { commandTimeoutMs, waitTimeoutMs } = this.#times;
    let name = "";
    try {
      return await withinDeadline(commandTimeoutMs + waitTimeoutMs, async () => {
        let server = await this.#server(key);
        for (let redirections = 0; ; redirections++) {
          name = this.#open(server);
          try {
            return await this.#write(name, lua, key, args);
          } catch (error) {
            const code = replyCode(error);
            if (!isCluster(this.#client) || redirections === MAX_REDIRECTIONS) throw error;
            // The slot is on its way and this key has gone ahead: the client follows, but nobody can wait for a replica there.
            if (code === "ASK") {
              return { reply: await oneByOne(this.#client).eval(lua, 1, key, ...args), replicated: false };
            }
            if (code !== "MOVED") throw error;
            server = await movedTo(this.#client, key, error);
          }
        }
      });
    } catch (error) {
      // It may hang, or belong to a server that is no master any more. The next write opens another one.
      this.#drop(name);
      throw error;
    }
  }

  async #write(name: string, lua: string, key: string, args: readonly (string | Buffer)[]): Promise<ReplicatedReply> {
    const connection = this.#connections.get(name);
    if (connection === undefined) throw unavailable("the connection was closed");
    const replicas = await this.#replicas(connection);
    const pipeline = connection.pipeline();
    pipeline.eval(lua, 1, key, ...args);
    if (replicas === "connected") pipeline.wait(1, this.#times.waitTimeoutMs);
    const [written, confirmed] = (await pipeline.exec()) ?? [];
    if (written === undefined) throw unavailable("a pipeline had no reply");
    const [failure, reply] = written;
    if (failure !== null) throw failure;
    // A server on which WAIT is not allowed leaves it open whether a replica has the bytes.
    const byWait = confirmed !== undefined && confirmed[0] === null && Number(confirmed[1]) >= 1;
    return { reply, replicated: replicas === "none" || byWait };
  }

  /**
   * `none`: nobody has to be waited for. `lost`: the cluster lists replicas for this master, and none is connected. `connected` also
   * when the server does not tell: WAIT then shows.
   */
  async #replicas(connection: RedisConnection): Promise<"none" | "lost" | "connected"> {
    const info = await connection.info("replication").catch(emptyIfRefused);
    if (!/^connected_slaves:0\r?$/m.test(info)) return "connected";
    if (!isCluster(this.#client)) return "none";
    const nodes = String(await connection.cluster("NODES").catch(emptyIfRefused)).split("\n");
    const [id = ""] = nodes.find((line) => / (\S+,)?myself[ ,]/.test(line))?.split(" ") ?? [];
    if (id === "") return "connected";
    return nodes.some((line) => line.split(" ")[3] === id || isDeadFormerMaster(line)) ? "lost" : "none";
  }

  async #server(key: string): Promise<RedisServer> {
    return isCluster(this.#client) ? await ownerOf(this.#client, key) : this.#client;
  }

  /** @returns the name of an open connection to `server`. */
  #open(server: RedisServer): string {
    const name = nodeName(server);
    const known = this.#connections.get(name);
    if (known !== undefined && known.status !== "end") return name;
    if (this.#closed) throw unavailable("the store was closed");
    const connection = server.duplicate({
      lazyConnect: true,
      readOnly: false,
      enableOfflineQueue: true,
      enableAutoPipelining: false,
      autoResendUnfulfilledCommands: false,
      connectTimeout: this.#times.commandTimeoutMs,
      // Ours covers the WAIT too.
      commandTimeout: undefined,
      reconnectOnError: null,
      // A pipeline must not be torn: when the connection ends, so does what was asked on it.
      retryStrategy: () => null,
    });
    // The command that was under way tells.
    connection.on("error", () => {});
    this.#connections.set(name, connection);
    return name;
  }

  #drop(name: string): void {
    this.#connections.get(name)?.disconnect();
    this.#connections.delete(name);
  }
}

/** After a failover the dead master stands there as a master without slots, perhaps ours: it will come back as the replica that is missing now. */
function isDeadFormerMaster(line: string): boolean {
  const [, , flags = "", , , , , , ...slots] = line.trim().split(" ");
  const roles = flags.split(",");
  return roles.includes("master") && roles.some((role) => role.startsWith("fail")) && slots.length === 0;
}
