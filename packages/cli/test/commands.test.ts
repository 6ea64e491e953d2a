import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Kms, KmsError, rotateSessions as rotateAtOnce } from "@sealed-session/core";
import type { SealReport } from "@sealed-session/redis/rotate";
import { afterAll, describe, expect, it } from "vitest";
import { tell } from "../src/cli-error.js";
import { rotateAll } from "../src/commands/rotate-all.js";
import { rotateKey } from "../src/commands/rotate-key.js";
import { rotateRetire } from "../src/commands/rotate-retire.js";
import { rotateRevoke } from "../src/commands/rotate-revoke.js";
import { rotateRewrap } from "../src/commands/rotate-rewrap.js";
import { rotateSeal } from "../src/commands/rotate-seal.js";
import { type RotateFunction, rotateSessions } from "../src/commands/rotate-sessions.js";
import { rotateStatus } from "../src/commands/rotate-status.js";
import type { CommandResult } from "../src/terminal.js";
import { memoryDeployment, seed, testKms } from "./support/memory-deployment.js";

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;
const NONE = "AAAAAAAAAAAAAAAA";

const folder = mkdtempSync(join(tmpdir(), "sealed-session-commands-"));
afterAll(() => rmSync(folder, { recursive: true }));

type World = ReturnType<typeof memoryDeployment>;

/** What a result says to people, without colours, on so many columns. */
function shown(result: CommandResult, columns = 80): string {
  const plain = new Proxy({}, { get: () => (text: string) => text }) as never;
  return result.text(plain, columns);
}

async function told(work: Promise<unknown>) {
  return tell(
    await work.then(
      () => new Error("nothing was thrown"),
      (error: unknown) => error,
    ),
  );
}

/** Publishes another key that seals from now on. */
async function nextKey(world: World): Promise<string> {
  world.advance(1000);
  return world.ring.publish({ delayMs: 0 });
}

/** A KMS that fails as long as it is told to. */
function failing(inner: Kms, fault: { error: KmsError | undefined }): Kms {
  const guard =
    <T extends unknown[], R>(call: (...args: T) => Promise<R>) =>
    async (...args: T) => {
      if (fault.error !== undefined) throw fault.error;
      return call(...args);
    };
  return {
    name: inner.name,
    generate: guard((...args) => inner.generate(...args)),
    wrap: guard((...args) => inner.wrap(...args)),
    unwrap: guard((...args) => inner.unwrap(...args)),
  };
}

describe("rotate key", () => {
  it("publishes a key, and says from when on it seals", async () => {
    const world = memoryDeployment();
    const first = await seed(world, 1);
    const result = await rotateKey(world.deployment, { now: false, wait: false }, world.context);
    const { key } = result.document as { key: Record<string, unknown> };
    expect(key).toMatchObject({
      state: "pre-active",
      activatesAt: new Date(world.now() + 2 * MINUTE_MS).toISOString(),
      kms: ["local"],
    });
    expect(key["keyId"]).not.toBe(first);
    expect(shown(result)).toContain("seals from  2026-01-01 00:02:00 UTC, in 2 min");
    expect(result.exitCode).toBe(0);
  });

  it("publishes one that seals at once with --now", async () => {
    const world = memoryDeployment();
    await seed(world, 1);
    world.advance(1000);
    const { document } = await rotateKey(world.deployment, { now: true, wait: false }, world.context);
    expect(document).toMatchObject({
      key: { state: "current", activatesAt: new Date(world.now()).toISOString() },
    });
  });

  it("waits until it seals with --wait", async () => {
    const world = memoryDeployment();
    await seed(world, 1);
    const startedAt = world.now();
    const { document } = await rotateKey(world.deployment, { now: false, wait: true }, world.context);
    expect(document).toMatchObject({ key: { state: "current" } });
    expect(world.now() - startedAt).toBeGreaterThanOrEqual(2 * MINUTE_MS);
    expect(world.stderr()).toContain("Waiting until the key seals everywhere, at 2026-01-01 00:02:00 UTC.");
  });

  it("publishes the first one", async () => {
    const world = memoryDeployment();
    await rotateKey(world.deployment, { now: true, wait: true }, world.context);
    expect(world.deployment.ring.status()).toMatchObject([{ state: "current" }]);
  });

  it("tells of a KMS that does not wrap it", async () => {
    const fault = { error: new KmsError("KMS_UNREACHABLE", "no answer", { kms: "far" }) };
    const world = memoryDeployment({ kms: [testKms("near"), failing(testKms("far"), fault)] });
    await rotateKey(world.deployment, { now: true, wait: false }, world.context);
    expect(world.stderr()).toMatch(/warning: the KMS far does not wrap key [\w-]{16}: it failed/);
  });

  it("fails with the KMS's reason and its request id", async () => {
    const error = new KmsError("KMS_DENIED", "AWS KMS GenerateDataKey: AccessDeniedException, status 400", {
      kms: "local",
      requestId: "request-1",
    });
    const world = memoryDeployment({ kms: [failing(testKms(), { error })] });
    const failure = await told(rotateKey(world.deployment, { now: true, wait: false }, world.context));
    expect(failure).toEqual({
      code: "KEY_UNAVAILABLE",
      message: "ring web: no KMS makes a data key: AWS KMS GenerateDataKey: AccessDeniedException, status 400",
      requestId: "request-1",
      exitCode: 1,
    });
  });

  it("does not wait for ever for a key that somebody revokes meanwhile", async () => {
    const world = memoryDeployment();
    await seed(world, 1);
    const { context } = world;
    const sleep: typeof context.sleep = async (ms) => {
      await context.sleep(ms);
      await world.ring.refresh();
      const ahead = world.ring.status().find(({ state }) => state === "pre-active");
      if (ahead !== undefined) await world.ring.revoke(ahead.keyId);
    };
    const failure = await told(rotateKey(world.deployment, { now: false, wait: true }, { ...context, sleep }));
    expect(failure).toMatchObject({ code: "KEY_NOT_SEALING", exitCode: 1 });
    expect(failure.message).toMatch(/was revoked meanwhile/);
  });

  it("gives up on a key that no KMS opens, and says so", async () => {
    const inner = testKms();
    let refuses = false;
    const kms: Kms = {
      name: inner.name,
      generate: (...args) => inner.generate(...args),
      wrap: (...args) => inner.wrap(...args),
      unwrap: async (...args) => {
        if (refuses) throw new KmsError("KMS_DENIED", "refused", { kms: "local" });
        return inner.unwrap(...args);
      },
    };
    const world = memoryDeployment({ kms: [kms] });
    await seed(world, 1);
    await world.deployment.ring.refresh();
    refuses = true;
    const failure = await told(rotateKey(world.deployment, { now: false, wait: true }, world.context));
    expect(failure).toMatchObject({ code: "KEY_NOT_SEALING", exitCode: 1 });
    expect(failure.message).toMatch(/does not seal: no KMS has opened it/);
  });

  it("ends with 130 when it is interrupted while it waits, and tells of the key that it has published", async () => {
    const world = memoryDeployment();
    await seed(world, 1);
    world.interrupt();
    const result = await rotateKey(world.deployment, { now: false, wait: true }, world.context);
    expect(result).toMatchObject({ exitCode: 130, document: { key: { state: "pre-active" } } });
  });
});

