/**
 * The process that re-seals, alone with its memory: it is told when to begin, and tells how far it is and what it needed.
 */
import { KeyRing, localKms, type RotationProgress, rotateSessions, Sealer } from "@sealed-session/core";
import { redisKeyRingStore, redisStore } from "@sealed-session/redis";
import { Cluster } from "ioredis";
import { MemoryMeter } from "./memory-meter.js";
import type { FromRotating, RotatingSettings, ToRotating } from "./messages.js";
import { lyingStore, waitingStore } from "./rotating-store.js";

const TELL_EVERY_MS = 10;
const COMMAND_TIMEOUT_MS = 5000;

const contended = new Set<string>();
const waiting = new Map<number, () => void>();
let start = () => {};

process.on("message", (message: ToRotating) => {
  if (message.type === "settings") run(message.settings).catch(tellFailure);
  else if (message.type === "start") start();
  else waiting.get(message.number)?.();
});
// Nobody is left to tell.
process.on("disconnect", () => process.exit());

async function run(settings: RotatingSettings): Promise<void> {
  const { namespace, keyFile, lie, ratePerSecond } = settings;
  for (const storedId of settings.contended) contended.add(storedId);
  const client = new Cluster([...settings.addresses]);
  // What goes wrong shows in the commands.
  client.on("error", () => {});
  const keys = redisKeyRingStore(client, { namespace, onWarning: () => {} });
  const ring = new KeyRing({ name: settings.ring, kms: localKms({ keyFile }), store: keys, rotation: "manual" });
  const sealer = new Sealer({ ring, counted: true });
  const redis = redisStore(client, { namespace, commandTimeoutMs: COMMAND_TIMEOUT_MS });
  const told = lie === undefined ? redis : lyingStore(redis, client, `${namespace}:session:`, lie);
  const store = waitingStore(told, letOthersChange);
  await ring.ready();
  const started = new Promise<void>((resolve) => {
    start = resolve;
  });
  tell({ type: "ready" });
  await started;

  const memory = new MemoryMeter();
  const startedAt = performance.now();
  const rate = ratePerSecond === undefined ? {} : { ratePerSecond };
  const report = await rotateSessions({ ring, sealer, store, onProgress: progressTeller(), ...rate });
  const elapsedMs = performance.now() - startedAt;
  tell({ type: "done", report, elapsedMs, memory: memory.end() });
}

/** Each of the contended ones is changed by others once, between its read and its change here. */
async function letOthersChange(changes: readonly { readonly storedId: string }[]): Promise<void> {
  if (contended.size === 0) return;
  const storedIds = changes.map(({ storedId }) => storedId).filter((storedId) => contended.delete(storedId));
  if (storedIds.length === 0) return;
  // It becomes less each time.
  const number = contended.size;
  const changed = new Promise<void>((resolve) => waiting.set(number, resolve));
  tell({ type: "about to change", number, storedIds });
  await changed;
  waiting.delete(number);
}

function progressTeller(): (progress: RotationProgress) => void {
  let toldAt = Number.NEGATIVE_INFINITY;
  return ({ examined, resealed, total }) => {
    if (performance.now() - toldAt < TELL_EVERY_MS) return;
    toldAt = performance.now();
    tell({ type: "progress", examined, resealed, total });
  };
}

function tellFailure(error: unknown): void {
  tell({ type: "failed", reason: String(error) });
}

function tell(message: FromRotating): void {
  process.send?.(message, undefined, {}, () => {});
}
