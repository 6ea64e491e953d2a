/**
 * The backend on Node: the addon of `@sealed-session/native` where it is installed and loads, `node:crypto` otherwise. Chosen once for each
 * thread, with the first key; nothing is loaded at import.
 *
 * `SEALED_SESSION_NATIVE=off` leaves the addon alone. With `SEALED_SESSION_NATIVE=require` the first key throws where it does not load.
 */
import { report } from "../diagnostics.js";
import type { Backend } from "./backend.js";
import { loadAddon, nativeBackend } from "./native.js";
import { backend as node } from "./node.js";

const VARIABLE = "SEALED_SESSION_NATIVE";

let chosen: Backend | undefined;

/** Whichever was chosen. What needs no key is the same in both. */
export const backend: Backend = {
  get name() {
    return current().name;
  },
  randomFill: (target) => node.randomFill(target),
  sha256: (data) => node.sha256(data),
  importKey: (bytes) => current().importKey(bytes),
  hmacSha256: (key, data) => current().hmacSha256(key, data),
  hkdfSha256: (key, salt, info, length) => current().hkdfSha256(key, salt, info, length),
  aesBlocks: (key, blocks) => current().aesBlocks(key, blocks),
  sealGcm: (key, nonce, aad, plaintext, out, offset) => current().sealGcm(key, nonce, aad, plaintext, out, offset),
  openGcm: (key, nonce, aad, sealed) => current().openGcm(key, nonce, aad, sealed),
};

function current(): Backend {
  chosen ??= choose();
  return chosen;
}

function choose(): Backend {
  const wish = process.env[VARIABLE];
  if (wish === "off") return announced(node, `${VARIABLE} is off`);
  try {
    return announced(nativeBackend(loadAddon()));
  } catch (error) {
    if (wish === "require") throw error;
    return announced(node, reasonOf(error));
  }
}

function announced(backend: Backend, reason?: string): Backend {
  report({ type: "backend-chosen", backend: backend.name, reason });
  return backend;
}

function reasonOf(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException;
  return code === "MODULE_NOT_FOUND" ? "the package @sealed-session/native is not installed" : message;
}
