import { describe, expect, it } from "vitest";
import { type ToldError, tell } from "../src/cli-error.js";
import { parseCommandLine, type Request } from "../src/program.js";

function parse(...args: readonly string[]): { request: Request | undefined; printed: string } {
  let printed = "";
  const print = (text: string) => {
    printed += text;
  };
  return { request: parseCommandLine(args, { version: "9.9.9", print }), printed };
}

function refusal(...args: readonly string[]): ToldError {
  try {
    parse(...args);
  } catch (error) {
    return tell(error);
  }
  throw new Error("the command line was taken");
}

describe("a command line", () => {
  it.each([
    ["rotate all", ["rotate"]],
    [
      "rotate all",
      [
        "rotate",
        "--rate",
        "5",
        "--concurrency",
        "4",
        "--now",
        "--older-than",
        "1h",
        "--checkpoint",
        "c",
        "--unopened",
        "u",
      ],
    ],
    ["rotate key", ["rotate", "key", "--now", "--wait"]],
    [
      "rotate sessions",
      ["rotate", "sessions", "--rate", "5", "--shard", "1/2", "--older-than", "24h", "--checkpoint", "c"],
    ],
    ["rotate sessions", ["rotate", "sessions", "--dry-run"]],
    ["rotate status", ["rotate", "status", "--sample", "100"]],
    ["rotate seal", ["rotate", "seal", "--prefix", "connect:", "--rate", "5", "--shard", "1/2", "--dry-run"]],
    ["rotate seal", ["rotate", "seal"]],
    ["rotate rewrap", ["rotate", "rewrap", "--to", "local", "--drop-old"]],
    ["rotate retire", ["rotate", "retire", "AAAAAAAAAAAAAAAA"]],
    ["rotate revoke", ["rotate", "revoke", "AAAAAAAAAAAAAAAA", "--now"]],
    ["rotate revoke", ["rotate", "revoke", "--now", "AAAAAAAAAAAAAAAA"]],
  ])("is %s: %j", (command, args) => {
    expect(parse(...args).request?.command).toBe(command);
  });

  it.each([
    [["--config", "c.ts", "--ring-name", "web", "--json", "rotate", "status"]],
    [["rotate", "--config", "c.ts", "--ring-name", "web", "--json", "status"]],
    [["rotate", "status", "--json", "--ring-name", "web", "--config", "c.ts"]],
  ])("takes the flags of the configuration anywhere: %j", (args) => {
    const { request } = parse(...args);
    expect(request).toMatchObject({ command: "rotate status", configFile: "c.ts" });
    expect(request?.flags).toEqual(new Map([["ring.name", "web"]]));
  });

  it.each(["-AAAAAAAAAAAAAAA", "--AAAAAAAAAAAAAA", "-hAAAAAAAAAAAAAA"])(
    "takes a key id that begins with a hyphen: %s",
    (keyId) => {
      expect(parse("rotate", "retire", keyId).request?.command).toBe("rotate retire");
      expect(parse("rotate", "revoke", keyId, "--now").request?.command).toBe("rotate revoke");
      expect(parse("rotate", "retire", "--", keyId).request?.command).toBe("rotate retire");
    },
  );

  it.each([
    ["a command is missing", []],
    ["a command that nobody knows", ["rotte"]],
    ["a step that nobody knows", ["rotate", "everything"]],
    ["a flag that nobody knows", ["rotate", "status", "--fast"]],
    ["a flag of another command", ["rotate", "status", "--rate", "5"]],
    ["a flag without its value", ["rotate", "sessions", "--rate"]],
    ["a KMS is missing", ["rotate", "rewrap"]],
    ["a key id is missing", ["rotate", "retire"]],
    ["a key id that is none", ["rotate", "retire", "abc"]],
    ["one word too many", ["rotate", "status", "now"]],
    ["a rate that is none", ["rotate", "--rate", "fast"]],
    ["a concurrency that is none", ["rotate", "--concurrency", "0"]],
    ["a checkpoint of what changes nothing", ["rotate", "sessions", "--dry-run", "--checkpoint", "c"]],
  ])("ends with 2 for %s", (_, args) => {
    expect(refusal(...args)).toMatchObject({ code: "USAGE", exitCode: 2 });
  });

  it("says which steps there are", () => {
    expect(refusal("rotate", "everything").message).toMatch(
      /^rotate has no such command: it has all, key, sessions, status,/,
    );
  });

  it.each([["--redis-password", "hunter2"], ["--redis-password=hunter2"], ["--password=hunter2"]])(
    "has no flag for a password, and does not repeat it: %s",
    (...args) => {
      const { code, exitCode, message } = refusal("rotate", "status", ...args);
      expect({ code, exitCode }).toEqual({ code: "USAGE", exitCode: 2 });
      expect(message).toContain("SEALED_SESSION_REDIS_PASSWORD");
      expect(message).not.toContain("hunter2");
    },
  );

  it("does not repeat what stood after a flag that nobody knows", () => {
    expect(refusal("rotate", "status", "--redis-pass=hunter2").message).toBe("unknown option '--redis-pass'");
  });

  it("explains what revoking does, and does nothing, without --now", () => {
    const { message, exitCode } = refusal("rotate", "revoke", "AAAAAAAAAAAAAAAA");
    expect(exitCode).toBe(2);
    expect(message).toMatch(/ends every session under it.*Nothing was changed.*--now/);
  });
});

describe("the help", () => {
  it.each([[["--help"]], [["rotate", "--help"]], [["rotate", "sessions", "-h"]]])(
    "is printed and nothing is run: %j",
    (args) => {
      const { request, printed } = parse(...args);
      expect(request).toBeUndefined();
      expect(printed).toMatch(/^Usage: sealed-session/);
    },
  );

  it("names the exit codes, and every step", () => {
    expect(parse("--help").printed).toContain("130  interrupted, after a clean end");
    const { printed } = parse("rotate", "--help");
    for (const name of ["all", "key", "sessions", "status", "rewrap", "retire", "revoke", "seal"]) {
      expect(printed).toMatch(new RegExp(`^ {2}${name} `, "m"));
    }
  });

  it("is not the version", () => {
    expect(parse("--version").printed).toBe("9.9.9\n");
  });
});
