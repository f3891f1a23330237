/**
 * The reading side of a line, for a thread that must not wait: nothing here allocates but the bell of an engine that sleeps.
 *
 * A turn of such a thread:
 *
 *     while (true) {
 *       serve what is there; want what is not
 *       for (let done = line.next(); done !== undefined; done = line.next()) look at done.request, use and unpin done.slot
 *       if (line.sleep()) { wait for bellFd, among others; line.wake() }
 *     }
 *
 * Deadlines are the reader's: the engine may be what hangs.
 */
import { ABSENT } from '../arena.ts'
import type { ErrorCode, Tier } from '../errors.ts'
import { PRIORITIES, type Priority } from '../util/urgency.ts'
import {
  codeOf,
  type LineEnd,
  type LineParts,
  lineParts,
  nextRequest,
  placeOf,
  STATUS_OK,
  TIERS,
  type ToServer,
  WANTS_MAX,
} from './line.ts'
import { ENTRY_WORDS } from './line-ring.ts'

/** What became of a want. One object a line, overwritten by the next. */
export interface Completion {
  /** As `want` returned it. */
  request: number
  /** Pinned, for the receiver to unpin; or ABSENT: it failed. */
  slot: number
  /** Where the chunk came from. */
  tier: Tier
  /** Of a failure; undefined also for one that is a bug. */
  code: ErrorCode | undefined
}

/** In place of a request's number: WANTS_MAX are outstanding. */
export const LINE_FULL = -1

export class LineClient {
  readonly #end: LineEnd
  readonly #parts: LineParts
  readonly #entry = new Int32Array(ENTRY_WORDS)
  readonly #completion: Completion = { request: 0, slot: ABSENT, tier: 'memory', code: undefined }
  /** By place: the request that takes it, or took it last. */
  readonly #requests = Int32Array.from({ length: WANTS_MAX }, (_, place) => place)
  readonly #taken = new Uint8Array(WANTS_MAX)
  /** Places that are free: a stack. */
  readonly #free = Int32Array.from({ length: WANTS_MAX }, (_, index) => WANTS_MAX - 1 - index)
  #freeCount = WANTS_MAX
  /** Where to look for the next request of a line that ended. */
  #endedPlace = 0

  constructor(end: LineEnd) {
    this.#end = end
    this.#parts = lineParts(end.memory)
  }

  /** Wants that are not answered yet. */
  get outstanding(): number {
    return WANTS_MAX - this.#freeCount
  }

  /**
   * Wants a chunk of a snapshot, by the snapshot's handle and the chunk's index there. Wanting one again as a demand hurries it; both are answered.
   * @returns the request's number, at least 0; or LINE_FULL: the caller tries again once one is answered
   */
  want(handle: number, chunk: number, priority: Priority): number {
    if (this.#freeCount === 0) return LINE_FULL
    const place = this.#free[--this.#freeCount]!
    const request = nextRequest(this.#requests[place]!)
    this.#requests[place] = request
    this.#taken[place] = 1
    this.#parts.requests.put(request, handle, chunk, PRIORITIES.indexOf(priority))
    if (this.#parts.requests.takeSleeper()) this.#post(null)
    return request
  }

  /** What became of a want, or undefined if there is no news. The object is good until the next call. */
  next(): Completion | undefined {
    const entry = this.#entry
    const completion = this.#completion
    // Looked at first: whoever ended the line puts nothing in after that.
    const ended = this.#ended
    if (this.#parts.completions.take(entry)) {
      completion.slot = entry[1] === STATUS_OK ? entry[2]! : ABSENT
      completion.tier = TIERS[entry[3]!]!
      return this.#complete(entry[0]!, entry[1]!)
    }
    if (ended === 0 || this.outstanding === 0) return undefined
    completion.slot = ABSENT
    return this.#complete(this.#nextEnded(), ended)
  }

  #nextEnded(): number {
    const place = this.#taken.indexOf(1, this.#endedPlace)
    this.#endedPlace = place >= 0 ? place : this.#taken.indexOf(1)
    return this.#requests[this.#endedPlace]!
  }

  #complete(request: number, status: number): Completion {
    const completion = this.#completion
    const place = placeOf(request)
    completion.request = request
    completion.code = status === STATUS_OK ? undefined : codeOf(status)
    this.#taken[place] = 0
    this.#free[this.#freeCount++] = place
    return completion
  }

  /** Asks to be woken by the next completion. False: there is news already, and there will be no bell. */
  sleep(): boolean {
    if (!this.#parts.completions.sleep()) return false
    if (this.#ended === 0 || this.outstanding === 0) return true
    this.wake()
    return false
  }

  /** No bell any more, please. After every `sleep` that gave true, whatever ended it. */
  wake(): void {
    this.#parts.completions.wake()
  }

  /** Makes a want at least that urgent. Nothing happens if it was answered. */
  raise(request: number, priority: Priority): void {
    if (this.#isOutstanding(request)) this.#post({ kind: 'raise', request, priority })
  }

  /** Nobody needs that chunk any more: the want is answered soon, with whatever there is by then. */
  cancel(request: number): void {
    if (this.#isOutstanding(request)) this.#post({ kind: 'cancel', request })
  }

  /** Counts what this thread found in the arena, as `Engine.countHits`. */
  countHits(chunks: number, bytes: number): void {
    this.#parts.counts[0]! += chunks
    this.#parts.counts[1]! += bytes
  }

  /** Lets go of the line: the engine takes back what was not taken by `next`. Idempotent. */
  close(): void {
    this.#end.port.close()
  }

  get #ended(): number {
    return Atomics.load(this.#parts.ended, 0)
  }

  #isOutstanding(request: number): boolean {
    const place = placeOf(request)
    return this.#taken[place] === 1 && this.#requests[place] === request
  }

  #post(message: ToServer): void {
    this.#end.port.postMessage(message)
  }
}
