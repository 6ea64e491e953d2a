/**
 * The commands, their flags and their help. What a command does is in `commands/`.
 */
import { rotateSessions as resealSessions } from "@sealed-session/core";
import { Command, Option } from "commander";
import { CliError } from "./cli-error.js";
import type { CommandContext } from "./command-context.js";
import { rotateAll } from "./commands/rotate-all.js";
import { rotateKey } from "./commands/rotate-key.js";
import { rotateRetire } from "./commands/rotate-retire.js";
import { requireNow, rotateRevoke } from "./commands/rotate-revoke.js";
import { rotateRewrap } from "./commands/rotate-rewrap.js";
import { rotateSeal } from "./commands/rotate-seal.js";
import { rotateSessions } from "./commands/rotate-sessions.js";
import { rotateStatus } from "./commands/rotate-status.js";
import { CONFIG_FIELDS, flagOf, pathOf, placeholderOf } from "./config-fields.js";
import { CONFIG_FILES } from "./config-file.js";
import type { Deployment } from "./deployment.js";
import {
  readConcurrency,
  readDuration,
  readKeyId,
  readPrefix,
  readRate,
  readSample,
  readShard,
} from "./option-values.js";
import type { CommandResult } from "./terminal.js";

/** A command whose flags are in order, to be run on the deployment. */
type Job = (deployment: Deployment, context: CommandContext) => Promise<CommandResult>;

/** What the command line asks for. */
export interface Request {
  /** Such as `rotate status`. */
  readonly command: string;
  readonly job: Job;
  /** The path of `--config`. */
  readonly configFile: string | undefined;
  /** What stood after the flags of the configuration, by the path of the field. */
  readonly flags: ReadonlyMap<string, string>;
}

/** How {@link parseCommandLine} answers. */
export interface ProgramOptions {
  readonly version: string;
  /** Takes the help and the version. */
  readonly print: (text: string) => void;
}

/** Flags as the parser leaves them. */
type Flags = Readonly<Record<string, unknown>>;

const KEY_ID_LIKE = /^-[\w-]{15}$/;
const EXIT_CODES = `
Exit codes:
  0    done
  1    failed: Redis, the KMS, or this program
  2    wrong usage or configuration; nothing was changed
  3    something is left under an old key, or the ring refused
  130  interrupted, after a clean end`;

/**
 * Reads a command line.
 *
 * @param args - Without the program's own name.
 * @returns `undefined` when only help or the version was asked for.
 * @throws CommanderError or CliError `USAGE`.
 */
export function parseCommandLine(args: readonly string[], options: ProgramOptions): Request | undefined {
  let request: Request | undefined;
  const program = buildProgram(options, (found) => {
    request = found;
  });
  if (args.length === 0) {
    options.print(program.helpInformation());
    throw new CliError("USAGE", "a command is missing");
  }
  if (args.some((arg) => /^--(?:redis-)?password\b/.test(arg))) {
    throw new CliError(
      "USAGE",
      "there is no flag for a password, which others could read: use SEALED_SESSION_REDIS_PASSWORD or the configuration file",
    );
  }
  try {
    program.parse(withKeyIdsLast(program, args), { from: "user" });
  } catch (error) {
    if (isHelp(error)) return undefined;
    throw error;
  }
  return request;
}