describe("rotate status", () => {
  it("shows each key, its age against the policy, its KMSs and its sessions", async () => {
    const world = memoryDeployment();
    const old = await seed(world, 3);
    world.advance(26 * HOUR_MS);
    const current = await world.ring.publish({ delayMs: 0 });
    await world.application.create({ n: 4 });
    world.advance(3 * HOUR_MS);
    const result = await rotateStatus(world.deployment, {}, world.context);
    expect(result).toMatchObject({
      exitCode: 0,
      document: {
        policy: { rotationPeriodMs: DAY_MS, maxSealingAgeMs: 2 * DAY_MS, refreshIntervalMs: MINUTE_MS },
        keys: [
          { keyId: current, state: "current", ageMs: 3 * HOUR_MS, kms: ["local"], sessions: 1, sessionsMargin: 0 },
          { keyId: old, state: "open-only", ageMs: 29 * HOUR_MS, sessions: 0 },
        ],
      },
    });
  });

  it("fits on 80 columns", async () => {
    const world = memoryDeployment();
    const old = await seed(world, 2);
    const current = await nextKey(world);
    world.advance(2 * HOUR_MS);
    const lines = shown(await rotateStatus(world.deployment, {}, world.context)).split("\n");
    expect(lines).toEqual([
      "Ring web",
      "  a new key every 24 h; one seals for 48 h at most",
      "",
      "  key id            state      age          seals from (UTC)  KMS    sessions",
      `  ${current}  current    2 h of 24 h  2026-01-01 00:00  local         0`,
      `  ${old}  open-only  2 h          2026-01-01 00:00  local         2`,
      "",
      "  2 sessions, all looked at.",
    ]);
  });

  it("numbers KMSs whose names are too long for the terminal", async () => {
    const names = [
      "aws:eu-west-1:1234abcd-12ab-34cd-56ef-1234567890ab",
      "aws:eu-central-1:1234abcd-12ab-34cd-56ef-1234567890ab",
    ];
    const world = memoryDeployment({ kms: names.map((name) => testKms(name)) });
    await seed(world, 0);
    const result = await rotateStatus(world.deployment, {}, world.context);
    const narrow = shown(result, 80).split("\n");
    expect(narrow.every((line) => line.length <= 80)).toBe(true);
    expect(narrow).toContain(`  [1] ${names[0]}`);
    expect(shown(result, 200)).toContain(names.join(", "));
  });

  it("says that there is no key, and publishes none", async () => {
    const world = memoryDeployment();
    const result = await rotateStatus(world.deployment, {}, world.context);
    expect(result.document).toMatchObject({ keys: [] });
    expect(shown(result)).toContain("There is no key yet.");
    expect(await world.keys.read("web")).toEqual([]);
  });

  it("says when a new key is due, and when none seals", async () => {
    const world = memoryDeployment();
    await seed(world, 0);
    world.advance(25 * HOUR_MS);
    const status = () => rotateStatus(world.deployment, {}, world.context);
    expect(shown(await status())).toContain("A new key is due, and none is published.");
    world.advance(24 * HOUR_MS);
    expect(shown(await status())).toContain("No key seals.");
  });

  it("counts sessions under keys that the ring does not have, and what is no envelope", async () => {
    const world = memoryDeployment();
    await seed(world, 1);
    const other = memoryDeployment();
    const stranger = await seed(other, 1);
    for await (const storedId of other.envelopes.scan()) {
      const bytes = await other.envelopes.get(storedId);
      await world.envelopes.set(storedId, bytes as Uint8Array, { ttlMs: DAY_MS });
    }
    await world.envelopes.set("plain", Buffer.from('{"user":1}'), { ttlMs: DAY_MS });
    const result = await rotateStatus(world.deployment, {}, world.context);
    const { keys, sessions } = result.document as { keys: unknown[]; sessions: unknown };
    expect(keys).toHaveLength(2);
    expect(keys[1]).toMatchObject({ keyId: stranger, state: "unknown", activatesAt: null, sessions: 1 });
    expect(sessions).toEqual({ total: 3, examined: 3, isSample: false, noEnvelopes: 1 });
    expect(shown(result)).toContain("Some sessions lie under keys that are not in this ring: they do not open.");
  });

  it("says why keys are not open", async () => {
    const kms = testKms();
    const fault: { error: KmsError | undefined } = { error: undefined };
    const world = memoryDeployment({ kms: [failing(kms, fault)] });
    await seed(world, 1);
    fault.error = new KmsError("KMS_UNREACHABLE", "AWS KMS Decrypt: TimeoutError", { kms: "local" });
    const { document } = await rotateStatus(world.deployment, {}, world.context);
    expect(document).toMatchObject({ keys: [{ state: "unverified", sessions: 1 }] });
    expect(world.stderr()).toMatch(/warning: not every key was opened: .*AWS KMS Decrypt: TimeoutError/);
  });

  it("with --sample looks at about so many, and says how sure it is", async () => {
    const world = memoryDeployment();
    await seed(world, 2000);
    await nextKey(world);
    // An interrupted run has re-sealed what a walk meets first: whoever looked at that alone would see a ring that is done.
    const controller = new AbortController();
    const first: RotateFunction = (options) =>
      rotateAtOnce({ ...options, signal: controller.signal, onPosition: () => controller.abort() });
    await rotateSessions(world.deployment, {}, world.context, first);
    const full = await rotateStatus(world.deployment, {}, world.context);
    const sampled = await rotateStatus(world.deployment, { sample: 500 }, world.context);
    type Document = {
      keys: { sessions: number; sessionsMargin: number }[];
      sessions: { total: number; examined: number; isSample: boolean };
    };
    const [all, some] = [full.document, sampled.document] as unknown as [Document, Document];
    expect(some.sessions).toMatchObject({ total: 2000, isSample: true });
    expect(some.sessions.examined).toBeGreaterThan(350);
    expect(some.sessions.examined).toBeLessThan(650);
    for (const [index, { sessions, sessionsMargin }] of some.keys.entries()) {
      expect(sessionsMargin).toBeGreaterThan(0);
      // Five standard deviations: wrong once in millions of runs.
      expect(Math.abs(sessions - (all.keys[index]?.sessions ?? 0))).toBeLessThan(2.6 * sessionsMargin);
    }
    expect(shown(sampled)).toMatch(/±/);
  });

  it("ends with 130, and shows no half count, when it is interrupted", async () => {
    const world = memoryDeployment();
    await seed(world, 1);
    world.interrupt();
    expect(await told(rotateStatus(world.deployment, {}, world.context))).toMatchObject({
      code: "INTERRUPTED",
      exitCode: 130,
    });
  });
});

