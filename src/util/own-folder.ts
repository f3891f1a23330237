/** A folder that only this user can write to, in a place where others can: they could rename or replace what lies in a folder of theirs. */
import { lstat, mkdir } from 'node:fs/promises'
import { ThawError } from '../errors.ts'

const FOLDER_MODE = 0o700
const OTHERS_WRITE = 0o022

/** Makes the folder, not those above it. @throws ThawError CONFLICT if something else is there, or somebody else's; raw errors of Node */
export async function makeOwnFolder(path: string): Promise<void> {
  try {
    await mkdir(path, { mode: FOLDER_MODE })
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error
  }
  const stats = await lstat(path)
  if (stats.isDirectory() && stats.uid === process.getuid?.() && (stats.mode & OTHERS_WRITE) === 0) return
  throw new ThawError('CONFLICT', `${path} is not a folder that only this user can write to`, { object: path })
}
