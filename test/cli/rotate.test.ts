import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { storedIdOf } from "@sealed-session/core";
import { untilNothingMissing } from "@sealed-session/test/servers";
import { Cluster } from "ioredis";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { runCommand, runJson, startCommand } from "./command.js";
import { type Application, KINDS, POLICY, REFRESH_MS, type Servers, startApplication } from "./deployment.js";

interface StatusDocument {
  readonly keys: readonly {
    readonly keyId: string;
    readonly state: string;
    readonly sessions: number;
    readonly kms: readonly string[];
  }[];
  readonly sessions: { readonly total: number; readonly isSample: boolean };
}

interface RotationDocument {
  readonly rotation: {
    readonly keyId: string;
    readonly isInterrupted: boolean;
    readonly isResumed: boolean;
    readonly counts: Readonly<Record<string, number>>;
  };
}

interface ErrorDocument {
  readonly error: { readonly code: string; readonly message: string };
}

for (const { name, start } of KINDS) {
  describe(`sealed-session rotate on ${name}`, () => {
    let servers: Servers;
    let application: Application;
    beforeAll(async () => {
      servers = await start();
    });
    beforeEach(async () => {
      application = await startApplication(servers, { refreshIntervalMs: REFRESH_MS });
    });
    afterEach(() => application.close());
    afterAll(() => servers.stop());

    const at = (env: Record<string, string> = {}) => ({ cwd: application.folder, env });
    const status = async () => (await runJson<StatusDocument>(["rotate", "status"], at())).document;
    const currentKey = async () => (await application.ring.current()).keyId;

    it("status shows keys and sessions, and changes nothing", async () => {
      await application.create(30);
      const { document, code, stderr } = await runJson<StatusDocument>(["rotate", "status"], at());
      expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
      expect(document).toMatchObject({
        command: "rotate status",
        ring: "web",
        namespace: application.namespace,
        keys: [{ keyId: await currentKey(), state: "current", sessions: 30, kms: ["local"] }],
        sessions: { total: 30, isSample: false, noEnvelopes: 0 },
        warnings: [],
      });
      const people = await runCommand(["rotate", "status"], at());
      expect(people.stdout).toContain(`${await currentKey()}  current`);
      expect(people.stdout).toContain("30 sessions, all looked at.");
    });

    it("key publishes one that the application takes over, and waits for it", async () => {
      const old = await currentKey();
      const ended = await runJson<{ key: { keyId: string; state: string } }>(["rotate", "key", "--wait"], at());
      expect(ended).toMatchObject({ code: 0, document: { key: { state: "current" } } });
      await untilNothingMissing("the new key", async () => {
        const keyId = await currentKey();
        return keyId === ended.document.key.keyId ? undefined : `${keyId} seals`;
      });
      expect(await currentKey()).not.toBe(old);
    });

    it("plain rotate moves every session to a new key, and each still opens", async () => {
      const ids = await application.create(300);
      const old = await currentKey();
      const ended = await runJson<RotationDocument & { left: { total: number } }>(["rotate"], at());
      expect(ended).toMatchObject({
        code: 0,
        document: {
          command: "rotate all",
          rotation: { isInterrupted: false, counts: { resealed: 300, unopened: 0 } },
          left: { total: 0 },
        },
      });
      expect((await status()).keys).toMatchObject([{ sessions: 300 }, { keyId: old, sessions: 0 }]);
      expect(await application.intact(ids)).toBe(300);
    });

    it("sessions is shared out by --shard, and all parts are the whole", async () => {
      await application.create(200);
      await application.ring.publish({ delayMs: 0 });
      const parts = await Promise.all(
        [1, 2].map((part) => runJson<RotationDocument>(["rotate", "sessions", "--shard", `${part}/2`], at())),
      );
      const resealed = parts.map(({ document }) => document.rotation.counts["resealed"] as number);
      expect(resealed.every((count) => count > 50)).toBe(true);
      expect(resealed.reduce((sum, count) => sum + count)).toBe(200);
    });

    it("revoke ends the sessions under a key, says how many, and leaves the others", async () => {
      const ended = await application.create(12);
      const old = await currentKey();
      await application.ring.publish({ delayMs: 0 });
      const kept = await application.create(3);
      const refused = await runJson<ErrorDocument>(["rotate", "revoke", old], at());
      expect(refused).toMatchObject({ code: 2, document: { error: { code: "USAGE" } } });
      expect(await application.intact(ended)).toBe(12);

      const revoked = await runJson<{ sessionsDropped: number }>(["rotate", "revoke", old, "--now"], at());
      expect(revoked).toMatchObject({
        code: 0,
        document: { keyId: old, sessionsDropped: 12, currentKeyId: await currentKey() },
      });
      await application.ring.refresh();
      expect(await application.intact(ended)).toBe(0);
      expect(await application.intact(kept)).toBe(3);
    });

    it("seal takes over what connect-redis wrote, with its time to live, and leaves alone what is no session", async () => {
      const { client, sessions } = application;
      const prefix = `${application.namespace}:sess:`;
      const ids = Array.from({ length: 20 }, (_, n) => `plaintext-session-${n}`);
      for (const [n, id] of ids.entries()) await client.set(prefix + id, JSON.stringify({ n }), "PX", 3_600_000);
      await client.set(`${prefix}no-session-at-all`, "no JSON", "PX", 3_600_000);
      const args = ["rotate", "seal", "--prefix", prefix];
      const dry = await runJson(["rotate", "seal", "--prefix", prefix, "--dry-run"], at());
      expect(dry).toMatchObject({ code: 0, document: { sealing: { isDryRun: true, counts: { sealed: 20 } } } });
      expect(await sessions.get(ids[0] as string)).toBeUndefined();

      const sealed = await runJson(args, at());
      expect(sealed).toMatchObject({
        code: 3,
        document: { command: "rotate seal", sealing: { counts: { examined: 21, sealed: 20, unreadable: 1 } } },
      });
      for (const id of ids) {
        const ttlMs = await client.pttl(`${application.namespace}:session:${storedIdOf(id)}`);
        expect(ttlMs).toBeGreaterThan(3_500_000);
        expect(ttlMs).toBeLessThanOrEqual(3_600_000);
        expect(await client.get(prefix + id)).toBe("null");
      }
      expect(await application.intact(ids)).toBe(20);
      expect(await client.get(`${prefix}no-session-at-all`)).toBe("no JSON");
      expect((await runJson(args, at())).document).toMatchObject({ sealing: { counts: { sealed: 0 } } });
    });

    it("goes on after kill -9 where its checkpoint stood, and every session opens afterwards", async () => {
      const ids = await application.create(1500);
      await application.ring.publish({ delayMs: 0 });
      const checkpoint = join(application.folder, "run.json");
      const args = ["rotate", "sessions", "--checkpoint", checkpoint];
      const first = startCommand([...args, "--rate", "600"], at());
      await untilNothingMissing("the checkpoint", () => (existsSync(checkpoint) ? undefined : "it"));
      first.child.kill("SIGKILL");
      expect((await first.ended).code).toBeNull();
      const { keyId, counts } = JSON.parse(readFileSync(checkpoint, "utf8")) as {
        keyId: string;
        counts: { examined: number };
      };
      expect(keyId).toBe(await currentKey());
      expect(counts.examined).toBeLessThan(1500);

      const second = await runJson<RotationDocument>(args, at());
      expect(second).toMatchObject({ code: 0, document: { rotation: { isResumed: true, isInterrupted: false } } });
      expect(second.stderr).toContain(
        `Going on from ${checkpoint}: ${counts.examined.toLocaleString("en-US")} sessions`,
      );
      expect(existsSync(checkpoint)).toBe(false);
      expect((await status()).keys).toMatchObject([{ keyId, sessions: 1500 }, { sessions: 0 }]);
      expect(await application.intact(ids)).toBe(1500);
    });

    it("ends cleanly with 130 and a report at Ctrl-C, and goes on from there", async () => {
      await application.create(1500);
      await application.ring.publish({ delayMs: 0 });
      const checkpoint = join(application.folder, "run.json");
      const args = ["rotate", "sessions", "--json", "--checkpoint", checkpoint];
      const running = startCommand([...args, "--rate", "1000"], at());
      await untilNothingMissing("the checkpoint", () => (existsSync(checkpoint) ? undefined : "it"));
      running.child.kill("SIGINT");
      const { code, stdout, stderr } = await running.ended;
      expect(code).toBe(130);
      expect(stderr).toContain("Ending after what is under way; once more to end at once.");
      const { rotation } = JSON.parse(stdout) as RotationDocument;
      expect(rotation.isInterrupted).toBe(true);
      expect(rotation.counts["resealed"]).toBeLessThan(1500);

      await application.ring.publish({ delayMs: 0 });
      const refused = await runJson<ErrorDocument>(args, at());
      expect(refused).toMatchObject({ code: 2, document: { error: { code: "CHECKPOINT_REFUSED" } } });
      expect(refused.document.error.message).toContain("another target key");
    });

    it("ends at once at the second Ctrl-C", async () => {
      await application.create(3000);
      await application.ring.publish({ delayMs: 0 });
      const redis = servers.connect();
      await redis.ping();
      const nodes = redis instanceof Cluster ? redis.nodes("master") : [redis];
      const checkpoint = join(application.folder, "run.json");
      const running = startCommand(["rotate", "sessions", "--rate", "200", "--checkpoint", checkpoint], at());
      await untilNothingMissing("the checkpoint", () => (existsSync(checkpoint) ? undefined : "it"));
      for (const node of nodes) await node.client("PAUSE", 60_000, "WRITE");
      await untilNothingMissing("a command that waits", async () => {
        const clients = await Promise.all(nodes.map((node) => node.client("LIST")));
        return clients.some((text) => /flags=b.* cmd=evalsha/.test(String(text))) ? undefined : "it";
      });
      running.child.kill("SIGINT");
      await untilNothingMissing("the answer", () =>
        running.stderr().includes("once more") ? undefined : running.stderr(),
      );
      // What comes sooner is the same keystroke, passed on by npx.
      const again = setInterval(() => running.child.kill("SIGINT"), 100);
      const { code, stdout } = await running.ended;
      clearInterval(again);
      // Without a report: nothing was waited for.
      expect({ code, stdout }).toEqual({ code: 130, stdout: "" });
      for (const node of nodes) await node.client("UNPAUSE");
      redis.disconnect();
    });
  });

  describe(`sealed-session rotate retire on ${name}`, () => {
    let servers: Servers;
    let application: Application;
    beforeAll(async () => {
      servers = await start();
      application = await startApplication(servers, POLICY);
    });
    afterAll(async () => {
      await application.close();
      await servers.stop();
    });

    it("refuses while a key is in use, and then gives a receipt for its end", async () => {
      const run = <T>(...args: readonly string[]) => runJson<T>(["rotate", ...args], { cwd: application.folder });
      const { keyId } = await application.ring.current();
      const ids = await application.create(5);
      const young = await run<ErrorDocument>("retire", keyId);
      expect(young).toMatchObject({ code: 3, document: { error: { code: "KEY_IN_USE" } } });
      expect(young.stderr).toContain("The key can retire from");

      await run("key", "--now", "--wait");
      // The sealing age of the old key passes.
      let inUse = young;
      await untilNothingMissing("the end of the sealing age", async () => {
        inUse = await run<ErrorDocument>("retire", keyId);
        return inUse.document.error.message.includes("5 sessions") ? undefined : inUse.document.error.message;
      });
      expect(inUse).toMatchObject({ code: 3, document: { error: { code: "KEY_IN_USE" } } });

      await run("key", "--now", "--wait");
      expect(await run("sessions")).toMatchObject({ code: 0, document: { rotation: { counts: { resealed: 5 } } } });
      const retired = await run<{ receipt: { commitment: string } }>("retire", keyId);
      expect(retired).toMatchObject({
        code: 0,
        document: { receipt: { keyId, sessions: 0, counted: 5, how: "tombstone", removedWraps: ["local"] } },
      });
      expect(retired.document.receipt.commitment).toMatch(/^[\w-]{43}$/);
      expect(retired.document.receipt.commitment.startsWith(keyId)).toBe(true);

      await application.ring.refresh();
      expect(application.ring.status().find((key) => key.keyId === keyId)).toMatchObject({ state: "retired", kms: [] });
      expect(await application.intact(ids)).toBe(5);
    });
  });
}