describe("rotate retire", () => {
  /** A key whose sealing age has ended, and which has a successor. */
  async function retirable(count: number) {
    const world = memoryDeployment({ sessions: { idleSeconds: 30 * 24 * 3600 } });
    const old = await seed(world, 0);
    const ids: string[] = [];
    for (let n = 0; n < count; n++) ids.push(await world.application.create({ n }));
    world.advance(49 * HOUR_MS);
    await world.ring.publish({ delayMs: 0 });
    return { world, old, ids };
  }

  it("gives a receipt: key id, commitment, time, a count of zero, and how", async () => {
    const { world, old } = await retirable(0);
    const result = await rotateRetire(world.deployment, old, world.context);
    const { receipt } = result.document as { receipt: Record<string, unknown> };
    expect(receipt).toEqual({
      keyId: old,
      commitment: expect.stringMatching(new RegExp(`^${old}[\\w-]{27}$`)),
      retiredAt: new Date(world.now()).toISOString(),
      sessions: 0,
      counted: 0,
      how: "tombstone",
      removedWraps: ["local"],
    });
    expect(result.exitCode).toBe(0);
    expect(shown(result)).toContain("0 under this key, of 0 that were counted");
    await world.ring.refresh();
    expect(world.ring.status().find(({ keyId }) => keyId === old)).toMatchObject({ state: "retired", kms: [] });
  });

  it("refuses with 3 while sessions lie under the key, and writes nothing", async () => {
    const { world, old } = await retirable(2);
    const failure = await told(rotateRetire(world.deployment, old, world.context));
    expect(failure).toMatchObject({ code: "KEY_IN_USE", exitCode: 3 });
    expect(failure.message).toContain("2 sessions are sealed under this key");
    expect(world.stderr()).toContain("`rotate sessions` moves that");
    await world.ring.refresh();
    expect(world.ring.status().find(({ keyId }) => keyId === old)?.state).toBe("open-only");
  });

  it("retires it when they were moved, and they still open", async () => {
    const { world, old, ids } = await retirable(3);
    await rotateSessions(world.deployment, {}, world.context, rotateAtOnce);
    const result = await rotateRetire(world.deployment, old, world.context);
    expect(result.document).toMatchObject({ receipt: { sessions: 0, counted: 3 } });
    await world.ring.refresh();
    for (const [n, id] of ids.entries()) expect(await world.application.get(id)).toEqual({ n });
  });

  it("refuses with 3 while the key may seal, and says from when on it can", async () => {
    const world = memoryDeployment();
    const keyId = await seed(world, 0);
    expect(await told(rotateRetire(world.deployment, keyId, world.context))).toMatchObject({
      code: "KEY_IN_USE",
      exitCode: 3,
    });
    expect(world.stderr()).toContain("can retire from 2026-01-03 00:02:00 UTC on");
  });

  it("refuses with 2 a key that the ring does not have", async () => {
    const { world } = await retirable(0);
    expect(await told(rotateRetire(world.deployment, NONE, world.context))).toMatchObject({
      code: "KEY_UNKNOWN",
      exitCode: 2,
    });
  });

  it("writes no tombstone when it is interrupted while it counts: half a count of zero is none", async () => {
    const { world, old } = await retirable(0);
    const { store } = world.deployment;
    // The interruption comes with the first page, and sessions may lie on the second.
    for (let n = 0; n < 300; n++) await world.application.create({ n });
    const watched = { ...world.context, signal: abortingOnWalk(store) };
    expect(await told(rotateRetire(world.deployment, old, watched))).toMatchObject({
      code: "INTERRUPTED",
      exitCode: 130,
    });
    await world.ring.refresh();
    expect(world.ring.status().find(({ keyId }) => keyId === old)?.state).toBe("open-only");
  });
});

