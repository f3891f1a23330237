/**
 * One image of one restore as its pager serves it: pages of the overlay where there are any, else of the snapshot, from the arena or after a wait.
 *
 * The same code serves on a pager's thread, where chunks come by a line, and on a thread with an event loop (main-images.ts), where they come by promises.
 */
import { ABSENT, type Arena } from '../arena.ts'
import { PAGE_BYTES } from '../chunk.ts'
import { type ErrorCode, isThawError, type Tier } from '../errors.ts'
import type { ImageKind } from '../manifest.ts'
import { ImageOverlay, PAGE_STATE, type SharedOverlay } from '../overlay/image-overlay.ts'
import { ZERO } from '../pagemap.ts'
import {
  type ChunkWaiter,
  type PagedImage,
  type ReadCallbacks,
  type ServedImage,
  type Stretch,
  TRANSFER_BYTES_MAX,
  type WriteCallbacks,
} from '../pager.ts'
import { ImageReader } from '../reader.ts'
import type { Native } from '../util/native.ts'
import { ImageCounters } from './figures.ts'
import { GatheredBytes, type PlacedMemory, placed } from './gathered.ts'
import { type PagePart, ParkedRead, ParkedWrite, type ParkingImage } from './parked.ts'
import { Staging } from './staging.ts'
import type { Wants } from './wants.ts'

/** Pages of a transfer that does not begin at one: the most pieces it can have. */
const PIECES_MAX = TRANSFER_BYTES_MAX / PAGE_BYTES + 1

/** What the images of one pager share. */
export class ImageSurroundings {
  readonly wants: Wants
  readonly arena: Arena
  readonly staging: Staging
  readonly zeros: PlacedMemory
  /** A page that is put together to be written. */
  readonly page: Buffer = Buffer.alloc(PAGE_BYTES)
  readonly native: Native | undefined
  /** Address of each segment of the arena. */
  readonly #segments: readonly PlacedMemory[]
  readonly #gathered: GatheredBytes[] = []

  constructor(wants: Wants, native: Native | undefined) {
    this.wants = wants
    this.arena = wants.arena
    this.native = native
    this.staging = new Staging(native)
    this.zeros = placed(Buffer.from(new ArrayBuffer(TRANSFER_BYTES_MAX)), native)
    this.#segments = this.arena.segments.map(segment => placed(segment, native))
  }

  segmentOf(slot: number): PlacedMemory {
    return this.#segments[this.arena.segmentOf(slot)]!
  }

  takeGathered(): GatheredBytes {
    return this.#gathered.pop() ?? new GatheredBytes(this.arena, PIECES_MAX)
  }

  giveBackGathered(gathered: GatheredBytes): void {
    gathered.release()
    this.#gathered.push(gathered)
  }

  /** Memory for bytes of an overlay that a read copies; made when a restore first writes. */
  #copied: PlacedMemory | undefined
  get copied(): PlacedMemory {
    this.#copied ??= placed(Buffer.from(new ArrayBuffer(TRANSFER_BYTES_MAX)), this.native)
    return this.#copied
  }
}

/** How a stretch of bytes is changed. */
interface Change {
  /** Whole pages, but for the image's last: bytes [from, to), which begin with `page`. */
  pages(page: number, from: number, to: number): void
  /** The new bytes of part of a page. */
  part(from: number, to: number): Uint8Array
}

/** What `copyPiece` did. One object an image. */
interface CopiedPiece {
  /** The chunk it lies in, which is not there; or -1: it was copied. */
  missing: number
  /** End of the piece. */
  until: number
}

export class LiveImage implements ServedImage, ParkingImage {
  readonly name: string
  readonly kind: ImageKind
  readonly sizeBytes: number
  readonly pageCount: number
  readonly reader: ImageReader
  readonly counters: ImageCounters
  /** Requests that wait. */
  readonly parked: Set<ParkedRead | ParkedWrite> = new Set()
  readonly #around: ImageSurroundings
  readonly #image: PagedImage['image']
  #overlay: ImageOverlay | undefined
  #isWritable = false
  readonly #deadlineMs: number
  readonly #stretch: Stretch = { isZero: false, pages: 0 }
  readonly #piece: CopiedPiece = { missing: -1, until: 0 }

  constructor({ name, kind, image, overlay, figures }: PagedImage, around: ImageSurroundings, deadlineMs: number) {
    this.name = name
    this.kind = kind
    this.sizeBytes = image.sizeBytes
    this.pageCount = Math.ceil(image.sizeBytes / PAGE_BYTES)
    this.reader = new ImageReader(image, around.arena)
    this.counters = new ImageCounters(figures)
    this.#around = around
    this.#image = image
    this.#deadlineMs = deadlineMs
    this.setOverlay(overlay)
  }

