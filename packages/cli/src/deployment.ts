/**
 * What the commands work on: one ring and the sessions under it, opened as the application opens them. Nothing rotates here by itself.
 */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import {
  type BulkEnvelopeStore,
  DIAGNOSTICS_CHANNEL,
  type DiagnosticEvent,
  KeyRing,
  type KeyRingStore,
  Sealer,
  type SealerOptions,
  SessionStore,
  type StoredIdMode,
} from "@sealed-session/core";
import { redisKeyRingStore, redisStore } from "@sealed-session/redis";
import { type SealRedisSessionsOptions, type SealReport, sealPlaintextSessions } from "@sealed-session/redis/rotate";
import { CliError } from "./cli-error.js";
import type { Settings } from "./config-schema.js";
import { type KmsRequest, KmsTrail } from "./kms-trail.js";
import { type LoadAws, openKms } from "./open-kms.js";
import { connectRedis } from "./redis-connection.js";
import { policyOf, type RingPolicy } from "./ring-policy.js";
import type { Warning } from "./terminal.js";
import { WatchedStore } from "./watched-store.js";

/** One ring and its sessions. */
export interface Deployment {
  readonly ring: KeyRing;
  /** Where the ring lies. */
  readonly keys: KeyRingStore;
  /** Where the sessions lie. Its walks can be watched. */
  readonly store: WatchedStore;
  /** What opens and seals as the application does. */
  readonly sealer: Sealer;
  /** Counts sessions; attached to the ring, which asks it before a key retires. */
  readonly sessions: SessionStore;
  readonly policy: RingPolicy;
  /** What goes before the keys in Redis; empty without one. */
  readonly namespace: string;
  /** With `verbatim` a stored id is a session id, and a secret. */
  readonly storedIds: StoredIdMode;
  /** Names of the KMSs, in the order of preference. */
  readonly kms: readonly string[];
  /** Names of those that were given up. */
  readonly droppedKms: readonly string[];
  /** Seals the sessions that another store wrote in clear. */
  readonly sealPlaintext: (options: SealOptions) => Promise<SealReport>;
  /** Requests to KMSs so far. */
  readonly kmsRequests: () => readonly KmsRequest[];
}

/** What is up to whoever runs `rotate seal`; the rest is in the configuration. */
type SealOptions = Pick<
  SealRedisSessionsOptions,
  "prefix" | "dryRun" | "ratePerSecond" | "shard" | "onProgress" | "signal"
>;

/** A {@link Deployment} that is closed at the end. */
export interface OpenedDeployment extends Deployment {
  close(): Promise<void>;
}

/** What opening is given. */
export interface OpenOptions {
  readonly onWarning: (warning: Warning) => void;
  /** Loads the packages of AWS KMS. */
  readonly loadAws?: LoadAws;
}

/** Reads over a busy cluster, and while it fails over: nobody waits for a page here. */
const TIMES = { commandTimeoutMs: 5000, failoverTimeoutMs: 60_000 } as const;
const KMS_TIMEOUT_MS = 15_000;

/**
 * Opens what the settings describe.
 *
 * @throws CliError `CONFIG_INVALID`, `REDIS_UNREACHABLE`; SealedSessionError `LOCAL_KMS_REFUSED`.
 */
export async function openDeployment(
  settings: Settings,
  { onWarning, loadAws }: OpenOptions,
): Promise<OpenedDeployment> {
  const trail = new KmsTrail(Date.now);
  const { namespace = "" } = settings.redis;
  const kms = await ofSection("ring.kms", () => openKms(settings.ring.kms, trail, loadAws));
  const stopEvents = warnOfEvents(settings.ring.name, onWarning);
  try {
    const { client, close } = await connectRedis(settings.redis);
    const places = namespace === "" ? {} : { namespace };
    const store = redisStore(client, { ...places, ...TIMES });
    const keys = redisKeyRingStore(client, { ...places, commandTimeoutMs: TIMES.commandTimeoutMs, onWarning });
    const closeAll = async (ring?: KeyRing) => {
      ring?.close();
      stopEvents();
      await keys.close();
      close();
      kms.close();
    };
    try {
      const assembled = assemble(settings, { keys, store, kms: kms.kms });
      const close = () => closeAll(assembled.ring);
      const { ring, sealer, storedIds } = assembled;
      const { idleSeconds, absoluteSeconds } = settings.sessions;
      const lives = {
        ...(idleSeconds !== undefined && { idleMs: 1000 * idleSeconds }),
        ...(absoluteSeconds !== undefined && { absoluteMs: 1000 * absoluteSeconds }),
      };
      const common = { client, ring, sealer, storedIds, ...lives, ...places, ...TIMES };
      const sealPlaintext: Deployment["sealPlaintext"] = (options) => sealPlaintextSessions({ ...common, ...options });
      return { ...assembled, namespace, sealPlaintext, kmsRequests: () => trail.requests, close };
    } catch (error) {
      await closeAll();
      throw error;
    }
  } catch (error) {
    stopEvents();
    kms.close();
    throw error;
  }
}

