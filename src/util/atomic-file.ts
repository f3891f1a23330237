/**
 * Small files that are whole or not there, whatever happens meanwhile: written under another name, synced, then put in place, and the folder synced.
 *
 * For files where each write is waited for by itself (keyring, config). A directory store writes many objects and waits once: not here.
 */
import { randomBytes } from 'node:crypto'
import { link, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { fromErrno, ThawError } from '../errors.ts'

export interface FileMode {
  /** Permission bits of the file, e.g. 0o600; the umask can only take from them. */
  readonly mode: number
}

/** Creates a file that is not there yet; CONFLICT, and nothing touched, if it is. Durable when the promise settles. */
export async function createFileAtomic(path: string, bytes: Uint8Array, { mode }: FileMode): Promise<void> {
  await place(path, bytes, mode, async temporary => {
    try {
      await link(temporary, path)
    } catch (error) {
      if (isErrno(error, 'EEXIST'))
        throw new ThawError('CONFLICT', `${path} is there already and is not overwritten`, { cause: error, object: path })
      throw error
    }
  })
}

/** Replaces a file, or creates it. A symbolic link is itself replaced: resolve the path first to keep it. Durable when the promise settles. */
export async function replaceFileAtomic(path: string, bytes: Uint8Array, { mode }: FileMode): Promise<void> {
  await place(path, bytes, mode, temporary => rename(temporary, path))
}

/** True for an error of the file system with that errno name. */
export function isErrno(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code
}

async function place(path: string, bytes: Uint8Array, mode: number, putInPlace: (temporary: string) => Promise<void>): Promise<void> {
  const temporary = `${path}.${randomBytes(8).toString('hex')}.tmp`
  try {
    await writeSynced(temporary, bytes, mode)
    await putInPlace(temporary)
    await syncFolder(dirname(path))
  } catch (error) {
    throw fromErrno(error, 'cannot write', path)
  } finally {
    await rm(temporary, { force: true })
  }
}

async function writeSynced(path: string, bytes: Uint8Array, mode: number): Promise<void> {
  await using file = await open(path, 'wx', mode)
  await file.writeFile(bytes)
  await file.datasync()
}

async function syncFolder(path: string): Promise<void> {
  await using folder = await open(path, 'r')
  await folder.sync()
}
