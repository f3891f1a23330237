/**
 * Open snapshots, by the handles that threads know them by. Each reader of a snapshot (a restore, the library) has a handle of its own, which says on whose behalf it wants;
 * the columns and the numbers of the chunks are one set for all handles, given back with the last.
 */
import type { SealedSource } from '../cache/tiered.ts'
import type { HeldSnapshot, Pinned, WantOptions } from '../engine.ts'
import { ThawError } from '../errors.ts'
import type { Owner } from '../util/gate.ts'
import type { Lifetime } from '../util/lifetime.ts'
import { type ChunkColumns, ChunkTable, type StoredChunk } from './chunk-table.ts'
import type { OpenedChunks } from './opened-chunks.ts'

/** What a snapshot is read with. */
export interface SnapshotParts {
  readonly chunks: OpenedChunks
  readonly source: SealedSource
  /** Of all stores. */
  readonly snapshots: SnapshotTable
}

/** The open snapshots of all stores. */
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

/** The chunks of a snapshot, for as long as it has a handle. */
export class HeldChunks {
  readonly numbers: Uint32Array
  readonly #opened: OpenedChunks
  readonly #table: ChunkTable
  #handles = 0

  private constructor(opened: OpenedChunks, table: ChunkTable, numbers: Uint32Array) {
    this.#opened = opened
    this.#table = table
    this.numbers = numbers
  }

  /** @throws NO_SPACE, or the signal's reason */
  static async hold(opened: OpenedChunks, columns: ChunkColumns, root: string, signal: AbortSignal): Promise<HeldChunks> {
    const numbers = await opened.hold(columns, signal)
    return new HeldChunks(opened, new ChunkTable(columns, root), numbers)
  }

  at(index: number): StoredChunk {
    return this.#table.at(index)
  }

  addHandle(): void {
    this.#handles++
  }

  removeHandle(): void {
    if (--this.#handles === 0) void this.#opened.release(this.numbers)
  }
}

export class LocalSnapshot implements HeldSnapshot {
  readonly handle: number
  readonly #parts: SnapshotParts
  readonly #life: Lifetime
  readonly #chunks: HeldChunks
  readonly #owner: Owner
  readonly #siblings: Set<HeldSnapshot>
  #released = false

  /** @param siblings the handles of the store */
  constructor(parts: SnapshotParts, life: Lifetime, chunks: HeldChunks, owner: Owner, siblings: Set<HeldSnapshot>) {
    this.#parts = parts
    this.#life = life
    this.#chunks = chunks
    this.#owner = owner
    this.#siblings = siblings
    this.handle = parts.snapshots.add(this)
    chunks.addHandle()
    siblings.add(this)
  }

  get numbers(): Uint32Array {
    return this.#chunks.numbers
  }

  async want(chunk: number, options: WantOptions = {}): Promise<Pinned> {
    const { chunks, source } = this.#parts
    const owned = { ...options, owner: options.owner ?? this.#owner }
    let pinned: Pinned | undefined
    try {
      return await this.#life.run(options.signal, async () => {
        pinned = await chunks.want(this.#numberOf(chunk), () => this.#chunks.at(chunk), source, owned)
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
    this.#check()
    const number = this.numbers[chunk]
    if (number === undefined) throw new RangeError(`a snapshot of ${this.numbers.length} chunks has no chunk ${chunk}`)
    return number
  }

  #check(): void {
    if (this.#released) throw new ThawError('CLOSED', 'the snapshot is closed')
  }

  async lend(owner: Owner): Promise<HeldSnapshot> {
    this.#check()
    this.#life.check()
    return new LocalSnapshot(this.#parts, this.#life, this.#chunks, owner, this.#siblings)
  }

  release(): void {
    if (this.#released) return
    this.#released = true
    this.#parts.snapshots.delete(this.handle)
    this.#siblings.delete(this)
    this.#chunks.removeHandle()
  }
}
