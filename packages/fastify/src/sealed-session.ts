/**
 * The plugin: @fastify/session with a sealed store, which it tells what belongs to which request.
 */
import fastifyCookie from "@fastify/cookie";
import fastifySession, { type FastifySessionOptions } from "@fastify/session";
import { createSessionId, type SessionStore } from "@sealed-session/core";
import type { FastifyInstance, FastifyPluginAsync, FastifyRequest, Session } from "fastify";
import fastifyPlugin from "fastify-plugin";
import { type FastifyStoreOptions, SealedStore } from "./fastify-store.js";
import { RequestSessions } from "./request-sessions.js";

/** Options of {@link sealedSession}: those of @fastify/session but `store`, and those of {@link fastifyStore}. */
export interface SealedSessionOptions
  extends Omit<FastifySessionOptions, "store" | "idGenerator">,
    FastifyStoreOptions {
  /** Where sessions are kept. Not closed by the plugin. */
  readonly sessions: SessionStore<Session>;
  /** Makes session ids, of 16 to 512 bytes, as hard to guess. @defaultValue `createSessionId` of core: 256 random bits */
  readonly idGenerator?: ((request?: FastifyRequest) => string) | undefined;
}

/**
 * Registers @fastify/session with a sealed store, and @fastify/cookie before it unless that is registered already.
 *
 * A session that was read in a request is written only if it still exists, a new one only if its id is free, and where only the expiry has
 * moved nothing is sealed. With `rolling: false` also changes inside a Map, a Set, a typed array or a BigInt are saved.
 */
export const sealedSession: FastifyPluginAsync<SealedSessionOptions> = fastifyPlugin(register, {
  fastify: "5.x",
  name: "@sealed-session/fastify",
});

async function register(fastify: FastifyInstance, options: SealedSessionOptions): Promise<void> {
  if ("store" in options) throw new TypeError("store must not be given: the sessions are kept in the option sessions");
  const { sessions, expiry, onConflict, onTampered, ifUnchanged, idGenerator, ...rest } = options;
  const store = new SealedStore(sessions, { expiry, onConflict, onTampered, ifUnchanged });
  if (!fastify.hasPlugin("@fastify/cookie")) await fastify.register(fastifyCookie);

  const requests = new WeakMap<FastifyRequest, RequestSessions>();
  fastify.addHook("onRequest", (request, _reply, done) => {
    const met = new RequestSessions(true);
    requests.set(request, met);
    store.run(met, done);
  });
  // The handler may go on in another context, such as that of a connection to a database: its session object is known all the same.
  const bind = (request: FastifyRequest): void => {
    const met = requests.get(request);
    if (met !== undefined && request.session) store.bind(met, request.session);
  };
  const { saveUninitialized = true, rolling = true } = rest;
  fastify.addHook("onSend", (request, _reply, _payload, done) => {
    bind(request); // After a reload it is another object.
    const { session } = request;
    if (typeof session?.isModified === "function" && store.isChanged(session, saveUninitialized, rolling)) {
      // What @fastify/session asks before it decides whether to save.
      Object.defineProperty(session, "isModified", { value: () => true, configurable: true });
    }
    done();
  });
  await fastify.register(fastifySession, {
    ...rest,
    ...(rest.cookie !== undefined && { cookie: { ...rest.cookie } }), // it writes its defaults into it
    idGenerator: idGenerator ?? (() => createSessionId()),
    store,
  });
  fastify.addHook("onRequest", (request, _reply, done) => {
    bind(request);
    done();
  });
}