describe("rotate revoke", () => {
  it("ends every session under the key, says how many, and which key seals now", async () => {
    const world = memoryDeployment();
    const keyId = await seed(world, 5);
    const id = await world.application.create({ n: 6 });
    world.advance(1000);
    const result = await rotateRevoke(world.deployment, keyId, world.context);
    const current = world.deployment.ring.status().find(({ state }) => state === "current")?.keyId;
    expect(result).toMatchObject({
      exitCode: 0,
      document: { keyId, stateBefore: "current", sessionsDropped: 6, currentKeyId: current },
    });
    expect(current).not.toBe(keyId);
    expect(shown(result)).toContain("6 sessions");
    expect(shown(result)).toContain("revokedKeyIds");
    await world.ring.refresh();
    expect(await world.application.get(id)).toBeUndefined();
  });

  it("revokes also when the count is interrupted, and says so", async () => {
    const world = memoryDeployment();
    const keyId = await seed(world, 5);
    world.interrupt();
    const result = await rotateRevoke(world.deployment, keyId, world.context);
    expect(result).toMatchObject({ exitCode: 130, document: { keyId, sessionsDropped: null } });
    expect(world.stderr()).toContain("the key is revoked, but its sessions were not counted");
    await world.ring.refresh();
    expect(world.ring.status().find((key) => key.keyId === keyId)?.state).toBe("revoked");
  });

  it("revokes also when no KMS makes a new key, and warns that none seals", async () => {
    const fault: { error: KmsError | undefined } = { error: undefined };
    const inner = testKms();
    const kms: Kms = {
      name: inner.name,
      wrap: (...args) => inner.wrap(...args),
      unwrap: (...args) => inner.unwrap(...args),
      generate: async (...args) => {
        if (fault.error !== undefined) throw fault.error;
        return inner.generate(...args);
      },
    };
    const world = memoryDeployment({ kms: [kms] });
    const keyId = await seed(world, 1);
    fault.error = new KmsError("KMS_UNREACHABLE", "no answer", { kms: "local" });
    const { document } = await rotateRevoke(world.deployment, keyId, world.context);
    expect(document).toMatchObject({ sessionsDropped: 1, currentKeyId: null });
    expect(world.stderr()).toContain("no key seals now");
  });

  it("refuses with 2 a key that the ring does not have", async () => {
    const world = memoryDeployment();
    await seed(world, 0);
    expect(await told(rotateRevoke(world.deployment, NONE, world.context))).toMatchObject({
      code: "KEY_UNKNOWN",
      exitCode: 2,
    });
  });
});

