/**
 * `awsKms` against a KMS that others wrote: moto, from PyPI. It knows neither states nor ReEncrypt's source key; those are tested elsewhere.
 */
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, connect, createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { CreateKeyCommand, type KMSClient } from "@aws-sdk/client-kms";
import { awsKms } from "@sealed-session/aws-kms";
import { KeyRing, memoryKeyRingStore, Sealer } from "@sealed-session/core";
import { kmsSuite } from "@sealed-session/core/testing";
import { untilNothingMissing } from "@sealed-session/test/servers";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { aptInstall, whyNoApt } from "../servers/apt.js";
import { clientOf } from "./kms-client.js";

const run = promisify(execFile);
/** Where continuous integration has no cache, any other release would come unasked. */
const MOTO = "moto[server]==5.2.*";
const VIRTUAL_ENVIRONMENT = fileURLToPath(new URL("../../node_modules/.cache/moto", import.meta.url));
const PROBE = `
import sys, moto, moto.server, cryptography
print(f"moto {moto.__version__}, Python {sys.version.split()[0]}, {sys.executable}")`;
const START_MS = 60_000;

/** A virtual environment is made once and kept. @returns its Python. */
async function pythonWithMoto(): Promise<string> {
  const python = join(VIRTUAL_ENVIRONMENT, process.platform === "win32" ? "Scripts/python.exe" : "bin/python");
  const probe = async () => {
    const { stdout } = await run(python, ["-c", PROBE]);
    process.stderr.write(`[kms] ${stdout}`);
    return python;
  };
  try {
    return await probe();
  } catch {
    process.stderr.write(`[kms] no moto here: pip installs it in ${VIRTUAL_ENVIRONMENT}\n`);
  }
  const makeEnvironment = (from: string) => run(from, ["-m", "venv", "--clear", VIRTUAL_ENVIRONMENT]);
  try {
    await makeEnvironment("python3");
  } catch (error) {
    const why = await whyNoApt();
    if (why) throw new Error(`python3 makes no virtual environment, and ${why}`, { cause: error });
    // A library has no command: a name that is none makes sure that it is installed.
    await aptInstall("python3-venv", ["python3", "python3-venv"]);
    await makeEnvironment("/usr/bin/python3");
  }
  await run(python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", MOTO], { timeout: 400_000 });
  return await probe();
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

function untilListening(port: number, moto: ChildProcess, log: () => string): Promise<void> {
  const missing = async () => {
    if (hasEnded(moto)) throw new Error(`moto ended:\n${log()}`);
    const socket = connect(port, "127.0.0.1");
    const listens = await once(socket, "connect").then(
      () => true,
      () => false,
    );
    socket.destroy();
    return listens ? undefined : `nobody listens on port ${port}`;
  };
  return untilNothingMissing("moto is ready", missing, { deadlineMs: START_MS });
}

function hasEnded({ exitCode, signalCode }: ChildProcess): boolean {
  return exitCode !== null || signalCode !== null;
}

let moto: ChildProcess | undefined;
let client: KMSClient;
let keyId: string;
let otherKeyId: string;

async function createKey(): Promise<string> {
  const { KeyMetadata } = await client.send(
    new CreateKeyCommand({ KeySpec: "SYMMETRIC_DEFAULT", KeyUsage: "ENCRYPT_DECRYPT" }),
  );
  if (KeyMetadata?.Arn === undefined) throw new Error("moto made no key");
  return KeyMetadata.Arn;
}

beforeAll(async () => {
  const python = await pythonWithMoto();
  const port = await freePort();
  let log = "";
  const args = ["-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", String(port)];
  moto = spawn(python, args, { stdio: ["ignore", "ignore", "pipe"] });
  moto.stderr?.setEncoding("utf8").on("data", (text: string) => {
    log = (log + text).slice(-4000);
  });
  await untilListening(port, moto, () => log);
  process.stderr.write(`[kms] moto listens on 127.0.0.1:${port}, pid ${moto.pid}\n`);
  client = clientOf(`http://127.0.0.1:${port}`);
  [keyId, otherKeyId] = [await createKey(), await createKey()];
}, 600_000);
afterAll(async () => {
  client?.destroy();
  if (moto === undefined || hasEnded(moto)) return;
  const ended = once(moto, "exit");
  moto.kill("SIGKILL");
  await ended;
});

kmsSuite({ describe, it }, "awsKms with moto, as every Kms", async () => ({
  kms: awsKms({ keyId, client }),
  close: async () => {},
}));

const CONTEXT = { "sealed-session:ring": "web", "sealed-session:activates-at": "2026-01-02T03:04:05.678Z" };

describe("awsKms with moto", () => {
  it("refuses what another key wrapped", async () => {
    const { wrapped } = await awsKms({ keyId: otherKeyId, client }).generate(CONTEXT);
    await expect(awsKms({ keyId, client }).unwrap(wrapped, CONTEXT)).rejects.toMatchObject({ code: "KMS_DENIED" });
  });

  it("finds no key that is not there", async () => {
    const gone = awsKms({ keyId: "1234abcd-12ab-34cd-56ef-1234567890ab", client });
    await expect(gone.generate(CONTEXT)).rejects.toMatchObject({ code: "KMS_DISABLED" });
  });

  it("describes the key, and moves a data key to another", async () => {
    const kms = awsKms({ keyId, client });
    expect(await kms.describe()).toEqual({
      arn: keyId,
      enabled: true,
      state: "Enabled",
      spec: "SYMMETRIC_DEFAULT",
      usage: "ENCRYPT_DECRYPT",
      multiRegion: false,
    });
    const { dataKey, wrapped } = await kms.generate(CONTEXT);
    const moved = await kms.rewrap(wrapped, CONTEXT, { to: otherKeyId });
    expect(await awsKms({ keyId: otherKeyId, client }).unwrap(moved, CONTEXT)).toEqual(dataKey);
  });

  it("lets one process open what another sealed", async () => {
    const store = memoryKeyRingStore();
    const sealer = () => new Sealer({ ring: new KeyRing({ name: "web", kms: awsKms({ keyId, client }), store }) });
    const envelope = await sealer().seal({ user: 1 }, "a-session-id-of-24-bytes");
    expect(await sealer().open(envelope, "a-session-id-of-24-bytes")).toEqual({ user: 1 });
  });
});
