/** Moving a ring to another key-encryption key: format 5.4 and 5.6. */
import { describe, expect, it } from "vitest";
import { fromBase64url } from "../src/bytes.js";
import type { KmsErrorCode } from "../src/errors.js";
import type { Kms } from "../src/kms.js";
import { Sealer } from "../src/sealer.js";
import { type FakeKms, fakeKms } from "./support/fake-kms.js";
import { codeThrown, MINUTE } from "./support/fixture.js";
import { openFixture } from "./support/open-fixture.js";
import { overwrite } from "./support/open-ring-store.js";

const ID = "stored-id";

/** A ring of two keys under the KMS `old`, and a sealed value under each; `next` is to take its place. */
async function oldRing() {
  const [old, next] = [fakeKms("old"), fakeKms("next")];
  const base = openFixture({ kms: old });
  const first = await base.ring.current();
  const sealer = new Sealer({ ring: base.ring });
  const envelopes = [await sealer.seal("first", ID)];
  base.advance(MINUTE);
  await base.ring.publish({ delayMs: 0 });
  envelopes.push(await sealer.seal("second", ID));
  const keyIds = base.ring.status().map(({ keyId }) => keyId);
  const wrapsOf = (keyId: string) => base.stored(keyId).wraps.map(({ kms }) => kms);
  const process = (kms: Kms[], droppedKms: string[] = []) => base.process({ kms, droppedKms });
  return { ...base, old, next, first, envelopes, keyIds, wrapsOf, process };
}

/** Opens everything in a process that knows nothing but this KMS. */
async function openAll({ envelopes, process }: Awaited<ReturnType<typeof oldRing>>, kms: FakeKms, dropped?: string[]) {
  const sealer = new Sealer({ ring: process([kms], dropped) });
  return Promise.all(envelopes.map((envelope) => sealer.open(envelope, ID)));
}

describe("rewrap()", () => {
  it("wraps every key under the other KMS as well, newest first, and touches nothing else", async () => {
    const world = await oldRing();
    const ring = world.process([world.next, world.old]);
    const results = await ring.rewrap({ to: "next" });
    expect(results.map(({ keyId, outcome }) => [keyId, outcome])).toEqual(
      world.keyIds.map((keyId) => [keyId, "rewrapped"]),
    );
    for (const keyId of world.keyIds) expect(world.wrapsOf(keyId)).toEqual(["old", "next"]);
    expect(await openAll(world, world.next)).toEqual(["first", "second"]);
    expect(await openAll(world, world.old)).toEqual(["first", "second"]);
  });

  it("lets sessions that are bound to their clients open as before, which it cannot open", async () => {
    const world = await oldRing();
    const sessionId = "a session id of a client";
    const sealer = new Sealer({ ring: world.ring, clientBound: true });
    const envelope = await sealer.seal("bound", ID, { sessionId });
    await world.process([world.next, world.old]).rewrap({ to: "next" });
    const after = new Sealer({ ring: world.process([world.next]), clientBound: true });
    expect(await after.open(envelope, ID, { sessionId })).toBe("bound");
    expect(await codeThrown(after.open(envelope, ID, { sessionId: `${sessionId}?` }))).toBe("ENVELOPE_REJECTED");
  });

  it("writes nothing the second time, and asks only whether the wraps open", async () => {
    const world = await oldRing();
    const ring = world.process([world.next, world.old]);
    await ring.rewrap({ to: "next" });
    const { changes } = world.store;
    const before = changes.length;
    const { wrap } = world.next.calls;
    expect((await ring.rewrap({ to: "next" })).map(({ outcome }) => outcome)).toEqual(["present", "present"]);
    expect(changes).toHaveLength(before);
    expect(world.next.calls.wrap).toBe(wrap);
  });

  it("lets the KMSs do it between them where they can: the data key is then never in this process", async () => {
    const world = await oldRing();
    const asked: unknown[] = [];
    const inside: Kms = {
      ...world.old,
      name: "old",
      async rewrapTo(target, wrapped, context) {
        asked.push(target.name, context["sealed-session:ring"]);
        const dataKey = await world.old.unwrap(wrapped, context);
        return target.wrap(dataKey, context);
      },
    };
    const results = await world.process([world.next, inside]).rewrap({ to: "next" });
    expect(results.map(({ outcome }) => outcome)).toEqual(["rewrapped inside the KMS", "rewrapped inside the KMS"]);
    expect(asked).toEqual(["next", "web", "next", "web"]);
    expect(await openAll(world, world.next)).toEqual(["first", "second"]);
  });

  it("replaces a wrap by that KMS which does not open", async () => {
    const world = await oldRing();
    const [keyId] = world.keyIds as [string];
    const record = world.stored(keyId);
    const junk = { kms: "next", wrapped: Uint8Array.of(1, 2, 3) };
    overwrite(world.store, { keyId }, { ...record, wraps: [...record.wraps, junk] });
    await world.process([world.next, world.old]).rewrap({ to: "next" });
    expect(await openAll(world, world.next)).toEqual(["first", "second"]);
  });

  it.each<[string, KmsErrorCode]>([
    ["makes no wraps", "KMS_DENIED"],
    ["is out", "KMS_UNREACHABLE"],
  ])("says of each key that it failed and why where the other KMS %s, and leaves the records", async (_, code) => {
    const world = await oldRing();
    const ring = world.process([world.old, world.next]);
    await ring.ready();
    world.next.failWith = code;
    const results = await ring.rewrap({ to: "next", dropOld: true });
    expect(results.map(({ outcome }) => outcome)).toEqual(["failed", "failed"]);
    expect(results.map(({ failure }) => (failure as { code: string }).code)).toEqual([code, code]);
    for (const keyId of world.keyIds) expect(world.wrapsOf(keyId)).toEqual(["old"]);
  });

  it("writes no wrap that does not open to the same key", async () => {
    const world = await oldRing();
    const wrong: Kms = {
      ...world.next,
      name: "next",
      wrap: async (_, context) => (await world.next.generate(context)).wrapped,
    };
    const results = await world.process([world.old, wrong]).rewrap({ to: "next" });
    expect(results.map(({ outcome }) => outcome)).toEqual(["failed", "failed"]);
    for (const keyId of world.keyIds) expect(world.wrapsOf(keyId)).toEqual(["old"]);
  });

  it("leaves revoked and retired keys alone", async () => {
    const world = await oldRing();
    const [, older] = world.keyIds as [string, string];
    const ring = world.process([world.next, world.old]);
    await ring.revoke(older);
    expect((await ring.rewrap({ to: "next" })).map(({ keyId }) => keyId)).not.toContain(older);
    expect(world.wrapsOf(older)).toEqual(["old"]);
  });

  it("refuses the name of a KMS that the ring does not have", async () => {
    const { ring } = await oldRing();
    await expect(ring.rewrap({ to: "next" })).rejects.toThrow(RangeError);
  });
});

