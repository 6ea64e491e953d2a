/**
 * What happens inside, for metrics and alarms: plain objects on the `node:diagnostics_channel` named `sealed-session`.
 *
 * Events never hold a payload, a session id, a stored id or key material. A key id is public: every envelope shows it.
 */
import { channel } from "node:diagnostics_channel";
import type { ErrorCode } from "./errors.js";

/** The name of the `node:diagnostics_channel` that metrics and alarms subscribe to; its messages are {@link DiagnosticEvent}s. */
export const DIAGNOSTICS_CHANNEL = "sealed-session";

/**
 * An event on the channel {@link DIAGNOSTICS_CHANNEL}, told apart by `type`.
 *
 * `ring` is the ring's name, `keyId` a key id in base64url, `kms` the name of a KMS, `activatesAt` a time in milliseconds since
 * 1970-01-01T00:00:00Z, `code` the code of the error behind the event (`undefined` for an error that is not of this library), `reason` a
 * few words for people, `sessions` a count, `home` the index of a place of the ring, `state` what
 * its record says.
 */
export type DiagnosticEvent =
  /** What seals and opens in this thread, said with its first key: the addon of `@sealed-session/native`, or `node:crypto` and why not the addon. */
  | {
      readonly type: "backend-chosen";
      /** Whose primitives are used. */
      readonly backend: "native" | "node" | "portable";
      /** `undefined` for the addon. */
      readonly reason: string | undefined;
    }
  /** A data key was written to the ring; it seals from `activatesAt` (ms) on. */
  | { readonly type: "key-published"; readonly ring: string; readonly keyId: string; readonly activatesAt: number }
  /** Another data key has become the current one in this process. */
  | { readonly type: "key-current"; readonly ring: string; readonly keyId: string }
  /** A record of the ring is not used: it is malformed, does not verify, or lies too far in the future. */
  | { readonly type: "key-record-refused"; readonly ring: string; readonly keyId: string; readonly reason: string }
  /** A verified record was lost from the ring's store, or altered there, and this process has put it back. */
  | { readonly type: "key-record-restored"; readonly ring: string; readonly keyId: string }
  /** The KMS that had opened this key refuses it now: its sessions count as gone. */
  | { readonly type: "key-denied"; readonly ring: string; readonly keyId: string; readonly kms: string }
  /** The KMS gave no answer for the outage limit: the key neither seals nor opens until it does. */
  | { readonly type: "key-suspended"; readonly ring: string; readonly keyId: string }
  /** The ring says of a key that this process held that it is revoked or retired: its sessions count as gone. */
  | {
      readonly type: "key-ended";
      readonly ring: string;
      readonly keyId: string;
      /** What its record says. */
      readonly state: "revoked" | "retired";
    }
  /** This process wrote into the ring that a key is revoked. */
  | { readonly type: "key-revoked"; readonly ring: string; readonly keyId: string }
  /** No session was left under a key, and this process wrote its tombstone: the wrapped key is gone (crypto-shredding). */
  | { readonly type: "key-retired"; readonly ring: string; readonly keyId: string }
  /** A key was not retired: `sessions` of them are still sealed under it, longer than any should live. */
  | {
      readonly type: "key-retirement-refused";
      readonly ring: string;
      readonly keyId: string;
      /** How many are left under it. */
      readonly sessions: number;
    }
  /** The next key could not be published ahead, or a key not be retired; tried again at the next refresh. */
  | { readonly type: "ring-rotation-failed"; readonly ring: string; readonly code: ErrorCode | undefined }
  /** A KMS failed again and again: it is not asked for a while. */
  | { readonly type: "kms-circuit-opened"; readonly ring: string; readonly kms: string }
  /** It answers again. */
  | { readonly type: "kms-circuit-closed"; readonly ring: string; readonly kms: string }
  /** The ring could not be read, or the KMS not be asked; keys that this process holds go on serving. */
  | { readonly type: "ring-refresh-failed"; readonly ring: string; readonly code: ErrorCode | undefined }
  /** A KMS of several failed while another one answered. */
  | { readonly type: "kms-failed"; readonly ring: string; readonly kms: string; readonly code: ErrorCode | undefined }
  /** A session was found and counts as gone: past its absolute life, or its key was revoked, retired or is denied by the KMS. */
  | {
      readonly type: "session-dropped";
      readonly code: "ENVELOPE_EXPIRED" | "KEY_REVOKED" | "KEY_RETIRED" | "KEY_DENIED";
    }
  /** A session was sealed anew, since its key no longer seals. */
  | { readonly type: "session-resealed"; readonly ring: string }
  /** A session could not be sealed anew; it was read all the same. */
  | { readonly type: "session-reseal-failed"; readonly ring: string; readonly code: ErrorCode | undefined }
  /** A session that another store wrote in clear was sealed, and its plaintext removed. */
  | { readonly type: "session-adopted"; readonly ring: string }
  /** A session that another store wrote in clear cannot be read as one, or not be sealed: it was left alone and counts as none. */
  | { readonly type: "plaintext-refused"; readonly ring: string; readonly code: ErrorCode | undefined }
  /** Bytes that are no envelope of ours under this id: altered, moved, or sealed under a key that the ring does not know. */
  | { readonly type: "envelope-rejected" }
  /** A save was left out: the session had ended since it was read. */
  | { readonly type: "session-save-ignored" }
  /** What is no longer true could not be taken out of the principal index now. It opens nothing, and is removed when it is seen. */
  | { readonly type: "principal-index-failed"; readonly ring: string; readonly code: ErrorCode | undefined }
  /** A login was undone: while it was under way, its principal was logged out everywhere. */
  | { readonly type: "login-overtaken"; readonly ring: string }
  /** A place of a ring that has several failed; `home` is its index. The ring goes on with the others. */
  | {
      readonly type: "key-ring-home-failed";
      readonly ring: string;
      /** The index of the place. */
      readonly home: number;
      readonly code: ErrorCode | undefined;
    };

const events = channel(DIAGNOSTICS_CHANNEL);

/** Publishes an event; costs one comparison when nobody listens. */
export function report(event: DiagnosticEvent): void {
  if (events.hasSubscribers) events.publish(event);
}