describe("rotate sessions", () => {
  it("re-seals what is not under the current key, and reports what it found", async () => {
    const world = memoryDeployment();
    const old = await seed(world, 20);
    const current = await nextKey(world);
    await world.application.create({ n: 21 });
    const result = await rotateSessions(world.deployment, {}, world.context, rotateAtOnce);
    expect(result).toMatchObject({
      exitCode: 0,
      document: {
        rotation: {
          keyId: current,
          isDryRun: false,
          isInterrupted: false,
          isResumed: false,
          counts: { examined: 21, resealed: 20, current: 1, unopened: 0 },
          foundUnderKey: { [old]: 20, [current]: 1 },
        },
      },
    });
    const status = await rotateStatus(world.deployment, {}, world.context);
    expect(status.document).toMatchObject({
      keys: [
        { keyId: current, sessions: 21 },
        { keyId: old, sessions: 0 },
      ],
    });
  });

  it("changes nothing in a dry run", async () => {
    const world = memoryDeployment();
    const old = await seed(world, 3);
    await nextKey(world);
    const result = await rotateSessions(world.deployment, { dryRun: true }, world.context, rotateAtOnce);
    expect(result).toMatchObject({ exitCode: 0, document: { rotation: { isDryRun: true, counts: { resealed: 3 } } } });
    expect(shown(result)).toContain("Dry run: nothing was changed");
    const status = await rotateStatus(world.deployment, {}, world.context);
    expect(status.document).toMatchObject({ keys: [{ sessions: 0 }, { keyId: old, sessions: 3 }] });
  });

  it("hands all its options over", async () => {
    const world = memoryDeployment();
    await seed(world, 1);
    let given: Parameters<RotateFunction>[0] | undefined;
    const rotate: RotateFunction = async (options) => {
      given = options;
      return rotateAtOnce(options);
    };
    const shard = { index: 2, count: 3 };
    await rotateSessions(
      world.deployment,
      { olderThanMs: 5, rate: 1000, concurrency: 3, shard },
      world.context,
      rotate,
    );
    expect(given).toMatchObject({
      olderThanMs: 5,
      ratePerSecond: 1000,
      concurrency: 3,
      shard,
      dryRun: false,
      signal: world.context.signal,
    });
    expect(given?.store).toBe(world.deployment.store);
  });

  it("lists what does not open, leaves it alone, and ends with 3", async () => {
    const world = memoryDeployment();
    await seed(world, 1);
    const other = memoryDeployment();
    await seed(other, 3);
    const strangers: string[] = [];
    for await (const storedId of other.envelopes.scan()) {
      strangers.push(storedId);
      await world.envelopes.set(storedId, (await other.envelopes.get(storedId)) as Uint8Array, { ttlMs: DAY_MS });
    }
    const list = join(folder, "unopened.txt");
    const result = await rotateSessions(world.deployment, { unopened: list }, world.context, rotateAtOnce);
    expect(result).toMatchObject({
      exitCode: 3,
      document: { rotation: { unopened: { total: 3, byCode: { ENVELOPE_REJECTED: 3 } } } },
    });
    for (const storedId of strangers) expect(shown(result)).toContain(`${storedId}  ENVELOPE_REJECTED`);
    const lines = readFileSync(list, "utf8").trim().split("\n").sort();
    expect(lines).toEqual(strangers.map((storedId) => `${storedId}\tENVELOPE_REJECTED`).sort());
  });

  it("shows no session id where stored ids are session ids", async () => {
    const world = memoryDeployment({ sessions: { storedIds: "verbatim" } });
    await seed(world, 0);
    const sessionId = "a-session-id-that-is-a-secret-0123456789";
    const other = memoryDeployment({ sessions: { storedIds: "verbatim" } });
    await other.ring.publish({ delayMs: 0 });
    await other.application.create({ n: 1 }, sessionId);
    await world.envelopes.set(sessionId, (await other.envelopes.get(sessionId)) as Uint8Array, { ttlMs: DAY_MS });
    const list = join(folder, "verbatim.txt");
    const result = await rotateSessions(world.deployment, { unopened: list }, world.context, rotateAtOnce);
    const everything = [
      JSON.stringify(result.document),
      shown(result),
      readFileSync(list, "utf8"),
      world.stderr(),
    ].join();
    expect(everything).not.toContain(sessionId);
    expect(everything).toMatch(/sha256:[\w-]{43}/);
  });

  it("counts what lies under a revoked key as ended, and not as left", async () => {
    const world = memoryDeployment();
    const old = await seed(world, 3);
    await nextKey(world);
    await world.ring.revoke(old);
    const result = await rotateSessions(world.deployment, {}, world.context, rotateAtOnce);
    expect(result).toMatchObject({
      exitCode: 0,
      document: { rotation: { unopened: { byCode: { KEY_REVOKED: 3 }, first: [] } } },
    });
    expect(shown(result)).toContain("3 under a revoked or retired key: they have ended");
  });

  it("ends with 3 while sessions are bound to their clients", async () => {
    const world = memoryDeployment({ sessions: { clientBound: true } });
    await seed(world, 2);
    await nextKey(world);
    const result = await rotateSessions(world.deployment, {}, world.context, rotateAtOnce);
    expect(result.exitCode).toBe(3);
    expect(shown(result)).toContain("2 bound to their clients");
  });

  it("fails where no key seals", async () => {
    const world = memoryDeployment();
    expect(await told(rotateSessions(world.deployment, {}, world.context, rotateAtOnce))).toMatchObject({
      code: "KEY_UNAVAILABLE",
      exitCode: 1,
    });
  });

  describe("with a checkpoint", () => {
    /** Ends the run after so many pages: as by Ctrl-C, or by an error that is like the end of the process. */
    function ending(world: World, pages: number, how: "interrupt" | "throw"): RotateFunction {
      let left = pages;
      return (options) =>
        rotateAtOnce({
          ...options,
          onPosition: (position, counts) => {
            options.onPosition?.({ ...position, pages: pages - left }, counts);
            left--;
            if (left > 0) return;
            if (how === "interrupt") world.interrupt();
            else throw new Error("the end");
          },
        });
    }

    it("goes on where an interrupted run stood, and removes it at the end", async () => {
      const checkpoint = join(folder, "interrupted.json");
      const world = memoryDeployment();
      await seed(world, 600);
      await nextKey(world);
      const first = await rotateSessions(
        world.deployment,
        { checkpoint },
        world.context,
        ending(world, 1, "interrupt"),
      );
      expect(first.exitCode).toBe(130);
      expect(shown(first)).toContain("Interrupted: sessions re-sealed so far");
      expect(world.stderr()).toContain(`The same command goes on from ${checkpoint}.`);
      const { examined } = (first.document["rotation"] as { counts: { examined: number } }).counts;
      expect(examined).toBeGreaterThan(0);
      expect(examined).toBeLessThan(600);
      expect(JSON.parse(readFileSync(checkpoint, "utf8"))).toMatchObject({ version: 1, counts: { examined } });

      let given: Parameters<RotateFunction>[0] | undefined;
      const rotate: RotateFunction = async (options) => {
        given = options;
        return rotateAtOnce({ ...options, signal: new AbortController().signal });
      };
      const second = await rotateSessions(world.deployment, { checkpoint }, world.context, rotate);
      expect(given?.position).toMatchObject({ pages: 0 });
      expect(second).toMatchObject({
        exitCode: 0,
        document: { rotation: { isResumed: true, counts: { resealed: 600 } } },
      });
      expect(world.stderr()).toContain(`Going on from ${checkpoint}: ${examined} sessions were looked at before.`);
      expect(() => readFileSync(checkpoint)).toThrow("ENOENT");
    });

    it("keeps what was reached also when the run fails", async () => {
      const checkpoint = join(folder, "failed.json");
      const world = memoryDeployment();
      await seed(world, 600);
      await nextKey(world);
      await expect(
        rotateSessions(world.deployment, { checkpoint }, world.context, ending(world, 2, "throw")),
      ).rejects.toThrow("the end");
      expect(JSON.parse(readFileSync(checkpoint, "utf8"))).toMatchObject({ position: { pages: 1 } });
    });

    it("refuses one of another target key before anything is changed", async () => {
      const checkpoint = join(folder, "other.json");
      const world = memoryDeployment();
      await seed(world, 600);
      await nextKey(world);
      await rotateSessions(world.deployment, { checkpoint }, world.context, ending(world, 1, "interrupt"));
      await nextKey(world);
      let isCalled = false;
      const rotate: RotateFunction = (options) => {
        isCalled = true;
        return rotateAtOnce(options);
      };
      const failure = await told(rotateSessions(world.deployment, { checkpoint }, world.context, rotate));
      expect(failure).toMatchObject({ code: "CHECKPOINT_REFUSED", exitCode: 2 });
      expect(isCalled).toBe(false);
    });
  });
});

