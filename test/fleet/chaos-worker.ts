/**
 * One process of the fleet: a real ring over a real Redis Cluster, which seals all the time and opens what it is handed. It
 * expects to be killed at any moment.
 */
import { subscribe } from "node:diagnostics_channel";
import {
  DIAGNOSTICS_CHANNEL,
  type DiagnosticEvent,
  KeyRing,
  type KeyRingStore,
  localKms,
  parseEnvelope,
  Sealer,
} from "@sealed-session/core";
import { redisKeyRingStore } from "@sealed-session/redis";
import { Cluster } from "ioredis";
import { contentOf, type FromWorker, type ToWorker, type WorkerSettings } from "./chaos-messages.js";

const settings: WorkerSettings = JSON.parse(process.argv[2] ?? "");
const { rotationPeriodMs, maxSealingAgeMs, refreshIntervalMs } = settings;

const client = new Cluster([...settings.addresses]);
// What goes wrong shows in the commands.
client.on("error", () => {});
const redisRings = observed(redisKeyRingStore(client));
const store = settings.store === "redis" ? redisRings : forgetful(redisRings);
const kms = localKms({ keyFile: settings.keyFile });
const ring = new KeyRing({ name: settings.ring, kms, store, rotationPeriodMs, maxSealingAgeMs, refreshIntervalMs });
const sealer = new Sealer({ ring });

subscribe(DIAGNOSTICS_CHANNEL, (message) => {
  const event = message as DiagnosticEvent;
  const { type, ...details } = event;
  note("keyId" in event ? event.keyId : undefined, `${type} ${JSON.stringify(details)}`);
});

process.on("message", ({ open }: ToWorker) => {
  for (const envelope of open) openOne(envelope);
});
// Nobody is left to kill this process.
process.on("disconnect", () => process.exit());

watchKeys();
if (settings.sealEveryMs > 0) sealOn(0);

/** Seals one envelope after the other for as long as this process lives. */
async function sealOn(count: number): Promise<void> {
  const storedId = `${settings.name}-${process.pid}-${count}`;
  const sealed = await sealOne(storedId);
  setTimeout(() => sealOn(count + (sealed ? 1 : 0)), settings.sealEveryMs);
}

let warm = false;

async function sealOne(storedId: string): Promise<boolean> {
  try {
    const from = Date.now();
    const bytes = await sealer.seal(contentOf(storedId), storedId);
    const to = Date.now();
    warm = true;
    const keyId = Buffer.from(parseEnvelope(bytes)?.keyId ?? []).toString("base64url");
    tell({ type: "sealed", storedId, bytes, keyId, from, to });
    return true;
  } catch (error) {
    tell({ type: "not-sealed", ...described(error), warm });
    return false;
  }
}

async function openOne({ number, storedId, bytes }: ToWorker["open"][number]): Promise<void> {
  try {
    tell({ type: "opened", number, value: await sealer.open(bytes, storedId) });
  } catch (error) {
    tell({ type: "refused", number, ...described(error), at: Date.now() });
  }
}

/** Tells of the ring's keys whenever one of them has changed. */
function watchKeys(): void {
  let told = "";
  setInterval(() => {
    const keys = ring.status();
    const state = JSON.stringify(keys);
    if (state !== told) tell({ type: "keys", keys });
    told = state;
  }, 20);
}

/** The same store, which tells what it was asked and answered. */
function observed(inner: KeyRingStore): KeyRingStore {
  let known = new Set<string>();
  return {
    now: () => inner.now(),
    async read(name) {
      const records = await inner.read(name);
      const found = new Set(records.map(({ keyId }) => keyId));
      for (const keyId of found) if (!known.has(keyId)) note(keyId, "found in the ring");
      for (const keyId of known) if (!found.has(keyId)) note(keyId, "has gone from the ring");
      known = found;
      return records;
    },
    async write(name, keyId, record, options = {}) {
      const condition = Object.keys(options).join() || "absent";
      try {
        const result = await inner.write(name, keyId, record, options);
        note(keyId, `write (${condition}): written ${result.written}, durable ${result.durable}`);
        return result;
      } catch (error) {
        note(keyId, `write (${condition}): ${described(error).code} ${described(error).reason}`);
        throw error;
      }
    },
  };
}

/** Takes a record once and is content with it: neither waits for a replica nor puts back what was lost. */
function forgetful(inner: KeyRingStore): KeyRingStore {
  const known = new Set<string>();
  return {
    now: () => inner.now(),
    async read(name) {
      const records = await inner.read(name);
      for (const { keyId } of records) known.add(keyId);
      return records;
    },
    async write(name, keyId, record, options) {
      if (known.has(keyId)) return { written: true, durable: true };
      const { written } = await inner.write(name, keyId, record, options);
      known.add(keyId);
      return { written, durable: written };
    },
  };
}

function note(keyId: string | undefined, text: string): void {
  tell({ type: "note", keyId, text });
}

function tell(message: FromWorker): void {
  // The parent may just be going.
  if (process.connected) process.send?.(message, undefined, {}, () => {});
}

function described(error: unknown): { code: string; reason: string } {
  const { code = "none", message = "", cause } = error as { code?: string; message?: string; cause?: Error };
  return { code, reason: cause === undefined ? message : `${message} (${cause.message})` };
}
