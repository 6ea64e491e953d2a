import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs, { copyFile, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterEach, beforeEach, describe, it } from "vitest";
import { hasCode } from "../src/errors.js";
import { fileKeyRingStore } from "../src/file-key-ring-store.js";
import { memoryKeyRingStore } from "../src/key-ring-store.js";
import { keyRingStoreSuite } from "../src/testing/index.js";

/** The original: the named import would follow the replacement below. */
const { link } = fs;
const RECORD = Uint8Array.of(1, 2, 3);
const clock = () => 1_700_000_000_123;
const unavailable = (error: unknown) => hasCode(error, "STORE_UNAVAILABLE");
const keyIdOf = (index: number) => Buffer.alloc(12, index).toString("base64url");

keyRingStoreSuite({ describe, it }, "memoryKeyRingStore", async () => ({
  store: memoryKeyRingStore({ clock }),
  clock,
  clockToleranceMs: 0,
  close: async () => {},
}));

keyRingStoreSuite({ describe, it }, "fileKeyRingStore", async () => {
  const directory = await mkdtemp(join(tmpdir(), "key-ring-store-"));
  return {
    store: fileKeyRingStore({ directory, clock }),
    second: fileKeyRingStore({ directory, clock }),
    clock,
    clockToleranceMs: 0,
    reopen: async () => fileKeyRingStore({ directory, clock }),
    close: () => rm(directory, { recursive: true }),
  };
});

describe("fileKeyRingStore's files", () => {
  let directory = "";
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "key-ring-store-"));
  });
  afterEach(() => rm(directory, { recursive: true }));

  const store = () => fileKeyRingStore({ directory });
  const onlyFile = async () => {
    const [name = "", ...others] = await readdir(directory);
    assert.deepEqual(others, []);
    return join(directory, name);
  };

  it("are readable by their owner alone", async () => {
    await store().write("main", keyIdOf(1), RECORD);
    assert.equal((await stat(await onlyFile())).mode & 0o777, 0o600);
  });

  it("are the last sixteen generations of a ring and nothing else", async () => {
    for (let index = 0; index < 20; index++) await store().write("main", keyIdOf(index), RECORD);
    const expected = Array.from(
      { length: 16 },
      (_, index) => `ring-main.00000000${String(index + 5).padStart(2, "0")}.json`,
    );
    assert.deepEqual((await readdir(directory)).sort(), expected);
    assert.equal((await store().read("main")).length, 20);
  });

  it("stay inside the directory whatever the ring is called", async () => {
    for (const ring of ["../outside", "/etc/passwd", "..", ".", "nul\u0000byte", "a".repeat(128), "Ä".repeat(64)]) {
      await store().write(ring, keyIdOf(1), RECORD);
      assert.equal((await store().read(ring)).length, 1);
    }
    const names = await readdir(directory);
    assert.equal(names.length, 7);
    for (const name of names) assert.match(name, /^ring-[a-z0-9_%~-]{1,230}\.0000000001\.json$/);
  });

  it("are not mixed up when one ring's name begins like another's", async () => {
    await store().write("main", keyIdOf(1), RECORD);
    await store().write("main.0000000009", keyIdOf(2), RECORD);
    await store().write("main-2", keyIdOf(3), RECORD);
    assert.deepEqual(
      (await store().read("main")).map(({ keyId }) => keyId),
      [keyIdOf(1)],
    );
  });

  it("are not rewritten when the bytes are there already", async () => {
    await store().write("main", keyIdOf(1), RECORD);
    assert.deepEqual(await store().write("main", keyIdOf(1), RECORD), { written: true, durable: true });
    assert.match(await onlyFile(), /\.0000000001\.json$/);
  });

  const damages: Record<string, (text: string) => string> = {
    empty: () => "",
    torn: (text) => text.slice(0, text.length >> 1),
    "of another version": (text) => text.replace('"version": 1', '"version": 2'),
    "of another ring": (text) => text.replace('"main"', '"other"'),
    "with a key id that is none": (text) => text.replace(keyIdOf(1), "AAAA"),
    "with a record that is not base64": (text) => text.replace("AQID", "AQ?D"),
    "with a record that is no text": (text) => text.replace('"AQID"', "17"),
    "with an empty record": (text) => text.replace("AQID", ""),
    "no object": () => "[]",
  };
  for (const [what, damage] of Object.entries(damages)) {
    it(`give a clear error and are left as they are when the newest is ${what}`, async () => {
      await store().write("main", keyIdOf(1), RECORD);
      const path = await onlyFile();
      const text = await readFile(path, "utf8");
      const damagedText = damage(text);
      assert.notEqual(damagedText, text);
      await writeFile(path, damagedText);
      const clear = (error: unknown) =>
        unavailable(error) && /ring-main\.0000000001\.json is damaged/.test(String(error));
      await assert.rejects(store().read("main"), clear);
      await assert.rejects(store().write("main", keyIdOf(2), RECORD), clear);
      assert.equal(await readFile(await onlyFile(), "utf8"), damagedText);
    });
  }

  it("that a crash left half made do no harm", async () => {
    await store().write("main", keyIdOf(1), RECORD);
    await writeFile(join(directory, "ring-main.0b9cbf3e-0000-4000-8000-000000000000.new"), '{"vers');
    assert.equal((await store().read("main")).length, 1);
    assert.equal((await store().write("main", keyIdOf(2), RECORD)).written, true);
    assert.equal((await store().read("main")).length, 2);
  });

  it("must have a directory: one that is missing is no empty ring", async () => {
    const missing = fileKeyRingStore({ directory: join(directory, "not-mounted") });
    const clear = (error: unknown) => unavailable(error) && /directory does not exist/.test(String(error));
    await assert.rejects(missing.read("main"), clear);
    await assert.rejects(missing.write("main", keyIdOf(1), RECORD), clear);
  });

  it("that an operator moves away bring back the generation before", async () => {
    await store().write("main", keyIdOf(1), RECORD);
    const first = await onlyFile();
    await store().write("main", keyIdOf(2), RECORD);
    const second = first.replace("0000000001", "0000000002");
    await copyFile(second, `${second}.away`);
    await rm(second);
    assert.deepEqual(
      (await store().read("main")).map(({ keyId }) => keyId),
      [keyIdOf(1)],
    );
    assert.equal((await store().write("main", keyIdOf(3), RECORD)).written, true);
  });

  it("refuse wrong options", () => {
    assert.throws(() => fileKeyRingStore({ directory: "" }), RangeError);
    assert.throws(() => fileKeyRingStore({ directory: 5 as never }), TypeError);
    assert.throws(() => fileKeyRingStore({ directory, clock: 5 as never }), TypeError);
  });
});

