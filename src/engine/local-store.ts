/** One store, and its open snapshots, read through the engine of this thread. */
import type { FetchOptions, ObjectOptions, SealedBytes, SealedRef } from '../cache/tiered.ts'
import type { EngineStore, HeldSnapshot } from '../engine.ts'
import type { Tier } from '../errors.ts'
import type { Owner } from '../util/gate.ts'
import { Lifetime } from '../util/lifetime.ts'
import type { SlabMemory } from '../util/slab.ts'
import type { ChunkColumns } from './chunk-table.ts'
import { HeldChunks, LocalSnapshot, type SnapshotParts } from './local-snapshot.ts'

/** What a store reads with. */
export interface LocalStoreParts extends SnapshotParts {
  readonly slab: SlabMemory
  readonly concurrency: number
}

/** Of reads by the library, for nobody in particular. */
const PLATFORM: Owner = { tenant: '', restore: '' }

export class LocalStore implements EngineStore {
  readonly slab: SlabMemory
  readonly concurrency: number
  readonly #parts: LocalStoreParts
  readonly #onClose: () => void
  readonly #held = new Set<HeldSnapshot>()
  readonly #life = new Lifetime('the store')

  constructor(parts: LocalStoreParts, onClose: () => void) {
    this.slab = parts.slab
    this.concurrency = parts.concurrency
    this.#parts = parts
    this.#onClose = onClose
  }

  hold(columns: ChunkColumns, root: string, owner: Owner = PLATFORM): Promise<HeldSnapshot> {
    return this.#life.run(undefined, async () => {
      const chunks = await HeldChunks.hold(this.#parts.chunks, columns, root, this.#life.signal)
      return new LocalSnapshot(this.#parts, this.#life, chunks, owner, this.#held)
    })
  }

  get(id: string, objectKey: string, options: ObjectOptions): Promise<Uint8Array> {
    return this.#life.run(options.signal, () => this.#parts.source.get(id, objectKey, options))
  }

  withSealed<T>(ref: SealedRef, use: (sealed: SealedBytes) => T | Promise<T>, options: FetchOptions = {}): Promise<T> {
    return this.#life.run(options.signal, () => this.#parts.source.withSealed(ref, use, options))
  }

  prime(id: string, sealed: Uint8Array, tiers: readonly Tier[]): Promise<boolean> {
    return this.#life.run(undefined, () => this.#parts.source.prime(id, sealed, tiers))
  }

  async close(): Promise<void> {
    const closed = this.#life.close()
    this.#parts.source.close(this.#life.signal.reason)
    this.#onClose()
    await closed
    for (const snapshot of this.#held) snapshot.release()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
