/**
 * The engine on the thread that made it: opened chunks, the tiers behind them, and the stores they read from.
 */
import { type Arena, SLOT_BYTES } from '../arena.ts'
import { countedCache, Fills } from '../cache/fills.ts'
import { Origin, OriginCounters, type OriginOptions } from '../cache/origin.ts'
import { SealedSource, type Tiers } from '../cache/tiered.ts'
import type { CacheDescription, SealedCache } from '../cache.ts'
import type { ClearedCache, Engine, EngineStore, Line, Pinned, WantOptions } from '../engine.ts'
import type { Tier } from '../errors.ts'
import type { ReadFigures } from '../stats.ts'
import type { ObjectStore } from '../store.ts'
import { type Clock, systemClock } from '../util/clock.ts'
import { Lifetime } from '../util/lifetime.ts'
import { LoopDelay } from '../util/loop-delay.ts'
import type { LineEnd } from './line.ts'
import { OpenedLine, openEnds } from './line-open.ts'
import { LineServer } from './line-server.ts'
import { SnapshotTable } from './local-snapshot.ts'
import { LocalStore } from './local-store.ts'
import { type EngineMemory, giveBackMemory, takeMemory } from './memory.ts'
import { OpenedChunks } from './opened-chunks.ts'
import { Opening } from './opening.ts'

/** Fewer could not hold what a few readers look at in one moment: 8 MiB. */
const ARENA_SLOTS_MIN = 16

export interface LocalEngineOptions {
  /** Of the arena. At least 8 MiB are taken, for chunks that are being read. */
  readonly memoryBytes: number
  /** In the order in which they are asked. The engine closes them. */
  readonly caches: readonly SealedCache[]
  readonly origin?: Omit<OriginOptions, 'clock'> | undefined
  /** As `CacheOptions` has it. */
  readonly readTimeoutMs?: number | undefined
  readonly clock?: Clock | undefined
}

export class LocalEngine implements Engine {
  readonly #memory: EngineMemory
  readonly #opening: Opening
  readonly #chunks: OpenedChunks
  readonly #tiers: Tiers
  readonly #originCounters = new OriginCounters()
  readonly #originOptions: OriginOptions
  readonly #stores = new Set<LocalStore>()
  readonly #snapshots = new SnapshotTable()
  readonly #lines = new Set<LineServer>()
  readonly #life = new Lifetime('the cache')
  readonly #delay = new LoopDelay()
  #hadLines = false
  #closed: Promise<void> | undefined

  constructor({ memoryBytes, caches, origin, readTimeoutMs, clock = systemClock }: LocalEngineOptions) {
    this.#memory = takeMemory(Math.max(ARENA_SLOTS_MIN, Math.floor(memoryBytes / SLOT_BYTES)))
    this.#opening = new Opening(this.#memory, clock)
    this.#chunks = new OpenedChunks(this.#memory.arena, this.#opening, clock, readTimeoutMs)
    this.#tiers = { caches: caches.map(countedCache), fills: new Fills(), slab: this.#memory.slab, clock }
    this.#originOptions = { ...origin, clock }
  }

  get arena(): Arena {
    return this.#chunks.arena
  }

  /** What is large in it. */
  get sharedMemory(): readonly SharedArrayBuffer[] {
    return [...this.#memory.arena.segments, this.#memory.slab.memory]
  }

  countHits(chunks: number, bytes: number): void {
    this.#chunks.counters.hits += chunks
    this.#chunks.counters.bytes += bytes
  }

  async openStore(objects: ObjectStore): Promise<EngineStore> {
    this.#life.check()
    const origin = new Origin(objects, this.#originCounters, this.#memory.slab, this.#originOptions)
    const source = new SealedSource(this.#tiers, origin)
    const parts = { slab: this.#memory.slab, concurrency: objects.concurrency, chunks: this.#chunks, source, snapshots: this.#snapshots }
    const store: LocalStore = new LocalStore(parts, () => this.#stores.delete(store))
    this.#stores.add(store)
    return store
  }

  async openLine(bell: 'eventfd' | 'message'): Promise<Line> {
    this.#life.check()
    const { reader, engine } = await openEnds(bell)
    const server = this.serveLine(engine)
    return new OpenedLine(reader, async () => server.close())
  }

  /** Serves the engine's end of a line, until the reader's is closed. */
  serveLine(end: LineEnd): LineServer {
    this.#life.check()
    this.#hadLines = true
    const want = (handle: number, chunk: number, options: WantOptions): Promise<Pinned> => this.#snapshots.want(handle, chunk, options)
    const server: LineServer = new LineServer(end, { arena: this.arena, want }, () => {
      this.#lines.delete(server)
      const { hits, bytes } = server.counts()
      this.#chunks.counters.hits += hits
      this.#chunks.counters.bytes += bytes
    })
    this.#lines.add(server)
    return server
  }

  async figures(): Promise<ReadFigures> {
    const of = (tier: Tier) => this.#tiers.caches.find(({ cache }) => cache.tier === tier)?.counters.read()
    const memory = this.#chunks.figures()
    const lines = [...this.#lines].map(line => line.counts())
    const sum = (start: number, key: 'hits' | 'bytes'): number => lines.reduce((total, counts) => total + counts[key], start)
    return {
      memory: { ...memory, hits: sum(memory.hits, 'hits'), bytes: sum(memory.bytes, 'bytes') },
      disk: of('disk'),
      l2: of('l2'),
      origin: this.#originCounters.read(),
      engine: { delay: this.#delay.read() },
    }
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

  close(): Promise<void> {
    this.#closed ??= this.#close()
    return this.#closed
  }

  async #close(): Promise<void> {
    // Of these snapshots may be open, on this thread or on others, whose numbers would soon mean other chunks.
    const isReadable = this.#hadLines || this.#stores.size > 0
    const closed = this.#life.close()
    this.#delay.close()
    this.#chunks.close(this.#life.signal.reason)
    for (const store of this.#stores) await store.close()
    await this.settled()
    await closed
    for (const line of this.#lines) line.end('CLOSED')
    await this.#opening.close()
    for (const { cache } of this.#tiers.caches) await cache.close()
    if (!isReadable) giveBackMemory(this.#memory)
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
