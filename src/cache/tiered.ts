/**
 * Sealed bytes from the nearest tier that has them: the caches in order, then the origin.
 *
 * - A cache that fails never fails a read: it is counted, and the next one is asked.
 * - Nothing is believed. Whoever uses the bytes compares them with their id first, and throws CORRUPT if they are others; then the copy is evicted where it was, the next
 *   tier is asked, and once a good copy is found it takes the bad one's place. Only the origin's bad bytes are an error, with the object's name.
 * - One fetch an id, however many ask at a time; all of them look at the same slot of memory.
 * - Copies to the tiers above are made in the background, from memory of their own, and dropped where there are too many under way: a reader never waits for a cache to be
 *   written.
 */
import { setMaxListeners } from 'node:events'
import { isThawError, ThawError, type Tier } from '../errors.ts'
import type { CallOptions } from '../store.ts'
import type { Clock } from '../util/clock.ts'
import type { GateRequest } from '../util/gate.ts'
import { sha256OfLong } from '../util/long-bytes.ts'
import { type Flight, SingleFlight } from '../util/single-flight.ts'
import type { Slab, Slot } from '../util/slab.ts'
import { type CountedCache, type Fills, keep } from './fills.ts'
import type { Origin } from './origin.ts'

/** What all stores read through. */
export interface Tiers {
  /** In the order in which they are asked. */
  readonly caches: readonly CountedCache[]
  readonly fills: Fills
  readonly slab: Slab
  readonly clock: Clock
}

/** An object that is named by its SHA-256. */
export interface SealedRef {
  /** 64 hex digits. */
  readonly id: string
  /** Where it lies in the store. */
  readonly objectKey: string
  readonly sizeBytes: number
}

/** Sealed bytes in a slot that others may be looking at too: not to be written to. */
export interface SealedBytes {
  /** Of the slab. */
  readonly slot: number
  readonly bytes: Uint8Array
  readonly tier: Exclude<Tier, 'memory'>
}

/** Which tiers a fetch touches. */
export interface ReachOptions {
  /** Ask no cache and fill none: to know what the store has. */
  readonly originOnly?: boolean | undefined
  /** Make no copies in caches, but to replace a bad one: the caller makes those it wants. */
  readonly withoutFills?: boolean | undefined
}

/** For the gates on the way: `urgency` and `owner` as there. */
export interface FetchOptions extends CallOptions, ReachOptions, Pick<GateRequest, 'urgency' | 'owner'> {}

export interface ObjectOptions extends Omit<FetchOptions, keyof ReachOptions> {
  /** Largest object accepted, in bytes. */
  readonly sizeMax: number
}

let lastSource = 0

/** One store, read through the tiers. */
export class SealedSource {
  /** Of this one alone. */
  readonly number: number = ++lastSource
  readonly #tiers: Tiers
  readonly #origin: Origin
  /** By the first tier to ask, and all that the snapshot says of the chunk: one that says something wrong fails alone. */
  readonly #flights = new SingleFlight<string, Lease>((lease, holders) => lease.share(holders))

  /** By object key, and whether caches are asked. */
  readonly #objects = new SingleFlight<string, Uint8Array>()
  readonly #closing = new AbortController()

