/** Sessions of principals, with everything injected: clock, keys, and stores whose every command can be held up. */
import type { EnvelopeStore } from "../../src/envelope-store.js";
import type { KeyRing, KeyRingOptions } from "../../src/key-ring.js";
import { memoryKeyRingStore } from "../../src/key-ring-store.js";
import { memoryPrincipalIndex } from "../../src/memory-principal-index.js";
import { memoryStore } from "../../src/memory-store.js";
import type { PrincipalIndexStore } from "../../src/principal-index-store.js";
import { SessionStore, type SessionStoreOptions } from "../../src/session-store.js";
import { fixture, HOUR } from "./fixture.js";
import { openFixture } from "./open-fixture.js";

export interface Session {
  user?: string;
  device?: string;
  visits?: number;
}

/** Is called before each command of a store. */
export type Before = (command: string, args: readonly unknown[]) => Promise<void> | void;

/** The index ring rotates rarely, so that a session's life is longer than nothing and shorter than a key's. */
export const INDEX_PERIOD = 30 * 24 * HOUR;

export function principalFixture(
  options: Partial<SessionStoreOptions<Session>> = {},
  { indexRing = {}, ring = {} }: { indexRing?: Partial<KeyRingOptions>; ring?: Partial<KeyRingOptions> } = {},
) {
  const base = openFixture(ring);
  const indexKeys = memoryKeyRingStore({ clock: base.now });
  const openIndexRing = (own: Partial<KeyRingOptions> = {}) =>
    fixture({
      name: "index:web",
      kms: base.kms,
      store: indexKeys,
      clock: base.now,
      rotationPeriodMs: INDEX_PERIOD,
      ...indexRing,
      ...own,
    }).ring;
  const envelopes = memoryStore({ clock: base.now });
  const entries = memoryPrincipalIndex({ clock: base.now });
  const commands: string[] = [];
  const indexKeyRing = openIndexRing();
  /** A process of its own, whose commands are counted, and go through `before`. */
  const open = (own: Partial<SessionStoreOptions<Session>> = {}, before: Before = () => {}) =>
    new SessionStore<Session>({
      ring: base.ring,
      store: watched(envelopes, "session", commands, before),
      absoluteSeconds: 30 * 24 * 3600,
      principal: ({ user }) => user,
      device: ({ device }) => device,
      principalIndex: { store: watched(entries, "index", commands, before), ring: indexKeyRing },
      ...options,
      ...own,
    });
  return {
    ...base,
    indexRing: indexKeyRing,
    openIndexRing,
    indexKeys,
    envelopes,
    entries,
    commands,
    open,
    sessions: open(),
    async storedIds(): Promise<string[]> {
      const ids: string[] = [];
      for await (const id of envelopes.scan()) ids.push(id);
      return ids.sort();
    },
    /** The stored ids in the index, of whomever they are. */
    async indexed(): Promise<string[]> {
      const ids: string[] = [];
      for await (const entry of entries.scan())
        for (const { storedId } of await entries.members(entry)) ids.push(storedId);
      return ids.sort();
    },
  };
}

function watched<T extends EnvelopeStore | PrincipalIndexStore>(
  store: T,
  kind: string,
  commands: string[],
  before: Before,
): T {
  return new Proxy(store, {
    get: (target, name: string & keyof T) => {
      const method = target[name] as (...args: unknown[]) => unknown;
      // A walk is no promise.
      if (name === "scan") return method.bind(target);
      return async (...args: unknown[]) => {
        await before(`${kind}.${name}`, args);
        commands.push(`${kind}.${name}`);
        return method.apply(target, args);
      };
    },
  });
}

/** The ring for an index that somebody has configured wrongly. */
export function ringNamed(name: string): KeyRing {
  return fixture({ name }).ring;
}
