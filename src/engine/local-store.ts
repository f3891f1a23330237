/**
 * One store, and its open snapshots, read through the engine of this thread.
 */
import type { FetchOptions, ObjectOptions, SealedBytes, SealedRef, SealedSource } from '../cache/tiered.ts'
import type { EngineStore, HeldSnapshot, Pinned, WantOptions } from '../engine.ts'
import { ThawError, type Tier } from '../errors.ts'
import { Lifetime } from '../util/lifetime.ts'
import type { SlabMemory } from '../util/slab.ts'
import { type ChunkColumns, ChunkTable } from './chunk-table.ts'
import type { OpenedChunks } from './opened-chunks.ts'

/** What a store reads with. */
export interface LocalStoreParts {
  readonly slab: SlabMemory
  readonly concurrency: number
  readonly chunks: OpenedChunks
  readonly source: SealedSource
  /** Of all stores. */
  readonly snapshots: SnapshotTable
}

export class LocalStore implements EngineStore {
  readonly slab: SlabMemory
  readonly concurrency: number
  readonly #parts: LocalStoreParts
  readonly #onClose: () => void
  readonly #held = new Set<LocalSnapshot>()
  readonly #life = new Lifetime('the store')

  constructor(parts: LocalStoreParts, onClose: () => void) {
    this.slab = parts.slab
    this.concurrency = parts.concurrency
    this.#parts = parts
    this.#onClose = onClose
  }

  async hold(columns: ChunkColumns, root: string): Promise<HeldSnapshot> {
    this.#life.check()
    const snapshot: LocalSnapshot = new LocalSnapshot(this.#parts, this.#life, columns, root, () => this.#held.delete(snapshot))
    this.#held.add(snapshot)
    return snapshot
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
    for (const snapshot of this.#held) snapshot.release()
    this.#onClose()
    await closed
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** The open snapshots of all stores, by the handles that threads know them by. */
export class SnapshotTable {
  readonly #byHandle = new Map<number, LocalSnapshot>()
  #lastHandle = 0

  /** @returns a handle that was never given out before */
  add(snapshot: LocalSnapshot): number {
    this.#byHandle.set(++this.#lastHandle, snapshot)
    return this.#lastHandle
  }

  delete(handle: number): void {
    this.#byHandle.delete(handle)
  }

  async want(handle: number, chunk: number, options: WantOptions): Promise<Pinned> {
    const snapshot = this.#byHandle.get(handle)
    if (snapshot === undefined) throw new ThawError('CLOSED', 'the snapshot is closed')
    return await snapshot.want(chunk, options)
  }
}

class LocalSnapshot implements HeldSnapshot {
  readonly handle: number
  readonly numbers: Uint32Array
  readonly #parts: LocalStoreParts
  readonly #life: Lifetime
  readonly #table: ChunkTable
  readonly #onRelease: () => void
  #released = false

  constructor(parts: LocalStoreParts, life: Lifetime, columns: ChunkColumns, root: string, onRelease: () => void) {
    this.#parts = parts
    this.#life = life
    this.#table = new ChunkTable(columns, root)
    this.#onRelease = onRelease
    this.numbers = parts.chunks.hold(columns)
    this.handle = parts.snapshots.add(this)
  }

  async want(chunk: number, options: WantOptions = {}): Promise<Pinned> {
    const { chunks, source } = this.#parts
    let pinned: Pinned | undefined
    try {
      return await this.#life.run(options.signal, async () => {
        pinned = await chunks.want(this.#numberOf(chunk), () => this.#table.at(chunk), source, options)
        return pinned
      })
    } catch (error) {
      // The store was closed meanwhile: the caller is given an error, and no pin.
      if (pinned !== undefined) chunks.arena.unpin(pinned.slot)
      throw error
    }
  }

  /** Lines bring what other threads wrote: a number of another snapshot's chunk would be a leak. */
  #numberOf(chunk: number): number {
    if (this.#released) throw new ThawError('CLOSED', 'the snapshot is closed')
    const number = this.numbers[chunk]
    if (number === undefined) throw new RangeError(`a snapshot of ${this.numbers.length} chunks has no chunk ${chunk}`)
    return number
  }

  release(): void {
    if (this.#released) return
    this.#released = true
    this.#parts.snapshots.delete(this.handle)
    this.#parts.chunks.release(this.numbers)
    this.#onRelease()
  }
}
