/**
 * One run of the command: reads the command line and the configuration, opens the deployment, runs, tells, and ends the process.
 */
import { readFileSync } from "node:fs";
import { systemContext } from "./command-context.js";
import { openDeployment } from "./deployment.js";
import { ExitCode } from "./exit-code.js";
import { listenForInterruption } from "./interruption.js";
import { parseCommandLine, type Request } from "./program.js";
import { resolveConfig } from "./resolve-config.js";
import { Terminal } from "./terminal.js";

/** Runs the command line of this process, and ends it. */
export async function main(): Promise<void> {
  // Whoever reads may go away (`| head`): that is no failure of ours.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
  const args = process.argv.slice(2);
  // Before anything is parsed: an error of the parser has to be a document, too.
  const json = (args.includes("--") ? args.slice(0, args.indexOf("--")) : args).includes("--json");
  const { stdout, stderr, env } = process;
  const terminal = new Terminal({ stdout, stderr, environment: env, json, clock: () => performance.now() });
  const end = async (exitCode: ExitCode) => {
    await Promise.all([flushed(stdout), flushed(stderr)]);
    // A configuration file may have opened what holds a process open.
    process.exit(exitCode);
  };
  // What nobody waited for fails as everything else does, in one document.
  for (const event of ["uncaughtException", "unhandledRejection"]) {
    process.on(event, (error: unknown) => void end(terminal.fail(error)));
  }
  await end(await run(terminal, args).catch((error: unknown) => terminal.fail(error)));
}

async function run(terminal: Terminal, args: readonly string[]): Promise<ExitCode> {
  const help: string[] = [];
  const print = (text: string) => void help.push(text);
  let request: Request | undefined;
  try {
    request = parseCommandLine(args, { version: version(), print });
  } catch (error) {
    if (help.length > 0) terminal.say(`${help.join("")}`);
    throw error;
  }
  if (request === undefined) {
    terminal.finish(helpResult(help.join("").trimEnd()));
    return ExitCode.done;
  }
  return await runRequest(terminal, request);
}

async function runRequest(terminal: Terminal, { command, job, configFile, flags }: Request): Promise<ExitCode> {
  const settings = await resolveConfig({ cwd: process.cwd(), file: configFile, environment: process.env, flags });
  const interruption = listenForInterruption({
    signals: process,
    clock: () => performance.now(),
    onFirst: () => terminal.say("Ending after what is under way; once more to end at once."),
    exit: (code) => process.exit(code),
  });
  const startedAt = new Date();
  const deployment = await openDeployment(settings, { onWarning: (warning) => terminal.warn(warning) });
  try {
    const result = await job(deployment, systemContext(terminal, interruption.signal));
    const { document } = result;
    terminal.finish({
      ...result,
      document: {
        command,
        ring: deployment.ring.name,
        namespace: deployment.namespace,
        startedAt: startedAt.toISOString(),
        endedAt: new Date().toISOString(),
        ...document,
        kmsRequests: deployment.kmsRequests(),
        warnings: terminal.warnings,
      },
    });
    return result.exitCode;
  } finally {
    interruption.dispose();
    // The result counts, and the process ends in any case.
    await deployment.close().catch(() => {});
  }
}

function helpResult(text: string) {
  return {
    document: text === version() ? { version: text } : { help: text },
    text: () => text,
    exitCode: ExitCode.done,
  };
}

function version(): string {
  const text = readFileSync(new URL("../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { readonly version: string }).version;
}

function flushed(stream: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => stream.write("", () => resolve()));
}
