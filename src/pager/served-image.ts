/**
 * One image of one restore as its pager serves it: pages of the overlay where there are any, else of the snapshot, from the arena or after a wait.
 *
 * The same code serves on a pager's thread, where chunks come by a line, and on a thread with an event loop (main-images.ts), where they come by promises.
 */
import { ABSENT } from '../arena.ts'
import { PAGE_BYTES } from '../chunk.ts'
import { type ErrorCode, isThawError, ThawError } from '../errors.ts'
import type { ImageKind } from '../manifest.ts'
import { ImageOverlay, type SharedOverlay } from '../overlay/image-overlay.ts'
import { isZero, PAGE_STATE } from '../overlay/page-states.ts'
import { ZERO } from '../pagemap.ts'
import type { CalledLater, ChunkWaiter, PagedImage, ReadCallbacks, ServedImage, Stretch, WriteCallbacks } from '../pager.ts'
import { ImageReader } from '../reader.ts'
import { callLater } from './call-later.ts'
import { ImageCounters } from './figures.ts'
import type { GatheredBytes, PlacedMemory } from './gathered.ts'
import { type PagePart, ParkedRead, ParkedWrite, ParkedZero, type ParkingImage } from './parked.ts'
import { type FaultedImage, LiveFaults } from './served-faults.ts'
import type { StagingBuffer } from './staging.ts'
import type { ImageSurroundings } from './surroundings.ts'
import type { WantingRestore } from './wants.ts'

/** Pages whose states one `stretch` looks at: 0.02 ms. */
const STRETCH_PAGES_MAX = 2 ** 16

/** What `copyPiece` or `lookAt` found. One object an image. */
interface Piece {
  /** The chunk it lies in, which is not there; or -1: it is. */
  missing: number
  /** End of the piece. */
  until: number
}

type Parked = ParkedRead | ParkedWrite | ParkedZero

export class LiveImage implements ServedImage, ParkingImage, FaultedImage {
  readonly name: string
  readonly kind: ImageKind
  readonly sizeBytes: number
  readonly pageCount: number
  readonly reader: ImageReader
  readonly counters: ImageCounters
  readonly restore: WantingRestore
  readonly deadlineMs: number
  readonly faults: LiveFaults
  /** Requests that wait. */
  readonly parked: Set<Parked> = new Set()
  readonly #around: ImageSurroundings
  readonly #image: PagedImage['image']
  #overlay: ImageOverlay | undefined
  #isWritable = false
  #dataPages: number | undefined
  readonly #stretch: Stretch = { isZero: false, pages: 0 }
  readonly #piece: Piece = { missing: -1, until: 0 }

  constructor({ name, kind, image, owner, overlay, figures }: PagedImage, around: ImageSurroundings, deadlineMs: number) {
    this.name = name
    this.kind = kind
    this.sizeBytes = image.sizeBytes
    this.pageCount = Math.ceil(image.sizeBytes / PAGE_BYTES)
    this.reader = new ImageReader(image, around.arena)
    this.counters = new ImageCounters(figures)
    this.#around = around
    this.#image = image
    this.restore = { handle: image.handle, owner }
    this.deadlineMs = deadlineMs
    this.setOverlay(overlay)
    this.faults = new LiveFaults(this, around)
  }

  /** From now on pages may be written, or marked. */
  setOverlay(overlay: SharedOverlay | undefined): void {
    this.#overlay = overlay && new ImageOverlay(overlay, this.#around.native)
    this.#isWritable = overlay !== undefined && overlay.fd >= 0
  }

  get isWritable(): boolean {
    return this.#isWritable
  }

  get isDamaged(): boolean {
    return this.#overlay?.isDamaged ?? false
  }

  get overlay(): ImageOverlay | undefined {
    return this.#overlay
  }

  read(offset: number, sizeBytes: number, callbacks: ReadCallbacks): void {
    let gathered: GatheredBytes | undefined
    try {
      gathered = this.gather(offset, sizeBytes)
    } catch (error) {
      if (!isThawError(error)) throw error
      this.counters.failure()
      callbacks.onReadFailed(error.code)
      return
    }
    if (gathered === undefined) this.#park(new ParkedRead(this, offset, sizeBytes, callbacks))
    else this.#answerRead(gathered, callbacks)
  }

