/**
 * Reading from one store, so that a fleet that starts from empty caches queues and does not storm: the calls under way and the bytes they may move are bounded, demands go
 * before what is prefetched, and a call's deadline covers all of it: its place in the queue, connecting, the body, tries again and second tries.
 *
 * First the turn, then a slot of memory, then the read, so that nobody holds memory while he queues. Who gave up is answered at once; his place and his slot are free
 * only when the store's call has settled, because until then the store is busy with it and may write to the slot.
 *
 * What comes out has the right length and is not verified otherwise. Every ThawError names the tier `origin`.
 */
import { isThawError, ThawError, withTier } from '../errors.ts'
import { type OriginFigures, TierCounters } from '../stats.ts'
import { Turnstile } from '../store/turnstile.ts'
import type { CallOptions, ObjectStore } from '../store.ts'
import { type Clock, systemClock } from '../util/clock.ts'
import { Deadline } from '../util/deadline.ts'
import { Histogram } from '../util/histogram.ts'
import type { Slab, Slot } from '../util/slab.ts'
import type { Urgency } from '../util/urgency.ts'
import { firstAnswer, HedgeBudget } from './hedge.ts'

/** Reads that may wait; those beyond are UNAVAILABLE. */
const WAITING_MAX = 65_536

export interface OriginOptions {
  /** Reads under way at a time, second tries included; default: the store's `concurrency`. */
  readonly callsMax?: number | undefined
  /** Bytes that the reads under way may move; default 64 MiB. */
  readonly bytesMax?: number | undefined
  /** Of a whole read, from the queue to the last byte; default 30 s. */
  readonly timeoutMs?: number | undefined
  /** Try a second time when the first is late; default true. */
  readonly hedge?: boolean | undefined
  readonly clock?: Clock | undefined
}

export interface OriginReadOptions extends CallOptions {
  /** Default: a demand. */
  readonly urgency?: Urgency | undefined
}

/** What is counted of the origin: of one store, or of all that share it. */
export class OriginCounters extends TierCounters {
  hedges = 0
  hedgesWon = 0
  readonly queue: Histogram = new Histogram()
  #underWay = 0
  #underWayMax = 0

  constructor() {
    super('origin')
  }

  /** A read begins. */
  begin(): void {
    if (++this.#underWay > this.#underWayMax) this.#underWayMax = this.#underWay
  }

  /** A read ended, whatever it came to. */
  end(): void {
    this.#underWay--
  }

  override read(): OriginFigures {
    const { hedges, hedgesWon, queue } = this
    return { ...super.read(), hedges, hedgesWon, underWay: this.#underWay, underWayMax: this.#underWayMax, queue: queue.read() }
  }
}

interface ObjectRead {
  readonly objectKey: string
  readonly sizeBytes: number
}

/** One store that is open, for reading only. It does not own the store: closing that ends what is under way here. */
export class Origin {
  readonly counters: OriginCounters
  readonly #objects: ObjectStore
  readonly #slab: Slab
  readonly #turnstile: Turnstile
  readonly #getWeight: number
  readonly #timeoutMs: number
  readonly #clock: Clock
  readonly #hedge: HedgeBudget | undefined

  constructor(objects: ObjectStore, counters: OriginCounters, slab: Slab, options: OriginOptions = {}) {
    const { callsMax = objects.concurrency, bytesMax = 64 * 2 ** 20, timeoutMs = 30_000, hedge = true, clock = systemClock } = options
    this.counters = counters
    this.#objects = objects
    this.#slab = slab
    this.#turnstile = new Turnstile({ countMax: callsMax, weightMax: bytesMax, waitingMax: WAITING_MAX })
    this.#getWeight = Math.floor(bytesMax / callsMax)
    this.#timeoutMs = timeoutMs
    this.#clock = clock
    this.#hedge = hedge ? new HedgeBudget() : undefined
  }

  /** Names the store in messages, without credentials. */
  get url(): string {
    return this.#objects.url
  }

  /**
   * Reads an object of exactly that length to the start of a slot, which the caller releases.
   * @throws CORRUPT if its length is another; TIMEOUT; and what the store says: NOT_FOUND, UNAVAILABLE, DENIED, CLOSED
   */
  async fetch(objectKey: string, sizeBytes: number, { urgency, signal }: OriginReadOptions = {}): Promise<Slot> {
    if (sizeBytes > this.#slab.slotBytes) throw new RangeError(`an object of ${sizeBytes} bytes in slots of ${this.#slab.slotBytes}`)
    return this.#inTime(objectKey, signal, async deadline => {
      const arrivedMs = this.#clock.now()
      const slot = await this.#enterWithSlot(sizeBytes, urgency, deadline)
      const admittedMs = this.#admitted(arrivedMs)
      const filled = await this.#readHedged({ objectKey, sizeBytes }, slot, deadline)
      const ms = this.#clock.now() - admittedMs
      this.#hedge?.record(ms)
      this.counters.hit(sizeBytes, ms)
      return filled
    })
  }

  /**
   * Reads an object whose length is not known, such as a manifest, into memory that is the caller's. It counts with an equal share of the bytes that may be under way, for
   * `sizeMax` says what is allowed and not what is usual.
   * @throws BAD_FORMAT if it has more than `sizeMax` bytes; TIMEOUT; and what the store says: NOT_FOUND, UNAVAILABLE, DENIED, CLOSED
   */
  get(objectKey: string, { sizeMax, urgency, signal }: OriginReadOptions & { readonly sizeMax: number }): Promise<Uint8Array> {
    return this.#inTime(objectKey, signal, async (deadline, race) => {
      const arrivedMs = this.#clock.now()
      const weight = Math.min(sizeMax, this.#getWeight)
      await this.#turnstile.enter(weight, { urgency, signals: [deadline] })
      const admittedMs = this.#admitted(arrivedMs)
      const bytes = await race(this.#underWay(weight, () => this.#objects.get(objectKey, { sizeMax, signal: deadline })))
      this.counters.hit(bytes.length, this.#clock.now() - admittedMs)
      return bytes
    })
  }

  async #inTime<T>(
    object: string,
    signal: AbortSignal | undefined,
    read: (deadline: AbortSignal, race: <R>(work: Promise<R>) => Promise<R>) => Promise<T>,
  ): Promise<T> {
    const tooLate = (): ThawError =>
      new ThawError('TIMEOUT', `the store did not give it within ${this.#timeoutMs} ms: ${object}`, { object, tier: 'origin' })
    using deadline = new Deadline(this.#timeoutMs, tooLate, { clock: this.#clock, signals: [signal] })
    try {
      return await read(deadline.signal, work => deadline.race(work))
    } catch (error) {
      signal?.throwIfAborted()
      this.counters.errors++
      if (isThawError(error, 'CORRUPT')) this.counters.corrupt++
      throw withTier(error, 'origin')
    }
  }

  async #enterWithSlot(sizeBytes: number, urgency: Urgency | undefined, signal: AbortSignal): Promise<Slot> {
    await this.#turnstile.enter(sizeBytes, { urgency, signals: [signal] })
    try {
      return await this.#slab.acquire({ urgency, signal })
    } catch (error) {
      this.#turnstile.leave(sizeBytes)
      throw error
    }
  }

  /** Notes how long a read waited, and gives the time from which on it is the store's. */
  #admitted(arrivedMs: number): number {
    const admittedMs = this.#clock.now()
    this.counters.queue.record(admittedMs - arrivedMs)
    return admittedMs
  }