  constructor(tiers: Tiers, origin: Origin) {
    this.#tiers = tiers
    this.#origin = origin
    setMaxListeners(0, this.#closing.signal)
  }

  /** Aborts when the store is closed. */
  get closed(): AbortSignal {
    return this.#closing.signal
  }

  /**
   * Calls `use` with the sealed bytes, again with another tier's if it throws CORRUPT, and gives what it gives. The bytes are there until it settles.
   * @throws CORRUPT naming the object if the origin's are bad; NOT_FOUND, UNAVAILABLE, TIMEOUT, DENIED of the origin; and what else `use` throws
   */
  async withSealed<T>(ref: SealedRef, use: (sealed: SealedBytes) => T | Promise<T>, options: FetchOptions = {}): Promise<T> {
    const bad = new Set<CountedCache>()
    for (let from = options.originOnly ? this.#tiers.caches.length : 0; ; ) {
      const lease = await this.#flights.join(`${from} ${ref.sizeBytes} ${ref.objectKey}`, flight => this.#fetch(ref, from, flight), options)
      for (const held of lease.bad) bad.add(held)
      try {
        const result = await use(lease)
        lease.praise(() => this.#fill(ref.id, lease, bad, options))
        return result
      } catch (error) {
        if (!isThawError(error, 'CORRUPT')) throw error
        const { held } = lease
        if (held === undefined) throw this.#corrupt(ref.objectKey, error)
        // Before anything is written there again.
        await lease.blame(() => blame(held, ref.id))
        bad.add(held)
        from = this.#tiers.caches.indexOf(held) + 1
      } finally {
        lease.release()
      }
    }
  }

  /**
   * The bytes of an object of unknown length that is named by its SHA-256, verified: a manifest. Others may have been given the same memory: it is not to be written to,
   * nor transferred.
   * @throws CORRUPT, NOT_FOUND, BAD_FORMAT (too large), UNAVAILABLE, TIMEOUT, DENIED of the origin
   */
  get(id: string, objectKey: string, { sizeMax, ...options }: ObjectOptions): Promise<Uint8Array> {
    return this.#objects.join(objectKey, flight => this.#get(id, objectKey, sizeMax, flight), options)
  }

  async #get(id: string, objectKey: string, sizeMax: number, flight: Flight): Promise<Uint8Array> {
    const bad = new Set<CountedCache>()
    for (const held of this.#tiers.caches) {
      const started = this.#tiers.clock.now()
      const bytes = await this.#ask(held, id, bad, flight, sizeBytes => {
        if (sizeBytes <= sizeMax) return Buffer.allocUnsafeSlow(sizeBytes)
        throw wrongLength(id, held)
      })
      if (bytes === undefined) continue
      if ((await sha256OfLong(bytes)) === id) {
        held.counters.hit(bytes.length, this.#tiers.clock.now() - started)
        this.#tiers.fills.start(id, bytes, this.#above(held), bad)
        return bytes
      }
      bad.add(held)
      await blame(held, id)
    }
    const { urgency, owner, signal } = flight
    const { value: bytes, praise } = await this.#origin.get(objectKey, { sizeMax, urgency, owner, signal })
    if ((await sha256OfLong(bytes)) !== id) throw this.#corrupt(objectKey)
    praise()
    this.#tiers.fills.start(id, bytes, this.#tiers.caches, bad)
    return bytes
  }

  /** Puts verified bytes into the caches of these tiers. Resolves to whether all have them. */
  async prime(id: string, sealed: Uint8Array, tiers: readonly Tier[]): Promise<boolean> {
    const into = this.#tiers.caches.filter(({ counters }) => tiers.includes(counters.tier))
    const kept = await Promise.all(into.map(held => keep(held, id, sealed, false)))
    return kept.every(Boolean)
  }

  /** Ends what is being fetched: whoever waits gets `reason`. */
  close(reason: unknown): void {
    this.#closing.abort(reason)
    this.#flights.close(reason)
    this.#objects.close(reason)
  }

