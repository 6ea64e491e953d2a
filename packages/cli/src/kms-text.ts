/** The KMS requests of a run, for people. */
import { indented, tableOf } from "./format.js";
import type { KmsRequest } from "./kms-trail.js";
import type { Colors } from "./terminal.js";

/** @returns a paragraph with an empty line before it, or nothing where no request is known. */
export function kmsText(requests: readonly KmsRequest[], colors: Colors): string {
  if (requests.length === 0) return "";
  const rows = requests.map(({ at, operation, requestId, error }) => [
    `${at.slice(0, 19)}Z`,
    error === undefined ? operation : colors.red(`${operation}: ${error}`),
    requestId,
  ]);
  const keys = [...new Set(requests.flatMap(({ keyId }) => (keyId === undefined ? [] : [keyId])))];
  const head = colors.cyan("KMS requests, as CloudTrail shows them");
  const table = tableOf([{ head: "answered" }, { head: "operation" }, { head: "request id" }], rows);
  return `\n\n${head}\n${indented(table)}${keys.map((key) => `\n  ${colors.dim("key")} ${key}`).join("")}`;
}