describe("plain rotate", () => {
  it("publishes a key, waits until all processes know it, re-seals everything, and shows that nothing is left", async () => {
    const world = memoryDeployment();
    const old = await seed(world, 10);
    const startedAt = world.now();
    const result = await rotateAll(world.deployment, { now: false }, world.context, rotateAtOnce);
    expect(result).toMatchObject({
      exitCode: 0,
      document: {
        key: { state: "current" },
        rotation: { counts: { resealed: 10 } },
        status: { keys: [{ sessions: 10 }, { keyId: old, sessions: 0 }] },
        left: { total: 0, byKey: {} },
      },
    });
    expect(world.now() - startedAt).toBeGreaterThanOrEqual(2 * MINUTE_MS);
    expect(shown(result)).toContain("Nothing is left under an old key.");
  });

  it("waits with --now as well until every process has read the ring: they seal with the old key until then", async () => {
    const world = memoryDeployment();
    await seed(world, 1);
    const startedAt = world.now();
    await rotateAll(world.deployment, { now: true }, world.context, rotateAtOnce);
    expect(world.now() - startedAt).toBeGreaterThanOrEqual(2 * MINUTE_MS);
  });

  it("ends with 3 while anything is left under an old key, and says what", async () => {
    const world = memoryDeployment();
    const old = await seed(world, 5);
    const rotate: RotateFunction = async (options) => {
      const report = await rotateAtOnce({ ...options, dryRun: true });
      return { ...report, isDryRun: false };
    };
    const result = await rotateAll(world.deployment, { now: true }, world.context, rotate);
    expect(result).toMatchObject({ exitCode: 3, document: { left: { total: 5, byKey: { [old]: 5 } } } });
    expect(shown(result)).toContain("5 left under old keys.");
  });

  it("ends with 130 when it is interrupted, with the report of what was done", async () => {
    const world = memoryDeployment();
    await seed(world, 600);
    const rotate: RotateFunction = (options) => rotateAtOnce({ ...options, onPosition: () => world.interrupt() });
    const result = await rotateAll(world.deployment, { now: true }, world.context, rotate);
    expect(result).toMatchObject({
      exitCode: 130,
      document: { rotation: { isInterrupted: true }, status: null, left: null },
    });
  });

  it("tells of its key when it is interrupted while it waits for it", async () => {
    const world = memoryDeployment();
    await seed(world, 1);
    world.interrupt();
    const result = await rotateAll(world.deployment, { now: false }, world.context, rotateAtOnce);
    expect(result).toMatchObject({
      exitCode: 130,
      document: { key: { state: "pre-active" }, rotation: null, status: null, left: null },
    });
  });

  it("gives the report of what was done when it is interrupted while it counts", async () => {
    const world = memoryDeployment();
    await seed(world, 5);
    const rotate: RotateFunction = async (options) => {
      const report = await rotateAtOnce(options);
      world.interrupt();
      return report;
    };
    const result = await rotateAll(world.deployment, { now: true }, world.context, rotate);
    expect(result).toMatchObject({ exitCode: 130, document: { rotation: { counts: { resealed: 5 } }, status: null } });
  });

  it("publishes no second key when it goes on from a checkpoint", async () => {
    const checkpoint = join(folder, "plain.json");
    const world = memoryDeployment();
    await seed(world, 600);
    const rotate: RotateFunction = (options) => {
      const onPosition: typeof options.onPosition = (...args) => {
        options.onPosition?.(...args);
        world.interrupt();
      };
      return rotateAtOnce({ ...options, onPosition });
    };
    await rotateAll(world.deployment, { now: true, checkpoint }, world.context, rotate);
    const keys = (await world.keys.read("web")).length;
    const context = {
      ...world.context,
      signal: new AbortController().signal,
      sleep: async (ms: number) => world.advance(ms),
    };
    const result = await rotateAll(world.deployment, { now: false, checkpoint }, context, rotateAtOnce);
    expect(result).toMatchObject({ exitCode: 0, document: { rotation: { isResumed: true }, left: { total: 0 } } });
    expect(await world.keys.read("web")).toHaveLength(keys);
  });
});

