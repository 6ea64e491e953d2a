/**
 * Conformance suites: what every implementation of a port promises, as tests for the runner of your choice.
 *
 * ```ts
 * import { describe, it } from "node:test";
 * import { storeSuite } from "@sealed-session/core/testing";
 *
 * storeSuite({ describe, it }, "my store", async () => ({ store, advance, close }));
 * ```
 *
 * @packageDocumentation
 */
export { type KeyRingStoreUnderTest, keyRingStoreSuite } from "./key-ring-store-suite.js";
export { type KmsUnderTest, kmsSuite } from "./kms-suite.js";
export { type PrincipalIndexUnderTest, principalIndexSuite } from "./principal-index-suite.js";
export type { TestRunner, UnderTest } from "./runner.js";
export { type StoreUnderTest, storeSuite } from "./store-suite.js";
