/**
 * Finds guests that touch page after page, and says how many pages more are worth installing with the one that faulted.
 *
 * A second fault right behind the first makes a stream, and each further one in it makes its stretch four times as long. Guests run several things at a time, so several
 * streams are followed.
 */

const STREAMS = 8
/** Pages installed with the second fault of a stream: few, because most runs that guests touch end after two or three pages (design). */
const STRETCH_MIN = 2
/** The pages of a chunk. */
const STRETCH_MAX = 128
const GROWTH = 4

export class Streams {
  /** The page that each would touch next, in pages of the image. */
  readonly #next = new Float64Array(STREAMS).fill(-1)
  readonly #stretches = new Int32Array(STREAMS)
  #current = 0
  #oldest = 0

  /** @returns how many pages behind the one that faulted the guest will touch soon; 0: nobody knows */
  stretchAt(page: number): number {
    for (let i = 0; i < STREAMS; i++) {
      if (this.#next[i] !== page) continue
      this.#current = i
      const stretch = Math.min(STRETCH_MAX, Math.max(STRETCH_MIN, this.#stretches[i]! * GROWTH))
      this.#stretches[i] = stretch
      return stretch
    }
    this.#current = this.#oldest
    this.#oldest = (this.#oldest + 1) % STREAMS
    this.#stretches[this.#current] = 0
    this.#next[this.#current] = page + 1
    return 0
  }

  /** Pages up to this one are there now, of the stream that was asked about last. */
  reached(page: number): void {
    this.#next[this.#current] = page
  }
}
