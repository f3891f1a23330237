/**
 * An object store in a directory: an object is a file at its key's path (docs/FORMAT.md section 2). Several processes may use one at a time.
 *
 * - An object appears whole, by `rename` or `link` of a finished file, or not at all: whatever dies at whatever moment.
 * - Durable means (section 9): bytes synced before the file gets its name, then its folder and all above it. `put` leaves that to `sync()`, for many objects
 *   at once; `putIfAbsent` does it by itself.
 * - A directory that is not there is an empty store; the first write makes it.
 *
 * System calls that have begun cannot be cut: on a disk that hangs, calls hang with it. An abort takes effect between them. `delete` is not
 * made durable: what a crash brings back is deleted again.
 */
import fs from 'node:fs'
import { resolve } from 'node:path'
import { fromErrno, ThawError } from '../errors.ts'
import type { CallOptions, GetOptions, ListedObject, ObjectHead, ObjectStore, PutOptions } from '../store.ts'
import { raceSignal } from '../util/deadline.ts'
import { Lifetime } from '../util/lifetime.ts'
import { Batch, place } from './directory-batch.ts'
import { fdatasync, fstat, hasErrno, ifThere, link, open, read, stat, unlink } from './directory-files.ts'
import { Folders } from './directory-folders.ts'
import { folders, walk } from './directory-list.ts'
import { TempFolder } from './directory-temp.ts'
import { checkFolderPrefix, checkKey, checkPrefix, TEMPORARY } from './object-key.ts'

/** libuv's four threads, with calls queued so that none of them waits for JavaScript. */
const CONCURRENCY = 16

/** Times that the object may vanish between `link` finding it and reading it back. */
const LINK_ATTEMPTS_MAX = 8

/** Opens a directory as a store, touching nothing yet. A relative path is taken from the working directory of now. */
export function openDirectoryStore(path: string): ObjectStore {
  return new DirectoryStore(resolve(path))
}

class DirectoryStore implements ObjectStore {
  readonly url: string
  readonly headGivesSha256 = false
  readonly concurrency = CONCURRENCY
  readonly #root: string
  readonly #folders: Folders
  readonly #temp: TempFolder
  readonly #batch: Batch
  readonly #life: Lifetime
  #closed: Promise<void> | undefined

  constructor(root: string) {
    this.url = root
    this.#root = root
    this.#life = new Lifetime(root)
    this.#folders = new Folders(root)
    this.#temp = new TempFolder(root, () => this.#folders.make(TEMPORARY))
    this.#batch = new Batch(root, this.#temp, this.#folders)
  }

