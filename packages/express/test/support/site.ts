/** A real Express with express-session in front of what a test does with the session, asked over real HTTP. */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import express, { type ErrorRequestHandler, type RequestHandler } from "express";
import session, { type SessionOptions } from "express-session";

const SECRET = "signs the cookies of this test";

/** An answer, and what it says about the cookie. */
export interface Reply {
  readonly status: number;
  readonly text: string;
  readonly headers: Headers;
  /** The whole Set-Cookie header. */
  readonly setCookie: string | undefined;
  /** What a browser sends back. */
  readonly cookie: string;
  /** The session id in the cookie. */
  readonly sid: string;
  /** The attribute Expires of the cookie. */
  readonly expires: string | undefined;
}

/** How to ask. */
interface Question {
  readonly cookie?: string;
  readonly path?: string;
  readonly method?: string;
  readonly headers?: Record<string, string>;
}

/** The site while it runs. */
export interface Site {
  /** What reached the error handler. */
  readonly errors: unknown[];
  ask(question?: Question): Promise<Reply>;
  stop(): Promise<void>;
}

/** Starts a site; the defaults of `options` are those of express-session, with a cookie of one minute. */
export async function startSite(
  options: Partial<SessionOptions>,
  respond: RequestHandler = (_, response) => void response.end(),
): Promise<Site> {
  const errors: unknown[] = [];
  const app = express();
  // Otherwise Express answers 304 where a test does not ask for it.
  app.disable("etag");
  app.use(session({ secret: SECRET, resave: true, saveUninitialized: true, cookie: { maxAge: 60_000 }, ...options }));
  app.use(respond);
  const failed: ErrorRequestHandler = (error: Error, _request, response, _next) => {
    errors.push(error);
    if (!response.headersSent) response.status(500).end(error.message);
  };
  app.use(failed);
  const server = createServer(app);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  return {
    errors,
    async ask({ cookie, path = "/", method = "GET", headers = {} } = {}) {
      const response = await fetch(`http://127.0.0.1:${port}${path}`, {
        method,
        headers: { ...headers, ...(cookie !== undefined && { cookie }) },
        // Nothing here takes long: a request that hangs is a failure.
        signal: AbortSignal.timeout(5000),
      });
      return replyOf(response, await response.text());
    },
    async stop() {
      const closed = once(server, "close");
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}

function replyOf({ status, headers }: Response, text: string): Reply {
  const [setCookie] = headers.getSetCookie();
  const cookie = setCookie?.split(";")[0] ?? "";
  const sid = decodeURIComponent(cookie).replace(/^[^=]*=s:(.*)\.[^.]*$/, "$1");
  const expires = setCookie === undefined ? undefined : /; Expires=([^;]+)/.exec(setCookie)?.[1];
  return { status, text, headers, setCookie, cookie, sid, expires };
}
