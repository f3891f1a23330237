/**
 * What a pager waits for: chunks that it wanted of the engine, each once however many wait for it, each until its deadline.
 *
 * A failure that may pass (the store cannot be reached) is asked for again until the deadline: a guest outlives a short outage. Any other is the waiters' at once. The
 * deadline is kept here, because the engine may be what hangs; what the engine answers later is let go.
 */
import assert from 'node:assert/strict'
import type { Arena } from '../arena.ts'
import type { LineEnd } from '../engine/line.ts'
import { type Completion, LINE_FULL, LineClient } from '../engine/line-client.ts'
import type { ErrorCode } from '../errors.ts'
import type { ChunkWaiter, PagerLoop } from '../pager.ts'
import type { PolledSource } from './loop.ts'

/** Where served images have their chunks brought from. */
export interface Wants {
  readonly arena: Arena
  /** Has a chunk of a snapshot in the arena. The waiter is told once, not before this returns. */
  want(handle: number, chunk: number, waiter: ChunkWaiter, deadlineMs: number): void
  /** Tells a waiter nothing any more. */
  forget(waiter: ChunkWaiter): void
  /** Counts what was found in the arena, as `Engine.countHits`. */
  countHits(chunks: number, bytes: number): void
}

/** Tells waiters one after the other. What one of them does may take back what the next waits for: who is forgotten meanwhile is not told. */
export class Telling {
  #left: Set<ChunkWaiter> | undefined

  /** Empties `waiters`. */
  tell(waiters: Set<ChunkWaiter>, call: (waiter: ChunkWaiter) => void): void {
    this.#left = waiters
    for (const waiter of waiters) {
      waiters.delete(waiter)
      call(waiter)
    }
    this.#left = undefined
  }

  forget(waiter: ChunkWaiter): void {
    this.#left?.delete(waiter)
  }
}

/** Between two looks at deadlines and at what is to be asked for again. */
const TICK_MS = 100
/** Before a chunk that the store could not give is asked for again. */
const AGAIN_MS = 200

interface Want {
  readonly key: number
  readonly handle: number
  readonly chunk: number
  readonly waiters: Set<ChunkWaiter>
  readonly deadlineAt: number
  /** Its number on the line; LINE_FULL: it waits for its turn, or to be asked for again. */
  request: number
  /** Not to be asked for before. */
  notBefore: number
}

/** Handles are below 2³¹, chunks of a snapshot below 2²². */
const CHUNKS_MAX = 2 ** 22

export class LineWants implements Wants, PolledSource {
  readonly arena: Arena
  readonly #line: LineClient
  /** By handle and chunk. */
  readonly #wants = new Map<number, Want>()
  /** By the request's number; those that nobody waits for any more have no waiters. */
  readonly #sent = new Map<number, Want>()
  /** Those without a request. */
  readonly #unsent = new Set<Want>()
  readonly #telling = new Telling()
  #loop: PagerLoop | undefined
  #isTicking = false

  constructor(arena: Arena, end: LineEnd) {
    this.arena = arena
    this.#line = new LineClient(end)
  }

  /** Before the first `want`: whose timers deadlines are kept with. */
  attach(loop: PagerLoop): void {
    this.#loop = loop
  }

  want(handle: number, chunk: number, waiter: ChunkWaiter, deadlineMs: number): void {
    const key = handle * CHUNKS_MAX + chunk
    const there = this.#wants.get(key)
    if (there !== undefined) {
      there.waiters.add(waiter)
      return
    }
    const deadlineAt = performance.now() + deadlineMs
    const want: Want = { key, handle, chunk, waiters: new Set([waiter]), deadlineAt, request: LINE_FULL, notBefore: 0 }
    this.#wants.set(key, want)
    this.#unsent.add(want)
    this.#send(want)
    this.#tick()
  }

  forget(waiter: ChunkWaiter): void {
    this.#telling.forget(waiter)
    for (const want of this.#wants.values()) {
      if (want.waiters.delete(waiter) && want.waiters.size === 0) this.#abandon(want)
    }
  }

  countHits(chunks: number, bytes: number): void {
    this.#line.countHits(chunks, bytes)
  }

  poll(): boolean {
    let did = false
    for (let done = this.#line.next(); done !== undefined; done = this.#line.next()) {
      did = true
      this.#complete(done)
    }
    if (did && this.#unsent.size > 0) this.#sendAll(performance.now())
    return did
  }

  sleep(): boolean {
    return this.#line.sleep()
  }

  wake(): void {
    this.#line.wake()
  }

  close(): void {
    this.#line.close()
  }

  #send(want: Want): void {
    const request = this.#line.want(want.handle, want.chunk, 'demand')
    if (request === LINE_FULL) return
    want.request = request
    this.#sent.set(request, want)
    this.#unsent.delete(want)
  }

  #sendAll(now: number): void {
    for (const want of this.#unsent) if (want.notBefore <= now) this.#send(want)
  }

  #complete({ request, slot, tier, code }: Completion): void {
    const want = this.#sent.get(request)
    assert(want !== undefined)
    this.#sent.delete(request)
    if (slot >= 0) {
      if (this.#wants.get(want.key) === want) this.#wants.delete(want.key)
      this.#telling.tell(want.waiters, waiter => waiter.onChunk(want.chunk, slot, tier))
      this.arena.unpin(slot)
    } else if (want.waiters.size > 0) this.#failed(want, code)
  }

  #failed(want: Want, code: ErrorCode | undefined): void {
    const now = performance.now()
    if (code !== 'UNAVAILABLE' || now + AGAIN_MS >= want.deadlineAt) {
      this.#fail(want, code)
      return
    }
    want.request = LINE_FULL
    want.notBefore = now + AGAIN_MS
    this.#unsent.add(want)
  }

  #fail(want: Want, code: ErrorCode | undefined): void {
    this.#abandon(want)
    this.#telling.tell(want.waiters, waiter => waiter.onChunkFailed(want.chunk, code))
  }

  /** Nobody waits for it any more. */
  #abandon(want: Want): void {
    this.#wants.delete(want.key)
    this.#unsent.delete(want)
    this.#line.cancel(want.request)
  }

  #tick(): void {
    if (this.#isTicking) return
    this.#isTicking = true
    this.#loop!.after(TICK_MS, () => {
      this.#isTicking = false
      const now = performance.now()
      for (const want of this.#wants.values()) if (want.deadlineAt <= now) this.#fail(want, 'TIMEOUT')
      this.#sendAll(now)
      if (this.#wants.size > 0) this.#tick()
    })
  }
}
