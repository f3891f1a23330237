/**
 * Who evicts. Of the caches that share a folder, in one process or in several, one owns the order and
 * keeps the bound; the others are guests: they read and fill, and find entries by opening them. What
 * guests read does not count as use.
 *
 * The owner holds a lock of the kernel (util/lock-file.ts), so a folder whose owner died is free at
 * once, and the next guest takes it. A turn comes every half minute: a guest tries to become the
 * owner; the owner looks what others filled, keeps the bound, and says so in the lock's file. What it
 * says is the guests' leave to write once more. An owner that is stopped, or whose disk hangs, gives
 * none, so a folder that nobody looks after does not grow.
 */
import type { Clock } from '../util/clock.ts'
import { type LockFile, tryLockFile } from '../util/lock-file.ts'
import type { Bound } from './disk-bound.ts'
import { Catalog } from './disk-catalog.ts'
import { type CacheFiles, isUnreadable, readSmall } from './disk-files.ts'
import { readIndex, writeIndex } from './disk-index.ts'
import { reconcile, removeAbandoned } from './disk-scan.ts'

const TURN_MS = 30_000
/** Ten minutes: what a crash forgets of the order. */
const TURNS_PER_INDEX = 20

interface OwnershipOptions {
  readonly files: CacheFiles
  readonly bound: Bound
  readonly clock: Clock
  /** Throws once the cache is closed. */
  readonly check: () => void
  /** Evicts what is too much; called by the owner in every turn. */
  readonly trim: (catalog: Catalog) => Promise<void>
}

/** What an owner says in its lock's file. */
interface Word {
  readonly pid: number
  /** Counts its turns; 0: it has not seen the whole folder yet. */
  readonly turn: number
  /** What entries take. */
  readonly bytes: number
}

export class Ownership {
  readonly #files: CacheFiles
  readonly #bound: Bound
  readonly #clock: Clock
  readonly #check: () => void
  readonly #trim: (catalog: Catalog) => Promise<void>
  #lock: LockFile | undefined
  #catalog: Catalog | undefined
  /** Whether the index was read. */
  #indexed = false
  #complete = false
  #turns = 0
  /** The owner's word that gave a guest its last leave. */
  #heard = ''
  #guestBytes = 0
  #guestBytesMax: number
  #failure: string | undefined
  readonly #claimed = Promise.withResolvers<void>()
  #turning: Promise<void> = Promise.resolve()
  #looked: Promise<void> = Promise.resolve()
  #callOff: (() => void) | undefined

  constructor({ files, bound, clock, check, trim }: OwnershipOptions) {
    this.#files = files
    this.#bound = bound
    this.#clock = clock
    this.#check = check
    this.#trim = trim
    this.#guestBytesMax = bound.partBytes
  }

  /** What the folder holds, as far as its owner knows by now; undefined for a guest. */
  get catalog(): Catalog | undefined {
    return this.#catalog
  }

  /** What the folder holds, once its owner has seen all of it. */
  get whole(): Catalog | undefined {
    return this.#complete ? this.#catalog : undefined
  }

  /** Settles once it is known who owns the folder. */
  get claimed(): Promise<void> {
    return this.#claimed.promise
  }

  /** Why nobody here can look after the folder, if that is so. */
  get failure(): string | undefined {
    return this.#failure
  }

  /** What was written since the last leave by one who does not know what the folder holds. */
  get guestBytes(): number {
    return this.#guestBytes
  }

  /** The most that may be. */
  get guestBytesMax(): number {
    return this.#guestBytesMax
  }

