/**
 * Page to bytes, through the arena.
 *
 * `ImageReader` reads what is in the arena, on any thread, at once or not at all: it allocates nothing and waits for nobody. `readThrough` has the engine bring what is
 * missing. Never zeroes in place of missing bytes: every read gives the bytes of the manifest, or an error.
 */
import { ABSENT, type Arena } from './arena.ts'
import { PAGE_BYTES } from './chunk.ts'
import type { HeldSnapshot, WantOptions } from './engine.ts'
import type { Tier } from './errors.ts'
import { PageMap, ZERO } from './pagemap.ts'
import { forEachAtOnce } from './util/at-once.ts'

/** Chunks that one read wants at a time: enough to overlap round trips, few enough that nobody pins much of a small arena. */
const CHUNKS_AT_ONCE = 8

/** An image as it is read. */
export interface ImageColumns {
  readonly sizeBytes: number
  /** As in PageMap. */
  readonly starts: Uint32Array
  readonly chunks: Int32Array
  readonly firsts: Uint8Array
  /** Number of each chunk of the snapshot, for the arena. */
  readonly numbers: Uint32Array
}

/** An image for readers on other threads: posting it copies nothing. It is good until the snapshot is closed. */
export interface SharedImage extends ImageColumns {
  /** Names the snapshot on lines. */
  readonly handle: number
}

export interface ReadOptions extends Omit<WantOptions, 'owner'> {
  /** Told, for each chunk that was read, which tier it came from, and how many bytes were read of it. */
  readonly onServed?: ((tier: Tier, bytes: number) => void) | undefined
}

/** Where a page lies. One object a reader, overwritten by the next `locate`. */
export interface Located {
  /** ZERO, or an index of the snapshot's chunk table. */
  chunk: number
  /** The page within the chunk. */
  first: number
  /** Pages from here on that lie one behind the other. */
  count: number
}

/** What a read takes of one chunk: stretches that follow each other, perhaps with zeros between. */
interface Part {
  readonly chunk: number
  readonly stretches: Stretch[]
}

interface Stretch {
  /** Byte within the chunk's pages. */
  readonly from: number
  readonly sizeBytes: number
  /** Where in the target it goes. */
  readonly at: number
}

export class ImageReader {
  readonly sizeBytes: number
  readonly #map: PageMap
  readonly #numbers: Uint32Array
  readonly #arena: Arena
  readonly #located: Located = { chunk: ZERO, first: 0, count: 0 }
  #chunksRead = 0
  /** The run found last: reads tend to go on where they were. */
  #run = 0

  constructor({ sizeBytes, starts, chunks, firsts, numbers }: ImageColumns, arena: Arena) {
    this.sizeBytes = sizeBytes
    this.#map = new PageMap(starts, chunks, firsts)
    this.#numbers = numbers
    this.#arena = arena
  }

  /** How many chunks `tryReadInto` read when it was last called. */
  get chunksRead(): number {
    return this.#chunksRead
  }

  /** @param page less than the image's page count */
  locate(page: number): Located {
    const { starts, chunks, firsts } = this.#map
    const run = this.#runAt(page)
    const into = page - starts[run]!
    const chunk = chunks[run]!
    this.#located.chunk = chunk
    this.#located.first = chunk === ZERO ? 0 : firsts[run]! + into
    this.#located.count = starts[run + 1]! - page
    return this.#located
  }

  /** The arena's slot of a chunk, pinned until `unpin`; or ABSENT: then it can be wanted. */
  pin(chunk: number): number {
    return this.#arena.pin(this.#numbers[chunk]!)
  }

  unpin(slot: number): void {
    this.#arena.unpin(slot)
  }

  /**
   * Fills `target` with the image's bytes from `offset` on, if all of them are zeros or in L1 memory. Synchronous, on any thread.
   * @returns how many bytes that were: less than `target.length` only at the end of the image. 0: something is missing (part of `target` may have been written to), or
   * `offset` is at the end.
   */
  tryReadInto(target: Uint8Array, offset: number): number {
    const { starts, chunks, firsts } = this.#map
    const end = Math.min(offset + target.length, this.sizeBytes)
    this.#chunksRead = 0
    let last = ZERO
    for (let at = offset; at < end; ) {
      const page = Math.floor(at / PAGE_BYTES)
      const run = this.#runAt(page)
      const until = Math.min(starts[run + 1]! * PAGE_BYTES, end)
      const chunk = chunks[run]!
      if (chunk === ZERO) target.fill(0, at - offset, until - offset)
      else {
        const slot = this.pin(chunk)
        if (slot === ABSENT) return 0
        if (chunk !== last) this.#chunksRead++
        last = chunk
        this.#arena.copy(slot, (firsts[run]! - starts[run]!) * PAGE_BYTES + at, until - at, target, at - offset)
        this.#arena.unpin(slot)
      }
      at = until
    }
    return Math.max(0, end - offset)
  }

  /** As `tryReadInto`, but what is missing is wanted of the engine. The buffer is written to until the promise settles. */
  async readInto(held: HeldSnapshot, target: Uint8Array, offset: number, options: ReadOptions): Promise<number> {
    const parts = this.#parts(target, offset)
    const end = Math.min(offset + target.length, this.sizeBytes)
    const isOne = end - offset <= PAGE_BYTES
    await forEachAtOnce(parts, isOne ? 1 : CHUNKS_AT_ONCE, async ({ chunk, stretches }) => {
      const { slot, tier } = await held.want(chunk, options)
      let bytes = 0
      for (const { from, sizeBytes, at } of stretches) {
        this.#arena.copy(slot, from, sizeBytes, target, at)
        bytes += sizeBytes
      }
      this.#arena.unpin(slot)
      options.onServed?.(tier, bytes)
    })
    return Math.max(0, end - offset)
  }

  /** What a read takes of each chunk, zeros filled in on the way. */
  *#parts(target: Uint8Array, offset: number): Generator<Part> {
    const end = Math.min(offset + target.length, this.sizeBytes)
    let part: Part | undefined
    for (let at = offset; at < end; ) {
      const page = Math.floor(at / PAGE_BYTES)
      const { chunk, first, count } = this.locate(page)
      const until = Math.min((page + count) * PAGE_BYTES, end)
      if (chunk === ZERO) target.fill(0, at - offset, until - offset)
      else {
        if (part !== undefined && part.chunk !== chunk) yield part
        if (part?.chunk !== chunk) part = { chunk, stretches: [] }
        part.stretches.push({ from: first * PAGE_BYTES + at - page * PAGE_BYTES, sizeBytes: until - at, at: at - offset })
      }
      at = until
    }
    if (part !== undefined) yield part
  }

  #runAt(page: number): number {
    const { starts } = this.#map
    if (starts[this.#run]! > page || starts[this.#run + 1]! <= page) this.#run = this.#map.runAt(page)
    return this.#run
  }
}
