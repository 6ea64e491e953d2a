/**
 * The ring: which data keys there are, which one seals now, and their unwrapped forms in this process (format section 5).
 *
 * A warm request asks only `currentIfWarm` and `byIdIfWarm`, which never wait. What waits for the store or the KMS happens in the
 * background, every refresh interval: reading the ring, asking the KMS again, publishing the next key ahead of its time, and retiring
 * keys that no session needs any more.
 */
import { backend } from "#backend";
import type { RandomFill } from "./aead.js";
import { requireInteger, requireMethods, requireUtf8 } from "./argument.js";
import { base64url, equal, latin1 } from "./bytes.js";
import { chooseCurrent, endsOfSealing } from "./current-key.js";
import {
  type DataKey,
  encodeRecord,
  type KeyPurpose,
  type KeyRecord,
  keyIdOf,
  MAX_KMS_NAME_BYTES,
  RecordState,
  wrongPurpose,
} from "./data-key.js";
import { report } from "./diagnostics.js";
import { KEY_ID_BYTES } from "./envelope.js";
import { codeOf, rejected, SealedSessionError } from "./errors.js";
import { isKeyId, type KeyRingStore } from "./key-ring-store.js";
import type { Kms } from "./kms.js";
import { KmsSet } from "./kms-set.js";
import { Pace } from "./pace.js";
import { RingPublisher } from "./ring-publisher.js";
import { RingReader } from "./ring-reader.js";
import { elapsed, type KeyState, type RingEntry, RingRecords } from "./ring-records.js";
import { type Schedule, systemSchedule } from "./schedule.js";

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;
const MAX_RING_NAME_BYTES = 128;
/** Begins the name of a ring for an index. The KMS authenticates the name: no process can take such a key for one that seals, or the other way. */
const INDEX_RING_PREFIX = "index:";
const MAX_UNKNOWN_IDS = 1024;
const NEVER = Number.NEGATIVE_INFINITY;
/** Refresh intervals after which a process whose timers did not run asks the ring before it goes on. */
const STALE_INTERVALS = 5;
/** Refresh intervals for which a record that every KMS refused is left alone. */
const REFUSED_INTERVALS = 5;
/** Refresh intervals by which the next key is published ahead, and the least of them. */
const LEAD_INTERVALS = 4;
const LEAST_LEAD_INTERVALS = 2;
/** Times that a process without a key asks the ring and the KMS in one refresh interval, and how many of them at once. */
const STARTS_PER_INTERVAL = 60;
const START_BURST = 5;
/** Allowance of format 5.6, before a key retires. */
const RETIREMENT_SLACK_MS = HOUR_MS;
/** Stands for everything that nobody counts. */
const UNCOUNTED = {};

/** Options of {@link KeyRing}. Times are in milliseconds. */
export interface KeyRingOptions {
  /**
   * Name of the ring, 1 to 128 bytes of UTF-8 without braces. It is bound into every wrapped key: a record of another ring does not open. A ring whose
   * name begins with `index:` is one for an index of principals, and seals nothing.
   */
  readonly name: string;
  /** The KMS, or up to eight in the order of preference: every data key is wrapped under all, and opened by the first that answers. */
  readonly kms: Kms | readonly Kms[];
  /** Where the records lie. */
  readonly store: KeyRingStore;
  /**
   * How often a new key seals, 1 ms to 3650 days.
   *
   * @defaultValue 86400000 (24 h)
   */
  readonly rotationPeriodMs?: number;
  /**
   * Whether the ring rotates by itself. `automatic`: any process publishes the next key ahead of its time, and retires keys that no session
   * needs any more. `manual`: this process only reads; somebody else calls {@link KeyRing.publish} in time, for the first key too.
   *
   * @defaultValue "automatic"
   */
  readonly rotation?: "automatic" | "manual";
  /**
   * How old the current key may get when it has no successor, from one rotation period to 7300 days. Then it only opens.
   *
   * @defaultValue two rotation periods
   */
  readonly maxSealingAgeMs?: number;
  /**
   * How often this process reads the ring, in the background and up to a quarter sooner: 1 ms to a quarter of the rotation period, at least 1 ms.
   *
   * @defaultValue 60000 (1 min), or an eighth of the rotation period where that is shorter
   */
  readonly refreshIntervalMs?: number;
  /**
   * How long after its key has stopped sealing a session is sealed anew when it is read or touched: 0 to 3650 days.
   *
   * @defaultValue 3600000 (1 h)
   */
  readonly resealAfterMs?: number;
  /**
   * Within what time this process asks each KMS whether it may still use its keys: one refresh interval to 24 h. One call for each KMS, not
   * for each key.
   *
   * @defaultValue 300000 (5 min), or the refresh interval where that is longer
   */
  readonly recheckIntervalMs?: number;
  /**
   * For how long keys in memory serve while no KMS answers, from the re-check interval to 3650 days. After that they neither seal nor open
   * (`KEY_UNAVAILABLE`) until it does.
   *
   * @defaultValue 21600000 (6 h), or the re-check interval where that is longer
   */
  readonly outageLimitMs?: number;
  /**
   * After how long without an answer a call to a KMS counts as `KMS_UNREACHABLE`, its own retries included: 1 ms to 10 minutes.
   *
   * @defaultValue 5000
   */
  readonly kmsTimeoutMs?: number;
  /** Key ids (base64url) that count as revoked whatever the ring says. @defaultValue none */
  readonly revokedKeyIds?: readonly string[];
  /**
   * Names of KMSs that were given up: their wraps are ignored wherever they turn up, so that they can be taken out of the ring for good (format 5.6). To be
   * listed in every process before {@link KeyRing.rewrap} drops them.
   *
   * @defaultValue none
   */
  readonly droppedKms?: readonly string[];
  /** For each data key, senders of other processes whose derived AES key is kept: 1 to 1000000. @defaultValue 1024 */
  readonly maxCachedSenders?: number;
  /** Milliseconds since 1970-01-01T00:00:00Z. @defaultValue Date.now */
  readonly clock?: () => number;
  /** Source of random bytes. @defaultValue the system's CSPRNG */
  readonly random?: RandomFill;
  /** Timers: calls a function once after some milliseconds, and returns what cancels that. @defaultValue setTimeout, which does not hold the process open */
  readonly schedule?: Schedule;
}

