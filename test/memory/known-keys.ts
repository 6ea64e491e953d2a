/**
 * The keys that a service uses, found out from what it writes into its databases: with the KMS, anybody can.
 */
import { createHmac } from "node:crypto";
import {
  fileKeyRingStore,
  KeyRing,
  type KeyRingStore,
  type Kms,
  memoryKeyRingStore,
  memoryStore,
  SessionStore,
  storedIdOf,
} from "@sealed-session/core";
import { aesKeyOf, derive, kmsRecorder, senderOf } from "../flow/key-material.js";
import type { ServiceState, SessionHeader } from "./service-process.js";

const KEY_ID_OFFSET = 2;
const KEY_ID_BYTES = 12;

/** What a key is for. HKDF's pseudorandom key stands between the data key and what is derived from it, and tells as much. */
export type KeyKind =
  | "data key"
  | "pseudorandom key"
  | "sealing key"
  | "AES key of a sender"
  | "sealing key of a client"
  | "AES key of a client";

/** A key of 32 bytes. */
export interface KnownKey {
  readonly kind: KeyKind;
  readonly bytes: Buffer;
}

/** Another process of the same fleet, which the service knows nothing of. */
export class Fellow {
  readonly #record;
  readonly #store: KeyRingStore;
  readonly #ring: KeyRing;
  readonly #envelopes = memoryStore();
  readonly #sessions: SessionStore;
  readonly #headers: SessionHeader[] = [];

  /** @param directory - Where the ring lies; without it the ring is what {@link Fellow.learn} is given. */
  constructor(name: string, kms: readonly Kms[], directory?: string) {
    const { record, recording } = kmsRecorder();
    this.#record = record;
    this.#store = directory === undefined ? memoryKeyRingStore() : fileKeyRingStore({ directory });
    this.#ring = new KeyRing({ name, kms: kms.map(recording), store: this.#store });
    this.#sessions = new SessionStore({ ring: this.#ring, store: this.#envelopes });
  }

  /** Makes web sessions, each under a sender of its own. */
  async makeSessions(state: ServiceState, count: number): Promise<{ sessionId: string; envelope: string }[]> {
    await this.#refresh(state);
    const sessions: { sessionId: string; envelope: string }[] = [];
    for (let i = 0; i < count; i++) {
      this.#ring.reseed();
      const sessionId = await this.#sessions.create({ from: "elsewhere" });
      const bytes = (await this.#envelopes.get(storedIdOf(sessionId) ?? "")) as Uint8Array;
      const envelope = Buffer.from(bytes).toString("base64");
      sessions.push({ sessionId, envelope });
      this.#headers.push({ sessionId, header: envelope });
    }
    return sessions;
  }

  /** @returns the keys of everything in `state`, and of the sessions that were made here; each once. */
  async learn(state: ServiceState): Promise<KnownKey[]> {
    await this.#refresh(state);
    const keys = new Map<string, KnownKey>();
    const add = (kind: KeyKind, bytes: Buffer) => {
      keys.set(bytes.toString("hex"), { kind, bytes });
      return bytes;
    };
    const sealingKeys = new Map<string, Buffer>();
    for (const hex of this.#record.dataKeys) {
      const dataKey = add("data key", Buffer.from(hex, "hex"));
      const sealingKey = add("sealing key", derive(dataKey, "seal"));
      for (const key of [dataKey, sealingKey]) add("pseudorandom key", pseudorandomKeyOf(key));
      sealingKeys.set(keyIdOf(derive(dataKey, "commitment")), sealingKey);
    }
    const sealingKeyOf = (envelope: Buffer) => {
      const key = sealingKeys.get(keyIdOf(envelope.subarray(KEY_ID_OFFSET)));
      if (key === undefined) throw new Error("a session is sealed under a key that is not in the ring");
      return key;
    };
    for (const { header } of [...state.sessions, ...this.#headers]) {
      const envelope = Buffer.from(header, "base64");
      add("AES key of a sender", aesKeyOf(sealingKeyOf(envelope), senderOf(envelope)));
    }
    for (const { sessionId, header } of state.clientBoundSessions) {
      const envelope = Buffer.from(header, "base64");
      const clientKey = add("sealing key of a client", derive(sealingKeyOf(envelope), `client${sessionId}`));
      add("AES key of a client", aesKeyOf(clientKey, senderOf(envelope)));
    }
    return [...keys.values()];
  }

  /** Forgets all keys but those that were learned. */
  close(): void {
    this.#ring.close();
  }

  async #refresh({ records }: ServiceState): Promise<void> {
    for (const { keyId, record } of records) {
      await this.#store.write(this.#ring.name, keyId, new Uint8Array(Buffer.from(record, "base64")));
    }
    await this.#ring.refresh();
  }
}

/** HKDF-Extract with an empty salt (RFC 5869, section 2.2). */
function pseudorandomKeyOf(key: Uint8Array): Buffer {
  return createHmac("sha256", Buffer.alloc(32)).update(key).digest();
}

function keyIdOf(bytes: Uint8Array): string {
  return Buffer.from(bytes.subarray(0, KEY_ID_BYTES)).toString("hex");
}
