/**
 * Chooses where a test's servers come from: given by environment variables, a binary on the PATH, Docker, or a Debian
 * package installed on the spot. The first that can be had wins, unless one is forced.
 *
 * - SEALED_SESSION_TEST_SOURCE forces `env`, `binary`, `docker` or `apt`.
 * - SEALED_SESSION_TEST_REDIS_URL gives a server (redis://host:port), SEALED_SESSION_TEST_REDIS_CLUSTER all nodes of a
 *   cluster (host:port,host:port,…). Tests write to them; they are neither started nor stopped.
 * - SEALED_SESSION_TEST_REDIS_IMAGE is the image for Docker. The engine needs the network of the host.
 */
import { aptInstall, whyNoApt } from "./apt.js";
import type { Lane } from "./lane.js";
import type { Address } from "./redis-node.js";
import { findProcessLane } from "./redis-process.js";

/** Where servers come from, in the order in which they are tried. */
export const SOURCES = ["env", "binary", "docker", "apt"] as const;

/** One of {@link SOURCES}. */
export type Source = (typeof SOURCES)[number];

/** How a caller narrows the choice. */
export interface SourceOptions {
  /**
   * Only this source.
   *
   * @default The environment variable SEALED_SESSION_TEST_SOURCE, or else the first source that can be had.
   */
  readonly source?: Source;
  /**
   * Whether the source `apt` may be chosen without being forced.
   *
   * @default true
   */
  readonly install?: boolean;
}

/** A source and how to make it ready. */
export interface SourceCandidate<T> {
  readonly source: Source;
  /** @throws Error whose message says why servers cannot be had from here. */
  prepare(): Promise<T>;
}

/** No source has a server. A demo catches it by `code` and goes on without Redis. */
export class NoRedisSourceError extends Error {
  override readonly name = "NoRedisSourceError";
  readonly code = "NO_REDIS_SOURCE";
}

/** Servers that run already and belong to somebody else. */
export interface GivenServers {
  readonly description: string;
  readonly given: readonly Address[];
}

/**
 * @returns the first of `candidates` that can be prepared.
 * @throws NoRedisSourceError that says of each candidate why not.
 */
export async function chooseSource<T>(
  candidates: readonly SourceCandidate<T>[],
  { source = forcedSource(), install = true }: SourceOptions = {},
): Promise<T> {
  const reasons: string[] = [];
  for (const candidate of candidates) {
    if (source === undefined ? candidate.source === "apt" && !install : candidate.source !== source) continue;
    try {
      return await candidate.prepare();
    } catch (error) {
      reasons.push(`${candidate.source}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  throw new NoRedisSourceError(`no Redis server to be had\n  ${reasons.join("\n  ")}`);
}

/**
 * @param variable names the environment variable that lists given servers.
 * @param needsConfig is true for a caller with a configuration of its own, which given servers cannot take.
 * @returns the sources as they are on this machine.
 */
export function sourceCandidates(
  variable: string,
  needsConfig: boolean,
): readonly SourceCandidate<Lane | GivenServers>[] {
  return [
    { source: "env", prepare: async () => givenServers(variable, needsConfig) },
    { source: "binary", prepare: async () => binaryLane("from the PATH") },
    { source: "docker", prepare: async () => (await import("./redis-container.js")).findContainerLane() },
    { source: "apt", prepare: aptLane },
  ];
}

function forcedSource(): Source | undefined {
  const value = process.env["SEALED_SESSION_TEST_SOURCE"];
  if (value === undefined || value === "") return undefined;
  const source = SOURCES.find((name) => name === value);
  if (source === undefined) throw new RangeError(`SEALED_SESSION_TEST_SOURCE must be one of ${SOURCES.join(", ")}`);
  return source;
}

function givenServers(variable: string, needsConfig: boolean): GivenServers {
  const value = process.env[variable];
  if (value === undefined || value === "") throw new Error(`${variable} is not set`);
  if (needsConfig) throw new Error(`servers of ${variable} cannot be configured as this caller wants`);
  const given = value.split(",").map((entry) => parseAddress(variable, entry.trim()));
  process.stderr.write(`[servers] warning: tests write to the servers of ${variable}: ${value}\n`);
  return { description: `given by ${variable}`, given };
}

function parseAddress(variable: string, entry: string): Address {
  const [, host, port] = /^(?:redis:\/\/)?([\w.-]+):(\d{1,5})\/?$/.exec(entry) ?? [];
  if (host === undefined)
    throw new RangeError(`${variable} must hold host:port or redis://host:port, without a password`);
  return { host, port: Number(port) };
}

async function binaryLane(origin: string): Promise<Lane> {
  const lane = await findProcessLane(origin);
  if (lane === undefined) throw new Error("neither redis-server nor valkey-server is on the PATH");
  return lane;
}

async function aptLane(): Promise<Lane> {
  const obstacle = await whyNoApt();
  if (obstacle !== undefined) throw new Error(obstacle);
  await aptInstall("redis-server", ["redis-server"]);
  return await binaryLane("installed by apt-get");
}
