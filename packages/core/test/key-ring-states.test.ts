/**
 * The ring's state table: what seals and what opens, for every state of a key's record, of the process, of the KMS and of the clock.
 *
 * One key, one envelope under it, one process. The process gets into its state while all is well with the record; then the record, the KMS
 * and the clock change at one moment. A cold process is asked at once; any other after a quarter of an hour without traffic.
 */
import { expect, it } from "vitest";
import { CACHES, type Cell, CLOCKS, KMS_STATES, lookAt, type Outcome, RECORDS } from "./support/key-ring-states.js";

/**
 * A line holds `what seals / what becomes of the envelope` for each position of the clock.
 *
 * - own: this key seals. other: another one does, that the process had or makes. unav: `KEY_UNAVAILABLE`.
 * - ok: the envelope opens. denied, revoked, retired: that `KEY_` code. reject: `ENVELOPE_REJECTED`.
 *
 * Before its time and past its sealing age a process that became warm has another key to seal with, its own key being none that seals.
 *
 * The last column:
 *
 * - put back: the store holds the record again as it was.
 * - left: the store holds the other wrap still. It may be a new one of the same key, and only a KMS that opens what it has opened before can tell;
 *   whoever put the old one back without knowing would undo the work of an operator.
 * - never held: with this record the process cannot have held the key, so its state is that of its other key. The configuration is given when a
 *   process starts, and what it names is never opened; a key of another ring never verifies in this one (5.2). Where the clock was set back the
 *   other key lies in the future, unless more than an hour has passed before.
 */
