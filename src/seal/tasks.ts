/**
 * What the worker threads of a push, pull or verification do with one slot. Plain data in both directions: it crosses threads.
 *
 * Byte arrays in a task must own their memory: posting a view copies all that lies behind it, be it a manifest or Node's pool of small buffers.
 */
import type { Stretch } from '../chunk.ts'
import type { Sealer } from '../keys.ts'
import type { ChunkRef, Sealed } from '../seal.ts'
import type { Failure } from '../util/failure.ts'
import type { SlabMemory } from '../util/slab.ts'

/** How a worker seals; fixed for its life. */
export interface SealingKey {
  readonly secret: Uint8Array
  readonly salt: Uint8Array
  readonly compress: Sealer['compress']
  readonly pad: Sealer['pad']
}

/** Fills the slot from a file, finds its used pages, digests it and, laid out by position, seals it. */
export interface ScanTask {
  readonly kind: 'scan'
  /** Where to read from; undefined: the bytes are in the slot. */
  readonly file: { readonly fd: number; readonly offset: number } | undefined
  /** Bytes of the range, at most RANGE_BYTES. */
  readonly sizeBytes: number
  readonly lineageKey: Uint8Array
  /** `position`: seal the used pages as one chunk. `compare`: leave the bytes in the slot unless the digest is `digest`. */
  readonly layout: 'position' | 'compare'
  /** The parent's digest of the range, if it is known. */
  readonly digest: Uint8Array | undefined
}

/** What is known of a page of a range that is compared with the parent's. */
export const PAGE_MARK = { zero: 0, used: 1, same: 2 } as const

export type ScanResult =
  | { readonly state: 'zero' }
  | { readonly state: 'same' }
  /** The slot holds the range, its last page filled with zeros; `marks[page]` is `used` for pages that are not zero. */
  | { readonly state: 'differs'; readonly digest: Uint8Array; readonly marks: Uint8Array }
  | { readonly state: 'sealed'; readonly digest: Uint8Array; readonly stretches: readonly Stretch[]; readonly chunk: SealedPages }

/**
 * Fills the slot with the pages of a range that may have changed, where they lie in the range, and finds those that are zero. If all pages of the range are then known, it is
 * digested, and the result is as of a scan.
 */
export interface ChangesTask {
  readonly kind: 'changes'
  /** Bytes of the range, at most RANGE_BYTES. */
  readonly sizeBytes: number
  /** A PAGE_MARK for each page of the range: `zero`, `used` where a piece brings it, `same` where it is the parent's. */
  readonly marks: Uint8Array
  readonly pieces: readonly Piece[]
  readonly lineageKey: Uint8Array
  /** The parent's digest of the range, if it is known. */
  readonly digest: Uint8Array | undefined
}

/** `sizeBytes` bytes at `offset` of a file, which belong at `at` of a slot. */
export interface Piece {
  readonly fd: number
  readonly offset: number
  readonly at: number
  readonly sizeBytes: number
}

/** The slot holds the pages marked `used`, the image's last one filled with zeros; its other bytes mean nothing. */
export interface ChangedRange {
  readonly state: 'changed'
  readonly marks: Uint8Array
}

export type ChangesResult = Exclude<ScanResult, { readonly state: 'sealed' }> | ChangedRange

/** A sealed chunk at the front of the slot. */
export interface SealedPages extends Sealed {
  readonly pages: number
}

/** Seals the first `pages` pages of the slot, in place. Result: SealedPages. */
export interface SealTask {
  readonly kind: 'seal'
  readonly pages: number
}

/** A sealed chunk in a slot of the slab that the read path lends (cache/tiered.ts), where others may be looking at it too. */
export interface SealedSlot {
  readonly index: number
  readonly sizeBytes: number
}

/** Opens a sealed chunk: its pages lie at the front of the slot afterwards. Result: undefined. */
export interface OpenTask {
  readonly kind: 'open'
  readonly sealed: SealedSlot
  readonly chunk: ChunkRef
}

/** Opens a sealed chunk and writes pages of it to files. Needs no slot. Result: bytes written. */
export interface WriteTask {
  readonly kind: 'write'
  readonly sealed: SealedSlot
  readonly chunk: ChunkRef
  readonly placements: readonly Placement[]
}

/** Bytes [from, from + sizeBytes) of the chunk's pages go to `offset` of the file. */
export interface Placement {
  readonly fd: number
  /** Names the file in errors. */
  readonly path: string
  readonly offset: number
  readonly from: number
  readonly sizeBytes: number
}

/** Compares sealed bytes with their id. Needs no slot. Result: undefined. */
export interface VerifyTask {
  readonly kind: 'verify'
  readonly sealed: SealedSlot
  readonly id: Uint8Array
}

export type Task = ScanTask | ChangesTask | SealTask | OpenTask | WriteTask | VerifyTask

export interface ResultOf {
  scan: ScanResult
  changes: ChangesResult
  seal: SealedPages
  open: undefined
  write: number
  verify: undefined
}

/** Posted in arrays. */
export interface Request {
  /** Undefined for tasks that need none. */
  readonly slot: number | undefined
  readonly task: Task
}

/** What became of a request; replies come in the order of the requests. */
export type Reply = { readonly result: ResultOf[Task['kind']] } | { readonly failure: Failure }

/** What a worker is told before the requests of a pool. */
export interface WorkerOptions {
  /** The slots of the pool. */
  readonly slab: SlabMemory
  /** Where sealed chunks lie that are to be opened, written or verified. */
  readonly sealedSlab: SlabMemory | undefined
  /** Give way to all other threads of the machine: for processes that serve guests. */
  readonly nice: boolean
  readonly sealing: SealingKey | undefined
}