describe("a KMS that was given up (5.6)", () => {
  it("is taken out of the records once the others wrap the keys, and never comes back where all list it", async () => {
    const world = await oldRing();
    const untouched = world.process([world.next, world.old]);
    await untouched.rewrap({ to: "next" });
    const others = [world.process([world.next], ["old"]), world.process([world.next], ["old"])];
    for (const ring of others) await ring.ready();
    const [one, two] = others as [(typeof others)[0], (typeof others)[0]];
    await one.rewrap({ to: "next", dropOld: true });
    for (const keyId of world.keyIds) expect(world.wrapsOf(keyId)).toEqual(["next"]);
    await two.refresh();
    await one.refresh();
    for (const keyId of world.keyIds) expect(world.wrapsOf(keyId)).toEqual(["next"]);
    expect(await openAll(world, world.next, ["old"])).toEqual(["first", "second"]);
  });

  it("is not taken out where the list of this process does not name it", async () => {
    const world = await oldRing();
    await world.process([world.next, world.old]).rewrap({ to: "next", dropOld: true });
    for (const keyId of world.keyIds) expect(world.wrapsOf(keyId)).toEqual(["old", "next"]);
  });

  it("is not taken out of a key that nothing else wraps", async () => {
    const world = await oldRing();
    const ring = world.process([world.next], ["old"]);
    const results = await ring.rewrap({ to: "next", dropOld: true });
    for (const keyId of world.keyIds) expect(world.wrapsOf(keyId)).toEqual(["old"]);
    expect(results.filter(({ keyId }) => world.keyIds.includes(keyId)).map(({ outcome }) => outcome)).toEqual([
      "failed",
      "failed",
    ]);
  });

  it("opens nothing any more in a process that lists it", async () => {
    const world = await oldRing();
    await world.process([world.next, world.old]).rewrap({ to: "next" });
    const [, older] = world.keyIds as [string, string];
    const record = world.stored(older);
    overwrite(world.store, { keyId: older }, { ...record, wraps: record.wraps.filter(({ kms }) => kms === "old") });
    const ring = world.process([world.next], ["old"]);
    expect(await codeThrown(ring.byId(fromBase64url(older) as Uint8Array))).toBe("KEY_UNAVAILABLE");
  });

  it("is refused in the options while the ring still has it", async () => {
    const world = await oldRing();
    expect(() => world.process([world.old], ["old"])).toThrow(RangeError);
  });
});
