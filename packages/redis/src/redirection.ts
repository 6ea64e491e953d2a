/**
 * Redirections that ioredis does not follow: those of commands that its auto-pipelining has sent together with others.
 */
import { refreshSlots } from "./cluster-map.js";
import { type ClusterRedis, isCluster, type RedisClient, type RedisCommands } from "./redis-client.js";
import { replyCode, unavailable } from "./store-error.js";

/**
 * Runs `work` on `client`, and once more when the cluster redirected a command of it. A redirected command was not carried out.
 *
 * @param work - Sends its commands to what it is given, and may be called twice.
 */
export async function followingRedirections<T>(
  client: RedisClient,
  work: (redis: RedisCommands) => Promise<T>,
): Promise<T> {
  try {
    return await work(client);
  } catch (error) {
    const code = replyCode(error);
    if (!isCluster(client) || (code !== "MOVED" && code !== "ASK")) throw error;
    if (code === "MOVED") await refreshSlots(client);
    return await work(oneByOne(client));
  }
}

/** @returns the commands of `client`, each in a pipeline of its own: ioredis follows what it is told about those. */
function oneByOne(client: ClusterRedis): RedisCommands {
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
