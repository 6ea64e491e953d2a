/**
 * The policies of the guide, applied to each role's work: all that it does is allowed, nothing that is allowed is never done, and nothing else goes through.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { KMSClient } from "@aws-sdk/client-kms";
import { awsKms } from "@sealed-session/aws-kms";
import { KeyRing, memoryKeyRingStore, Sealer } from "@sealed-session/core";
import { type FaultKms, type KmsCall, startFaultKms } from "@sealed-session/test/servers";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { clientOf } from "./kms-client.js";

const GUIDE = readFileSync(fileURLToPath(new URL("../../docs/aws-kms.md", import.meta.url)), "utf8");
/** The keys that the guide's policies name. */
const GUIDE_KEY = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";
const GUIDE_NEW_KEY = "arn:aws:kms:eu-west-1:111122223333:key/5678dcba-56cd-78ab-34ef-ba0987654321";
const SESSION_ID = "a-session-id-of-24-bytes";
const RING_CONDITION = "kms:EncryptionContext:sealed-session:ring";
const KEYS_CONDITION = "kms:EncryptionContextKeys";

interface Statement {
  readonly Effect: string;
  readonly Action: string | readonly string[];
  readonly Resource: string | readonly string[];
  readonly Condition?: Readonly<Record<string, Readonly<Record<string, string | readonly string[]>>>>;
}
type Policy = readonly Statement[];
/** What AWS checks for a call: one permission, for a ReEncrypt two. */
interface Permission {
  readonly action: string;
  readonly keyId: string | undefined;
  readonly context: KmsCall["context"];
}

const list = (value: string | readonly string[]): readonly string[] => (typeof value === "string" ? [value] : value);
const actionsOf = (policy: Policy) => [...new Set(policy.flatMap(({ Action }) => list(Action)))].sort();

/** The policy under a heading of the guide, for our keys and with further actions. */
function policyOf(heading: string, more: readonly string[] = []): Policy {
  const [, block] = new RegExp(`^### ${heading}\n[^#]*?^\`\`\`json\n(.*?)^\`\`\``, "ms").exec(GUIDE) ?? [];
  if (block === undefined) throw new Error(`the guide has no policy under ${heading}`);
  const text = block.replaceAll(GUIDE_KEY, keyId).replaceAll(GUIDE_NEW_KEY, newKeyId);
  const { Statement, Version } = JSON.parse(text) as { Statement: Policy; Version: string };
  expect(Version).toBe("2012-10-17");
  if (more.length === 0) return Statement;
  return Statement.map((one) => ({ ...one, Action: [...list(one.Action), ...more], Resource: [keyId, newKeyId] }));
}

function permissionsOf({ operation, keyId: asked, context, ...call }: KmsCall): Permission[] {
  if (operation !== "ReEncrypt") return [{ action: `kms:${operation}`, keyId: asked, context }];
  return [
    { action: "kms:ReEncryptFrom", keyId: asked, context },
    { action: "kms:ReEncryptTo", keyId: call.destinationKeyId, context: call.destinationContext ?? {} },
  ];
}

/** As IAM does it, for the part of its language that the guide uses; anything else is an error. */
function allows(policy: Policy, { action, keyId: asked, context }: Permission): boolean {
  return policy.some(({ Effect, Action, Resource, Condition = {} }) => {
    expect(Effect).toBe("Allow");
    if (!list(Action).includes(action) || !list(Resource).includes(asked ?? "")) return false;
    return Object.entries(Condition).every(([operator, tests]) =>
      Object.entries(tests).every(([key, expected]) => {
        const name = `${operator} ${key}`;
        if (name === `StringEquals ${RING_CONDITION}`) {
          return list(expected).includes(context["sealed-session:ring"] ?? "");
        }
        if (name === `ForAllValues:StringEquals ${KEYS_CONDITION}`) {
          return Object.keys(context).every((entry) => list(expected).includes(entry));
        }
        throw new Error(`a condition that this test does not know: ${name}`);
      }),
    );
  });
}

let server: FaultKms;
let client: KMSClient;
let keyId: string;
let newKeyId: string;
let store: ReturnType<typeof memoryKeyRingStore>;
beforeAll(async () => {
  server = await startFaultKms();
  client = clientOf(server.endpoint);
});
beforeEach(() => {
  server.fault = () => undefined;
  server.calls.length = 0;
  keyId = server.createKey();
  newKeyId = server.createKey();
  store = memoryKeyRingStore();
});
afterAll(async () => {
  client?.destroy();
  await server?.stop();
});

