/**
 * The proof that a service leaves no key behind: not as a string on its heap while it works, and nowhere in its memory once its ring was closed. The
 * service is a real process. From outside, its heap snapshot and its memory are searched for every key that it has used; in the same run the same
 * searches find keys that are there.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { awsKms } from "@sealed-session/aws-kms";
import { localKms } from "@sealed-session/core";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { clientOf } from "../kms/kms-client.js";
import { type FaultKms, startFaultKms } from "../servers/fault-kms.js";
import { type KeyFind, KeySearch, summaryOf } from "./key-search.js";
import { Fellow, type KeyKind, type KnownKey } from "./known-keys.js";
import { type ServiceKeys, ServiceProcess } from "./service-process.js";

const RING = "web";
/** Keys under which the service is busy. */
const BUSY_KEYS = 3;
const BUSY = { senders: 4, sessions: 200, clientBoundSessions: 20 };
/** Keys of a service that does next to nothing under each. */
const QUIET_KEYS = 8;
const QUIET = { senders: 1, sessions: 1, clientBoundSessions: 1 };
const FOREIGN_SESSIONS = 8;
/** For the garbage collector, which runs several times in each attempt. */
const COLLECTION_DEADLINE_MS = 10_000;
/** What a working process holds; other keys are there for moments. */
const HELD: readonly KeyKind[] = ["sealing key", "AES key of a sender"];

const PLANTED_TEXTS = [
  { name: "latin1", encoding: "latin1", upperCase: false, form: /^raw$/ },
  { name: "hex", encoding: "hex", upperCase: false, form: /^hex$/ },
  { name: "hex in upper case", encoding: "hex", upperCase: true, form: /^hex in upper case$/ },
  { name: "base64", encoding: "base64", upperCase: false, form: /^base64/ },
  { name: "base64url", encoding: "base64url", upperCase: false, form: /^base64/ },
] as const;

/** Where the keys come from, in the service and in another process of its fleet. */
interface Source {
  readonly inService: ServiceKeys;
  readonly fellow: Fellow;
}

const SOURCES = {
  "localKms and a ring in files": (folder: string): Source => {
    const keyFile = join(folder, "local.key");
    const kms = localKms({ keyFile });
    return { inService: { keyFile, directory: folder }, fellow: new Fellow(RING, [kms], folder) };
  },
  "AWS KMS and a ring in memory": (_folder: string, { createKey, endpoint }: FaultKms): Source => {
    // Two, so that data keys are also sent to be wrapped.
    const keyIds = [createKey(), createKey()];
    const credentials = { accessKeyId: "test", secretAccessKey: "test" };
    const client = { endpoint, region: "eu-west-1", maxAttempts: 1, credentials };
    const kms = keyIds.map((keyId) => awsKms({ keyId, client: clientOf(endpoint) }));
    return { inService: { keyIds, client }, fellow: new Fellow(RING, kms) };
  },
};
type SourceName = keyof typeof SOURCES;

/** What the service is searched with: its keys come from somewhere, and lie with `node:crypto` or with the addon. */
const SERVICES: readonly (readonly [SourceName, string])[] = [
  ["localKms and a ring in files", "node:crypto"],
  ["localKms and a ring in files", "the addon"],
  ["AWS KMS and a ring in memory", "the addon"],
];

describe.each(SERVICES)("with %s, on %s", (name, backend) => {
  const native = backend === "the addon";
  // Where there is no HTTP client there must be no text either.
  const isOurs = (find: KeyFind) => name === "localKms and a ring in files" || !isTextOfKms(find);
  let folder: string;
  let faultKms: FaultKms;
  let run: Awaited<ReturnType<typeof observeBusy>>;

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "sealed-session-"));
    faultKms = await startFaultKms();
    run = await inService(native, (service) => observeBusy(service, SOURCES[name](folder, faultKms), folder));
  });
  afterAll(async () => {
    await faultKms?.stop();
    rmSync(folder, { recursive: true });
  });

  it("every key is known here: of the ring, of each sender and of each client", () => {
    expect(run.recordsInRing).toBe(BUSY_KEYS);
    expect(countOf(run.keys, "data key")).toBe(BUSY_KEYS);
    expect(countOf(run.keys, "AES key of a sender")).toBe(BUSY_KEYS * BUSY.senders + FOREIGN_SESSIONS);
    const clients = BUSY_KEYS * BUSY.senders * BUSY.clientBoundSessions;
    expect(countOf(run.keys, "AES key of a client")).toBe(clients);
  });

  it("a heap snapshot of the working service holds no key as a string", () => {
    expect(run.snapshot.strings).toBeGreaterThan(10_000);
    expect(summaryOf(run.snapshot.finds)).toEqual([]);
  });

  it("the memory of the working service holds the sealing keys and the AES keys of all senders", () => {
    const held = run.keys.filter(({ kind }) => HELD.includes(kind));
    expect(held.length).toBe(BUSY_KEYS + BUSY_KEYS * BUSY.senders + FOREIGN_SESSIONS);
    expect(held.filter((key) => !isFound(run.whileWarm, key, /^raw$/))).toEqual([]);
  });

  it("the memory holds no key once the ring was closed and the garbage was collected", async ({ annotate }) => {
    await annotate(textsOfKms(run.afterClose));
    expect(summaryOf(run.afterClose.filter(isOurs))).toEqual([]);
  });

  it("nor does that of a service which was hardly used", async ({ annotate }) => {
    const ring = mkdtempSync(join(folder, "quiet-"));
    const quiet = await inService(native, (service) => observeQuiet(service, SOURCES[name](ring, faultKms)));
    await annotate(textsOfKms(quiet.afterClose));
    expect(countOf(quiet.keys, "data key")).toBe(QUIET_KEYS);
    expect(summaryOf(quiet.afterClose.filter(isOurs))).toEqual([]);
  });

  it.each(PLANTED_TEXTS)("the same search finds a key on the heap as a string: $name", ({ name: text, form }) => {
    const key = run.planted.texts.get(text) as KnownKey;
    expect(isFound(run.planted.snapshot, key, form)).toBe(true);
  });

  it("the same search finds a key in the memory as bytes", () => {
    expect(isFound(run.afterClose, run.planted.bytes, /^raw$/)).toBe(false);
    expect(isFound(run.planted.memory, run.planted.bytes, /^raw$/)).toBe(true);
  });
});

