/**
 * Long work on a thread that others wait for, in slices: one slice a turn of the event loop, however
 * many pieces of work there are. Pieces take turns, so a short one does not wait for a long one.
 */
interface Piece extends Pick<PromiseWithResolvers<void>, 'resolve' | 'reject'> {
  readonly slice: () => boolean
}

export class SlicedWork {
  readonly #pieces: Piece[] = []
  #isScheduled = false

  /**
   * Calls `slice`, once a turn and not before this returns, until it returns true.
   * Rejects with what it throws.
   */
  run(slice: () => boolean): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#pieces.push({ slice, resolve, reject })
    this.#schedule()
    return promise
  }

  #schedule(): void {
    if (this.#isScheduled || this.#pieces.length === 0) return
    this.#isScheduled = true
    setImmediate(this.#turn)
  }

  readonly #turn = (): void => {
    this.#isScheduled = false
    const piece = this.#pieces.shift()!
    try {
      if (piece.slice()) piece.resolve()
      else this.#pieces.push(piece)
    } catch (error) {
      piece.reject(error)
    }
    this.#schedule()
  }
}