/** What is sealed under a ring's keys somewhere, so that the ring knows when a key is no longer needed. */
export interface Population {
  /** What the keys do for it; a ring does only one of the two. @defaultValue "sealing" */
  readonly purpose?: KeyPurpose;
  /** The longest time that one of them lives without being written or touched, in milliseconds. */
  readonly maxTtlMs: number;
  /**
   * Counts them all.
   *
   * @returns How many are sealed under each key, by key id in base64url.
   * @defaultValue Nobody can count them: no key of the ring retires.
   */
  count?(): Promise<ReadonlyMap<string, number>>;
}

/** Options of {@link KeyRing.publish}. */
export interface PublishOptions {
  /**
   * From when on the key seals, in milliseconds from now: 0 to two rotation periods.
   *
   * @defaultValue two refresh intervals, so that all processes know it by then
   */
  readonly delayMs?: number;
}

/** Options of {@link KeyRing.rewrap}. */
export interface RewrapOptions {
  /** The name of the KMS under which every key is to be wrapped. */
  readonly to: string;
  /** Takes the wraps of `droppedKms` out of the records. @defaultValue false */
  readonly dropOld?: boolean;
}

/** What {@link KeyRing.rewrap} did to one key. */
export interface RewrappedKey {
  /** The key id in base64url. */
  readonly keyId: string;
  /** `present`: it was wrapped so already. `rewrapped inside the KMS`: the data key did not leave it. `failed`: `failure` tells why. */
  readonly outcome: "present" | "rewrapped" | "rewrapped inside the KMS" | "failed";
  /** Names of the KMSs that wrap it now. */
  readonly kms: readonly string[];
  /** The error, for one that failed. */
  readonly failure: unknown;
}

/** One key, as {@link KeyRing.status} shows it. */
export interface KeyStatus {
  /** The key id in base64url. */
  readonly keyId: string;
  /** Where it stands in this process. */
  readonly state: KeyState;
  /** From when on it seals, in milliseconds since 1970-01-01T00:00:00Z. */
  readonly activatesAt: number;
  /** Names of the KMSs that wrap it. */
  readonly kms: readonly string[];
}

/**
 * A ring of data keys, shared by all processes that use the same name, store and KMS.
 *
 * All methods that wait reject with `KEY_UNAVAILABLE` when the key cannot be had now (its `cause` tells why), and with `CLOSED` after
 * {@link KeyRing.close}.
 */
export class KeyRing {
  /** The ring's name. */
  readonly name: string;
  /** What its keys are for: `index` where the name begins with `index:`. */
  readonly purpose: KeyPurpose;
  /** Source of random bytes of everything that seals with this ring. */
  readonly random: RandomFill;
  /** The clock of everything that seals with this ring. */
  readonly clock: () => number;

  readonly #kms: KmsSet;
  readonly #records: RingRecords;
  readonly #reader: RingReader;
  readonly #publisher: RingPublisher;
  readonly #schedule: Schedule;
  readonly #rotationPeriodMs: number;
  readonly #isAutomatic: boolean;
  readonly #maxSealingAgeMs: number;
  readonly #refreshIntervalMs: number;
  readonly #resealAfterMs: number;
  readonly #recheckIntervalMs: number;
  readonly #attached = new Map<object, Population>();
  /** Ids that a reload did not find, and when that was. */
  readonly #unknown = new Map<string, number>();
  /** When this process will try to retire a key: drawn for each, so that one process does it. */
  readonly #retireAt = new Map<string, number>();
  /** How often a count has kept a key from retiring. */
  readonly #refusals = new Map<string, number>();
  #current: DataKey | undefined;
  #chooseAgainAt = 0;
  #chosenAt = 0;
  /** When each key stops sealing, by the 12 bytes of its id as latin1. */
  #stopsAt: ReadonlyMap<string, number> = new Map();
  #recheckedAt = NEVER;
  #starting: Promise<DataKey> | undefined;
  /** Why no key could be had when that was last tried; tried again only at a pace, however many requests come. */
  #startFailure: unknown;
  /** Since when this process has had no key to seal with. */
  #hopingSince: number | undefined;
  /** When this process was first asked whether it is ready. */
  #askedReadyAt: number | undefined;
  readonly #startPace: Pace;
  #retiring: Promise<void> | undefined;
  #catchingUp: Promise<void> | undefined;
  #maintaining: Promise<void> | undefined;
  #cancelTimer: (() => void) | undefined;
  #closed = false;

