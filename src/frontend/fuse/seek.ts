/** SEEK_DATA and SEEK_HOLE of one file that nobody writes to, a bounded amount of work at a time. */
import { PAGE_BYTES } from '../../chunk.ts'
import type { ServedImage } from '../../pager.ts'

/** What one step looks at: about 0.1 ms for the stretches, 0.3 ms for the pages in them. */
const STRETCHES_A_STEP = 512
const PAGES_A_STEP = 2 ** 20

export class Seek {
  /** When it is done: where that begins which was looked for. Undefined: `from` is not in the file, or there is no data behind it (ENXIO). */
  found: number | undefined
  readonly #image: ServedImage
  readonly #from: number
  readonly #forZeros: boolean
  #page: number

  /** @param from a byte of the file @param forZeros for a hole, which the end of the file is too; else for data */
  constructor(image: ServedImage, from: number, forZeros: boolean) {
    this.#image = image
    this.#from = from
    this.#forZeros = forZeros
    this.#page = Math.floor(from / PAGE_BYTES)
  }

  /** @returns whether it is done */
  step(): boolean {
    if (this.#from >= this.#image.sizeBytes) return true
    const enough = this.#page + PAGES_A_STEP
    for (let looked = 0; looked < STRETCHES_A_STEP && this.#page < enough; looked++) {
      if (this.#page >= this.#image.pageCount) {
        if (this.#forZeros) this.found = this.#image.sizeBytes
        return true
      }
      const { isZero, pages } = this.#image.stretch(this.#page)
      if (isZero === this.#forZeros) {
        this.found = Math.max(this.#from, this.#page * PAGE_BYTES)
        return true
      }
      this.#page += pages
    }
    return false
  }
}
