/** Which backend core takes on Node, and what it says about it. */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { DIAGNOSTICS_CHANNEL } from "../../core/src/diagnostics.js";

const NATIVE = "../../core/src/backend/native.js";

let events: unknown[];
const collect = (event: unknown) => void events.push(event);

beforeEach(() => {
  events = [];
  subscribe(DIAGNOSTICS_CHANNEL, collect);
  vi.resetModules();
});
afterEach(() => {
  unsubscribe(DIAGNOSTICS_CHANNEL, collect);
  vi.unstubAllEnvs();
  vi.doUnmock(NATIVE);
});

async function freshBackend() {
  return (await import("../../core/src/backend/auto.js")).backend;
}

/** Stands for a package that is not installed, or whose binary does not load. */
function addonThrows(error: Error): { attempts: number } {
  const seen = { attempts: 0 };
  vi.doMock(NATIVE, async (original) => ({
    ...(await original<object>()),
    loadAddon() {
      seen.attempts++;
      throw error;
    },
  }));
  return seen;
}

const KEY = new Uint8Array(32).fill(1);
/** AES-256 of the zero block under that key. */
const BLOCK = "7298caa565031eadc6ce23d23ea66378";

describe("the backend on Node", () => {
  it("is the addon where it loads, chosen with the first key and announced once", async () => {
    const backend = await freshBackend();
    backend.randomFill(new Uint8Array(8));
    backend.sha256(KEY);
    expect(events).toEqual([]);
    for (let i = 0; i < 3; i++) {
      const key = backend.importKey(KEY);
      expect(Buffer.from(backend.aesBlocks(key, new Uint8Array(16))).toString("hex")).toBe(BLOCK);
      key.wipe();
    }
    expect(backend.name).toBe("native");
    expect(events).toEqual([{ type: "backend-chosen", backend: "native", reason: undefined }]);
  });

  it.each([
    [
      "is not installed",
      Object.assign(new Error("Cannot find module"), { code: "MODULE_NOT_FOUND" }),
      "the package @sealed-session/native is not installed",
    ],
    [
      "does not load",
      Object.assign(new Error("no binary for this platform"), { code: "ERR_NATIVE_ADDON" }),
      "no binary for this platform",
    ],
  ])("is node:crypto where the addon %s, with one event that says why", async (_, error, reason) => {
    const seen = addonThrows(error);
    const backend = await freshBackend();
    for (let i = 0; i < 3; i++) {
      expect(Buffer.from(backend.aesBlocks(backend.importKey(KEY), new Uint8Array(16))).toString("hex")).toBe(BLOCK);
    }
    expect(backend.name).toBe("node");
    expect(seen.attempts).toBe(1);
    expect(events).toEqual([{ type: "backend-chosen", backend: "node", reason }]);
  });

  it("is node:crypto with SEALED_SESSION_NATIVE=off, and the addon is left alone", async () => {
    const seen = addonThrows(new Error("loaded"));
    vi.stubEnv("SEALED_SESSION_NATIVE", "off");
    expect((await freshBackend()).name).toBe("node");
    expect(seen.attempts).toBe(0);
    expect(events).toEqual([{ type: "backend-chosen", backend: "node", reason: "SEALED_SESSION_NATIVE is off" }]);
  });

  it("throws what the addon throws with SEALED_SESSION_NATIVE=require, at every key", async () => {
    addonThrows(new Error("no binary"));
    vi.stubEnv("SEALED_SESSION_NATIVE", "require");
    const backend = await freshBackend();
    for (let i = 0; i < 2; i++) expect(() => backend.importKey(KEY)).toThrow("no binary");
    expect(events).toEqual([]);
  });

  it.each(["off", "require"])(
    "throws the same error for a key that was wiped, SEALED_SESSION_NATIVE=%s",
    async (wish) => {
      vi.stubEnv("SEALED_SESSION_NATIVE", wish);
      const backend = await freshBackend();
      const key = backend.importKey(KEY);
      key.wipe();
      key.wipe();
      const [nonce, bytes] = [new Uint8Array(12), new Uint8Array(32)];
      for (const use of [
        () => backend.aesBlocks(key, bytes),
        () => backend.hmacSha256(key, bytes),
        () => backend.hkdfSha256(key, bytes, bytes, 32),
        () => backend.sealGcm(key, nonce, bytes, bytes, new Uint8Array(48), 0),
        () => backend.openGcm(key, nonce, bytes, bytes),
      ]) {
        expect(use).toThrow(new Error("this key was wiped"));
      }
    },
  );
});
