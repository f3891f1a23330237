/** Parts of the program bundled as the published ones are, in a folder of their own, with no packages but those that are asked for. */
import { copyFile, mkdir, mkdtemp, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { rolldown } from 'rolldown'
import config from '../../rolldown.config.ts'

const ROOT = join(import.meta.dirname, '../..')

export interface BuiltProgram extends AsyncDisposable {
  /** Where the bundles lie: `dist`. */
  readonly dist: string
}

/** @param input bundles and the sources they begin with, as in rolldown.config.ts. @param packages that are installed beside them */
export async function buildProgram(input: Readonly<Record<string, string>>, packages: readonly string[]): Promise<BuiltProgram> {
  const folder = await mkdtemp(join(tmpdir(), 'thaw-built-'))
  const dist = join(folder, 'dist')
  await copyFile(join(ROOT, 'package.json'), join(folder, 'package.json'))
  await mkdir(join(folder, 'node_modules'))
  for (const name of packages) await symlink(join(ROOT, 'node_modules', name), join(folder, 'node_modules', name))
  const { output, ...options } = [config].flat()[0]!
  await using bundle = await rolldown({ ...options, cwd: ROOT, input })
  await bundle.write({ ...[output].flat()[0], dir: dist })
  return { dist, [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }) }
}
