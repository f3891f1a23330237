/**
 * Objects that were put and not yet synced: written to temporary files, invisible. A flush waits until all of them are on the disk, renames them into place
 * and syncs their folders: one wait for many objects.
 *
 * What a failed flush leaves: an object that could not be moved into place stays staged, and the next flush tries again. One whose bytes did not reach the disk is
 * lost: after a failed fdatasync the kernel forgets which pages were dirty, so trying again would only seem to succeed. From then on every flush fails, because
 * whoever put that object may be about to rely on it, until it is put again or deleted.
 */
import { join } from 'node:path'
import { forEachAtOnce } from '../util/at-once.ts'
import { hasErrno, ifThere, rename, unlink } from './directory-files.ts'
import type { Folders } from './directory-folders.ts'
import type { TempFolder } from './directory-temp.ts'
import { Writeback } from './directory-writeback.ts'
import { folderOf } from './object-key.ts'

/** A batch that reaches either is flushed by the put that filled it. */
const BATCH_FILES_MAX = 1024
const BATCH_BYTES_MAX = 256 * 2 ** 20

const RENAMES_PARALLEL_MAX = 16
/** Times that a folder may vanish between making it and moving a file into it (other processes remove empty ones). */
const PLACE_ATTEMPTS_MAX = 8

interface Staged {
  readonly key: string
  readonly path: string
  readonly sizeBytes: number
  /** Resolves to undefined once durable, or to what went wrong. */
  readonly durable: Promise<unknown>
}

export class Batch {
  readonly #root: string
  readonly #temp: TempFolder
  readonly #folders: Folders
  readonly #writeback = new Writeback()
  readonly #lost = new Map<string, unknown>()
  #staged = new Map<string, Staged>()
  #stagedBytes = 0
  /** Folders that this batch needs and that were made when it first did, so that a flush finds them. */
  #made = new Set<string>()
  #lastFlush: Promise<void> = Promise.resolve()

  constructor(root: string, temp: TempFolder, folders: Folders) {
    this.#root = root
    this.#temp = temp
    this.#folders = folders
  }

  has(key: string): boolean {
    return this.#staged.has(key)
  }

  /** Writes an object to a temporary file; `check` throws if the caller has given up meanwhile. Replaces an earlier one of that key. */
  async stage(key: string, body: Uint8Array, check: () => void): Promise<void> {
    await this.#writeback.room()
    await this.#makeFolder(folderOf(key))
    const file = await this.#temp.write(body)
    const staged: Staged = { key, path: file.path, sizeBytes: body.length, durable: this.#writeback.add(file.fd) }
    try {
      check()
    } catch (error) {
      await discard(staged)
      throw error
    }
    const replaced = this.#take(key)
    this.#lost.delete(key)
    this.#staged.set(key, staged)
    this.#stagedBytes += staged.sizeBytes
    if (replaced !== undefined) await discard(replaced)
    if (this.#staged.size >= BATCH_FILES_MAX || this.#stagedBytes >= BATCH_BYTES_MAX) await this.flush()
  }

  /** Forgets what was put under a key, and resolves when no flush can bring it back. */
  async drop(key: string): Promise<void> {
    this.#lost.delete(key)
    const staged = this.#take(key)
    if (staged !== undefined) await discard(staged)
    await this.#lastFlush
  }

  /** Makes everything staged before visible and durable, and the folders touched. Flushes run one after another. */
  flush(): Promise<void> {
    this.#writeback.hurry()
    const flush = this.#lastFlush.then(() => this.#flush())
    this.#lastFlush = flush.catch(() => undefined)
    return flush
  }

  /** Removes what is staged. Resolves when nothing runs any more. */
  async discardAll(): Promise<void> {
    this.#writeback.hurry()
    await this.#lastFlush
    await forEachAtOnce(this.#swap().values(), RENAMES_PARALLEL_MAX, discard, { keepGoing: true })
  }

  async #flush(): Promise<void> {
    try {
      await forEachAtOnce(this.#swap().values(), RENAMES_PARALLEL_MAX, staged => this.#publish(staged), { keepGoing: true })
    } finally {
      await this.#folders.sync()
    }
    for (const failure of this.#lost.values()) throw failure
  }

  async #publish(staged: Staged): Promise<void> {
    const failure = await staged.durable
    if (failure !== undefined) {
      this.#lost.set(staged.key, failure)
      await discard(staged)
      throw failure
    }
    try {
      await place(this.#folders, staged.key, () => rename(staged.path, join(this.#root, staged.key)))
      this.#folders.touch(staged.key)
    } catch (error) {
      await this.#keep(staged)
      throw error
    }
  }

  /** Puts an object that could not be moved back, unless a newer one has taken its place. */
  async #keep(staged: Staged): Promise<void> {
    if (this.#staged.has(staged.key)) return discard(staged)
    this.#staged.set(staged.key, staged)
    this.#stagedBytes += staged.sizeBytes
  }

  async #makeFolder(folder: string): Promise<void> {
    if (this.#made.has(folder)) return
    this.#made.add(folder)
    await this.#folders.make(folder)
  }

  #take(key: string): Staged | undefined {
    const staged = this.#staged.get(key)
    if (staged === undefined) return undefined
    this.#staged.delete(key)
    this.#stagedBytes -= staged.sizeBytes
    return staged
  }

  #swap(): Map<string, Staged> {
    const staged = this.#staged
    this.#staged = new Map()
    this.#stagedBytes = 0
    this.#made = new Set()
    return staged
  }
}

/** Runs a call that puts a file in the folder of `key`, making the folder when it is not there. */
export async function place(folders: Folders, key: string, call: () => Promise<void>): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      return await call()
    } catch (error) {
      if (!hasErrno(error, 'ENOENT') || attempt === PLACE_ATTEMPTS_MAX) throw error
      await folders.make(folderOf(key))
    }
  }
}

async function discard(staged: Staged): Promise<void> {
  await staged.durable
  await ifThere(unlink(staged.path))
}
