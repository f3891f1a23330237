/**
 * What differs between two snapshots, from their manifests alone: pages that lie in the same place of the same chunk are equal, others may differ. Nothing is fetched.
 */
import { CHUNK_PAGES, PAGE_BYTES, rangeCount } from './chunk.ts'
import type { StoredSnapshot } from './find.ts'
import { chunkId, type Manifest, type ManifestImage } from './manifest.ts'
import { type PageLocation, type PageMap, ZERO } from './pagemap.ts'

/** A range of both images: equal, different, or zero in both. */
export type DiffCell = 'same' | 'changed' | 'zero'

export interface ImageDiff {
  readonly name: string
  readonly state: 'same' | 'changed' | 'added' | 'removed'
  readonly sizeBytesA: number | undefined
  readonly sizeBytesB: number | undefined
  /** Pages of B whose bytes may differ from A's. */
  readonly changedPages: number
  readonly changedBytes: number
  /** Bytes of B, zero pages aside, that are A's. */
  readonly sharedBytes: number
  /** One a range of B; of A where the image was removed. */
  readonly map: readonly DiffCell[]
}

export interface ChunkTotals {
  readonly chunks: number
  readonly sealedBytes: number
}

export interface SnapshotDiff {
  readonly a: string
  readonly b: string
  readonly images: readonly ImageDiff[]
  readonly shared: ChunkTotals
  readonly onlyA: ChunkTotals
  readonly onlyB: ChunkTotals
}

export function diffSnapshots(a: StoredSnapshot, b: StoredSnapshot): SnapshotDiff {
  const idsA = chunkSizes(a.manifest)
  const idsB = chunkSizes(b.manifest)
  const names = new Set([...a.manifest.images, ...b.manifest.images].map(image => image.name))
  const find = ({ manifest }: StoredSnapshot, name: string): ManifestImage | undefined => manifest.images.find(image => image.name === name)
  const sameChunk = chunkComparison(a.manifest, b.manifest)
  return {
    a: a.id,
    b: b.id,
    images: [...names].map(name => diffImage(name, find(a, name), find(b, name), sameChunk)),
    shared: totals(idsA, id => idsB.has(id)),
    onlyA: totals(idsA, id => !idsB.has(id)),
    onlyB: totals(idsB, id => !idsA.has(id)),
  }
}

function chunkSizes(manifest: Manifest): Map<string, number> {
  return new Map(Array.from(manifest.sealedBytes, (bytes, index) => [chunkId(manifest, index).toString('hex'), bytes]))
}

function totals(sizes: ReadonlyMap<string, number>, counts: (id: string) => boolean): ChunkTotals {
  let chunks = 0
  let sealedBytes = 0
  for (const [id, bytes] of sizes) {
    if (!counts(id)) continue
    chunks++
    sealedBytes += bytes
  }
  return { chunks, sealedBytes }
}

/** Whether chunk `x` of A is chunk `y` of B. */
function chunkComparison(a: Manifest, b: Manifest): (x: number, y: number) => boolean {
  const indexInA = new Map(Array.from(a.sealedBytes, (_, index) => [chunkId(a, index).toString('hex'), index]))
  const inA = Int32Array.from(b.sealedBytes, (_, index) => indexInA.get(chunkId(b, index).toString('hex')) ?? -1)
  return (x, y) => inA[y] === x
}

function diffImage(
  name: string,
  a: ManifestImage | undefined,
  b: ManifestImage | undefined,
  sameChunk: (x: number, y: number) => boolean,
): ImageDiff {
  const sizes = { name, sizeBytesA: a?.sizeBytes, sizeBytesB: b?.sizeBytes }
  if (a === undefined || b === undefined) {
    const { map, sizeBytes } = (a ?? b)!
    const cells = cellsOf(sizeBytes, range => onlyCell(map, range))
    const changedPages = b === undefined ? 0 : map.pageCount
    return {
      ...sizes,
      state: a === undefined ? 'added' : 'removed',
      changedPages,
      changedBytes: changedPages * PAGE_BYTES,
      sharedBytes: 0,
      map: cells,
    }
  }
  let changedPages = 0
  let sharedPages = 0
  const cells = cellsOf(b.sizeBytes, range => {
    const from = range * CHUNK_PAGES
    let changed = 0
    let shared = 0
    for (const { kind, count } of compare(a.map, b.map, from, Math.min(from + CHUNK_PAGES, b.map.pageCount), sameChunk)) {
      if (kind === 'changed') changed += count
      else if (kind === 'same') shared += count
    }
    changedPages += changed
    sharedPages += shared
    return changed > 0 ? 'changed' : shared > 0 ? 'same' : 'zero'
  })
  const state = changedPages === 0 && a.sizeBytes === b.sizeBytes ? 'same' : 'changed'
  return { ...sizes, state, changedPages, changedBytes: changedPages * PAGE_BYTES, sharedBytes: sharedPages * PAGE_BYTES, map: cells }
}

function cellsOf(sizeBytes: number, cell: (range: number) => DiffCell): DiffCell[] {
  return Array.from({ length: rangeCount(sizeBytes) }, (_, range) => cell(range))
}

function onlyCell(map: PageMap, range: number): DiffCell {
  const from = range * CHUNK_PAGES
  for (const { chunk } of map.runs(from, Math.min(from + CHUNK_PAGES, map.pageCount))) if (chunk !== ZERO) return 'changed'
  return 'zero'
}

/** Splits pages [from, to) of B into stretches that are equal to A's, zero in both, or changed. */
function* compare(
  a: PageMap,
  b: PageMap,
  from: number,
  to: number,
  sameChunk: (x: number, y: number) => boolean,
): Generator<{ readonly kind: DiffCell; readonly count: number }> {
  for (let page = from; page < to; ) {
    const inB = b.locate(page)
    const inA: PageLocation | undefined = page < a.pageCount ? a.locate(page) : undefined
    const count = Math.min(inB.count, inA?.count ?? inB.count, to - page)
    yield { kind: kindOf(inA, inB, sameChunk), count }
    page += count
  }
}

function kindOf(inA: PageLocation | undefined, inB: PageLocation, sameChunk: (x: number, y: number) => boolean): DiffCell {
  if (inA === undefined) return inB.chunk === ZERO ? 'zero' : 'changed'
  if (inA.chunk === ZERO || inB.chunk === ZERO) return inA.chunk === inB.chunk ? 'zero' : 'changed'
  return inA.first === inB.first && sameChunk(inA.chunk, inB.chunk) ? 'same' : 'changed'
}
