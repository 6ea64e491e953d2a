/**
 * The pages of the auth services, as HTML without scripts.
 */
import type { PrincipalSession } from "@sealed-session/core";
import type { Device, Login } from "./login.js";

const STYLE = `
body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 3rem auto; padding: 0 1rem; color: #1c2733; background: #f6f8fa }
main { background: #fff; border: 1px solid #d9e0e7; border-radius: 12px; padding: 1.5rem 2rem }
h1 { font-size: 1.4rem } form { display: inline } label { display: block; margin: .7rem 0 }
input { font: inherit; padding: .4rem .6rem; width: 16rem; max-width: 100%; border: 1px solid #aab7c4; border-radius: 6px; display: block }
button { font: inherit; padding: .4rem .9rem; border: 0; border-radius: 6px; background: #1f5fbf; color: #fff; cursor: pointer } button.quiet { background: #5b6b7b }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 } th, td { text-align: left; padding: .45rem .6rem; border-bottom: 1px solid #e6ebf0 }
.wrong { color: #b3261e } .note { color: #5b6b7b }`;

const ESCAPES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const text = (value: unknown) => String(value).replace(/[&<>"]/g, (character) => ESCAPES[character] ?? character);

const page = (title: string, content: string) => `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>${text(title)}</title><style>${STYLE}</style></head><body><main><h1>${text(title)}</h1>${content}</main></body></html>`;

const button = (action: string, label: string, fields: Readonly<Record<string, string>> = {}, kind = "") => {
  const hidden = Object.entries(fields).map(
    ([name, value]) => `<input type="hidden" name="${name}" value="${text(value)}">`,
  );
  return `<form method="post" action="${action}">${hidden.join("")}<button class="${kind}">${text(label)}</button></form>`;
};

/** The form; after a failed attempt it says so. */
export function loginPage(isWrong: boolean): string {
  const wrong = isWrong ? `<p class="wrong">That name and password do not go together.</p>` : "";
  return page(
    "Log in",
    `${wrong}<form method="post" action="/login">
<label>Name <input name="name" autocomplete="username" required></label>
<label>Password <input name="password" type="password" autocomplete="current-password" required></label>
<button>Log in</button></form>
<p class="note">Users of this example: <b>alice</b>, with the password <code>alice's password</code>, and <b>bob</b>, likewise.</p>`,
  );
}

/** What the user sees first. */
export function homePage({ userId, roles }: Login, visits: number): string {
  return page(
    `Hello ${userId}`,
    `<p>Roles: <b id="roles">${text(roles.join(", "))}</b>. Pages seen in this session: <b id="visits">${visits}</b>.</p>
<p class="note">All of this lies in Redis as ciphertext, under a digest of your cookie.</p>
<p><a href="/devices">My devices</a></p>${button("/logout", "Log out", {}, "quiet")}`,
  );
}

/** Where the user is logged in. */
export function devicesPage(sessions: readonly PrincipalSession[]): string {
  const rows = sessions.map(({ handle, device, loggedInAt, current }) => {
    const { browser, address } = (device ?? {}) as Partial<Device>;
    const since = loggedInAt === undefined ? "" : new Date(loggedInAt).toISOString().slice(0, 16).replace("T", " ");
    const end = current ? "this one" : button("/devices/end", "Log out", { handle }, "quiet");
    return `<tr class="device"><td>${text(browser)}</td><td>${text(address)}</td><td>${since}</td><td>${end}</td></tr>`;
  });
  return page(
    "My devices",
    `<table><tr><th>Browser</th><th>Address</th><th>Logged in (UTC)</th><th></th></tr>${rows.join("")}</table>
${button("/devices/end-others", "Log out everywhere else")} ${button("/devices/end-all", "Log out everywhere")}
<p><a href="/">Back</a></p>`,
  );
}

/** A request that makes no sense here. */
export function refusedPage(): string {
  return page("Not accepted", `<p><a href="/">Back</a></p>`);
}

/** Something failed. What it was stays with us. */
export function errorPage(): string {
  return page("Something failed", `<p>Please try again in a moment.</p>`);
}
