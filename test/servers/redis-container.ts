/**
 * The lane of containers: each server in one of its own, through testcontainers, with the network of the host, because a
 * cluster announces addresses that its clients must be able to reach.
 */
import { spawnSync } from "node:child_process";
import { type ContainerRuntimeClient, GenericContainer, ImageName, Wait } from "testcontainers";
import { untilNothingMissing } from "./condition.js";
import { ask } from "./connection.js";
import { dockerClient } from "./docker-client.js";
import { beforeExit } from "./exit-cleanup.js";
import { type Lane, type LaunchedRedis, READY_LINE, startFailure, toArguments } from "./lane.js";

/** Any image with redis-server on its PATH will do, and a `/data` or none. */
const DEFAULT_IMAGE = "redis:7.2-alpine";

/** Finds what a killed test run left: `docker rm -f $(docker ps -aqf label=sealed-session.test)`. */
const LABELS = { "sealed-session.test": "redis" };

type Container = ReturnType<ContainerRuntimeClient["container"]["getById"]>;

/** @throws Error if no Docker engine answers, or it has no image and cannot pull it. */
export async function findContainerLane(): Promise<Lane> {
  const client = await dockerClient();
  const image = process.env["SEALED_SESSION_TEST_REDIS_IMAGE"] || DEFAULT_IMAGE;
  const name = ImageName.fromString(image);
  await client.image.pull(name).catch((error: unknown) => {
    throw new Error(`the image ${image} is not here and cannot be pulled: ${String(error)}`);
  });
  // An error in the middle of a pull is not thrown.
  if (!(await client.image.exists(name))) throw new Error(`the image ${image} is not here after a pull`);
  return {
    description: `${image} in Docker ${client.info.containerRuntime.serverVersion}`,
    async launch(port, config) {
      const container = new RedisContainer(image, client)
        .withLabels(LABELS)
        .withNetworkMode("host")
        .withCommand(["redis-server", ...toArguments({ ...config, port: String(port), dir: "/data" })])
        .withWaitStrategy(Wait.forLogMessage(READY_LINE))
        // The cleanup of testcontainers is a container too, whose image some machines cannot pull.
        .withAutoCleanup(false);
      return await container.launch(port);
    },
  };
}

class RedisContainer extends GenericContainer {
  readonly #image: string;
  readonly #client: ContainerRuntimeClient;
  #id: string | undefined;
  #log = "";
  #logEnded = false;

  constructor(image: string, client: ContainerRuntimeClient) {
    super(image);
    this.#image = image;
    this.#client = client;
    // A volume of its own: it stays when the server is killed, and goes with the container.
    this.createOpts.Volumes = { "/data": {} };
    this.withLogConsumer((stream) => {
      stream.on("data", (text) => {
        this.#log = (this.#log + String(text)).slice(-10_000);
      });
      stream.on("end", () => {
        this.#logEnded = true;
      });
    });
  }

  async launch(port: number): Promise<LaunchedRedis> {
    try {
      const container = await this.start();
      return launched(port, this.#client.container.getById(container.getId()));
    } catch (error) {
      if (this.#id !== undefined) {
        await removeContainer(this.#client.container.getById(this.#id));
        // What the server had to say may still be on its way.
        await untilNothingMissing("the log", () => (this.#logEnded ? undefined : "its end")).catch(() => {});
      }
      throw startFailure(`${this.#image} on port ${port}`, this.#log, error);
    }
  }

  protected override async containerCreated(id: string): Promise<void> {
    this.#id = id;
    removeBeforeExit(id, this.#client);
  }
}

function launched(port: number, container: Container): LaunchedRedis {
  return {
    host: "127.0.0.1",
    port,
    isRunning: () => isRunning(container),
    async restart() {
      if (await isRunning(container)) throw new Error(`the server on port ${port} runs`);
      await container.start();
      await untilNothingMissing(`the server on port ${port}`, () =>
        ask({ host: "127.0.0.1", port }, (redis) => redis.ping()).then(() => undefined, String),
      );
    },
    async signal(signal) {
      const gone = container.wait();
      await container.kill({ signal });
      if (signal === "SIGKILL") await gone;
    },
    stop: () => removeContainer(container),
  };
}

/** Ids of containers that exist, or are about to. */
const containerIds = new Set<string>();
let forget: (() => void) | undefined;

/** At the end of a process nothing asynchronous runs, so another one calls the engine, once for all containers. */
function removeBeforeExit(id: string, { container: { dockerode } }: ContainerRuntimeClient): void {
  containerIds.add(id);
  forget ??= beforeExit(() => {
    // Its types do not tell where docker-modem connects to.
    const { socketPath, host, port } = dockerode.modem as { socketPath?: unknown; host?: string; port?: string };
    const engine = JSON.stringify(typeof socketPath === "string" ? { socketPath } : { host, port });
    spawnSync(process.execPath, ["--eval", REMOVE, engine, ...containerIds], {
      stdio: ["ignore", "ignore", "inherit"],
    });
  });
}

const REMOVE = `
const [engine, ...ids] = process.argv.slice(1);
for (const id of ids) {
  const path = "/containers/" + id + "?force=true&v=true";
  require("node:http").request({ ...JSON.parse(engine), method: "DELETE", path }).end();
}`;

async function isRunning(container: Container): Promise<boolean> {
  return (await orGone(container.inspect()))?.State.Running ?? false;
}

async function removeContainer(container: Container): Promise<void> {
  await orGone(container.remove({ force: true, v: true }));
  containerIds.delete(container.id);
  if (containerIds.size === 0) forget = void forget?.();
}

/** @returns what `answer` resolves to, or `undefined` if the engine says that there is no such container. */
async function orGone<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if ((error as { statusCode?: number }).statusCode === 404) return undefined;
    throw error;
  }
}
