/**
 * The reading side of a line, for a thread that must not wait: nothing here allocates but the bell of an engine that sleeps.
 *
 * A turn of such a thread:
 *
 *     while (true) {
 *       serve what is there; want what is not
 *       for (let done = line.next(); done !== undefined; done = line.next()) look at done.ticket, use and unpin done.slot
 *       if (line.sleep()) { wait for bellFd, among others; line.wake() }
 *     }
 *
 * Deadlines are the reader's: the engine may be what hangs.
 */
import { ABSENT } from '../arena.ts'
import type { ErrorCode, Tier } from '../errors.ts'
import { PRIORITIES, type Priority } from '../util/urgency.ts'
import { codeOf, type LineEnd, type LineParts, lineParts, STATUS_OK, TIERS, type ToServer, WANTS_MAX } from './line.ts'
import { ENTRY_WORDS } from './line-ring.ts'

/** What became of a want. One object a line, overwritten by the next. */
export interface Completion {
  ticket: number
  /** Pinned, for the receiver to unpin; or ABSENT: it failed. */
  slot: number
  /** Where the chunk came from. */
  tier: Tier
  /** Of a failure; undefined also for one that is a bug. */
  code: ErrorCode | undefined
  /** Names the failure in messages of the line. */
  place: number
}

export class LineClient {
  readonly #end: LineEnd
  readonly #parts: LineParts
  readonly #entry = new Int32Array(ENTRY_WORDS)
  readonly #completion: Completion = { ticket: 0, slot: ABSENT, tier: 'memory', code: undefined, place: 0 }
  /** By place. */
  readonly #tickets = new Int32Array(WANTS_MAX)
  readonly #taken = new Uint8Array(WANTS_MAX)
  /** Places that are free: a stack. */
  readonly #free = Int32Array.from({ length: WANTS_MAX }, (_, index) => WANTS_MAX - 1 - index)
  #freeCount = WANTS_MAX

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
   * @param ticket names the want to the caller: any 32 bits
   * @returns false if WANTS_MAX are outstanding: the caller tries again once one is answered
   */
  want(handle: number, chunk: number, ticket: number, priority: Priority): boolean {
    if (this.#freeCount === 0) return false
    const place = this.#free[--this.#freeCount]!
    this.#tickets[place] = ticket
    this.#taken[place] = 1
    this.#parts.requests.put(place, handle, chunk, PRIORITIES.indexOf(priority))
    if (this.#parts.requests.takeSleeper()) this.#post(null)
    return true
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
    return this.#complete(this.#taken.indexOf(1), ended)
  }

  #complete(place: number, status: number): Completion {
    const completion = this.#completion
    completion.place = place
    completion.ticket = this.#tickets[place]!
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

  /** Makes a want a demand. Nothing happens if it was answered. */
  raise(ticket: number): void {
    this.#tell('raise', ticket)
  }

  /** Nobody needs that chunk any more: the want is answered soon, with whatever there is by then. */
  cancel(ticket: number): void {
    this.#tell('cancel', ticket)
  }

  /** Counts bytes that this thread found in the arena. */
  countHit(bytes: number): void {
    this.#parts.counts[0]! += 1
    this.#parts.counts[1]! += bytes
  }

  /** Lets go of the line: the engine takes back what was not taken by `next`. Idempotent. */
  close(): void {
    this.#end.port.close()
  }

  get #ended(): number {
    return Atomics.load(this.#parts.ended, 0)
  }

  #tell(kind: 'raise' | 'cancel', ticket: number): void {
    for (let place = this.#tickets.indexOf(ticket); place >= 0; place = this.#tickets.indexOf(ticket, place + 1)) {
      if (this.#taken[place] === 1) this.#post({ kind, place })
    }
  }

  #post(message: ToServer): void {
    this.#end.port.postMessage(message)
  }
}
