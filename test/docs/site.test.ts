import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import type { BrowserContext, Page } from "playwright-core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openBrowser } from "./browser.js";
import { type Site, serveSite } from "./serve-site.js";

const root = fileURLToPath(new URL("../..", import.meta.url));
const screenshots = join(root, "test/output/docs");
const INSTALL_TIMEOUT_MS = 600_000;

let folder: string;
let built: string;
let site: Site;
let browser: BrowserContext;
let page: Page;
/** What a reader must never cause: requests to others, failed ones, and errors on the console. */
const incidents: string[] = [];

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "sealed-session-site-"));
  built = join(folder, "site");
  mkdirSync(screenshots, { recursive: true });
  const typedoc = join(root, "node_modules/typedoc/bin/typedoc");
  await promisify(execFile)(process.execPath, [typedoc, "--out", built], { cwd: root });
  site = await serveSite(built);
  browser = await openBrowser(join(folder, "profile"));
  browser.on("request", (request) => {
    if (!request.url().startsWith(site.origin)) incidents.push(`a request to ${request.url()}`);
  });
  browser.on("requestfailed", (request) => incidents.push(`${request.url()}: ${request.failure()?.errorText}`));
  browser.on("response", (response) => {
    if (response.status() >= 400) incidents.push(`${response.url()}: ${response.status()}`);
  });
  browser.on("console", (message) => {
    if (message.type() === "error" || message.type() === "warning") incidents.push(`console: ${message.text()}`);
  });
  browser.on("weberror", (error) => incidents.push(`uncaught: ${error.error()}`));
  page = await browser.newPage();
}, INSTALL_TIMEOUT_MS);

afterAll(async () => {
  await browser?.close();
  await site?.close();
  if (folder) rmSync(folder, { recursive: true, force: true });
});

describe("the documentation site, in a browser", () => {
  it("opens with the README under the project's name", async () => {
    await page.goto(site.origin);
    expect(await page.title()).toBe("sealed-session");
    const content = page.locator(".col-content");
    const readme = readFileSync(join(root, "README.md"), "utf8");
    const headings = [...readme.matchAll(/^##? (.+)$/gm)].map(([, heading]) => heading);
    expect((await content.locator("h1, h2").allInnerTexts()).map((text) => text.trim())).toEqual(headings);
    expect(await content.locator("pre code.ts").first().textContent()).toContain("new SessionStore<Session>");
    expect(await content.getByText("flowchart LR").isVisible()).toBe(false);
    await shoot("front");
  });

  it("opens a guide from the navigation", async () => {
    await page
      .locator(".site-menu")
      .getByRole("link", { name: /\bErrors$/ })
      .click();
    await page.waitForURL("**/documents/Errors.html");
    expect(await page.title()).toBe("Errors | sealed-session");
    const row = page.getByRole("row", { name: /^STORE_CONFLICT/ });
    expect(await row.isVisible()).toBe(true);
    await shoot("guide");
  });

  it("finds SessionStore and goes to its page", async () => {
    const result = (await search("SessionStore")).first();
    await result.waitFor();
    expect((await result.textContent())?.trim()).toMatch(/\.SessionStore$/);
    await shoot("search", false);
    await result.click();
    await page.waitForURL("**/classes/*SessionStore.html");
    expect(await page.getByRole("heading", { level: 1 }).textContent()).toContain("SessionStore");
    expect(await page.locator("#regenerate").isVisible()).toBe(true);
    await shoot("class");
  });

  it("finds the guide on errors by a code", async () => {
    await (await search("STORE_CONFLICT")).filter({ hasText: "Errors" }).first().click();
    await page.waitForURL("**/documents/Errors.html");
  });

  it("is readable on a narrow screen and in the dark", async () => {
    await page.setViewportSize({ width: 400, height: 800 });
    await page.emulateMedia({ colorScheme: "dark" });
    await page.goto(`${site.origin}/documents/Getting_started.html`);
    const overflow = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth");
    expect(overflow).toBeLessThanOrEqual(0);
    await shoot("narrow");
  });

  it("asks nobody but its own server, and fails at nothing", () => {
    expect(incidents).toEqual([]);
  });
});

describe("the documentation site, as files", () => {
  const pages = () =>
    new Map(
      readdirSync(built, { recursive: true, encoding: "utf8" })
        .filter((path) => path.endsWith(".html"))
        .map((path) => [`/${path.replaceAll("\\", "/")}`, readFileSync(join(built, path), "utf8")]),
    );

  it("has no link that leads nowhere", () => {
    const all = pages();
    expect(all.size).toBeGreaterThan(50);
    const broken: string[] = [];
    for (const [path, html] of all) {
      for (const [, href] of html.matchAll(/<a\b[^>]*? href="([^"]*)"/g)) {
        const url = new URL((href as string).replaceAll("&amp;", "&"), `http://site${path}`);
        if (url.host !== "site") continue;
        // Examples lie beside the pages as files.
        if (url.pathname.startsWith("/media/") && existsSync(join(built, decodeURIComponent(url.pathname)))) continue;
        const target = all.get(decodeURIComponent(url.pathname));
        const fragment = decodeURIComponent(url.hash.slice(1));
        if (target === undefined || (fragment !== "" && !target.includes(`id="${fragment}"`)))
          broken.push(`${path}: ${href}`);
      }
    }
    expect(broken).toEqual([]);
  });

  it("loads no style, script, font or picture from elsewhere", () => {
    for (const [path, html] of pages()) {
      const loaded = [...html.matchAll(/<(?:script|link|img|iframe|use)\b[^>]*? (?:src|href)="([^"]*)"/g)];
      expect(
        loaded.map(([, url]) => url).filter((url) => /^(?:[a-z]+:)?\/\//i.test(url as string)),
        path,
      ).toEqual([]);
    }
  });
});

/** @returns what the search on the front page finds. */
async function search(text: string) {
  await page.goto(site.origin);
  await page.locator("#tsd-search-trigger").click();
  // It says so while it still prepares its index.
  await page.locator("#tsd-search-status:empty").waitFor({ state: "attached" });
  await page.locator("#tsd-search-input").pressSequentially(text);
  return page.locator("#tsd-search-results a");
}

async function shoot(name: string, fullPage = true): Promise<void> {
  await page.screenshot({ path: join(screenshots, `${name}.png`), fullPage });
}
