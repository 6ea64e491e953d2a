/**
 * Several processes of one Express application, as far as their sessions go: each has a ring, a session store and a store for the middleware of its own,
 * over one store of envelopes whose calls can be put in any order.
 */
import {
  asBulkStore,
  createSessionId,
  type EnvelopeStore,
  KeyRing,
  type Kms,
  memoryKeyRingStore,
  memoryStore,
  rotateSessions,
  Sealer,
  SessionStore,
  storedIdOf,
} from "@sealed-session/core";
import { type ExpressStore, expressStore } from "@sealed-session/express";
import expressSession, { type SessionData } from "express-session";
import type { Interleaving } from "./interleaving.js";
import { steppedStore } from "./interleaving.js";

/** What the application keeps: the name of the save that wrote it. */
export interface Content {
  token: string;
}

/** Part of a request, as the middleware makes it. */
interface FakeRequest {
  sessionID: string;
  session: SessionData & Content & { id: string };
  sessionStore: ExpressStore<Content>;
}

type Done<R> = (error?: unknown, result?: R) => void;

/** One process. */
export class Process {
  readonly ring: KeyRing;
  readonly sessions: SessionStore<Content>;
  readonly #store: ExpressStore<Content>;
  readonly #envelopes: EnvelopeStore;

  constructor(ring: KeyRing, envelopes: EnvelopeStore) {
    this.ring = ring;
    this.#envelopes = envelopes;
    this.sessions = new SessionStore<Content>({ ring, store: envelopes, idleSeconds: 3600 });
    this.#store = expressStore(this.sessions);
    const { Session, Cookie } = expressSession as unknown as Record<"Session" | "Cookie", new (arg: unknown) => object>;
    this.#store.generate = (request) => {
      const made = request as unknown as FakeRequest;
      made.sessionID = createSessionId();
      made.session = Object.assign(new Session(made), {
        cookie: new Cookie({ maxAge: 3_600_000 }),
      }) as typeof made.session;
    };
  }

  /** The beginning of a request with a session's cookie. @returns `undefined` when there is no such session. */
  async load(sessionId: string): Promise<FakeRequest | undefined> {
    const data = await called<(Content & SessionData) | null>((done) => this.#store.get(sessionId, done));
    if (!data) return undefined;
    const request = { sessionID: sessionId, sessionStore: this.#store } as FakeRequest;
    request.session = this.#store.createSession(request as never, data) as unknown as FakeRequest["session"];
    return request;
  }

  /** A request without a session. */
  generate(token: string): FakeRequest {
    const request = { sessionStore: this.#store } as FakeRequest;
    this.#store.generate?.(request as never);
    request.session.token = token;
    return request;
  }

  save({ sessionID, session }: FakeRequest): Promise<void> {
    return called((done) => this.#store.set(sessionID, session, done));
  }

  touch({ sessionID, session }: FakeRequest): Promise<void> {
    return called((done) => this.#store.touch(sessionID, session, done));
  }

  destroy(sessionId: string): Promise<void> {
    return called((done) => this.#store.destroy(sessionId, done));
  }

  /** Seals everything under another key. */
  async rotate(): Promise<number> {
    const { counts } = await rotateSessions({
      ring: this.ring,
      sealer: new Sealer({ ring: this.ring, counted: true }),
      store: asBulkStore(this.#envelopes),
    });
    return counts.resealed;
  }
}

/** All processes, and what they share. */
export class World {
  readonly processes: readonly Process[];
  /** As it lies there, without waiting. */
  readonly envelopes: EnvelopeStore;
  readonly #clock: { now: number };
  readonly #rings: readonly KeyRing[];

  private constructor(rings: readonly KeyRing[], order: () => Interleaving, clock: { now: number }, lie: Lie) {
    this.#rings = rings;
    this.#clock = clock;
    this.envelopes = memoryStore({ clock: () => clock.now });
    const stepped = lie(steppedStore(this.envelopes, order));
    this.processes = rings.map((ring) => new Process(ring, stepped));
  }

  /** @param lie - Makes a store of a store that breaks its promises. */
  static async open(kms: Kms, order: () => Interleaving, lie: Lie = (store) => store): Promise<World> {
    const clock = { now: Date.UTC(2026, 0, 1) };
    const store = memoryKeyRingStore({ clock: () => clock.now });
    const options = { name: "web", kms, store, clock: () => clock.now, rotation: "manual", schedule: soon } as const;
    const rings = [1, 2, 3].map(() => new KeyRing(options));
    const world = new World(rings, order, clock, lie);
    await world.publish();
    return world;
  }

  /** A new key, which all processes know and seal with. */
  async publish(): Promise<void> {
    this.#clock.now += 1000;
    await this.#rings[0]?.publish({ delayMs: 0 });
    for (const ring of this.#rings) {
      await ring.refresh();
      await ring.ready();
    }
  }

  /** What lies under a session id, opened; `undefined` when nothing does. */
  async contentOf(sessionId: string): Promise<Content | undefined> {
    const storedId = storedIdOf(sessionId) as string;
    const bytes = await this.envelopes.get(storedId);
    const [ring] = this.#rings as [KeyRing];
    return bytes && ((await new Sealer({ ring, counted: true }).open(bytes, storedId)) as Content);
  }

  close(): void {
    for (const ring of this.#rings) ring.close();
  }
}

/** Makes a store that breaks its promises, to show that this is noticed. */
export type Lie = (store: EnvelopeStore) => EnvelopeStore;

/** Timers that do not wait: nothing here depends on them. */
function soon(task: () => void, delayMs: number): () => void {
  const immediate = delayMs <= 1000 ? setImmediate(task) : undefined;
  return () => clearImmediate(immediate);
}

function called<R = void>(call: (done: Done<R>) => void): Promise<R> {
  return new Promise((resolve, reject) => {
    call((error, result) => (error ? reject(error) : resolve(result as R)));
  });
}