const TABLE = `
record                   | cache         | KMS     | before its time | in its time     | past its sealing age | set back in its time |
enabled                  | cold          | answers | other / ok      | own / ok        | other / ok           | own / ok             |
enabled                  | cold          | refuses | unav / unav     | unav / unav     | unav / unav          | unav / unav          |
enabled                  | cold          | is out  | unav / unav     | unav / unav     | unav / unav          | unav / unav          |
enabled                  | warm          | answers | other / ok      | own / ok        | other / ok           | own / ok             |
enabled                  | warm          | refuses | unav / denied   | unav / denied   | unav / denied        | unav / denied        |
enabled                  | warm          | is out  | other / ok      | own / ok        | other / ok           | own / ok             |
enabled                  | denied before | answers | other / ok      | own / ok        | other / ok           | own / ok             |
enabled                  | denied before | refuses | unav / denied   | unav / denied   | unav / denied        | unav / denied        |
enabled                  | denied before | is out  | unav / denied   | unav / denied   | unav / denied        | unav / denied        |
enabled                  | suspended     | answers | other / ok      | own / ok        | other / ok           | own / ok             |
enabled                  | suspended     | refuses | unav / denied   | unav / denied   | unav / denied        | unav / denied        |
enabled                  | suspended     | is out  | unav / unav     | unav / unav     | unav / unav          | unav / unav          |

revoked                  | cold          | answers | other / revoked | other / revoked | other / revoked      | other / revoked      |
revoked                  | cold          | refuses | unav / revoked  | unav / revoked  | unav / revoked       | unav / revoked       |
revoked                  | cold          | is out  | unav / revoked  | unav / revoked  | unav / revoked       | unav / revoked       |
revoked                  | warm          | answers | other / revoked | other / revoked | other / revoked      | other / revoked      |
revoked                  | warm          | refuses | unav / revoked  | unav / revoked  | unav / revoked       | unav / revoked       |
revoked                  | warm          | is out  | other / revoked | unav / revoked  | other / revoked      | unav / revoked       |
revoked                  | denied before | answers | other / revoked | other / revoked | other / revoked      | other / revoked      |
revoked                  | denied before | refuses | unav / revoked  | unav / revoked  | unav / revoked       | unav / revoked       |
revoked                  | denied before | is out  | unav / revoked  | unav / revoked  | unav / revoked       | unav / revoked       |
revoked                  | suspended     | answers | other / revoked | other / revoked | other / revoked      | other / revoked      |
revoked                  | suspended     | refuses | unav / revoked  | unav / revoked  | unav / revoked       | unav / revoked       |
revoked                  | suspended     | is out  | unav / revoked  | unav / revoked  | unav / revoked       | unav / revoked       |

retired                  | cold          | answers | other / retired | other / retired | other / retired      | other / retired      |
retired                  | cold          | refuses | unav / retired  | unav / retired  | unav / retired       | unav / retired       |
retired                  | cold          | is out  | unav / retired  | unav / retired  | unav / retired       | unav / retired       |
retired                  | warm          | answers | other / retired | other / retired | other / retired      | other / retired      |
retired                  | warm          | refuses | unav / retired  | unav / retired  | unav / retired       | unav / retired       |
retired                  | warm          | is out  | other / retired | unav / retired  | other / retired      | unav / retired       |
retired                  | denied before | answers | other / retired | other / retired | other / retired      | other / retired      |
retired                  | denied before | refuses | unav / retired  | unav / retired  | unav / retired       | unav / retired       |
retired                  | denied before | is out  | unav / retired  | unav / retired  | unav / retired       | unav / retired       |
retired                  | suspended     | answers | other / retired | other / retired | other / retired      | other / retired      |
retired                  | suspended     | refuses | unav / retired  | unav / retired  | unav / retired       | unav / retired       |
retired                  | suspended     | is out  | unav / retired  | unav / retired  | unav / retired       | unav / retired       |

revoked by configuration | cold          | answers | other / revoked | other / revoked | other / revoked      | other / revoked      | never held
revoked by configuration | cold          | refuses | unav / revoked  | unav / revoked  | unav / revoked       | unav / revoked       | never held
revoked by configuration | cold          | is out  | unav / revoked  | unav / revoked  | unav / revoked       | unav / revoked       | never held
revoked by configuration | warm          | answers | other / revoked | other / revoked | other / revoked      | other / revoked      | never held
revoked by configuration | warm          | refuses | unav / revoked  | unav / revoked  | unav / revoked       | unav / revoked       | never held
revoked by configuration | warm          | is out  | other / revoked | other / revoked | other / revoked      | unav / revoked       | never held
revoked by configuration | denied before | answers | other / revoked | other / revoked | other / revoked      | other / revoked      | never held
revoked by configuration | denied before | refuses | unav / revoked  | unav / revoked  | unav / revoked       | unav / revoked       | never held
revoked by configuration | denied before | is out  | unav / revoked  | unav / revoked  | unav / revoked       | unav / revoked       | never held
revoked by configuration | suspended     | answers | other / revoked | other / revoked | other / revoked      | other / revoked      | never held
revoked by configuration | suspended     | refuses | unav / revoked  | unav / revoked  | unav / revoked       | unav / revoked       | never held
revoked by configuration | suspended     | is out  | unav / revoked  | unav / revoked  | unav / revoked       | unav / revoked       | never held

gone                     | cold          | answers | other / reject  | other / reject  | other / reject       | other / reject       |
gone                     | cold          | refuses | unav / reject   | unav / reject   | unav / reject        | unav / reject        |
gone                     | cold          | is out  | unav / reject   | unav / reject   | unav / reject        | unav / reject        |
gone                     | warm          | answers | other / ok      | own / ok        | other / ok           | own / ok             | put back
gone                     | warm          | refuses | unav / denied   | unav / denied   | unav / denied        | unav / denied        | put back
gone                     | warm          | is out  | other / ok      | own / ok        | other / ok           | own / ok             | put back
gone                     | denied before | answers | other / ok      | own / ok        | other / ok           | own / ok             | put back
gone                     | denied before | refuses | unav / denied   | unav / denied   | unav / denied        | unav / denied        | put back
gone                     | denied before | is out  | unav / denied   | unav / denied   | unav / denied        | unav / denied        | put back
gone                     | suspended     | answers | other / ok      | own / ok        | other / ok           | own / ok             | put back
gone                     | suspended     | refuses | unav / denied   | unav / denied   | unav / denied        | unav / denied        | put back
gone                     | suspended     | is out  | unav / unav     | unav / unav     | unav / unav          | unav / unav          | put back

with junk as its wrap    | cold          | answers | other / unav    | other / unav    | other / unav         | other / unav         |
with junk as its wrap    | cold          | refuses | unav / unav     | unav / unav     | unav / unav          | unav / unav          |
with junk as its wrap    | cold          | is out  | unav / unav     | unav / unav     | unav / unav          | unav / unav          |
with junk as its wrap    | warm          | answers | other / ok      | own / ok        | other / ok           | own / ok             | put back
with junk as its wrap    | warm          | refuses | unav / denied   | unav / denied   | unav / denied        | unav / denied        | left
with junk as its wrap    | warm          | is out  | other / ok      | own / ok        | other / ok           | own / ok             | left
with junk as its wrap    | denied before | answers | other / ok      | own / ok        | other / ok           | own / ok             | put back
with junk as its wrap    | denied before | refuses | unav / denied   | unav / denied   | unav / denied        | unav / denied        | left
with junk as its wrap    | denied before | is out  | unav / denied   | unav / denied   | unav / denied        | unav / denied        | left
with junk as its wrap    | suspended     | answers | other / ok      | own / ok        | other / ok           | own / ok             | put back
with junk as its wrap    | suspended     | refuses | unav / denied   | unav / denied   | unav / denied        | unav / denied        | left
with junk as its wrap    | suspended     | is out  | unav / unav     | unav / unav     | unav / unav          | unav / unav          | left

with another time        | cold          | answers | other / unav    | other / unav    | other / unav         | other / unav         |
with another time        | cold          | refuses | unav / unav     | unav / unav     | unav / unav          | unav / unav          |
with another time        | cold          | is out  | unav / unav     | unav / unav     | unav / unav          | unav / unav          |
with another time        | warm          | answers | other / ok      | own / ok        | other / ok           | own / ok             | put back
with another time        | warm          | refuses | unav / denied   | unav / denied   | unav / denied        | unav / denied        | put back
with another time        | warm          | is out  | other / ok      | own / ok        | other / ok           | own / ok             | put back
with another time        | denied before | answers | other / ok      | own / ok        | other / ok           | own / ok             | put back
with another time        | denied before | refuses | unav / denied   | unav / denied   | unav / denied        | unav / denied        | put back
with another time        | denied before | is out  | unav / denied   | unav / denied   | unav / denied        | unav / denied        | put back
with another time        | suspended     | answers | other / ok      | own / ok        | other / ok           | own / ok             | put back
with another time        | suspended     | refuses | unav / denied   | unav / denied   | unav / denied        | unav / denied        | put back
with another time        | suspended     | is out  | unav / unav     | unav / unav     | unav / unav          | unav / unav          | put back

moved from another ring  | cold          | answers | other / unav    | other / unav    | other / unav         | other / unav         | never held
moved from another ring  | cold          | refuses | unav / unav     | unav / unav     | unav / unav          | unav / unav          | never held
moved from another ring  | cold          | is out  | unav / unav     | unav / unav     | unav / unav          | unav / unav          | never held
moved from another ring  | warm          | answers | other / unav    | other / unav    | other / unav         | other / unav         | never held
moved from another ring  | warm          | refuses | unav / unav     | unav / unav     | unav / unav          | unav / unav          | never held
moved from another ring  | warm          | is out  | other / unav    | other / unav    | other / unav         | unav / unav          | never held
moved from another ring  | denied before | answers | other / unav    | other / unav    | other / unav         | other / unav         | never held
moved from another ring  | denied before | refuses | unav / unav     | unav / unav     | unav / unav          | unav / unav          | never held
moved from another ring  | denied before | is out  | unav / unav     | unav / unav     | unav / unav          | unav / unav          | never held
moved from another ring  | suspended     | answers | other / unav    | other / unav    | other / unav         | other / unav         | never held
moved from another ring  | suspended     | refuses | unav / unav     | unav / unav     | unav / unav          | unav / unav          | never held
moved from another ring  | suspended     | is out  | unav / unav     | unav / unav     | unav / unav          | unav / unav          | never held
`;

