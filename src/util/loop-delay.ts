/**
 * How late the event loop of this thread gets to what is due: a timer of 20 ms measures it, from the
 * first time that somebody asks. A step that is shorter is met now and then, one that is longer always.
 */
import { type Distribution, Histogram } from './histogram.ts'

const INTERVAL_MS = 20

export class LoopDelay {
  readonly #late = new Histogram()
  #timer: NodeJS.Timeout | undefined
  #isClosed = false

  /** Since it was read for the first time. */
  read(): Distribution {
    if (this.#timer === undefined && !this.#isClosed) this.#arm()
    return this.#late.read()
  }

  #arm(): void {
    const due = performance.now() + INTERVAL_MS
    const onTimer = (): void => {
      this.#late.record(Math.max(0, performance.now() - due))
      this.#arm()
    }
    this.#timer = setTimeout(onTimer, INTERVAL_MS).unref()
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
  }
}