  /** From now on pages may be written, or marked. */
  setOverlay(overlay: SharedOverlay | undefined): void {
    this.#overlay = overlay && new ImageOverlay(overlay, this.#around.native)
    this.#isWritable = overlay !== undefined && overlay.fd >= 0
  }

  get isWritable(): boolean {
    return this.#isWritable
  }

  get staging(): Staging {
    return this.#around.staging
  }

  read(offset: number, sizeBytes: number, callbacks: ReadCallbacks): void {
    const gathered = this.#around.takeGathered()
    let isThere: boolean
    try {
      isThere = this.#gather(offset, sizeBytes, gathered)
    } catch (error) {
      this.#around.giveBackGathered(gathered)
      if (!isThawError(error)) throw error
      this.counters.failure()
      callbacks.onReadFailed(error.code)
      return
    }
    if (isThere) {
      this.counters.hit(sizeBytes)
      this.#around.wants.countHit(sizeBytes)
      callbacks.onBytes(gathered)
    }
    this.#around.giveBackGathered(gathered)
    if (!isThere) this.#park(new ParkedRead(this, offset, sizeBytes, callbacks))
  }

  #park(request: ParkedRead | ParkedWrite): void {
    this.parked.add(request)
    request.begin()
  }

  /** Collects the pieces of a read; false if one is missing. */
  #gather(offset: number, sizeBytes: number, gathered: GatheredBytes): boolean {
    const end = offset + sizeBytes
    for (let at = offset; at < end; ) {
      const page = Math.floor(at / PAGE_BYTES)
      const { chunk, first, count } = this.reader.locate(page)
      const state = this.#stateOf(page)
      const pages = this.#overlay === undefined ? count : this.#overlay.run(page, Math.min(page + count, Math.ceil(end / PAGE_BYTES)))
      const until = Math.min((page + pages) * PAGE_BYTES, end)
      if (state === PAGE_STATE.written) {
        const { copied } = this.#around
        this.#overlay!.read(at, until - at, copied.bytes, at - offset)
        gathered.add(copied, at - offset, until - at)
      } else if (state === PAGE_STATE.zero || chunk === ZERO) gathered.add(this.#around.zeros, 0, until - at)
      else {
        const slot = this.reader.pin(chunk)
        if (slot === ABSENT) return false
        gathered.holdSlot(slot)
        const from = this.#around.arena.offsetOf(slot) + first * PAGE_BYTES + at - page * PAGE_BYTES
        gathered.add(this.#around.segmentOf(slot), from, until - at)
      }
      at = until
    }
    return true
  }

  copyPiece(at: number, end: number, target: Buffer, offset: number): CopiedPiece {
    const page = Math.floor(at / PAGE_BYTES)
    const { chunk, first, count } = this.reader.locate(page)
    const state = this.#stateOf(page)
    const pages = this.#overlay === undefined ? count : this.#overlay.run(page, Math.min(page + count, Math.ceil(end / PAGE_BYTES)))
    const until = Math.min((page + pages) * PAGE_BYTES, end)
    this.#piece.missing = -1
    this.#piece.until = until
    if (state === PAGE_STATE.written) this.#overlay!.read(at, until - at, target, offset)
    else if (state === PAGE_STATE.zero || chunk === ZERO) target.fill(0, offset, offset + until - at)
    else {
      const slot = this.reader.pin(chunk)
      if (slot === ABSENT) this.#piece.missing = chunk
      else {
        this.#around.arena.copy(slot, first * PAGE_BYTES + at - page * PAGE_BYTES, until - at, target, offset)
        this.reader.unpin(slot)
      }
    }
    return this.#piece
  }

  copyAgain(offset: number, end: number, chunk: number, slot: number, target: Buffer): void {
    for (let at = offset; at < end; ) {
      const page = Math.floor(at / PAGE_BYTES)
      const located = this.reader.locate(page)
      const { first } = located
      const isWanted = located.chunk === chunk && this.#stateOf(page) === PAGE_STATE.parent
      const pages =
        this.#overlay === undefined ? located.count : this.#overlay.run(page, Math.min(page + located.count, Math.ceil(end / PAGE_BYTES)))
      const until = Math.min((page + pages) * PAGE_BYTES, end)
      if (isWanted) this.#around.arena.copy(slot, first * PAGE_BYTES + at - page * PAGE_BYTES, until - at, target, at - offset)
      else if (this.#stateOf(page) !== PAGE_STATE.parent) this.copyPiece(at, until, target, at - offset)
      at = until
    }
  }

  giveGathered(memory: PlacedMemory, sizeBytes: number, callbacks: ReadCallbacks): void {
    const gathered = this.#around.takeGathered()
    gathered.add(memory, 0, sizeBytes)
    callbacks.onBytes(gathered)
    this.#around.giveBackGathered(gathered)
  }

  write(offset: number, bytes: Uint8Array, callbacks: WriteCallbacks): void {
    this.#change(offset, bytes.length, callbacks, {
      pages: (page, from, to) => this.#overlay!.write(page, bytes.subarray(from - offset, to - offset)),
      part: (from, to) => bytes.subarray(from - offset, to - offset),
    })
  }

  zero(offset: number, sizeBytes: number, callbacks: WriteCallbacks): void {
    this.#change(offset, sizeBytes, callbacks, {
      pages: (page, from, to) => this.#overlay!.zero(page, Math.ceil((to - from) / PAGE_BYTES)),
      part: (from, to) => this.#around.zeros.bytes.subarray(0, to - from),
    })
  }

  /** Whole pages at once, then what there is of a first and a last one. */
  #change(offset: number, sizeBytes: number, callbacks: WriteCallbacks, { pages, part }: Change): void {
    if (!this.#isWritable) {
      callbacks.onWriteFailed('DENIED')
      return
    }
    const end = offset + sizeBytes
    const first = Math.ceil(offset / PAGE_BYTES)
    const wholeFrom = Math.min(first * PAGE_BYTES, end)
    const wholeTo = end === this.sizeBytes ? end : Math.max(wholeFrom, end - (end % PAGE_BYTES))
    const waiting: PagePart[] = []
    const writePart = (from: number, to: number): void => {
      if (from === to) return
      const bytes = part(from, to)
      if (this.tryWritePart(from, bytes) >= 0) waiting.push({ offset: from, bytes: Uint8Array.from(bytes) })
    }
    const failure = this.failureOf(() => {
      if (wholeTo > wholeFrom) pages(first, wholeFrom, wholeTo)
      writePart(offset, wholeFrom)
      writePart(wholeTo, end)
    })
    this.#answerWrite(failure, waiting, sizeBytes, callbacks)
  }

  #answerWrite(failure: { readonly code: ErrorCode } | undefined, parts: PagePart[], sizeBytes: number, callbacks: WriteCallbacks): void {
    if (failure !== undefined) {
      callbacks.onWriteFailed(failure.code)
      return
    }
    this.counters.write(sizeBytes)
    if (parts.length === 0) callbacks.onWritten()
    else this.#park(new ParkedWrite(this, parts, callbacks))
  }

  tryWritePart(offset: number, bytes: Uint8Array): number {
    const page = Math.floor(offset / PAGE_BYTES)
    const start = page * PAGE_BYTES
    const end = Math.min(start + PAGE_BYTES, this.sizeBytes)
    const whole = this.#around.page
    const { missing } = this.copyPiece(start, end, whole, 0)
    if (missing >= 0) return missing
    whole.set(bytes, offset - start)
    this.#overlay!.write(page, whole.subarray(0, end - start))
    return -1
  }

  failureOf(work: () => void): { readonly code: ErrorCode } | undefined {
    try {
      work()
      return undefined
    } catch (error) {
      if (isThawError(error)) return error
      throw error
    }
  }

  cancel(who: ReadCallbacks | WriteCallbacks | ChunkWaiter): void {
    for (const parked of this.parked) if (parked.callbacks === who) parked.cancel()
    if ('onChunk' in who) this.forget(who)
  }

  stretch(page: number): Stretch {
    const { chunk, count } = this.reader.locate(page)
    const state = this.#stateOf(page)
    this.#stretch.pages = this.#overlay === undefined ? count : this.#overlay.run(page, page + count)
    this.#stretch.isZero = state === PAGE_STATE.zero || (state === PAGE_STATE.parent && chunk === ZERO)
    return this.#stretch
  }

  countDataPages(): number {
    let pages = 0
    for (let page = 0; page < this.pageCount; page += this.#stretch.pages) if (!this.stretch(page).isZero) pages += this.#stretch.pages
    return pages
  }

  addressOf(slot: number, page: number): number {
    return this.#around.segmentOf(slot).address + this.#around.arena.offsetOf(slot) + page * PAGE_BYTES
  }

  want(chunk: number, waiter: ChunkWaiter): void {
    this.#around.wants.want(this.#image.handle, chunk, waiter, this.#deadlineMs)
  }

  forget(waiter: ChunkWaiter): void {
    this.#around.wants.forget(waiter)
  }

  markZero(page: number, count: number): void {
    this.#overlay?.zero(page, count)
  }

  countHit(pages: number): void {
    this.counters.hit(pages * PAGE_BYTES)
    this.#around.wants.countHit(pages * PAGE_BYTES)
  }

  countZeros(pages: number): void {
    this.counters.zeros(pages * PAGE_BYTES)
  }

  countChunk(tier: Tier): void {
    this.counters.chunk(tier)
  }

  countMiss(pages: number, waitedMs: number): void {
    this.counters.miss(pages * PAGE_BYTES, waitedMs)
  }

  countFailure(): void {
    this.counters.failure()
  }

  #stateOf(page: number): number {
    return this.#overlay === undefined ? PAGE_STATE.parent : this.#overlay.stateOf(page)
  }
}
