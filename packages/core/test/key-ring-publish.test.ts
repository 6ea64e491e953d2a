/** Publishing: one key between all who publish at once, none that comes too late, and no end to trying that never comes. */
import { describe, expect, it } from "vitest";
import type { Kms } from "../src/kms.js";
import { codeThrown, HOUR, MINUTE, START } from "./support/fixture.js";
import { collectEvents, held, type OpenFixture, openFixture } from "./support/open-fixture.js";
import { junkRecord, overwrite } from "./support/open-ring-store.js";

const events = collectEvents();
/** A KMS before whose `generate` something happens, once. */
const interrupted = ({ kms }: Pick<OpenFixture, "kms">, before: () => Promise<unknown>): Kms => {
  let done = false;
  return {
    name: kms.name,
    wrap: kms.wrap,
    unwrap: kms.unwrap,
    async generate(...args) {
      if (!done) {
        done = true;
        await before();
      }
      return kms.generate(...args);
    },
  };
};

describe("a key that is published in an emergency", () => {
  it.each([
    ["behind", -59_000],
    ["ahead of", 59_000],
  ])("follows the current one also when this process's clock is 59 s %s the store's (5.5)", async (_, skew) => {
    const base = openFixture();
    const { keyId } = await base.ring.current();
    base.advance(HOUR);
    const second = await base.ring.publish({ delayMs: 0 });
    // The clock that is behind sees the second key only in a minute: until then the first one is its current key.
    const skewed = base.process({ clock: () => base.now() + skew });
    const third = await skewed.publish({ delayMs: 0 });
    const times = [keyId, second, third].map((id) => base.stored(id).activatesAt);
    expect(times[1]).toBeGreaterThan(times[0] as number);
    expect(times[2]).toBeGreaterThanOrEqual(times[1] as number);
    base.advance(2 * MINUTE);
    for (const ring of [base.process(), skewed]) expect([second, third]).toContain((await ring.current()).keyId);
  });

  it("is later than the current one by the clock of a process that is ahead, although the store's has not come so far", async () => {
    const base = openFixture();
    await base.ring.current();
    base.advance(1);
    const planned = await base.ring.publish({ delayMs: 30_000 });
    const ahead = base.process({ clock: () => base.now() + 59_000 });
    expect((await ahead.current()).keyId).toBe(planned);
    const urgent = await ahead.publish({ delayMs: 0 });
    expect(base.stored(urgent).activatesAt).toBe(base.stored(planned).activatesAt + 1);
    expect((await ahead.current()).keyId).toBe(urgent);
    base.advance(MINUTE);
    expect((await base.process().current()).keyId).toBe(urgent);
  });

  it("within the same millisecond as the current one still replaces it", async () => {
    const { ring, advance, stored } = openFixture();
    const first = await ring.current();
    const second = await ring.publish({ delayMs: 0 });
    expect(stored(second).activatesAt).toBe(START + 1);
    expect(ring.currentIfWarm()).toBe(first);
    advance(1);
    expect(ring.currentIfWarm()?.keyId).toBe(second);
  });

  it.each([
    ["two refresh intervals ahead", undefined],
    ["half a minute ahead", 30_000],
  ])("is not answered with one that another process ordered at the same time, %s", async (_, delayMs) => {
    const base = openFixture();
    await base.ring.current();
    base.advance(1);
    const other = base.process();
    let planned = "";
    const kms = interrupted(base, async () => {
      planned = await other.publish(delayMs === undefined ? {} : { delayMs });
    });
    const ring = base.process({ kms });
    const urgent = await ring.publish({ delayMs: 0 });
    expect(planned).toHaveLength(16);
    expect(urgent).not.toBe(planned);
    expect((await ring.current()).keyId).toBe(urgent);
    expect(base.store.records.size).toBe(3);
  });

  it("is not answered with the key that it is to replace, when somebody wrote to the ring meanwhile", async () => {
    const base = openFixture();
    const { keyId } = await base.ring.current();
    base.advance(1);
    const kms = interrupted(base, async () => {
      const { keyId, record } = junkRecord(1, START);
      overwrite(base.store, { keyId }, record);
    });
    const ring = base.process({ kms });
    const urgent = await ring.publish({ delayMs: 0 });
    expect(urgent).not.toBe(keyId);
    expect((await ring.current()).keyId).toBe(urgent);
  });

  it("is answered with the one that another process published for the same emergency", async () => {
    const base = openFixture();
    await base.ring.current();
    base.advance(1);
    const other = base.process();
    let theirs = "";
    const kms = interrupted(base, async () => {
      theirs = await other.publish({ delayMs: 0 });
    });
    expect(await base.process({ kms }).publish({ delayMs: 0 })).toBe(theirs);
    expect(base.store.records.size).toBe(2);
  });
});

