/**
 * The snapshot document: which chunk holds which pages and, sealed, their keys (docs/FORMAT.md section 6). Self-contained: it lists the parent's chunks too,
 * so a restore opens one manifest. It never names its root: where it lies does.
 *
 * The cleartext is what garbage collection, replication and scrubbing need; everything that tells what is in the images is sealed under a random data key, which
 * is wrapped outside (`keys/<id>`), so that rotating keys changes no id.
 *
 * Columns of bytes, no object per chunk: a 30 GiB guest has 61,440 ranges. The codec is `manifest/encode.ts` and
 * `manifest/decode.ts`.
 */
import { hash } from 'node:crypto'
import type { Layer } from './keys.ts'
import type { PageMap } from './pagemap.ts'

export const IMAGE_KINDS = ['memory', 'disk', 'blob'] as const
export type ImageKind = (typeof IMAGE_KINDS)[number]

/** A stretch of the chunk table that came from one snapshot. */
export interface Segment {
  /** The snapshot that first stored these chunks, hex; undefined: this one. */
  readonly origin: string | undefined
  readonly layer: Layer
  readonly domain: string
  readonly count: number
}

/** The part of a manifest that anyone can read. */
export interface Outline {
  readonly layer: Layer
  /** Snapshot id, hex. */
  readonly parent: string | undefined
  readonly sameContentAs: string | undefined
  readonly segments: readonly Segment[]
  /** 32 bytes a chunk. */
  readonly ids: Uint8Array
  /** Sealed length of each chunk in bytes. */
  readonly sealedBytes: Uint32Array
}

export interface ManifestImage {
  readonly name: string
  readonly kind: ImageKind
  readonly sizeBytes: number
  readonly map: PageMap
  readonly digests: RangeDigests
}

/** Keyed digests of an image's ranges: 16 bytes a range, and what they are worth. */
export interface RangeDigests {
  /** A RANGE_STATE a range. */
  readonly states: Uint8Array
  /** 16 bytes a range, zeros where the state is not `known`. */
  readonly digests: Uint8Array
}

export const RANGE_STATE = { zero: 0, known: 1, unknown: 2 } as const
export const DIGEST_BYTES = 16

export interface Manifest extends Outline {
  readonly tenant: string | undefined
  readonly createdAtMs: number
  readonly labels: ReadonlyMap<string, string>
  /** 16 bytes: keys the range digests of this snapshot and its children. */
  readonly lineageKey: Uint8Array
  /** 32 bytes a chunk. */
  readonly keys: Uint8Array
  /** Pages of each chunk, 1 to 128. */
  readonly pages: Uint8Array
  readonly images: readonly ManifestImage[]
}

/** Hard limits of a snapshot, each checked before what it bounds is decoded or decompressed; `imageBytes` is of all images together. */
export const LIMITS: Readonly<Record<'manifestBytes' | 'chunks' | 'segments' | 'images' | 'labels' | 'imageBytes' | 'runs', number>> = {
  manifestBytes: 256 * 2 ** 20,
  chunks: 2 ** 20,
  segments: 4096,
  images: 256,
  labels: 64,
  imageBytes: 2 ** 40,
  runs: 2 ** 23,
}

/** The id of a manifest: the SHA-256 of its bytes. */
export function snapshotIdOf(manifest: Uint8Array): Buffer {
  return hash('sha256', manifest, 'buffer')
}

export function chunkCount(outline: Outline): number {
  return outline.sealedBytes.length
}

/** The id of chunk `index`: a view. */
export function chunkId(outline: Pick<Outline, 'ids'>, index: number): Buffer {
  return Buffer.from(outline.ids.buffer, outline.ids.byteOffset + index * 32, 32)
}

/** The key of chunk `index`: a view. */
export function chunkKey(manifest: Pick<Manifest, 'keys'>, index: number): Buffer {
  return Buffer.from(manifest.keys.buffer, manifest.keys.byteOffset + index * 32, 32)
}

/** The segment of every chunk: position in `segments` by chunk index. */
export function segmentOfChunks(outline: Pick<Outline, 'segments' | 'sealedBytes'>): Uint16Array {
  const of = new Uint16Array(outline.sealedBytes.length)
  let at = 0
  outline.segments.forEach((segment, index) => {
    of.fill(index, at, at + segment.count)
    at += segment.count
  })
  return of
}
