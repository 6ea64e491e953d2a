/**
 * What every `PrincipalIndexStore` promises.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { MAX_TTL_MS } from "../envelope-store.js";
import type { PrincipalIndexStore } from "../principal-index-store.js";
import { type TestRunner, testWith, type UnderTest } from "./runner.js";
import { bytes, counted, HOUR_MS, MINUTE_MS } from "./store-fixture.js";

/** A principal index as the suite sees it. */
export interface PrincipalIndexUnderTest extends UnderTest {
  /** An index in which no other test has entries. */
  readonly index: PrincipalIndexStore;
  /** An index in the same database under another namespace, equally empty; without namespaces simply another one. */
  readonly sibling: PrincipalIndexStore;
  /** Moves the store's clock on by `ms` milliseconds, or waits until it has moved. */
  advance(ms: number): Promise<void>;
}

type IndexTest = (name: string, body: (underTest: PrincipalIndexUnderTest) => Promise<void>) => void;

const EVERY_BYTE = Uint8Array.from({ length: 256 }, (_, value) => value);

/**
 * Registers the tests of a `PrincipalIndexStore`.
 *
 * @param runner - The test runner's functions.
 * @param name - What the tests are grouped under.
 * @param open - Makes what is tested, anew for each test.
 */
export function principalIndexSuite(
  runner: TestRunner,
  name: string,
  open: () => Promise<PrincipalIndexUnderTest>,
): void {
  const test = testWith(runner, open);
  runner.describe(name, () => {
    runner.describe("members", () => registerMembers(test));
    runner.describe("the epoch", () => registerEpoch(test));
    runner.describe("what was called off", () => registerCalledOff(test));
    runner.describe("the end of a member", () => registerEnds(test));
    runner.describe("arguments", () => registerArguments(test));
  });
}

function registerMembers(test: IndexTest): void {
  test("are what was added, with their data, in the order in which they came", async ({ index }) => {
    const [entry, first, second] = [freshToken(), freshToken(), freshToken()];
    const firstTicket = await add(index, entry, first, { data: EVERY_BYTE });
    const secondTicket = await add(index, entry, second, { data: bytes(8192, 3) });
    const members = await inOrder(index, entry);
    assert.deepEqual(
      members.map(({ storedId, ticket, data }) => ({ storedId, ticket, data: new Uint8Array(data) })),
      [
        { storedId: first, ticket: firstTicket, data: EVERY_BYTE },
        { storedId: second, ticket: secondTicket, data: bytes(8192, 3) },
      ],
    );
    for (const { ageMs } of members) assert.ok(ageMs >= 0 && ageMs < MINUTE_MS, `${ageMs} ms`);
  });

  test("of an entry that nobody has added to there are none", async ({ index }) => {
    assert.deepEqual(await index.members(freshToken()), []);
  });

  test("are in one entry and in no other, and in one namespace", async ({ index, sibling }) => {
    const [entry, storedId] = [freshToken(), freshToken()];
    await add(index, entry, storedId);
    assert.deepEqual(await index.members(freshToken()), []);
    assert.deepEqual(await sibling.members(entry), []);
  });

  test("grow older", async ({ index, advance }) => {
    const entry = freshToken();
    await add(index, entry, freshToken());
    await advance(30);
    assert.ok(((await index.members(entry))[0]?.ageMs ?? 0) >= 30);
  });

  test("have any stored id that a session store has", async ({ index }) => {
    const entry = freshToken();
    const odd = ["ключ 鍵 🔑 of a verbatim id", "__proto__ constructor", "line\r\nbreak\ttab*?[a]", "x".repeat(512)];
    for (const storedId of odd) await add(index, entry, storedId);
    assert.deepEqual(
      (await inOrder(index, entry)).map(({ storedId }) => storedId),
      odd,
    );
  });

  test("are replaced by one of the same stored id, which then is the latest", async ({ index }) => {
    const [entry, first, second] = [freshToken(), freshToken(), freshToken()];
    await add(index, entry, first);
    await add(index, entry, second);
    const ticket = await add(index, entry, first, { data: bytes(3, 1) });
    const members = await inOrder(index, entry);
    assert.deepEqual(
      members.map(({ storedId }) => storedId),
      [second, first],
    );
    assert.equal(members[1]?.ticket, ticket);
    assert.deepEqual(new Uint8Array(members[1]?.data ?? []), bytes(3, 1));
  });

  test("stay as they are when the same ticket comes twice", async ({ index }) => {
    const [entry, first, second, ticket] = [freshToken(), freshToken(), freshToken(), freshToken()];
    await add(index, entry, first, { ticket });
    await add(index, entry, second);
    await add(index, entry, first, { ticket });
    assert.deepEqual(
      (await inOrder(index, entry)).map(({ storedId }) => storedId),
      [first, second],
    );
  });

  test("are removed by their stored id, or only with their ticket", async ({ index }) => {
    const [entry, first, second, third] = [freshToken(), freshToken(), freshToken(), freshToken()];
    const ticket = await add(index, entry, first);
    await add(index, entry, second);
    await add(index, entry, third);
    const removed = await index.remove(entry, [
      { storedId: first, ticket },
      { storedId: second, ticket: freshToken() },
      { storedId: third },
      { storedId: freshToken() },
    ]);
    assert.equal(removed, 2);
    assert.deepEqual(
      (await index.members(entry)).map(({ storedId }) => storedId),
      [second],
    );
    assert.equal(await index.remove(freshToken(), [{ storedId: second }]), 0);
    assert.equal(await index.remove(entry, []), 0);
  });

  test("of many at once none is lost, and each has an order of its own", async ({ index }) => {
    const entry = freshToken();
    const ids = counted(100, freshToken);
    await Promise.all(ids.map((storedId) => add(index, entry, storedId)));
    const members = await index.members(entry);
    assert.deepEqual(members.map(({ storedId }) => storedId).sort(), ids.sort());
    assert.equal(new Set(members.map(({ order }) => order)).size, ids.length);
  });

  test("belong to the caller, as the data that was added does", async ({ index }) => {
    const [entry, data] = [freshToken(), bytes(4, 1)];
    await add(index, entry, freshToken(), { data });
    data.fill(0);
    (await index.members(entry))[0]?.data.fill(0);
    assert.deepEqual(new Uint8Array((await index.members(entry))[0]?.data ?? []), bytes(4, 1));
  });

  test("are met by their entries in a walk, each once", async ({ index, sibling }) => {
    const entries = counted(50, freshToken);
    for (const entry of entries) await add(index, entry, freshToken());
    await add(index, entries[0] as string, freshToken());
    await add(sibling, freshToken(), freshToken());
    const met: string[] = [];
    for await (const entry of index.scan()) met.push(entry);
    assert.deepEqual(met.sort(), entries.sort());
  });
}

