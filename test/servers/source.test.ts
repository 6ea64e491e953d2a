import { afterEach, describe, expect, test, vi } from "vitest";
import { startRedis } from "./redis-server.js";
import { chooseSource, SOURCES, type Source, type SourceOptions } from "./source.js";

/** All sources; those that are not `available` say that they are not. */
const candidates = (available: readonly Source[]) =>
  SOURCES.map((source) => ({
    source,
    prepare: async () => {
      if (!available.includes(source)) throw new Error(`no ${source} here`);
      return source;
    },
  }));

afterEach(() => {
  vi.unstubAllEnvs();
});

describe("the source of servers", () => {
  const rows: readonly { has: readonly Source[]; options?: SourceOptions; env?: Source; chosen: Source }[] = [
    { has: ["env", "binary", "docker", "apt"], chosen: "env" },
    { has: ["binary", "docker", "apt"], chosen: "binary" },
    { has: ["docker", "apt"], chosen: "docker" },
    { has: ["apt"], chosen: "apt" },
    { has: ["docker", "apt"], options: { install: false }, chosen: "docker" },
    { has: ["env", "binary", "docker", "apt"], options: { source: "docker" }, chosen: "docker" },
    { has: ["env", "binary", "docker", "apt"], env: "docker", chosen: "docker" },
    { has: ["env", "binary", "docker", "apt"], env: "docker", options: { source: "binary" }, chosen: "binary" },
    { has: ["env", "binary", "docker", "apt"], options: { source: "apt", install: false }, chosen: "apt" },
  ];
  test.each(rows)("is $chosen where $has can be had, with options $options and $env forced", async (row) => {
    vi.stubEnv("SEALED_SESSION_TEST_SOURCE", row.env);
    expect(await chooseSource(candidates(row.has), row.options)).toBe(row.chosen);
  });

  const refused: readonly { has: readonly Source[]; options?: SourceOptions; reasons: readonly Source[] }[] = [
    { has: [], reasons: ["env", "binary", "docker", "apt"] },
    { has: ["apt"], options: { install: false }, reasons: ["env", "binary", "docker"] },
    { has: ["env", "binary", "apt"], options: { source: "docker" }, reasons: ["docker"] },
  ];
  test.each(refused)("is none where $has can be had, with options $options, and says why", async (row) => {
    vi.stubEnv("SEALED_SESSION_TEST_SOURCE", undefined);
    const reasons = row.reasons.map((source) => `  ${source}: no ${source} here`);
    await expect(chooseSource(candidates(row.has), row.options)).rejects.toMatchObject({
      code: "NO_REDIS_SOURCE",
      message: ["no Redis server to be had", ...reasons].join("\n"),
    });
  });

  test("is refused when the environment forces one that does not exist", async () => {
    vi.stubEnv("SEALED_SESSION_TEST_SOURCE", "elsewhere");
    await expect(chooseSource(candidates(["binary"]))).rejects.toThrow(RangeError);
  });
});

describe("a server that is given", () => {
  test("is used as it is, with a warning, and goes on when it is stopped", async () => {
    const own = await startRedis({ config: {} });
    const warning = vi.spyOn(process.stderr, "write").mockReturnValue(true);
    try {
      vi.stubEnv("SEALED_SESSION_TEST_REDIS_URL", `redis://${own.host}:${own.port}`);
      const given = await startRedis({ source: "env" });
      expect(given).toMatchObject({ host: own.host, port: own.port, source: "given by SEALED_SESSION_TEST_REDIS_URL" });
      expect(warning.mock.calls.join()).toContain("tests write to the servers");
      await expect(given.signal("SIGKILL")).rejects.toThrow("was given");
      await expect(given.restart()).rejects.toThrow("was given");
      await given.stop();
      await (await startRedis({ source: "env" })).stop();
    } finally {
      warning.mockRestore();
      await own.stop();
    }
  });

  test("is not used by a caller with a configuration of its own", async () => {
    vi.stubEnv("SEALED_SESSION_TEST_REDIS_URL", "redis://127.0.0.1:1");
    await expect(startRedis({ source: "env", config: {} })).rejects.toThrow("cannot be configured");
  });
});