/** The states of the KMS that one line stands for. */
const LINES_OF_KMS: Record<string, readonly Cell["kms"][]> = {
  answers: ["answers"],
  refuses: ["denies", "disabled"],
  "is out": ["throttled", "unreachable", "hangs"],
};

/** What an operator is told by the cause of `KEY_UNAVAILABLE`. A KMS that answers has then refused a record that is not what it says. */
const CAUSES: Record<Cell["kms"], readonly string[]> = {
  answers: ["KMS_DENIED"],
  denies: ["KMS_DENIED"],
  disabled: ["KMS_DISABLED"],
  // The second once it was asked in vain again and again, and is left alone for a while.
  throttled: ["KMS_THROTTLED", "KMS_UNREACHABLE"],
  unreachable: ["KMS_UNREACHABLE"],
  hangs: ["KMS_UNREACHABLE"],
};

const SEALS: Record<string, string> = {
  own: "seals under it",
  other: "seals under another key",
  unav: "seals nothing",
};

const OPENS: Record<string, { readonly says: string; readonly code?: string }> = {
  ok: { says: "opens" },
  unav: { says: "cannot open now", code: "KEY_UNAVAILABLE" },
  denied: { says: "KEY_DENIED", code: "KEY_DENIED" },
  revoked: { says: "KEY_REVOKED", code: "KEY_REVOKED" },
  retired: { says: "KEY_RETIRED", code: "KEY_RETIRED" },
  reject: { says: "ENVELOPE_REJECTED", code: "ENVELOPE_REJECTED" },
};

