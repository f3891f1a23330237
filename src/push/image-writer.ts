/**
 * The page map and range digests of one image in the making, from ranges that were looked at, in order. What changed against the parent is packed; the rest becomes runs of
 * zeros and runs of the parent's map.
 */
import { CHUNK_PAGES, PAGE_BYTES, pageCount, rangeCount } from '../chunk.ts'
import type { ManifestImage } from '../manifest.ts'
import { PageMapBuilder, ZERO } from '../pagemap.ts'
import type { ChunkReader } from '../reader/chunk-reader.ts'
import type { SealPool } from '../seal/pool.ts'
import { PAGE_MARK, type ScanResult } from '../seal/tasks.ts'
import { DigestColumn } from './digest-column.ts'
import type { Outbox } from './outbox.ts'
import { Packer } from './packer.ts'
import type { PushCounts } from './progress.ts'
import { firstPage, type ScannedRange } from './scan.ts'

/** What an image's push works with. */
export interface ImageContext {
  readonly pool: SealPool
  readonly outbox: Outbox
  readonly lineageKey: Uint8Array
  readonly counts: PushCounts
  readonly signal: AbortSignal
  /** Called after each range. */
  readonly report: () => void
}

/** The parent's image of the same name, and the means to read it. */
export interface ParentImage {
  readonly image: ManifestImage
  readonly reader: ChunkReader
}

/** Chunk indices in its map are the chunk writer's. */
export class ImageWriter {
  readonly #map = new PageMapBuilder()
  readonly #digests = new DigestColumn()
  readonly #packer: Packer
  readonly #parent: ParentImage | undefined
  readonly #context: ImageContext

  constructor(parent: ParentImage | undefined, context: ImageContext) {
    this.#parent = parent
    this.#context = context
    this.#packer = new Packer(context.pool, context.outbox)
  }

  /** Takes the range, and its slot. */
  async append(scanned: ScannedRange): Promise<void> {
    try {
      await this.#append(scanned)
    } finally {
      // A sealed range's slot is the outbox's.
      if (scanned.result.state !== 'sealed') scanned.slot?.release()
    }
  }

