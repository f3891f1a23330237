/**
 * The engine: the read path behind one contract. It asks the tiers, bounds what goes to the origin, holds the keys of open snapshots, opens chunks into the arena, and
 * decides what leaves it. Readers on any thread find in the arena what is there, and want from the engine what is not.
 *
 * It stands on the caller's thread (`engine/local.ts`), or on a worker of its own that is reached through messages (`engine/remote.ts`): then a caller that is busy
 * for 100 ms holds up nobody's misses (bench/read.ts: they take as long as reading and opening the chunk by hand). The contract is the same.
 */
import type { Arena } from './arena.ts'
import type { FetchOptions, ObjectOptions, SealedBytes, SealedRef } from './cache/tiered.ts'
import type { CacheDescription } from './cache.ts'
import type { ChunkColumns } from './engine/chunk-table.ts'
import type { LineEnd } from './engine/line.ts'
import type { Tier } from './errors.ts'
import type { ReadFigures } from './stats.ts'
import type { CallOptions, ObjectStore } from './store.ts'
import type { Owner } from './util/gate.ts'
import type { SlabMemory } from './util/slab.ts'
import type { Urgency } from './util/urgency.ts'

export interface WantOptions extends CallOptions {
  /** Default: a demand. */
  readonly urgency?: Urgency | undefined
  /** Default, and all that an engine on a worker knows: the owner of the snapshot's handle. */
  readonly owner?: Owner | undefined
}

/** A chunk in the arena, pinned: whoever was given it calls `unpin` once. */
export interface Pinned {
  readonly slot: number
  /** Which tier it came from: `memory` if it was in the arena. */
  readonly tier: Tier
}

export interface Engine extends AsyncDisposable {
  /** For this thread; its `memory` goes to others. */
  readonly arena: Arena

  /** Begins to read from a store. An engine on a worker opens it there by its URL; closing this leaves `objects` open. */
  openStore(objects: ObjectStore): Promise<EngineStore>

  /**
   * Opens a line by which another thread wants chunks (engine/line.ts). Its thread is woken by a descriptor, or, if it has an event loop, by a
   * message. @throws UNSUPPORTED, UNAVAILABLE for the descriptor; CLOSED
   */
  openLine(bell: 'eventfd' | 'message'): Promise<Line>

  /** Counts what a reader on this thread found in the arena: chunks, each once a read, and bytes. */
  countHits(chunks: number, bytes: number): void

  /** With what readers counted on their lines. */
  figures(): Promise<ReadFigures>

  /** The caches behind memory. */
  describe(): Promise<readonly CacheDescription[]>

  /** Forgets what lies in these tiers of caches. Resolves to how many entries that were, of each cache. */
  clear(tiers: readonly Tier[]): Promise<readonly ClearedCache[]>

  /** Settles when copies to caches that were begun before have ended. */
  settled(): Promise<void>

  /** Ends all use: what is under way rejects with CLOSED. Idempotent. */
  close(): Promise<void>
}

/** One store, read through an engine. */
export interface EngineStore extends AsyncDisposable {
  /** The slots that `withSealed` lends. */
  readonly slab: SlabMemory

  /** How many `withSealed` at a time serve this store best. */
  readonly concurrency: number

  /**
   * Makes the chunks of a snapshot in a root known. It is the caller's to release.
   * @param owner who reads by the handle; default: the platform, without a restore
   * @throws NO_SPACE if open snapshots have more chunks than there are numbers
   */
  hold(chunks: ChunkColumns, root: string, owner?: Owner): Promise<HeldSnapshot>

  /**
   * Bytes that are named by their SHA-256 (a manifest), verified; the caller's.
   * @throws CORRUPT, NOT_FOUND, BAD_FORMAT (larger than `sizeMax`), UNAVAILABLE, TIMEOUT, DENIED
   */
  get(id: string, objectKey: string, options: ObjectOptions): Promise<Uint8Array>

  /** Sealed bytes for work in bulk, as `SealedSource.withSealed` (cache/tiered.ts) lends them. */
  withSealed<T>(ref: SealedRef, use: (sealed: SealedBytes) => T | Promise<T>, options?: FetchOptions): Promise<T>

  /** Keeps bytes in the caches named, without anybody having asked for them. Resolves to whether all of them have them now. `sealed` may be reused then. */
  prime(id: string, sealed: Uint8Array, tiers: readonly Tier[]): Promise<boolean>

  close(): Promise<void>
}

/** A line as it is for whoever opened it. */
export interface Line extends AsyncDisposable {
  /** For the thread that reads, with `end.port` in the transfer list. Besides it the thread needs `arena.memory`, and images that are shared (`SnapshotImage.share`). */
  readonly end: LineEnd

  /** For when the thread has ended, or has closed its end. Idempotent. */
  close(): Promise<void>
}

/** A snapshot whose chunks have numbers, and a handle by which one owner reads it. */
export interface HeldSnapshot {
  /** Names the snapshot to the engine, on every thread; never used again. */
  readonly handle: number
  /** The number of each chunk, in shared memory: one for all handles of the snapshot. Good until `release`: then it may mean another chunk. */
  readonly numbers: Uint32Array

  /**
   * Has a chunk in the arena, whatever that takes.
   * @throws CORRUPT, BAD_FORMAT, NOT_FOUND, UNAVAILABLE, TIMEOUT, DENIED, CLOSED: with the tier that is to blame
   */
  want(chunk: number, options?: WantOptions): Promise<Pinned>

  /**
   * The same snapshot under another handle, for another owner. Costs nothing but the handle. It is the caller's to release, before or after this one.
   * @throws CLOSED after `release`
   */
  lend(owner: Owner): Promise<HeldSnapshot>

  /** Lets go of the handle, and of the numbers if it is the snapshot's last. Nobody may be reading by it any more. Idempotent. */
  release(): void
}

/** How much a cache forgot. */
export interface ClearedCache {
  readonly tier: Tier
  readonly name: string
  readonly entries: number
}
