/**
 * The private writes of one restore to one image, as the thread that serves it sees them: a state a page in shared memory, and the bytes of written pages in a sparse file, each
 * where it lies in the image. Synchronous throughout: a write of a page is one pwrite, and allocates nothing.
 *
 * Invariants
 * - One thread writes, any thread reads.
 * - A page is `written` only once its bytes are in the file. A write that fails leaves the pages and their states as they were.
 * - A page is `lost` if its writer was told that it was written, and its bytes are gone. Only a write of all of it, or zeroing it, ends that; that the image lost a page stays known.
 * - Changes are counted when they begin, and those under way are counted too: who reads all of it on another thread (a commit) sees that something was changed meanwhile, or is being changed.
 * - The budget is one for all images of a restore: pages that are `written`.
 *
 * Not by mmap: a full disk would be a SIGBUS for the process in place of an error for one write. Nothing is synced: what a guest flushes has to outlive the guest, not the machine, since the
 * restore itself does not.
 */
import assert from 'node:assert/strict'
import { readSync, writeSync } from 'node:fs'
import { PAGE_BYTES, pageCount } from '../chunk.ts'
import { fromErrno, ThawError } from '../errors.ts'
import type { Native } from '../util/native.ts'
import { isZero, PAGE_STATE, PageStates } from './page-states.ts'

/** i32 in `SharedOverlay.counts`. */
export const COUNT = {
  /** Changes that were begun. Wraps. */
  changes: 0,
  /** Changes that were begun and have not ended. */
  underWay: 1,
  writtenPages: 2,
  zeroPages: 3,
  /** 0: none was ever lost. Else one more than the first page that was, or UNKNOWN_LOST. */
  firstLost: 4,
} as const
export const COUNTS: number = Object.keys(COUNT).length

/** As `firstLost`: pages may have been lost, and nobody knows which. */
const UNKNOWN_LOST = -1

/** i32 in `SharedOverlay.budget`. */
export const BUDGET = { usedPages: 0, pagesMax: 1 } as const
export const BUDGET_WORDS: number = Object.keys(BUDGET).length

/** The overlay of one image as it crosses threads: posting it copies nothing. */
export interface SharedOverlay {
  /** Of the image, for messages. */
  readonly name: string
  /** Of the image. */
  readonly sizeBytes: number
  /** u8 a page: a PAGE_STATE. */
  readonly states: SharedArrayBuffer
  /** A file of the image's size; −1: nothing is ever written, there are only states (memory behind userfaultfd). */
  readonly fd: number
  /** i32, see COUNT: of this image. */
  readonly counts: SharedArrayBuffer
  /** i32, see BUDGET: of all images of the restore. */
  readonly budget: SharedArrayBuffer
}

/** What is known of writes to an image that were lost. */
export type Damage = { readonly kind: 'page'; readonly page: number } | { readonly kind: 'unknown' }

/** Undefined: none was lost. On any thread. */
export function damageOf({ counts }: SharedOverlay): Damage | undefined {
  const first = Atomics.load(new Int32Array(counts), COUNT.firstLost)
  if (first === 0) return undefined
  return first === UNKNOWN_LOST ? { kind: 'unknown' } : { kind: 'page', page: first - 1 }
}

/** Writes may have been lost: whoever served the image ended while somebody could write to it, or the disk did not keep them. On any thread. */
export function damage({ counts }: SharedOverlay): void {
  Atomics.compareExchange(new Int32Array(counts), COUNT.firstLost, 0, UNKNOWN_LOST)
}

/** One step of `zero`: pages whose states are set, and of those the ones whose disk is given back. A step is to take less than 1 ms. */
const ZERO_PAGES_MAX = 2 ** 17
const PUNCHED_PAGES_MAX = 2 ** 11

/** <linux/falloc.h>: FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE. */
const PUNCH_HOLE = 0x01 | 0x02

export class ImageOverlay {
  readonly sizeBytes: number
  readonly #name: string
  readonly #fd: number
  readonly #states: PageStates
  readonly #counts: Int32Array
  readonly #budget: Int32Array
  readonly #native: Pick<Native, 'fallocate'> | undefined

