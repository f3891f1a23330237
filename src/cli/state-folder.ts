/**
 * Where running commands are found: a folder of this user's alone, with a Unix socket for each (announce.ts), `<pid>-<random>.sock`.
 */
import { lstat, mkdir } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { isAbsolute, join } from 'node:path'

const FOLDER_MODE = 0o700
const OTHERS_WRITE = 0o022

/** The folder that is set, else that of the user's session, of the machine for root, or of a temporary place. It need not be there. */
export function stateFolder(set: string | undefined): string {
  if (set !== undefined) return set
  const { XDG_RUNTIME_DIR = '' } = process.env
  if (isAbsolute(XDG_RUNTIME_DIR)) return join(XDG_RUNTIME_DIR, 'thaw')
  const userId = process.getuid?.()
  return userId === 0 ? '/run/thaw' : join(tmpdir(), `thaw-${userId ?? 'user'}`)
}

/** Makes the folder, not those above it. Rejects if it is not a folder that only this user can write to: others could answer in our name. */
export async function makeStateFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: FOLDER_MODE })
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
  }
  if (!(await isOwn(path))) throw new Error(`${path} is not a folder that only this user can write to`)
}

async function isOwn(path: string): Promise<boolean> {
  try {
    const stats = await lstat(path)
    return stats.isDirectory() && stats.uid === (process.getuid?.() ?? stats.uid) && (stats.mode & OTHERS_WRITE) === 0
  } catch {
    return false
  }
}
