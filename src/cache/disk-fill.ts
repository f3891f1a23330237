/**
 * Filling a disk cache, and making room in it.
 *
 * - Room first: what is evicted for an entry is gone before the entry is written, so the bound holds at every moment for what this cache wrote.
 * - A guest cannot evict, so it stops at an eighth of the bound between two turns: by so much at most a guest exceeds it until the owner looks around.
 * - A disk that is full, read-only or broken turns filling off for half a minute; then it is tried again. Reading goes on.
 * - What is under way is bounded, in entries and in bytes; beyond that nothing waits, it is not kept.
 */
import { hasErrno, ifThere, stat } from '../store/directory-files.ts'
import { forEachAtOnce } from '../util/at-once.ts'
import type { Clock } from '../util/clock.ts'
import { type CacheFiles, occupiedBytes } from './disk-files.ts'
import type { Order } from './disk-order.ts'
import type { Ownership } from './disk-owner.ts'
import { Room } from './disk-room.ts'
import { unlinkIfThere } from './disk-scan.ts'

const PUTS_MAX = 64
const PUT_BYTES_MAX = 32 * 2 ** 20
/** The largest entry, and what a guest may write in a turn, is one of so many parts of the bound. */
const PARTS = 8
const OFF_MS = 30_000
const UNLINKS_AT_ONCE = 16

interface FillOptions {
  readonly files: CacheFiles
  readonly sizeBytes: number
  readonly clock: Clock
}

export class Fill {
  readonly #files: CacheFiles
  readonly #sizeBytes: number
  readonly #clock: Clock
  readonly #room: Room
  #puts = 0
  /** Room taken by what is being written. */
  #puttingBytes = 0
  /** Written as a guest since the last turn. */
  #guestBytes = 0
  #offUntil = Number.NEGATIVE_INFINITY
  #offBecause: string | undefined

  constructor({ files, sizeBytes, clock }: FillOptions) {
    this.#files = files
    this.#sizeBytes = sizeBytes
    this.#clock = clock
    this.#room = new Room(files.root, clock)
  }

  /** Why nothing is kept at present; undefined: it is. */
  get offBecause(): string | undefined {
    return this.#clock.now() < this.#offUntil ? this.#offBecause : undefined
  }

  /** Keeps an entry; resolves to whether it is there now. Rejects with nothing but what `check` throws. */
  async put(id: string, sealed: Uint8Array, owner: Ownership, check: () => void): Promise<boolean> {
    if (owner.order?.touch(id) !== undefined) return true
    const bytes = occupiedBytes(sealed.length)
    if (this.#puts >= PUTS_MAX || this.#puttingBytes + bytes > PUT_BYTES_MAX || bytes > this.#sizeBytes / PARTS) return false
    this.#puts++
    this.#puttingBytes += bytes
    try {
      if (owner.order === undefined && (await ifThere(stat(this.#files.entryPath(id)))) !== undefined) return true
      if (this.offBecause !== undefined || !(await this.#makeRoom(owner.order))) return false
      await this.#files.write(this.#files.entryPath(id), sealed, check)
      if (owner.order === undefined) this.#guestBytes += bytes
      else owner.order.add(id, sealed.length)
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

  /** For every turn: evicts what is too much by now, because others filled, here or elsewhere on the disk. Raw errors of `node:fs`. */
  async trim(order: Order | undefined): Promise<void> {
    this.#guestBytes = 0
    this.#room.forget()
    if (order !== undefined) await this.#evictTo(order, await this.#room.limit(order.bytes, this.#sizeBytes))
  }

  /** Whether there is room for all that is being written. */
  async #makeRoom(order: Order | undefined): Promise<boolean> {
    if (order === undefined) {
      return this.#guestBytes + this.#puttingBytes <= (await this.#room.limit(this.#guestBytes, this.#sizeBytes / PARTS))
    }
    const limit = await this.#room.limit(order.bytes, this.#sizeBytes)
    if (this.#puttingBytes > limit) return false
    await this.#evictTo(order, limit)
    return order.bytes + this.#puttingBytes <= limit
  }

  async #evictTo(order: Order, limitBytes: number): Promise<void> {
    await forEachAtOnce(this.#surplus(order, limitBytes), UNLINKS_AT_ONCE, id => unlinkIfThere(this.#files.entryPath(id)))
  }

  *#surplus(order: Order, limitBytes: number): Generator<string> {
    while (order.bytes + this.#puttingBytes > limitBytes) {
      const id = order.dropOldest()
      if (id === undefined) return
      yield id
    }
  }

  /** A missing file is somebody who cleared the folder meanwhile, not a fault of the disk. */
  #turnOff(error: unknown): void {
    if (hasErrno(error, 'ENOENT')) return
    this.#offUntil = this.#clock.now() + OFF_MS
    this.#offBecause = error instanceof Error ? error.message : String(error)
    this.#room.forget()
  }
}
