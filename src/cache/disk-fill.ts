/**
 * Filling a disk cache, and making room in it.
 *
 * - Room first: what is evicted for an entry is gone before the entry is written, so the bound holds at every moment for what this cache wrote.
 * - Who does not know what the folder holds (a guest; an owner that has not looked yet) cannot evict, so it stops at an eighth of the bound until the
 *   owner gives leave again (disk-owner.ts): by so much at most it exceeds the bound.
 * - An entry is there if it was read and is the same. What lies there otherwise is replaced.
 * - A disk that is full, read-only or broken turns filling off for half a minute; then it is tried again. Reading goes on.
 * - What is under way is bounded, in entries and in bytes; beyond that nothing waits, it is not kept.
 */
import { hasErrno } from '../store/directory-files.ts'
import type { Clock } from '../util/clock.ts'
import type { Bound } from './disk-bound.ts'
import type { Catalog, CatalogEntry } from './disk-catalog.ts'
import { BLOCK_BYTES, blocksOf, type CacheFiles } from './disk-files.ts'
import type { Ownership } from './disk-owner.ts'
import type { Reads } from './disk-read.ts'
import { Room } from './disk-room.ts'

const PUTS_MAX = 64
const PUT_BYTES_MAX = 32 * 2 ** 20
const OFF_MS = 30_000
const UNLINKS_AT_ONCE = 16
/** Entries that one put evicts at most. After a bound was lowered the turn removes the others, and nobody waits for that. */
const EVICTED_MAX = 256

interface FillOptions {
  readonly files: CacheFiles
  readonly bound: Bound
  readonly reads: Reads
  readonly clock: Clock
}

export class Fill {
  readonly #files: CacheFiles
  readonly #bound: Bound
  readonly #reads: Reads
  readonly #clock: Clock
  readonly #room: Room
  /** Measured from another number of bytes in use. */
  readonly #guestRoom: Room
  #puts = 0
  /** Room taken by what is being written. */
  #puttingBytes = 0
  #offUntil = Number.NEGATIVE_INFINITY
  #offBecause: string | undefined

  constructor({ files, bound, reads, clock }: FillOptions) {
    this.#files = files
    this.#bound = bound
    this.#reads = reads
    this.#clock = clock
    this.#room = new Room(files, clock)
    this.#guestRoom = new Room(files, clock)
  }

  /** Why nothing is kept at present; undefined: it is. */
  get offBecause(): string | undefined {
    return this.#clock.now() < this.#offUntil ? this.#offBecause : undefined
  }

  /** Keeps an entry; resolves to whether it is there now. Rejects with nothing but what `check` throws. */
  async put(id: string, sealed: Uint8Array, owner: Ownership, check: () => void): Promise<boolean> {
    const bytes = blocksOf(sealed.length) * BLOCK_BYTES
    if (this.#puts >= PUTS_MAX || this.#puttingBytes + bytes > PUT_BYTES_MAX) return false
    this.#puts++
    this.#puttingBytes += bytes
    try {
      if (await this.#holds(id, sealed, owner)) return true
      if (bytes > this.#bound.partBytes || this.offBecause !== undefined || !(await this.#makeRoom(owner))) return false
      await this.#files.write(this.#files.entryPath(id), sealed, check)
      owner.wrote(id, sealed.length, bytes)
      return true
    } catch (error) {
      check()
      this.#turnOff(error)
      return false
    } finally {
      this.#puts--
      this.#puttingBytes -= bytes
    }
  }

  /** For every turn of the owner: evicts what is too much by now, because others filled, here or elsewhere on the disk. Raw errors of `node:fs`. */
  async trim(catalog: Catalog): Promise<void> {
    this.#room.forget()
    await this.#evictTo(catalog, await this.#room.limit(catalog.bytes, this.#bound.bytes), Number.POSITIVE_INFINITY)
  }

  async #holds(id: string, sealed: Uint8Array, { catalog, whole }: Ownership): Promise<boolean> {
    if (whole !== undefined && !whole.has(id)) return false
    if (!(await this.#reads.holds(this.#files.entryPath(id), sealed).catch(() => false))) return false
    catalog?.touch(id)
    return true
  }

  /** Whether there is room for all that is being written. */
  async #makeRoom(owner: Ownership): Promise<boolean> {
    if (owner.whole === undefined) {
      if (await this.#hasGuestRoom(owner)) return true
      // Whoever has just opened the folder may be about to know what it holds.
      await owner.looked
    }
    const { whole } = owner
    if (whole === undefined) return await this.#hasGuestRoom(owner)
    const limit = await this.#room.limit(whole.bytes, this.#bound.bytes)
    if (this.#puttingBytes > limit) return false
    await this.#evictTo(whole, limit, EVICTED_MAX)
    return whole.bytes + this.#puttingBytes <= limit
  }

  async #hasGuestRoom({ guestBytes, guestBytesMax }: Ownership): Promise<boolean> {
    const limit = await this.#guestRoom.limit(guestBytes, guestBytesMax)
    return guestBytes + this.#puttingBytes <= limit
  }

  /** What cannot be removed still counts, and another one goes in its place. Fails if there is too much in the end. */
  async #evictTo(catalog: Catalog, limitBytes: number, entriesMax: number): Promise<void> {
    const isTooMuch = (): boolean => catalog.bytes + this.#puttingBytes > limitBytes
    let left = Math.min(entriesMax, catalog.entries)
    const next = (): CatalogEntry | undefined => (left-- > 0 && isTooMuch() ? catalog.dropOldest() : undefined)
    let failure: unknown
    const evict = async (): Promise<void> => {
      for (let entry = next(); entry !== undefined; entry = next()) {
        const { id, bytes } = entry
        await this.#files.remove(this.#files.entryPath(id)).catch(error => {
          failure = error
          catalog.add(id, bytes)
        })
      }
    }
    await Promise.all(Array.from({ length: UNLINKS_AT_ONCE }, evict))
    if (failure !== undefined && isTooMuch()) throw failure
  }

  /** A missing file is somebody who cleared the folder meanwhile, not a fault of the disk. */
  #turnOff(error: unknown): void {
    if (hasErrno(error, 'ENOENT')) return
    this.#offUntil = this.#clock.now() + OFF_MS
    this.#offBecause = error instanceof Error ? error.message : String(error)
    this.#room.forget()
    this.#guestRoom.forget()
  }
}
