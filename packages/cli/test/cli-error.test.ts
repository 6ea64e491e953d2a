import { KmsError, SealedSessionError } from "@sealed-session/core";
import { describe, expect, it } from "vitest";
import { CliError, tell } from "../src/cli-error.js";

describe("an error is told with its exit code", () => {
  it.each([
    [new CliError("USAGE", "m"), 2],
    [new CliError("CONFIG_INVALID", "m"), 2],
    [new CliError("CONFIG_UNREADABLE", "m"), 2],
    [new CliError("CHECKPOINT_REFUSED", "m"), 2],
    [new CliError("KEY_UNKNOWN", "m"), 2],
    [new CliError("KEY_NOT_SEALING", "m"), 1],
    [new CliError("REDIS_UNREACHABLE", "m"), 1],
    [new CliError("INTERRUPTED", "m"), 130],
    [new SealedSessionError("KEY_IN_USE", "m"), 3],
    [new SealedSessionError("LOCAL_KMS_REFUSED", "m"), 2],
    [new SealedSessionError("KEY_UNAVAILABLE", "m"), 1],
    [new SealedSessionError("STORE_UNAVAILABLE", "m"), 1],
    [new SealedSessionError("CLOCK_SKEW", "m"), 1],
  ])("%o", (error, exitCode) => {
    expect(tell(error)).toEqual({ code: error.code, message: "m", exitCode });
  });

  it("also one that nobody expected, or that is none", () => {
    expect(tell(new Error("odd"))).toEqual({ code: "UNEXPECTED", message: "odd", exitCode: 1 });
    expect(tell("odd")).toEqual({ code: "UNEXPECTED", message: "something failed that says no more", exitCode: 1 });
  });

  it("with what led to it, and the request id of the KMS", () => {
    const kms = new KmsError("KMS_DENIED", "AWS KMS Decrypt: AccessDeniedException", { kms: "a", requestId: "r-1" });
    const error = new SealedSessionError("KEY_UNAVAILABLE", "ring web: no key", { cause: kms });
    expect(tell(error)).toEqual({
      code: "KEY_UNAVAILABLE",
      message: "ring web: no key: AWS KMS Decrypt: AccessDeniedException",
      requestId: "r-1",
      exitCode: 1,
    });
  });

  it("and without end where causes go round in a circle", () => {
    const error = new Error("a");
    error.cause = error;
    expect(tell(error).message).toBe("a: a: a: a: a");
  });
});
