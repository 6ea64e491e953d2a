/**
 * What the conformance suites need from a test runner. vitest, node:test, mocha and jest all have it.
 */

/** The two functions of a test runner that a suite calls; every assertion is one of `node:assert/strict`. */
export interface TestRunner {
  /** Groups the tests that `body` registers. */
  describe(name: string, body: () => void): unknown;
  /** Registers one test; it fails when the promise rejects. */
  it(name: string, body: () => Promise<void>): unknown;
}

/** What every suite is given anew for each test. */
export interface UnderTest {
  /** Releases what `open` acquired. Called once, also after a failure. */
  close(): Promise<void>;
}

/**
 * @param open - Called once for each test.
 * @returns a way to register a test that gets what `open` returned, and closes it afterwards.
 */
export function testWith<T extends UnderTest>({ it }: TestRunner, open: () => Promise<T>) {
  return (name: string, body: (underTest: T) => Promise<void>): void => {
    it(name, async () => {
      const underTest = await open();
      try {
        await body(underTest);
      } finally {
        await underTest.close();
      }
    });
  };
}
