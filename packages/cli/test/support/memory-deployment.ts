/** A ring and its sessions in memory, on a clock that a test moves, as the commands get them. */
import { randomBytes } from "node:crypto";
import {
  asBulkStore,
  type EnvelopeStore,
  KeyRing,
  type KeyRingStore,
  type Kms,
  localKms,
  memoryKeyRingStore,
  memoryStore,
  SessionStore,
} from "@sealed-session/core";
import { CliError } from "../../src/cli-error.js";
import type { CommandContext } from "../../src/command-context.js";
import type { RingSettings, SessionsSettings } from "../../src/config-schema.js";
import { assemble, type Deployment } from "../../src/deployment.js";
import { type RecordOptions, recordedTerminal } from "./recorded-terminal.js";

/** What a test may set. */
export interface MemoryOptions extends RecordOptions {
  readonly kms?: readonly Kms[];
  readonly ring?: Partial<RingSettings>;
  readonly sessions?: SessionsSettings;
  /** Another one, over whose stores and on whose clock this one is. */
  readonly over?: { readonly envelopes: EnvelopeStore; readonly keys: KeyRingStore; readonly time: { now: number } };
}

const START = Date.parse("2026-01-01T00:00:00Z");

/** @returns a deployment, an application that uses it, and the world around them. */
export function memoryDeployment({
  kms = [testKms()],
  ring = {},
  sessions = {},
  over,
  ...recorded
}: MemoryOptions = {}) {
  const time = over?.time ?? { now: START };
  const clock = () => time.now;
  const envelopes = over?.envelopes ?? memoryStore({ clock });
  const keys = over?.keys ?? memoryKeyRingStore({ clock });
  const store = asBulkStore(envelopes);
  const settings = { ring: { name: "web", kms, ...ring }, sessions };
  const deployment: Deployment = {
    ...assemble(settings, { keys, store, kms, clock }),
    namespace: "",
    sealPlaintext: () => Promise.reject(new Error("there is no plaintext in memory")),
    kmsRequests: () => [],
  };
  const record = recordedTerminal(recorded);
  const controller = new AbortController();
  const context: CommandContext = {
    terminal: record.terminal,
    signal: controller.signal,
    clock,
    random: Math.random,
    sleep: async (ms) => {
      if (controller.signal.aborted) throw new CliError("INTERRUPTED", "interrupted while waiting");
      time.now += ms;
      record.tick(ms);
    },
  };
  const applicationRing = new KeyRing({ name: "web", kms, store: keys, clock, rotation: "manual" });
  const application = new SessionStore<{ n: number }>({
    ring: applicationRing,
    store: envelopes,
    ...sessions,
  } as never);
  return {
    deployment,
    context,
    ...record,
    interrupt: () => controller.abort(),
    envelopes,
    keys,
    ring: applicationRing,
    application,
    advance: (ms: number) => {
      time.now += ms;
    },
    now: clock,
    time,
  };
}

/** @returns a local KMS with a key of its own. */
export function testKms(name = "local"): Kms {
  const keyVariable = `TEST_KEY_${randomBytes(6).toString("hex")}`;
  process.env[keyVariable] = randomBytes(32).toString("base64url");
  return localKms({ name, keyVariable });
}

/** Publishes a key as the first one, and starts so many sessions under it. @returns its id */
export async function seed({ ring, application }: ReturnType<typeof memoryDeployment>, count: number): Promise<string> {
  const keyId = await ring.publish({ delayMs: 0 });
  for (let n = 0; n < count; n++) await application.create({ n });
  return keyId;
}
