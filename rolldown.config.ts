/**
 * The published program and library: a few files in place of a hundred, because Node takes a third of a millisecond to find and link each, and every command pays it
 * (45 ms against 25). Types are tsc's. Dependencies stay outside.
 *
 * Chunks lie as deep below the package as `src/seal/`, `src/engine/`, `src/guard/` and `src/cli/` do: files of other threads and processes and package.json are found by relative paths.
 */
import { defineConfig } from 'rolldown'

export default defineConfig({
  input: {
    index: 'src/index.ts',
    testing: 'src/testing.ts',
    cli: 'src/cli.ts',
    'lib/worker': 'src/seal/worker.ts',
    'lib/engine-worker': 'src/engine/worker.ts',
    'lib/opening-thread': 'src/engine/opening-thread.ts',
    'lib/guard-process': 'src/guard/process.ts',
    'lib/pager-worker': 'src/frontend/worker.ts',
  },
  platform: 'node',
  // Its helpers for `using`, which Node 22 does not have, are the exception.
  external: id => !/^[./]|^src\/|^@oxc-project\/runtime/.test(id),
  transform: { target: 'node22' },
  output: { dir: 'dist', cleanDir: true, format: 'esm', sourcemap: true, chunkFileNames: 'lib/[name]-[hash].js' },
})
