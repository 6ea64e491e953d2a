/**
 * Sealed web sessions for Fastify: a plugin over @fastify/session, and its store alone.
 *
 * @packageDocumentation
 */
export { type FastifyStore, type FastifyStoreOptions, fastifyStore } from "./fastify-store.js";
export { type SealedSessionOptions, sealedSession, sealedSession as default } from "./sealed-session.js";