  /** @param native gives back the disk's space of pages that become zero; without it they keep it until the overlay is closed, outside the budget. */
  constructor(shared: SharedOverlay, native?: Pick<Native, 'fallocate'>) {
    this.sizeBytes = shared.sizeBytes
    this.#name = shared.name
    this.#fd = shared.fd
    this.#states = new PageStates(shared.states)
    this.#counts = new Int32Array(shared.counts)
    this.#budget = new Int32Array(shared.budget)
    this.#native = native
  }

  /** A PAGE_STATE. */
  stateOf(page: number): number {
    return this.#states.bytes[page]!
  }

  /** How many pages from `page` on, which is before `end`, have the state of `page`: at most up to `end`, exclusive. */
  run(page: number, end: number): number {
    return this.#states.run(page, end)
  }

  /** Whether a page of it was ever lost. */
  get isDamaged(): boolean {
    return Atomics.load(this.#counts, COUNT.firstLost) !== 0
  }

  /**
   * Copies bytes [offset, offset + sizeBytes) of the image, which lie in pages that are all `written`, to `at` of `target`.
   * @throws ThawError UNAVAILABLE if the disk fails, CORRUPT if somebody cut the file
   */
  read(offset: number, sizeBytes: number, target: Uint8Array, at: number): void {
    for (let done = 0; done < sizeBytes; ) {
      const read = this.#read(offset + done, sizeBytes - done, target, at + done)
      if (read === 0)
        throw new ThawError('CORRUPT', `the overlay of image ${this.#name} was cut at byte ${offset + done}`, { object: this.#name })
      done += read
    }
  }

  /**
   * Writes whole pages; of the image's last one, what there is of it. Copies before it returns.
   * @throws ThawError NO_SPACE beyond the budget or on a full disk, UNAVAILABLE if the disk fails: nothing changed. (Pages that were `written` before keep their bytes only as far as the file system writes in
   * place: on one that copies on write, or on a broken disk, some of several may be the new ones.)
   */
  write(page: number, bytes: Uint8Array): void {
    const count = pageCount(bytes.length)
    const offset = page * PAGE_BYTES
    assert(this.#fd >= 0 && count > 0 && page >= 0)
    assert(offset + bytes.length === this.sizeBytes || (bytes.length % PAGE_BYTES === 0 && offset + bytes.length < this.sizeBytes))
    const fresh = count - this.#states.countOf(PAGE_STATE.written, page, page + count)
    this.#charge(fresh)
    this.beginChange()
    try {
      this.#writeFreshFirst(page, count, bytes, fresh)
      if (fresh > 0) this.#setState(page, count, PAGE_STATE.written)
    } catch (error) {
      this.#charge(-fresh)
      if (fresh > 0) this.#punchFresh(page, count)
      throw fromErrno(error, 'cannot write to the overlay', this.#name)
    } finally {
      this.endChange()
    }
  }

  /**
   * Pages [page, page + count) become zero, the first of them at least; what they had of the budget, and of the disk if that can be, is given back.
   * @returns how many did: a bounded amount of work
   */
  zero(page: number, count: number): number {
    assert(page >= 0 && count > 0 && page + count <= this.#states.bytes.length)
    const done = this.#zeroStep(page, count)
    this.#drop(page, done, PAGE_STATE.zero)
    return done
  }

  #zeroStep(page: number, count: number): number {
    const end = page + Math.min(count, ZERO_PAGES_MAX)
    let written = 0
    for (let at = page; at < end; ) {
      const pages = this.run(at, end)
      if (this.stateOf(at) === PAGE_STATE.written) {
        if (written + pages >= PUNCHED_PAGES_MAX) return at + PUNCHED_PAGES_MAX - written - page
        written += pages
      }
      at += pages
    }
    return end - page
  }

  /** Pages [page, page + count) are lost: whoever wrote them was told that they were written, and they could not be. */
  lose(page: number, count: number): void {
    Atomics.compareExchange(this.#counts, COUNT.firstLost, 0, page + 1)
    this.#drop(page, count, PAGE_STATE.lost)
  }

  /** What these pages have in the file is not theirs any more. */
  #drop(page: number, count: number, state: number): void {
    this.beginChange()
    try {
      const written = this.#setState(page, count, state)
      this.#charge(-written)
      if (written > 0) this.#punch(page, count)
    } finally {
      this.endChange()
    }
  }

  /** Pages that are not `written` first: they alone can fail for want of space, and their bytes are nobody's yet. The others are overwritten where they lie. */
  #writeFreshFirst(page: number, count: number, bytes: Uint8Array, fresh: number): void {
    if (fresh === 0 || fresh === count) this.#writeAt(page * PAGE_BYTES, bytes, 0, bytes.length)
    else {
      this.#writeSome(page, count, bytes, true)
      this.#writeSome(page, count, bytes, false)
    }
  }

  /** Writes the pages that are `fresh`, or those that are not. */
  #writeSome(page: number, count: number, bytes: Uint8Array, fresh: boolean): void {
    const end = page + count
    for (let at = page; at < end; ) {
      const next = at + this.run(at, end)
      const from = (at - page) * PAGE_BYTES
      const to = Math.min((next - page) * PAGE_BYTES, bytes.length)
      if ((this.stateOf(at) !== PAGE_STATE.written) === fresh) this.#writeAt(at * PAGE_BYTES, bytes, from, to)
      at = next
    }
  }

  #writeAt(offset: number, bytes: Uint8Array, from: number, to: number): void {
    for (let done = from; done < to; ) done += writeSync(this.#fd, bytes, done, to - done, offset + done - from)
  }

  #read(offset: number, sizeBytes: number, target: Uint8Array, at: number): number {
    try {
      return readSync(this.#fd, target, at, sizeBytes, offset)
    } catch (error) {
      throw fromErrno(error, 'cannot read the overlay', this.#name)
    }
  }

  /** Gives back what a write that failed had put into pages that are not `written`. */
  #punchFresh(page: number, count: number): void {
    for (let at = page; at < page + count; ) {
      const pages = this.run(at, page + count)
      if (this.stateOf(at) !== PAGE_STATE.written) this.#punch(at, pages)
      at += pages
    }
  }

  /** That it fails costs disk, and nothing else: nobody reads these bytes. */
  #punch(page: number, count: number): void {
    this.#native?.fallocate(this.#fd, PUNCH_HOLE, page * PAGE_BYTES, count * PAGE_BYTES)
  }

  /** @returns how many of them were `written` */
  #setState(page: number, count: number, state: number): number {
    let written = 0
    let zero = 0
    for (let at = page; at < page + count; ) {
      const pages = this.run(at, page + count)
      if (this.stateOf(at) === PAGE_STATE.written) written += pages
      else if (isZero(this.stateOf(at))) zero += pages
      at += pages
    }
    this.#states.bytes.fill(state, page, page + count)
    Atomics.add(this.#counts, COUNT.writtenPages, (state === PAGE_STATE.written ? count : 0) - written)
    Atomics.add(this.#counts, COUNT.zeroPages, (state === PAGE_STATE.zero ? count : 0) - zero)
    return written
  }

  #charge(pages: number): void {
    if (pages === 0) return
    const used = Atomics.add(this.#budget, BUDGET.usedPages, pages) + pages
    if (pages < 0 || used <= this.#budget[BUDGET.pagesMax]!) return
    Atomics.sub(this.#budget, BUDGET.usedPages, pages)
    const message = `the restore's overlay is full: ${this.#budget[BUDGET.pagesMax]} pages of ${PAGE_BYTES} bytes are all it may hold`
    throw new ThawError('NO_SPACE', message, { object: this.#name })
  }

  /** A change is under way until `endChange`: for those that take several turns. */
  beginChange(): void {
    Atomics.add(this.#counts, COUNT.underWay, 1)
    Atomics.add(this.#counts, COUNT.changes, 1)
  }

  endChange(): void {
    Atomics.sub(this.#counts, COUNT.underWay, 1)
  }
}
