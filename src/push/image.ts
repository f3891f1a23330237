/**
 * One image: its bytes become runs of a page map, and chunks on their way to the store.
 *
 * Without a parent each range is sealed by the thread that reads it. With one, ranges whose digest is the parent's are taken over unread and unsealed; of the
 * others each page is compared with the parent's, and only what changed is packed.
 */
import { CHUNK_PAGES, PAGE_BYTES, pageCount, rangeCount } from '../chunk.ts'
import { DIGEST_BYTES, type ImageKind, type ManifestImage, RANGE_STATE } from '../manifest.ts'
import { PageMapBuilder, ZERO } from '../pagemap.ts'
import type { ChunkReader } from '../reader/chunk-reader.ts'
import type { SealPool } from '../seal/pool.ts'
import type { ScanResult } from '../seal/tasks.ts'
import type { Outbox } from './outbox.ts'
import { Packer } from './packer.ts'
import type { PushCounts } from './progress.ts'
import { firstPage, type ScannedRange, scanRanges } from './scan.ts'
import type { Source } from './source.ts'

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

/** Reads the source to its end. Chunk indices in the map are the writer's. */
export async function pushImage(
  name: string,
  kind: ImageKind,
  source: Source,
  parent: ParentImage | undefined,
  context: ImageContext,
): Promise<ManifestImage> {
  const image = new ImageWriter(parent, context)
  const layout = parent === undefined ? 'position' : 'compare'
  const { lineageKey, signal, counts } = context
  try {
    const options = {
      name,
      layout,
      lineageKey,
      parent: parent?.image,
      signal,
      onDiffers: (range: number) => image.prefetch(range),
    } as const
    for await (const range of scanRanges(source, context.pool, options)) {
      await image.append(range)
      counts.doneBytes += range.sizeBytes
      context.report()
    }
    image.end()
  } catch (error) {
    image.discard()
    throw error
  }
  await source.checkUnchanged()
  return { name, kind, ...image.finish(source.sizeBytes ?? 0) }
}

/** Beside 0 (zero) and 1 (used): the page is the parent's. */
const SAME = 2

class ImageWriter {
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

  async append(range: ScannedRange): Promise<void> {
    const { result } = range
    const pages = pageCount(range.sizeBytes)
    this.#digests.append(range.range, result, this.#parent?.image)
    switch (result.state) {
      case 'zero':
        this.#zero(pages)
        break
      case 'same':
        this.#inherit(firstPage(range.range), pages)
        break
      case 'sealed':
        this.#position(range, pages, result)
        break
      case 'differs':
        try {
          await this.#compare(firstPage(range.range), pages, range.slot!.bytes, result.marks)
        } finally {
          range.slot!.release()
        }
    }
  }

  /** Has the parent's chunks of a range fetched before it is its turn to be compared. */
  prefetch(range: number): void {
    const { image, reader } = this.#parent!
    const from = firstPage(range)
    const to = Math.min(from + CHUNK_PAGES, image.map.pageCount)
    for (const run of image.map.runs(from, to)) if (run.chunk !== ZERO) reader.prefetch(run.chunk)
  }

  #zero(pages: number): void {
    this.#map.append(pages, ZERO, 0)
    this.#context.counts.zeroBytes += pages * PAGE_BYTES
  }

  #inherit(page: number, pages: number): void {
    this.#map.appendFrom(this.#parent!.image.map, page, page + pages)
    this.#context.counts.inheritedBytes += pages * PAGE_BYTES
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

  async #compare(start: number, pages: number, bytes: Uint8Array, marks: Uint8Array): Promise<void> {
    const { image, reader } = this.#parent!
    const end = Math.min(start + pages, image.map.pageCount)
    for (const run of image.map.runs(start, end)) {
      if (run.chunk === ZERO) continue
      const old = await reader.chunk(run.chunk, { signal: this.#context.signal })
      for (let i = 0; i < run.count; i++) {
        const page = run.page - start + i
        if (marks[page] === 1 && equalPages(bytes, page * PAGE_BYTES, old, (run.first + i) * PAGE_BYTES)) marks[page] = SAME
      }
    }
    for (let page = 0; page < pages; ) {
      const mark = marks[page]
      let next = page + 1
      while (next < pages && marks[next] === mark) next++
      if (mark === 0) this.#zero(next - page)
      else if (mark === SAME) this.#inherit(start + page, next - page)
      else for (let i = page; i < next; i++) await this.#pack(start + i, bytes, i * PAGE_BYTES)
      page = next
    }
  }

  async #pack(page: number, bytes: Uint8Array, from: number): Promise<void> {
    await this.#packer.prepare()
    const { chunk, first } = this.#packer.add(page, bytes, from)
    this.#map.append(1, chunk, first)
    this.#context.counts.ownBytes += PAGE_BYTES
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

function equalPages(a: Uint8Array, aFrom: number, b: Uint8Array, bFrom: number): boolean {
  return Buffer.compare(a.subarray(aFrom, aFrom + PAGE_BYTES), b.subarray(bFrom, bFrom + PAGE_BYTES)) === 0
}

/** States and digests of an image's ranges, while its length is not known yet. */
class DigestColumn {
  #states = new Uint8Array(CHUNK_PAGES)
  #digests = new Uint8Array(CHUNK_PAGES * DIGEST_BYTES)

  append(range: number, result: ScanResult, parent: ManifestImage | undefined): void {
    if (range >= this.#states.length) this.#grow()
    if (result.state === 'zero') return
    this.#states[range] = RANGE_STATE.known
    const at = range * DIGEST_BYTES
    this.#digests.set(result.state === 'same' ? parent!.digests.digests.subarray(at, at + DIGEST_BYTES) : result.digest, at)
  }

  #grow(): void {
    const states = new Uint8Array(this.#states.length * 2)
    const digests = new Uint8Array(this.#digests.length * 2)
    states.set(this.#states)
    digests.set(this.#digests)
    this.#states = states
    this.#digests = digests
  }

  build(ranges: number): { readonly states: Uint8Array; readonly digests: Uint8Array } {
    return { states: this.#states.slice(0, ranges), digests: this.#digests.slice(0, ranges * DIGEST_BYTES) }
  }
}
