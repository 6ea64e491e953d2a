/**
 * Makes the KMSs that the configuration describes. What a KMS needs is loaded only when one is named.
 */
import { existsSync } from "node:fs";
import type { KmsClient } from "@sealed-session/aws-kms";
import { type Kms, localKms } from "@sealed-session/core";
import { CliError } from "./cli-error.js";
import type { AwsKmsConfig, LocalKmsConfig } from "./config.js";
import { isKms, type KmsSettings } from "./config-schema.js";
import type { KmsTrail } from "./kms-trail.js";

/** Loads the two packages of AWS KMS. */
export type LoadAws = () => Promise<{
  readonly aws: typeof import("@sealed-session/aws-kms");
  readonly sdk: typeof import("@aws-sdk/client-kms");
}>;

/** KMSs that are ready. */
export interface OpenedKms {
  readonly kms: readonly Kms[];
  /** Closes the clients that were made here. */
  close(): void;
}

const ARN_REGION = /^arn:aws[a-z-]*:kms:([a-z0-9-]+):/;
/** A refresh must not hang on a KMS; `maxAttempts` are the only retries. */
const REQUEST_HANDLER = { connectionTimeout: 2000, requestTimeout: 4000, throwOnRequestTimeout: true };

/**
 * Opens the KMSs of a ring.
 *
 * @throws CliError `CONFIG_INVALID`, with the field's path; SealedSessionError `LOCAL_KMS_REFUSED`.
 */
export async function openKms(
  settings: readonly KmsSettings[],
  trail: KmsTrail,
  load: LoadAws = loadAws,
): Promise<OpenedKms> {
  const aws = new AwsOpener(trail, load);
  const kms: Kms[] = [];
  for (const [index, entry] of settings.entries()) {
    const path = `ring.kms[${index}]`;
    if (isKms(entry)) kms.push(entry);
    else kms.push(entry.type === "local" ? openLocal(path, entry) : await aws.open(path, entry));
  }
  return { kms, close: () => aws.close() };
}

function openLocal(path: string, { keyFile, keyVariable, name, allowInProduction }: LocalKmsConfig): Kms {
  // localKms would make one: here that could only be a path that is wrong, and a ring that nobody else can open.
  if (keyFile !== undefined && !existsSync(keyFile)) {
    throw new CliError(
      "CONFIG_INVALID",
      `${path}.keyFile must name a file that exists: the application makes it, this command does not`,
    );
  }
  return localKms({
    ...(keyFile !== undefined && { keyFile }),
    ...(keyVariable !== undefined && { keyVariable }),
    ...(name !== undefined && { name }),
    ...(allowInProduction !== undefined && { allowInProduction }),
  });
}

/** One client for each region and endpoint: KMS moves a data key from one key to another where both are asked through the same. */
class AwsOpener {
  readonly #trail: KmsTrail;
  readonly #load: LoadAws;
  readonly #clients = new Map<string, { readonly watched: KmsClient; destroy(): void }>();
  readonly #names = new Map<string, string>();

  constructor(trail: KmsTrail, load: LoadAws) {
    this.#trail = trail;
    this.#load = load;
  }

  async open(
    path: string,
    { keyId, region = ARN_REGION.exec(keyId)?.[1], endpoint, name }: AwsKmsConfig,
  ): Promise<Kms> {
    const { aws, sdk } = await this.#load().catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code !== "ERR_MODULE_NOT_FOUND") throw error;
      throw new CliError(
        "CONFIG_INVALID",
        `${path} needs two packages that are not installed: npm install @sealed-session/aws-kms @aws-sdk/client-kms`,
      );
    });
    const place = `${region} ${endpoint}`;
    let client = this.#clients.get(place);
    if (client === undefined) {
      const made = new sdk.KMSClient({
        requestHandler: REQUEST_HANDLER,
        ...(region !== undefined && { region }),
        ...(endpoint !== undefined && { endpoint }),
      });
      const watched = this.#trail.watch(made, (asked) => this.#names.get(asked) ?? asked);
      client = { watched, destroy: () => made.destroy() };
      this.#clients.set(place, client);
    }
    const kms = aws.awsKms({ keyId, client: client.watched, ...(name !== undefined && { name }) });
    this.#names.set(keyId, kms.name);
    return kms;
  }

  close(): void {
    for (const client of this.#clients.values()) client.destroy();
  }
}

const loadAws: LoadAws = async () => {
  const [aws, sdk] = await Promise.all([import("@sealed-session/aws-kms"), import("@aws-sdk/client-kms")]);
  return { aws, sdk };
};
