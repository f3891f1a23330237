/**
 * Reads and writes that wait for chunks. They hold nothing while they wait: when all that was missing has
 * come, a read is answered from where it lies, as one is that waits for nothing. Only if by then some of
 * it has left the arena again, what comes is copied into a buffer, and so the read ends however small the
 * arena is.
 *
 * A request's deadline counts from its arrival, whatever it waits for.
 */
import type { ErrorCode, Tier } from '../errors.ts'
import type { CalledLater, ChunkWaiter, ReadCallbacks, WriteCallbacks } from '../pager.ts'
import type { ImageCounters } from './figures.ts'
import type { GatheredBytes, PlacedMemory } from './gathered.ts'
import type { StagingBuffer } from './staging.ts'

/** Chunks that one read waits for at a time: enough to overlap round trips, few enough to leave room for others. */
const CHUNKS_AT_ONCE = 8

/** The image that requests wait for, as they use it. */
export interface ParkingImage {
  /** How long a request may wait. */
  readonly deadlineMs: number
  readonly counters: ImageCounters
  readonly parked: Set<ParkedRead | ParkedWrite | ParkedZero>
  after(who: CalledLater, ms: number, callback: () => void): () => void
  /** Calls back with a buffer, now or when it is this restore's turn. */
  stage(who: CalledLater, onBuffer: (buffer: StagingBuffer) => void): StagingBuffer
  /** What a read is answered with, for `release`; undefined if some of it is not in memory. */
  gather(offset: number, sizeBytes: number): GatheredBytes | undefined
  /** Bytes of `memory`, for `release`. */
  gatherFrom(memory: PlacedMemory, sizeBytes: number): GatheredBytes
  release(gathered: GatheredBytes): void
  /** Which chunk is missing for the piece that begins at `at`, if one is. The object is the image's. */
  lookAt(at: number, end: number): { readonly missing: number; readonly until: number }
  /** Copies what begins at `at`, up to a piece's end and at most to `end`, to `offset` of `target`; or says which chunk is missing for it. The object is the image's. */
  copyPiece(at: number, end: number, target: Buffer, offset: number): { readonly missing: number; readonly until: number }
  /** A chunk has come: copies what of [offset, end) lies in it, and anew what was written meanwhile. */
  copyAgain(offset: number, end: number, chunk: number, slot: number, target: Buffer): void
  /** Writes part of one page over what is there. @returns the chunk that is missing for that, or -1: done */
  tryWritePart(offset: number, bytes: Uint8Array): number
  /** Makes pages [from, to) zero, a bounded number of them. @returns where the others begin */
  zeroOn(from: number, to: number): number
  /** A write or zeroing that waited is over. */
  changeEnded(): void
  /** Calls back in a later turn. */
  later(who: CalledLater, callback: () => void): void
  /** Runs it; the ThawError that it threw, if it did. */
  failureOf(work: () => void): { readonly code: ErrorCode } | undefined
  want(chunk: number, waiter: ChunkWaiter, deadlineAt: number): void
  forget(waiter: ChunkWaiter): void
}

export class ParkedRead implements ChunkWaiter {
  readonly callbacks: ReadCallbacks
  readonly #image: ParkingImage
  readonly #offset: number
  readonly #sizeBytes: number
  readonly #startedAt = performance.now()
  readonly #wanted = new Set<number>()
  /** Once it copies: its buffer, or the place in the queue for one. */
  #buffer: StagingBuffer | undefined
  #stopDeadline: (() => void) | undefined
  /** Bytes from here on were not looked at yet. */
  #at: number
  #isOver = false

  constructor(image: ParkingImage, offset: number, sizeBytes: number, callbacks: ReadCallbacks) {
    this.#image = image
    this.#offset = offset
    this.#sizeBytes = sizeBytes
    this.callbacks = callbacks
    this.#at = offset
  }

  begin(): void {
    this.#goOn()
  }

  onChunk(chunk: number, slot: number, tier: Tier): void {
    this.#image.counters.chunk(tier)
    this.#wanted.delete(chunk)
    this.#goOn(chunk, slot)
  }

  onChunkFailed(_chunk: number, code: ErrorCode | undefined): void {
    this.#fail(code)
  }

  onBroken(error: unknown): void {
    this.cancel()
    this.callbacks.onBroken(error)
  }