  /** @throws TypeError or RangeError when an option is wrong. */
  constructor(options: KeyRingOptions) {
    this.name = requireUtf8("name", options.name, 1, MAX_RING_NAME_BYTES);
    if (/[{}]/.test(this.name)) throw new RangeError("name must not hold braces");
    this.purpose = this.name.startsWith(INDEX_RING_PREFIX) ? "index" : "sealing";
    const store = requireMethods("store", options.store, "read", "write", "now");
    const interval = (
      field: keyof KeyRingOptions,
      value: number | undefined,
      byDefault: number,
      range: [number, number],
    ) => requireInteger(field, value ?? byDefault, ...range);
    const period = interval("rotationPeriodMs", options.rotationPeriodMs, DAY_MS, [1, 3650 * DAY_MS]);
    const sealingAge = interval("maxSealingAgeMs", options.maxSealingAgeMs, 2 * period, [period, 7300 * DAY_MS]);
    const defaultRefresh = Math.min(MINUTE_MS, Math.max(1, Math.floor(period / 8)));
    const maxRefresh = Math.max(1, Math.floor(period / 4));
    const refresh = interval("refreshIntervalMs", options.refreshIntervalMs, defaultRefresh, [1, maxRefresh]);
    const defaultRecheck = Math.max(5 * MINUTE_MS, refresh);
    const recheck = interval("recheckIntervalMs", options.recheckIntervalMs, defaultRecheck, [
      refresh,
      Math.max(DAY_MS, refresh),
    ]);
    const outage = interval("outageLimitMs", options.outageLimitMs, Math.max(6 * HOUR_MS, recheck), [
      recheck,
      3650 * DAY_MS,
    ]);
    this.#rotationPeriodMs = period;
    this.#maxSealingAgeMs = sealingAge;
    this.#refreshIntervalMs = refresh;
    this.#recheckIntervalMs = recheck;
    this.#resealAfterMs = interval("resealAfterMs", options.resealAfterMs, HOUR_MS, [0, 3650 * DAY_MS]);
    const rotation = options.rotation ?? "automatic";
    if (rotation !== "automatic" && rotation !== "manual")
      throw new RangeError('rotation must be "automatic" or "manual"');
    this.#isAutomatic = rotation === "automatic";

    this.clock = options.clock ?? Date.now;
    this.random = options.random ?? backend.randomFill;
    this.#schedule = options.schedule ?? systemSchedule;
    const { name, clock } = this;
    this.#startPace = new Pace(clock, refresh / STARTS_PER_INTERVAL, START_BURST);
    const schedule = this.#schedule;
    const maxSenders = requireInteger("maxCachedSenders", options.maxCachedSenders ?? 1024, 1, 1_000_000);
    const timeoutMs = requireInteger("kmsTimeoutMs", options.kmsTimeoutMs ?? 5000, 1, 600_000);
    this.#kms = new KmsSet(name, options.kms, {
      timeoutMs,
      clock,
      schedule,
      dataKeys: { random: this.random, maxSenders, purpose: this.purpose },
    });
    this.#records = new RingRecords(name, this.#kms, {
      clock,
      maxAheadMs: 2 * period,
      refusedRetryMs: REFUSED_INTERVALS * refresh,
      outageLimitMs: outage,
      revoked: requireKeyIds(options.revokedKeyIds ?? []),
      droppedKms: requireDropped(options.droppedKms ?? [], this.#kms),
      opensRevoked: this.purpose === "index",
    });
    const records = this.#records;
    this.#reader = new RingReader({
      name,
      store,
      records,
      clock,
      schedule,
      refreshIntervalMs: refresh,
      maxSealingAgeMs: sealingAge,
      onChange: () => this.#choose(this.clock()),
    });
    this.#publisher = new RingPublisher({
      name,
      kms: this.#kms,
      store,
      records,
      reader: this.#reader,
      clock,
      refreshIntervalMs: refresh,
      maxPauseMs: period,
      current: () => this.#current,
      onChange: () => this.#choose(this.clock()),
    });
  }

  /**
   * Makes this process ready: reads the ring, has all its keys opened, and publishes one where none may seal. Afterwards no request waits for
   * the KMS. For start-up and readiness probes; costs nothing once the ring is warm.
   *
   * @throws SealedSessionError `KEY_UNAVAILABLE` when no key may seal, or a KMS that gives no answer keeps one from being opened (`cause` tells
   *   why); `CLOCK_SKEW`, `CLOSED`.
   */
  async ready(): Promise<void> {
    await this.current();
    const entries = () => this.#records.entries();
    const untried = () => entries().filter(([keyId, entry]) => this.#records.isUntried(keyId, entry)).length;
    for (
      let before = Number.POSITIVE_INFINITY, now = untried();
      now > 0 && now < before;
      before = now, now = untried()
    ) {
      await this.#records.verify();
    }
    this.#askedReadyAt ??= this.clock();
    // Of several KMSs one may be out for long: what only that one opens is then left for later.
    const isHoping = elapsed(this.clock(), this.#askedReadyAt) < REFUSED_INTERVALS * this.#refreshIntervalMs;
    const pending = isHoping ? entries().find(([keyId, entry]) => this.#records.isPending(keyId, entry)) : undefined;
    if (pending !== undefined) {
      await this.#records.verify();
      this.#chooseNow();
      const [keyId, entry] = pending;
      if (this.#records.isPending(keyId, entry)) {
        throw this.#unavailable("a KMS that gives no answer keeps a key from being opened", entry.failure);
      }
    }
    this.#refuseClosed();
  }

  /**
   * Finds the key that seals now, for everything that seals. Publishes one, active at once, when none in the ring may seal: in an empty ring,
   * or when the last one is past its sealing age.
   *
   * @returns The key; the ring owns it.
   * @throws SealedSessionError `KEY_UNAVAILABLE`, `CLOCK_SKEW`, `CLOSED`.
   */
  async current(): Promise<DataKey> {
    this.#refuseClosed();
    const warm = this.currentIfWarm();
    if (warm !== undefined) return warm;
    // Many requests may find the ring cold at once.
    if (this.#starting === undefined) {
      if (this.#startFailure !== undefined && !this.#startPace.tryTake()) throw this.#startFailure;
      this.#starting = this.#start().finally(() => {
        this.#starting = undefined;
      });
      this.#starting.then(
        () => {
          this.#startFailure = undefined;
        },
        (error: unknown) => {
          this.#startFailure = error;
        },
      );
    }
    return this.#starting;
  }

  /** As {@link KeyRing.current}, without waiting: `undefined` when the ring must be asked. */
  currentIfWarm(): DataKey | undefined {
    const now = this.clock();
    if (!this.#isFresh(now)) return undefined;
    // Also when the clock was set back: what was current may now lie in the future.
    if (now >= this.#chooseAgainAt || now < this.#chosenAt) this.#choose(now);
    return this.#current;
  }

  /**
   * Finds the key that an envelope names.
   *
   * @param keyId - 12 bytes.
   * @returns The key; the ring owns it.
   * @throws SealedSessionError `KEY_REVOKED`, `KEY_RETIRED`, `KEY_DENIED`; `ENVELOPE_REJECTED` when the ring has no such key; `KEY_UNAVAILABLE`.
   */
  async byId(keyId: Uint8Array): Promise<DataKey> {
    this.#refuseClosed();
    const id = base64url(keyId);
    if (this.#isStale(this.clock())) await this.#catchUpOrReport();
    this.#enforceOutageLimit(this.clock());
    const warm = this.#records.find(id);
    if (warm !== undefined) return warm;
    const missedAt = this.#unknown.get(id);
    if (missedAt === undefined || elapsed(this.clock(), missedAt) >= this.#refreshIntervalMs) {
      await this.#whileClosing(this.#reader.reload(id));
      this.#arm();
    }
    const found = this.#records.find(id);
    if (found !== undefined) return found;
    const entry = this.#records.get(id);
    if (entry !== undefined) throw this.#unavailable("no KMS has opened the key's record", entry.failure);
    if (this.#records.isUnreadable(id)) throw this.#unavailable("the key's record cannot be used");
    if (this.#unknown.size >= MAX_UNKNOWN_IDS) this.#unknown.delete(this.#unknown.keys().next().value as string);
    this.#unknown.set(id, this.clock());
    throw rejected();
  }

  /** As {@link KeyRing.byId}, without waiting: `undefined` when the key is not at hand. */
  byIdIfWarm(keyId: Uint8Array): DataKey | undefined {
    return this.#isFresh(this.clock()) ? this.#records.byBytes(keyId) : undefined;
  }

  /**
   * Whether what is sealed under this key should be sealed anew: the key stopped sealing longer ago than `resealAfterMs`, and another one seals.
   *
   * @param keyId - 12 bytes.
   */
  isResealDue(keyId: Uint8Array): boolean {
    const current = this.currentIfWarm();
    if (current === undefined || equal(current.keyIdBytes, keyId)) return false;
    const stopsAt = this.#stopsAt.get(latin1(keyId, 0, KEY_ID_BYTES));
    return stopsAt !== undefined && this.clock() >= stopsAt + this.#resealAfterMs;
  }

  /**
   * Finds all keys of an index ring under which something may have been written: those that are not retired, the newest first.
   *
   * @param options - `anew` reads the ring first: another process may just have begun to write under a key that this one has not met.
   * @returns The keys; the ring owns them.
   * @throws SealedSessionError `KEY_UNAVAILABLE` when one of them is not at hand: without it something would seem not to be there. `CLOSED`.
   * @throws TypeError when this is a ring that seals.
   * @internal
   */
  async indexKeys({ anew = false }: { readonly anew?: boolean } = {}): Promise<readonly DataKey[]> {
    if (this.purpose !== "index") throw wrongPurpose(this.purpose);
    this.#refuseClosed();
    if (this.#isStale(this.clock())) await this.#catchUpOrReport();
    if (anew || this.#reader.readAt === NEVER) {
      await this.#whileClosing(this.#reader.refreshAnew()).finally(() => this.#arm());
    }
    this.#enforceOutageLimit(this.clock());
    const keys: (readonly [activatesAt: number, dataKey: DataKey])[] = [];
    for (const [keyId, entry] of this.#records.entries()) {
      const { record, dataKey, verified, failure } = entry;
      if (dataKey !== undefined) {
        keys.push([record.activatesAt, dataKey]);
      } else if (record.state !== RecordState.retired) {
        // What every KMS refuses and this process never held is somebody's junk, and blocks nothing (format 5.3).
        const mayBeKey = verified || this.#records.isPending(keyId, entry) || this.#records.isUntried(keyId, entry);
        if (mayBeKey) throw this.#unavailable("a key under which principals are indexed is not at hand", failure);
      }
    }
    return keys.sort(([a], [b]) => b - a).map(([, dataKey]) => dataKey);
  }

  /**
   * Opens a key record that travelled with an envelope (format 3.5). It never enters the ring.
   *
   * @returns A key that the caller wipes.
   * @throws SealedSessionError `KEY_REVOKED`, `ENVELOPE_REJECTED` when it does not verify, `KEY_UNAVAILABLE`.
   */
  async openInline(record: KeyRecord): Promise<DataKey> {
    this.#refuseClosed();
    this.#records.find(keyIdOf(record));
    const { dataKey, refused, failure } = await this.#kms.unwrap(record);
    if (dataKey !== undefined) return dataKey;
    // It opened, but to another key than it says. A denial may as well mean that this process lacks a permission.
    if (refused && failure === undefined) throw rejected();
    throw this.#unavailable("no KMS has opened the record in the envelope", failure);
  }

  /**
   * Encodes the record of a key, to travel with an envelope (format 3.5).
   *
   * @param dataKey - A key of this ring.
   * @returns The record's bytes.
   * @throws SealedSessionError `KEY_UNAVAILABLE` when the ring no longer holds the key; `KEY_RECORD_INVALID`.
   */
  inlineRecordOf(dataKey: DataKey): Uint8Array {
    const entry = this.#records.get(dataKey.keyId);
    if (entry === undefined) throw this.#unavailable("the key has left the ring");
    // Without what others may have added to the record in the ring.
    const wraps = entry.record.wraps.filter(({ kms }) => this.#kms.has(kms));
    return encodeRecord({ ...entry.record, wraps });
  }

  /**
   * Reads the ring, merges it with what this process knows, and unwraps what it can. Callers at the same time share one run. The ring
   * does so by itself; to be called before a look at {@link KeyRing.status}.
   *
   * @throws SealedSessionError `KEY_UNAVAILABLE` when the ring cannot be read, `CLOSED`. A record that no KMS opens is no error here.
   */
  async refresh(): Promise<void> {
    this.#refuseClosed();
    await this.#whileClosing(this.#reader.refresh()).finally(() => this.#arm());
    for (const keyId of this.#reader.storedIds) this.#unknown.delete(keyId);
  }

  /**
   * Adds a data key to the ring, for whoever rotates keys. Processes that publish at the same time add one between them.
   *
   * @returns The id of the newest key that is enabled: the new one, or the one that another process was first with.
   * @throws SealedSessionError `CLOCK_SKEW` when this process's clock and the store's differ by more than a refresh interval; `KEY_UNAVAILABLE`
   *   when the ring cannot be read or written, or no KMS makes a key; `CLOSED`.
   * @throws RangeError when `delayMs` is out of range.
   */
  async publish(options: PublishOptions = {}): Promise<string> {
    this.#refuseClosed();
    const delayMs = requireInteger(
      "delayMs",
      options.delayMs ?? LEAST_LEAD_INTERVALS * this.#refreshIntervalMs,
      0,
      2 * this.#rotationPeriodMs,
    );
    return this.#whileClosing(this.#publisher.publish({ delayMs })).finally(() => this.#arm());
  }

  /**
   * Revokes a key: what it sealed counts as gone, here at once and in other processes at their next refresh. A key that seals is replaced first. A
   * revoked key of an index ring names nothing new; what it named is found and removed as before.
   * Somebody who can write the ring can take a revocation back for processes that start later: list the id in `revokedKeyIds` as well.
   *
   * @param keyId - In base64url, as {@link KeyRing.status} shows it.
   * @throws SealedSessionError `KEY_UNAVAILABLE` when the ring's store does not take it; `CLOSED`. RangeError when the ring has no such key.
   */
  async revoke(keyId: string): Promise<void> {
    await this.#readFor(keyId);
    if (this.#current?.keyId === keyId) {
      // Nobody must be kept from revoking by a KMS that makes no key now.
      await this.#publisher.publish({ delayMs: 0 }).catch((error: unknown) => this.#reportFailedRotation(error));
    }
    await this.#whileClosing(this.#publisher.setState(keyId, RecordState.revoked));
    report({ type: "key-revoked", ring: this.name, keyId });
  }

  /**
   * Retires a key that no session needs any more: its record becomes a tombstone without wraps, so that nothing can open what it sealed, wherever
   * copies of that lie (crypto-shredding). The ring does so by itself where `rotation` is automatic.
   *
   * A process that is cut off from the ring goes on with the key that it knows until the end of the sealing age, so an enabled key cannot retire
   * before. One that was revoked can at once. A revoked key of an index ring is no exception: what it named must be found.
   *
   * @param keyId - In base64url, as {@link KeyRing.status} shows it.
   * @throws SealedSessionError `KEY_IN_USE` while the key may seal, something is sealed under it, or nothing is attached to the ring that could
   *   count; `STORE_UNAVAILABLE`, `KEY_UNAVAILABLE`, `CLOSED`. RangeError when the ring has no such key.
   */
  async retire(keyId: string): Promise<void> {
    await this.#readFor(keyId);
    const entry = this.#records.get(keyId) as RingEntry;
    const isIndex = this.purpose === "index";
    const isNeeded = isIndex || entry.record.state === RecordState.enabled;
    const stopsAt = entry.record.activatesAt + this.#maxSealingAgeMs + LEAST_LEAD_INTERVALS * this.#refreshIntervalMs;
    if (isNeeded && (await this.#publisher.now()) < stopsAt) {
      const use = isIndex ? "name principals" : "seal";
      throw new SealedSessionError("KEY_IN_USE", `ring ${this.name}: some process may still ${use} with this key`);
    }
    if (!this.#isCountable()) {
      throw new SealedSessionError(
        "KEY_IN_USE",
        `ring ${this.name}: no session store of this process counts what the key sealed`,
      );
    }
    const sessions = (await this.#countAll()).get(keyId) ?? 0;
    if (sessions > 0) {
      const use = isIndex ? "principals are indexed" : "sessions are sealed";
      throw new SealedSessionError("KEY_IN_USE", `ring ${this.name}: ${sessions} ${use} under this key`);
    }
    await this.#writeTombstone(keyId);
  }

  /**
   * Wraps all keys under one KMS, for moving to another key-encryption key: O(keys), no session is touched. Keys that are wrapped under it already are
   * left. What it writes is opened first, and other processes take it over at their next refresh; old wraps stay until `dropOld`.
   *
   * @returns What became of each key, the newest first. A key that no KMS could wrap anew is no error here.
   * @throws RangeError when `to` is not the name of a KMS of this ring; SealedSessionError `KEY_UNAVAILABLE` when the ring cannot be read or written;
   *   `CLOSED`.
   */
  async rewrap({ to, dropOld = false }: RewrapOptions): Promise<RewrappedKey[]> {
    this.#refuseClosed();
    if (!this.#kms.has(to)) throw new RangeError("to must be the name of a KMS of this ring");
    await this.refresh();
    const results: RewrappedKey[] = [];
    for (const { keyId, state } of this.status()) {
      if (state === "retired" || (state === "revoked" && this.purpose !== "index")) continue;
      results.push(await this.#rewrapOne(keyId, to, dropOld));
    }
    return results;
  }

  async #rewrapOne(keyId: string, to: string, dropOld: boolean): Promise<RewrappedKey> {
    let outcome: RewrappedKey["outcome"] = "present";
    let failure: unknown;
    try {
      await this.#publisher.setWraps(keyId, async (record) => {
        if (await this.#kms.opens(record, to)) return undefined;
        const { wrap, isInside } = await this.#kms.rewrap(record, to);
        outcome = isInside ? "rewrapped inside the KMS" : "rewrapped";
        return [...record.wraps.filter(({ kms }) => kms !== to), wrap];
      });
      if (dropOld) await this.#publisher.rewriteWithout(keyId);
    } catch (error) {
      if (codeOf(error) === undefined) throw error;
      outcome = "failed";
      failure = error;
    }
    return { keyId, outcome, kms: this.#records.get(keyId)?.record.wraps.map(({ kms }) => kms) ?? [], failure };
  }

  /**
   * Attaches what is sealed under this ring's keys, so that no key retires before its time. A {@link SessionStore} does so for itself.
   *
   * @param of - What it lies in: several populations of one store are walked over once.
   * @throws TypeError when the ring is not for that.
   * @internal
   */
  attach(population: Population, of: object = UNCOUNTED): void {
    if ((population.purpose ?? "sealing") !== this.purpose) throw wrongPurpose(this.purpose);
    const maxTtlMs = Math.max(population.maxTtlMs, this.#attached.get(of)?.maxTtlMs ?? 0);
    this.#attached.set(of, { ...population, maxTtlMs });
  }

  /**
   * Tells of all keys that this process knows, for operators and for whoever rotates keys. Reads nothing anew.
   *
   * @returns The keys, the newest first.
   */
  status(): KeyStatus[] {
    return this.#records
      .entries()
      .map(([keyId, entry]) => ({
        keyId,
        state: this.#records.stateOf(keyId, entry, this.#current),
        activatesAt: entry.record.activatesAt,
        kms: entry.record.wraps.map(({ kms }) => kms),
      }))
      .sort((a, b) => b.activatesAt - a.activatesAt);
  }

  /** To be called when the process image was copied or restored from a snapshot, before it seals again (format 2.4). */
  reseed(): void {
    for (const [, { dataKey }] of this.#records.entries()) dataKey?.reseed();
  }

  /** Forgets all keys and stops its timer. The ring cannot be used afterwards; the store and the KMS are left alone. */
  close(): void {
    this.#closed = true;
    this.#cancelTimer?.();
    this.#records.close();
    this.#current = undefined;
    this.#chooseAgainAt = Number.POSITIVE_INFINITY;
  }

  async #start(): Promise<DataKey> {
    try {
      await this.#catchUp();
    } catch (error) {
      // The ring cannot be read: what this process knows goes on.
      if (this.#chooseNow() === undefined) throw error;
    }
    this.#enforceOutageLimit(this.clock());
    if (this.#current === undefined && this.#isAutomatic && !this.#publisher.isPausing) {
      const unless = () => this.#current?.keyId ?? this.#hopefulKeyId();
      if (unless() === undefined) await this.#whileClosing(this.#publisher.publish({ delayMs: 0, unless }));
    }
    if (this.#current !== undefined) return this.#current;
    throw this.#unavailable(
      "no key may seal yet: none is both opened by a KMS and confirmed by a second copy",
      this.#records.failure(),
    );
  }

  /**
   * The key that would seal if it were confirmed, or opened by a KMS that gives no answer now: while there is one, no other is published. For a KMS it waits
   * some refresh intervals: of several one may be out for long, and somebody's junk may name it.
   */
  #hopefulKeyId(): string | undefined {
    const now = this.clock();
    this.#hopingSince ??= now;
    const isHoping = elapsed(now, this.#hopingSince) < REFUSED_INTERVALS * this.#refreshIntervalMs;
    const hopeful = this.#records
      .entries()
      .filter(([keyId, entry]) => !this.#records.isRevoked(keyId, entry))
      .filter(([keyId, entry]) => entry.dataKey !== undefined || (isHoping && this.#records.isPending(keyId, entry)))
      .map(([, entry]) => entry.record);
    const chosen = chooseCurrent(hopeful, now, { maxSealingAgeMs: this.#maxSealingAgeMs });
    return chosen === undefined ? undefined : keyIdOf(chosen);
  }

  /** Shared by all who find the ring cold, or stale after a time in which no timer ran. */
  #catchUp(): Promise<void> {
    this.#catchingUp ??= this.refresh()
      .finally(() => this.#recheckWhenDue())
      .finally(() => {
        this.#catchingUp = undefined;
      });
    return this.#catchingUp;
  }

  async #catchUpOrReport(): Promise<void> {
    try {
      await this.#catchUp();
    } catch (error) {
      this.#reportFailedRefresh(error);
    }
  }

  /** What this process does for the ring in each refresh interval. Never rejects. */
  async #maintain(): Promise<void> {
    try {
      await this.refresh();
    } catch (error) {
      this.#reportFailedRefresh(error);
    }
    await this.#recheckWhenDue();
    this.#enforceOutageLimit(this.clock());
    if (!this.#isAutomatic) return;
    try {
      await this.#publishWhenDue();
    } catch (error) {
      this.#reportFailedRotation(error);
    }
    // Counting may take minutes, and the ring has to be read meanwhile.
    this.#retiring ??= this.#retireWhenDue()
      .catch((error: unknown) => this.#reportFailedRotation(error))
      .finally(() => {
        this.#retiring = undefined;
      });
  }

  #maintainInBackground(): void {
    if (this.#closed) return;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
    this.#maintaining ??= this.#maintain().finally(() => {
      this.#maintaining = undefined;
      this.#arm();
    });
  }

  /** The next maintenance, up to a quarter of the interval sooner: a fleet that started at once must not read at once for ever. */
  #arm(): void {
    if (this.#closed || this.#cancelTimer !== undefined || this.#maintaining !== undefined) return;
    const delayMs = Math.ceil(this.#refreshIntervalMs * (1 - this.#draw() / 4));
    this.#cancelTimer = this.#schedule(() => this.#maintainInBackground(), delayMs);
  }

  /** A number from 0 to 1. */
  #draw(): number {
    const bytes = new Uint8Array(4);
    this.random(bytes);
    return new DataView(bytes.buffer).getUint32(0) / 2 ** 32;
  }

  /** Asks the KMSs again, a refresh interval early rather than late. */
  async #recheckWhenDue(): Promise<void> {
    const now = this.clock();
    const { allowedSince } = this.#records;
    if (this.#closed || allowedSince === Number.POSITIVE_INFINITY) return;
    if (elapsed(now, allowedSince) + this.#refreshIntervalMs < this.#recheckIntervalMs) return;
    this.#recheckedAt = now;
    await this.#records.recheck();
    this.#chooseNow();
  }

  /** Publishes the next key so far ahead that every process has opened it before it seals. */
  async #publishWhenDue(): Promise<void> {
    const leadMs = Math.min(LEAD_INTERVALS * this.#refreshIntervalMs, Math.floor(this.#rotationPeriodMs / 2));
    const newest = () => this.#newestUsable();
    const isDue = (entry: RingEntry | undefined): entry is RingEntry =>
      entry !== undefined && this.clock() >= entry.record.activatesAt + this.#rotationPeriodMs - leadMs;
    const last = newest();
    if (!isDue(last) || this.#publisher.isPausing) return;
    await this.#publisher.publish({
      delayMs: LEAST_LEAD_INTERVALS * this.#refreshIntervalMs,
      notBefore: last.record.activatesAt + this.#rotationPeriodMs,
      unless: () => (isDue(newest()) ? undefined : newest()?.dataKey?.keyId),
    });
  }

  #newestUsable(): RingEntry | undefined {
    let newest: RingEntry | undefined;
    for (const [keyId, entry] of this.#records.entries()) {
      if (entry.dataKey === undefined || this.#records.isRevoked(keyId, entry)) continue;
      if (newest === undefined || entry.record.activatesAt > newest.record.activatesAt) newest = entry;
    }
    return newest;
  }

  /**
   * Retires the keys that nothing can need any more. Each process draws its time within a rotation period, so that as a rule one process counts for
   * the whole fleet.
   */
  async #retireWhenDue(): Promise<void> {
    if (!this.#isCountable()) return;
    const now = this.clock();
    const unusedAfterMs = this.#maxSealingAgeMs + this.#longestTtlMs + this.#resealAfterMs + RETIREMENT_SLACK_MS;
    // Not the newest, nor the one that seals, whatever a wrong clock says.
    const newest = this.#newestUsable();
    const isDone = ([keyId, entry]: [string, RingEntry]) =>
      entry.verified &&
      entry !== newest &&
      keyId !== this.#current?.keyId &&
      entry.record.state !== RecordState.retired &&
      now >= entry.record.activatesAt + unusedAfterMs;
    const done = this.#records.entries().filter(isDone);
    for (const keyId of [...this.#retireAt.keys()])
      if (!done.some(([id]) => id === keyId)) this.#retireAt.delete(keyId);
    for (const [keyId] of done) {
      if (!this.#retireAt.has(keyId)) this.#retireAt.set(keyId, now + this.#draw() * this.#rotationPeriodMs);
    }
    const due = done.filter(([keyId]) => now >= (this.#retireAt.get(keyId) as number));
    if (due.length === 0) return;
    // Refuses when our clock is wrong.
    await this.#publisher.now();
    const counts = await this.#countAll();
    for (const [keyId] of due) {
      // Each count costs a walk over all sessions: what is left under a key for long is asked about less and less often.
      const refusals = Math.min((this.#refusals.get(keyId) ?? 0) + 1, 5);
      this.#refusals.set(keyId, refusals);
      this.#retireAt.set(keyId, now + 2 ** refusals * this.#rotationPeriodMs * (1 + this.#draw()));
      const sessions = counts.get(keyId) ?? 0;
      if (this.#closed) return;
      if (sessions === 0) await this.#writeTombstone(keyId);
      else report({ type: "key-retirement-refused", ring: this.name, keyId, sessions });
    }
  }

  get #longestTtlMs(): number {
    return Math.max(0, ...[...this.#attached.values()].map(({ maxTtlMs }) => maxTtlMs));
  }

  #isCountable(): boolean {
    return this.#attached.size > 0 && ![...this.#attached.values()].some(({ count }) => count === undefined);
  }

  async #countAll(): Promise<ReadonlyMap<string, number>> {
    const sum = new Map<string, number>();
    for (const population of this.#attached.values()) {
      for (const [keyId, count] of (await population.count?.()) ?? []) sum.set(keyId, (sum.get(keyId) ?? 0) + count);
    }
    return sum;
  }

  async #writeTombstone(keyId: string): Promise<void> {
    await this.#whileClosing(this.#publisher.setState(keyId, RecordState.retired));
    this.#refusals.delete(keyId);
    report({ type: "key-retired", ring: this.name, keyId });
  }

  async #readFor(keyId: string): Promise<void> {
    this.#refuseClosed();
    if (!isKeyId(keyId)) throw new RangeError(`keyId must be ${KEY_ID_BYTES} bytes in base64url`);
    await this.refresh();
    if (this.#records.get(keyId) === undefined) throw new RangeError("keyId must name a key of the ring");
  }

  /** Whether what this process knows may be used without asking. Has the ring read in the background when its timer is late. */
  #isFresh(now: number): boolean {
    if (this.#isStale(now)) return false;
    this.#enforceOutageLimit(now);
    const { readAt } = this.#reader;
    if (readAt !== NEVER && elapsed(now, readAt) >= this.#refreshIntervalMs) this.#maintainInBackground();
    return true;
  }

  #enforceOutageLimit(now: number): void {
    // Whether the KMS is really out is just being found out.
    if (now < this.#records.servesUntil || this.#catchingUp !== undefined) return;
    this.#records.enforceOutageLimit();
    this.#choose(now);
  }

  /**
   * After a long time in which no timer ran the first call asks the ring and the KMS before it trusts what it knew: a key may have been revoked
   * meanwhile, or the KMS may only seem to have been out.
   */
  #isStale(now: number): boolean {
    const { readAt } = this.#reader;
    if (readAt === NEVER) return false;
    if (elapsed(now, readAt) > STALE_INTERVALS * this.#refreshIntervalMs) return true;
    return now >= this.#records.servesUntil && elapsed(now, this.#recheckedAt) >= this.#recheckIntervalMs;
  }

  #chooseNow(): DataKey | undefined {
    this.#choose(this.clock());
    return this.#current;
  }

  #choose(now: number): void {
    if (this.#closed) return;
    const entries = this.#records
      .entries()
      .filter(([keyId, entry]) => !this.#records.isRevoked(keyId, entry))
      .map(([, entry]) => entry);
    const usable = entries.filter((entry) => this.#reader.maySeal(entry));
    const policy = { maxSealingAgeMs: this.#maxSealingAgeMs };
    const record = chooseCurrent(
      usable.map((entry) => entry.record),
      now,
      policy,
    );
    const chosen = usable.find((entry) => entry.record === record)?.dataKey;
    if (chosen !== undefined && chosen !== this.#current) {
      report({ type: "key-current", ring: this.name, keyId: chosen.keyId });
    }
    this.#current = chosen;
    if (chosen !== undefined) this.#hopingSince = undefined;
    this.#chosenAt = now;
    const opened = entries.filter(({ dataKey }) => dataKey !== undefined);
    this.#stopsAt = endsOfSealing(
      opened.map((entry) => entry.record),
      policy,
    );
    // Nothing changes before the next key's time, the settling of one that is not confirmed, or the end of the current one's.
    this.#chooseAgainAt =
      record === undefined ? Number.POSITIVE_INFINITY : record.activatesAt + this.#maxSealingAgeMs + 1;
    for (const entry of entries) {
      for (const time of [entry.record.activatesAt, this.#reader.settlesAt(entry)]) {
        if (time > now && time < this.#chooseAgainAt) this.#chooseAgainAt = time;
      }
    }
  }

  /** A ring that was closed meanwhile says so, whatever else came of it. */
  async #whileClosing<T>(work: Promise<T>): Promise<T> {
    try {
      return await work;
    } finally {
      this.#refuseClosed();
    }
  }

  #reportFailedRefresh(error: unknown): void {
    if (this.#closed) return;
    report({ type: "ring-refresh-failed", ring: this.name, code: codeOf((error as Error).cause ?? error) });
  }

  #reportFailedRotation(error: unknown): void {
    if (this.#closed) return;
    report({ type: "ring-rotation-failed", ring: this.name, code: codeOf(error) });
  }

  #unavailable(reason: string, cause?: unknown): SealedSessionError {
    return new SealedSessionError("KEY_UNAVAILABLE", `ring ${this.name}: ${reason}`, { cause });
  }

  #refuseClosed(): void {
    if (this.#closed) throw new SealedSessionError("CLOSED", `ring ${this.name}: it was closed`);
  }
}

function requireKeyIds(keyIds: readonly string[]): ReadonlySet<string> {
  for (const keyId of keyIds) {
    if (!isKeyId(keyId)) throw new RangeError(`revokedKeyIds must hold key ids: ${KEY_ID_BYTES} bytes in base64url`);
  }
  return new Set(keyIds);
}

function requireDropped(names: readonly string[], kms: KmsSet): ReadonlySet<string> {
  for (const name of names) {
    requireUtf8("droppedKms", name, 1, MAX_KMS_NAME_BYTES);
    if (kms.has(name)) throw new RangeError("droppedKms must not name a KMS of this ring");
  }
  return new Set(names);
}