function registerEpoch(test: IndexTest): void {
  test("is the first one that was offered, for all who add", async ({ index }) => {
    const [entry, epoch] = [freshToken(), freshToken()];
    assert.equal(await index.add(entry, freshToken(), { ...member(), epoch }), epoch);
    assert.equal(await index.add(entry, freshToken(), member()), epoch);
  });

  test("holds for its members until it is renewed", async ({ index }) => {
    const [entry, storedId, ticket, renewed] = [freshToken(), freshToken(), freshToken(), freshToken()];
    const epoch = await epochOf(index, entry, storedId, { ticket });
    assert.equal(await index.holds(entry, storedId, epoch), true);
    assert.equal(await index.holds(entry, storedId, freshToken()), false);
    assert.equal(await index.holds(entry, freshToken(), epoch), false);
    await index.renew(entry, renewed);
    assert.equal(await index.holds(entry, storedId, epoch), false);
    assert.equal(await index.holds(entry, storedId, renewed), false);
    assert.equal(await index.add(entry, storedId, member()), renewed);
    assert.equal(await index.holds(entry, storedId, renewed), true);
  });

  test("is that of the first time when the same ticket comes twice, also when it was renewed since", async ({
    index,
  }) => {
    const [entry, storedId, ticket, renewed] = [freshToken(), freshToken(), freshToken(), freshToken()];
    const epoch = await index.add(entry, storedId, { ...member(), ticket });
    assert.equal(await index.add(entry, storedId, { ...member(), ticket }), epoch);
    await index.renew(entry, renewed);
    assert.equal(await index.add(entry, storedId, { ...member(), ticket }), epoch);
    assert.equal(await index.holds(entry, storedId, renewed), false);
  });

  test("does not hold for a member that was removed, and does for one that was replaced", async ({ index }) => {
    const [entry, storedId] = [freshToken(), freshToken()];
    const epoch = await epochOf(index, entry, storedId);
    await add(index, entry, storedId);
    assert.equal(await index.holds(entry, storedId, epoch), true);
    await index.remove(entry, [{ storedId }]);
    assert.equal(await index.holds(entry, storedId, epoch), false);
  });

  test("stays when the last member is removed", async ({ index }) => {
    const [entry, storedId] = [freshToken(), freshToken()];
    await add(index, entry, storedId);
    const renewed = freshToken();
    await index.renew(entry, renewed);
    await index.remove(entry, [{ storedId }]);
    assert.equal(await index.add(entry, freshToken(), member()), renewed);
  });

  test("is renewed in the same step in which the members are read", async ({ index }) => {
    const [entry, storedId] = [freshToken(), freshToken()];
    const ticket = await add(index, entry, storedId);
    const members = await index.renew(entry, freshToken());
    assert.deepEqual(
      members.map((found) => [found.storedId, found.ticket]),
      [[storedId, ticket]],
    );
  });

  test("of an entry that does not exist is not kept, and nobody holds one", async ({ index }) => {
    const [entry, epoch] = [freshToken(), freshToken()];
    assert.deepEqual(await index.renew(entry, freshToken()), []);
    assert.equal(await index.holds(entry, freshToken(), epoch), false);
    assert.equal(await index.add(entry, freshToken(), { ...member(), epoch }), epoch);
  });

  test("either is renewed after a member came, which is then among those returned, or the member's epoch is the new one", async ({
    index,
  }) => {
    for (let round = 0; round < 20; round++) {
      const [entry, storedId, epoch] = [freshToken(), freshToken(), freshToken()];
      await add(index, entry, freshToken());
      const [members, held] = await Promise.all([index.renew(entry, epoch), epochOf(index, entry, storedId)]);
      const isAmongThem = members.some((found) => found.storedId === storedId);
      assert.equal(isAmongThem, held !== epoch);
      assert.equal(await index.holds(entry, storedId, held), !isAmongThem);
    }
  });
}

