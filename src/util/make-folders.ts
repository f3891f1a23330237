/**
 * Creates a folder and those above it. Not `mkdir` with `recursive`: below a folder that cannot have entries (`/proc`) Node's tries for ever, on a thread of
 * libuv's pool (24.21).
 */
import { mkdir, stat } from 'node:fs/promises'
import { dirname } from 'node:path'

/** @returns the topmost folder that was created, or undefined if all were there. Rejects with the raw error of Node. */
export async function makeFolders(path: string): Promise<string | undefined> {
  try {
    await mkdir(path)
    return path
  } catch (error) {
    if (!(error instanceof Error && 'code' in error)) throw error
    if (error.code === 'EEXIST' && (await stat(path)).isDirectory()) return undefined
    if (error.code !== 'ENOENT') throw error
    const made = await makeFolders(dirname(path))
    return await makeLast(path, made)
  }
}

/** Everything above is there now; another process may have been faster with this one. */
async function makeLast(path: string, made: string | undefined): Promise<string | undefined> {
  try {
    await mkdir(path)
    return made ?? path
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return made
    throw error
  }
}
