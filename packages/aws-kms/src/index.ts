/**
 * Wraps the data keys of sealed web sessions with AWS KMS, over the AWS SDK for JavaScript 3.
 *
 * @packageDocumentation
 */
export {
  type AwsKeyDescription,
  type AwsKms,
  type AwsKmsOptions,
  awsKms,
  type KmsClient,
  type KmsSendOptions,
  type RewrapOptions,
} from "./aws-kms.js";