/** Has a service work hard, searches it, closes its ring and searches it again. */
async function observeBusy(service: ServiceProcess, { inService, fellow }: Source, folder: string) {
  await service.tell("start", { name: RING, ...inService });
  await service.tell("use", BUSY);
  for (let key = 1; key < BUSY_KEYS; key++) {
    await service.tell("rotate", {});
    await service.tell("use", BUSY);
  }
  const sessions = await fellow.makeSessions(await service.tell("report", {}), FOREIGN_SESSIONS);
  await service.tell("read", { sessions });
  const state = await service.tell("report", {});
  const keys = await fellow.learn(state);
  fellow.close();
  const search = new KeySearch(keys);
  const snapshot = await search.inHeapSnapshotOf(service, folder);
  const whileWarm = await search.inMemoryOf(service);
  await service.tell("close", {});
  const afterClose = await searchOnceCollected(service, search);
  const planted = await plant(service, keys, search, folder);
  return { keys, recordsInRing: state.records.length, snapshot, whileWarm, afterClose, planted };
}

/** Has a service do so little that it overwrites nothing of what its keys leave behind, closes its ring and searches it. */
async function observeQuiet(service: ServiceProcess, { inService, fellow }: Source) {
  await service.tell("start", { name: RING, ...inService });
  await service.tell("use", QUIET);
  for (let key = 1; key < QUIET_KEYS; key++) {
    await service.tell("rotate", {});
    await service.tell("use", QUIET);
  }
  const keys = await fellow.learn(await service.tell("report", {}));
  fellow.close();
  await service.tell("close", {});
  return { keys, afterClose: await searchOnceCollected(service, new KeySearch(keys)) };
}

/**
 * The collector takes its time with keys that were held, so these are waited for. Others have no such excuse, and what waiting overwrites must not go
 * unseen.
 */
async function searchOnceCollected(service: ServiceProcess, search: KeySearch): Promise<KeyFind[]> {
  const givesUpAt = performance.now() + COLLECTION_DEADLINE_MS;
  await service.tell("collectGarbage", {});
  let finds = await search.inMemoryOf(service);
  const atOnce = finds.filter(({ key }) => !HELD.includes(key.kind));
  while (finds.some(({ key }) => HELD.includes(key.kind)) && performance.now() < givesUpAt) {
    await service.tell("collectGarbage", {});
    finds = await search.inMemoryOf(service);
  }
  return [...atOnce, ...finds.filter(({ key }) => HELD.includes(key.kind))];
}

/** Puts keys where none was, each in another form, and searches for them. */
async function plant(service: ServiceProcess, keys: readonly KnownKey[], search: KeySearch, folder: string) {
  const [bytes, ...others] = keys.filter(({ kind }) => kind === "AES key of a sender") as [KnownKey, ...KnownKey[]];
  const texts = new Map<string, KnownKey>();
  for (const { name, encoding, upperCase } of PLANTED_TEXTS) {
    const key = others.pop() as KnownKey;
    texts.set(name, key);
    await service.tell("plantText", { key: [...key.bytes], encoding, upperCase });
  }
  await service.tell("plantBytes", { key: [...bytes.bytes] });
  const { finds: snapshot } = await search.inHeapSnapshotOf(service, folder);
  return { texts, bytes, snapshot, memory: await search.inMemoryOf(service) };
}

/** An HTTP client has buffers that nobody outside can wipe: they hold what KMS answered, and what it was asked. */
function isTextOfKms({ key, form }: KeyFind): boolean {
  return key.kind === "data key" && form.startsWith("base64");
}

function textsOfKms(finds: readonly KeyFind[]): string {
  const keys = new Set(finds.filter(isTextOfKms).map(({ key }) => key));
  return `data keys in base64, as KMS writes them: ${keys.size}`;
}

async function inService<T>(native: boolean, use: (service: ServiceProcess) => Promise<T>): Promise<T> {
  const service = new ServiceProcess(native);
  try {
    return await use(service);
  } finally {
    service.stop();
  }
}

/** Whether both halves of a key were found in a form. */
function isFound(finds: readonly KeyFind[], key: KnownKey, form: RegExp): boolean {
  return ["first", "second"].every((half) =>
    finds.some((find) => find.key === key && find.half === half && form.test(find.form)),
  );
}

function countOf(keys: readonly KnownKey[], kind: KeyKind): number {
  return keys.filter((key) => key.kind === kind).length;
}