function registerCalledOff(test: IndexTest): void {
  const standing = async (index: PrincipalIndexStore, entry: string) =>
    (await index.members(entry)).filter(({ isCalledOff }) => !isCalledOff).map(({ storedId }) => storedId);

  test("are all members whose epoch was renewed, but for one", async ({ index }) => {
    const [entry, first, second, epoch] = [freshToken(), freshToken(), freshToken(), freshToken()];
    const ticket = await add(index, entry, first, { data: EVERY_BYTE });
    await add(index, entry, second);
    const [before] = await inOrder(index, entry);
    const members = await index.renew(entry, epoch, { except: first });
    assert.deepEqual(members.map(({ storedId }) => storedId).sort(), [first, second].sort());
    assert.deepEqual(await standing(index, entry), [first]);
    assert.equal(await index.holds(entry, first, epoch), true);
    assert.equal(await index.holds(entry, second, epoch), false);
    const [after] = await inOrder(index, entry);
    assert.deepEqual(after, { ...before, ageMs: after?.ageMs, ticket, data: after?.data });
    assert.deepEqual(new Uint8Array(after?.data ?? []), EVERY_BYTE);
    await index.renew(entry, freshToken());
    assert.deepEqual(await standing(index, entry), []);
  });

  test("does not come back by being the exception", async ({ index }) => {
    const [entry, first, second, epoch] = [freshToken(), freshToken(), freshToken(), freshToken()];
    await add(index, entry, first);
    await add(index, entry, second);
    await index.callOff(entry, second);
    await index.renew(entry, freshToken());
    for (const except of [first, second, freshToken()]) await index.renew(entry, epoch, { except });
    assert.deepEqual(await standing(index, entry), []);
    assert.equal(await index.holds(entry, first, epoch), false);
  });

  test("is one member, which stays, and holds no more", async ({ index }) => {
    const [entry, first, second] = [freshToken(), freshToken(), freshToken()];
    const epoch = await epochOf(index, entry, first, { data: EVERY_BYTE });
    await add(index, entry, second);
    assert.equal(await index.callOff(entry, freshToken()), false);
    assert.equal(await index.callOff(freshToken(), first), false);
    assert.equal(await index.callOff(entry, first), true);
    assert.equal(await index.callOff(entry, first), true);
    assert.equal(await index.holds(entry, first, epoch), false);
    assert.equal(await index.holds(entry, second, epoch), true);
    const [calledOff] = await inOrder(index, entry);
    assert.deepEqual(new Uint8Array(calledOff?.data ?? []), EVERY_BYTE);
    assert.deepEqual(await standing(index, entry), [second]);
    assert.equal(await index.remove(entry, [{ storedId: first, ticket: calledOff?.ticket ?? "" }]), 1);
  });

  test("is told when its ticket comes twice", async ({ index }) => {
    const [entry, storedId, ticket] = [freshToken(), freshToken(), freshToken()];
    await index.add(entry, storedId, { ...member(), ticket });
    await index.callOff(entry, storedId);
    assert.equal(await index.add(entry, storedId, { ...member(), ticket }), undefined);
    assert.deepEqual(await standing(index, entry), []);
  });

  test("counts no more once another one is added under its stored id", async ({ index }) => {
    const [entry, storedId] = [freshToken(), freshToken()];
    const epoch = await epochOf(index, entry, storedId);
    await index.callOff(entry, storedId);
    assert.equal(await index.add(entry, storedId, member()), epoch);
    assert.equal(await index.holds(entry, storedId, epoch), true);
  });

  test("is replaced by none: only a member that stands is, and it stays", async ({ index, advance }) => {
    const [entry, old] = [freshToken(), freshToken()];
    const epoch = await epochOf(index, entry, old);
    const replace = (replaces: string, at = entry) => index.add(at, freshToken(), { ...member(), replaces });
    assert.equal(await replace(old), epoch);
    assert.equal((await index.members(entry)).length, 2);

    const other = freshToken();
    assert.equal(await replace(freshToken()), undefined);
    assert.equal(await replace(old, other), undefined);
    for await (const met of index.scan()) assert.notEqual(met, other);
    await index.callOff(entry, old);
    assert.equal(await replace(old), undefined);
    await add(index, entry, old, { ttlMs: 60 });
    assert.equal(await replace(old), epoch);
    await advance(61);
    assert.equal(await replace(old), undefined);
    const spared = freshToken();
    await add(index, entry, spared);
    await index.renew(entry, freshToken(), { except: spared });
    assert.equal((await replace(spared)) === undefined, false);
    await index.renew(entry, freshToken());
    assert.equal(await replace(spared), undefined);
    assert.equal((await index.members(entry)).length, 4);
  });

  test("either is what was to be replaced, or it was replaced before and both are found", async ({ index }) => {
    for (let round = 0; round < 20; round++) {
      const [entry, old, next] = [freshToken(), freshToken(), freshToken()];
      await add(index, entry, old);
      const [members, held] = await Promise.all([
        index.renew(entry, freshToken()),
        index.add(entry, next, { ...member(), replaces: old }),
      ]);
      assert.equal(
        members.some(({ storedId }) => storedId === next),
        held !== undefined,
      );
    }
  });
}

