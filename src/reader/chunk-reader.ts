/**
 * Whole chunks for work in bulk (a push that compares with its parent, a verification): opened on the threads of a pool, and kept in the slots in which they were
 * opened, the last few of them. It leaves the arena to those who serve guests.
 *
 * The pool needs OPENED_CHUNKS_MAX slots for each reader, besides those for the work.
 */
import { LRUCache } from 'lru-cache'
import type { FetchOptions } from '../cache/tiered.ts'
import { PAGE_BYTES } from '../chunk.ts'
import { ChunkTable, type StoredChunk } from '../engine/chunk-table.ts'
import type { EngineStore } from '../engine.ts'
import type { StoredSnapshot } from '../find.ts'
import type { SealPool } from '../seal/pool.ts'
import type { CallOptions } from '../store.ts'
import { SingleFlight } from '../util/single-flight.ts'
import type { Slot } from '../util/slab.ts'
import { Urgency } from '../util/urgency.ts'

/** Opened chunks that a reader keeps; 16 MiB if all are full. */
export const OPENED_CHUNKS_MAX = 32

/** A chunk's pages in a slot of the pool. */
interface Opened {
  readonly bytes: Uint8Array
  readonly slot: Slot
}

export interface ChunkReaderOptions extends Pick<FetchOptions, 'originOnly'> {
  /** Told of every chunk that was fetched, or could not be. */
  readonly onFetched?: ((index: number, chunk: StoredChunk, error: unknown) => void) | undefined
}

export class ChunkReader {
  readonly #store: EngineStore
  readonly #pool: SealPool
  readonly #table: ChunkTable
  readonly #options: ChunkReaderOptions
  /** A reader that was just given a chunk goes on in the same turn of the event loop: its memory is given back in a later one. */
  readonly #opened = new LRUCache<number, Opened>({ max: OPENED_CHUNKS_MAX, dispose: ({ slot }) => void setImmediate(slot.release) })
  readonly #flights = new SingleFlight<number, Opened>()

  constructor(store: EngineStore, pool: SealPool, { manifest, root }: StoredSnapshot, options: ChunkReaderOptions = {}) {
    this.#store = store
    this.#pool = pool
    this.#table = new ChunkTable(manifest, root)
    this.#options = options
  }

  /** The pages of a chunk; shared, not to be written to, and good until the caller waits for anything else. */
  async chunk(index: number, options: CallOptions = {}): Promise<Uint8Array> {
    const opened = this.#opened.get(index) ?? (await this.#flights.join(index, ({ signal }) => this.#open(index, { signal }), options))
    return opened.bytes
  }

  /** Begins to fetch a chunk that `chunk` will be asked for; its error, if any, is for that call to meet. */
  prefetch(index: number): void {
    if (!this.#opened.has(index)) this.chunk(index).catch(() => undefined)
  }

  async #open(index: number, options: CallOptions): Promise<Opened> {
    const chunk = this.#table.at(index)
    const slot = await this.#pool.acquire()
    try {
      const { id, key, pages, sealed } = chunk
      const { originOnly } = this.#options
      await this.#store.withSealed(
        sealed,
        lent =>
          this.#pool.run(slot, { kind: 'open', sealed: { index: lent.slot, sizeBytes: lent.bytes.length }, chunk: { id, key, pages } }),
        { ...options, urgency: new Urgency('bulk'), originOnly },
      )
      const opened = { bytes: slot.bytes.subarray(0, pages * PAGE_BYTES), slot }
      this.#opened.set(index, opened)
      this.#options.onFetched?.(index, chunk, undefined)
      return opened
    } catch (error) {
      slot.release()
      this.#options.onFetched?.(index, chunk, error)
      throw error
    }
  }
}