/** From now on, the server refuses what the policy does not allow. */
function enforce(policy: Policy): void {
  server.fault = (call) =>
    permissionsOf(call).every((permission) => allows(policy, permission))
      ? undefined
      : { kind: "error", status: 400, name: "AccessDeniedException" };
}
const actionsUsed = () => [...new Set(server.calls.flatMap(permissionsOf).map(({ action }) => action))].sort();

const keyOf = () => awsKms({ keyId, client });
const newKeyOf = () => awsKms({ keyId: newKeyId, client });
const ringOf = (name = "web", kms = [keyOf()]) => new KeyRing({ name, kms, store });

/** A service starts on an empty ring, and its second process meets the key. */
async function serve(kms?: Parameters<typeof ringOf>[1]): Promise<void> {
  const envelope = await new Sealer({ ring: ringOf("web", kms) }).seal({ user: 1 }, SESSION_ID);
  expect(await new Sealer({ ring: ringOf("web", kms) }).open(envelope, SESSION_ID)).toEqual({ user: 1 });
}

/** The job publishes, looks at a new KMS key and moves a wrapped data key to it. */
async function rotate(): Promise<void> {
  const ring = ringOf();
  await ring.publish({ delayMs: 0 });
  await ringOf().refresh();
  expect(await newKeyOf().describe()).toMatchObject({ enabled: true });
  const context = { "sealed-session:ring": "web", "sealed-session:activates-at": "2026-01-02T03:04:05.678Z" };
  const { wrapped } = await keyOf().generate(context);
  expect(await keyOf().rewrap(wrapped, context, { to: newKeyId })).not.toHaveLength(0);
}

async function audit(): Promise<void> {
  expect(await keyOf().describe()).toMatchObject({ enabled: true });
}

describe("the guide's policy of", () => {
  const ROLES: readonly (readonly [heading: string, more: readonly string[], work: () => Promise<void>])[] = [
    ["Runtime role", [], () => serve()],
    ["Runtime role", ["kms:Encrypt"], () => serve([keyOf(), newKeyOf()])],
    ["Rotate role", [], rotate],
    ["Audit role", [], audit],
  ];

  it.each(ROLES)(
    "%s, with %j more, allows its work and nothing that this work does not need",
    async (heading, more, work) => {
      const policy = policyOf(heading, more);
      enforce(policy);
      await work();
      expect(actionsUsed()).toEqual(actionsOf(policy));
      for (const permission of server.calls.flatMap(permissionsOf)) expect(allows(policy, permission)).toBe(true);
    },
  );

  it.each(ROLES)("%s, with %j more, is enough only with each of its actions", async (heading, more, work) => {
    for (const action of actionsOf(policyOf(heading, more))) {
      server.calls.length = 0;
      store = memoryKeyRingStore();
      enforce(policyOf(heading, more).map((one) => ({ ...one, Action: list(one.Action).filter((a) => a !== action) })));
      await work().catch(() => {});
      const refused = server.calls.flatMap(permissionsOf).filter((permission) => permission.action === action);
      expect(refused, action).not.toEqual([]);
    }
  });

  it("the runtime allows no other ring, no other key, no other entry in the context, and no context at all", () => {
    const policy = policyOf("Runtime role");
    const context = { "sealed-session:ring": "web", "sealed-session:activates-at": "2026-01-02T03:04:05.678Z" };
    expect(allows(policy, { action: "kms:Decrypt", keyId, context })).toBe(true);
    const others: readonly Permission[] = [
      { action: "kms:Decrypt", keyId, context: { ...context, "sealed-session:ring": "admin" } },
      { action: "kms:Decrypt", keyId, context: { ...context, more: "" } },
      { action: "kms:Decrypt", keyId, context: {} },
      { action: "kms:Decrypt", keyId: newKeyId, context },
      { action: "kms:Encrypt", keyId, context },
      { action: "kms:ReEncryptFrom", keyId, context },
      { action: "kms:DescribeKey", keyId, context: {} },
    ];
    for (const permission of others) expect(allows(policy, permission), permission.action).toBe(false);
  });

  it("the runtime makes no data key for another ring", async () => {
    enforce(policyOf("Runtime role"));
    await expect(ringOf("admin").current()).rejects.toMatchObject({
      code: "KEY_UNAVAILABLE",
      cause: { code: "KMS_DENIED" },
    });
  });

  it("a service that has kms:Decrypt alone opens and seals with the keys that a job published", async () => {
    await ringOf().publish({ delayMs: 0 });
    server.calls.length = 0;
    enforce(policyOf("Runtime role").map((one) => ({ ...one, Action: "kms:Decrypt" })));
    await serve();
    expect(actionsUsed()).toEqual(["kms:Decrypt"]);
    store = memoryKeyRingStore();
    await expect(ringOf().current()).rejects.toMatchObject({ code: "KEY_UNAVAILABLE" });
  });
});