  #answerRead(gathered: GatheredBytes, callbacks: ReadCallbacks): void {
    const { sizeBytes, chunkCount } = gathered
    if (gathered.isZero) this.counters.zeros(sizeBytes)
    else this.counters.hit(sizeBytes)
    if (chunkCount > 0) this.#around.countHits(chunkCount, sizeBytes)
    try {
      callbacks.onBytes(gathered)
    } finally {
      this.release(gathered)
    }
  }

  gather(offset: number, sizeBytes: number): GatheredBytes | undefined {
    const gathered = this.#around.takeGathered()
    let isWhole = false
    try {
      isWhole = this.#gather(offset, sizeBytes, gathered)
    } finally {
      if (!isWhole) this.release(gathered)
    }
    return isWhole ? gathered : undefined
  }

  gatherFrom(memory: PlacedMemory, sizeBytes: number): GatheredBytes {
    const gathered = this.#around.takeGathered()
    gathered.add(memory, 0, sizeBytes)
    return gathered
  }

  release(gathered: GatheredBytes): void {
    this.#around.giveBackGathered(gathered)
  }

  after(who: CalledLater, ms: number, callback: () => void): () => void {
    return this.#around.timers.after(ms, () => callLater(who, callback))
  }

  stage(who: CalledLater, onBuffer: (buffer: StagingBuffer) => void): StagingBuffer {
    return this.#around.staging.take(this.restore.owner, buffer => callLater(who, () => onBuffer(buffer)))
  }

  #park(request: Parked): void {
    this.parked.add(request)
    try {
      request.begin()
    } catch (error) {
      request.cancel()
      throw error
    }
  }

  /** Collects the pieces of a read; false if one is missing. */
  #gather(offset: number, sizeBytes: number, gathered: GatheredBytes): boolean {
    const end = offset + sizeBytes
    for (let at = offset; at < end; ) {
      const page = Math.floor(at / PAGE_BYTES)
      const { chunk, first, count } = this.reader.locate(page)
      const state = this.#readableState(page)
      const pages = this.#overlay === undefined ? count : this.#overlay.run(page, Math.min(page + count, Math.ceil(end / PAGE_BYTES)))
      const until = Math.min((page + pages) * PAGE_BYTES, end)
      if (state === PAGE_STATE.written) {
        const { copied } = this.#around
        this.#overlay!.read(at, until - at, copied.bytes, at - offset)
        gathered.add(copied, at - offset, until - at)
      } else if (isZero(state) || chunk === ZERO) gathered.addZeros(this.#around.zeros, until - at)
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

  lookAt(at: number, end: number): Piece {
    const page = Math.floor(at / PAGE_BYTES)
    const { chunk, count } = this.reader.locate(page)
    const pages = this.#overlay === undefined ? count : this.#overlay.run(page, Math.min(page + count, Math.ceil(end / PAGE_BYTES)))
    const isParents = chunk !== ZERO && this.#stateOf(page) === PAGE_STATE.parent
    const slot = isParents ? this.reader.pin(chunk) : ABSENT
    if (slot !== ABSENT) this.reader.unpin(slot)
    this.#piece.missing = isParents && slot === ABSENT ? chunk : -1
    this.#piece.until = Math.min((page + pages) * PAGE_BYTES, end)
    return this.#piece
  }

  copyPiece(at: number, end: number, target: Buffer, offset: number): Piece {
    const page = Math.floor(at / PAGE_BYTES)
    const { chunk, first, count } = this.reader.locate(page)
    const state = this.#readableState(page)
    const pages = this.#overlay === undefined ? count : this.#overlay.run(page, Math.min(page + count, Math.ceil(end / PAGE_BYTES)))
    const until = Math.min((page + pages) * PAGE_BYTES, end)
    this.#piece.missing = -1
    this.#piece.until = until
    if (state === PAGE_STATE.written) this.#overlay!.read(at, until - at, target, offset)
    else if (isZero(state) || chunk === ZERO) target.fill(0, offset, offset + until - at)
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

  write(offset: number, bytes: Uint8Array, callbacks: WriteCallbacks): void {
    const { wholeFrom, wholeTo } = this.#wholePages(offset, bytes.length)
    this.#change(bytes.length, callbacks, parts => {
      if (wholeTo > wholeFrom) this.#overlay!.write(wholeFrom / PAGE_BYTES, bytes.subarray(wholeFrom - offset, wholeTo - offset))
      this.#writePart(offset, bytes.subarray(0, wholeFrom - offset), parts)
      this.#writePart(wholeTo, bytes.subarray(wholeTo - offset), parts)
      return this.#parkedWrite(parts, callbacks)
    })
  }

  zero(offset: number, sizeBytes: number, callbacks: WriteCallbacks): void {
    const { zeros } = this.#around
    const { wholeFrom, wholeTo } = this.#wholePages(offset, sizeBytes)
    this.#change(sizeBytes, callbacks, parts => {
      this.#writePart(offset, zeros.bytes.subarray(0, wholeFrom - offset), parts)
      this.#writePart(wholeTo, zeros.bytes.subarray(0, offset + sizeBytes - wholeTo), parts)
      const [from, to] = wholeTo > wholeFrom ? [wholeFrom / PAGE_BYTES, Math.ceil(wholeTo / PAGE_BYTES)] : [0, 0]
      const next = this.zeroOn(from, to)
      return next === to ? this.#parkedWrite(parts, callbacks) : new ParkedZero(this, { from: next, to, parts }, callbacks)
    })
  }

  #parkedWrite(parts: PagePart[], callbacks: WriteCallbacks): ParkedWrite | undefined {
    return parts.length === 0 ? undefined : new ParkedWrite(this, parts, callbacks)
  }

  /** The whole pages of a stretch of bytes; the image's last one, which may be short, is one. What is before and behind them is less than a page each. */
  #wholePages(offset: number, sizeBytes: number): { readonly wholeFrom: number; readonly wholeTo: number } {
    const end = offset + sizeBytes
    const wholeFrom = Math.min(Math.ceil(offset / PAGE_BYTES) * PAGE_BYTES, end)
    return { wholeFrom, wholeTo: end === this.sizeBytes ? end : Math.max(wholeFrom, end - (end % PAGE_BYTES)) }
  }

  /** @param work does what can be done now; what it returns waits for the rest */
  #change(sizeBytes: number, callbacks: WriteCallbacks, work: (parts: PagePart[]) => ParkedWrite | ParkedZero | undefined): void {
    if (!this.#isWritable) {
      callbacks.onWriteFailed('DENIED')
      return
    }
    let parked: ParkedWrite | ParkedZero | undefined
    const failure = this.failureOf(() => {
      parked = work([])
    })
    if (failure !== undefined) {
      callbacks.onWriteFailed(failure.code)
      return
    }
    this.counters.write(sizeBytes)
    if (parked === undefined) callbacks.onWritten()
    else {
      this.#overlay!.beginChange()
      this.#park(parked)
    }
  }

  changeEnded(): void {
    this.#overlay!.endChange()
  }

  zeroOn(from: number, to: number): number {
    return from < to ? from + this.#overlay!.zero(from, to - from) : to
  }

  later(who: CalledLater, callback: () => void): void {
    this.after(who, 0, callback)
  }

  lose(offset: number, sizeBytes: number): void {
    const first = Math.floor(offset / PAGE_BYTES)
    this.#overlay!.lose(first, Math.ceil((offset + sizeBytes) / PAGE_BYTES) - first)
  }

  #writePart(offset: number, bytes: Uint8Array, parts: PagePart[]): void {
    if (bytes.length > 0 && this.tryWritePart(offset, bytes) >= 0) parts.push({ offset, bytes: Uint8Array.from(bytes) })
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

  cancel(who: ReadCallbacks | WriteCallbacks): void {
    for (const parked of this.parked) if (parked.callbacks === who) parked.cancel()
  }

  stretch(page: number): Stretch {
    const { chunk, count } = this.reader.locate(page)
    const state = this.#stateOf(page)
    this.#stretch.pages = this.#overlay === undefined ? count : this.#overlay.run(page, page + Math.min(count, STRETCH_PAGES_MAX))
    this.#stretch.isZero = isZero(state) || (state === PAGE_STATE.parent && chunk === ZERO)
    return this.#stretch
  }

  get dataPages(): number {
    this.#dataPages ??= this.#countDataPages()
    return this.#dataPages
  }

  #countDataPages(): number {
    const { starts, chunks } = this.#image
    let pages = 0
    for (let run = 0; run < chunks.length; run++) if (chunks[run] !== ZERO) pages += starts[run + 1]! - starts[run]!
    return pages
  }

  want(chunk: number, waiter: ChunkWaiter, deadlineAt: number): void {
    this.#around.wants.want(this.restore, chunk, waiter, deadlineAt)
  }

  forget(waiter: ChunkWaiter): void {
    this.#around.wants.forget(waiter)
  }

  /** @throws CORRUPT for a page that was lost */
  #readableState(page: number): number {
    const state = this.#stateOf(page)
    if (state !== PAGE_STATE.lost) return state
    throw new ThawError('CORRUPT', `what was written to page ${page} of image ${this.name} was lost`, { object: this.name })
  }

  #stateOf(page: number): number {
    return this.#overlay === undefined ? PAGE_STATE.parent : this.#overlay.stateOf(page)
  }
}
