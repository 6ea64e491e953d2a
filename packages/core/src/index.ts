/**
 * Seals web sessions in the application, before they reach a database: AES-GCM envelope encryption under data keys that a KMS
 * wraps, with MessagePack inside.
 *
 * @packageDocumentation
 */
export type { RandomFill } from "./aead.js";
export {
  asBulkStore,
  type BulkEnvelopeStore,
  type EnvelopeChange,
  type EnvelopePage,
  IDENTITY_BYTES,
  type WalkOptions,
  type WalkPosition,
} from "./bulk-store.js";
export { type CodecLimits, type DecodeOptions, decode, encode } from "./codec.js";
export { type DataKey, type KeyPurpose, type KeyRecord, RecordState, type WrappedKey } from "./data-key.js";
export { DIAGNOSTICS_CHANNEL, type DiagnosticEvent } from "./diagnostics.js";
export { type Envelope, type EnvelopeHeader, parseEnvelope } from "./envelope.js";
export {
  type CompareAndSetOptions,
  type DestroyEnvelopeOptions,
  type EnvelopeStore,
  type GetEnvelopeOptions,
  MAX_TTL_MS,
  type SetCondition,
  type SetEnvelopeOptions,
} from "./envelope-store.js";
export {
  type ErrorCode,
  hasCode,
  KmsError,
  type KmsErrorCode,
  SealedSessionError,
  UnsupportedValueError,
} from "./errors.js";
export { type FileKeyRingStoreOptions, fileKeyRingStore } from "./file-key-ring-store.js";
export {
  KeyRing,
  type KeyRingOptions,
  type KeyStatus,
  type Population,
  type PublishOptions,
  type RewrapOptions,
  type RewrappedKey,
} from "./key-ring.js";
export {
  type KeyRingStore,
  type MemoryKeyRingStoreOptions,
  memoryKeyRingStore,
  type StoredKeyRecord,
  type WriteKeyRecordOptions,
  type WriteKeyRecordResult,
} from "./key-ring-store.js";
export type { EncryptionContext, GeneratedDataKey, Kms, KmsCallOptions } from "./kms.js";
export { type LocalKmsOptions, localKms } from "./local-kms.js";
export { type MemoryPrincipalIndexOptions, memoryPrincipalIndex } from "./memory-principal-index.js";
export { type MemoryStoreOptions, memoryStore } from "./memory-store.js";
export { type MirroredKeyRingStoreOptions, mirroredKeyRingStore } from "./mirrored-key-ring-store.js";
export {
  type Adoption,
  type AdoptPlaintextOptions,
  PlaintextAdoption,
  type PlaintextAdoptionParts,
} from "./plaintext-adoption.js";
export {
  type SealPlaintextOptions,
  type SealProgress,
  type SealReport,
  sealPlaintextSessions,
} from "./plaintext-sealing.js";
export type { BulkPlaintextSource, PlaintextRemoval, PlaintextSession, PlaintextSource } from "./plaintext-source.js";
export type { PrincipalIndexOptions, PrincipalSession } from "./principal-index.js";
export type {
  AddMemberOptions,
  IndexMember,
  MemberToRemove,
  PrincipalIndexStore,
  RenewOptions,
} from "./principal-index-store.js";
export type { KeyState } from "./ring-records.js";
export type { Schedule } from "./schedule.js";
export { type OpenOptions, Sealer, type SealerOptions, type SealOptions } from "./sealer.js";
export { createSessionId, type StoredIdMode, storedIdOf } from "./session-id.js";
export {
  type RotateSessionsOptions,
  type RotationCounts,
  type RotationProgress,
  type RotationReport,
  rotateSessions,
  type Shard,
} from "./session-rotation.js";
export {
  type DestroyAllForOptions,
  type GetSessionOptions,
  type LifeOptions,
  type ListForOptions,
  SessionStore,
  type SessionStoreOptions,
  type SetSessionOptions,
  type TouchSessionOptions,
} from "./session-store.js";