/** What a {@link Deployment} is made of. */
export interface Parts {
  readonly keys: KeyRingStore;
  readonly store: BulkEnvelopeStore;
  readonly kms: Awaited<ReturnType<typeof openKms>>["kms"];
  /** Milliseconds since 1970-01-01T00:00:00Z. @defaultValue Date.now */
  readonly clock?: () => number;
}

/** Puts ring, sealer and session store together over stores and KMSs that are open. @throws CliError `CONFIG_INVALID` */
export function assemble(
  { ring: ringSettings, sessions: sealing }: Pick<Settings, "ring" | "sessions">,
  { keys, store, kms, clock = Date.now }: Parts,
): Omit<Deployment, "namespace" | "sealPlaintext" | "kmsRequests"> {
  const { name, rotationPeriodMs, maxSealingAgeMs, refreshIntervalMs, revokedKeyIds, droppedKms } = ringSettings;
  const watched = new WatchedStore(store);
  const ring = inSection(
    "ring",
    () =>
      new KeyRing({
        name,
        kms,
        store: keys,
        clock,
        // Only what was asked for: `rotate status` must not publish a key.
        rotation: "manual",
        kmsTimeoutMs: KMS_TIMEOUT_MS,
        ...(rotationPeriodMs !== undefined && { rotationPeriodMs }),
        ...(maxSealingAgeMs !== undefined && { maxSealingAgeMs }),
        ...(refreshIntervalMs !== undefined && { refreshIntervalMs }),
        ...(revokedKeyIds !== undefined && { revokedKeyIds }),
        ...(droppedKms !== undefined && { droppedKms }),
      }),
  );
  const { storedIds = "digest", idleSeconds, namespace, purpose, clientBound, inlineKeys, maxEnvelopeBytes } = sealing;
  const sealerOptions: SealerOptions = {
    ring,
    ...(namespace !== undefined && { namespace }),
    ...(purpose !== undefined && { purpose }),
    ...(clientBound !== undefined && { clientBound }),
    ...(inlineKeys !== undefined && { inlineKeys }),
    ...(maxEnvelopeBytes !== undefined && { maxEnvelopeBytes }),
  };
  const idle = idleSeconds === undefined ? {} : { idleSeconds };
  return inSection("sessions", () => ({
    ring,
    keys,
    store: watched,
    // The session store counts what both seal.
    sealer: new Sealer({ ...sealerOptions, counted: true }),
    sessions: new SessionStore({ ...sealerOptions, ...idle, storedIds, store: watched }),
    policy: policyOf(ringSettings),
    storedIds,
    kms: kms.map((member) => member.name),
    droppedKms: droppedKms ?? [],
  }));
}

/** The libraries check again, also one field against another; their messages begin with the field's name. */
function inSection<T>(section: string, make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw asConfigError(section, error);
  }
}

async function ofSection<T>(section: string, make: () => Promise<T>): Promise<T> {
  try {
    return await make();
  } catch (error) {
    throw asConfigError(section, error);
  }
}

function asConfigError(section: string, error: unknown): unknown {
  if (!(error instanceof TypeError) && !(error instanceof RangeError)) return error;
  return new CliError("CONFIG_INVALID", `${section}.${error.message}`, { cause: undefined });
}

/** What goes on in the ring and would otherwise not be told. */
function warnOfEvents(ring: string, onWarning: (warning: Warning) => void): () => void {
  const listener = (message: unknown) => {
    const event = message as DiagnosticEvent;
    if ("ring" in event && event.ring !== ring) return;
    const text = sentenceOf(event);
    if (text !== undefined) onWarning({ code: event.type.toUpperCase().replaceAll("-", "_"), message: text });
  };
  subscribe(DIAGNOSTICS_CHANNEL, listener);
  return () => void unsubscribe(DIAGNOSTICS_CHANNEL, listener);
}

function sentenceOf(event: DiagnosticEvent): string | undefined {
  switch (event.type) {
    case "key-record-refused":
      return `the record of key ${event.keyId} is not used: ${event.reason}`;
    case "key-record-restored":
      return `the record of key ${event.keyId} was lost or altered in the ring, and was put back`;
    case "key-denied":
      return `the KMS ${event.kms} refuses key ${event.keyId} now`;
    case "kms-failed":
      return `the KMS ${event.kms} failed (${event.code ?? "unknown error"})`;
    case "kms-circuit-opened":
      return `the KMS ${event.kms} failed again and again and is not asked for a while`;
    case "ring-refresh-failed":
      return `the ring could not be read anew (${event.code ?? "unknown error"})`;
    case "ring-rotation-failed":
      return `no new key could be published (${event.code ?? "unknown error"})`;
    default:
      return undefined;
  }
}
