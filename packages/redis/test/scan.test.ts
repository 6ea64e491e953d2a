import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { hasCode } from "@sealed-session/core";
import { describe, it } from "vitest";
import { FingerprintSet } from "../src/fingerprint-set.js";
import { escapeGlob } from "../src/redis-key.js";
import { redisStore } from "../src/redis-store.js";
import { type Answer, fakeRedis, replyError } from "./fake-redis.js";

/** A server whose SCAN returns `pages`; `onPage` may interfere before a page is returned. */
function scanServer(
  pages: readonly (readonly string[])[],
  onPage: (page: number, calls: number) => unknown = () => {},
) {
  let runId = 1;
  let calls = 0;
  const commands: (readonly unknown[])[] = [];
  const answer: Answer = async (command, args) => {
    commands.push([command, ...args]);
    if (command === "info") return `# Server\r\nredis_version:7.0.15\r\nrun_id:${String(runId).repeat(40)}\r\n`;
    const page = Number(args[0]);
    const error = await onPage(page, ++calls);
    if (error instanceof Error) return error;
    const next = page + 1 < pages.length ? page + 1 : 0;
    return [Buffer.from(String(next)), (pages[page] ?? []).map((id) => Buffer.from(`session:${id}`))];
  };
  return { client: fakeRedis(answer), commands, restart: () => runId++ };
}

async function scanned(client: ReturnType<typeof fakeRedis>): Promise<string[]> {
  const met: string[] = [];
  for await (const id of redisStore(client, { failoverTimeoutMs: 1 }).scan()) met.push(id);
  return met;
}

describe("scan of one Redis", () => {
  it("meets an id once that SCAN returns several times", async () => {
    const { client } = scanServer([["a", "b", "a"], [], ["b", "c"], ["a"]]);
    assert.deepEqual(await scanned(client), ["a", "b", "c"]);
  });

  it("asks for its own keys alone", async () => {
    const { client, commands } = scanServer([["a"]]);
    await scanned(client);
    const scans = commands.filter(([command]) => command === "scanBuffer");
    assert.deepEqual(scans, [["scanBuffer", "0", "MATCH", "session:*", "COUNT", 512]]);
  });

  it("begins again when the server was started anew, whose cursors are others", async () => {
    const pages = [
      ["a", "b"],
      ["c", "d"],
    ];
    const { client, commands, restart } = scanServer(pages, (_, calls) => {
      if (calls === 2) restart();
    });
    assert.deepEqual(await scanned(client), ["a", "b", "c", "d"]);
    assert.deepEqual(
      commands.filter(([command]) => command === "scanBuffer").map(([, cursor]) => cursor),
      ["0", "1", "0", "1"],
    );
  });

  it("begins again when a page failed, and meets no id twice", async () => {
    const { client } = scanServer([["a", "b"], ["c"]], (_, calls) =>
      calls === 2 ? new Error("Connection is closed.") : undefined,
    );
    assert.deepEqual(await scanned(client), ["a", "b", "c"]);
  });

  it("gives up on a server on which pages fail again and again", async () => {
    const { client, commands } = scanServer([["a"]], () => new Error("Connection is closed."));
    await assert.rejects(scanned(client), (error: unknown) => hasCode(error, "STORE_UNAVAILABLE"));
    assert.equal(commands.filter(([command]) => command === "scanBuffer").length, 21);
  });

  it("does without INFO where it is not allowed", async () => {
    const { client } = scanServer([["a"]]);
    const answer: Answer = (command, args) =>
      command === "info"
        ? replyError("NOPERM this user has no permissions to run the 'info' command", command, args)
        : client.scanBuffer("0", "MATCH", "session:*", "COUNT", 512);
    assert.deepEqual(await scanned(fakeRedis(answer)), ["a"]);
  });
});

describe("FingerprintSet", () => {
  it("knows what was added and nothing else, while it grows", () => {
    const set = new FingerprintSet();
    const texts = Array.from({ length: 100_000 }, (_, index) =>
      createHash("md5").update(String(index)).digest("base64url"),
    );
    assert.ok(texts.every((text) => set.add(text)));
    assert.ok(texts.every((text) => !set.add(text)));
    assert.equal(set.add("another"), true);
  });

  it("tells texts apart that begin alike", () => {
    const set = new FingerprintSet();
    const prefix = "a".repeat(500);
    for (let index = 0; index < 100; index++) assert.equal(set.add(`${prefix}${index}`), true);
  });
});

describe("escapeGlob", () => {
  it("leaves no character with a meaning of its own", () => {
    assert.equal(escapeGlob("a*b?c[d]e\\f^g-h"), "a\\*b\\?c\\[d\\]e\\\\f^g-h");
  });
});
