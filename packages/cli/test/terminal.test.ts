import { describe, expect, it } from "vitest";
import { CliError } from "../src/cli-error.js";
import { ExitCode } from "../src/exit-code.js";
import type { CommandResult } from "../src/terminal.js";
import { recordedTerminal } from "./support/recorded-terminal.js";

const RESULT: CommandResult = {
  document: { keyId: "abc", nested: { count: 1 } },
  text: (colors) => colors.green("done"),
  exitCode: ExitCode.done,
};

describe("with --json", () => {
  it("stdout is one document, whatever people were told", () => {
    const { terminal, stdout, stderr, tick } = recordedTerminal({ json: true });
    terminal.say("one thing");
    terminal.warn({ code: "W", message: "another" });
    const progress = terminal.progress("counting");
    progress.update({ done: 1, total: 2 });
    tick(5000);
    terminal.finish(RESULT);
    expect(JSON.parse(stdout())).toEqual(RESULT.document);
    expect(stderr()).toBe("one thing\nwarning: another\ncounting: 50 %, 1 of about 2, 0/s, 5 s left\n");
  });

  it("an error is a document as well", () => {
    const { terminal, stdout, stderr } = recordedTerminal({ json: true });
    expect(terminal.fail(new CliError("KEY_UNKNOWN", "the ring web has no such key"))).toBe(2);
    expect(JSON.parse(stdout())).toEqual({ error: { code: "KEY_UNKNOWN", message: "the ring web has no such key" } });
    expect(stderr()).toBe("error: the ring web has no such key (KEY_UNKNOWN)\n");
  });
});

describe("a failure after the result", () => {
  it("makes no second document", () => {
    const { terminal, stdout, stderr } = recordedTerminal({ json: true });
    terminal.finish(RESULT);
    expect(terminal.fail(new Error("late"))).toBe(1);
    expect(JSON.parse(stdout())).toEqual(RESULT.document);
    expect(stderr()).toContain("error: late");
  });
});

describe("for people", () => {
  it("the result is on stdout and everything else on stderr", () => {
    const { terminal, stdout, stderr } = recordedTerminal();
    terminal.say("going on");
    terminal.finish(RESULT);
    expect([stdout(), stderr()]).toEqual(["done\n", "going on\n"]);
  });

  it("a long sentence is broken between words on a terminal, and stays in one line elsewhere", () => {
    const sentence = "Nothing was changed, since a process that is cut off may seal";
    const narrow = recordedTerminal({ columns: 30 });
    narrow.terminal.say(sentence);
    expect(narrow.stderr()).toBe("Nothing was changed, since a\nprocess that is cut off may\nseal\n");
    const log = recordedTerminal();
    log.terminal.say(sentence);
    expect(log.stderr()).toBe(`${sentence}\n`);
  });

  it("an error leaves stdout empty", () => {
    const { terminal, stdout } = recordedTerminal();
    terminal.fail(new Error("no"));
    expect(stdout()).toBe("");
  });

  it("the same warning is given once", () => {
    const { terminal, stderr } = recordedTerminal();
    for (let i = 0; i < 3; i++) terminal.warn({ code: "KMS_FAILED", message: "the KMS local failed" });
    expect(stderr()).toBe("warning: the KMS local failed\n");
    expect(terminal.warnings).toEqual([{ code: "KMS_FAILED", message: "the KMS local failed" }]);
  });
});

describe("colours", () => {
  const ESCAPE = "\x1b[";
  it.each([
    ["there are on a terminal", { columns: 80, environment: { TERM: "xterm" } }, true],
    ["there are none elsewhere", {}, false],
    ["NO_COLOR takes away", { columns: 80, environment: { NO_COLOR: "1", FORCE_COLOR: "1" } }, false],
    ["an empty NO_COLOR does not count", { columns: 80, environment: { NO_COLOR: "" } }, true],
    ["FORCE_COLOR brings", { environment: { FORCE_COLOR: "1" } }, true],
    ["a dumb terminal has none", { columns: 80, environment: { TERM: "dumb" } }, false],
  ])("%s", (_, options, expected) => {
    const { terminal, stdout } = recordedTerminal(options);
    terminal.finish(RESULT);
    expect(stdout().includes(ESCAPE)).toBe(expected);
  });
});

describe("progress", () => {
  it("is a line every five seconds where there is no terminal, with rate, time left and counts", () => {
    const { terminal, stderr, tick, timers } = recordedTerminal();
    const progress = terminal.progress("re-sealing");
    progress.update({ done: 0, total: 10_000 });
    tick(5000);
    progress.update({ done: 2500, total: 10_000, detail: "2,400 re-sealed" });
    tick(5000);
    progress.stop();
    expect(timers()).toBe(0);
    expect(stderr().split("\n")).toEqual([
      "re-sealing: 0 %, 0 of about 10,000, 0/s",
      "re-sealing: 25 %, 2,500 of about 10,000, 250/s, 30 s left; 2,400 re-sealed",
      "",
    ]);
  });

  it("says nothing of a total that turned out too low", () => {
    const { terminal, stderr, tick } = recordedTerminal();
    terminal.progress("re-sealing").update({ done: 11, total: 10 });
    tick(5000);
    expect(stderr()).toBe("re-sealing: 11, 2/s\n");
  });

  it("does not count what an earlier run did as its rate", () => {
    const { terminal, stderr, tick } = recordedTerminal();
    const progress = terminal.progress("re-sealing", 1_000_000);
    tick(5000);
    progress.update({ done: 1_001_000, total: 2_000_000 });
    tick(5000);
    expect(stderr().split("\n")[1]).toBe("re-sealing: 50 %, 1,001,000 of about 2,000,000, 100/s, 2 h 46 min left");
  });

  it("slows down when nothing happens any more", () => {
    const { terminal, stderr, tick } = recordedTerminal();
    const progress = terminal.progress("re-sealing");
    tick(1000);
    progress.update({ done: 1000 });
    tick(9000);
    expect(stderr().split("\n")[1]).toBe("re-sealing: 1,000, 100/s");
  });

  it("leaves the counts out where the terminal is too narrow for all of them", () => {
    const shown = (columns: number) => {
      const { terminal, stderr } = recordedTerminal({ columns, environment: { TERM: "xterm" } });
      const progress = terminal.progress("re-sealing");
      progress.update({ done: 50, total: 100, detail: "50 re-sealed" });
      progress.stop();
      return stderr();
    };
    expect(shown(100)).toContain("50 re-sealed");
    expect(shown(60)).toContain("50 of about 100");
    expect(shown(60)).not.toContain("50 r");
  });

  it("is a bar on a terminal that fits its width, goes away for a line of text, and at the end", () => {
    const { terminal, stderr } = recordedTerminal({ columns: 60, environment: { TERM: "xterm" } });
    const progress = terminal.progress("re-sealing");
    progress.update({ done: 50, total: 100 });
    terminal.say("a line");
    const text = stderr();
    // biome-ignore lint/suspicious/noControlCharactersInRegex: the escape character begins what moves the cursor.
    const lines = text.replace(/\x1b(?:\[[0-9;?]*[A-Za-z]|[78])/g, "\n").split("\n");
    expect(lines.every((line) => line.length < 60)).toBe(true);
    expect(lines.some((line) => /^re-sealing {2}█{4,}░{4,} {2}50 %, 50 of about 100/.test(line))).toBe(true);
    // The line stands alone: the bar before it was cleared, and the next one begins after it.
    expect(text).toContain("\x1b[2Ka line\n");
    progress.stop();
    expect(stderr().endsWith("\x1b[2K")).toBe(true);
  });
});
