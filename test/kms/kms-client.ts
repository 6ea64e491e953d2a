import { KMSClient, type KMSClientConfig } from "@aws-sdk/client-kms";

/** @returns a real client of AWS's SDK for a server on the loopback interface. Signatures are made from invented credentials. */
export function clientOf(endpoint: string, config: KMSClientConfig = {}): KMSClient {
  const credentials = { accessKeyId: "test", secretAccessKey: "test" };
  return new KMSClient({ endpoint, region: "eu-west-1", credentials, maxAttempts: 1, ...config });
}
