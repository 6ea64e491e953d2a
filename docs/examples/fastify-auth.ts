/**
 * An auth service on Fastify 5: login, logout, "my devices" with "log out everywhere", health, graceful shutdown.
 *
 * Start: `npx pnpm@12 example:fastify`, then http://localhost:3000.
 */
import formbody from "@fastify/formbody";
import { sealedSession } from "@sealed-session/fastify";
import fastify, { type FastifyError, type FastifyReply, type FastifyRequest, type Session } from "fastify";
import { deviceOf, isForeign, type Login, userOf } from "./auth-site/login.js";
import { devicesPage, errorPage, homePage, loginPage, refusedPage } from "./auth-site/pages.js";
import { IDLE_SECONDS, onShutdown, openService } from "./auth-site/service.js";

declare module "fastify" {
  interface Session extends Partial<Login> {
    visits?: number;
  }
}

const service = await openService<Session>();
const { sessions } = service;
// In production the secret comes from where your other secrets are; and behind a proxy that ends TLS, set `trustProxy` to its address.
const { COOKIE_SECRET = "for development, and long enough", PORT = "3000" } = process.env;

const app = fastify();
await app.register(formbody);
app.addHook("onRequest", async (request, reply) => {
  reply.header("cache-control", "no-store");
  if (request.method === "POST" && isForeign(request.headers)) return html(reply.code(403), refusedPage());
});
// Outside of the sessions: it must answer while Redis does not.
app.get("/health", async (_request, reply) => {
  const health = await service.health();
  return reply.code(health.ok ? 200 : 503).send(health);
});
app.setErrorHandler<FastifyError>((error, _request, reply) => {
  const { statusCode = 500 } = error;
  if (statusCode >= 400 && statusCode < 500) return html(reply.code(statusCode), refusedPage());
  // An outage is not a logout: the cookie stays, and the next request may succeed.
  console.error(error);
  return html(reply.code(503), errorPage());
});

await app.register(async (site) => {
  await site.register(sealedSession, {
    sessions,
    expiry: "idle",
    secret: COOKIE_SECRET,
    saveUninitialized: false,
    // Lax: a form on another site cannot post with this cookie.
    cookie: { maxAge: 1000 * IDLE_SECONDS, httpOnly: true, sameSite: "lax", secure: "auto" },
  });
  const onlyLoggedIn = {
    preHandler: async (request: FastifyRequest, reply: FastifyReply) => {
      if (request.session.userId === undefined) return reply.redirect("/login", 303);
    },
  };

  site.get("/login", (_request, reply) => html(reply, loginPage(false)));
  site.post("/login", async (request, reply) => {
    const user = await userOf(request.body);
    if (user === undefined) return html(reply.code(401), loginPage(true));
    // Another id than before the login: whoever knew that one knows nothing (session fixation).
    await request.session.regenerate();
    const device = deviceOf(request.headers["user-agent"], request.ip);
    Object.assign(request.session, { ...user, device, visits: 0 });
    return reply.redirect("/", 303);
  });
  site.get("/", onlyLoggedIn, (request, reply) => {
    request.session.visits = (request.session.visits ?? 0) + 1;
    return html(reply, homePage(request.session as Login, request.session.visits));
  });
  site.post("/logout", async (request, reply) => {
    await request.session.destroy();
    return reply.redirect("/login", 303);
  });

  site.get("/devices", onlyLoggedIn, async ({ session }, reply) =>
    html(reply, devicesPage(await sessions.listFor(session.userId as string, { current: session.sessionId }))),
  );
  site.post("/devices/end", onlyLoggedIn, async ({ session, body }, reply) => {
    await sessions.destroyFor(session.userId as string, String((body as { handle?: unknown } | undefined)?.handle));
    return reply.redirect("/devices", 303);
  });
  site.post("/devices/end-others", onlyLoggedIn, async ({ session }, reply) => {
    await sessions.destroyAllFor(session.userId as string, { except: session.sessionId });
    return reply.redirect("/devices", 303);
  });
  site.post("/devices/end-all", onlyLoggedIn, async ({ session }, reply) => {
    await sessions.destroyAllFor(session.userId as string);
    return reply.redirect("/login", 303);
  });
});

function html(reply: FastifyReply, page: string): FastifyReply {
  return reply.type("text/html; charset=utf-8").send(page);
}

console.log(`An auth service on Fastify: ${await app.listen({ port: Number(PORT), host: "127.0.0.1" })}`);
onShutdown(app.server, async () => {
  await app.close();
  await service.close();
});