interface Expectation extends Cell {
  readonly seal: string;
  readonly open: string;
  readonly note: string;
}

/** One expectation for each cell that the table names. */
function readTable(table: string): Expectation[] {
  const [, ...lines] = table.split("\n").filter((line) => line !== "");
  return lines.flatMap((line) => {
    const [record, cache, kmsStates, ...rest] = line.split("|").map((column) => column.trim());
    const [note] = rest.splice(CLOCKS.length);
    return CLOCKS.flatMap((clock, i) => {
      const [seal, open] = (rest[i] as string).split(" / ");
      return (LINES_OF_KMS[kmsStates as string] as Cell["kms"][]).map(
        (kms) => ({ record, cache, kms, clock, seal, open, note }) as Expectation,
      );
    });
  });
}

const nameOf = ({ record, cache, kms, clock }: Cell) => `${record} x ${cache} x KMS ${kms} x ${clock}`;
const named = readTable(TABLE);
const expectations = new Map(named.map((expectation) => [nameOf(expectation), expectation]));
const cells: Cell[] = RECORDS.flatMap((record) =>
  CACHES.flatMap((cache) => KMS_STATES.flatMap((kms) => CLOCKS.map((clock) => ({ record, cache, kms, clock })))),
);

let tests = 0;
for (const cell of cells) {
  const expected = expectations.get(nameOf(cell));
  if (expected === undefined) throw new Error(`the table does not name ${nameOf(cell)}`);
  it(`${nameOf(cell)}: ${SEALS[expected.seal]}, ${OPENS[expected.open]?.says}`, () => check(expected));
  tests++;
}
if (tests !== 8 * 4 * 6 * 4 || named.length !== tests) {
  throw new Error(`${tests} tests, and ${named.length} cells in the table, are not one for each of 8 x 4 x 6 x 4`);
}

async function check(expected: Expectation): Promise<void> {
  const { seal, open, keyId, inStore, couldHold } = await lookAt(expected);
  expect({ seal: sealWord(seal, keyId), open: openWord(open) }).toEqual({ seal: expected.seal, open: expected.open });
  const causes = CAUSES[expected.kms].slice(0, expected.cache === "cold" ? 1 : undefined);
  for (const outcome of [seal, open]) {
    if ("code" in outcome && outcome.code === "KEY_UNAVAILABLE") expect(causes).toContain(outcome.cause);
  }
  if (expected.note === "put back" || expected.note === "left") expect(inStore).toBe(expected.note === "put back");
  expect(couldHold).toBe(expected.note !== "never held");
}

function sealWord(seal: Outcome, keyId: string): unknown {
  if ("value" in seal) return seal.value === keyId ? "own" : "other";
  return seal.code === "KEY_UNAVAILABLE" ? "unav" : seal.code;
}

function openWord(open: Outcome): unknown {
  if ("value" in open) return open.value === "content" ? "ok" : open.value;
  return Object.keys(OPENS).find((word) => OPENS[word]?.code === open.code) ?? open.code;
}