describe("sealed-session, where something is wrong", () => {
  let servers: Servers;
  let application: Application;
  beforeAll(async () => {
    servers = await (KINDS[0] as (typeof KINDS)[number]).start();
    application = await startApplication(servers);
  });
  afterAll(async () => {
    await application.close();
    await servers.stop();
  });
  const SECRET = "hunter2-hunter2";
  const at = (env: Record<string, string> = {}) => ({ cwd: application.folder, env });
  const refusal = async (args: readonly string[], env: Record<string, string> = {}) => {
    const ended = await runJson<ErrorDocument>(args, at(env));
    expect(ended.stdout + ended.stderr).not.toContain(SECRET);
    return { code: ended.code, error: ended.document.error };
  };

  it("ends with 1 when Redis cannot be reached", async () => {
    expect(await refusal(["rotate", "status", "--redis-url", "redis://127.0.0.1:1"])).toMatchObject({
      code: 1,
      error: { code: "REDIS_UNREACHABLE", message: expect.stringContaining("ECONNREFUSED") },
    });
    expect(await refusal(["rotate", "status", "--redis-nodes", "127.0.0.1:1"])).toMatchObject({
      code: 1,
      error: { code: "REDIS_UNREACHABLE" },
    });
  });

  it("takes user and password of the environment, and repeats none that is wrong", async () => {
    const admin = servers.connect();
    await admin.call("ACL", "SETUSER", "rotate", "on", `>${SECRET}`, "~*", "+@all");
    admin.disconnect();
    const user = { SEALED_SESSION_REDIS_USERNAME: "rotate" };
    expect((await runCommand(["rotate", "status"], at({ ...user, SEALED_SESSION_REDIS_PASSWORD: SECRET }))).code).toBe(
      0,
    );
    expect(await refusal(["rotate", "status"], { ...user, SEALED_SESSION_REDIS_PASSWORD: `${SECRET}!` })).toMatchObject(
      {
        code: 1,
        error: { code: "REDIS_UNREACHABLE", message: expect.stringContaining("WRONGPASS") },
      },
    );
  });

  it.each([
    ["a command that does not exist", ["rotate", "everything"], "USAGE"],
    ["a password as a flag", ["rotate", "status", `--redis-password=${SECRET}`], "USAGE"],
    ["a password in the URL of a flag", ["rotate", "status", "--redis-url", `redis://:${SECRET}@127.0.0.1:1`], "USAGE"],
    ["a wrong field", ["rotate", "status", "--ring-rotation-period-ms", SECRET], "CONFIG_INVALID"],
    ["a field that does not go with another", ["rotate", "status", "--ring-max-sealing-age-ms", "1"], "CONFIG_INVALID"],
    ["a configuration file that is not there", ["rotate", "status", "--config", "missing.ts"], "CONFIG_UNREADABLE"],
    ["a key that the ring does not have", ["rotate", "retire", "-AAAAAAAAAAAAAAA"], "KEY_UNKNOWN"],
  ])("ends with 2 for %s, and says so in one document", async (_, args, code) => {
    expect(await refusal(args)).toMatchObject({ code: 2, error: { code } });
  });

  it.each([
    ["broken.json", `{ "redis": { "password": "${SECRET}" "x" } }`],
    ["broken.mjs", `export default { redis: { password: "${SECRET}" "x" } };`],
    ["broken.ts", `export default { redis: { password: "${SECRET}" "x" } };`],
  ])("ends with 2 for a file that cannot be parsed, without its text: %s", async (name, text) => {
    writeFileSync(join(application.folder, name), text);
    expect(await refusal(["rotate", "status", "--config", name])).toMatchObject({
      code: 2,
      error: { code: "CONFIG_UNREADABLE", message: expect.stringContaining("cannot be parsed") },
    });
  });
});
