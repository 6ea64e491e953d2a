/** What the process that re-seals and the one that tests it tell each other. */
import type { RotationReport } from "@sealed-session/core";
import type { Address } from "@sealed-session/test/servers";

/** Which promise a store breaks, to show that it is noticed. */
export type Lie =
  /** A change is made whatever lies there by now. */
  | "overwrites"
  /** A change takes the time to live away. */
  | "drops the time to live"
  /** A change brings the time to live back that the envelope had when it was read. */
  | "restores the time to live"
  /** A walk looks at each master once, as the cluster was at its start. */
  | "walks once"
  /** A walk visits nothing twice, and so nothing that was lost after it. */
  | "visits once"
  /** All that was visited is kept. */
  | "hoards";

/** How a process is started. */
export interface RotatingSettings {
  readonly addresses: readonly Address[];
  /** Of the keys in Redis. */
  readonly namespace: string;
  readonly ring: string;
  readonly keyFile: string;
  /** @defaultValue no limit */
  readonly ratePerSecond?: number | undefined;
  /** @defaultValue none */
  readonly lie?: Lie | undefined;
  /** Stored ids that somebody else changes each time between the read and the change of an envelope. */
  readonly contended: readonly string[];
}

/** What a process needs, in bytes. */
export interface MemoryUse {
  /** Resident set size. */
  readonly rss: number;
  /** What is alive on the heap and outside, after a collection. */
  readonly held: number;
}

/** Memory during a run. */
export interface MemoryTrace {
  readonly first: MemoryUse;
  readonly last: MemoryUse;
  /** The most of each, at any sample. */
  readonly most: MemoryUse;
  readonly samples: number;
}

/** To the process that re-seals. */
export type ToRotating =
  /** The first message, since there is no room for it among the arguments. */
  | { readonly type: "settings"; readonly settings: RotatingSettings }
  | { readonly type: "start" }
  | { readonly type: "changed"; readonly number: number };

/** From it. */
export type FromRotating =
  | { readonly type: "ready" }
  | { readonly type: "progress"; readonly examined: number; readonly resealed: number; readonly total: number }
  /** These envelopes were read, and are about to be changed: the answer is `changed`, with the same number. */
  | { readonly type: "about to change"; readonly number: number; readonly storedIds: readonly string[] }
  | { readonly type: "done"; readonly report: RotationReport; readonly elapsedMs: number; readonly memory: MemoryTrace }
  | { readonly type: "failed"; readonly reason: string };
