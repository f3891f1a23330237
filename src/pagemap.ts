/**
 * The page map of one image: sorted runs that cover it, each all zero or a stretch of pages in a chunk. Columns, not objects: a
 * 30 GiB guest has tens of thousands of runs, and readers on other threads share them.
 */
import assert from 'node:assert/strict'

/** The chunk index of a run of zero pages. */
export const ZERO: number = -1

/** Where a page is: `chunk` is ZERO or an index of the manifest's chunk table, `first` the page within the chunk, `count` how many pages follow on from here in this run. */
export interface PageLocation {
  readonly chunk: number
  readonly first: number
  readonly count: number
}

export interface Run {
  /** First page of the run, in the image. */
  readonly page: number
  readonly count: number
  readonly chunk: number
  readonly first: number
}

export class PageMap {
  /** First page of each run, and the image's page count behind the last: runs + 1 entries. */
  readonly starts: Uint32Array
  readonly chunks: Int32Array
  readonly firsts: Uint8Array

  constructor(starts: Uint32Array, chunks: Int32Array, firsts: Uint8Array) {
    assert(starts.length === chunks.length + 1 && firsts.length === chunks.length)
    this.starts = starts
    this.chunks = chunks
    this.firsts = firsts
  }

  get runCount(): number {
    return this.chunks.length
  }

  get pageCount(): number {
    return this.starts[this.runCount]!
  }

  /** The index of the run that holds `page`, which is less than `pageCount`. */
  runAt(page: number): number {
    let low = 0
    let high = this.runCount
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if (this.starts[middle]! <= page) low = middle
      else high = middle
    }
    return low
  }

  locate(page: number): PageLocation {
    assert(page >= 0 && page < this.pageCount)
    const run = this.runAt(page)
    const into = page - this.starts[run]!
    const chunk = this.chunks[run]!
    return { chunk, first: chunk === ZERO ? 0 : this.firsts[run]! + into, count: this.starts[run + 1]! - page }
  }

  /** The runs that cover pages [from, to), cut to it. */
  *runs(from = 0, to: number = this.pageCount): Generator<Run> {
    if (from >= to) return
    for (let run = this.runAt(from); run < this.runCount && this.starts[run]! < to; run++) {
      const start = this.starts[run]!
      const page = Math.max(start, from)
      const count = Math.min(this.starts[run + 1]!, to) - page
      const chunk = this.chunks[run]!
      yield { page, count, chunk, first: chunk === ZERO ? 0 : this.firsts[run]! + page - start }
    }
  }
}

/** Collects runs in the order of the image and joins those that continue each other. */
export class PageMapBuilder {
  #starts: number[] = []
  #chunks: number[] = []
  #firsts: number[] = []
  #pages = 0

  get pageCount(): number {
    return this.#pages
  }

  append(count: number, chunk: number, first: number): void {
    if (count === 0) return
    const last = this.#chunks.length - 1
    const continues =
      last >= 0 && this.#chunks[last] === chunk && (chunk === ZERO || this.#firsts[last]! + this.#pages - this.#starts[last]! === first)
    if (!continues) {
      this.#starts.push(this.#pages)
      this.#chunks.push(chunk)
      this.#firsts.push(chunk === ZERO ? 0 : first)
    }
    this.#pages += count
  }

  /** Appends pages [from, to) of another map, whose chunk indices mean the same here. */
  appendFrom(map: PageMap, from: number, to: number): void {
    for (const run of map.runs(from, to)) this.append(run.count, run.chunk, run.first)
  }

  build(): PageMap {
    return new PageMap(Uint32Array.from([...this.#starts, this.#pages]), Int32Array.from(this.#chunks), Uint8Array.from(this.#firsts))
  }
}