  async #append(scanned: ScannedRange): Promise<void> {
    const { range, result, slot } = scanned
    const pages = pageCount(scanned.sizeBytes)
    switch (result.state) {
      case 'zero':
        return this.#zero(pages)
      case 'same':
        this.#digests.inherit(this.#parent!.image.digests, range, range + 1)
        return this.#inherit(firstPage(range), pages)
      case 'untouched':
        return this.#takeOver(range, pages)
      case 'sealed':
        this.#digests.known(range, result.digest)
        return this.#position(scanned, pages, result)
      case 'differs':
        this.#digests.known(range, result.digest)
        await this.#compare(firstPage(range), pages, slot!.bytes, result.marks)
        return this.#place(firstPage(range), pages, slot!.bytes, result.marks)
      case 'changed':
        await this.#compare(firstPage(range), pages, slot?.bytes, result.marks)
        this.#digestChanged(range, result.marks)
        return this.#place(firstPage(range), pages, slot?.bytes, result.marks)
    }
  }

  /** Has the parent's chunks that a range will be compared with fetched before it is its turn. */
  prefetch(range: number, marks: Uint8Array): void {
    const { image, reader } = this.#parent!
    const from = firstPage(range)
    const to = Math.min(from + CHUNK_PAGES, image.map.pageCount)
    for (const { page, count, chunk } of image.map.runs(from, to)) {
      if (chunk !== ZERO && hasUsed(marks, page - from, count)) reader.prefetch(chunk)
    }
  }

  #zero(pages: number): void {
    this.#map.append(pages, ZERO, 0)
    this.#context.counts.zeroBytes += pages * PAGE_BYTES
  }

  #inherit(page: number, pages: number): void {
    this.#map.appendFrom(this.#parent!.image.map, page, page + pages)
    this.#context.counts.inheritedBytes += pages * PAGE_BYTES
  }

  /** Ranges that nobody looked at, with their digests. */
  #takeOver(range: number, pages: number): void {
    const { image } = this.#parent!
    this.#digests.inherit(image.digests, range, range + Math.ceil(pages / CHUNK_PAGES))
    const start = firstPage(range)
    for (const { page, count, chunk } of image.map.runs(start, start + pages)) {
      if (chunk === ZERO) this.#zero(count)
      else this.#inherit(page, count)
    }
  }

  #position({ slot }: ScannedRange, pages: number, { stretches, chunk }: ScanResult & { state: 'sealed' }): void {
    const { outbox, counts } = this.#context
    const index = outbox.reserve()
    outbox.send(index, slot!, chunk)
    let at = 0
    let first = 0
    for (const { page, count } of stretches) {
      this.#zero(page - at)
      this.#map.append(count, index, first)
      first += count
      at = page + count
    }
    this.#zero(pages - at)
    counts.ownBytes += first * PAGE_BYTES
  }

  /** Marks used pages that are the parent's as `same`. */
  async #compare(start: number, pages: number, bytes: Uint8Array | undefined, marks: Uint8Array): Promise<void> {
    const { image, reader } = this.#parent!
    const end = Math.min(start + pages, image.map.pageCount)
    for (const run of image.map.runs(start, end)) {
      if (run.chunk === ZERO || !hasUsed(marks, run.page - start, run.count)) continue
      const old = await reader.chunk(run.chunk, { signal: this.#context.signal })
      for (let i = 0; i < run.count; i++) {
        const page = run.page - start + i
        if (marks[page] !== PAGE_MARK.used) continue
        if (equalPages(bytes!, page * PAGE_BYTES, old, (run.first + i) * PAGE_BYTES)) marks[page] = PAGE_MARK.same
      }
    }
  }

  /** Puts the pages of a range in the map, those that are used in packs. */
  async #place(start: number, pages: number, bytes: Uint8Array | undefined, marks: Uint8Array): Promise<void> {
    for (let page = 0; page < pages; ) {
      const mark = marks[page]
      let next = page + 1
      while (next < pages && marks[next] === mark) next++
      if (mark === PAGE_MARK.zero) this.#zero(next - page)
      else if (mark === PAGE_MARK.same) this.#inherit(start + page, next - page)
      else for (let i = page; i < next; i++) await this.#pack(start + i, bytes!, i * PAGE_BYTES)
      page = next
    }
  }

  async #pack(page: number, bytes: Uint8Array, from: number): Promise<void> {
    await this.#packer.prepare()
    const { chunk, first } = this.#packer.add(page, bytes, from)
    this.#map.append(1, chunk, first)
    this.#context.counts.ownBytes += PAGE_BYTES
  }

  /** Not all of the range is at hand, so its digest is known only if it turned out to be as in the parent, or zero: no digest is worth fetching the rest for. */
  #digestChanged(range: number, marks: Uint8Array): void {
    const { digests, map } = this.#parent!.image
    const start = firstPage(range)
    const runs = [...map.runs(start, start + marks.length)].filter(({ chunk }) => chunk !== ZERO)
    const has = (mark: number): boolean => runs.some(run => hasMark(marks, mark, run.page - start, run.count))
    if (marks.includes(PAGE_MARK.used)) this.#digests.unknown(range)
    else if (!has(PAGE_MARK.zero)) this.#digests.inherit(digests, range, range + 1)
    else if (has(PAGE_MARK.same)) this.#digests.unknown(range)
  }

  end(): void {
    this.#packer.end()
  }

  discard(): void {
    this.#packer.discard()
  }

  finish(sizeBytes: number): Pick<ManifestImage, 'sizeBytes' | 'map' | 'digests'> {
    return { sizeBytes, map: this.#map.build(), digests: this.#digests.build(rangeCount(sizeBytes)) }
  }
}

function hasUsed(marks: Uint8Array, from: number, count: number): boolean {
  return hasMark(marks, PAGE_MARK.used, from, count)
}

function hasMark(marks: Uint8Array, mark: number, from: number, count: number): boolean {
  const found = marks.indexOf(mark, from)
  return found >= 0 && found < from + count
}

function equalPages(a: Uint8Array, aFrom: number, b: Uint8Array, bFrom: number): boolean {
  return Buffer.compare(a.subarray(aFrom, aFrom + PAGE_BYTES), b.subarray(bFrom, bFrom + PAGE_BYTES)) === 0
}
