/**
 * Serves the page faults of one VMM: finds where a page lies, installs it from there, and keeps what cannot be served yet.
 *
 *     fault ─▶ given back by the guest, or zero in the image ─▶ ZEROPAGE
 *           ├▶ in the arena ─▶ COPY from its slot, with what follows if the guest will touch that too
 *           ├▶ not in memory ─▶ wanted of the engine ─▶ served when it comes; cannot be had ─▶ the VMM must die
 *           └▶ the kernel says EAGAIN ─▶ tried again soon
 *
 * A page that the guest gave back (a balloon's madvise) reads as zero from then on. The kernel tells of it before it takes the page away, and installs nothing while it has
 * not been read that message: what COPY put there before goes with the removal, what comes after is served by what `remove` noted. So the order of messages does not matter,
 * only that whoever copies looks at the notes at that moment, and that one thread does both.
 *
 * Nothing is allocated for a page that is in memory.
 */
import { ABSENT } from '../../arena.ts'
import { PAGE_BYTES } from '../../chunk.ts'
import type { ErrorCode, Tier } from '../../errors.ts'
import { ZERO } from '../../pagemap.ts'
import { callLater } from '../../pager/call-later.ts'
import type { ChunkWaiter, PagerLoop, ServedFaults, ServedImage } from '../../pager.ts'
import { ERRNO, type Native } from '../../util/native.ts'
import { HugePages, NO_ROOM, UNDER_WAY } from './huge-pages.ts'
import type { Userfaultfd } from './kernel.ts'
import type { Region, Regions } from './regions.ts'
import { Streams } from './streams.ts'
import { QUEUED, SOON, Waiting } from './waiting.ts'

/** Pieces of a range that the image is told of one by one. */
const PIECES_TOLD = 64
/** Zero pages that are installed at once: they take no memory but page tables. */
const ZEROS_AT_ONCE = 128
/** Pages installed ahead of the guest in one turn of the pager: others wait meanwhile. */
const AHEAD_A_TURN = 256
/** Tries in a row without a pause, then with longer and longer ones: a VMM that is stopped in the middle of a removal must cost nothing. */
const TRIES_AT_ONCE = 100
const PAUSE_MS_MAX = 16
/** How long the kernel may lack memory for a page: the guest's control group is full. */
const MEMORY_DEADLINE_MS = 30_000

/** In place of an address to copy from. */
const ZEROS = 0
/** Outcomes of `#put` besides a number of pages. */
const AGAIN = 0
const OVER = -1

/** Why a VMM cannot be served any more. */
export interface FaultFailure {
  readonly reason: string
  /** The page of the image that could not be had. */
  readonly page?: number
  readonly code?: ErrorCode | undefined
}

export interface FaultsOptions {
  readonly native: Native
  readonly uffd: Userfaultfd
  readonly image: ServedImage
  readonly pages: ServedFaults
  readonly regions: Regions
  readonly loop: PagerLoop
  readonly neighbours: number
  /** Called once at most. The VMM must die: it waits for a page that it will not get. */
  onFailure(failure: FaultFailure): void
  /** A callback threw: a bug. */
  onBroken(error: unknown): void
}

export class Faults implements ChunkWaiter {
  readonly #uffd: Userfaultfd
  readonly #pages: ServedFaults
  readonly #regions: Regions
  readonly #loop: PagerLoop
  readonly #neighbours: number
  readonly #options: FaultsOptions
  readonly #waiting = new Waiting()
  readonly #streams = new Streams()
  readonly #huge: HugePages
  #aheadLeft = AHEAD_A_TURN
  #tries = 0
  #stopRetry: (() => void) | undefined
  /** Since when the kernel has had no memory for this guest. */
  #shortSince: number | undefined
  #isOver = false