  #readHedged(read: ObjectRead, slot: Slot, deadline: AbortSignal): Promise<Slot> {
    this.#hedge?.earn()
    const tries = {
      first: (signal: AbortSignal) => this.#readInto(read, slot, signal),
      second: (signal: AbortSignal) => this.#readAgain(read, signal),
      afterMs: this.#hedge?.afterMs,
      discard: (late: Slot) => late.release(),
    }
    return firstAnswer(tries, this.#clock, deadline).then(won => {
      if (won !== slot) this.counters.hedgesWon++
      return won
    })
  }

  /** The second try, if the budget, the turnstile and the slab all have room for it now. */
  #readAgain(read: ObjectRead, signal: AbortSignal): Promise<Slot> | undefined {
    if (!this.#hedge?.allows || !this.#turnstile.tryEnter(read.sizeBytes)) return undefined
    const slot = this.#slab.tryAcquire()
    if (slot === undefined) {
      this.#turnstile.leave(read.sizeBytes)
      return undefined
    }
    this.#hedge.spend()
    this.counters.hedges++
    return this.#readInto(read, slot, signal)
  }

  /** One try. Its slot comes back filled, or is released. */
  async #readInto({ objectKey, sizeBytes }: ObjectRead, slot: Slot, signal: AbortSignal): Promise<Slot> {
    try {
      const target = slot.bytes.subarray(0, sizeBytes)
      const length = await this.#underWay(sizeBytes, () => this.#objects.getInto(objectKey, target, { signal }))
      if (length !== sizeBytes) throw wrongLength(objectKey, `${length} bytes, not ${sizeBytes}`)
      return slot
    } catch (error) {
      slot.release()
      // The store's word for an object that is longer than its target.
      throw isThawError(error, 'BAD_FORMAT') ? wrongLength(objectKey, `more than ${sizeBytes} bytes`, error) : error
    }
  }

  /** Makes a call of the store, in a place of the turnstile that was taken before. */
  async #underWay<T>(weight: number, call: () => Promise<T>): Promise<T> {
    this.counters.begin()
    try {
      return await call()
    } finally {
      this.counters.end()
      this.#turnstile.leave(weight)
    }
  }
}

function wrongLength(object: string, what: string, cause?: unknown): ThawError {
  return new ThawError('CORRUPT', `the store gave ${what}: ${object}`, { object, tier: 'origin', cause })
}
