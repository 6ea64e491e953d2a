import { describe, it } from "vitest";
import { memoryPrincipalIndex } from "../src/memory-principal-index.js";
import { principalIndexSuite } from "../src/testing/index.js";

principalIndexSuite({ describe, it }, "memoryPrincipalIndex", async () => {
  let now = 1_700_000_000_000;
  const clock = () => now;
  return {
    index: memoryPrincipalIndex({ clock }),
    sibling: memoryPrincipalIndex({ clock }),
    advance: async (ms) => {
      now += ms;
    },
    close: async () => {},
  };
});
