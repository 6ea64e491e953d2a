import { execFile } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { aptInstall, whyNoApt } from "../servers/apt.js";

const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));
const run = promisify(execFile);

/** The lists that the reader goes through, and those about rings, which it does not have. */
const READ = ["envelope", "payload", "derive", "storedId", "index"];
const NOT_READ = ["record", "current"];

/** Either `ok`, `value` or nothing more than fields to match, or `reject`. */
interface Vector {
  name?: string;
  envelope?: string;
  ok?: Record<string, unknown>;
  reject?: unknown;
  shapes?: readonly string[];
  [field: string]: unknown;
}
type Vectors = Record<string, Vector[]>;

const VIRTUAL_ENVIRONMENT = here("../../node_modules/.cache/python-reader");
const PROBE = `
import sys, cryptography
assert sys.version_info >= (3, 9), "the reader needs Python 3.9"
print(f"{sys.executable}, Python {sys.version.split()[0]}, cryptography {cryptography.__version__}")`;

/** @throws Error whose message says why `python` cannot run the reader. */
async function probe(python: string): Promise<string> {
  try {
    const { stdout } = await run(python, ["-c", PROBE]);
    process.stderr.write(`[vectors] the reader runs with ${stdout}`);
    return python;
  } catch (error) {
    const { stderr = "" } = error as { stderr?: string };
    throw new Error(stderr.trim().split("\n").at(-1) || String(error), { cause: error });
  }
}

/** A virtual environment is made once and kept. */
async function probeVirtualEnvironment(): Promise<string> {
  const python = join(VIRTUAL_ENVIRONMENT, process.platform === "win32" ? "Scripts/python.exe" : "bin/python");
  try {
    return await probe(python);
  } catch {
    process.stderr.write(`[vectors] no Python with cryptography here: pip installs it in ${VIRTUAL_ENVIRONMENT}\n`);
    await run("python3", ["-m", "venv", "--clear", VIRTUAL_ENVIRONMENT]);
    await run(python, ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "cryptography"]);
    return await probe(python);
  }
}

async function probeDebianPackage(): Promise<string> {
  const why = await whyNoApt();
  if (why) throw new Error(why);
  // A library has no command: a name that is none makes sure that it is installed.
  await aptInstall("python3-cryptography", ["python3-cryptography"]);
  return await probe("/usr/bin/python3");
}

type Source = readonly [name: string, find: () => Promise<string>];

/** @returns a Python with `cryptography`: the one that SEALED_SESSION_TEST_PYTHON gives, or else the first to be had. */
async function findPython(): Promise<string> {
  const given = process.env["SEALED_SESSION_TEST_PYTHON"];
  const found: readonly Source[] = [
    ["python3", () => probe("python3")],
    ["/usr/bin/python3", () => probe("/usr/bin/python3")],
    ["virtual environment", probeVirtualEnvironment],
    ["Debian package", probeDebianPackage],
  ];
  const reasons: string[] = [];
  for (const [source, find] of given ? [[given, () => probe(given)] satisfies Source] : found) {
    try {
      return await find();
    } catch (error) {
      reasons.push(`${source}: ${error instanceof Error ? error.message : String(error)}`);
    }
  }
  throw new Error(`no Python with cryptography to be had\n  ${reasons.join("\n  ")}`);
}

let python: string;
let scratch: string;
beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "sealed-session-vectors-"));
  python = await findPython();
}, 600_000);
afterAll(() => rm(scratch, { recursive: true, force: true }));

async function read(file: string): Promise<{ code: unknown; lines: string[] }> {
  const { code, stdout, stderr } = await run(python, [here("reader.py"), file]).then(
    (output) => ({ code: 0, ...output }),
    (error: { code: unknown; stdout: string; stderr: string }) => error,
  );
  if (stderr.includes("Traceback")) throw new Error(stderr);
  return { code, lines: stdout.trimEnd().split(/\r?\n/) };
}

const vectorsOf = async (file: string) => JSON.parse(await readFile(here(file), "utf8")) as Vectors;

/** The reader's summary, counted from the lists of the file. */
function summary(vectors: Vectors, wrong: number): string {
  const all = READ.flatMap((list) => vectors[list] ?? []);
  const supported = all.filter((vector) => !vector.shapes);
  const opened = supported.filter((vector) => vector.ok).length;
  const refused = supported.filter((vector) => "reject" in vector).length;
  const matched = supported.length - opened - refused;
  return `${opened} opened, ${refused} refused, ${matched} matched, ${all.length - supported.length} unsupported, ${wrong} wrong`;
}

