/**
 * The vectors and the mutation test under valgrind: errors and leaks with the addon in their stack. Those of V8 and Node alone are not counted.
 * Ends with an exit code other than 0 when there is a finding.
 */
import { build, exercise, isIn } from "./instrumented.mjs";

const addon = build("valgrind", ["-O1", "-fno-omit-frame-pointer"]);
const valgrind = [
  "valgrind",
  "--log-file=LOG",
  "--num-callers=40",
  "--leak-check=full",
  // The addon is unloaded before leaks are told.
  "--keep-debuginfo=yes",
  "--show-leak-kinds=definite,indirect,possible",
];
// Code that V8 generates is rewritten all the time; the interpreter is what valgrind can follow.
const command = [...valgrind, "--smc-check=all-non-file", process.execPath, "--jitless", "--single-threaded"];

let findings = 0;
for (const script of [["vectors.mjs"], ["mutation.mjs", process.argv[2] ?? "1500"]]) {
  const { stdout, stderr, log, code } = exercise(command, {}, addon, script);
  const blocks = log.split(/\n==\d+== \n/);
  const ours = blocks.filter((block) => isIn(block));
  const bad = code !== 0 || ours.length > 0 || !log.includes("ERROR SUMMARY");
  console.log(
    `${bad ? "FAILED" : "clean"} ${script.join(" ")}: exit code ${code}, ${ours.length} findings of ${blocks.length} blocks\n  ${stdout.trim().slice(0, 300)}`,
  );
  if (bad) {
    findings++;
    console.log(stderr.slice(-2000), ours.slice(0, 4).join("\n\n").slice(0, 6000));
  }
}
process.exitCode = findings === 0 ? 0 : 1;
