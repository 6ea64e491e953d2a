import { expect, test } from "vitest";
import { type Activation, agreedSwitches, disagreements, type Seal } from "./chaos-agreement.js";

const TOLERANCE_MS = 200;
const [OLD, NEW, SMALLER] = ["AAAAAAAAAAAAAAAA", "CCCCCCCCCCCCCCCC", "BBBBBBBBBBBBBBBB"] as const;
const KEYS: readonly Activation[] = [
  { keyId: NEW, activatesAt: 2_000 },
  { keyId: OLD, activatesAt: 0 },
];
const seal = (by: string, keyId: string, from: number, to = from): Seal => ({ by, keyId, from, to });

test("processes agree that change to the new key within the tolerance after its time", () => {
  const seals = [
    seal("ada", OLD, 0),
    seal("ada", OLD, 1_999),
    seal("ada", NEW, 2_000),
    seal("bob", OLD, 2_200),
    seal("bob", NEW, 2_201),
    // It chose its key before the time or after it: both are right.
    seal("cleo", OLD, 1_990, 2_900),
    seal("cleo", NEW, 1_990, 2_900),
  ];
  expect(disagreements(seals, KEYS, TOLERANCE_MS)).toEqual([]);
});

test.each([
  ["after its successor's time", seal("ada", OLD, 2_201), `ada sealed under ${OLD} 201 ms after the next key's time`],
  ["before its own time", seal("ada", NEW, 1_990, 1_999), `ada sealed under ${NEW} 1 ms before its time`],
  ["that no ring has", seal("ada", SMALLER, 2_300), `ada sealed under ${SMALLER}, which no ring has`],
])("a process does not agree that seals under a key %s", (_, wrong, sentence) => {
  expect(disagreements([seal("bob", NEW, 2_300), wrong], KEYS, TOLERANCE_MS)).toEqual([sentence]);
});

test("of several wrong seals under one key the worst is told", () => {
  const early = [seal("ada", NEW, 1_500), seal("ada", NEW, 1_900)];
  expect(disagreements(early, KEYS, TOLERANCE_MS)).toEqual([`ada sealed under ${NEW} 500 ms before its time`]);
  const late = [seal("ada", OLD, 2_201), seal("ada", OLD, 2_900)];
  expect(disagreements(late, KEYS, TOLERANCE_MS)).toEqual([`ada sealed under ${OLD} 900 ms after the next key's time`]);
});

test("of two keys of one time the smaller seals", () => {
  const keys = [...KEYS, { keyId: SMALLER, activatesAt: 2_000 }];
  expect(disagreements([seal("ada", SMALLER, 2_300)], keys, TOLERANCE_MS)).toEqual([]);
  expect(disagreements([seal("ada", NEW, 2_300)], keys, TOLERANCE_MS)).toHaveLength(1);
});

test("a switch counts once all processes have sealed under the new key", () => {
  const members = ["ada", "bob"];
  const window = { from: 1_000, to: 3_000 };
  const alone = [seal("ada", NEW, 2_100), seal("bob", OLD, 2_100)];
  expect(agreedSwitches(alone, KEYS, members, window)).toEqual([]);
  const together = [...alone, seal("bob", NEW, 2_150)];
  expect(agreedSwitches(together, KEYS, members, window)).toEqual([NEW]);
  expect(agreedSwitches(together, KEYS, members, { ...window, from: 2_001 })).toEqual([]);
});
