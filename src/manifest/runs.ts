/**
 * An image's page map as one column: three series of varints, each predicted from the run before (docs/FORMAT.md section 6). An image
 * laid out by position costs about three bytes a range.
 */
import { CHUNK_PAGES } from '../chunk.ts'
import { PageMap, ZERO } from '../pagemap.ts'
import { decodeColumn, encodeColumn, unzigzag, VARINT_BYTES_MAX, VarintReader, VarintWriter, zigzag } from './column.ts'

/** Where the next chunk run starts if it goes on as the last one did. */
class Prediction {
  chunk = -1
  #end = 0

  first(chunk: number): number {
    return chunk === this.chunk ? this.#end : 0
  }

  advance(chunk: number, end: number): void {
    this.chunk = chunk
    this.#end = end
  }
}

export function encodeRuns(map: PageMap): Uint8Array {
  const chunks = new VarintWriter()
  const counts = new VarintWriter()
  const firsts = new VarintWriter()
  const predicted = new Prediction()
  for (const run of map.runs()) {
    chunks.write(run.chunk === ZERO ? 0 : 1 + zigzag(run.chunk - predicted.chunk))
    counts.write(run.count - 1)
    if (run.chunk === ZERO) continue
    firsts.write(zigzag(run.first - predicted.first(run.chunk)))
    predicted.advance(run.chunk, run.first + run.count)
  }
  return encodeColumn(Buffer.concat([chunks.done(), counts.done(), firsts.done()]))
}

/**
 * The map, in shared memory.
 * @param chunkPages pages of each chunk of the table: every run must lie within its chunk.
 * @throws RangeError if the column is damaged, or the runs do not cover exactly `pageCount` pages.
 */
export function decodeRuns(column: Uint8Array, runCount: number, pageCount: number, chunkPages: Uint8Array): PageMap {
  const reader = new VarintReader(decodeColumn(column, 3 * runCount * VARINT_BYTES_MAX))
  const chunks = new Int32Array(new SharedArrayBuffer(runCount * Int32Array.BYTES_PER_ELEMENT))
  const starts = new Uint32Array(new SharedArrayBuffer((runCount + 1) * Uint32Array.BYTES_PER_ELEMENT))
  const firsts = new Uint8Array(new SharedArrayBuffer(runCount))
  let chunk = -1
  for (let run = 0; run < runCount; run++) {
    const token = reader.read()
    if (token === 0) chunks[run] = ZERO
    else {
      chunk += unzigzag(token - 1)
      if (chunk < 0 || chunk >= chunkPages.length) throw new RangeError(`run ${run} is of a chunk that does not exist`)
      chunks[run] = chunk
    }
  }
  for (let run = 0, page = 0; run < runCount; run++) {
    page += reader.read() + 1
    if (page > pageCount) throw new RangeError('runs go beyond the end of the image')
    starts[run + 1] = page
  }
  if (starts[runCount] !== pageCount) throw new RangeError('runs do not cover the image')
  const predicted = new Prediction()
  for (let run = 0; run < runCount; run++) {
    const chunk = chunks[run]!
    if (chunk === ZERO) continue
    const first = predicted.first(chunk) + unzigzag(reader.read())
    const end = first + starts[run + 1]! - starts[run]!
    if (first < 0 || first >= CHUNK_PAGES || end > chunkPages[chunk]!) throw new RangeError(`run ${run} goes beyond its chunk`)
    firsts[run] = first
    predicted.advance(chunk, end)
  }
  reader.end()
  return new PageMap(starts, chunks, firsts)
}
