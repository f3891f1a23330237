/**
 * Before all tests: the program is built as its users get it, once, in a folder of its own. Tests that start many processes take it from there: from the sources each would spend half a second on
 * stripping types. What Node compiles on the way is kept for the run, too.
 */
import { join } from 'node:path'
import type { TestProject } from 'vitest/node'
import { buildWholeProgram } from './integration/built-program.ts'

declare module 'vitest' {
  interface ProvidedContext {
    /** Path of the program. */
    readonly program: string
  }
}

export async function setup({ provide }: TestProject): Promise<() => Promise<void>> {
  const built = await buildWholeProgram()
  process.env.NODE_COMPILE_CACHE = join(built.dist, 'compiled')
  provide('program', join(built.dist, 'cli.js'))
  return async () => await built[Symbol.asyncDispose]()
}
