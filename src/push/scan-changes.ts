/**
 * The ranges of an image of which it is known what may have changed. Those without changes cost nothing, however many there are; of the others only the pages that may have changed are
 * read, by the worker threads.
 */

import { type ChangedPages, cutPages, type ImageChanges } from '../changes.ts'
import { CHUNK_PAGES, PAGE_BYTES, pageCount, RANGE_BYTES, rangeCount } from '../chunk.ts'
import type { ManifestImage } from '../manifest.ts'
import { ZERO } from '../pagemap.ts'
import type { SealPool } from '../seal/pool.ts'
import { PAGE_MARK, type Piece } from '../seal/tasks.ts'
import { firstPage, inSlot, knownDigest, readAhead, type ScannedRange, type ScanOptions } from './scan.ts'

interface ScanChangesOptions extends ScanOptions {
  /** Of the same size as the image. */
  readonly parent: ManifestImage
}

/** A range with the stretches of changed pages in it. */
interface TouchedRange {
  readonly range: number
  readonly stretches: ChangedPages[]
}

/** As `scanRanges`; ranges without changes come together, as one that is `untouched`. @throws RangeError if the stretches are not as ImageChanges wants them */
export function scanChanges(changes: ImageChanges, pool: SealPool, options: ScanChangesOptions): AsyncGenerator<ScannedRange> {
  const touched = touchedRanges(changes)
  const ranges = rangeCount(changes.sizeBytes)
  let range = 0
  let waiting: TouchedRange | undefined
  return readAhead(options.signal, async () => {
    waiting ??= touched.next().value
    const until = waiting?.range ?? ranges
    if (range < until) {
      const scanned = untouched(range, until, changes.sizeBytes)
      range = until
      return { scanned: Promise.resolve(scanned) }
    }
    if (waiting === undefined) return undefined
    const look = waiting
    waiting = undefined
    range++
    return await begin(look, changes.sizeBytes, pool, options)
  })
}

function untouched(from: number, to: number, imageBytes: number): ScannedRange {
  const sizeBytes = Math.min(to * RANGE_BYTES, imageBytes) - from * RANGE_BYTES
  return { range: from, sizeBytes, result: { state: 'untouched' }, slot: undefined }
}

async function begin(
  { range, stretches }: TouchedRange,
  imageBytes: number,
  pool: SealPool,
  options: ScanChangesOptions,
): Promise<{ readonly scanned: Promise<ScannedRange> }> {
  const { parent, lineageKey } = options
  const sizeBytes = Math.min(RANGE_BYTES, imageBytes - range * RANGE_BYTES)
  const marks = marksOf(range, stretches, parent, pageCount(sizeBytes))
  const pieces = stretches.flatMap(stretch => pieceOf(stretch, range, sizeBytes))
  if (pieces.length === 0) {
    const result = marks.includes(PAGE_MARK.same) ? ({ state: 'changed', marks } as const) : ({ state: 'zero' } as const)
    return { scanned: Promise.resolve({ range, sizeBytes, result, slot: undefined }) }
  }
  const slot = await pool.acquire()
  const task = { kind: 'changes', sizeBytes, marks, pieces, lineageKey, digest: knownDigest(parent, range, sizeBytes) } as const
  return { scanned: inSlot(slot, { range, sizeBytes }, options, () => pool.run(slot, task)) }
}

/** What each page of a range is, as far as it is known without reading. Pages that are zero in the parent are zero: the rest may then be all that the range holds. */
function marksOf(range: number, stretches: readonly ChangedPages[], parent: ManifestImage, pages: number): Uint8Array {
  const marks = new Uint8Array(pages).fill(PAGE_MARK.same)
  const start = firstPage(range)
  for (const { page, count, chunk } of parent.map.runs(start, start + pages)) {
    if (chunk === ZERO) marks.fill(PAGE_MARK.zero, page - start, page - start + count)
  }
  for (const { kind, page, count } of stretches) {
    marks.fill(kind === 'zero' ? PAGE_MARK.zero : PAGE_MARK.used, page - start, page - start + count)
  }
  return marks
}

function pieceOf(stretch: ChangedPages, range: number, rangeBytes: number): Piece[] {
  if (stretch.kind === 'zero') return []
  const at = (stretch.page - firstPage(range)) * PAGE_BYTES
  return [{ fd: stretch.fd, offset: stretch.offset, at, sizeBytes: Math.min(stretch.count * PAGE_BYTES, rangeBytes - at) }]
}

/** The stretches cut at the bounds of ranges, and gathered by range: at most 128 of them at a time. */
function* touchedRanges(changes: ImageChanges): Generator<TouchedRange, undefined> {
  const pages = pageCount(changes.sizeBytes)
  let touched: TouchedRange | undefined
  let end = 0
  for (const stretch of changes.stretches()) {
    checkStretch(stretch, end, pages)
    end = stretch.page + stretch.count
    for (let page = stretch.page; page < end; ) {
      const range = Math.floor(page / CHUNK_PAGES)
      const to = Math.min(end, firstPage(range + 1))
      if (touched !== undefined && touched.range !== range) yield touched
      if (touched?.range !== range) touched = { range, stretches: [] }
      touched.stretches.push(cutPages(stretch, page, to))
      page = to
    }
  }
  if (touched !== undefined) yield touched
}

function checkStretch({ page, count }: ChangedPages, from: number, pages: number): void {
  if (Number.isInteger(page) && Number.isInteger(count) && page >= from && count > 0 && page + count <= pages) return
  throw new RangeError(
    `${count} changed pages from page ${page} on: they have to follow page ${from - 1}, and to end within ${pages} pages`,
  )
}
