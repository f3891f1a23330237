/**
 * What a snapshot is, in figures: from the cleartext of its manifest alone, or, with the keys, image by image and range by range.
 */
import { CHUNK_PAGES, PAGE_BYTES, rangeCount } from './chunk.ts'
import type { FoundOutline, StoredSnapshot } from './find.ts'
import { LAYERS, type Layer } from './keys.ts'
import { chunkCount, type ImageKind, type Manifest, type ManifestImage, type Outline, type Segment, segmentOfChunks } from './manifest.ts'
import { ZERO } from './pagemap.ts'

export interface SegmentFigures {
  /** The snapshot that first stored these chunks; undefined: this one. */
  readonly origin: string | undefined
  readonly layer: Layer
  readonly domain: string
  readonly chunks: number
  readonly sealedBytes: number
}

/** What the cleartext tells. */
export interface OutlineFigures {
  readonly id: string
  readonly root: string
  readonly layer: Layer
  readonly parent: string | undefined
  readonly sameContentAs: string | undefined
  readonly manifestBytes: number
  readonly segments: readonly SegmentFigures[]
  readonly chunks: number
  readonly sealedBytes: number
  /** Chunks first stored by this snapshot. */
  readonly ownChunks: number
  readonly ownSealedBytes: number
}

/** One range of an image. */
export interface RangeCell {
  /** The layer of most of its pages; undefined: all zero. */
  readonly layer: Layer | undefined
  /** Most of its pages that are not zero lie in chunks of this snapshot. */
  readonly own: boolean
  readonly zeroPages: number
  readonly pages: number
}

export interface ImageFigures {
  readonly name: string
  readonly kind: ImageKind
  readonly sizeBytes: number
  readonly zeroBytes: number
  /** Bytes of the image that lie in chunks of each layer; whole pages. */
  readonly byLayer: Readonly<Record<Layer, number>>
  /** Bytes that lie in chunks of this snapshot, and in those of earlier ones. */
  readonly ownBytes: number
  readonly sharedBytes: number
  readonly runs: number
  readonly chunks: number
  /** One a range of 512 KiB. */
  readonly map: readonly RangeCell[]
}

export interface SnapshotDetails {
  readonly tenant: string | undefined
  readonly createdAt: Date
  readonly labels: ReadonlyMap<string, string>
  readonly images: readonly ImageFigures[]
  /** Bytes of all chunks' pages. */
  readonly pagesBytes: number
  /** pagesBytes ÷ sealed bytes; 1 for a snapshot without chunks. */
  readonly compression: number
}

export interface Inspection extends OutlineFigures {
  /** Undefined if the keyring cannot open the snapshot. */
  readonly details: SnapshotDetails | undefined
}

export function inspectSnapshot(found: FoundOutline, snapshot: StoredSnapshot | undefined): Inspection {
  return { ...outlineFigures(found), details: snapshot && detailsOf(snapshot.manifest) }
}

export function outlineFigures({ id, root, bytes, outline }: FoundOutline): OutlineFigures {
  const segments = segmentFigures(outline)
  const own = segments.filter(segment => segment.origin === undefined)
  return {
    id,
    root,
    layer: outline.layer,
    parent: outline.parent,
    sameContentAs: outline.sameContentAs,
    manifestBytes: bytes.length,
    segments,
    chunks: chunkCount(outline),
    sealedBytes: sum(segments, segment => segment.sealedBytes),
    ownChunks: sum(own, segment => segment.chunks),
    ownSealedBytes: sum(own, segment => segment.sealedBytes),
  }
}

function segmentFigures({ segments, sealedBytes }: Outline): SegmentFigures[] {
  let at = 0
  return segments.map(({ origin, layer, domain, count }) => {
    const bytes = sealedBytes.subarray(at, at + count).reduce((a, b) => a + b, 0)
    at += count
    return { origin, layer, domain, chunks: count, sealedBytes: bytes }
  })
}

function sum<T>(items: readonly T[], figure: (item: T) => number): number {
  return items.reduce((total, item) => total + figure(item), 0)
}

function detailsOf(manifest: Manifest): SnapshotDetails {
  const segmentOf = segmentOfChunks(manifest)
  const pagesBytes = manifest.pages.reduce((pages, count) => pages + count, 0) * PAGE_BYTES
  const sealedBytes = manifest.sealedBytes.reduce((a, b) => a + b, 0)
  return {
    tenant: manifest.tenant,
    createdAt: new Date(manifest.createdAtMs),
    labels: manifest.labels,
    images: manifest.images.map(image => imageFigures(image, chunk => manifest.segments[segmentOf[chunk]!]!)),
    pagesBytes,
    compression: sealedBytes === 0 ? 1 : pagesBytes / sealedBytes,
  }
}

function imageFigures({ name, kind, sizeBytes, map }: ManifestImage, segmentOf: (chunk: number) => Segment): ImageFigures {
  const byLayer: Record<Layer, number> = { os: 0, runtime: 0, function: 0 }
  const chunks = new Set<number>()
  let zeroBytes = 0
  let ownBytes = 0
  let sharedBytes = 0
  for (const { chunk, count } of map.runs()) {
    const bytes = count * PAGE_BYTES
    if (chunk === ZERO) {
      zeroBytes += bytes
      continue
    }
    const { layer, origin } = segmentOf(chunk)
    chunks.add(chunk)
    byLayer[layer] += bytes
    if (origin === undefined) ownBytes += bytes
    else sharedBytes += bytes
  }
  const cells = Array.from({ length: rangeCount(sizeBytes) }, (_, range) => {
    const from = range * CHUNK_PAGES
    return cellOf(map.runs(from, Math.min(from + CHUNK_PAGES, map.pageCount)), segmentOf)
  })
  return { name, kind, sizeBytes, zeroBytes, byLayer, ownBytes, sharedBytes, runs: map.runCount, chunks: chunks.size, map: cells }
}

function cellOf(runs: Iterable<{ readonly chunk: number; readonly count: number }>, segmentOf: (chunk: number) => Segment): RangeCell {
  const pagesOf: Record<Layer, number> = { os: 0, runtime: 0, function: 0 }
  let pages = 0
  let zeroPages = 0
  let ownPages = 0
  for (const { chunk, count } of runs) {
    pages += count
    if (chunk === ZERO) {
      zeroPages += count
      continue
    }
    const { layer, origin } = segmentOf(chunk)
    pagesOf[layer] += count
    if (origin === undefined) ownPages += count
  }
  const used = pages - zeroPages
  const layer = used === 0 ? undefined : LAYERS.reduce((most, layer) => (pagesOf[layer] > pagesOf[most] ? layer : most))
  return { layer, own: ownPages * 2 > used, zeroPages, pages }
}
