import { EventEmitter } from "node:events";
import { describe, expect, it, vi } from "vitest";
import { listenForInterruption } from "../src/interruption.js";

function listening() {
  const signals = new EventEmitter();
  let now = 1000;
  const exit = vi.fn();
  const onFirst = vi.fn();
  const interruption = listenForInterruption({ signals, clock: () => now, onFirst, exit });
  return { signals, exit, onFirst, interruption, advance: (ms: number) => (now += ms) };
}

describe("an interruption", () => {
  it.each(["SIGINT", "SIGTERM", "SIGHUP"])("asks the run to end, the first time: %s", (name) => {
    const { signals, exit, onFirst, interruption } = listening();
    expect(interruption.signal.aborted).toBe(false);
    signals.emit(name);
    expect(interruption.signal.aborted).toBe(true);
    expect(onFirst).toHaveBeenCalledTimes(1);
    expect(exit).not.toHaveBeenCalled();
  });

  it("ends the process at once, the second time", () => {
    const { signals, exit, onFirst, advance } = listening();
    signals.emit("SIGINT");
    advance(300);
    signals.emit("SIGINT");
    expect(exit).toHaveBeenCalledExactlyOnceWith(130);
    expect(onFirst).toHaveBeenCalledTimes(1);
  });

  it("that npx passes on a moment after the terminal has sent it is the same one", () => {
    const { signals, exit, advance } = listening();
    signals.emit("SIGINT");
    advance(299);
    signals.emit("SIGINT");
    expect(exit).not.toHaveBeenCalled();
  });

  it("is left to the system again at the end", () => {
    const { signals, interruption } = listening();
    interruption.dispose();
    expect(signals.listenerCount("SIGINT") + signals.listenerCount("SIGTERM")).toBe(0);
  });
});
