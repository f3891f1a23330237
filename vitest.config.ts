/**
 * Two groups of tests, one after the other: first those that need only this process, and those that serve clients by way
 * of the kernel, which are mostly waiting, files side by side; then those that start guests and servers or reserve huge
 * pages, one file at a time, because two emulated machines and a MinIO on two cores make each other's deadlines pass.
 *
 * `npm test` runs these. `npm run test:long` runs what takes minutes and rarely finds anything new: thousands of rounds,
 * every byte. CI runs both.
 */
import { availableParallelism } from 'node:os'
import { defineConfig } from 'vitest/config'
import { CountsReporter } from './scripts/counts-reporter.ts'

const HEAVY = 'test/{guest,integration,servers}/**/*.test.ts'
const LONG = 'test/long/**/*.test.ts'
const KERNEL = 'test/integration/{exec,fuse,guard,nbd,package,restore-commands,uffd-failure,uffd-hostile,uffd-pager}*.test.ts'

export default defineConfig({
  test: {
    reporters: ['default', new CountsReporter()],
    watch: false,
    globalSetup: 'test/built.ts',
    // As many as there are processors: much of a test is waiting for processes.
    maxWorkers: availableParallelism(),
    projects: [
      { extends: true, test: { name: 'unit', include: ['test/**/*.test.ts'], exclude: [HEAVY, LONG], sequence: { groupOrder: 0 } } },
      { extends: true, test: { name: 'kernel', include: [KERNEL], sequence: { groupOrder: 0 } } },
      {
        extends: true,
        test: { name: 'real', include: [HEAVY], exclude: [KERNEL], fileParallelism: false, sequence: { groupOrder: 1 } },
      },
      {
        extends: true,
        test: { name: 'long', include: [LONG], fileParallelism: false, testTimeout: 1_200_000, sequence: { groupOrder: 2 } },
      },
    ],
    environment: 'node',
    pool: 'forks',
    // A shared two-core machine is slow at times; a hang is still found in a minute. The first guest is captured in a hook.
    testTimeout: 60_000,
    hookTimeout: 240_000,
  },
})
