/** Parts of the program bundled as the published ones are, in a folder of their own, with no packages but those that are asked for. */
import { copyFile, mkdir, mkdtemp, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { rolldown } from 'rolldown'
import config from '../../rolldown.config.ts'

const ROOT = join(import.meta.dirname, '../..')

/** All of it, as `npm run build` makes it, with all packages. */
export async function buildWholeProgram(): Promise<BuiltProgram> {
  const { input } = [config].flat()[0]!
  return await buildProgram(input as Readonly<Record<string, string>>, ['.'])
}

export interface BuiltProgram extends AsyncDisposable {
  /** Where the bundles lie: `dist`. */
  readonly dist: string
}

/** @param input bundles and the sources they begin with, as in rolldown.config.ts. @param packages that are installed beside them; `.` is all */
export async function buildProgram(input: Readonly<Record<string, string>>, packages: readonly string[]): Promise<BuiltProgram> {
  const folder = await mkdtemp(join(tmpdir(), 'thaw-built-'))
  const dist = join(folder, 'dist')
  await copyFile(join(ROOT, 'package.json'), join(folder, 'package.json'))
  if (packages[0] === '.') await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
  else await installed(folder, packages)
  const { output, ...options } = [config].flat()[0]!
  await using bundle = await rolldown({ ...options, cwd: ROOT, input })
  await bundle.write({ ...[output].flat()[0], dir: dist })
  // Processes that were told to end write what they compiled as their last act, and nobody waits for those of the test runner.
  const remove = (): Promise<void> => rm(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 })
  return { dist, [Symbol.asyncDispose]: remove }
}

async function installed(folder: string, packages: readonly string[]): Promise<void> {
  await mkdir(join(folder, 'node_modules'))
  for (const name of packages) await symlink(join(ROOT, 'node_modules', name), join(folder, 'node_modules', name))
}
