/**
 * Opened chunks: which have numbers, which lie in the arena, and how one that does not gets there.
 *
 * A miss is a flight that others join: a slot of the arena; sealed bytes from a tier, in a slot of
 * the slab; opened into the arena's slot, verified; published with a pin for each who waits, so that
 * it cannot leave before they looked. What scarce things that takes, it takes in the order of the
 * gates (util/gate.ts).
 *
 * A flight owns its source, its slot and its hold on the number, and gives up all three when it
 * ends: slot and hold to the arena's entry, or back. Who reads through another store does not join
 * it: that store may hang. A chunk is published once: a second flight of it, through another store or
 * begun when all had left the first, finds it there.
 *
 * Whoever waits has a deadline of his own. What may pass is asked for again until then: an attempt
 * ends for all who wait, and each goes on by himself. He holds the number: his snapshot may be released
 * meanwhile, and then the number must not be another chunk's while he goes on with it.
 */
import { ArenaSlots, type EmptySlot } from '../arena/slots.ts'
import { ABSENT, type ArenaMemory, ArenaWriter } from '../arena.ts'
import type { SealedSource } from '../cache/tiered.ts'
import type { Pinned, WantOptions } from '../engine.ts'
import { isThawError, ThawError, type Tier } from '../errors.ts'
import { type MemoryFigures, TierCounters } from '../stats.ts'
import type { Clock } from '../util/clock.ts'
import { Deadline } from '../util/deadline.ts'
import { Retries } from '../util/retry.ts'
import { type Flight, SingleFlight } from '../util/single-flight.ts'
import type { StoredChunk } from './chunk-table.ts'
import { ChunkNumbers, type IdentityColumns } from './numbers.ts'
import type { Opening } from './opening.ts'

/** How long a reader waits. Guests have deadlines of their own, and ask again until then. Lines wait a little longer (line-promises.ts). */
const READ_TIMEOUT_MS = 60_000

/** What came of a flight. */
type Outcome = Opened | Failed

/** Its number is held: by the flight, or by the arena's entry once it is published. */
interface Opened {
  readonly kind: 'opened'
  readonly number: number
  readonly tier: Tier
  readonly empty: EmptySlot
  /** Where it lies: known when it is published. */
  slot: number
}

interface Failed {
  readonly kind: 'failed'
  readonly error: unknown
}

export class OpenedChunks {
  readonly arena: ArenaWriter
  /** Reads on this thread count their hits here. */
  readonly counters: TierCounters = new TierCounters('memory')
  readonly #clock: Clock
  readonly #timeoutMs: number
  readonly #opening: Opening
  readonly #slots: ArenaSlots
  readonly #numbers = new ChunkNumbers()
  /** By the source's number and the chunk's. */
  readonly #flights = new SingleFlight<string, Outcome>((outcome, waiters) => this.#publish(outcome, waiters))
  #closed = false

  /** @throws RangeError for a time that is not in (0, 60 s] */
  constructor(memory: ArenaMemory, opening: Opening, clock: Clock, timeoutMs: number = READ_TIMEOUT_MS) {
    if (!(timeoutMs > 0 && timeoutMs <= READ_TIMEOUT_MS))
      throw new RangeError(`readTimeoutMs ${timeoutMs} is not in (0, ${READ_TIMEOUT_MS}]`)
    this.#timeoutMs = timeoutMs
    this.arena = new ArenaWriter(memory)
    this.#clock = clock
    this.#opening = opening
    this.#slots = new ArenaSlots(this.arena, clock, number => this.#numbers.drop(number))
  }

  /** Numbers for the chunks of a snapshot that opens. @throws NO_SPACE, or the signal's reason */
  hold(chunks: IdentityColumns, signal: AbortSignal): Promise<Uint32Array> {
    return this.#numbers.hold(chunks, signal)
  }

  /** Settles when the numbers may mean other chunks. */
  release(numbers: Uint32Array): Promise<void> {
    return this.#numbers.release(numbers)
  }

  /** `chunkOf` is only called on a miss. @throws what the tiers and the store say; TIMEOUT */
  async want(number: number, chunkOf: () => StoredChunk, source: SealedSource, options: WantOptions): Promise<Pinned> {
    const found = this.#find(number)
    if (found !== undefined) return found
    const chunk = chunkOf()
    this.#numbers.retain(number)
    try {
      return await this.#miss(number, chunk, source, options)
    } finally {
      this.#numbers.drop(number)
    }
  }

  async #miss(number: number, chunk: StoredChunk, source: SealedSource, options: WantOptions): Promise<Pinned> {
    const { id, objectKey } = chunk.sealed
    let cause: unknown
    const tooLate = (): ThawError => {
      const tier = isThawError(cause) ? cause.tier : undefined
      const options = { object: objectKey, cause, ...(tier === undefined ? {} : { tier }) }
      return new ThawError('TIMEOUT', `chunk ${id} could not be had within ${this.#timeoutMs} ms`, options)
    }
    using deadline = new Deadline(this.#timeoutMs, tooLate, { clock: this.#clock, signals: [options.signal, source.closed] })
    const { signal } = deadline
    const retries = new Retries({ clock: this.#clock })
    for (;;) {
      const work = (flight: Flight): Promise<Outcome> => this.#bring(number, chunk, source, flight)
      const outcome = await this.#flights.join(`${source.number} ${number}`, work, { ...options, signal })
      if (outcome.kind === 'opened') return { slot: outcome.slot, tier: outcome.tier }
      cause = outcome.error
      await retries.waitAfter(cause, signal)
      const published = this.#find(number)
      if (published !== undefined) return published
    }
  }

  #find(number: number): Pinned | undefined {
    const slot = this.arena.pin(number)
    return slot === ABSENT ? undefined : { slot, tier: 'memory' }
  }

  async #bring(number: number, chunk: StoredChunk, source: SealedSource, flight: Flight): Promise<Outcome> {
    this.counters.misses++
    this.#numbers.retain(number)
    let empty: EmptySlot | undefined
    try {
      const slot = await this.#slots.acquire(flight)
      empty = slot
      const tier = await source.withSealed(
        chunk.sealed,
        async sealed => {
          await this.#opening.open(sealed, chunk, slot.index, flight)
          return sealed.tier
        },
        flight,
      )
      return { kind: 'opened', number, tier, empty, slot: slot.index }
    } catch (error) {
      empty?.abandon()
      this.#numbers.drop(number)
      return { kind: 'failed', error }
    }
  }

  /** What is opened when all is over stays out of the arena, whose memory may be another engine's by then. */
  #publish(outcome: Outcome, waiters: number): void {
    if (outcome.kind === 'failed' || this.#closed) return
    const { number, empty } = outcome
    outcome.slot = empty.publish(number, waiters)
    // Else the hold is the new entry's.
    if (outcome.slot !== empty.index) this.#numbers.drop(number)
  }

  /** Ends what is on its way: whoever waits gets `reason`. Nothing is in the arena afterwards. */
  close(reason: unknown): void {
    this.#closed = true
    this.#flights.close(reason)
    this.#slots.clear()
  }

  figures(): MemoryFigures {
    const { latency: _, ...counts } = this.counters.read()
    return {
      ...counts,
      chunks: this.#slots.size,
      chunksMax: this.arena.slots,
      evictions: this.#slots.evictions,
    }
  }
}
