/**
 * The files of a disk cache, and how one is written.
 *
 *     <path>/v1/7d/7d0c…      sealed bytes under their id, and nothing else in the file
 *     <path>/v1/index         order and sizes, as of when it was written (disk-index.ts)
 *     <path>/v1/owner         who evicts (disk-owner.ts)
 *     <path>/v1/tmp/<pid>.<random>.<count>      being written
 *
 * A file gets its name when it is complete, so a process that dies leaves no half entry. Nothing is synced: what a power cut tears is found by its hash.
 */
import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fromErrno, ThawError } from '../errors.ts'
import { hasErrno, ifThere, rename, unlink, writeAll } from '../store/directory-files.ts'

const FOLDER_MODE = 0o700
const FILE_MODE = 0o600

/** File systems hand out space in blocks of this size. */
const BLOCK_BYTES = 4096

/** Tells apart the caches of one process. */
const prefix = `${process.pid}.${randomBytes(6).toString('hex')}`
let count = 0

export class CacheFiles {
  readonly root: string
  readonly indexPath: string
  readonly ownerPath: string
  readonly temporaryPath: string

  constructor(path: string) {
    this.root = join(path, 'v1')
    this.indexPath = `${this.root}/index`
    this.ownerPath = `${this.root}/owner`
    this.temporaryPath = `${this.root}/tmp`
  }

  /** Where an entry lies. */
  entryPath(id: string): string {
    return `${this.root}/${id.slice(0, 2)}/${id}`
  }

  /** Makes the folders that every cache has; those of entries come with their first entry. Raw errors of `node:fs`. */
  async makeFolders(): Promise<void> {
    for (const path of [dirname(this.root), this.root, this.temporaryPath]) await makeFolder(path)
  }

  /**
   * Writes a file under another name and then gives it this one, in place of what was there. `check` is called in between and may throw. Leaves nothing
   * behind if it fails. Raw errors of `node:fs`.
   */
  async write(path: string, bytes: Uint8Array, check?: () => void): Promise<void> {
    try {
      await this.#write(path, bytes, check)
    } catch (error) {
      if (!hasErrno(error, 'ENOENT')) throw error
      await this.makeFolders()
      await this.#write(path, bytes, check)
    }
  }

  async #write(path: string, bytes: Uint8Array, check: (() => void) | undefined): Promise<void> {
    const temporary = `${this.temporaryPath}/${prefix}.${count++}`
    try {
      const fd = await openNew(temporary)
      await writeAll(fd, bytes).finally(() => fs.closeSync(fd))
      check?.()
      await renameIntoFolder(temporary, path)
    } catch (error) {
      await ifThere(unlink(temporary)).catch(() => undefined)
      throw error
    }
  }
}

/** What a file of that length takes from the disk, in bytes; its name is not counted. */
export function occupiedBytes(sizeBytes: number): number {
  return Math.max(1, Math.ceil(sizeBytes / BLOCK_BYTES)) * BLOCK_BYTES
}

/** An error of the file system as a ThawError of this tier; other errors as they are. */
export function diskError(error: unknown, what: string, path: string): unknown {
  const typed = fromErrno(error, what, path)
  return typed instanceof ThawError ? new ThawError(typed.code, typed.message, { cause: error, object: path, tier: 'disk' }) : typed
}

async function makeFolder(path: string): Promise<void> {
  try {
    await mkdir(path, FOLDER_MODE)
  } catch (error) {
    if (!hasErrno(error, 'EEXIST')) throw error
  }
}

/** An entry's folder comes with its first entry. */
async function renameIntoFolder(from: string, to: string): Promise<void> {
  try {
    await rename(from, to)
  } catch (error) {
    if (!hasErrno(error, 'ENOENT')) throw error
    await makeFolder(dirname(to))
    await rename(from, to)
  }
}

function openNew(path: string): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.open(path, 'wx', FILE_MODE, (error, fd) => (error === null ? resolve(fd) : reject(error)))
  })
}
