/**
 * A day of an auth service in a few seconds: users log in, their sessions lie sealed in a Redis Cluster, somebody tries a stolen
 * envelope, a new data key comes, users log out. Without a Redis at hand it runs on the memory store.
 */
import { randomBytes } from "node:crypto";
import {
  type EnvelopeStore,
  hasCode,
  KeyRing,
  localKms,
  memoryKeyRingStore,
  memoryStore,
  parseEnvelope,
  SessionStore,
  storedIdOf,
} from "@sealed-session/core";
import { redisKeyRingStore, redisStore } from "@sealed-session/redis";
import { NoRedisSourceError, startRedisCluster } from "@sealed-session/test/servers";
import Table from "cli-table3";
import { Cluster } from "ioredis";
import pc from "picocolors";

interface Session {
  user_id: number;
  roles: string[];
  created_at: number;
}

const HOUR_MS = 3_600_000;
const USERS = [
  { user_id: 123, roles: ["admin"] },
  { user_id: 456, roles: ["editor", "billing"] },
  { user_id: 789, roles: [] },
];

const backend = await openBackend();
console.log(`${pc.bold("An auth service's day with sealed-session")}\nSessions lie in ${backend.description}.`);
try {
  await day();
} finally {
  await backend.close();
}

async function day(): Promise<void> {
  // A development key, for this run alone. In production a KMS guards it.
  process.env["DEMO_KEY"] = randomBytes(32).toString("base64url");
  const kms = localKms({ keyVariable: "DEMO_KEY" });
  const ring = new KeyRing({ name: "demo", kms, store: backend.keys });
  const sessions = new SessionStore<Session>({ ring, store: backend.envelopes });
  const envelopeOf = async (id: string) => (await backend.envelopes.get(stored(id))) as Uint8Array;

  heading("Three users log in");
  const created_at = Math.floor(Date.now() / 1000);
  const ids = await Promise.all(USERS.map((user) => sessions.create({ ...user, created_at })));
  const [alice, bob, carol] = ids as [string, string, string];
  line("cookie", `${alice.slice(0, 6)}…  256 random bits; only the browser has it`);
  line("plain", JSON.stringify(await sessions.get(alice)));
  const sealed = await envelopeOf(alice);
  line("key", `session:${stored(alice)}`);
  line("value", wrapHex(sealed));

  heading("A read starts the 24 hours anew, in the same command");
  await backend.envelopes.touch(stored(alice), HOUR_MS);
  line("before", hours(await backend.envelopes.ttlMs(stored(alice))));
  await sessions.get(alice);
  line("after", hours(await backend.envelopes.ttlMs(stored(alice))));

  heading("Somebody with access to Redis copies the admin's envelope over his own");
  const own = await envelopeOf(carol);
  await backend.envelopes.set(stored(carol), sealed, { ttlMs: HOUR_MS });
  try {
    line("result", pc.red(`opened: ${JSON.stringify(await sessions.get(carol))}`));
    process.exitCode = 1;
  } catch (error) {
    if (!hasCode(error, "ENVELOPE_REJECTED")) throw error;
    line("result", pc.green("refused (ENVELOPE_REJECTED): an envelope opens under its own id and nowhere else"));
  }
  await backend.envelopes.set(stored(carol), own, { ttlMs: 24 * HOUR_MS });

  heading("A new data key comes; nobody is logged out");
  line("before", keyIdOf(sealed));
  await ring.publish({ delayMs: 0 });
  await sessions.update(bob, (session) => ({ ...session, roles: [...session.roles, "owner"] }));
  line("after", `${keyIdOf(await envelopeOf(bob))}  seals from now on`);
  const open = await Promise.all(ids.map((id) => sessions.get(id)));
  line("sessions", `${open.filter((session) => session !== undefined).length} of ${ids.length} still open`);

  heading("What it costs");
  sizes(open as Session[], await Promise.all(ids.map(envelopeOf)));

  heading("Everybody logs out");
  const ended = await Promise.all(ids.map((id) => sessions.destroy(id)));
  line("sessions", `${ended.filter(Boolean).length} ended; the cookie now opens ${String(await sessions.get(alice))}`);
  await backend.printCommands();
  ring.close();
}

