/**
 * Timers of a loop that asks for them itself: a binary heap, so that adding one, taking one back and
 * looking for the next cost the logarithm of how many there are. A pager has some for each restore and
 * each page that is waited for, and looks before every sleep.
 */

interface Timer {
  readonly at: number
  readonly callback: () => void
  /** In the heap; -1: not in it any more. */
  index: number
}

export class Timers {
  /** No timer is earlier than the one at half its index. */
  readonly #heap: Timer[] = []

  get size(): number {
    return this.#heap.length
  }

  /** When the next one is due; Infinity without one. */
  get nextAt(): number {
    return this.#heap[0]?.at ?? Number.POSITIVE_INFINITY
  }

  /** Returns what takes it back, also after it has rung. */
  add(at: number, callback: () => void): () => void {
    const timer: Timer = { at, callback, index: this.#heap.length }
    this.#heap.push(timer)
    this.#rise(timer)
    return () => {
      if (timer.index >= 0) this.#remove(timer)
    }
  }

  /** Calls back what is due at `now`, the earliest first, at most `callsMax`. */
  ring(now: number, callsMax: number): void {
    for (let calls = 0; calls < callsMax && this.nextAt <= now; calls++) {
      const [timer] = this.#heap
      this.#remove(timer!)
      timer!.callback()
    }
  }

  #remove(timer: Timer): void {
    const { index } = timer
    const last = this.#heap.pop()!
    timer.index = -1
    if (last === timer) return
    this.#place(last, index)
    this.#rise(last)
    this.#sink(last)
  }

  #rise(timer: Timer): void {
    while (timer.index > 0) {
      const parent = this.#heap[(timer.index - 1) >> 1]!
      if (parent.at <= timer.at) return
      this.#swap(parent, timer)
    }
  }

  #sink(timer: Timer): void {
    for (;;) {
      const left = this.#heap[2 * timer.index + 1]
      if (left === undefined) return
      const right = this.#heap[2 * timer.index + 2]
      const child = right !== undefined && right.at < left.at ? right : left
      if (child.at >= timer.at) return
      this.#swap(timer, child)
    }
  }

  #swap(upper: Timer, lower: Timer): void {
    const { index } = upper
    this.#place(upper, lower.index)
    this.#place(lower, index)
  }

  #place(timer: Timer, index: number): void {
    this.#heap[index] = timer
    timer.index = index
  }
}
