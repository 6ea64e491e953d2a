import { randomBytes } from "node:crypto";
import { chmodSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { KmsClient } from "@sealed-session/aws-kms";
import { afterAll, describe, expect, it, vi } from "vitest";
import { tell } from "../src/cli-error.js";
import { KmsTrail } from "../src/kms-trail.js";
import { type LoadAws, openKms } from "../src/open-kms.js";

const folder = mkdtempSync(join(tmpdir(), "sealed-session-kms-"));
afterAll(() => rmSync(folder, { recursive: true }));

const trail = () => new KmsTrail(() => 0);
const never: LoadAws = () => Promise.reject(new Error("loaded"));
const ARN = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

describe("a KMS of the configuration", () => {
  it("loads nothing of AWS where none is named", async () => {
    const keyFile = join(folder, "local.key");
    writeFileSync(keyFile, randomBytes(32).toString("base64url"), { mode: 0o600 });
    const own = { name: "own", generate: vi.fn(), wrap: vi.fn(), unwrap: vi.fn() };
    const { kms } = await openKms([{ type: "local", keyFile, name: "near" }, own], trail(), never);
    expect(kms.map(({ name }) => name)).toEqual(["near", "own"]);
    expect(kms[1]).toBe(own);
  });

  it("says which packages are missing where one is", async () => {
    const missing = Object.assign(new Error("not found"), { code: "ERR_MODULE_NOT_FOUND" });
    const opening = openKms([{ type: "aws", keyId: ARN }], trail(), () => Promise.reject(missing));
    expect(tell(await opening.catch((error: unknown) => error))).toMatchObject({
      code: "CONFIG_INVALID",
      exitCode: 2,
      message: expect.stringMatching(
        /^ring\.kms\[0\] needs .*npm install @sealed-session\/aws-kms @aws-sdk\/client-kms$/,
      ),
    });
  });

  it("is no local key file that does not exist: none is made", async () => {
    const keyFile = join(folder, "sub", "missing.key");
    const opening = openKms([{ type: "local", keyFile }], trail(), never);
    expect(tell(await opening.catch((error: unknown) => error))).toMatchObject({
      code: "CONFIG_INVALID",
      exitCode: 2,
      message: expect.stringMatching(/^ring\.kms\[0\]\.keyFile must name a file that exists/),
    });
    expect(readdirSync(folder)).not.toContain("sub");
  });

  it("is no local key file that others may read, and the command ends with 2", async () => {
    const keyFile = join(folder, "open.key");
    writeFileSync(keyFile, randomBytes(32).toString("base64url"));
    chmodSync(keyFile, 0o644);
    const opening = openKms([{ type: "local", keyFile }], trail(), never);
    expect(tell(await opening.catch((error: unknown) => error))).toMatchObject({
      code: "LOCAL_KMS_REFUSED",
      exitCode: 2,
    });
  });

  it.each([
    [{ type: "aws", keyId: ARN } as const, "eu-west-1"],
    [{ type: "aws", keyId: ARN, region: "eu-central-1" } as const, "eu-central-1"],
    [{ type: "aws", keyId: "1234abcd", region: "us-east-1" } as const, "us-east-1"],
  ])("of AWS has the region that is given, or that of the ARN (%#)", async (entry, region) => {
    const made: unknown[] = [];
    const sdk = {
      KMSClient: class {
        constructor(config: unknown) {
          made.push(config);
        }
        send() {}
        destroy() {
          made.push("destroyed");
        }
      },
    };
    const aws = await import("@sealed-session/aws-kms");
    const opened = await openKms([entry], trail(), async () => ({ aws, sdk }) as never);
    expect(made).toMatchObject([{ region, requestHandler: { throwOnRequestTimeout: true } }]);
    opened.close();
    expect(made[1]).toBe("destroyed");
  });
});

describe("several KMSs of AWS", () => {
  it("are asked through one client where region and endpoint are the same: a data key moves between them inside KMS", async () => {
    const made: unknown[] = [];
    const sdk = {
      KMSClient: class {
        constructor(config: { readonly region: string }) {
          made.push(config.region);
        }
        send() {}
        destroy() {}
      },
    };
    const aws = await import("@sealed-session/aws-kms");
    const entries = [
      { type: "aws", keyId: "1234abcd", region: "eu-west-1" },
      { type: "aws", keyId: "5678dcba", region: "eu-west-1" },
      { type: "aws", keyId: "9999aaaa", region: "eu-central-1" },
    ] as const;
    await openKms(entries, trail(), async () => ({ aws, sdk }) as never);
    expect(made).toEqual(["eu-west-1", "eu-central-1"]);
  });
});

describe("the trail of KMS requests", () => {
  class DecryptCommand {
    readonly input = { KeyId: ARN };
  }
  const client = (send: () => Promise<unknown>) => ({ send }) as unknown as KmsClient;

  it("has each answer's request id, operation and key, and nothing else of it", async () => {
    const requests = new KmsTrail(() => Date.parse("2026-01-01T00:00:00Z"));
    const answer = { $metadata: { requestId: "r-1" }, KeyId: ARN, Plaintext: Buffer.from("secret") };
    const watched = requests.watch(
      client(async () => answer),
      (keyId) => `name of ${keyId}`,
    );
    expect(await watched.send(new DecryptCommand() as never)).toBe(answer);
    expect(requests.requests).toEqual([
      { kms: `name of ${ARN}`, operation: "Decrypt", requestId: "r-1", keyId: ARN, at: "2026-01-01T00:00:00.000Z" },
    ]);
  });

  it("has refusals by their name, and passes them on as they are", async () => {
    const requests = new KmsTrail(() => 0);
    const error = Object.assign(new Error("no"), { name: "AccessDeniedException", $metadata: { requestId: "r-2" } });
    const watched = requests.watch(
      client(() => Promise.reject(error)),
      () => "a",
    );
    await expect(watched.send(new DecryptCommand() as never)).rejects.toBe(error);
    expect(requests.requests).toMatchObject([
      { operation: "Decrypt", requestId: "r-2", error: "AccessDeniedException" },
    ]);
  });

  it("leaves out what nobody answered", async () => {
    const requests = new KmsTrail(() => 0);
    const watched = requests.watch(
      client(() => Promise.reject(new Error("ECONNREFUSED"))),
      () => "a",
    );
    await expect(watched.send(new DecryptCommand() as never)).rejects.toThrow();
    expect(requests.requests).toEqual([]);
  });

  it("keeps the latest thousand", () => {
    const requests = new KmsTrail(() => 0);
    for (let n = 0; n < 1001; n++) requests.note({ kms: "a", operation: "Decrypt", requestId: String(n) });
    expect(requests.requests).toHaveLength(1000);
    expect(requests.requests[0]?.requestId).toBe("1");
  });
});
