/**
 * Who evicts. Of the caches that share a folder, in one process or in several, one owns the order and keeps the bound; the others are guests: they read and fill,
 * and find entries by opening them. What guests read does not count as use.
 *
 * A turn comes every half minute. The owner shows that it lives and looks what others filled; a guest tries to become the owner. A lock file says who it
 * is (util/lock-file.ts). Its holder is gone if its process is dead, or if the file's time stood still for three turns: process ids mean nothing from one
 * container to the next, and numbers are used again. A holder that was only stopped sees in its next turn that it lost the folder; two who evict for so
 * long do no harm, since any file may go at any time.
 */
import { readFile, stat, utimes } from 'node:fs/promises'
import { ifThere } from '../store/directory-files.ts'
import type { Clock } from '../util/clock.ts'
import { breakLock, type Holder, readHolder, tryLockFile } from '../util/lock-file.ts'
import type { CacheFiles } from './disk-files.ts'
import { decodeIndex, encodeIndex } from './disk-index.ts'
import type { Order } from './disk-order.ts'
import { reconcile, removeAbandoned, unlinkIfThere } from './disk-scan.ts'

const TURN_MS = 30_000
const STILL_TURNS_MAX = 3
/** Ten minutes: what a crash forgets of the order. */
const TURNS_PER_INDEX = 20

interface OwnershipOptions {
  readonly files: CacheFiles
  readonly clock: Clock
  /** Throws once the cache is closed. */
  readonly check: () => void
  /** Called at the end of every turn. */
  readonly onTurn: () => Promise<void>
}

export class Ownership {
  readonly #files: CacheFiles
  readonly #clock: Clock
  readonly #check: () => void
  readonly #onTurn: () => Promise<void>
  #mine: Holder | undefined
  #order: Order | undefined
  #turns = 0
  /** What the lock of another looked like, and for how many turns. */
  #seen = ''
  #stillTurns = 0
  #turning: Promise<void> = Promise.resolve()
  #callOff: (() => void) | undefined

  constructor({ files, clock, check, onTurn }: OwnershipOptions) {
    this.#files = files
    this.#clock = clock
    this.#check = check
    this.#onTurn = onTurn
  }

  /** What the folder holds, for the owner of it; undefined for a guest. */
  get order(): Order | undefined {
    return this.#order
  }

  /** Takes the first turn: afterwards the cache is owner or guest. Never rejects. */
  start(): Promise<void> {
    this.#turning = this.#turn()
    return this.#turning
  }

  /** The process that owns the folder. */
  async ownerPid(): Promise<number | undefined> {
    return (await readHolder(this.#files.ownerPath))?.pid
  }

  /** Leaves the folder to the next, with the order. After `check` began to throw. */
  async close(): Promise<void> {
    this.#callOff?.()
    await this.#turning
    const order = this.#order
    this.#order = undefined
    try {
      if (!(await this.#isMine())) return
      if (order !== undefined) await this.#files.write(this.#files.indexPath, encodeIndex(order))
    } catch {
      // The next owner looks at the files instead.
    } finally {
      if (await this.#isMine().catch(() => false)) await unlinkIfThere(this.#files.ownerPath).catch(() => undefined)
    }
  }

  async #turn(): Promise<void> {
    try {
      if (await this.#isMine()) await this.#showLife()
      else await this.#claim()
      if (this.#mine !== undefined) await this.#lookAround()
      await this.#onTurn()
    } catch {
      // A folder that cannot be read or written now is tried again in the next turn.
    }
    try {
      this.#check()
    } catch {
      return
    }
    this.#callOff = this.#clock.after(TURN_MS, () => {
      this.#turning = this.#turn()
    })
  }

  async #isMine(): Promise<boolean> {
    if (this.#mine === undefined) return false
    return (await readHolder(this.#files.ownerPath))?.token === this.#mine.token
  }

  /** A time that was never there before; which one does not matter. */
  #showLife(): Promise<void> {
    return utimes(this.#files.ownerPath, this.#turns, this.#turns)
  }

  async #claim(): Promise<void> {
    this.#order = undefined
    this.#mine = await tryLockFile(this.#files.ownerPath)
    if (this.#mine === undefined) await this.#watch()
  }

  async #watch(): Promise<void> {
    const [holder, stats] = [await readHolder(this.#files.ownerPath), await ifThere(stat(this.#files.ownerPath))]
    const seen = `${holder?.token} ${stats?.mtimeMs}`
    this.#stillTurns = seen === this.#seen ? this.#stillTurns + 1 : 0
    this.#seen = seen
    if (this.#stillTurns < STILL_TURNS_MAX) return
    // One without a holder was torn by a power cut.
    await (holder === undefined ? unlinkIfThere(this.#files.ownerPath) : breakLock(this.#files.ownerPath, holder))
  }

  async #lookAround(): Promise<void> {
    const order = this.#order ?? (await decodeIndex((await ifThere(readFile(this.#files.indexPath))) ?? Buffer.alloc(0)))
    await reconcile(this.#files, order, this.#check)
    this.#order = order
    await removeAbandoned(this.#files)
    if (++this.#turns % TURNS_PER_INDEX === 0) await this.#files.write(this.#files.indexPath, encodeIndex(order))
  }
}
