/**
 * One Redis server on its own.
 */
import { ask } from "./connection.js";
import { launchOnFreePort, type RedisConfig } from "./lane.js";
import type { Address, RedisNode } from "./redis-node.js";
import { chooseSource, type SourceOptions, sourceCandidates } from "./source.js";

/** Options of {@link startRedis}. */
export interface StartRedisOptions extends SourceOptions {
  /**
   * Directives of redis.conf, over {@link BASE_CONFIG}. Servers that are given by the environment are then not used.
   *
   * @default {}
   */
  readonly config?: RedisConfig;
}

/** A server that is ready for use. */
export interface RedisServer extends RedisNode {
  /** Where it comes from, for people: "redis-server 7.0.15 from the PATH". */
  readonly source: string;
  /** Ends the server, waits until it is gone and removes its directory. A server that was given goes on. */
  stop(): Promise<void>;
}

/** What every server that is started here is configured with. */
export const BASE_CONFIG: RedisConfig = {
  bind: "127.0.0.1",
  "protected-mode": "yes",
  daemonize: "no",
  save: "",
  appendonly: "yes",
  appendfsync: "everysec",
};

/**
 * Starts a server, or takes the one that SEALED_SESSION_TEST_REDIS_URL (redis://host:port) names.
 *
 * @throws NoRedisSourceError if there is no server to be had.
 * @throws Error with the tail of the server's log if it does not start.
 */
export async function startRedis({ config, ...choice }: StartRedisOptions = {}): Promise<RedisServer> {
  const candidates = sourceCandidates("SEALED_SESSION_TEST_REDIS_URL", config !== undefined);
  const chosen = await chooseSource(candidates, choice);
  if ("launch" in chosen) {
    const server = await launchOnFreePort(chosen, { ...BASE_CONFIG, ...config });
    return Object.assign(server, { source: chosen.description });
  }
  const [address] = chosen.given;
  if (address === undefined || chosen.given.length > 1) throw new RangeError(`${chosen.description}: not one server`);
  await ask(address, (redis) => redis.ping());
  return { ...givenNode(address), source: chosen.description, stop: async () => {} };
}

/** @returns the server at `address`, which belongs to somebody else. */
export function givenNode({ host, port }: Address): RedisNode {
  const refuse = async () => {
    throw new Error(`${host}:${port} was given to the tests and is not theirs to end or pause`);
  };
  return { host, port, signal: refuse, restart: refuse };
}
