/**
 * Free TCP ports on loopback for servers that tests start.
 */
import { createServer } from "node:net";

/** What Redis adds to a port for the bus between cluster nodes. */
export const CLUSTER_BUS_OFFSET = 10_000;

/** Ports and their bus ports stay under 32768, where Linux begins to hand out ports to outgoing connections. */
const MIN_PORT = 11_000;
const MAX_PORT = 22_767;

/** Ports that this process handed out: their servers may not listen yet, or may be killed and started again. */
const handedOut = new Set<number>();

/** @returns a port that is free, and so is its cluster bus port. Another process may still be quicker to take it. */
export async function freePort(): Promise<number> {
  for (let attempt = 0; attempt < 1000; attempt++) {
    const port = MIN_PORT + Math.floor(Math.random() * (MAX_PORT - MIN_PORT + 1));
    if (handedOut.has(port) || handedOut.has(port + CLUSTER_BUS_OFFSET) || handedOut.has(port - CLUSTER_BUS_OFFSET)) {
      continue;
    }
    handedOut.add(port);
    if ((await isFree(port)) && (await isFree(port + CLUSTER_BUS_OFFSET))) return port;
    handedOut.delete(port);
  }
  throw new Error(`no free port from ${MIN_PORT} to ${MAX_PORT} on 127.0.0.1`);
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.unref();
    server.once("error", () => resolve(false));
    server.listen({ host: "127.0.0.1", port, exclusive: true }, () => server.close(() => resolve(true)));
  });
}
