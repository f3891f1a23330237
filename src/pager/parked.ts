/**
 * Reads and writes that wait for chunks. What has come is copied at once into a buffer of the request's own, so a request pins nothing while it waits: however many chunks it
 * needs, an arena of a few slots is enough.
 */
import type { ErrorCode, Tier } from '../errors.ts'
import type { ChunkWaiter, ReadCallbacks, WriteCallbacks } from '../pager.ts'
import type { ImageCounters } from './figures.ts'
import type { PlacedMemory } from './gathered.ts'
import type { Staging } from './staging.ts'

/** Chunks that one read waits for at a time: enough to overlap round trips, few enough to leave room for others. */
const CHUNKS_AT_ONCE = 8

/** The image that requests wait for, as they use it. */
export interface ParkingImage {
  readonly staging: Staging
  readonly counters: ImageCounters
  readonly parked: Set<ParkedRead | ParkedWrite | ParkedZero>
  /** Copies what begins at `at`, up to a piece's end and at most to `end`, to `offset` of `target`; or says which chunk is missing for it. The object is the image's. */
  copyPiece(at: number, end: number, target: Buffer, offset: number): { readonly missing: number; readonly until: number }
  /** A chunk has come: copies what of [offset, end) lies in it, and anew what was written meanwhile. */
  copyAgain(offset: number, end: number, chunk: number, slot: number, target: Buffer): void
  /** Answers a read from memory of its own. */
  giveGathered(memory: PlacedMemory, sizeBytes: number, callbacks: ReadCallbacks): void
  /** Writes part of one page over what is there. @returns the chunk that is missing for that, or -1: done */
  tryWritePart(offset: number, bytes: Uint8Array): number
  /** Makes pages [from, to) zero, a bounded number of them. @returns where the others begin */
  zeroOn(from: number, to: number): number
  /** A write or zeroing that waited is over. */
  changeEnded(): void
  /** Calls back in a later turn. */
  later(callback: () => void): void
  /** Runs it; the ThawError that it threw, if it did. */
  failureOf(work: () => void): { readonly code: ErrorCode } | undefined
  want(chunk: number, waiter: ChunkWaiter): void
  forget(waiter: ChunkWaiter): void
}

export class ParkedRead implements ChunkWaiter {
  readonly callbacks: ReadCallbacks
  readonly #image: ParkingImage
  readonly #offset: number
  readonly #sizeBytes: number
  readonly #startedAt = performance.now()
  readonly #wanted = new Set<number>()
  #memory: PlacedMemory | undefined
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
    this.#image.staging.take(this.#sizeBytes, this.#start)
  }

  readonly #start = (memory: PlacedMemory): void => {
    this.#memory = memory
    this.#goOn()
  }

  onChunk(chunk: number, slot: number, tier: Tier): void {
    this.#image.counters.chunk(tier)
    this.#wanted.delete(chunk)
    this.#goOn(() => this.#image.copyAgain(this.#offset, this.#at, chunk, slot, this.#memory!.bytes))
  }

  onChunkFailed(_chunk: number, code: ErrorCode | undefined): void {
    this.#fail(code)
  }

  #fail(code: ErrorCode | undefined): void {
    this.cancel()
    this.#image.counters.failure()
    this.callbacks.onReadFailed(code)
  }

  /** Copies what is there, wants what is not, and answers when nothing is missing. Pages of an overlay may fail to be read. */
  #goOn(first?: () => void): void {
    const failure = this.#image.failureOf(() => {
      first?.()
      this.#copyOn()
    })
    if (failure !== undefined) this.#fail(failure.code)
    else if (this.#wanted.size === 0) this.#answer()
  }

  #copyOn(): void {
    const end = this.#offset + this.#sizeBytes
    while (this.#at < end) {
      const { missing, until } = this.#image.copyPiece(this.#at, end, this.#memory!.bytes, this.#at - this.#offset)
      if (missing >= 0 && !this.#wanted.has(missing)) {
        if (this.#wanted.size >= CHUNKS_AT_ONCE) return
        this.#wanted.add(missing)
        this.#image.want(missing, this)
      }
      this.#at = until
    }
  }

  #answer(): void {
    const memory = this.#memory!
    this.#memory = undefined
    this.#end()
    this.#image.counters.miss(this.#sizeBytes, performance.now() - this.#startedAt)
    this.#image.giveGathered(memory, this.#sizeBytes, this.callbacks)
    this.#image.staging.giveBack(memory)
  }

  /** Ends it without an answer. */
  cancel(): void {
    if (this.#isOver) return
    this.#image.forget(this)
    this.#image.staging.leave(this.#start)
    if (this.#memory !== undefined) this.#image.staging.giveBack(this.#memory)
    this.#memory = undefined
    this.#end()
  }

  #end(): void {
    this.#isOver = true
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

  constructor(image: ParkingImage, parts: PagePart[], callbacks: WriteCallbacks) {
    this.#image = image
    this.#parts = parts
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
        this.#image.want(missing, this)
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
export class ParkedZero {
  readonly callbacks: WriteCallbacks
  readonly #image: ParkingImage
  readonly #pages: { from: number; readonly to: number; readonly parts: PagePart[] }

  constructor(image: ParkingImage, pages: { from: number; readonly to: number; readonly parts: PagePart[] }, callbacks: WriteCallbacks) {
    this.#image = image
    this.#pages = pages
    this.callbacks = callbacks
  }

  begin(): void {
    this.#image.later(this.#step)
  }

  readonly #step = (): void => {
    const { parked } = this.#image
    if (!parked.has(this)) return
    const pages = this.#pages
    pages.from = this.#image.zeroOn(pages.from, pages.to)
    if (pages.from < pages.to) this.#image.later(this.#step)
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

  /** Ends it without an answer. */
  cancel(): void {
    if (this.#image.parked.delete(this)) this.#image.changeEnded()
  }
}
