/**
 * Everything in the store after a run, beside the model.
 */
import type { KeyRing } from "@sealed-session/core";
import type { Difference, FoundSession, SessionModel } from "./session-model.js";
import { countStored, keyOf, type Place, readAll } from "./stored-sessions.js";

/** MIGRATE sends times to live and not ends of lives: they grow by as long as it takes. */
const MOST_SHIFT_MS = 5000;

/** What {@link compare} compares with. */
export interface Expected {
  readonly model: SessionModel;
  /** Of the key that everything must be under. */
  readonly keyId: string;
  /** Slots that have moved from one master to another. @defaultValue none */
  readonly movedSlots?: ReadonlySet<number>;
  /** Is told how many were compared. */
  readonly onDone?: (done: number) => void;
}

/** How the store differs from the model. */
export interface Comparison {
  /** How many sessions differ, and in what. */
  readonly differences: Readonly<Partial<Record<Difference | "of nobody", number>>>;
  /** Sessions whose time to live nobody but the re-sealing had to do with. */
  readonly untouched: number;
  /** The most by which the end of the life of one of these has changed, in milliseconds. */
  readonly deviationMs: number;
  /** Sessions that live longer since Redis has moved them to another master, and the most by which. */
  readonly shifted: { readonly count: number; readonly mostMs: number };
}

/** @param reader - A ring that opens what lies in the store. */
export async function compare(place: Place, reader: KeyRing, expected: Expected): Promise<Comparison> {
  const { model, keyId, movedSlots = new Set(), onDone } = expected;
  const differences: Partial<Record<Difference | "of nobody", number>> = {};
  const note = (difference: Difference) => {
    differences[difference] = (differences[difference] ?? 0) + 1;
  };
  let [found, untouched, deviationMs] = [0, 0, 0];
  /** Those that live longer than they should, where a move may be the reason. */
  const longer: [index: number, byMs: number, difference: Difference][] = [];
  const look = (index: number, session: FoundSession | undefined) => {
    if (session !== undefined) found++;
    const byMs = session === undefined ? 0 : model.deviationMs(index, session.expiresAt);
    const mayHaveMoved = movedSlots.size > 0 && byMs <= MOST_SHIFT_MS;
    const wrong = model.differencesOf(index, session, keyId);
    const expiry = wrong.find((difference) => difference.startsWith("other expiry"));
    for (const difference of wrong) if (difference !== expiry || !mayHaveMoved) note(difference);
    if (expiry !== undefined && mayHaveMoved) longer.push([index, byMs, expiry]);
    if (session === undefined || !model.isLiving(index) || !model.isUntouched(index)) return;
    untouched++;
    if (expiry === undefined || !mayHaveMoved) deviationMs = Math.max(deviationMs, byMs);
  };
  await readAll(place, reader, model.capacity, look, onDone);

  const shifted = { count: 0, mostMs: 0 };
  for (const [index, byMs, difference] of longer) {
    if (!movedSlots.has(Number(await place.client.cluster("KEYSLOT", keyOf(place, index))))) note(difference);
    else {
      shifted.count++;
      shifted.mostMs = Math.max(shifted.mostMs, byMs);
    }
  }
  const strangers = (await countStored(place)) - found;
  if (strangers > 0) differences["of nobody"] = strangers;
  return { differences, untouched, deviationMs, shifted };
}
