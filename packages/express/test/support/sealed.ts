/** Sealed sessions in memory, and which commands they cost. */
import { randomBytes } from "node:crypto";
import {
  type EnvelopeStore,
  KeyRing,
  localKms,
  memoryKeyRingStore,
  memoryStore,
  SessionStore,
  type SessionStoreOptions,
  storedIdOf,
} from "@sealed-session/core";
import { type ExpressStoreOptions, expressStore } from "../../src/index.js";

process.env["SEALED_SESSION_TEST_KEY"] = randomBytes(32).toString("base64url");
const kms = localKms({ keyVariable: "SEALED_SESSION_TEST_KEY" });

type Method = keyof EnvelopeStore;
type Call = (...call: unknown[]) => Promise<unknown>;

/** @returns A store and what lies behind it. */
export function sealed(options: ExpressStoreOptions = {}, sessionOptions: Partial<SessionStoreOptions<object>> = {}) {
  /** The commands that reached the envelopes so far. */
  const commands: Method[] = [];
  /** What takes the place of a command. */
  const faults: Partial<Record<Method, (run: () => Promise<unknown>) => Promise<unknown>>> = {};
  const envelopes = memoryStore();
  const store = new Proxy(envelopes, {
    get: (target, name: Method) => {
      const method = (target[name] as unknown as Call).bind(target);
      if (name === "scan") return method;
      return (...call: unknown[]) => {
        commands.push(name);
        const run = () => method(...call);
        return faults[name]?.(run) ?? run();
      };
    },
  });
  const ring = new KeyRing({ name: "web", kms, store: memoryKeyRingStore() });
  const sessions = new SessionStore<object>({ ring, store, ...sessionOptions });
  return {
    store: expressStore(sessions, options),
    sessions,
    ring,
    envelopes,
    commands,
    faults,
    /** What is left of a session's time to live, in milliseconds. */
    ttlMs: (sid: string) => envelopes.ttlMs(storedIdOf(sid) as string),
  };
}
