import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { type RedisCluster, startRedisCluster, untilNothingMissing } from "@sealed-session/test/servers";
import type { BrowserContext, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { runJson } from "../cli/command.js";
import { openBrowser } from "../docs/browser.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const screenshots = join(root, "test/output/examples");
const INSTALL_TIMEOUT_MS = 600_000;
const EXAMPLES = ["express-auth", "fastify-auth"] as const;

/** An example as a process of its own. */
interface Running {
  readonly origin: string;
  readonly child: ChildProcess;
  readonly ended: Promise<number | null>;
}

describe.each(EXAMPLES)("the example %s, in a browser", (example) => {
  let folder: string;
  let cluster: RedisCluster;
  let running: Running;
  let first: BrowserContext;
  let second: BrowserContext;
  let page: Page;
  let other: Page;
  /** What a user must never meet. */
  const incidents: string[] = [];

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "auth-site-"));
    mkdirSync(screenshots, { recursive: true });
    cluster = await startRedisCluster();
    running = await start(example, cluster, folder);
    [first, second] = [await openBrowser(join(folder, "first")), await openBrowser(join(folder, "second"))];
    for (const context of [first, second]) {
      context.on("response", (response) => {
        if (response.status() >= 500) incidents.push(`${response.url()}: ${response.status()}`);
      });
      context.on("weberror", (error) => incidents.push(`uncaught: ${error.error()}`));
    }
    [page, other] = [await first.newPage(), await second.newPage()];
  }, INSTALL_TIMEOUT_MS);

  afterAll(async () => {
    await first?.close();
    await second?.close();
    running?.child.kill("SIGKILL");
    await running?.ended;
    await cluster?.stop();
    if (folder) rmSync(folder, { recursive: true, force: true });
  });

  const logIn = async (tab: Page, name: string, password = `${name}'s password`) => {
    await tab.goto(running.origin);
    await tab.getByLabel("Name").fill(name);
    await tab.getByLabel("Password").fill(password);
    await tab.getByRole("button", { name: "Log in" }).click();
  };
  /** Waits for a page: a click has only begun to lead there. */
  const arrive = (tab: Page, heading: string) => tab.getByRole("heading", { name: heading, exact: true }).waitFor();
  const shot = (tab: Page, name: string) => tab.screenshot({ path: join(screenshots, `${example}-${name}.png`) });
  const cookieOf = async (context: BrowserContext) => (await context.cookies())[0]?.value;

  it("refuses a wrong password, and lets the right one in, with another session id", async () => {
    await logIn(page, "alice", "guessed");
    await page.getByText("do not go together").waitFor();
    expect(await cookieOf(first)).toBeUndefined();
    await shot(page, "login");
    await logIn(page, "alice");
    await arrive(page, "Hello alice");
    expect(await page.locator("#roles").textContent()).toBe("admin");
    expect(await page.locator("#visits").textContent()).toBe("1");
    await shot(page, "home");
  });

  it("keeps the user logged in while the keys are rotated", async () => {
    const cookie = await cookieOf(first);
    const published = await runJson(["rotate", "key", "--now"], { cwd: folder });
    const { code, document } = await runJson<{ rotation: { counts: object } }>(["rotate", "sessions"], { cwd: folder });
    expect([published.code, code]).toEqual([0, 0]);
    expect(document.rotation.counts).toMatchObject({ examined: 1, resealed: 1 });
    await page.reload();
    expect(await page.locator("#visits").textContent()).toBe("2");
    expect(await cookieOf(first)).toBe(cookie);
  });

  it("shows both browsers of the user among the devices, and not those of others", async () => {
    await logIn(other, "bob");
    await arrive(other, "Hello bob");
    await other.getByRole("button", { name: "Log out" }).click();
    await arrive(other, "Log in");
    await logIn(other, "alice");
    await arrive(other, "Hello alice");
    await page.getByRole("link", { name: "My devices" }).click();
    await arrive(page, "My devices");
    expect(await page.locator(".device").count()).toBe(2);
    expect(await page.locator(".device").first().textContent()).toContain("Chrome");
    expect(await page.getByText("this one").count()).toBe(1);
    await shot(page, "devices");
  });

  it("logs out everywhere from the second browser, and the first is logged out", async () => {
    await other.goto(`${running.origin}/devices`);
    await other.getByRole("button", { name: "Log out everywhere", exact: true }).click();
    await arrive(other, "Log in");
    await page.goto(running.origin);
    await arrive(page, "Log in");
    await shot(page, "logged-out");
    expect(await sessionsIn(cluster)).toBe(0);
  });

  it("logs out one device, and the others of the user", async () => {
    await logIn(page, "alice");
    await arrive(page, "Hello alice");
    await logIn(other, "alice");
    await arrive(other, "Hello alice");
    await page.goto(`${running.origin}/devices`);
    await page.locator(".device").getByRole("button", { name: "Log out" }).click();
    await expect.poll(() => page.locator(".device").count()).toBe(1);
    await other.reload();
    await arrive(other, "Log in");
    await logIn(other, "alice");
    await arrive(other, "Hello alice");
    await page.reload();
    expect(await page.locator(".device").count()).toBe(2);
    await page.getByRole("button", { name: "Log out everywhere else" }).click();
    await expect.poll(() => page.locator(".device").count()).toBe(1);
    await other.reload();
    await arrive(other, "Log in");
  });

  it("refuses a form of another site, and one that is none, without an error of its own", async () => {
    const post = (body: string | undefined, headers: Record<string, string>) =>
      fetch(`${running.origin}/login`, {
        method: "POST",
        redirect: "manual",
        headers,
        ...(body !== undefined && { body }),
      });
    const form = { "content-type": "application/x-www-form-urlencoded" };
    const right = new URLSearchParams({ name: "alice", password: "alice's password" }).toString();
    const foreign = await post(right, { ...form, "sec-fetch-site": "cross-site" });
    expect([foreign.status, foreign.headers.get("set-cookie")]).toEqual([403, null]);
    expect((await post(undefined, {})).status).toBe(401);
    expect((await post("name[a]=1", form)).status).toBe(401);
    expect((await post("x".repeat(2_000_000), form)).status).toBe(413);
  });

  it("says that it is healthy, and ends when it is told to", async () => {
    const health = await fetch(`${running.origin}/health`);
    expect({ status: health.status, body: await health.json() }).toEqual({
      status: 200,
      body: { ok: true, redis: "up", keys: "at hand" },
    });
    expect(incidents).toEqual([]);
    running.child.kill("SIGTERM");
    expect(await running.ended).toBe(0);
  });
});

