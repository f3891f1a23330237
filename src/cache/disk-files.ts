/**
 * The files of a disk cache, and how one is written.
 *
 *     <path>/v1/7d/7d0c…      sealed bytes under their id, and nothing else in the file
 *     <path>/v1/index         order and sizes, as of when it was written (disk-index.ts)
 *     <path>/v1/bound         how much the folder may hold (disk-bound.ts)
 *     <path>/v1/owner         locked by whoever evicts (disk-owner.ts)
 *     <path>/v1/tmp/<pid>.<random>.<count>      being written, or an entry that could not be removed
 *
 * A file gets its name when it is complete, so a process that dies leaves no half entry. Nothing is
 * synced: what a power cut tears is found by its hash. Nothing that is opened here is followed or
 * waited for: links are refused, and pipes and folders are no files.
 */
import { randomBytes } from 'node:crypto'
import fs from 'node:fs'
import { lstat, mkdir, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fromErrno, ThawError } from '../errors.ts'
import { hasErrno, ifThere, read, rename, unlink, writeAll } from '../store/directory-files.ts'

const FOLDER_MODE = 0o700
const FILE_MODE = 0o600

/** File systems hand out space in blocks of this size. */
export const BLOCK_BYTES = 4096
/** Of entries: `00` to `ff`. */
export const FOLDERS = 256
const SMALL_BYTES_MAX = 128
/** There is no folder, or what has its name is none. */
const NO_FOLDER = ['ENOENT', 'ENOTDIR'] as const
/** EBADMSG and EUCLEAN: file systems with checksums. */
const UNREADABLE = ['EIO', 'EBADMSG', 'EUCLEAN', 'ELOOP', 'ENXIO', 'EISDIR', 'EACCES', 'EPERM'] as const

const { O_RDONLY, O_NOFOLLOW, O_NONBLOCK } = fs.constants
const READ_FLAGS = O_RDONLY | O_NOFOLLOW | O_NONBLOCK

/** Tells apart the caches of one process. */
const prefix = `${process.pid}.${randomBytes(6).toString('hex')}`
let count = 0

export class CacheFiles {
  readonly root: string
  readonly indexPath: string
  readonly boundPath: string
  readonly ownerPath: string
  readonly temporaryPath: string
  /** Whose the folder is. */
  #uid: number | undefined

  constructor(path: string) {
    this.root = join(path, 'v1')
    this.indexPath = `${this.root}/index`
    this.boundPath = `${this.root}/bound`
    this.ownerPath = `${this.root}/owner`
    this.temporaryPath = `${this.root}/tmp`
  }

  /** Where an entry lies. */
  entryPath(id: string): string {
    return `${this.root}/${id.slice(0, 2)}/${id}`
  }

  /** Makes the folders that every cache has; those of entries come with their first entry. Raw errors of `node:fs`. */
  async makeFolders(): Promise<void> {
    for (const path of [dirname(this.root), this.root]) await makeFolder(path)
    this.#uid = (await stat(this.root)).uid
    await this.#makeOwnFolder(this.temporaryPath)
  }

  /** Calls `call`, and once more if it failed because folders were not there, or were none. */
  async withFolders<T>(call: () => Promise<T>): Promise<T> {
    try {
      return await call()
    } catch (error) {
      if (!hasErrno(error, ...NO_FOLDER)) throw error
      await this.makeFolders()
      return await call()
    }
  }

  /** Puts a file with these bytes in place of what was there. `check` is called before it gets its name and may throw. Raw errors of `node:fs`. */
  write(path: string, bytes: Uint8Array, check?: () => void): Promise<void> {
    return this.replace(path, fd => writeAll(fd, bytes), check)
  }