/** A Redis Cluster when one can be started without installing anything, else the memory store. */
async function openBackend() {
  try {
    const cluster = await startRedisCluster({ install: false });
    const client = new Cluster(cluster.addresses());
    const keys = redisKeyRingStore(client);
    const envelopes: EnvelopeStore = redisStore(client);
    return {
      description: `a Redis Cluster of 3 masters and 3 replicas: ${cluster.source}`,
      keys,
      envelopes,
      printCommands: () => printCommands(client),
      async close() {
        await keys.close();
        await client.quit();
        await cluster.stop();
      },
    };
  } catch (error) {
    if (!(error instanceof NoRedisSourceError)) throw error;
    return {
      description: "the memory of this process: no Redis server, Docker engine or given cluster was found",
      keys: memoryKeyRingStore(),
      envelopes: memoryStore(),
      printCommands: async () => undefined,
      close: async () => undefined,
    };
  }
}

function sizes(sessions: readonly Session[], envelopes: readonly Uint8Array[]): void {
  const table = new Table({
    head: ["user", "as JSON", "sealed"],
    colAligns: ["left", "right", "right"],
    style: { head: [], border: [], compact: true },
  });
  for (const [i, session] of sessions.entries()) {
    table.push([session.user_id, `${JSON.stringify(session).length} B`, `${envelopes[i]?.length} B`]);
  }
  console.log(indented(table.toString()));
}

/** What the masters counted themselves. */
async function printCommands(client: Cluster): Promise<void> {
  const counts = new Map<string, number>();
  for (const node of client.nodes("master")) {
    for (const [, name, calls] of (await node.info("commandstats")).matchAll(/cmdstat_(\w+):calls=(\d+)/g)) {
      counts.set(name as string, (counts.get(name as string) ?? 0) + Number(calls));
    }
  }
  heading("Commands that the three masters counted");
  const table = new Table({
    head: ["command", "calls", "for"],
    colAligns: ["left", "right", "left"],
    style: { head: [], border: [], compact: true },
  });
  const uses = [
    ["set", "logging in; also the thief's writes"],
    ["getex", "reading, with and without sliding"],
    ["evalsha", "updating: compare-and-set on one key"],
    ["pexpire", "shortening a life for this demo"],
    ["unlink", "logging out"],
    ["hset", "data keys: one write each, and one that confirms it"],
    ["wait", "a replica has the key before it seals"],
  ];
  for (const [command, use] of uses) {
    const calls = counts.get(command as string);
    if (calls !== undefined) table.push([command?.toUpperCase(), calls, use]);
  }
  console.log(indented(table.toString()));
}

function stored(id: string): string {
  return storedIdOf(id) as string;
}

function keyIdOf(envelope: Uint8Array): string {
  return `key ${Buffer.from(parseEnvelope(envelope)?.keyId ?? []).toString("base64url")}`;
}

function hours(ms: number | undefined): string {
  return `${((ms ?? 0) / HOUR_MS).toFixed(1)} h to live`;
}

/** Header and ciphertext in hexadecimal, a line for every 38 bytes: the first line is the header. */
function wrapHex(bytes: Uint8Array): string {
  const lines =
    Buffer.from(bytes)
      .toString("hex")
      .match(/.{1,76}/g) ?? [];
  return [`${bytes.length} bytes`, ...lines].join(`\n${" ".repeat(12)}`);
}

function heading(text: string): void {
  console.log(`\n${pc.cyan(text)}`);
}

function line(label: string, text: string): void {
  console.log(`  ${pc.dim(label.padEnd(10))}${text}`);
}

function indented(text: string): string {
  return text.replace(/^/gm, "  ");
}
