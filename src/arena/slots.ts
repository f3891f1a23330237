/**
 * Which chunks lie in the arena: hands out slots to fill, and decides what leaves.
 *
 * The least recently used leaves first. Readers on other threads cannot say that they used a slot,
 * they only mark it: one that is marked when its turn to leave comes stays once more. A slot whose
 * chunk left while somebody read it is set aside until the last pin is gone.
 */
import type { ArenaWriter } from '../arena.ts'
import type { Clock } from '../util/clock.ts'
import { type EvictionPolicy, LeastRecentlyUsed } from '../util/eviction.ts'
import { Gate, type Place } from '../util/gate.ts'
import type { AcquireOptions } from '../util/slab.ts'

/** Other threads take their pins back without telling: those who wait for a slot look again after so long. */
const POLL_MS = 1

/** Slots that may keep their chunks for having been read, each time that one has to leave: 0.1 ms. */
const SPARED_MAX = 128

/** `#chunkOf` of a slot that holds none. */
const NONE = -1

/** A slot to fill. Its holder publishes or abandons it, once. */
export interface EmptySlot {
  readonly index: number
  /**
   * The slot holds a chunk now. Where that lies in another slot already it stays there, and this slot is free.
   * @param pins that are given out with it
   * @returns the slot that the chunk lies in
   */
  publish(number: number, pins: number): number
  /** Filling it came to nothing. */
  abandon(): void
}

export class ArenaSlots {
  readonly #arena: ArenaWriter
  readonly #clock: Clock
  readonly #onEvict: (number: number) => void
  readonly #policy: EvictionPolicy = new LeastRecentlyUsed()
  readonly #gate: Gate
  /** By slot. */
  readonly #chunkOf: Int32Array
  readonly #free: number[]
  /** Of chunks that left, but are still read. */
  readonly #aside = new Set<number>()
  /** For whoever is admitted next. */
  #ready: number | undefined
  #isPolling = false
  #size = 0
  evictions = 0

  /** `onEvict` is told of the number of each chunk that left. */
  constructor(arena: ArenaWriter, clock: Clock, onEvict: (number: number) => void) {
    this.#arena = arena
    this.#clock = clock
    this.#onEvict = onEvict
    this.#chunkOf = new Int32Array(arena.slots).fill(NONE)
    this.#free = Array.from({ length: arena.slots }, (_, index) => arena.slots - 1 - index)
    this.#gate = new Gate({ countMax: arena.slots, keepsFree: true, isReady: () => this.#isReady() })
  }

  /** Chunks in the arena. */
  get size(): number {
    return this.#size
  }

  /** A slot to fill. Rejects with the signal's reason when it aborts. */
  acquire({ signal, ...request }: AcquireOptions): Promise<EmptySlot> {
    return this.#gate.admitTo(this.#lend, request, signal)
  }

  /** Lets all chunks go; the arena is not filled any more. */
  clear(): void {
    for (const number of this.#chunkOf) if (number !== NONE) this.#arena.withdraw(number)
    this.#chunkOf.fill(NONE)
    this.#size = 0
  }

  readonly #lend = (place: Place): EmptySlot => {
    const index = this.#ready!
    this.#ready = undefined
    return {
      index,
      publish: (number, pins) => {
        const slot = this.#publish(number, index, pins)
        place.leave()
        return slot
      },
      abandon: () => {
        this.#free.push(index)
        place.leave()
      },
    }
  }

  #publish(number: number, slot: number, pins: number): number {
    if (this.#arena.has(number)) {
      this.#free.push(slot)
      const there = this.#arena.pin(number)
      for (let left = pins; left > 1; left--) this.#arena.pin(number)
      if (pins === 0) this.#arena.unpin(there)
      return there
    }
    this.#chunkOf[slot] = number
    this.#size++
    this.#policy.insert(slot)
    // Marked by those who read what was here before, perhaps through an earlier engine.
    this.#arena.takeUsed(slot)
    this.#arena.publish(number, slot, pins)
    return slot
  }

  #isReady(): boolean {
    this.#ready ??= this.#free.pop() ?? this.#reclaim() ?? this.#evict()
    if (this.#ready === undefined) this.#poll()
    return this.#ready !== undefined
  }

  #reclaim(): number | undefined {
    for (const slot of this.#aside) {
      if (this.#arena.isPinned(slot)) continue
      this.#aside.delete(slot)
      return slot
    }
    return undefined
  }

  /** A bounded step: where so many slots in a row were read since the last look, marks say nothing, and the next one leaves. */
  #evict(): number | undefined {
    const sparedMax = Math.min(this.#size, SPARED_MAX)
    for (let tries = 2 * sparedMax; tries > 0; tries--) {
      const slot = this.#policy.victim()
      if (slot === undefined) return undefined
      const isMarked = this.#arena.takeUsed(slot) && tries > sparedMax
      if (isMarked || this.#arena.isPinned(slot)) {
        this.#policy.touched(slot)
        continue
      }
      this.#withdraw(slot)
      if (!this.#arena.isPinned(slot)) return slot
      this.#aside.add(slot)
    }
    return undefined
  }

  #withdraw(slot: number): void {
    const number = this.#chunkOf[slot]!
    this.#policy.remove(slot)
    this.#chunkOf[slot] = NONE
    this.#size--
    this.#arena.withdraw(number)
    this.evictions++
    this.#onEvict(number)
  }

  #poll(): void {
    if (this.#isPolling) return
    this.#isPolling = true
    this.#clock.after(POLL_MS, () => {
      this.#isPolling = false
      this.#gate.look()
    })
  }
}
