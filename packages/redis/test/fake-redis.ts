/**
 * A client that answers as a test wants. It has the shape of ioredis's `Redis`, and no server.
 */
import type { RedisConnection, RedisPipeline, SingleRedis } from "../src/redis-client.js";

/** Answers a command: with a reply, or by throwing or returning an error. */
export type Answer = (command: string, args: readonly unknown[]) => unknown;

/** Whatever methods are called on it, `answer` is asked, with the method's name. */
export function fakeRedis(answer: Answer, options: SingleRedis["options"] = {}): SingleRedis {
  const fixed: Record<string, unknown> = {
    isCluster: false,
    status: "ready",
    options: { host: "127.0.0.1", port: 6379, ...options },
    duplicate: () => fakeConnection(answer),
  };
  return new Proxy({} as SingleRedis, {
    get: (_, name) => {
      // A client is no promise, although it answers to most names.
      if (name === "then") return undefined;
      return fixed[String(name)] ?? (async (...args: unknown[]) => settle(answer, String(name), args));
    },
  });
}

/** A connection as `duplicate` makes it; `answer` is asked for `disconnect` too. */
function fakeConnection(answer: Answer): RedisConnection {
  let status = "ready";
  return {
    get status() {
      return status;
    },
    on: () => {},
    info: async (section) => (await settle(answer, "info", [section])) as string,
    cluster: async (subcommand) => settle(answer, "cluster", [subcommand]),
    pipeline: () => fakePipeline(answer),
    disconnect: () => {
      status = "end";
      answer("disconnect", []);
    },
  };
}

function fakePipeline(answer: Answer): RedisPipeline {
  const commands: [string, unknown[]][] = [];
  return {
    eval: (...args) => commands.push(["eval", args]),
    wait: (...args) => commands.push(["wait", args]),
    exec: async () => {
      const results: [Error | null, unknown][] = [];
      for (const [command, args] of commands) {
        results.push(
          await settle(answer, command, args).then(
            (reply) => [null, reply],
            (error: Error) => [error, undefined],
          ),
        );
      }
      return results;
    },
  };
}

/** An error reply as ioredis hands it on: with the command and all its arguments. */
export function replyError(message: string, command: string, args: readonly unknown[]): Error {
  const error = new Error(message);
  error.name = "ReplyError";
  return Object.assign(error, { command: { name: command, args } });
}

/** A reply that never comes. */
export function never(): Promise<never> {
  return new Promise(() => {});
}

async function settle(answer: Answer, command: string, args: readonly unknown[]): Promise<unknown> {
  const reply = await answer(command, args);
  if (reply instanceof Error) throw reply;
  return reply;
}
