import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const root = fileURLToPath(new URL("..", import.meta.url));

/** The same tests of core run once on each cryptographic backend. */
const core = (backend: "native" | "node" | "portable") => ({
  test: {
    name: `core (${backend})`,
    root: `${root}packages/core`,
    include: ["test/**/*.test.ts"],
    env: { SEALED_SESSION_BACKEND: backend },
    alias: { "#backend": `${root}packages/core/src/backend/${backend}.ts` },
    testTimeout: 60_000,
  },
});

/** The backend that programs get on Node, with the addon demanded. */
const coreNative = {
  test: {
    ...core("native").test,
    env: { SEALED_SESSION_BACKEND: "native", SEALED_SESSION_NATIVE: "require" },
    alias: { "#backend": `${root}packages/core/src/backend/auto.ts` },
  },
};

export default defineConfig({
  root,
  test: {
    // One more than Vitest takes on a small machine: much of a run is waiting for servers.
    maxWorkers: availableParallelism(),
    reporters: ["default", `${root}.config/summary-reporter.ts`],
    projects: [
      core("node"),
      core("portable"),
      coreNative,
      {
        test: { name: "fastify", root: `${root}packages/fastify`, include: ["test/**/*.test.ts"], testTimeout: 60_000 },
      },
      { test: { name: "redis", root: `${root}packages/redis`, include: ["test/**/*.test.ts"] } },
      {
        test: { name: "native", root: `${root}packages/native`, include: ["test/**/*.test.ts"], testTimeout: 120_000 },
      },
      { test: { name: "cli", root: `${root}packages/cli`, include: ["test/**/*.test.ts"] } },
      { test: { name: "express", root: `${root}packages/express`, include: ["test/**/*.test.ts"] } },
      {
        test: {
          name: "test",
          root: `${root}test`,
          include: ["**/*.test.ts"],
          testTimeout: 120_000,
          hookTimeout: 120_000,
        },
      },
    ],
  },
});
