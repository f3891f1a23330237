/**
 * Which chunks lie in the arena: hands out slots to fill, and decides what leaves.
 *
 * The order is lru-cache's, with a second chance: readers on other threads cannot move an entry, they only mark its slot, and a marked one that is about to leave
 * goes to the front of the line in place of that. A slot whose chunk left while somebody read it is set aside until the last pin is gone.
 */
import { LRUCache } from 'lru-cache'
import type { ArenaWriter } from '../arena.ts'
import type { Clock } from '../util/clock.ts'
import { type Urgency, WaitingLine } from '../util/urgency.ts'

/** Other threads take their pins back without telling: those who wait for a slot look again after so long. */
const POLL_MS = 1

export class ArenaSlots {
  readonly #arena: ArenaWriter
  readonly #clock: Clock
  readonly #onEvict: (number: number) => void
  readonly #lru: LRUCache<number, number>
  readonly #free: number[]
  /** Of chunks that left, but are still read. */
  readonly #aside = new Set<number>()
  readonly #waiting = new WaitingLine<(slot: number) => void>()
  #polling = false
  evictions = 0

  /** `onEvict` is told of the number of each chunk that left. */
  constructor(arena: ArenaWriter, clock: Clock, onEvict: (number: number) => void) {
    this.#arena = arena
    this.#clock = clock
    this.#onEvict = onEvict
    this.#lru = new LRUCache({ max: arena.slots })
    this.#free = Array.from({ length: arena.slots }, (_, index) => arena.slots - 1 - index)
  }

  /** Chunks in the arena. */
  get size(): number {
    return this.#lru.size
  }

  /** A slot to fill, which is the caller's until `publish` or `abandon`. Rejects with the signal's reason when it aborts. */
  async acquire(urgency: Urgency, signal: AbortSignal): Promise<number> {
    signal.throwIfAborted()
    const slot = this.#waiting.size === 0 ? this.#take() : undefined
    if (slot !== undefined) return slot
    return await new Promise((resolve, reject) => {
      const done = (): void => {
        leave()
        signal.removeEventListener('abort', onAbort)
      }
      const onAbort = (): void => {
        done()
        reject(signal.reason)
      }
      const leave = this.#waiting.join(slot => {
        done()
        resolve(slot)
      }, urgency)
      signal.addEventListener('abort', onAbort)
      this.#poll()
    })
  }

  /** The slot holds the chunk now, and has so many pins that are given out. */
  publish(number: number, slot: number, pins: number): void {
    this.#lru.set(number, slot)
    // Marked by those who read what was here before, perhaps through an earlier engine.
    this.#arena.takeUsed(slot)
    this.#arena.publish(number, slot, pins)
  }

  /** Filling the slot came to nothing. */
  abandon(slot: number): void {
    this.#free.push(slot)
    this.#serve()
  }

  /** Counts as a use of a chunk that is there. */
  touch(number: number): void {
    this.#lru.get(number)
  }

  /** Lets all chunks go; the arena is not filled any more. */
  clear(): void {
    for (const number of this.#lru.keys()) this.#arena.withdraw(number)
    this.#lru.clear()
  }

  #take(): number | undefined {
    return this.#free.pop() ?? this.#reclaim() ?? this.#evict()
  }

  #reclaim(): number | undefined {
    for (const slot of this.#aside) {
      if (this.#arena.isPinned(slot)) continue
      this.#aside.delete(slot)
      return slot
    }
    return undefined
  }

  /** Every chunk is looked at twice at most: once to lose its mark. */
  #evict(): number | undefined {
    for (let tries = 2 * this.#lru.size; tries > 0; tries--) {
      const number: number = this.#lru.rkeys().next().value!
      const slot = this.#lru.peek(number)!
      if (this.#arena.takeUsed(slot) || this.#arena.isPinned(slot)) {
        this.#lru.get(number)
        continue
      }
      this.#lru.delete(number)
      this.#arena.withdraw(number)
      this.evictions++
      this.#onEvict(number)
      if (!this.#arena.isPinned(slot)) return slot
      this.#aside.add(slot)
    }
    return undefined
  }

  #serve(): void {
    for (let next = this.#waiting.first(); next !== undefined; next = this.#waiting.first()) {
      const slot = this.#take()
      if (slot === undefined) return
      next(slot)
    }
  }

  #poll(): void {
    if (this.#polling) return
    this.#polling = true
    this.#clock.after(POLL_MS, () => {
      this.#polling = false
      this.#serve()
      if (this.#waiting.size > 0) this.#poll()
    })
  }
}
