/**
 * Opened chunks: which have numbers, which lie in the arena, and how one that does not gets there.
 *
 * A miss: the chunk's flight, which others join; sealed bytes from a tier, in a slot of the slab; a slot of the arena; verified and opened into that in one go (0.3 to
 * 1 ms of this thread); published with a pin for each who waited, so that it cannot leave before they looked.
 *
 * A number is held by each open snapshot that has the chunk, and by the chunk itself while it is on its way or in the arena.
 */
import { ArenaSlots } from '../arena/slots.ts'
import { ABSENT, type ArenaMemory, ArenaWriter } from '../arena.ts'
import type { SealedSource } from '../cache/tiered.ts'
import type { Pinned, WantOptions } from '../engine.ts'
import { ThawError, type Tier } from '../errors.ts'
import { OpenedChunk } from '../seal.ts'
import { type MemoryFigures, TierCounters } from '../stats.ts'
import type { Clock } from '../util/clock.ts'
import { Deadline } from '../util/deadline.ts'
import { type Flight, Flights } from '../util/flights.ts'
import type { StoredChunk } from './chunk-table.ts'
import { ChunkNumbers, type IdentityColumns } from './numbers.ts'

/** A chunk is had within this or the read fails, whatever it waits for: more than any one tier may take, so that the one to blame speaks first. */
const READ_TIMEOUT_MS = 60_000

/** A chunk that was opened into a slot. */
interface Landed {
  readonly number: number
  readonly slot: number
  readonly tier: Tier
}

export class OpenedChunks {
  readonly arena: ArenaWriter
  /** Reads on this thread count their hits here. */
  readonly counters: TierCounters = new TierCounters('memory')
  readonly #clock: Clock
  readonly #slots: ArenaSlots
  readonly #numbers = new ChunkNumbers()
  readonly #flights = new Flights<number, Landed>((landed, readers) => this.#land(landed, readers))
  /** Through which store each flight goes. */
  readonly #sources = new Map<number, SealedSource>()
  #closed = false

  constructor(memory: ArenaMemory, clock: Clock) {
    this.arena = new ArenaWriter(memory)
    this.#clock = clock
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

  /** `chunk` is only called on a miss. */
  async want(number: number, chunk: () => StoredChunk, source: SealedSource, options: WantOptions): Promise<Pinned> {
    const slot = this.arena.pin(number)
    if (slot !== ABSENT) return { slot, tier: 'memory' }
    const through = this.#sources.get(number) ?? source
    try {
      return await this.#flights.join(number, flight => this.#bring(number, chunk(), source, flight), options)
    } catch (error) {
      if (through === source || this.#closed) throw error
      // Another store's trouble, or its end, is not this one's.
      options.signal?.throwIfAborted()
      return await this.want(number, chunk, source, options)
    }
  }

  /** What lands when all is over stays out of the arena, whose memory may be another engine's by then. */
  #land({ number, slot }: Landed, readers: number): void {
    if (!this.#closed) this.#slots.publish(number, slot, readers)
  }

  async #bring(number: number, chunk: StoredChunk, source: SealedSource, { urgency, signal }: Flight): Promise<Landed> {
    const { id, objectKey } = chunk.sealed
    const tooLate = (): ThawError =>
      new ThawError('TIMEOUT', `chunk ${id} could not be had within ${READ_TIMEOUT_MS} ms`, { object: objectKey })
    using deadline = new Deadline(READ_TIMEOUT_MS, tooLate, { clock: this.#clock, signals: [signal] })
    const options = { urgency, signal: deadline.signal }
    this.counters.misses++
    this.#numbers.retain(number)
    this.#sources.set(number, source)
    try {
      return await source.withSealed(
        chunk.sealed,
        async ({ bytes, tier }) => {
          const slot = await this.#slots.acquire(urgency, deadline.signal)
          try {
            OpenedChunk.open(bytes, chunk, this.arena.pages(slot))
          } catch (error) {
            this.#slots.abandon(slot)
            throw error
          }
          return { number, slot, tier }
        },
        options,
      )
    } catch (error) {
      this.#numbers.drop(number)
      throw error
    } finally {
      this.#sources.delete(number)
    }
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
