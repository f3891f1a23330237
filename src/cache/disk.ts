/**
 * L1 on disk: sealed bytes as plain files in a folder, bounded in bytes, kept over restarts, shared by the processes of a host.
 *
 * - The files are the truth, and nothing about them is trusted: the caller compares what comes out with its id. So there is no checksum, no fsync and no
 *   journal here, and a crash needs no repair (disk-files.ts).
 * - The bound belongs to the folder (disk-bound.ts). One cache owns the folder and keeps it, the others are guests (disk-owner.ts). Least recently used goes
 *   first (disk-fill.ts).
 * - A write that fails only turns filling off for a while. A read that fails is an error of this tier, in bounded time as far as Node allows (disk-read.ts).
 * - Whatever is done for all entries is done in slices: nothing here stops the thread for a millisecond.
 *
 * Calls on the file system cannot be cut, so a disk that hangs while it is written holds its `put`, and `close()` with it.
 */
import { constants } from 'node:fs'
import { access } from 'node:fs/promises'
import { resolve } from 'node:path'
import type { Allocate, CacheDescription, SealedCache } from '../cache.ts'
import { ID } from '../names.ts'
import { hasErrno } from '../store/directory-files.ts'
import type { CallOptions } from '../store.ts'
import { type Clock, systemClock } from '../util/clock.ts'
import { Lifetime } from '../util/lifetime.ts'
import { makeFolders } from '../util/make-folders.ts'
import { Bound, readBound, setBound } from './disk-bound.ts'
import { Catalog } from './disk-catalog.ts'
import { CacheFiles, diskError } from './disk-files.ts'
import { Fill } from './disk-fill.ts'
import { readIndex } from './disk-index.ts'
import { Ownership } from './disk-owner.ts'
import { Reads } from './disk-read.ts'
import { reconcile, removeEntries } from './disk-scan.ts'

const TIMEOUT_MS = 2000

export interface DiskCacheOptions {
  /**
   * The folder; made if it is not there. It may hold other things, which are left alone. If it is
   * another user's, root reads and evicts, and writes nothing.
   */
  readonly path: string
  /**
   * Most bytes of disk that entries take; default 10 GiB. The bound belongs to the folder: a size that is larger than the folder's raises it, a smaller
   * one changes nothing (`resizeDiskCache` lowers it).
   */
  readonly sizeBytes?: number | undefined
  /** Only look: make no folder, fill nothing, evict nothing by itself, and never become the folder's owner. Default: false. */
  readonly observe?: boolean | undefined
  /** How long a file may take to open. Default: 2 s. */
  readonly timeoutMs?: number | undefined
  readonly clock?: Clock | undefined
}

/**
 * Opens a disk cache, which serves at once; what it holds is learnt in the background by the one that looks after the folder. Fails only if the folder cannot
 * be made, or is another user's: one that is read-only, or whose disk is full, is read. DENIED, NO_SPACE or NOT_FOUND of the tier; RangeError for a size that
 * is not a positive integer.
 */
export async function openDiskCache({ path, sizeBytes, observe = false, ...options }: DiskCacheOptions): Promise<SealedCache> {
  if (sizeBytes !== undefined) checkSize(sizeBytes)
  const folder = resolve(path)
  const files = new CacheFiles(folder)
  const bound = new Bound(files, sizeBytes)
  try {
    if (!observe) {
      await makeFolders(resolve(folder, '..'))
      await files.makeFolders()
    }
    await access(files.root, constants.R_OK | constants.X_OK).catch(error => {
      if (!observe || !hasErrno(error, 'ENOENT')) throw error
    })
    await bound.read()
  } catch (error) {
    throw diskError(error, observe ? 'cannot read the cache folder' : 'cannot make the cache folder', folder)
  }
  const cache = new DiskCache(folder, files, bound, { observe, ...options })
  if (!observe) void cache.start()
  return cache
}

/**
 * Sets the bound of a cache folder, which is made if it is not there. What is too much goes at once, or within half a minute if another process looks after
 * the folder. DENIED, NO_SPACE, NOT_FOUND, UNAVAILABLE of the tier; RangeError as above.
 */
export async function resizeDiskCache({
  path,
  sizeBytes,
}: {
  readonly path: string
  readonly sizeBytes: number
}): Promise<CacheDescription> {
  checkSize(sizeBytes)
  const folder = resolve(path)
  const files = new CacheFiles(folder)
  try {
    await makeFolders(resolve(folder, '..'))
    await files.makeFolders()
    await setBound(files, sizeBytes)
  } catch (error) {
    throw diskError(error, 'cannot set the bound of the cache folder', folder)
  }
  await using cache = new DiskCache(folder, files, await boundOf(files), { observe: false })
  await cache.start()
  return await cache.describe()
}

/** What a cache folder may hold, in bytes, as far as it says; undefined: it has no bound yet. UNAVAILABLE, DENIED of the tier. */
export async function diskCacheBound(path: string): Promise<number | undefined> {
  const folder = resolve(path)
  try {
    return await readBound(new CacheFiles(folder))
  } catch (error) {
    throw diskError(error, 'cannot read the cache folder', folder)
  }
}