  #fail(code: ErrorCode | undefined): void {
    this.cancel()
    this.#image.counters.failure()
    this.callbacks.onReadFailed(code)
  }

  get #deadlineAt(): number {
    return this.#startedAt + this.#image.deadlineMs
  }

  get #end(): number {
    return this.#offset + this.#sizeBytes
  }

  /** Wants what is missing, and answers when nothing is. Pages of an overlay may fail to be read. */
  #goOn(chunk?: number, slot?: number): void {
    const memory = this.#buffer?.memory
    let gathered: GatheredBytes | undefined
    const failure = this.#image.failureOf(() => {
      if (memory !== undefined && chunk !== undefined) this.#image.copyAgain(this.#offset, this.#at, chunk, slot!, memory.bytes)
      this.#wantMissing(memory)
      if (this.#wanted.size > 0) return
      if (memory !== undefined) gathered = this.#image.gatherFrom(memory, this.#sizeBytes)
      else gathered = this.#image.gather(this.#offset, this.#sizeBytes)
    })
    if (failure !== undefined) this.#fail(failure.code)
    else if (gathered !== undefined) this.#answer(gathered)
    else if (this.#wanted.size === 0) this.#stage()
  }

  /** With memory: copies what is there on the way. */
  #wantMissing(memory: PlacedMemory | undefined): void {
    while (this.#at < this.#end) {
      const { missing, until } =
        memory === undefined
          ? this.#image.lookAt(this.#at, this.#end)
          : this.#image.copyPiece(this.#at, this.#end, memory.bytes, this.#at - this.#offset)
      if (missing >= 0 && !this.#wanted.has(missing)) {
        if (this.#wanted.size >= CHUNKS_AT_ONCE) return
        this.#wanted.add(missing)
        this.#image.want(missing, this, this.#deadlineAt)
      }
      this.#at = until
    }
  }

  /** What has come did not stay until the rest was there: from now on it is copied. */
  #stage(): void {
    this.#stopDeadline = this.#image.after(this, this.#deadlineAt - performance.now(), () => this.#fail('TIMEOUT'))
    const failure = this.#image.failureOf(() => {
      this.#buffer = this.#image.stage(this, buffer => {
        this.#stopDeadline?.()
        this.#buffer = buffer
        this.#at = this.#offset
        this.#goOn()
      })
    })
    if (failure !== undefined) this.#fail(failure.code)
  }

  #answer(gathered: GatheredBytes): void {
    this.#over()
    this.#image.counters.miss(this.#sizeBytes, performance.now() - this.#startedAt)
    try {
      this.callbacks.onBytes(gathered)
    } finally {
      this.#image.release(gathered)
      this.#buffer?.leave()
    }
  }

  /** Ends it without an answer. */
  cancel(): void {
    if (this.#isOver) return
    this.#over()
    this.#image.forget(this)
    this.#buffer?.leave()
  }

  #over(): void {
    this.#isOver = true
    this.#stopDeadline?.()
    this.#image.parked.delete(this)
  }
}

/** Part of a page that is to be written over bytes that are not in memory. */
export interface PagePart {
  readonly offset: number
  /** Its own. */
  readonly bytes: Uint8Array
}

/** A write whose first and last page wait for what is around their new bytes. The pages between are written already. */
export class ParkedWrite implements ChunkWaiter {
  readonly callbacks: WriteCallbacks
  readonly #image: ParkingImage
  /** One or two. */
  readonly #parts: PagePart[]
  readonly #deadlineAt: number

  constructor(image: ParkingImage, parts: PagePart[], callbacks: WriteCallbacks) {
    this.#image = image
    this.#parts = parts
    this.#deadlineAt = performance.now() + image.deadlineMs
    this.callbacks = callbacks
  }

  begin(): void {
    let isDone = false
    const failure = this.#image.failureOf(() => {
      isDone = this.#writeOn()
    })
    if (failure !== undefined) this.#fail(failure.code)
    else if (isDone) {
      this.cancel()
      this.callbacks.onWritten()
    }
  }

  /** Writes what can be, and wants what is missing for the next. @returns whether all is written */
  #writeOn(): boolean {
    for (let part = this.#parts[0]; part !== undefined; part = this.#parts[0]) {
      const missing = this.#image.tryWritePart(part.offset, part.bytes)
      if (missing >= 0) {
        this.#image.want(missing, this, this.#deadlineAt)
        return false
      }
      this.#parts.shift()
    }
    return true
  }

  onChunk(_chunk: number, _slot: number, tier: Tier): void {
    this.#image.counters.chunk(tier)
    this.begin()
  }

  onChunkFailed(_chunk: number, code: ErrorCode | undefined): void {
    this.#image.counters.failure()
    this.#fail(code)
  }

  onBroken(error: unknown): void {
    this.cancel()
    this.callbacks.onBroken(error)
  }

  #fail(code: ErrorCode | undefined): void {
    this.cancel()
    this.callbacks.onWriteFailed(code)
  }

  /** Ends it without an answer. */
  cancel(): void {
    if (!this.#image.parked.delete(this)) return
    this.#image.forget(this)
    this.#image.changeEnded()
  }
}

/** Pages that become zero in several turns: others must not wait for it. Parts of pages that wait are written behind them. */
export class ParkedZero implements CalledLater {
  readonly callbacks: WriteCallbacks
  readonly #image: ParkingImage
  readonly #pages: { from: number; readonly to: number; readonly parts: PagePart[] }

  constructor(image: ParkingImage, pages: { from: number; readonly to: number; readonly parts: PagePart[] }, callbacks: WriteCallbacks) {
    this.#image = image
    this.#pages = pages
    this.callbacks = callbacks
  }

  begin(): void {
    this.#image.later(this, this.#step)
  }

  readonly #step = (): void => {
    const { parked } = this.#image
    if (!parked.has(this)) return
    const pages = this.#pages
    pages.from = this.#image.zeroOn(pages.from, pages.to)
    if (pages.from < pages.to) this.#image.later(this, this.#step)
    else this.#end(pages.parts)
  }

  #end(parts: PagePart[]): void {
    if (parts.length > 0) {
      const rest = new ParkedWrite(this.#image, parts, this.callbacks)
      this.#image.parked.delete(this)
      this.#image.parked.add(rest)
      rest.begin()
    } else {
      this.cancel()
      this.callbacks.onWritten()
    }
  }

  onBroken(error: unknown): void {
    this.cancel()
    this.callbacks.onBroken(error)
  }

  /** Ends it without an answer. */
  cancel(): void {
    if (this.#image.parked.delete(this)) this.#image.changeEnded()
  }
}
