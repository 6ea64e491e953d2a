import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

const root = fileURLToPath(new URL("..", import.meta.url));

/** The same tests of core run once on each cryptographic backend. */
const core = (backend: "node" | "portable") => ({
  test: {
    name: `core (${backend})`,
    root: `${root}packages/core`,
    include: ["test/**/*.test.ts"],
    env: { SEALED_SESSION_BACKEND: backend },
    alias: { "#backend": `${root}packages/core/src/backend/${backend}.ts` },
    testTimeout: 60_000,
  },
});

export default defineConfig({
  root,
  test: {
    reporters: ["default", `${root}.config/summary-reporter.ts`],
    projects: [
      core("node"),
      core("portable"),
      { test: { name: "redis", root: `${root}packages/redis`, include: ["test/**/*.test.ts"] } },
      { test: { name: "cli", root: `${root}packages/cli`, include: ["test/**/*.test.ts"] } },
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
