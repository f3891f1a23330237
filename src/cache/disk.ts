/**
 * L1 on disk: sealed bytes as plain files in a folder, bounded in bytes, kept over restarts, shared by the processes of a host.
 *
 * - The files are the truth, and nothing about them is trusted: the caller compares what comes out with its id. So there is no checksum, no fsync and no
 *   journal here, and a crash needs no repair (disk-files.ts).
 * - One cache owns the folder's bound, the others are guests (disk-owner.ts). Least recently used goes first (disk-fill.ts).
 * - A write that fails only turns filling off for a while. A read that fails is an error of this tier, in bounded time as far as Node allows (disk-read.ts).
 *
 * Calls on the file system cannot be cut, so a disk that hangs while it is written holds its `put`, and `close()` with it.
 */
import { resolve } from 'node:path'
import type { Allocate, CacheDescription, SealedCache } from '../cache.ts'
import { ID } from '../names.ts'
import type { CallOptions } from '../store.ts'
import { type Clock, systemClock } from '../util/clock.ts'
import { Lifetime } from '../util/lifetime.ts'
import { makeFolders } from '../util/make-folders.ts'
import { CacheFiles, diskError } from './disk-files.ts'
import { Fill } from './disk-fill.ts'
import { Order } from './disk-order.ts'
import { Ownership } from './disk-owner.ts'
import { Reads } from './disk-read.ts'
import { reconcile, removeEntries, unlinkIfThere } from './disk-scan.ts'

const TIMEOUT_MS = 2000

export interface DiskCacheOptions {
  /** The folder; made if it is not there. It may hold other things, which are left alone. */
  readonly path: string
  /** Most bytes of disk that entries take. Only the owner's counts where several share the folder. */
  readonly sizeBytes: number
  /** How long a file may take to open. Default: 2 s. */
  readonly timeoutMs?: number | undefined
  readonly clock?: Clock | undefined
}

/**
 * Opens a disk cache, and learns what it holds if no other owns the folder. Fails only if the folder cannot be made: one that is read-only, or whose disk is
 * full, is read. DENIED, NO_SPACE or NOT_FOUND of the tier; RangeError for a size that is not a positive integer.
 */
export async function openDiskCache({
  path,
  sizeBytes,
  timeoutMs = TIMEOUT_MS,
  clock = systemClock,
}: DiskCacheOptions): Promise<SealedCache> {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0) throw new RangeError(`a disk cache of ${sizeBytes} bytes: not a positive integer`)
  const folder = resolve(path)
  const files = new CacheFiles(folder)
  try {
    await makeFolders(resolve(folder, '..'))
    await files.makeFolders()
  } catch (error) {
    throw diskError(error, 'cannot make the cache folder', folder)
  }
  const cache = new DiskCache(folder, files, sizeBytes, timeoutMs, clock)
  await cache.start()
  return cache
}

class DiskCache implements SealedCache {
  readonly tier = 'disk'
  readonly name: string
  readonly #files: CacheFiles
  readonly #sizeBytes: number
  readonly #reads: Reads
  readonly #fill: Fill
  readonly #owner: Ownership
  readonly #life: Lifetime
  #closed: Promise<void> | undefined

  constructor(name: string, files: CacheFiles, sizeBytes: number, timeoutMs: number, clock: Clock) {
    this.name = name
    this.#files = files
    this.#sizeBytes = sizeBytes
    this.#life = new Lifetime(`disk cache ${name}`)
    this.#reads = new Reads(clock, timeoutMs)
    this.#fill = new Fill({ files, sizeBytes, clock })
    this.#owner = new Ownership({ files, clock, check: () => this.#life.check(), onTurn: () => this.#fill.trim(this.#owner.order) })
  }

  start(): Promise<void> {
    return this.#owner.start()
  }

  async get(id: string, allocate: Allocate, { signal }: CallOptions = {}): Promise<Uint8Array | undefined> {
    checkId(id)
    return this.#life.run(signal, async () => {
      if (this.#reads.full) return undefined
      const found = await this.#reads.read(this.#files.entryPath(id), this.#owner.order?.touch(id), allocate, signal)
      this.#learn(id, found?.length)
      return found
    })
  }

  async put(id: string, sealed: Uint8Array, { signal }: CallOptions = {}): Promise<boolean> {
    checkId(id)
    return this.#life.run(signal, () => this.#fill.put(id, sealed, this.#owner, () => this.#life.check(signal)))
  }

  async evict(id: string, { signal }: CallOptions = {}): Promise<void> {
    checkId(id)
    await this.#call(signal, 'cannot evict from', async () => {
      await unlinkIfThere(this.#files.entryPath(id))
      this.#owner.order?.drop(id)
    })
  }

  /** Leaves the folders, which are empty then, and what others keep in them. */
  clear({ signal }: CallOptions = {}): Promise<number> {
    return this.#call(signal, 'cannot clear', async () => {
      const removed = await removeEntries(this.#files, () => this.#life.check(signal))
      await unlinkIfThere(this.#files.indexPath)
      if (this.#owner.order !== undefined) await reconcile(this.#files, this.#owner.order, () => this.#life.check(signal))
      return removed
    })
  }

  describe({ signal }: CallOptions = {}): Promise<CacheDescription> {
    return this.#call(signal, 'cannot describe', async () => {
      const { entries, bytes } = this.#owner.order ?? (await this.#count(signal))
      const ownerPid = await this.#owner.ownerPid()
      const { hung } = this.#reads
      const fill = this.#fill.offBecause
      return {
        tier: this.tier,
        name: this.name,
        state: hung ? 'down' : 'up',
        remark: hung ? 'the disk does not answer' : fill === undefined ? undefined : `nothing is kept at present: ${fill}`,
        entries,
        bytes,
        bytesMax: this.#sizeBytes,
        details: {
          role: this.#owner.order === undefined ? 'guest' : 'owner',
          ...(ownerPid === undefined ? {} : { ownerPid }),
          fill: fill === undefined ? 'on' : 'off',
        },
      }
    })
  }

  close(): Promise<void> {
    this.#closed ??= this.#life.close().then(() => this.#owner.close())
    return this.#closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** What reading an entry told about it: gone, or how long it is, which others that fill the folder did not say. */
  #learn(id: string, sizeBytes: number | undefined): void {
    const order = this.#owner.order
    if (sizeBytes === undefined) order?.drop(id)
    else if (order?.touch(id) !== sizeBytes) order?.add(id, sizeBytes)
  }

  async #count(signal: AbortSignal | undefined): Promise<Order> {
    const order = new Order()
    await reconcile(this.#files, order, () => this.#life.check(signal))
    return order
  }

  async #call<T>(signal: AbortSignal | undefined, what: string, call: () => Promise<T>): Promise<T> {
    try {
      return await this.#life.run(signal, call)
    } catch (error) {
      throw diskError(error, `${what} the disk cache`, this.name)
    }
  }
}

function checkId(id: string): void {
  if (!ID.test(id)) throw new RangeError(`${JSON.stringify(id)} is not an id of 64 hex digits`)
}
