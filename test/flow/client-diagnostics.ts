/**
 * Everything that the client side tells about itself: events, warnings, errors, and what ioredis hands to tracers.
 */
import { subscribe, unsubscribe } from "node:diagnostics_channel";
import { inspect } from "node:util";
import { DIAGNOSTICS_CHANNEL, type DiagnosticEvent } from "@sealed-session/core";

/** Commands on their way to a server, as ioredis publishes them for OpenTelemetry and others. */
const COMMAND_CHANNEL = "tracing:ioredis:command:start";

/** A subscription to all of it. */
export interface ClientDiagnostics {
  readonly events: DiagnosticEvent[];
  readonly warnings: Error[];
  /** A line for each command: its name in capitals, and arguments. */
  readonly commands: string[];
  /** Stops noting commands; the rest goes on. */
  endCommands(): void;
  end(): void;
}

/** Listens from now on. */
export function startClientDiagnostics(): ClientDiagnostics {
  const events: DiagnosticEvent[] = [];
  const warnings: Error[] = [];
  const commands: string[] = [];
  const onEvent = (event: unknown) => void events.push(event as DiagnosticEvent);
  const onWarning = (warning: Error) => void warnings.push(warning);
  const onCommand = (message: unknown) => {
    const { command, args } = message as { command: string; args: string[] };
    commands.push([command.toUpperCase(), ...args].join(" "));
  };
  subscribe(DIAGNOSTICS_CHANNEL, onEvent);
  subscribe(COMMAND_CHANNEL, onCommand);
  process.on("warning", onWarning);
  const endCommands = () => void unsubscribe(COMMAND_CHANNEL, onCommand);
  return {
    events,
    warnings,
    commands,
    endCommands,
    end() {
      endCommands();
      unsubscribe(DIAGNOSTICS_CHANNEL, onEvent);
      process.off("warning", onWarning);
    },
  };
}

/** @returns whatever a log could make of `thing`: as text, as JSON, and inspected with everything that it has, down to its last cause. */
export function describeFully(thing: unknown): string {
  const everything = { depth: 10, showHidden: true, maxStringLength: null, maxArrayLength: null };
  // Once as people see it, once without the columns into which it breaks up bytes.
  const inspected = [
    inspect(thing, everything),
    inspect(thing, { ...everything, compact: true, breakLength: Number.POSITIVE_INFINITY }),
  ];
  const texts = [String(thing), json(thing), ...inspected];
  for (let error = thing; error instanceof Error; error = error.cause) {
    const own = Object.fromEntries(
      Reflect.ownKeys(error).map((key) => [String(key), Reflect.get(error as Error, key)]),
    );
    texts.push(error.message, String(error.stack), json(error), json(own), inspect(error, { depth: 10 }));
  }
  return texts.join("\n");
}

function json(thing: unknown): string {
  try {
    return JSON.stringify(thing) ?? "";
  } catch {
    // A cycle, or a BigInt.
    return "";
  }
}