describe("rotate rewrap", () => {
  it("wraps every key under the KMS too, and no session is touched", async () => {
    const [old, young] = [testKms("old"), testKms("young")];
    const world = memoryDeployment({ kms: [old] });
    const first = await seed(world, 3);
    const second = await nextKey(world);
    const both = memoryDeployment({ kms: [young, old], over: world });
    const before = await Promise.all([...(await storedIds(world))].map((storedId) => world.envelopes.get(storedId)));
    const result = await rotateRewrap(both.deployment, { to: "young", dropOld: false }, both.context);
    expect(result).toMatchObject({
      exitCode: 0,
      document: {
        to: "young",
        keys: [second, first].map((keyId) => ({ keyId, outcome: "rewrapped", kms: ["old", "young"] })),
      },
    });
    expect(await Promise.all([...(await storedIds(world))].map((storedId) => world.envelopes.get(storedId)))).toEqual(
      before,
    );
    const again = await rotateRewrap(both.deployment, { to: "young", dropOld: false }, both.context);
    expect(again.document).toMatchObject({ keys: [{ outcome: "present" }, { outcome: "present" }] });
  });

  it("takes the wraps of KMSs that were given up away with --drop-old", async () => {
    const [old, young] = [testKms("old"), testKms("young")];
    const world = memoryDeployment({ kms: [young, old] });
    const keyId = await seed(world, 1);
    const alone = memoryDeployment({ kms: [young], ring: { droppedKms: ["old"] }, over: world });
    const result = await rotateRewrap(alone.deployment, { to: "young", dropOld: true }, alone.context);
    expect(result).toMatchObject({ exitCode: 0, document: { keys: [{ keyId, outcome: "present", kms: ["young"] }] } });
    await alone.ring.refresh();
    expect(alone.ring.status()).toMatchObject([{ keyId, kms: ["young"] }]);
  });

  it("refuses with 2 to drop what the configuration does not list as given up", async () => {
    const world = memoryDeployment();
    const failure = await told(rotateRewrap(world.deployment, { to: "local", dropOld: true }, world.context));
    expect(failure).toMatchObject({ code: "USAGE", exitCode: 2 });
    expect(failure.message).toMatch(/^--drop-old needs ring\.droppedKms/);
  });

  it("refuses with 2 a KMS that the configuration does not name", async () => {
    const world = memoryDeployment();
    const failure = await told(rotateRewrap(world.deployment, { to: "other", dropOld: false }, world.context));
    expect(failure).toMatchObject({
      code: "USAGE",
      exitCode: 2,
      message: '--to must be the name of a KMS in ring.kms: "local"',
    });
  });

  it("ends with 3 while a key is not wrapped, with the KMS's reason and request id", async () => {
    const error = new KmsError("KMS_DENIED", "AWS KMS Encrypt: AccessDeniedException", {
      kms: "young",
      requestId: "r-1",
    });
    const old = testKms("old");
    const world = memoryDeployment({ kms: [old] });
    const keyId = await seed(world, 1);
    const both = memoryDeployment({ kms: [failing(testKms("young"), { error }), old], over: world });
    const result = await rotateRewrap(both.deployment, { to: "young", dropOld: false }, both.context);
    expect(result).toMatchObject({
      exitCode: 3,
      document: { keys: [{ keyId, outcome: "failed", kms: ["old"], error: { code: "KMS_DENIED", requestId: "r-1" } }] },
    });
    expect(both.stderr()).toContain(`warning: key ${keyId}: AWS KMS Encrypt: AccessDeniedException`);
  });
});