  get(key: string, { sizeMax, signal }: GetOptions): Promise<Uint8Array> {
    return this.#call('read', key, signal, path =>
      withFile(path, async fd => {
        const stats = await fstat(fd)
        if (!stats.isFile()) throw notFound(path)
        if (stats.size > sizeMax) throw tooLarge(path, sizeMax)
        const body = Buffer.allocUnsafeSlow(stats.size)
        if ((await read(fd, body, 0, body.length, 0)) < body.length)
          throw new ThawError('UNAVAILABLE', `short read: ${path}`, { object: path })
        return body
      }),
    )
  }

  getInto(key: string, target: Uint8Array, { signal }: CallOptions = {}): Promise<number> {
    return this.#call('read', key, signal, path =>
      withFile(path, async fd => {
        const length = await read(fd, target, 0, target.length, 0)
        // Only a full target can hide more. Of an open file this is answered from memory, where a second read would cost another turn of a thread.
        if (length === target.length && fs.fstatSync(fd).size > length) throw tooLarge(path, target.length)
        return length
      }),
    )
  }

  head(key: string, { signal }: CallOptions = {}): Promise<ObjectHead | undefined> {
    return this.#call('look at', key, signal, async path => {
      const stats = await ifThere(stat(path))
      if (stats?.isFile() !== true) return undefined
      this.#folders.touch(key)
      return { sizeBytes: stats.size, sha256: undefined }
    })
  }

  put(key: string, body: Uint8Array, { signal }: PutOptions = {}): Promise<void> {
    return this.#call('write', key, signal, () => this.#batch.stage(key, body, () => this.#life.check(signal)))
  }

  putIfAbsent(key: string, body: Uint8Array, { signal }: CallOptions = {}): Promise<boolean> {
    return this.#call('write', key, signal, async path => {
      if (this.#batch.has(key)) await this.#batch.flush()
      const file = await this.#temp.write(body)
      try {
        await fdatasync(file.fd).finally(() => fs.closeSync(file.fd))
        this.#life.check(signal)
        const mine = await this.#link(file.path, path, key, body)
        if (mine) await this.#folders.syncOf(key)
        return mine
      } finally {
        await ifThere(unlink(file.path))
      }
    })
  }

  delete(key: string, { signal }: CallOptions = {}): Promise<void> {
    return this.#call('delete', key, signal, async path => {
      await this.#batch.drop(key)
      await ifThere(unlink(path))
      await this.#folders.prune(key)
    })
  }

  list(prefix: string, { signal }: CallOptions = {}): AsyncIterable<ListedObject> {
    return this.#listing(prefix, checkPrefix, signal, walk)
  }

  listFolders(prefix: string, { signal }: CallOptions = {}): AsyncIterable<string> {
    return this.#listing(prefix, checkFolderPrefix, signal, folders)
  }

  sync({ signal }: CallOptions = {}): Promise<void> {
    return this.#life.run(signal, async () => {
      try {
        await raceSignal(this.#batch.flush(), signal)
      } catch (error) {
        throw fromErrno(error, 'cannot sync', errorPath(error) ?? this.#root)
      }
    })
  }

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #close(): Promise<void> {
    await this.#life.close()
    await this.#batch.discardAll()
    await this.#temp.idle()
  }

  /** Gives a finished file the name `path`. True also if an equal object has it. */
  async #link(from: string, path: string, key: string, body: Uint8Array): Promise<boolean> {
    for (let attempt = 1; attempt <= LINK_ATTEMPTS_MAX; attempt++) {
      try {
        await place(this.#folders, key, () => link(from, path))
        return true
      } catch (error) {
        if (hasErrno(error, 'EPERM', 'ENOTSUP', 'EOPNOTSUPP', 'ENOSYS')) throw noLinks(path, error)
        if (!hasErrno(error, 'EEXIST')) throw error
      }
      const equal = await ifThere(withFile(path, fd => holds(fd, body)))
      if (equal !== undefined) return equal
    }
    throw new ThawError('CONFLICT', `object comes and goes, try again: ${path}`, { object: path })
  }

  async #call<T>(what: string, key: string, signal: AbortSignal | undefined, call: (path: string) => Promise<T>): Promise<T> {
    checkKey(key)
    const path = `${this.#root}/${key}`
    try {
      return await this.#life.run(signal, () => call(path))
    } catch (error) {
      if (hasErrno(error, 'EISDIR') && what === 'read') throw notFound(path)
      throw fromErrno(error, `cannot ${what} object`, path)
    }
  }

  async *#listing<T>(
    prefix: string,
    checkArgument: (prefix: string) => void,
    signal: AbortSignal | undefined,
    lister: (root: string, prefix: string, check: () => void) => AsyncIterable<T>,
  ): AsyncGenerator<T> {
    checkArgument(prefix)
    const check = (): void => this.#life.check(signal)
    check()
    try {
      for await (const item of lister(this.#root, prefix, check)) {
        check()
        yield item
      }
    } catch (error) {
      throw fromErrno(error, 'cannot list', errorPath(error) ?? this.#root)
    }
  }
}

/** Opens a file for reading while `use` runs. Closing a descriptor that wrote nothing does not wait for the disk. */
async function withFile<T>(path: string, use: (fd: number) => Promise<T>): Promise<T> {
  const fd = await open(path, 'r')
  try {
    return await use(fd)
  } finally {
    fs.closeSync(fd)
  }
}

/** Whether a file has exactly these bytes. */
async function holds(fd: number, body: Uint8Array): Promise<boolean> {
  if ((await fstat(fd)).size !== body.length) return false
  const there = Buffer.allocUnsafeSlow(body.length)
  return (await read(fd, there, 0, there.length, 0)) === body.length && there.equals(body)
}

function errorPath(error: unknown): string | undefined {
  return error instanceof Error && 'path' in error && typeof error.path === 'string' ? error.path : undefined
}

function notFound(path: string): ThawError {
  return new ThawError('NOT_FOUND', `no such object: ${path}`, { object: path })
}

function tooLarge(path: string, sizeMax: number): ThawError {
  return new ThawError('BAD_FORMAT', `object is larger than ${sizeMax} bytes: ${path}`, { object: path })
}

function noLinks(path: string, cause: unknown): ThawError {
  return new ThawError('UNSUPPORTED', `this file system cannot make hard links, which put-if-absent needs: ${path}`, {
    object: path,
    cause,
  })
}