describe("fileKeyRingStore's writers", () => {
  let directory = "";
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), "key-ring-store-"));
  });
  afterEach(async () => {
    fs.link = link;
    syncBuiltinESMExports();
    await rm(directory, { recursive: true });
  });

  /** Holds the next writer before it links its file, until `resume` is called. */
  function holdNextLink() {
    let reached = () => {};
    let resume = () => {};
    const held = new Promise<void>((resolve) => {
      reached = resolve;
    });
    const resumed = new Promise<void>((resolve) => {
      resume = resolve;
    });
    fs.link = async (from, to) => {
      fs.link = link;
      syncBuiltinESMExports();
      reached();
      await resumed;
      await link(from, to);
    };
    syncBuiltinESMExports();
    return { held, resume };
  }

  for (const overtakenBy of [1, 2, 15, 16, 17, 40]) {
    it(`lose nothing when one stands still while ${overtakenBy} others write`, async () => {
      const slow = fileKeyRingStore({ directory });
      const fast = fileKeyRingStore({ directory });
      const { held, resume } = holdNextLink();
      const writing = slow.write("main", keyIdOf(100), RECORD);
      await held;
      for (let index = 0; index < overtakenBy; index++) await fast.write("main", keyIdOf(index), RECORD);
      resume();
      assert.deepEqual(await writing, { written: true, durable: true });
      const keyIds = (await fast.read("main")).map(({ keyId }) => keyId);
      assert.equal(keyIds.length, overtakenBy + 1);
      assert.ok(keyIds.includes(keyIdOf(100)));
    });

    it(`keep their condition when one stands still while ${overtakenBy} others write`, async () => {
      const slow = fileKeyRingStore({ directory });
      const fast = fileKeyRingStore({ directory });
      const { held, resume } = holdNextLink();
      const writing = slow.write("main", keyIdOf(100), RECORD, { onlyIfKeyIds: [] });
      await held;
      for (let index = 0; index < overtakenBy; index++) await fast.write("main", keyIdOf(index), RECORD);
      resume();
      assert.deepEqual(await writing, { written: false, durable: false });
      assert.equal((await fast.read("main")).length, overtakenBy);
    });
  }

  it("keep their conditions between processes", async () => {
    const child = fileURLToPath(new URL("key-ring-store-writer.ts", import.meta.url));
    const runs = Array.from({ length: 4 }, (_, index) =>
      promisify(execFile)(process.execPath, ["--import", "tsx", child, directory, String(index)]),
    );
    const outputs = (await Promise.all(runs)).map(({ stdout }) => JSON.parse(stdout) as { published: boolean });
    assert.equal(outputs.filter(({ published }) => published).length, 1);
    const store = fileKeyRingStore({ directory });
    assert.equal((await store.read("published")).length, 1);
    assert.equal((await store.read("shared")).length, 40);
  });
});
