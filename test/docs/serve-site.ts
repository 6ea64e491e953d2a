/**
 * Serves the files of a folder on the loopback interface.
 */
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join, normalize } from "node:path";

const TYPES: Readonly<Record<string, string>> = {
  ".css": "text/css",
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".svg": "image/svg+xml",
};

/** A server that is up. */
export interface Site {
  /** Such as `http://127.0.0.1:43210`. */
  readonly origin: string;
  close(): Promise<void>;
}

/** @returns a server of the files in `folder`, on a free port of 127.0.0.1. */
export async function serveSite(folder: string): Promise<Site> {
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://site");
    // A URL's path never climbs above its root.
    const file = join(folder, normalize(decodeURIComponent(pathname === "/" ? "/index.html" : pathname)));
    try {
      const content = await readFile(file);
      response.writeHead(200, { "content-type": TYPES[extname(file)] ?? "application/octet-stream" }).end(content);
    } catch {
      response.writeHead(404).end();
    }
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    origin: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: () => new Promise((resolve) => server.close(() => resolve())),
  };
}
