/**
 * An auth service on Express 5: login, logout, "my devices" with "log out everywhere", health, graceful shutdown.
 *
 * Start: `npx pnpm@12 example:express`, then http://localhost:3000.
 */
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { createSessionId } from "@sealed-session/core";
import { expressStore } from "@sealed-session/express";
import express, { type RequestHandler } from "express";
import session, { type SessionData } from "express-session";
import { deviceOf, isForeign, type Login, userOf } from "./auth-site/login.js";
import { devicesPage, errorPage, homePage, loginPage, refusedPage } from "./auth-site/pages.js";
import { IDLE_SECONDS, onShutdown, openService } from "./auth-site/service.js";

declare module "express-session" {
  interface SessionData extends Partial<Login> {
    visits?: number;
  }
}

const service = await openService<SessionData>();
const { sessions } = service;
// In production the secret comes from where your other secrets are; and behind a proxy that ends TLS, set "trust proxy" to its address.
const { COOKIE_SECRET = "for development", PORT = "3000" } = process.env;

const app = express();
app.use((request, response, next) => {
  response.set("cache-control", "no-store");
  if (request.method === "POST" && isForeign(request.headers)) response.status(403).send(refusedPage());
  else next();
});
app.use(express.urlencoded({ extended: false }));
// Before the sessions: it must answer while Redis does not.
app.get("/health", async (_request, response) => {
  const health = await service.health();
  response.status(health.ok ? 200 : 503).json(health);
});
app.use(
  session({
    store: expressStore(sessions, { expiry: "idle" }),
    // 256 random bits.
    genid: () => createSessionId(),
    secret: COOKIE_SECRET,
    resave: false,
    saveUninitialized: false,
    rolling: true,
    // Lax: a form on another site cannot post with this cookie.
    cookie: { maxAge: 1000 * IDLE_SECONDS, httpOnly: true, sameSite: "lax", secure: "auto" },
  }),
);

const loggedIn: RequestHandler = (request, response, next) => {
  if (request.session.userId === undefined) response.redirect(303, "/login");
  else next();
};

app.get("/login", (_request, response) => {
  response.send(loginPage(false));
});
app.post("/login", async (request, response) => {
  const user = await userOf(request.body);
  if (user === undefined) {
    response.status(401).send(loginPage(true));
    return;
  }
  // Another id than before the login: whoever knew that one knows nothing (session fixation).
  await new Promise<void>((resolve, reject) =>
    request.session.regenerate((error) => (error ? reject(error) : resolve())),
  );
  const device = deviceOf(request.get("user-agent"), request.ip);
  Object.assign(request.session, { ...user, device, visits: 0 });
  // express-session answers before it saves. A login must not seem to have succeeded when it did not.
  await new Promise<void>((resolve, reject) => request.session.save((error) => (error ? reject(error) : resolve())));
  response.redirect(303, "/");
});
app.get("/", loggedIn, (request, response) => {
  request.session.visits = (request.session.visits ?? 0) + 1;
  response.send(homePage(request.session as Login, request.session.visits));
});
app.post("/logout", (request, response, next) => {
  request.session.destroy((error) => (error ? next(error) : response.redirect(303, "/login")));
});

app.get("/devices", loggedIn, async (request, response) => {
  response.send(devicesPage(await sessions.listFor(request.session.userId as string, { current: request.sessionID })));
});
app.post("/devices/end", loggedIn, async (request, response) => {
  await sessions.destroyFor(request.session.userId as string, String(request.body?.handle));
  response.redirect(303, "/devices");
});
app.post("/devices/end-others", loggedIn, async (request, response) => {
  await sessions.destroyAllFor(request.session.userId as string, { except: request.sessionID });
  response.redirect(303, "/devices");
});
app.post("/devices/end-all", loggedIn, async (request, response) => {
  await sessions.destroyAllFor(request.session.userId as string);
  response.redirect(303, "/login");
});

// An outage is not a logout: the cookie stays, and the next request may succeed.
const failed: express.ErrorRequestHandler = (error, _request, response, next) => {
  if (response.headersSent) {
    next(error);
    return;
  }
  if (error.status >= 400 && error.status < 500) {
    response.status(error.status).send(refusedPage());
    return;
  }
  console.error(error);
  response.status(503).send(errorPage());
};
app.use(failed);

const server = app.listen(Number(PORT));
await once(server, "listening");
console.log(`An auth service on Express: http://localhost:${(server.address() as AddressInfo).port}`);
onShutdown(server, async () => {
  server.close();
  await once(server, "close");
  await service.close();
});
