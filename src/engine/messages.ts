/**
 * What the caller's thread and the engine's post to each other: calls and their results, one message each. Plain data. Chunks that guests wait for do not go this way, but by
 * lines (line.ts).
 *
 * Byte arrays own their memory and are transferred, or lie in shared memory.
 */

import type { ArenaMemory } from '../arena.ts'
import type { ReachOptions, SealedBytes, SealedRef } from '../cache/tiered.ts'
import type { CacheDescription } from '../cache.ts'
import type { ClearedCache } from '../engine.ts'
import type { Tier } from '../errors.ts'
import type { ReadFigures } from '../stats.ts'
import type { Failure } from '../util/failure.ts'
import type { Owner } from '../util/gate.ts'
import type { SlabMemory } from '../util/slab.ts'
import type { Priority } from '../util/urgency.ts'
import type { ChunkColumns } from './chunk-table.ts'
import type { LineEnd } from './line.ts'

/** Stores and lines are named by numbers that the caller's thread gives them. */
export type Request =
  | { readonly kind: 'openStore'; readonly store: number; readonly url: string }
  | { readonly kind: 'closeStore'; readonly store: number }
  | {
      readonly kind: 'hold'
      readonly store: number
      readonly columns: ChunkColumns
      readonly root: string
      readonly owner: Owner | undefined
    }
  /** Another handle of a snapshot that is held. */
  | { readonly kind: 'lend'; readonly handle: number; readonly owner: Owner }
  | {
      readonly kind: 'get'
      readonly store: number
      readonly id: string
      readonly objectKey: string
      readonly sizeMax: number
    }
  /** Answered after the bytes were lent, as often as it takes, and a verdict came. */
  | { readonly kind: 'withSealed'; readonly store: number; readonly ref: SealedRef; readonly reach: ReachOptions }
  | { readonly kind: 'prime'; readonly store: number; readonly id: string; readonly sealed: Uint8Array; readonly tiers: readonly Tier[] }
  | { readonly kind: 'openLine'; readonly line: number; readonly end: LineEnd }
  | { readonly kind: 'closeLine'; readonly line: number }
  | { readonly kind: 'clear'; readonly tiers: readonly Tier[] }
  | { readonly kind: 'figures' | 'describe' | 'settled' | 'close' }

export interface ResultOf {
  openStore: { readonly concurrency: number; readonly slab: SlabMemory }
  closeStore: undefined
  hold: { readonly handle: number; readonly numbers: Uint32Array }
  lend: { readonly handle: number; readonly numbers: Uint32Array }
  get: Uint8Array
  withSealed: undefined
  prime: boolean
  openLine: undefined
  closeLine: undefined
  clear: readonly ClearedCache[]
  figures: ReadFigures
  describe: readonly CacheDescription[]
  settled: undefined
  close: undefined
}

export type ToHost =
  | { readonly kind: 'call'; readonly call: number; readonly request: Request; readonly priority: Priority }
  | { readonly kind: 'abort'; readonly call: number }
  | { readonly kind: 'raise'; readonly call: number; readonly priority: Priority }
  /** What came of looking at lent bytes. */
  | { readonly kind: 'verdict'; readonly call: number; readonly failure: Failure | undefined }
  | { readonly kind: 'release'; readonly handle: number }

/** Sealed bytes in a slot of the slab, until the verdict. */
export interface Lent extends Omit<SealedBytes, 'bytes'> {
  readonly sizeBytes: number
}

export type FromHost =
  | { readonly kind: 'started'; readonly arena: ArenaMemory }
  | { readonly kind: 'notStarted'; readonly failure: Failure }
  | { readonly kind: 'result'; readonly call: number; readonly result: ResultOf[Request['kind']] }
  | { readonly kind: 'failure'; readonly call: number; readonly failure: Failure }
  | { readonly kind: 'lent'; readonly call: number; readonly lent: Lent }