  constructor(options: FaultsOptions) {
    this.#options = options
    this.#uffd = options.uffd
    this.#pages = options.pages
    this.#regions = options.regions
    this.#loop = options.loop
    this.#neighbours = options.neighbours
    this.#huge = new HugePages(options.native, options.image, options.pages, {
      onReady: address => this.#serveReady(address),
      onFailed: (address, code) => this.#unreadable(address, code),
      onBroken: error => this.onBroken(error),
    })
  }

  beginTurn(): void {
    this.#aheadLeft = AHEAD_A_TURN
  }

  /** Somebody waits for the page at this address. */
  serve(address: number): void {
    this.#serveFrom(address, ZERO, ABSENT)
  }

  /** `givenSlot` holds `givenChunk`, or is ABSENT. */
  #serveFrom(address: number, givenChunk: number, givenSlot: number): void {
    if (this.#isOver) return
    const region = this.#regions.at(address)
    if (region === undefined) {
      this.#fail({ reason: 'a page fault outside of the regions of its handshake' })
      return
    }
    const page = region.pageAt(address)
    if (region.pageBytes !== PAGE_BYTES) this.#serveHuge(region, page)
    else if (region.isRemoved(page)) this.#placeZeros(region, page, 1)
    else this.#serveFromImage(region, page, givenChunk, givenSlot)
  }

  #serveFromImage(region: Region, page: number, givenChunk: number, givenSlot: number): void {
    const { reader } = this.#pages
    const { chunk, first, count } = reader.locate(region.firstPage + page)
    if (chunk === ZERO) this.#placeZeros(region, page, Math.min(count, ZEROS_AT_ONCE))
    else if (chunk === givenChunk && givenSlot !== ABSENT) {
      const done = this.#place(region, page, givenSlot, first, count)
      if (done > 0) this.#pages.countMiss(done, performance.now() - this.#waiting.takenSince)
    } else {
      const slot = reader.pin(chunk)
      if (slot === ABSENT) this.#want(region.addressOf(page), chunk)
      else {
        const done = this.#place(region, page, slot, first, count)
        if (done > 0) this.#pages.countHit(done)
        reader.unpin(slot)
      }
    }
  }

  #want(address: number, chunk: number): void {
    this.#wait(address, chunk)
    if (!this.#isOver) this.#pages.want(chunk, this)
  }

  /** Installs a page from a slot in which `count` pages of the image follow each other from `first` on. Returns as `#put`. */
  #place(region: Region, page: number, slot: number, first: number, count: number): number {
    const stretch = Math.max(this.#neighbours, this.#streams.stretchAt(region.firstPage + page))
    const ahead = Math.min(stretch, count - 1, this.#aheadLeft)
    const pages = ahead === 0 ? 1 : 1 + region.countFresh(page + 1, ahead)
    const done = this.#put(region, page, pages, this.#pages.addressOf(slot, first))
    if (done > 0) {
      this.#aheadLeft -= done - 1
      this.#streams.reached(region.firstPage + page + done)
    }
    return done
  }

  #placeZeros(region: Region, page: number, count: number): void {
    const pages = count === 1 ? 1 : 1 + region.countFresh(page + 1, count - 1)
    const done = this.#put(region, page, pages, ZEROS)
    if (done > 0) this.#pages.countZeros(done)
  }

  /**
   * Installs pages from `page` on, which somebody waits for; those behind it only as far as nothing is in the way.
   * @returns how many pages are there now; AGAIN: none, it will be tried again; OVER
   */
  #put(region: Region, page: number, count: number, from: number): number {
    let done = 0
    let end = count
    while (done < end) {
      const to = region.addressOf(page + done)
      const sizeBytes = (end - done) * PAGE_BYTES
      const result = from === ZEROS ? this.#uffd.zero(to, sizeBytes) : this.#uffd.copy(to, from + done * PAGE_BYTES, sizeBytes)
      if (result > 0) {
        region.place(page + done, result / PAGE_BYTES)
        done += result / PAGE_BYTES
      } else if (result === -ERRNO.EEXIST) {
        region.place(page + done, 1)
        done++
        // Whoever waits for it began to before it came, and nobody woke him if it came by another way.
        if (done === 1) this.#uffd.wake(to, PAGE_BYTES)
      } else if (done > 0) break
      // The mapping was split on the way: the page alone is in one part of it.
      else if (result === -ERRNO.ENOENT && end > 1) end = 1
      else return this.#refused(-result, to, region.pageBytes)
    }
    this.#tries = 0
    this.#shortSince = undefined
    return done
  }

  /** The kernel did not take the page that somebody waits for. */
  #refused(errno: number, address: number, sizeBytes: number): number {
    switch (errno) {
      case ERRNO.ENOENT:
        // It is not ours any more: unregistered, or unmapped. Who waits for it finds that out himself.
        this.#uffd.wake(address, sizeBytes)
        return OVER
      case ERRNO.ESRCH:
      case ERRNO.ENOSPC:
        // The process is ending: its pidfd will say so. ENOSPC is what kernels before 4.13 said.
        return OVER
      case ERRNO.ENOMEM:
        this.#shortSince ??= performance.now()
        if (performance.now() - this.#shortSince > MEMORY_DEADLINE_MS) break
        this.#wait(address, SOON)
        return AGAIN
      case ERRNO.EAGAIN:
        this.#wait(address, SOON)
        return AGAIN
    }
    this.#fail({ reason: `the kernel took no page for it: errno ${errno}` })
    return OVER
  }

  #serveHuge(region: Region, page: number): void {
    const address = region.addressOf(page)
    const from = this.#huge.find(region, page)
    if (from === NO_ROOM) this.#wait(address, QUEUED)
    if (from === NO_ROOM || from === UNDER_WAY) return
    const result = this.#uffd.copy(address, from, region.pageBytes)
    if (result === -ERRNO.EEXIST) this.#uffd.wake(address, region.pageBytes)
    else if (result < 0 && this.#refused(-result, address, region.pageBytes) === AGAIN) return
    if (result > 0 || result === -ERRNO.EEXIST) this.#placedHuge(region, page)
    this.#huge.release(address)
  }

  #placedHuge(region: Region, page: number): void {
    const pages = region.pageBytes / PAGE_BYTES
    this.#tries = 0
    this.#shortSince = undefined
    region.place(page, pages)
    if (region.isRemoved(page)) this.#pages.countZeros(pages)
  }

  /** A huge page has been put together; its buffer is then free for one that waits for one. */
  #serveReady(address: number): void {
    this.serve(address)
    this.#serveQueued()
  }

  #serveQueued(): void {
    const waiting = this.#waiting
    for (let place = waiting.take(QUEUED, waiting.count); place >= 0; place = waiting.take(QUEUED, place)) this.serve(this.#waiting.taken)
  }

  /** The guest gives pages back: addresses [start, end). */
  remove(start: number, end: number): void {
    for (const region of this.#regions.all) {
      const from = Math.max(start, region.address)
      const to = Math.min(end, region.end)
      if (from >= to) continue
      const page = region.pageAt(from)
      const count = Math.ceil((to - region.address) / PAGE_BYTES) - page
      this.#remember(region, page, page + count)
      region.remove(page, count)
    }
  }

  /**
   * Tells the image of pages [from, end) that were not given back before: telling costs time for each page, and a guest whose balloon is out of hand gives the same ones back
   * again and again. Those in many pieces are told of as one.
   */
  #remember(region: Region, from: number, end: number): void {
    let start = region.nextRemoved(false, from, end)
    for (let pieces = 1; start < end; pieces++) {
      const until = pieces === PIECES_TOLD ? end : region.nextRemoved(true, start, end)
      this.#pages.markZero(region.firstPage + start, until - start)
      start = region.nextRemoved(false, until, end)
    }
  }

  onChunk(chunk: number, slot: number, tier: Tier): void {
    this.#pages.countChunk(tier)
    this.beginTurn()
    const waiting = this.#waiting
    for (let place = waiting.take(chunk, waiting.count); place >= 0; place = waiting.take(chunk, place))
      this.#serveFrom(this.#waiting.taken, chunk, slot)
  }

  onChunkFailed(chunk: number, code: ErrorCode | undefined): void {
    if (this.#waiting.take(chunk, this.#waiting.count) < 0) return
    this.#pages.countFailure()
    this.#unreadable(this.#waiting.taken, code)
  }

  onBroken(error: unknown): void {
    this.#options.onBroken(error)
  }

  /** Never zeros in its place: whoever touches the page from now on gets SIGBUS, and then the VMM is killed. */
  #unreadable(address: number, code: ErrorCode | undefined): void {
    const region = this.#regions.at(address)!
    const page = region.firstPage + region.pageAt(address)
    this.#uffd.poison(address, region.pageBytes)
    this.#fail({ reason: `page ${page} of its memory could not be had: ${code ?? 'a bug'}`, page, code })
  }

  #wait(address: number, reason: number): void {
    if (!this.#waiting.add(address, reason)) this.#fail({ reason: 'more pages are waited for than a VMM has threads' })
    else if (reason === SOON) this.#retrySoon()
  }

  #retrySoon(): void {
    if (this.#stopRetry !== undefined || this.#isOver) return
    const pauses = Math.max(0, this.#tries++ - TRIES_AT_ONCE)
    const pauseMs = Math.min(pauses, PAUSE_MS_MAX)
    this.#stopRetry = this.#loop.after(pauseMs, () => {
      this.#stopRetry = undefined
      callLater(this, () => this.#retry())
    })
  }

  #retry(): void {
    this.beginTurn()
    const waiting = this.#waiting
    for (let place = waiting.take(SOON, waiting.count); place >= 0; place = waiting.take(SOON, place)) this.serve(this.#waiting.taken)
    this.#serveQueued()
  }

  #fail(failure: FaultFailure): void {
    if (this.#isOver) return
    this.close()
    this.#options.onFailure(failure)
  }

  /** Nothing is installed any more. Idempotent. */
  close(): void {
    this.#isOver = true
    this.#stopRetry?.()
    this.#stopRetry = undefined
    this.#waiting.clear()
    this.#pages.forget(this)
    this.#huge.close()
  }
}