function registerEnds(test: IndexTest): void {
  test("comes after its time, and not before that of those that end later", async ({ index, advance }) => {
    const [entry, short, long] = [freshToken(), freshToken(), freshToken()];
    const epoch = await epochOf(index, entry, short, { ttlMs: 60 });
    await add(index, entry, long, { ttlMs: HOUR_MS });
    await advance(61);
    assert.deepEqual(
      (await index.members(entry)).map(({ storedId }) => storedId),
      [long],
    );
    assert.equal(await index.holds(entry, short, epoch), false);
    assert.equal(await index.remove(entry, [{ storedId: short }]), 0);
    assert.equal(await index.add(entry, freshToken(), member()), epoch);
  });

  test("does not come sooner because another member that ends sooner was added later", async ({ index, advance }) => {
    const [entry, long] = [freshToken(), freshToken()];
    await add(index, entry, long, { ttlMs: HOUR_MS });
    await add(index, entry, freshToken(), { ttlMs: 60 });
    await advance(61);
    assert.deepEqual(
      (await index.members(entry)).map(({ storedId }) => storedId),
      [long],
    );
  });

  test("of the last one is the end of the entry, and of its epoch", async ({ index, advance }) => {
    const [entry, storedId, epoch] = [freshToken(), freshToken(), freshToken()];
    await add(index, entry, storedId, { ttlMs: 60 });
    await advance(61);
    assert.deepEqual(await index.members(entry), []);
    for await (const met of index.scan()) assert.notEqual(met, entry);
    assert.equal(await index.add(entry, storedId, { ...member(), epoch }), epoch);
  });

  test("may be ten years away", async ({ index }) => {
    const entry = freshToken();
    await add(index, entry, freshToken(), { ttlMs: MAX_TTL_MS });
    assert.equal((await index.members(entry)).length, 1);
  });

  test("makes room: an entry does not keep what has ended while others are added", async ({ index, advance }) => {
    const entry = freshToken();
    await Promise.all(counted(200, () => add(index, entry, freshToken(), { ttlMs: 60 })));
    await advance(61);
    await Promise.all(counted(64, () => add(index, entry, freshToken())));
    assert.equal((await index.members(entry)).length, 64);
  });
}

