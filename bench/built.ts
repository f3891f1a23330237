/**
 * Which thaw a benchmark runs: what is published, as `npm run build` leaves it in `dist`. The sources would be measured with Node's stripping of types, 50 ms a
 * thread and process. A smoke run takes the sources, and so needs no build.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'

/** The program's entry point, for `node`. */
export function programPath(smoke: boolean): string {
  return pathOf(smoke, 'cli')
}

/** The library. */
export async function loadLibrary(smoke: boolean): Promise<typeof import('../src/index.ts')> {
  return await import(pathOf(smoke, 'index'))
}

function pathOf(smoke: boolean, name: string): string {
  const path = join(import.meta.dirname, '..', smoke ? `src/${name}.ts` : `dist/${name}.js`)
  if (!existsSync(path)) throw new Error(`${path} is not there: run \`npm run build\``)
  return path
}