/** How a cache behaves that is open. */
type Conduct = Pick<DiskCacheOptions, 'timeoutMs' | 'clock'> & { readonly observe: boolean }

class DiskCache implements SealedCache {
  readonly tier = 'disk'
  readonly name: string
  readonly #files: CacheFiles
  readonly #bound: Bound
  readonly #observe: boolean
  readonly #reads: Reads
  readonly #fill: Fill
  readonly #owner: Ownership
  readonly #life: Lifetime
  #closed: Promise<void> | undefined

  constructor(name: string, files: CacheFiles, bound: Bound, { observe, timeoutMs = TIMEOUT_MS, clock = systemClock }: Conduct) {
    this.name = name
    this.#files = files
    this.#bound = bound
    this.#observe = observe
    this.#life = new Lifetime(`disk cache ${name}`)
    this.#reads = new Reads(clock, timeoutMs)
    this.#fill = new Fill({ files, bound, reads: this.#reads, clock })
    const check = (): void => this.#life.check()
    this.#owner = new Ownership({ files, bound, clock, check, trim: catalog => this.#fill.trim(catalog) })
  }

  /** Settles when the cache knows whether it looks after the folder, and has done so once. Never rejects. */
  start(): Promise<void> {
    return this.#owner.start()
  }

  async get(id: string, allocate: Allocate, { signal }: CallOptions = {}): Promise<Uint8Array | undefined> {
    checkId(id)
    return this.#life.run(signal, async () => {
      if (this.#reads.full) return undefined
      const found = await this.#reads.read(this.#files.entryPath(id), allocate, signal)
      this.#learn(id, found?.length)
      return found
    })
  }

  async put(id: string, sealed: Uint8Array, { signal }: CallOptions = {}): Promise<boolean> {
    checkId(id)
    return this.#life.run(signal, async () => !this.#observe && this.#fill.put(id, sealed, this.#owner, () => this.#life.check(signal)))
  }

  async evict(id: string, { signal }: CallOptions = {}): Promise<void> {
    checkId(id)
    await this.#call(signal, 'cannot evict from', async () => {
      this.#owner.catalog?.drop(id)
      await this.#files.remove(this.#files.entryPath(id))
    })
  }

  /** Leaves the folders, which are empty then, and what others keep in them. */
  clear({ signal }: CallOptions = {}): Promise<number> {
    return this.#call(signal, 'cannot clear', async () => {
      const check = (): void => this.#life.check(signal)
      const removed = await removeEntries(this.#files, id => this.#owner.catalog?.drop(id), check)
      await this.#files.remove(this.#files.indexPath)
      return removed
    })
  }

  describe({ signal }: CallOptions = {}): Promise<CacheDescription> {
    return this.#call(signal, 'cannot describe', async () => {
      await this.#bound.read()
      if (!this.#observe) await this.#owner.claimed
      const owned = this.#owner.catalog !== undefined
      const known = owned ? this.#owner.whole : await this.#count(signal)
      const ownerPid = await this.#owner.ownerPid()
      const { hung } = this.#reads
      return {
        tier: this.tier,
        name: this.name,
        state: hung ? 'down' : 'up',
        remark: hung ? 'the disk does not answer' : this.#remark(),
        entries: known?.entries,
        bytes: known?.bytes,
        bytesMax: this.#bound.bytes,
        details: {
          role: this.#observe ? 'observer' : owned ? 'owner' : 'guest',
          ...(ownerPid === undefined ? {} : { ownerPid }),
          fill: this.#observe || this.#fill.offBecause !== undefined ? 'off' : 'on',
        },
      }
    })
  }

  #remark(): string | undefined {
    const { offBecause } = this.#fill
    if (offBecause !== undefined) return `nothing is kept at present: ${offBecause}`
    return this.#owner.failure === undefined ? undefined : `nobody keeps the bound: ${this.#owner.failure}`
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
    const { catalog } = this.#owner
    if (sizeBytes === undefined) catalog?.drop(id)
    else catalog?.add(id, sizeBytes)
  }

  /** Looks at the folder without changing anything in it. */
  async #count(signal: AbortSignal | undefined): Promise<Catalog> {
    const [catalog, check] = [new Catalog(), () => this.#life.check(signal)]
    await readIndex(this.#files, catalog, check)
    await reconcile(this.#files, catalog, { check })
    return catalog
  }

  async #call<T>(signal: AbortSignal | undefined, what: string, call: () => Promise<T>): Promise<T> {
    try {
      return await this.#life.run(signal, call)
    } catch (error) {
      throw diskError(error, `${what} the disk cache`, this.name)
    }
  }
}

async function boundOf(files: CacheFiles): Promise<Bound> {
  const bound = new Bound(files, undefined)
  await bound.read()
  return bound
}

function checkSize(sizeBytes: number): void {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes <= 0) throw new RangeError(`a disk cache of ${sizeBytes} bytes: not a positive integer`)
}

function checkId(id: string): void {
  if (!ID.test(id)) throw new RangeError(`${JSON.stringify(id)} is not an id of 64 hex digits`)
}
