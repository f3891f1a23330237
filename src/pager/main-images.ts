/**
 * Served images on a thread with an event loop, for what a pager cannot do: TLS. Chunks come by promises, and whoever holds up the thread holds up the guest.
 */
import type { Arena } from '../arena.ts'
import type { Engine, HeldSnapshot } from '../engine.ts'
import { type ErrorCode, isThawError } from '../errors.ts'
import type { ChunkWaiter, PagedImage, ServedImage } from '../pager.ts'
import { LiveImage } from './served-image.ts'
import { ImageSurroundings } from './surroundings.ts'
import { Telling, type Wants } from './wants.ts'

/** Before a chunk that the store could not give is asked for again. */
const AGAIN_MS = 200

class PromiseWants implements Wants {
  readonly arena: Arena
  readonly #engine: Engine
  readonly #held: HeldSnapshot
  /** By chunk. */
  readonly #waiters = new Map<number, Set<ChunkWaiter>>()
  readonly #telling = new Telling()

  constructor(engine: Engine, held: HeldSnapshot) {
    this.arena = engine.arena
    this.#engine = engine
    this.#held = held
  }

  want(_handle: number, chunk: number, waiter: ChunkWaiter, deadlineMs: number): void {
    const there = this.#waiters.get(chunk)
    if (there !== undefined) {
      there.add(waiter)
      return
    }
    const waiters = new Set([waiter])
    this.#waiters.set(chunk, waiters)
    void this.#fetch(chunk, waiters, performance.now() + deadlineMs)
  }

  forget(waiter: ChunkWaiter): void {
    this.#telling.forget(waiter)
    for (const waiters of this.#waiters.values()) waiters.delete(waiter)
  }

  countHits(chunks: number, bytes: number): void {
    this.#engine.countHits(chunks, bytes)
  }

  async #fetch(chunk: number, waiters: Set<ChunkWaiter>, deadlineAt: number): Promise<void> {
    const deadline = AbortSignal.timeout(Math.max(0, Math.ceil(deadlineAt - performance.now())))
    const found = await this.#held.want(chunk, { signal: deadline }).catch((error: unknown) => ({ code: codeOf(error, deadline) }))
    if ('slot' in found) {
      this.#waiters.delete(chunk)
      try {
        this.#telling.tell(waiters, waiter => waiter.onChunk(chunk, found.slot, found.tier))
      } finally {
        this.arena.unpin(found.slot)
      }
    } else if (found.code === 'UNAVAILABLE' && performance.now() + AGAIN_MS < deadlineAt && waiters.size > 0) {
      setTimeout(() => void this.#fetch(chunk, waiters, deadlineAt), AGAIN_MS)
    } else {
      this.#waiters.delete(chunk)
      this.#telling.tell(waiters, waiter => waiter.onChunkFailed(chunk, found.code))
    }
  }
}

function codeOf(error: unknown, deadline: AbortSignal): ErrorCode | undefined {
  if (deadline.aborted) return 'TIMEOUT'
  return isThawError(error) ? error.code : undefined
}

/** Images of one snapshot for this thread. */
export function mainImages(
  engine: Engine,
  held: HeldSnapshot,
  images: readonly PagedImage[],
  deadlineMs: number,
): Map<string, ServedImage> {
  const around = new ImageSurroundings(new PromiseWants(engine, held), undefined, setImmediate)
  return new Map(images.map(image => [image.name, new LiveImage(image, around, deadlineMs)]))
}
