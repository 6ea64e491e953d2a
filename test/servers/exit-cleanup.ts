/**
 * What must happen before this process ends, however it ends: on its own, by `process.exit`, an uncaught error, SIGINT,
 * SIGTERM or SIGHUP. Listeners are there only while something is registered.
 */

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

const registered = new Set<() => void>();

/**
 * Runs `release` when this process ends. It has to be synchronous: at the end of a process nothing else runs.
 *
 * @returns a function that forgets `release`, for whoever released in time.
 */
export function beforeExit(release: () => void): () => void {
  if (registered.size === 0) listen();
  registered.add(release);
  return () => {
    if (registered.delete(release) && registered.size === 0) unlisten();
  };
}

function listen(): void {
  process.on("exit", releaseAll);
  // First in the row: others (signal-exit, on which testcontainers depends) end the process only if nobody else listens.
  for (const signal of SIGNALS) process.prependListener(signal, onSignal);
}

function unlisten(): void {
  process.off("exit", releaseAll);
  for (const signal of SIGNALS) process.off(signal, onSignal);
}

function releaseAll(): void {
  for (const release of registered) {
    try {
      release();
    } catch (error) {
      // The others must be released too.
      process.stderr.write(`[servers] cleaning up: ${String(error)}\n`);
    }
  }
  registered.clear();
}

function onSignal(signal: NodeJS.Signals): void {
  releaseAll();
  unlisten();
  // With a listener of its own the process decides itself whether it ends. Without one it would have died of the signal,
  // and whoever waits for it should see just that.
  if (process.listenerCount(signal) === 0) process.kill(process.pid, signal);
}
