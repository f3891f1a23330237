/**
 * A snapshot into caches before anybody asks for it: its manifest, then every chunk, from the nearest tier that has it, compared with its id on the threads of a
 * pool, and put where it is to be.
 *
 * It is work in bulk: reads that somebody waits for overtake it. It needs no keys, because ids and lengths are in the clear part of a manifest. A chunk holds its slot until
 * the caches have it: a slow cache slows this down, and nothing piles up.
 */
import type { SealedBytes, SealedRef } from './cache/tiered.ts'
import { ChunkPlaces } from './engine/chunk-table.ts'
import type { EngineStore } from './engine.ts'
import type { Tier } from './errors.ts'
import type { FoundOutline } from './find.ts'
import { chunkCount } from './manifest.ts'
import { SealPool } from './seal/pool.ts'
import { forEachAtOnce } from './util/at-once.ts'
import { Urgency } from './util/urgency.ts'

/** Tiers that can be warmed. */
export type CacheTier = Extract<Tier, 'disk' | 'l2'>

export const CACHE_TIERS: readonly CacheTier[] = ['disk', 'l2']

export interface WarmOptions {
  /** Default: all that there are.  */
  readonly tiers?: readonly CacheTier[] | undefined
  readonly signal?: AbortSignal | undefined
  /** Called at most ten times a second, and at the end. The object is fresh each time. */
  readonly onProgress?: ((progress: WarmProgress) => void) | undefined
}

export interface WarmProgress {
  readonly totalChunks: number
  readonly chunks: number
  /** Sealed bytes. */
  readonly totalBytes: number
  readonly bytes: number
  /** Of these, how many each tier served. */
  readonly servedBytes: Readonly<Record<Exclude<Tier, 'memory'>, number>>
  /** Chunks that all chosen tiers have now, and those that one of them did not keep; the manifest counts as one more. */
  readonly primed: number
  readonly primeFailures: number
}

export interface WarmResult extends WarmProgress {
  /** Of the snapshot. */
  readonly id: string
  readonly tiers: readonly CacheTier[]
  readonly durationMs: number
}

/** What is warmed, and through what. */
export interface WarmTarget {
  readonly store: EngineStore
  readonly tiers: readonly CacheTier[]
}

const PROGRESS_INTERVAL_MS = 100

/** @throws CORRUPT if the store itself has a bad chunk; NOT_FOUND, UNAVAILABLE, TIMEOUT, DENIED, CLOSED */
export async function warmSnapshot(target: WarmTarget, found: FoundOutline, options: WarmOptions): Promise<WarmResult> {
  const startedAt = performance.now()
  await using pool = new SealPool({ slots: 0, sealedSlab: target.store.slab })
  const warming = new Warming(target, found, pool, options)
  await warming.run()
  return { id: found.id, tiers: target.tiers, ...warming.progress(), durationMs: performance.now() - startedAt }
}

class Warming {
  readonly #target: WarmTarget
  readonly #found: FoundOutline
  readonly #pool: SealPool
  readonly #options: WarmOptions
  readonly #totalBytes: number
  readonly #servedBytes = { disk: 0, l2: 0, origin: 0 }
  #chunks = 0
  #bytes = 0
  #primed = 0
  #primeFailures = 0
  #reportedAt = performance.now()

  constructor(target: WarmTarget, found: FoundOutline, pool: SealPool, options: WarmOptions) {
    this.#target = target
    this.#found = found
    this.#pool = pool
    this.#options = options
    this.#totalBytes = found.outline.sealedBytes.reduce((sum, sizeBytes) => sum + sizeBytes, 0)
  }

  async run(): Promise<void> {
    const { id, root, bytes, outline } = this.#found
    const { store, tiers } = this.#target
    await this.#prime(id, bytes, tiers)
    const places = new ChunkPlaces(outline, root)
    await forEachAtOnce(Array(chunkCount(outline)).keys(), store.concurrency, index => this.#chunk(places.at(index)))
    this.#options.onProgress?.(this.progress())
  }

  async #chunk(ref: SealedRef): Promise<void> {
    const { store } = this.#target
    const { signal } = this.#options
    signal?.throwIfAborted()
    const options = { signal, urgency: new Urgency('bulk'), withoutFills: true }
    await store.withSealed(ref, sealed => this.#keep(ref, sealed), options)
    this.#chunks++
    this.#bytes += ref.sizeBytes
    this.#report()
  }

  async #keep({ id }: SealedRef, { slot, bytes, tier }: SealedBytes): Promise<void> {
    const sealed = { index: slot, sizeBytes: bytes.length }
    await this.#pool.run(undefined, { kind: 'verify', sealed, id: new Uint8Array(Buffer.from(id, 'hex')) })
    this.#servedBytes[tier] += bytes.length
    const lacking = this.#target.tiers.filter(chosen => chosen !== tier)
    await this.#prime(id, bytes, lacking)
  }

  async #prime(id: string, bytes: Uint8Array, tiers: readonly CacheTier[]): Promise<void> {
    if (await this.#target.store.prime(id, bytes, tiers)) this.#primed++
    else this.#primeFailures++
  }

  #report(): void {
    const now = performance.now()
    if (this.#options.onProgress === undefined || now - this.#reportedAt < PROGRESS_INTERVAL_MS) return
    this.#reportedAt = now
    this.#options.onProgress(this.progress())
  }

  progress(): WarmProgress {
    return {
      totalChunks: chunkCount(this.#found.outline),
      chunks: this.#chunks,
      totalBytes: this.#totalBytes,
      bytes: this.#bytes,
      servedBytes: { ...this.#servedBytes },
      primed: this.#primed,
      primeFailures: this.#primeFailures,
    }
  }
}
