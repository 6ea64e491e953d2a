/**
 * What the KMSs answered in this run: the request ids that CloudTrail shows, with the key and the operation.
 */
import type { KmsClient } from "@sealed-session/aws-kms";

/** One request to a KMS that was answered, as the report shows it. */
export interface KmsRequest {
  /** The name of the KMS in key records. */
  readonly kms: string;
  /** Such as `GenerateDataKey`. */
  readonly operation: string;
  /** The id in the KMS's audit log. */
  readonly requestId: string;
  /** The key-encryption key that answered, where it said so. */
  readonly keyId?: string;
  /** When it had answered, in ISO 8601. */
  readonly at: string;
  /** The name of the error, where it refused. */
  readonly error?: string;
}

/** A run makes a handful; one that lasts for days asks again every few minutes. */
const MAX_REQUESTS = 1000;

/** Collects the requests of one run. */
export class KmsTrail {
  readonly #clock: () => number;
  readonly #requests: KmsRequest[] = [];

  /** @param clock - Milliseconds since 1970-01-01T00:00:00Z. */
  constructor(clock: () => number) {
    this.#clock = clock;
  }

  /** The requests so far, the latest 1000 of them. */
  get requests(): readonly KmsRequest[] {
    return this.#requests;
  }

  /** Adds one request. */
  note(request: Omit<KmsRequest, "at">): void {
    if (this.#requests.length >= MAX_REQUESTS) this.#requests.shift();
    this.#requests.push({ ...request, at: new Date(this.#clock()).toISOString() });
  }

  /**
   * Nothing of an answer is kept but its key's name.
   *
   * @param nameOf - The name of the KMS that has a key-encryption key.
   * @returns the same client, whose answers are noted.
   */
  watch(client: KmsClient, nameOf: (keyId: string) => string): KmsClient {
    // The client has a signature for each command; what goes through here is not looked at.
    const send = client.send.bind(client) as unknown as Send;
    const watched: Send = async (command, options) => {
      const operation = command.constructor.name.replace(/Command$/, "");
      const kms = nameOf(command.input.SourceKeyId ?? command.input.KeyId ?? "");
      try {
        const answer = await send(command, options);
        this.#noteAnswer(kms, operation, answer);
        return answer;
      } catch (error) {
        this.#noteAnswer(kms, operation, error as Answer, (error as Error).name);
        throw error;
      }
    };
    return { send: watched as unknown as KmsClient["send"] };
  }

  #noteAnswer(kms: string, operation: string, answer: Answer, error?: string): void {
    const requestId = answer.$metadata?.requestId;
    // Nobody answered.
    if (requestId === undefined) return;
    const keyId = error === undefined ? (answer.KeyId ?? answer.KeyMetadata?.Arn) : undefined;
    this.note({
      kms,
      operation,
      requestId,
      ...(keyId !== undefined && { keyId }),
      ...(error !== undefined && { error }),
    });
  }
}

type Send = (command: Command, options?: object) => Promise<Answer>;

/** What is looked at of a command of the SDK. */
interface Command {
  readonly input: { readonly KeyId?: string | undefined; readonly SourceKeyId?: string | undefined };
}

/** What is looked at of an answer of the SDK, or of its error. */
interface Answer {
  readonly $metadata?: { readonly requestId?: string | undefined };
  readonly KeyId?: string | undefined;
  readonly KeyMetadata?: { readonly Arn?: string | undefined };
}
