/** Pages of one image of one restore, for whoever installs them in a guest's memory: where they lie, and having them brought. */
import { PAGE_BYTES } from '../chunk.ts'
import type { Tier } from '../errors.ts'
import type { ImageOverlay } from '../overlay/image-overlay.ts'
import type { ChunkWaiter, ServedFaults } from '../pager.ts'
import type { ImageReader } from '../reader.ts'
import type { ImageCounters } from './figures.ts'
import type { ImageSurroundings } from './surroundings.ts'
import type { WantingRestore } from './wants.ts'

/** The image, as its faults are served from it. */
export interface FaultedImage {
  readonly reader: ImageReader
  readonly counters: ImageCounters
  readonly restore: WantingRestore
  readonly deadlineMs: number
  readonly overlay: ImageOverlay | undefined
}

export class LiveFaults implements ServedFaults {
  readonly reader: ImageReader
  readonly #image: FaultedImage
  readonly #around: ImageSurroundings

  constructor(image: FaultedImage, around: ImageSurroundings) {
    this.reader = image.reader
    this.#image = image
    this.#around = around
  }

  addressOf(slot: number, page: number): number {
    return this.#around.segmentOf(slot).address + this.#around.arena.offsetOf(slot) + page * PAGE_BYTES
  }

  want(chunk: number, waiter: ChunkWaiter): void {
    this.#around.wants.want(this.#image.restore, chunk, waiter, performance.now() + this.#image.deadlineMs)
  }

  forget(waiter: ChunkWaiter): void {
    this.#around.wants.forget(waiter)
  }

  markZero(page: number, count: number): void {
    const { overlay } = this.#image
    for (let at = page; overlay !== undefined && at < page + count; ) at += overlay.zero(at, page + count - at)
  }

  countHit(pages: number): void {
    this.#image.counters.hit(pages * PAGE_BYTES)
    this.#around.countHits(1, pages * PAGE_BYTES)
  }

  countZeros(pages: number): void {
    this.#image.counters.zeros(pages * PAGE_BYTES)
  }

  countChunk(tier: Tier): void {
    this.#image.counters.chunk(tier)
  }

  countMiss(pages: number, waitedMs: number): void {
    this.#image.counters.miss(pages * PAGE_BYTES, waitedMs)
  }

  countFailure(): void {
    this.#image.counters.failure()
  }
}
