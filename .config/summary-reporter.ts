/** Ends a run with one plain line for people and scripts: "N passed, N failed". */
import type { Reporter, TestModule } from "vitest/node";

export default class SummaryReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    const counts = { passed: 0, failed: errors.length, skipped: 0 };
    for (const module of modules) {
      // A file that cannot be loaded has no tests, and yet something failed.
      counts.failed += module.errors().length;
      for (const test of module.children.allTests()) {
        const { state } = test.result();
        // A test that was left out, or never came to its end, did not pass.
        if (state === "passed" || state === "failed") counts[state]++;
        else counts.skipped++;
      }
    }
    console.log(`Node ${process.version}`);
    const skipped = counts.skipped === 0 ? "" : `, ${counts.skipped} skipped`;
    console.log(`${counts.passed} passed, ${counts.failed} failed${skipped}`);
    if (counts.passed === 0 || counts.skipped > 0) process.exitCode = 1;
  }
}