describe("processes that publish at once add one key between them (5.4)", () => {
  it.each([
    ["when the other one's lands while this one asks its KMS", async () => {}],
    ["also when this one has read the ring again meanwhile", (ring: OpenFixture["ring"]) => ring.refresh()],
  ])("%s", async (_, meanwhile) => {
    const base = openFixture();
    await base.ring.current();
    base.advance(1);
    const other = base.process();
    let theirs = "";
    const kms = interrupted(base, async () => {
      theirs = await other.publish();
      await meanwhile(ring);
    });
    const ring = base.process({ kms });
    const ours = await ring.publish();
    expect(theirs).toHaveLength(16);
    expect(ours).toBe(theirs);
    expect(base.store.records.size).toBe(2);
  });

  it("also when it is the first key, and the other one's lands while this one asks its KMS", async () => {
    const base = openFixture();
    const kms = interrupted(base, () => base.ring.current());
    const key = await base.process({ kms }).current();
    expect(base.store.records.size).toBe(1);
    expect(key.keyId).toBe((await base.ring.current()).keyId);
  });

  it("but one process that publishes several times adds several, one after the other", async () => {
    const base = openFixture();
    await base.ring.current();
    base.advance(1);
    let now = 0;
    let most = 0;
    const kms: Kms = {
      name: "fake",
      wrap: base.kms.wrap,
      unwrap: base.kms.unwrap,
      async generate(...args) {
        most = Math.max(most, ++now);
        await new Promise((resolve) => setImmediate(resolve));
        now--;
        return base.kms.generate(...args);
      },
    };
    const ring = base.process({ kms });
    const ids = await Promise.all([1, 2, 3].map(() => ring.publish({ delayMs: 0 })));
    expect(new Set(ids).size).toBe(3);
    expect(most).toBe(1);
    expect(base.store.records.size).toBe(4);
  });

  it("and one that fails does not keep the next one from being published", async () => {
    const { ring, kms, store, advance } = openFixture();
    await ring.current();
    advance(1);
    const gate = held();
    kms.gate = gate.promise;
    kms.failWith = "KMS_THROTTLED";
    const failing = codeThrown(ring.publish());
    const next = failing.then(() => {
      kms.failWith = undefined;
    });
    const second = next.then(() => ring.publish());
    gate.release();
    expect(await failing).toBe("KEY_UNAVAILABLE");
    expect(await second).toHaveLength(16);
    expect(store.records.size).toBe(2);
  });
});

describe("publishing ends", () => {
  it("with KEY_UNAVAILABLE when the store takes no key, after three attempts", async () => {
    const { ring, store, kms } = openFixture();
    store.write = async () => {
      store.writes++;
      return { written: false, durable: false };
    };
    for (const call of [() => ring.publish(), () => ring.publish({ delayMs: 0 }), () => ring.current()]) {
      store.writes = 0;
      kms.calls.generate = 0;
      expect(await codeThrown(call)).toBe("KEY_UNAVAILABLE");
      expect(store.writes).toBe(3);
      expect(kms.calls.generate).toBe(3);
    }
    expect(events.filter(({ type }) => type === "key-published")).toEqual([]);
  });

  it("with KEY_UNAVAILABLE and the cause when the store goes down before the write", async () => {
    const base = openFixture();
    const kms = interrupted(base, async () => {
      base.store.down = true;
    });
    const error = await base
      .process({ kms })
      .current()
      .catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ code: "KEY_UNAVAILABLE", cause: { code: "STORE_UNAVAILABLE" } });
    expect(base.store.records.size).toBe(0);
  });

  it.each(["current", "publish"] as const)(
    "with CLOSED when the ring is closed while %s waits for the KMS, and nothing is written",
    async (method) => {
      const base = openFixture();
      const asked = held();
      const gate = held();
      const kms = interrupted(base, async () => {
        asked.release();
        await gate.promise;
      });
      const ring = base.process({ kms });
      const running = codeThrown(ring[method]());
      await asked.promise;
      ring.close();
      gate.release();
      expect(await running).toBe("CLOSED");
      expect(base.store.writes).toBe(0);
      expect(base.store.records.size).toBe(0);
    },
  );
});