  /** The same with what `fill` writes, which is called again if the folders were not there. Leaves nothing behind if it fails. */
  replace(path: string, fill: (fd: number) => Promise<void>, check?: () => void): Promise<void> {
    return this.withFolders(() => this.#replace(path, fill, check))
  }

  /**
   * Takes away what lies under a name. What cannot be unlinked (a folder; a file whose record is damaged) is moved aside:
   * the name must be free for a good copy. Raw errors of `node:fs`.
   */
  async remove(path: string): Promise<void> {
    try {
      await ifThere(unlink(path))
    } catch (error) {
      await rename(path, this.#temporary()).catch(() => Promise.reject(error))
    }
  }

  async #replace(path: string, fill: (fd: number) => Promise<void>, check: (() => void) | undefined): Promise<void> {
    const temporary = this.#temporary()
    try {
      const fd = await openWith(temporary, 'wx')
      try {
        this.#checkOwner(fd)
        await fill(fd)
      } finally {
        fs.closeSync(fd)
      }
      check?.()
      await this.#rename(temporary, path)
    } catch (error) {
      await ifThere(unlink(temporary)).catch(() => undefined)
      throw error
    }
  }

  async #rename(from: string, to: string): Promise<void> {
    try {
      await rename(from, to)
    } catch (error) {
      // An entry's folder comes with its first entry; and a folder in place of a file is not replaced by a name.
      if (hasErrno(error, ...NO_FOLDER)) await this.#makeOwnFolder(dirname(to))
      else if (hasErrno(error, 'EISDIR', 'ENOTEMPTY', 'EEXIST')) await this.remove(to)
      else throw error
      await rename(from, to)
    }
  }

  /** What root leaves in a folder of another user is in that user's way, who can neither read nor replace it. */
  #checkOwner(fd: number): void {
    const { uid } = fs.fstatSync(fd)
    if (this.#uid === undefined || uid === this.#uid) return
    const whose = `it belongs to user ${this.#uid}, who could not read files of user ${uid}`
    throw new ThawError('DENIED', `nothing is written to ${this.root}: ${whose}`, { object: this.root, tier: 'disk' })
  }

  /** In place of what lies there and is no folder: nothing else may have that name. */
  async #makeOwnFolder(path: string): Promise<void> {
    await makeFolder(path)
    if ((await lstat(path)).isDirectory()) return
    await this.remove(path)
    await makeFolder(path)
  }

  #temporary(): string {
    return `${this.temporaryPath}/${prefix}.${count++}`
  }
}

/** Opens for reading. Raw errors of `node:fs`: ELOOP for a link. */
export function openFile(path: string): Promise<number> {
  return openWith(path, READ_FLAGS)
}

/** Whether an error says something of one file, and not of the disk, the process or the moment. */
export function isUnreadable(error: unknown): boolean {
  return hasErrno(error, ...UNREADABLE)
}

/**
 * Calls `use` with a file that may be read and does not have to be. Undefined: there is none, or none that can be read.
 * Raw errors of `node:fs`, and what `use` throws.
 */
export async function readHint<T>(path: string, use: (fd: number) => Promise<T>): Promise<T | undefined> {
  try {
    const fd = await ifThere(openFile(path))
    if (fd === undefined) return undefined
    try {
      return fs.fstatSync(fd).isFile() ? await use(fd) : undefined
    } finally {
      fs.closeSync(fd)
    }
  } catch (error) {
    if (isUnreadable(error)) return undefined
    throw error
  }
}

/** The text of a file of a few bytes, as far as it can be read. Raw errors of `node:fs`. */
export function readSmall(path: string): Promise<string | undefined> {
  return readHint(path, async fd => {
    const bytes = Buffer.alloc(SMALL_BYTES_MAX)
    return bytes.toString('latin1', 0, await read(fd, bytes, 0, SMALL_BYTES_MAX, 0))
  })
}

/** What a file of that length takes from the disk; its name is not counted. */
export function blocksOf(sizeBytes: number): number {
  return Math.max(1, Math.ceil(sizeBytes / BLOCK_BYTES))
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

function openWith(path: string, flags: number | 'wx'): Promise<number> {
  return new Promise((resolve, reject) => {
    fs.open(path, flags, FILE_MODE, (error, fd) => (error === null ? resolve(fd) : reject(error)))
  })
}