function buildProgram({ version, print }: ProgramOptions, onRequest: (request: Request) => void): Command {
  const program = new Command("sealed-session")
    .description("Changes the keys of sealed web sessions under a live Redis, without anybody noticing.")
    .configureOutput({ writeOut: print, writeErr: () => {}, outputError: () => {} })
    .exitOverride()
    .version(version, "--version", "print the version")
    .helpOption("-h, --help", "print this help")
    .helpCommand(false)
    .option("--config <path>", `configuration file; default: the first of ${CONFIG_FILES.join(", ")}`)
    .option("--json", "one JSON document on stdout; everything for people on stderr")
    .addHelpText("after", EXIT_CODES);
  program.optionsGroup("Configuration, over the environment (SEALED_SESSION_…) and the file:");
  for (const field of CONFIG_FIELDS) {
    const flag = flagOf(field);
    if (flag !== undefined) program.addOption(new Option(`${flag} ${placeholderOf(field)}`, field.summary));
  }

  /** Gives what was typed to whoever runs it. */
  const run = (command: Command, job: Job) => {
    const all: Flags = program.opts();
    const flags = new Map<string, string>();
    for (const field of CONFIG_FIELDS) {
      const option = program.options.find(({ long }) => long === flagOf(field));
      const value = option === undefined ? undefined : all[option.attributeName()];
      if (typeof value === "string") flags.set(pathOf(field), value);
    }
    onRequest({ command: nameOf(command), job, configFile: all["config"] as string | undefined, flags });
  };
  const rotate = program
    .command("rotate")
    .description("change keys: on its own all of it, or one step")
    .addHelpText("after", "\nThe flags of the configuration, --config and --json: sealed-session --help");

  // Plain `rotate`. A command of its own, so that its flags and those of the others are not mixed up.
  sessionOptions(rotate.command("all", { isDefault: true }))
    .description("what plain `rotate` does: key, wait, sessions, status")
    .option("--now", "the key seals at once, before all processes know it")
    .allowExcessArguments()
    .action((flags: Flags, command: Command) => {
      if (command.args.length > 0) throw new CliError("USAGE", `rotate has no such command: ${namesOf(rotate)}`);
      const values = { ...sessionValues(flags), now: flags["now"] === true };
      run(command, (deployment, context) => rotateAll(deployment, values, context, resealSessions));
    });

  rotate
    .command("key")
    .description("publish a new data key; it seals two refresh intervals later")
    .option("--now", "it seals at once, before all processes know it: for emergencies")
    .option("--wait", "return when it seals")
    .action((flags: Flags, command: Command) => {
      const values = { now: flags["now"] === true, wait: flags["wait"] === true };
      run(command, (deployment, context) => rotateKey(deployment, values, context));
    });

  sessionOptions(rotate.command("sessions").description("re-seal what is not under the current key"))
    .option("--dry-run", "change nothing, and count what would be")
    .option("--shard <i/n>", "one part of n only, so that several machines share the work")
    .action((flags: Flags, command: Command) => {
      const dryRun = flags["dryRun"] === true;
      const values = { ...sessionValues(flags), dryRun, shard: optional(flags, "shard", readShard) };
      if (dryRun && values.checkpoint !== undefined)
        throw new CliError("USAGE", "--dry-run and --checkpoint exclude each other");
      run(command, (deployment, context) => rotateSessions(deployment, values, context, resealSessions));
    });

  rotate
    .command("status")
    .description("the keys, their age, and how many sessions lie under each")
    .option("--sample <n>", "look at about n sessions that chance picks, instead of all")
    .action((flags: Flags, command: Command) => {
      const sample = optional(flags, "sample", readSample);
      run(command, (deployment, context) => rotateStatus(deployment, { sample }, context));
    });

  rotate
    .command("retire")
    .description("end a key under which nothing is sealed any more, with a receipt")
    .argument("<key-id>", "as `rotate status` shows it")
    .action((text: string, _flags: Flags, command: Command) => {
      const keyId = readKeyId("<key-id>", text);
      run(command, (deployment, context) => rotateRetire(deployment, keyId, context));
    });

  rotate
    .command("revoke")
    .description("emergency: end every session under a key, at once and for good")
    .argument("<key-id>", "as `rotate status` shows it")
    .option("--now", "do it; without this flag nothing happens")
    .action((text: string, flags: Flags, command: Command) => {
      const keyId = readKeyId("<key-id>", text);
      requireNow(flags["now"] === true, keyId);
      run(command, (deployment, context) => rotateRevoke(deployment, keyId, context));
    });

  rotate
    .command("rewrap")
    .description("wrap the data keys under another KMS key; no session is touched")
    .requiredOption("--to <name>", "name of a KMS in ring.kms")
    .option("--drop-old", "take the wraps of ring.droppedKms out of the ring")
    .action((flags: Flags, command: Command) => {
      const values = { to: String(flags["to"]), dropOld: flags["dropOld"] === true };
      run(command, (deployment, context) => rotateRewrap(deployment, values, context));
    });

  rotate
    .command("seal")
    .description("seal plaintext sessions that another store wrote")
    .option("--prefix <prefix>", "what their keys begin with", "sess:")
    .option("--rate <n>", "at most so many a second")
    .option("--shard <i/n>", "one part of n only")
    .option("--dry-run", "change nothing, and count what would be")
    .action((flags: Flags, command: Command) => {
      const values = {
        prefix: readPrefix("--prefix", String(flags["prefix"])),
        dryRun: flags["dryRun"] === true,
        rate: optional(flags, "rate", readRate),
        shard: optional(flags, "shard", readShard),
      };
      run(command, (deployment, context) => rotateSeal(deployment, values, context));
    });

  return program;
}

/** The flags that the plain command and `rotate sessions` share. */
function sessionOptions(command: Command): Command {
  return command
    .option("--rate <n>", "look at no more than so many sessions a second")
    .option("--concurrency <n>", "calls for each node under way at a time; default: 2")
    .option("--older-than <time>", "only what lies under keys that began to seal longer ago, such as 24h")
    .option("--checkpoint <file>", "note there how far the run is, and go on from there")
    .option("--unopened <file>", "list there all sessions that do not open");
}

function sessionValues(flags: Flags) {
  return {
    rate: optional(flags, "rate", readRate),
    concurrency: optional(flags, "concurrency", readConcurrency),
    olderThanMs: optional(flags, "older-than", readDuration),
    checkpoint: flags["checkpoint"] as string | undefined,
    unopened: flags["unopened"] as string | undefined,
  };
}

function optional<T>(flags: Flags, name: string, read: (flag: string, text: string) => T): T | undefined {
  const text = flags[name.replace(/-(\w)/g, (_, letter: string) => letter.toUpperCase())];
  return text === undefined ? undefined : read(`--${name}`, String(text));
}

function namesOf(command: Command): string {
  const visible = command.createHelp().visibleCommands(command);
  return `it has ${visible.map((subcommand) => subcommand.name()).join(", ")}`;
}

function nameOf(command: Command): string {
  const names: string[] = [];
  for (let next: Command | null = command; next?.parent; next = next.parent) names.unshift(next.name());
  return names.join(" ");
}

/** One key id in 64 begins with a hyphen, and would be taken for flags. */
function withKeyIdsLast(program: Command, args: readonly string[]): string[] {
  const isFlag = (arg: string) => program.options.some(({ long }) => long === arg);
  const end = args.includes("--") ? args.indexOf("--") : args.length;
  const isKeyId = (arg: string, index: number) => index < end && KEY_ID_LIKE.test(arg) && !isFlag(arg);
  const keyIds = args.filter(isKeyId);
  if (keyIds.length === 0 || !args.some((arg) => arg === "retire" || arg === "revoke")) return [...args];
  const others = args.filter((arg, index) => arg !== "--" && !isKeyId(arg, index));
  return [...others, "--", ...keyIds];
}

function isHelp(error: unknown): boolean {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  return code === "commander.helpDisplayed" || code === "commander.version";
}