/** Starts an example on a cluster that is there, and writes the configuration of the command that fits it. */
async function start(example: string, cluster: RedisCluster, folder: string): Promise<Running> {
  const nodes = cluster.addresses().map(({ host, port }) => `${host}:${port}`);
  const keyFile = join(folder, "development.key");
  const child = spawn(process.execPath, ["--import", "tsx", join(root, `docs/examples/${example}.ts`)], {
    cwd: root,
    env: { ...process.env, REDIS_NODES: nodes.join(","), KEY_FILE: keyFile, PORT: "0" },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "close").then(([code]) => code as number | null);
  let said = "";
  child.stdout?.setEncoding("utf8").on("data", (text: string) => {
    said += text;
  });
  const address = /http:\/\/(?:localhost|127\.0\.0\.1|\[::1\]):(\d+)/;
  await untilNothingMissing("the example", () => {
    if (child.exitCode !== null) throw new Error(`the example has ended: ${said}`);
    return address.test(said) ? undefined : said;
  });
  writeFileSync(
    join(folder, "sealed-session.config.json"),
    JSON.stringify({
      redis: { nodes },
      ring: { name: "web", kms: { type: "local", keyFile } },
      sessions: { absoluteSeconds: 30 * 86_400, idleSeconds: 7 * 86_400 },
    }),
  );
  return { origin: `http://127.0.0.1:${address.exec(said)?.[1]}`, child, ended };
}

async function sessionsIn(cluster: RedisCluster): Promise<number> {
  const { Cluster } = await import("ioredis");
  const redis = new Cluster(cluster.addresses());
  await redis.ping();
  const keys = await Promise.all(redis.nodes("master").map((node) => node.keys("session:*")));
  redis.disconnect();
  return keys.flat().length;
}
