/**
 * The engine on the thread that made it: opened chunks, the tiers behind them, and the stores they read from.
 */
import { type Arena, SLOT_BYTES } from '../arena.ts'
import { Fills } from '../cache/fills.ts'
import { Origin, OriginCounters, type OriginOptions } from '../cache/origin.ts'
import { type FetchOptions, type SealedBytes, type SealedRef, SealedSource, type Tiers } from '../cache/tiered.ts'
import type { CacheDescription, SealedCache } from '../cache.ts'
import type { ClearedCache, Engine, EngineStore, HeldSnapshot, Pinned, WantOptions } from '../engine.ts'
import type { Tier } from '../errors.ts'
import { type ReadFigures, TierCounters } from '../stats.ts'
import type { ObjectStore } from '../store.ts'
import { type Clock, systemClock } from '../util/clock.ts'
import { Lifetime } from '../util/lifetime.ts'
import type { SlabMemory } from '../util/slab.ts'
import { type ChunkColumns, ChunkTable } from './chunk-table.ts'
import { type EngineMemory, giveBackMemory, takeMemory } from './memory.ts'
import { OpenedChunks } from './opened-chunks.ts'

/** Fewer could not hold what a few readers look at in one moment: 8 MiB. */
const ARENA_SLOTS_MIN = 16

export interface LocalEngineOptions {
  /** Of the arena. At least 8 MiB are taken, for chunks that are being read. */
  readonly memoryBytes: number
  /** In the order in which they are asked. The engine closes them. */
  readonly caches: readonly SealedCache[]
  readonly origin?: Omit<OriginOptions, 'clock'> | undefined
  readonly clock?: Clock | undefined
}

export class LocalEngine implements Engine {
  readonly #memory: EngineMemory
  readonly #chunks: OpenedChunks
  readonly #tiers: Tiers
  readonly #originCounters = new OriginCounters()
  readonly #originOptions: OriginOptions
  readonly #stores = new Set<LocalStore>()
  readonly #life = new Lifetime('the cache')

  constructor({ memoryBytes, caches, origin, clock = systemClock }: LocalEngineOptions) {
    this.#memory = takeMemory(Math.max(ARENA_SLOTS_MIN, Math.floor(memoryBytes / SLOT_BYTES)))
    this.#chunks = new OpenedChunks(this.#memory.arena, clock)
    const counted = caches.map(cache => ({ cache, counters: new TierCounters(cache.tier) }))
    this.#tiers = { caches: counted, fills: new Fills(), slab: this.#memory.slab, clock }
    this.#originOptions = { ...origin, clock }
  }

  get arena(): Arena {
    return this.#chunks.arena
  }

  countHit(bytes: number): void {
    this.#chunks.counters.hits++
    this.#chunks.counters.bytes += bytes
  }

  async openStore(objects: ObjectStore): Promise<EngineStore> {
    this.#life.check()
    const origin = new Origin(objects, this.#originCounters, this.#memory.slab, this.#originOptions)
    const store: LocalStore = new LocalStore(
      this.#memory.slab,
      objects.concurrency,
      this.#chunks,
      new SealedSource(this.#tiers, origin),
      () => this.#stores.delete(store),
    )
    this.#stores.add(store)
    return store
  }

  async figures(): Promise<ReadFigures> {
    const of = (tier: Tier) => this.#tiers.caches.find(({ cache }) => cache.tier === tier)?.counters.read()
    return { memory: this.#chunks.figures(), disk: of('disk'), l2: of('l2'), origin: this.#originCounters.read() }
  }

  async describe(): Promise<readonly CacheDescription[]> {
    return await Promise.all(this.#tiers.caches.map(({ cache }) => cache.describe()))
  }

  async clear(tiers: readonly Tier[]): Promise<readonly ClearedCache[]> {
    const chosen = this.#tiers.caches.map(({ cache }) => cache).filter(({ tier }) => tiers.includes(tier))
    return await Promise.all(chosen.map(async cache => ({ tier: cache.tier, name: cache.name, entries: await cache.clear() })))
  }

  async settled(): Promise<void> {
    await this.#tiers.fills.settled()
  }

  async close(): Promise<void> {
    if (this.#life.signal.aborted) return
    const closed = this.#life.close()
    this.#chunks.close(this.#life.signal.reason)
    for (const store of this.#stores) await store.close()
    await this.settled()
    await closed
    for (const { cache } of this.#tiers.caches) await cache.close()
    giveBackMemory(this.#memory)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

class LocalStore implements EngineStore {
  readonly slab: SlabMemory
  readonly concurrency: number
  readonly #chunks: OpenedChunks
  readonly #source: SealedSource
  readonly #onClose: () => void
  readonly #held = new Set<LocalSnapshot>()
  readonly #life = new Lifetime('the store')

  constructor(slab: SlabMemory, concurrency: number, chunks: OpenedChunks, source: SealedSource, onClose: () => void) {
    this.slab = slab
    this.concurrency = concurrency
    this.#chunks = chunks
    this.#source = source
    this.#onClose = onClose
  }

  async hold(columns: ChunkColumns, root: string): Promise<HeldSnapshot> {
    this.#life.check()
    const snapshot: LocalSnapshot = new LocalSnapshot(this.#chunks, columns, new ChunkTable(columns, root), this.#source, this.#life, () =>
      this.#held.delete(snapshot),
    )
    this.#held.add(snapshot)
    return snapshot
  }

  get(id: string, objectKey: string, options: FetchOptions & { readonly sizeMax: number }): Promise<Uint8Array> {
    return this.#life.run(options.signal, () => this.#source.get(id, objectKey, options))
  }

  withSealed<T>(ref: SealedRef, use: (sealed: SealedBytes) => T | Promise<T>, options: FetchOptions = {}): Promise<T> {
    return this.#life.run(options.signal, () => this.#source.withSealed(ref, use, options))
  }

  prime(id: string, sealed: Uint8Array, tiers: readonly Tier[]): Promise<boolean> {
    return this.#life.run(undefined, () => this.#source.prime(id, sealed, tiers))
  }

  async close(): Promise<void> {
    const closed = this.#life.close()
    this.#source.close(this.#life.signal.reason)
    for (const snapshot of this.#held) snapshot.release()
    this.#onClose()
    await closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

class LocalSnapshot implements HeldSnapshot {
  readonly handle = 0
  readonly numbers: Uint32Array
  readonly #chunks: OpenedChunks
  readonly #source: SealedSource
  readonly #table: ChunkTable
  readonly #life: Lifetime
  readonly #onRelease: () => void
  #released = false

  constructor(chunks: OpenedChunks, columns: ChunkColumns, table: ChunkTable, source: SealedSource, life: Lifetime, onRelease: () => void) {
    this.#chunks = chunks
    this.#source = source
    this.#table = table
    this.#life = life
    this.#onRelease = onRelease
    this.numbers = chunks.hold(columns)
  }

  want(chunk: number, options: WantOptions = {}): Promise<Pinned> {
    return this.#life.run(options.signal, () => this.#chunks.want(this.numbers[chunk]!, () => this.#table.at(chunk), this.#source, options))
  }

  release(): void {
    if (this.#released) return
    this.#released = true
    this.#chunks.release(this.numbers)
    this.#onRelease()
  }
}
