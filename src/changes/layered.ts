/**
 * Two sources of changes as one. A guest whose memory was served by userfaultfd needs it: what it wrote is in the VMM's diff file, what it gave back is known to whoever served
 * it. A page of the child is then the diff's data, else zero if it was given back, else the parent's.
 */
import { type ChangedPages, cutPages, type ImageChanges } from '../changes.ts'

/**
 * Where `upper` has a page, it is upper's; else lower's; else the parent's.
 * @throws RangeError if they are of images of different sizes
 */
export function layeredChanges(upper: ImageChanges, lower: ImageChanges): ImageChanges {
  if (upper.sizeBytes !== lower.sizeBytes) {
    throw new RangeError(`changes of ${upper.sizeBytes} bytes do not lie over changes of an image of ${lower.sizeBytes}`)
  }
  return {
    sizeBytes: upper.sizeBytes,
    stretches: () => layered(upper.stretches(), lower.stretches()),
    async checkUnchanged() {
      await upper.checkUnchanged()
      await lower.checkUnchanged()
    },
  }
}

function* layered(upper: Iterable<ChangedPages>, lower: Iterable<ChangedPages>): Generator<ChangedPages> {
  const below = new Below(lower)
  for (const stretch of upper) {
    yield* below.before(stretch.page)
    below.passOver(stretch.page + stretch.count)
    yield stretch
  }
  yield* below.before(Number.POSITIVE_INFINITY)
}

/** The lower stretches, given out or passed over from front to back. */
class Below {
  readonly #stretches: Iterator<ChangedPages>
  #first: ChangedPages | undefined

  constructor(stretches: Iterable<ChangedPages>) {
    this.#stretches = stretches[Symbol.iterator]()
    this.#next()
  }

  #next(): void {
    const { done, value } = this.#stretches.next()
    this.#first = done ? undefined : value
  }

  /** What is left before `page`. */
  *before(page: number): Generator<ChangedPages> {
    while (this.#first !== undefined && this.#first.page < page) {
      const { page: from, count } = this.#first
      const to = Math.min(from + count, page)
      yield cutPages(this.#first, from, to)
      this.passOver(to)
    }
  }

  /** Drops what is before `page`. */
  passOver(page: number): void {
    while (this.#first !== undefined && this.#first.page + this.#first.count <= page) this.#next()
    const first = this.#first
    if (first !== undefined && first.page < page) this.#first = cutPages(first, page, first.page + first.count)
  }
}
