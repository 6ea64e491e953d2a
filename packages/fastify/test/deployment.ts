/** Sessions in memory behind an application, with all that their store was asked for. */

import type { SessionStoreOptions } from "@sealed-session/core";
import {
  type EnvelopeStore,
  KeyRing,
  localKms,
  memoryKeyRingStore,
  memoryStore,
  SessionStore,
} from "@sealed-session/core";
import Fastify, { type FastifyInstance, type Session } from "fastify";
import { type SealedSessionOptions, sealedSession } from "../src/index.js";

declare module "fastify" {
  interface Session {
    user?: string;
    visits?: number;
    cart?: { items: string[] };
    seen?: Set<string>;
    prices?: Map<string, number>;
    bytes?: Uint8Array;
    big?: bigint;
    report?: () => void;
  }
}

const KEY_VARIABLE = "SEALED_SESSION_FASTIFY_TEST_KEY";
export const SECRET = "signs the cookies of these tests";
export const MINUTE_MS = 60_000;

export interface Deployment {
  readonly sessions: SessionStore<Session>;
  readonly envelopes: EnvelopeStore;
  /** The calls since the last look, such as `get`, `get slide`, `set absent`; a look empties the list. */
  calls(): string[];
  /** Lets the next calls of this name fail, or wait. */
  before: Partial<Record<string, (storedId: string) => Promise<void> | void>>;
}

/** Sessions in memory. Time is the system's, so that a test may fake it. */
export function deploy(options: Partial<SessionStoreOptions> = {}): Deployment {
  process.env[KEY_VARIABLE] = Buffer.alloc(32, 7).toString("base64url");
  const clock = () => Date.now();
  const ring = new KeyRing({
    name: "web",
    kms: localKms({ keyVariable: KEY_VARIABLE }),
    store: memoryKeyRingStore({ clock }),
    clock,
    schedule: (task, delayMs) => {
      const immediate = delayMs <= 1000 ? setImmediate(task) : undefined;
      return () => clearImmediate(immediate);
    },
  });
  const envelopes = memoryStore({ clock });
  const calls: string[] = [];
  const before: Deployment["before"] = {};
  const note = async (call: string, storedId: string) => {
    calls.push(call);
    await before[call.split(" ")[0] ?? ""]?.(storedId);
  };
  const store: EnvelopeStore = {
    async get(id, settings) {
      await note(settings?.slideMs === undefined ? "get" : "get slide", id);
      return envelopes.get(id, settings);
    },
    async set(id, envelope, settings) {
      await note(`set ${settings.condition}`, id);
      return envelopes.set(id, envelope, settings);
    },
    async compareAndSet(id, expected, envelope, settings) {
      await note("compareAndSet", id);
      return envelopes.compareAndSet(id, expected, envelope, settings);
    },
    async touch(id, ttlMs) {
      await note("touch", id);
      return envelopes.touch(id, ttlMs);
    },
    async destroy(id, settings) {
      await note("destroy", id);
      return envelopes.destroy(id, settings);
    },
    ttlMs: (id) => envelopes.ttlMs(id),
    scan: () => envelopes.scan(),
  };
  return {
    sessions: new SessionStore<Session>({ ring, store, ...options }),
    envelopes,
    calls: () => calls.splice(0),
    before,
  };
}

/** An application with the plugin; routes are added by the test. */
export async function appOver(
  { sessions }: Pick<Deployment, "sessions">,
  options: Partial<SealedSessionOptions> = {},
): Promise<FastifyInstance> {
  const app = Fastify();
  await app.register(sealedSession, {
    sessions,
    secret: SECRET,
    cookie: { secure: false, maxAge: MINUTE_MS },
    ...options,
  });
  return app;
}

/** What a browser gets; its cookie if that is set anew. */
interface Answer {
  readonly status: number;
  readonly body: string;
  readonly cookie: { readonly value: string; readonly expires?: Date | undefined } | undefined;
}

/** What a browser has of an application: its cookie. */
export class Browser {
  readonly #app: FastifyInstance;
  readonly #cookieName: string;
  cookie: string | undefined;

  constructor(app: FastifyInstance, cookieName = "sessionId") {
    this.#app = app;
    this.#cookieName = cookieName;
  }

  /** The session id in the cookie. */
  get sid(): string {
    return this.cookie?.split(".")[0] ?? "";
  }

  /** Another tab of it, with the same cookie. */
  again(): Browser {
    const tab = new Browser(this.#app, this.#cookieName);
    tab.cookie = this.cookie;
    return tab;
  }

  /** @returns The status and the body. */
  async ask(url: string, method: "GET" | "POST" = "GET", payload?: object): Promise<Answer> {
    const cookies = this.cookie === undefined ? {} : { [this.#cookieName]: this.cookie };
    const response = await this.#app.inject({ method, url, cookies, ...(payload !== undefined && { payload }) });
    const cookie = response.cookies.find(({ name }) => name === this.#cookieName);
    if (cookie !== undefined) this.cookie = cookie.value;
    return { status: response.statusCode, body: response.body, cookie };
  }
}

/** Something to be waited for, and to be let go. */
export function gate(): { readonly reached: Promise<void>; readonly open: () => void; pass(): Promise<void> } {
  let open = () => {};
  let reach = () => {};
  const opened = new Promise<void>((resolve) => {
    open = resolve;
  });
  const reached = new Promise<void>((resolve) => {
    reach = resolve;
  });
  return {
    reached,
    open: () => open(),
    pass() {
      reach();
      return opened;
    },
  };
}