function registerArguments(test: IndexTest): void {
  for (const [what, entry] of Object.entries({ short: "abc", long: "a".repeat(65), braced: "{abcdefghijklmnop}" })) {
    test(`refuses an entry that is ${what} with a RangeError`, async ({ index }) => {
      await assert.rejects(index.add(entry, freshToken(), member()), RangeError);
      await assert.rejects(index.holds(entry, freshToken(), "epoch"), RangeError);
      await assert.rejects(index.members(entry), RangeError);
      await assert.rejects(index.renew(entry, freshToken()), RangeError);
      await assert.rejects(index.callOff(entry, freshToken()), RangeError);
      await assert.rejects(index.remove(entry, [{ storedId: freshToken() }]), RangeError);
    });
  }

  const wrongIds = {
    short: "x".repeat(15),
    long: "x".repeat(513),
    braced: `${"a".repeat(16)}{b}`,
    illFormed: "\ud800".repeat(16),
  };
  for (const [what, storedId] of Object.entries(wrongIds)) {
    test(`refuses a stored id that is ${what} with a RangeError`, async ({ index }) => {
      const entry = freshToken();
      await assert.rejects(index.add(entry, storedId, member()), RangeError);
      await assert.rejects(index.add(entry, freshToken(), { ...member(), replaces: storedId }), RangeError);
      await assert.rejects(index.holds(entry, storedId, "epoch"), RangeError);
      await assert.rejects(index.renew(entry, "epoch", { except: storedId }), RangeError);
      await assert.rejects(index.callOff(entry, storedId), RangeError);
      await assert.rejects(index.remove(entry, [{ storedId }]), RangeError);
      assert.deepEqual(await index.members(entry), []);
    });
  }

  const wrong = {
    "no time to live": { ttlMs: 0 },
    "a fraction of a millisecond": { ttlMs: 1.5 },
    "more than ten years": { ttlMs: MAX_TTL_MS + 1 },
    "an empty ticket": { ticket: "" },
    "a ticket with a colon": { ticket: "a:b" },
    "an empty epoch": { epoch: "" },
    "no data": { data: new Uint8Array(0) },
    "more data than fits": { data: new Uint8Array(8193) },
  };
  for (const [what, options] of Object.entries(wrong)) {
    test(`refuses ${what} with a RangeError, and writes nothing`, async ({ index }) => {
      const entry = freshToken();
      await assert.rejects(index.add(entry, freshToken(), { ...member(), ...options }), RangeError);
      assert.deepEqual(await index.members(entry), []);
    });
  }

  test("refuses an epoch or a ticket that is none", async ({ index }) => {
    const entry = freshToken();
    await add(index, entry, "a stored id of more than 16 bytes");
    await assert.rejects(index.renew(entry, ""), RangeError);
    await assert.rejects(index.holds(entry, "a stored id of more than 16 bytes", ""), RangeError);
    await assert.rejects(
      index.remove(entry, [{ storedId: "a stored id of more than 16 bytes", ticket: "" }]),
      RangeError,
    );
    assert.equal((await index.members(entry)).length, 1);
  });
}

/** @returns 16 characters of base64url that no other test has. */
function freshToken(): string {
  return randomBytes(12).toString("base64url");
}

function member() {
  return { ttlMs: HOUR_MS, ticket: freshToken(), epoch: freshToken(), data: bytes(4) };
}

/** Adds a member. @returns its ticket. */
async function add(
  index: PrincipalIndexStore,
  entry: string,
  storedId: string,
  options: Partial<ReturnType<typeof member>> = {},
): Promise<string> {
  const added = { ...member(), ...options };
  await index.add(entry, storedId, added);
  return added.ticket;
}

/** Adds a member. @returns the epoch. */
async function epochOf(
  index: PrincipalIndexStore,
  entry: string,
  storedId: string,
  options: Partial<ReturnType<typeof member>> = {},
): Promise<string> {
  const epoch = await index.add(entry, storedId, { ...member(), ...options });
  assert.ok(epoch !== undefined, "it was refused");
  return epoch;
}

async function inOrder(index: PrincipalIndexStore, entry: string) {
  return [...(await index.members(entry))].sort((a, b) => a.order - b.order);
}