  async #fetch({ id, objectKey, sizeBytes }: SealedRef, from: number, flight: Flight): Promise<Lease> {
    const { caches, clock, slab } = this.#tiers
    const { slotBytes } = slab
    const bad = new Set<CountedCache>()
    if (sizeBytes > slotBytes) throw new RangeError(`an object of ${sizeBytes} bytes in slots of ${slotBytes}`)
    const slot = await slab.acquire(flight)
    try {
      for (const held of caches.slice(from)) {
        const started = clock.now()
        const bytes = await this.#ask(held, id, bad, flight, length => {
          if (length <= slotBytes) return slot.bytes.subarray(0, length)
          throw wrongLength(id, held)
        })
        if (bytes === undefined) continue
        const ms = clock.now() - started
        if (bytes.length !== sizeBytes) await this.#judgeLength(held, id, bytes, bad)
        else return new Lease(slot, sizeBytes, held, bad, () => held.counters.hit(sizeBytes, ms))
      }
    } catch (error) {
      slot.release()
      throw error
    }
    const { value, praise } = await this.#origin.fetch(objectKey, sizeBytes, slot, flight)
    return new Lease(value, sizeBytes, undefined, bad, praise)
  }

  /** A copy of another length than a snapshot says is bad, or else the snapshot is: whoever made that one must not have others lose a good copy. */
  async #judgeLength(held: CountedCache, id: string, bytes: Uint8Array, bad: Set<CountedCache>): Promise<void> {
    if ((await sha256OfLong(bytes)) === id) {
      held.counters.misses++
      return
    }
    bad.add(held)
    await blame(held, id)
  }

  /** What a cache answers; undefined also if it fails, which is counted. */
  async #ask(
    held: CountedCache,
    id: string,
    bad: Set<CountedCache>,
    { urgency, owner, signal }: Flight,
    allocate: (sizeBytes: number) => Uint8Array,
  ): Promise<Uint8Array | undefined> {
    const place = await held.gate.admit({ urgency, owner }, signal)
    try {
      const bytes = await held.cache.get(id, allocate, { signal })
      if (bytes === undefined) held.counters.misses++
      return bytes
    } catch (error) {
      signal?.throwIfAborted()
      if (!isThawError(error)) throw error
      if (error.code === 'CORRUPT') {
        bad.add(held)
        await blame(held, id)
      } else held.counters.errors++
      return undefined
    } finally {
      place.leave()
    }
  }

  #fill(id: string, { held, bytes }: Lease, bad: ReadonlySet<CountedCache>, { originOnly, withoutFills }: FetchOptions): void {
    if (originOnly) return
    const above = held === undefined ? this.#tiers.caches : this.#above(held)
    this.#tiers.fills.start(id, bytes, withoutFills ? above.filter(cache => bad.has(cache)) : above, bad)
  }

  #corrupt(object: string, cause?: unknown): ThawError {
    this.#origin.counters.corrupt++
    return new ThawError('CORRUPT', `${object} in ${this.#origin.url}: its bytes do not match its id`, { object, tier: 'origin', cause })
  }

  #above(held: CountedCache): readonly CountedCache[] {
    return this.#tiers.caches.slice(0, this.#tiers.caches.indexOf(held))
  }
}

/** A slot with fetched bytes, in the hands of all who asked for them. */
class Lease implements SealedBytes {
  readonly slot: number
  readonly bytes: Uint8Array
  /** Where they came from; undefined: the origin. */
  readonly held: CountedCache | undefined
  /** Caches that were found to have a bad copy on the way. */
  readonly bad: ReadonlySet<CountedCache>
  readonly #slot: Slot
  readonly #count: () => void
  #holders = 0
  /** What comes of the first judgement, which is the last. */
  #judged: Promise<void> | undefined

  /** `count` counts it as served. */
  constructor(slot: Slot, sizeBytes: number, held: CountedCache | undefined, bad: ReadonlySet<CountedCache>, count: () => void) {
    this.slot = slot.index
    this.bytes = slot.bytes.subarray(0, sizeBytes)
    this.held = held
    this.bad = bad
    this.#slot = slot
    this.#count = count
  }

  get tier(): Exclude<Tier, 'memory'> {
    return this.held?.cache.tier ?? 'origin'
  }

  share(holders: number): void {
    this.#holders = holders
    if (holders === 0) this.#slot.release()
  }

  release(): void {
    if (--this.#holders === 0) this.#slot.release()
  }

  /** The bytes are good: said by whoever finds out first. */
  praise(then: () => void): void {
    if (this.#judged !== undefined) return
    this.#judged = Promise.resolve()
    this.#count()
    then()
  }

  /** The bytes are bad: said by whoever finds out first; the others wait until that is done with. */
  blame(then: () => Promise<void>): Promise<void> {
    this.#judged ??= then()
    return this.#judged
  }
}

/** Forgets a bad copy where it was. That this fails as well changes nothing: the next reader finds it bad again. */
async function blame({ cache, counters }: CountedCache, id: string): Promise<void> {
  counters.corrupt++
  try {
    await cache.evict(id)
  } catch (error) {
    if (!isThawError(error)) throw error
    counters.errors++
  }
}

function wrongLength(id: string, { cache, counters: { tier } }: CountedCache): ThawError {
  return new ThawError('CORRUPT', `${id} has another length in ${cache.name} than it should`, { object: id, tier })
}
