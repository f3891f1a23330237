/**
 * Reading from one store, so that a fleet that starts from empty caches queues and does not storm:
 * the calls under way and the bytes they may move pass a gate, and each attempt has a limit: from
 * its turn to the last byte, connecting, tries again and second tries included. How long somebody
 * waits is for him to say, by his signal.
 *
 * Memory was taken before (util/gate.ts has the order). Who gives up is answered at once; his place
 * and his slot are free only when the store's call has settled, because until then the store is busy
 * with it and may write to the slot.
 *
 * What comes out has the right length and is not verified otherwise: whoever does that says so, and
 * only then it counts as served. Every ThawError names the tier `origin`.
 */
import { isThawError, ThawError, withTier } from '../errors.ts'
import { type OriginFigures, TierCounters } from '../stats.ts'
import type { CallOptions, ObjectStore } from '../store.ts'
import { type Clock, systemClock } from '../util/clock.ts'
import { Deadline } from '../util/deadline.ts'
import { Gate, type GateRequest, type Place } from '../util/gate.ts'
import { Histogram } from '../util/histogram.ts'
import type { Slab, Slot } from '../util/slab.ts'
import { firstAnswer, HedgeBudget } from './hedge.ts'

export interface OriginOptions {
  /** Reads under way at a time, second tries included; default: the store's `concurrency`. */
  readonly callsMax?: number | undefined
  /** Bytes that the reads under way may move; default 64 MiB. */
  readonly bytesMax?: number | undefined
  /** Of one attempt, from its turn to the last byte; default 30 s. */
  readonly timeoutMs?: number | undefined
  /** Try a second time when the first is late; default true. */
  readonly hedge?: boolean | undefined
  readonly clock?: Clock | undefined
}

export interface OriginReadOptions extends CallOptions, Pick<GateRequest, 'urgency' | 'owner'> {}

/** What a read gave. */
export interface OriginRead<T> {
  readonly value: T
  /** Counts it as served: what it gave is good. */
  readonly praise: () => void
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

export interface OriginGetOptions extends OriginReadOptions {
  /** Largest object accepted, in bytes. */
  readonly sizeMax: number
}

interface ObjectRead {
  readonly objectKey: string
  readonly sizeBytes: number
  readonly request: GateRequest
}

/** One store that is open, for reading only. It does not own the store: closing that ends what is under way here. */
export class Origin {
  readonly counters: OriginCounters
  readonly #objects: ObjectStore
  readonly #slab: Slab
  readonly #gate: Gate
  readonly #getWeight: number
  readonly #timeoutMs: number
  readonly #clock: Clock
  readonly #hedge: HedgeBudget | undefined

