/**
 * A vitest reporter whose only output is the closing line `N passed, N failed`, with `, N skipped` where tests were: plain words that a
 * program can read, whatever vitest's own summary looks like.
 *
 * Anything that makes the run fail counts as failed: a file that cannot be loaded, a hook that throws, an error outside every test. A
 * line that says `0 failed` for a red run would be worse than none.
 */
import type { Reporter, SerializedError, TestModule } from 'vitest/node'

export class CountsReporter implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], unhandledErrors: readonly SerializedError[]): void {
    const counts = { passed: 0, failed: unhandledErrors.length, skipped: 0 }
    for (const module of modules) {
      if (module.errors().length > 0) counts.failed++
      for (const suite of module.children.allSuites()) if (suite.errors().length > 0) counts.failed++
      for (const test of module.children.allTests()) {
        const { state } = test.result()
        // A test still pending at the end was cut off, and so not passed.
        counts[state === 'pending' ? 'failed' : state]++
      }
    }
    const skipped = counts.skipped > 0 ? `, ${counts.skipped} skipped` : ''
    console.log(`${counts.passed} passed, ${counts.failed} failed${skipped}`)
  }
}
