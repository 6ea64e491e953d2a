/**
 * A web application whose users log in, and the users' browsers.
 */
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import express from "express";
import session from "express-session";

declare module "express-session" {
  interface SessionData {
    user?: string;
    /** Something that only this user's session holds. */
    note?: string;
    visits?: number;
  }
}

const RETRY_MS = 5;
const GIVE_UP_MS = 20_000;

/** How the application keeps its sessions. */
export interface ShopSessions {
  readonly store: session.Store;
  readonly genid?: () => string;
}

/** The application while it runs. */
export interface Shop {
  readonly port: number;
  /** Answers what it has begun, and ends. */
  stop(): Promise<void>;
}

/** Starts the application on a port, 0 for any. */
export async function startShop({ store, genid }: ShopSessions, port = 0): Promise<Shop> {
  const app = express();
  let isStopping = false;
  app.use((_, response, next) => {
    // Otherwise browsers keep their connections, and the application, alive.
    if (isStopping) response.set("connection", "close");
    next();
  });
  app.use(
    session({
      store,
      secret: "signs cookies in this test",
      resave: false,
      saveUninitialized: false,
      cookie: { maxAge: 3_600_000 },
      ...(genid !== undefined && { genid }),
    }),
  );
  app.post("/login/:user", (request, response, next) => {
    request.session.regenerate((error) => {
      if (error) return next(error);
      request.session.user = request.params.user;
      request.session.note = noteOf(request.params.user);
      response.json({});
    });
  });
  app.get("/me", ({ session: { user, note } }, response) => void response.json({ user, note }));
  app.post("/visit", ({ session: current }, response) => {
    // A visitor without a session begins none.
    if (current.user !== undefined) current.visits = (current.visits ?? 0) + 1;
    response.json({ user: current.user, note: current.note });
  });
  app.post("/logout", (request, response, next) => {
    request.session.destroy((error) => (error ? next(error) : response.json({})));
  });
  const server = createServer(app);
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  return {
    port: (server.address() as AddressInfo).port,
    async stop() {
      isStopping = true;
      const closed = once(server, "close");
      server.close();
      server.closeIdleConnections();
      await closed;
    },
  };
}

/** One user's browser: it holds the cookie. */
export class Browser {
  readonly user: string;
  readonly #port: number;
  #cookie = "";

  constructor(user: string, port: number) {
    this.user = user;
    this.#port = port;
  }

  /** The session id in the cookie. */
  get sessionId(): string {
    return decodeURIComponent(this.#cookie).replace(/^connect\.sid=s:([^.]+)\..*$/, "$1");
  }

  async login(): Promise<void> {
    const response = await this.#ask("POST", `/login/${this.user}`);
    this.#cookie = response.headers.get("set-cookie")?.split(";")[0] ?? "";
    await response.text();
  }

  /** @returns What is wrong with the answer, where it should be this user's; `undefined` when nothing is. */
  async problem(method: "GET" | "POST", path: string): Promise<string | undefined> {
    const response = await this.#ask(method, path);
    const text = await response.text();
    const expected = JSON.stringify({ user: this.user, note: noteOf(this.user) });
    return text === expected ? undefined : `${method} ${path} of ${this.user}: ${response.status} ${text}`;
  }

  /** @returns Whether the application knows no user behind the cookie. */
  async isLoggedOut(): Promise<boolean> {
    const response = await this.#ask("GET", "/me");
    return (await response.text()) === "{}";
  }

  async logout(): Promise<void> {
    await (await this.#ask("POST", "/logout")).text();
  }

  /** Tries again while nobody listens. */
  async #ask(method: string, path: string): Promise<Response> {
    const givesUpAt = performance.now() + GIVE_UP_MS;
    for (;;) {
      try {
        return await fetch(`http://127.0.0.1:${this.#port}${path}`, { method, headers: { cookie: this.#cookie } });
      } catch (error) {
        if (performance.now() > givesUpAt) throw error;
        await delay(RETRY_MS);
      }
    }
  }
}

function noteOf(user: string): string {
  return `only for ${user}`;
}
