/**
 * Redirections that ioredis does not follow: those of commands that its auto-pipelining has sent together with others.
 */
import { refreshSlots } from "./cluster-map.js";
import { withinDeadline } from "./deadline.js";
import { type ClusterRedis, isCluster, type RedisClient, type RedisCommands } from "./redis-client.js";
import { replyCode, unavailable } from "./store-error.js";

/**
 * Runs `work` on `client` within `timeoutMs`, and once more when the cluster redirected a command of it, which was then not carried out.
 *
 * @param work - Sends its commands to what it is given, and may be called twice.
 */
export function askRedis<T>(
  client: RedisClient,
  timeoutMs: number,
  work: (redis: RedisCommands) => Promise<T>,
): Promise<T> {
  return withinDeadline(
    timeoutMs,
    () => work(client),
    (error) => {
      const code = replyCode(error);
      if (!isCluster(client) || (code !== "MOVED" && code !== "ASK")) return undefined;
      return followRedirection(client, code, work);
    },
  );
}

async function followRedirection<T>(
  client: ClusterRedis,
  code: "MOVED" | "ASK",
  work: (redis: RedisCommands) => Promise<T>,
): Promise<T> {
  if (code === "MOVED") await refreshSlots(client);
  return await work(oneByOne(client));
}

/** @returns the commands of `client`, each in a pipeline of its own: ioredis follows what it is told about those. */
export function oneByOne(client: ClusterRedis): RedisCommands {
  return new Proxy<RedisCommands>(client, {
    get:
      (_, name) =>
      async (...args: unknown[]) => {
        const pipeline = client.pipeline();
        Reflect.apply(Reflect.get(pipeline, name), pipeline, args);
        const [result] = (await pipeline.exec()) ?? [];
        if (result === undefined) throw unavailable("a pipeline had no reply");
        const [error, reply] = result;
        if (error !== null) throw error;
        return reply;
      },
  });
}
