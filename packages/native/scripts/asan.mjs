/**
 * The vectors, the mutation test and threads on a build with AddressSanitizer and UndefinedBehaviorSanitizer; then once more with every leak that
 * has the addon in its stack. Linux with gcc. Ends with an exit code other than 0 when there is a finding.
 */
import { spawnSync } from "node:child_process";
import { build, exercise, isIn } from "./instrumented.mjs";

const runtime = (name) =>
  spawnSync(process.env.CC ?? "cc", [`-print-file-name=${name}`], { encoding: "utf8" }).stdout.trim();
const flags = ["-O1", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"];
const builds = {
  memory: build("asan", flags),
  // One that is never unloaded: a leak is told at the end, by the names of what was there when it was made.
  leaks: build("asan-leaks", [...flags, "-Wl,-z,nodelete"]),
};
const preload = `${runtime("libasan.so")}:${runtime("libubsan.so")}`;
const options = "log_path=LOG:detect_stack_use_after_return=1:strict_string_checks=1:abort_on_error=0:exitcode=99";

const runs = [
  ["memory", "detect_leaks=0", ["vectors.mjs"]],
  ["memory", "detect_leaks=0", ["mutation.mjs", process.argv[2] ?? "30000"]],
  ["memory", "detect_leaks=0", ["threads.mjs", "6"]],
  ["leaks", "detect_leaks=1:fast_unwind_on_malloc=0:malloc_context_size=40", ["vectors.mjs"]],
  ["leaks", "detect_leaks=1:fast_unwind_on_malloc=0:malloc_context_size=40", ["mutation.mjs", "3000"]],
];

let findings = 0;
for (const [what, more, script] of runs) {
  // Node itself leaves memory to the system at its end: only what the addon asked for counts.
  const environment = {
    LD_PRELOAD: preload,
    ASAN_OPTIONS: `${options}:${more}`,
    LSAN_OPTIONS: "exitcode=0",
    UBSAN_OPTIONS: "print_stacktrace=1:log_path=LOG",
  };
  const { stdout, stderr, log, code } = exercise([process.execPath], environment, builds[what], script);
  const blocks = log.split(/\n(?=(?:Direct|Indirect) leak|==\d+==ERROR)/);
  const ours = blocks.filter((block) => (what === "memory" ? /ERROR|runtime error/.test(block) : isIn(block)));
  const bad = code !== 0 || ours.length > 0;
  console.log(
    `${bad ? "FAILED" : "clean"} ${what} ${script.join(" ")}: exit code ${code}, ${ours.length} findings\n  ${stdout.trim().slice(0, 300)}`,
  );
  if (bad) {
    findings++;
    console.log(stderr.slice(-2000), ours.slice(0, 3).join("\n").slice(0, 6000));
  }
}
process.exitCode = findings === 0 ? 0 : 1;