describe("a reader in Python that follows the format page", () => {
  const files = ["envelope-v1.json", "envelope_v1_second_implementation.json"];

  test.each(files)("agrees with every vector of %s", async (file) => {
    const vectors = await vectorsOf(file);
    const lists = Object.keys(vectors).filter((name) => Array.isArray(vectors[name]));
    expect([...READ, ...NOT_READ]).toEqual(expect.arrayContaining(lists));
    expect(vectors["envelope"]).not.toHaveLength(0);
    expect(await read(here(file))).toEqual({ code: 0, lines: [summary(vectors, 0)] });
  });

  test("is at most 100 lines", async () => {
    expect((await readFile(here("reader.py"), "utf8")).trimEnd().split("\n").length).toBeLessThanOrEqual(100);
  });
});

describe("the reader's check fails", () => {
  /** @returns what the reader says of envelope-v1.json after `alter` had its first `ok` and its first `reject`. */
  async function readAltered(alter: (ok: Vector, reject: Vector, vectors: Vectors) => void) {
    const vectors = await vectorsOf("envelope-v1.json");
    const ok = vectors["envelope"]?.find((vector) => vector.ok);
    const reject = vectors["envelope"]?.find((vector) => vector.reject);
    if (!ok || !reject) throw new Error("the vectors have no case of either kind");
    alter(ok, reject, vectors);
    const file = join(scratch, "altered.json");
    await writeFile(file, JSON.stringify(vectors));
    const { code, lines } = await read(file);
    return { code, wrong: lines.slice(0, -1), summary: lines.at(-1), name: ok.name, rejectName: reject.name };
  }

  test("when a byte of an envelope is flipped", async () => {
    const said = await readAltered((ok) => {
      const bytes = Buffer.from(ok.envelope ?? "", "hex");
      bytes.writeUInt8(bytes.readUInt8(bytes.length - 1) ^ 1, bytes.length - 1);
      ok.envelope = bytes.toString("hex");
    });
    expect(said).toMatchObject({ code: 1, wrong: [`wrong: envelope ${said.name} refused`] });
    expect(said.summary).toMatch(/, 1 wrong$/);
  });

  const fields = ["commitment", "sealingKey", "aesKey", "aad", "plaintext", "value"];
  test.each(fields)("when another %s is expected", async (field) => {
    const said = await readAltered((ok) => {
      if (!ok.ok?.[field]) throw new Error(`the case has no ${field}`);
      ok.ok[field] = "00";
    });
    expect(said.code).toBe(1);
    expect(said.wrong).toEqual([expect.stringContaining(`wrong: envelope ${said.name} {'ok': `)]);
    expect(said.summary).toMatch(/, 1 wrong$/);
  });

  test("when an envelope that should be refused opens", async () => {
    const said = await readAltered((ok, reject) => {
      const { keys, purpose, namespace, id, now, envelope = "" } = ok;
      Object.assign(reject, { keys, purpose, namespace, id, now, envelope });
    });
    expect(said.code).toBe(1);
    expect(said.wrong).toEqual([expect.stringContaining(`wrong: envelope ${said.rejectName} {'ok': `)]);
    expect(said.summary).toMatch(/, 1 wrong$/);
  });

  test("when a value of another type is expected", async () => {
    const payload = [
      { bytes: "01", value: true },
      { bytes: "01", value: { $bigint: "1" } },
      { bytes: "cf0000000000000001", value: 1 },
      { bytes: "cb8000000000000000", value: 0 },
      { bytes: "c40101", value: "01" },
      { bytes: "c0", value: { $undefined: true } },
    ];
    const said = await readAltered((_ok, _reject, vectors) => {
      vectors["payload"] = payload;
    });
    expect(said.code).toBe(1);
    expect(said.wrong).toHaveLength(payload.length);
    expect(said.summary).toMatch(new RegExp(`, ${payload.length} wrong$`));
  });

  test.each(["derive", "storedId", "index"])("when a vector of %s is altered", async (list) => {
    const said = await readAltered((_ok, _reject, vectors) => {
      const vector = vectors[list]?.[0];
      if (!vector) throw new Error(`no ${list}`);
      const last = Object.keys(vector).at(-1) ?? "";
      vector[last] = "00";
    });
    expect(said.code).toBe(1);
    expect(said.wrong).toEqual([expect.stringContaining(`wrong: ${list} `)]);
    expect(said.summary).toMatch(/, 1 wrong$/);
  });

  test("when the file holds no vectors", async () => {
    const file = join(scratch, "empty.json");
    await writeFile(file, "{}");
    expect(await read(file)).toEqual({ code: 1, lines: [summary({}, 0)] });
  });
});