  /** Counts what was written, by whichever role. */
  wrote(id: string, sizeBytes: number, takenBytes: number): void {
    this.#catalog?.add(id, sizeBytes)
    if (!this.#complete) this.#guestBytes += takenBytes
  }

  /** Takes the first turn, after which the cache is owner or guest. Never rejects. */
  start(): Promise<void> {
    this.#turning = this.#turn()
    this.#looked = this.#turning
    return this.#turning
  }

  /** Settles when the first turn is over. */
  get looked(): Promise<void> {
    return this.#looked
  }

  /** The process that owns the folder. */
  async ownerPid(): Promise<number | undefined> {
    return (await readWord(this.#files))?.pid
  }

  /** Leaves the folder to the next, with the order. After `check` began to throw. */
  async close(): Promise<void> {
    this.#callOff?.()
    await this.#turning
    const catalog = this.whole
    this.#forget()
    try {
      if (this.#lock?.isNamed && catalog !== undefined) await writeIndex(this.#files, catalog)
    } catch {
      // The next owner looks at the files instead.
    } finally {
      this.#lock?.release({ remove: true })
    }
  }

  async #turn(): Promise<void> {
    try {
      await this.#bound.read()
      await this.#bound.raise().catch(() => undefined)
      await this.#claim()
      this.#claimed.resolve()
      if (this.#lock === undefined) await this.#listen()
      else await this.#lookAfter(this.#lock)
      this.#failure = undefined
    } catch (error) {
      // A folder that cannot be read or written now is tried again in the next turn.
      this.#failure = error instanceof Error ? error.message : String(error)
    }
    this.#claimed.resolve()
    try {
      this.#check()
    } catch {
      return
    }
    this.#callOff = this.#clock.after(TURN_MS, () => {
      this.#turning = this.#turn()
    })
  }

  async #claim(): Promise<void> {
    if (this.#lock?.isNamed) return
    // Somebody removed the file, and another may own the folder by now.
    this.#lock?.release()
    this.#lock = undefined
    this.#forget()
    this.#lock = await this.#files.withFolders(() => this.#tryLock())
    if (this.#lock === undefined) return
    this.#catalog = new Catalog()
    this.#indexed = false
  }

  async #tryLock(): Promise<LockFile | undefined> {
    const path = this.#files.ownerPath
    try {
      return await tryLockFile(path)
    } catch (error) {
      // What cannot be locked would keep the folder without an owner for ever.
      if (!isUnreadable(error)) throw error
      await this.#files.remove(path)
      return await tryLockFile(path)
    }
  }

  #forget(): void {
    this.#catalog = undefined
    this.#complete = false
  }

  async #lookAfter(lock: LockFile): Promise<void> {
    const catalog = this.#catalog!
    if (!this.#indexed) {
      this.#say(lock, 0)
      await readIndex(this.#files, catalog, this.#check)
      this.#indexed = true
    }
    await reconcile(this.#files, catalog, { check: this.#check, entryBytesMax: this.#bound.entryBytesMax })
    await this.#bound.settle(catalog.bytes).catch(() => undefined)
    this.#complete = true
    await this.#trim(catalog)
    this.#turns++
    this.#say(lock, catalog.bytes)
    await removeAbandoned(this.#files)
    if (this.#turns % TURNS_PER_INDEX === 0) await writeIndex(this.#files, catalog, this.#check)
  }

  #say(lock: LockFile, bytes: number): void {
    try {
      lock.write(`${process.pid} ${this.#turns} ${bytes}\n`)
    } catch {
      // On a disk that is read-only or full nobody writes anyway.
    }
  }

  /** A guest's turn: takes the owner's leave, if it gave one since the last. */
  async #listen(): Promise<void> {
    const word = await readWord(this.#files)
    const heard = JSON.stringify(word)
    if (word === undefined || word.turn === 0 || heard === this.#heard) return
    this.#heard = heard
    this.#guestBytes = 0
    const { bytes, partBytes } = this.#bound
    this.#guestBytesMax = word.bytes > bytes + partBytes ? 0 : partBytes
  }
}

async function readWord(files: CacheFiles): Promise<Word | undefined> {
  const [pid, turn, bytes] =
    /^([1-9]\d*) (\d+) (\d+)\n$/
      .exec((await readSmall(files.ownerPath)) ?? '')
      ?.slice(1)
      .map(Number) ?? []
  return pid === undefined || turn === undefined || bytes === undefined ? undefined : { pid, turn, bytes }
}
