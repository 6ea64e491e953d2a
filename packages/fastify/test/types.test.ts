import type { FastifySessionObject } from "@fastify/session";
import type { SessionStore } from "@sealed-session/core";
import Fastify, { type Session } from "fastify";
import { expectTypeOf, it } from "vitest";
import sealedSessionAsDefault, {
  type FastifyStoreOptions,
  fastifyStore,
  type SealedSessionOptions,
  sealedSession,
} from "../src/index.js";
import { deploy } from "./deployment.js";

it("the application's own Session reaches request.session and the session store", () => {
  const { sessions } = deploy();
  expectTypeOf(sessions).toEqualTypeOf<SessionStore<Session>>();
  expectTypeOf<Session["visits"]>().toEqualTypeOf<number | undefined>();
  expectTypeOf<Awaited<ReturnType<typeof sessions.get>>>().toEqualTypeOf<Session | undefined>();

  const app = Fastify();
  app.register(sealedSession, { sessions, secret: "x", rolling: false, expiry: "idle" });
  app.register(sealedSessionAsDefault, { sessions, secret: ["x"] });
  app.get("/", async ({ session, sessionStore }) => {
    expectTypeOf(session).toEqualTypeOf<FastifySessionObject>();
    expectTypeOf(session.user).toEqualTypeOf<string | undefined>();
    expectTypeOf(session.get("visits")).toEqualTypeOf<number | undefined>();
    expectTypeOf(sessionStore.get).toBeFunction();
    // @ts-expect-error Not a property of the session.
    session.userName = "ada";
    // @ts-expect-error A number.
    session.visits = "1";
    return session.sessionId;
  });
});

it("what does not belong is refused", () => {
  const { sessions } = deploy();
  const app = Fastify();
  // @ts-expect-error The sessions are missing.
  app.register(sealedSession, { secret: "x" });
  // @ts-expect-error The store is ours.
  app.register(sealedSession, { sessions, secret: "x", store: fastifyStore(sessions) });
  // @ts-expect-error No such mode.
  app.register(sealedSession, { sessions, secret: "x", expiry: "never" });
  // @ts-expect-error Sessions of another type.
  fastifyStore(sessions as SessionStore<unknown> as SessionStore<{ other: number }>);
  expectTypeOf<SealedSessionOptions>().toExtend<FastifyStoreOptions>();
});