describe("rotate seal", () => {
  const REPORT: SealReport = {
    startedAt: 0,
    endedAt: 5000,
    isInterrupted: false,
    examined: 10,
    sealed: 8,
    skipped: { "sealed already": 2 },
    unreadable: 0,
  };
  type Given = Parameters<World["deployment"]["sealPlaintext"]>[0];
  const sealing = async (report: Partial<SealReport>, options = {}) => {
    const world = memoryDeployment();
    const given: Given[] = [];
    const sealPlaintext = async (from: Given) => {
      given.push(from);
      return { ...REPORT, ...report };
    };
    const deployment = { ...world.deployment, sealPlaintext };
    const result = await rotateSeal(deployment, { prefix: "sess:", dryRun: false, ...options }, world.context);
    return { result, given: given[0], world };
  };

  it("hands its options over, and reports what was done and skipped", async () => {
    const shard = { index: 1, count: 2 };
    const { result, given, world } = await sealing({}, { prefix: "app:", rate: 50, shard });
    expect(given).toMatchObject({
      prefix: "app:",
      dryRun: false,
      ratePerSecond: 50,
      shard,
      signal: world.context.signal,
    });
    expect(result).toMatchObject({
      exitCode: 0,
      document: {
        sealing: {
          prefix: "app:",
          counts: { examined: 10, sealed: 8, unreadable: 0 },
          skipped: { "sealed already": 2 },
        },
      },
    });
    expect(shown(result)).toContain("2 sealed already");
  });

  it("ends with 3 while something is left that is no session, and with 130 when it is interrupted", async () => {
    expect((await sealing({ unreadable: 1 })).result.exitCode).toBe(3);
    expect((await sealing({ unreadable: 1 }, { dryRun: true })).result.exitCode).toBe(0);
    expect((await sealing({ isInterrupted: true, unreadable: 1 })).result.exitCode).toBe(130);
  });
});

async function storedIds({ envelopes }: World): Promise<Set<string>> {
  const found = new Set<string>();
  for await (const storedId of envelopes.scan()) found.add(storedId);
  return found;
}

/** A signal that aborts as soon as a page was walked. */
function abortingOnWalk(store: World["deployment"]["store"]): AbortSignal {
  const controller = new AbortController();
  const { walk } = store;
  store.walk = (visit, options) =>
    walk(async (page) => {
      await visit(page);
      controller.abort();
    }, options);
  return controller.signal;
}
