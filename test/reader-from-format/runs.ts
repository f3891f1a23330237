/** The runs of an image: three series of varints, one behind the other (FORMAT.md, section 6). */
import { decodeColumn } from './column.ts'
import { refuse } from './errors.ts'
import { unzigzag, Varints } from './varint.ts'

export interface Run {
  pages: number
  /** Undefined for a run of zero pages. */
  from: { chunk: number; firstPage: number } | undefined
}

export function decodeRuns(column: Uint8Array, count: number, imagePages: number, chunkPages: Uint8Array, what: string): Run[] {
  const varints = new Varints(decodeColumn(column, 2 * count, 5 * 3 * count, what))

  // Chunk indices begin anew with each image: each one's runs are a column of their own.
  const chunks: (number | undefined)[] = []
  let previousChunk = -1
  for (let i = 0; i < count; i++) {
    const value = varints.next()
    if (value === 0) {
      chunks.push(undefined)
      continue
    }
    previousChunk += unzigzag(value - 1)
    refuse(previousChunk < 0 || previousChunk >= chunkPages.length, `${what}: a run of chunk ${previousChunk}, which does not exist`)
    chunks.push(previousChunk)
  }

  const lengths = chunks.map(() => varints.next() + 1)
  refuse(lengths.reduce((sum, pages) => sum + pages, 0) !== imagePages, `${what}: the runs do not add up to the image's pages`)

  // Runs of zero pages lie between without changing what is predicted.
  let previous: { chunk: number; end: number } | undefined
  const runs = chunks.map((chunk, i): Run => {
    const pages = lengths[i] ?? 0
    if (chunk === undefined) return { pages, from: undefined }
    const predicted = previous?.chunk === chunk ? previous.end : 0
    const firstPage = predicted + unzigzag(varints.next())
    const end = firstPage + pages
    refuse(firstPage < 0 || end > (chunkPages[chunk] ?? 0) + 1, `${what}: a run that is not within its chunk`)
    previous = { chunk, end }
    return { pages, from: { chunk, firstPage } }
  })
  varints.end()
  return runs
}