  constructor(objects: ObjectStore, counters: OriginCounters, slab: Slab, options: OriginOptions = {}) {
    const { callsMax = objects.concurrency, bytesMax = 64 * 2 ** 20, timeoutMs = 30_000, hedge = true, clock = systemClock } = options
    this.counters = counters
    this.#objects = objects
    this.#slab = slab
    this.#gate = new Gate({ countMax: callsMax, weightMax: bytesMax })
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
   * Reads an object of exactly that length to the start of a slot, which is the origin's until it gives that one or another, for the caller to release, or releases it.
   * @throws CORRUPT if its length is another; TIMEOUT; and what the store says: NOT_FOUND, UNAVAILABLE, DENIED, CLOSED
   */
  async fetch(objectKey: string, sizeBytes: number, slot: Slot, options: OriginReadOptions = {}): Promise<OriginRead<Slot>> {
    const { urgency, owner, signal } = options
    const request = { urgency, owner, weight: sizeBytes }
    const place = await this.#enter(request, signal).catch(error => {
      slot.release()
      throw error
    })
    const startedMs = this.#clock.now()
    const filled = await this.#inTime(objectKey, signal, attempt =>
      this.#readHedged({ objectKey, sizeBytes, request }, slot, place, attempt),
    )
    const ms = this.#clock.now() - startedMs
    this.#hedge?.record(ms)
    return { value: filled, praise: () => this.counters.hit(sizeBytes, ms) }
  }

  /**
   * Reads an object whose length is not known, such as a manifest, into memory that is the caller's. It counts with an equal share of the bytes that may be under way, for
   * `sizeMax` says what is allowed and not what is usual.
   * @throws BAD_FORMAT if it has more than `sizeMax` bytes; TIMEOUT; and what the store says: NOT_FOUND, UNAVAILABLE, DENIED, CLOSED
   */
  async get(objectKey: string, { sizeMax, urgency, owner, signal }: OriginGetOptions): Promise<OriginRead<Uint8Array>> {
    const place = await this.#enter({ urgency, owner, weight: Math.min(sizeMax, this.#getWeight) }, signal)
    const startedMs = this.#clock.now()
    const bytes = await this.#inTime(objectKey, signal, (attempt, race) =>
      race(this.#underWay(place, () => this.#objects.get(objectKey, { sizeMax, signal: attempt }))),
    )
    const ms = this.#clock.now() - startedMs
    return { value: bytes, praise: () => this.counters.hit(bytes.length, ms) }
  }

  /** A turn. */
  async #enter(request: GateRequest, signal: AbortSignal | undefined): Promise<Place> {
    const arrivedMs = this.#clock.now()
    try {
      const place = await this.#gate.admit(request, signal)
      this.counters.queue.record(this.#clock.now() - arrivedMs)
      return place
    } catch (error) {
      throw this.#failed(error, signal)
    }
  }

  async #inTime<T>(
    object: string,
    signal: AbortSignal | undefined,
    read: (attempt: AbortSignal, race: <R>(work: Promise<R>) => Promise<R>) => Promise<T>,
  ): Promise<T> {
    const tooLate = (): ThawError =>
      new ThawError('TIMEOUT', `the store did not give it within ${this.#timeoutMs} ms: ${object}`, { object, tier: 'origin' })
    using deadline = new Deadline(this.#timeoutMs, tooLate, { clock: this.#clock, signals: [signal] })
    try {
      return await read(deadline.signal, work => deadline.race(work))
    } catch (error) {
      throw this.#failed(error, signal)
    }
  }

  /** Counts a failure that is not the caller's own. */
  #failed(error: unknown, signal: AbortSignal | undefined): unknown {
    if (signal?.aborted) return signal.reason
    this.counters.errors++
    if (isThawError(error, 'CORRUPT')) this.counters.corrupt++
    return withTier(error, 'origin')
  }

  #readHedged(read: ObjectRead, slot: Slot, place: Place, attempt: AbortSignal): Promise<Slot> {
    this.#hedge?.earn()
    const tries = {
      first: (signal: AbortSignal) => this.#readInto(read, slot, place, signal),
      second: (signal: AbortSignal) => this.#readAgain(read, signal),
      afterMs: this.#hedge?.afterMs,
      discard: (late: Slot) => late.release(),
    }
    return firstAnswer(tries, this.#clock, attempt).then(won => {
      if (won !== slot) this.counters.hedgesWon++
      return won
    })
  }

  /** The second try, if the budget, the slab and the gate all have room for it now: it waits for nothing. */
  #readAgain(read: ObjectRead, signal: AbortSignal): Promise<Slot> | undefined {
    if (!this.#hedge?.allows) return undefined
    const slot = this.#slab.tryAcquire(read.request)
    if (slot === undefined) return undefined
    const place = this.#gate.tryEnter(read.request)
    if (place === undefined) {
      slot.release()
      return undefined
    }
    this.#hedge.spend()
    this.counters.hedges++
    return this.#readInto(read, slot, place, signal)
  }

  /** One try. Its slot comes back filled, or is released. */
  async #readInto({ objectKey, sizeBytes }: ObjectRead, slot: Slot, place: Place, signal: AbortSignal): Promise<Slot> {
    try {
      const target = slot.bytes.subarray(0, sizeBytes)
      const length = await this.#underWay(place, () => this.#objects.getInto(objectKey, target, { signal }))
      if (length !== sizeBytes) throw wrongLength(objectKey, `${length} bytes, not ${sizeBytes}`)
      return slot
    } catch (error) {
      slot.release()
      // The store's word for an object that is longer than its target.
      throw isThawError(error, 'BAD_FORMAT') ? wrongLength(objectKey, `more than ${sizeBytes} bytes`, error) : error
    }
  }

  /** Makes a call of the store, in a place that is given back when it has settled. */
  async #underWay<T>(place: Place, call: () => Promise<T>): Promise<T> {
    this.counters.begin()
    try {
      return await call()
    } finally {
      this.counters.end()
      place.leave()
    }
  }
}

function wrongLength(object: string, what: string, cause?: unknown): ThawError {
  return new ThawError('CORRUPT', `the store gave ${what}: ${object}`, { object, tier: 'origin', cause })
}
