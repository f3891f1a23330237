/**
 * A second try while the first is still under way: an origin answers one read in a hundred late for reasons of its own, and asking once more is faster than waiting
 * (Dean and Barroso, "The Tail at Scale", Communications of the ACM 56(2), 2013). When to try, and how often at most, is measured and bounded here: a store that is slow
 * for everybody must not be asked twice as much.
 */
import type { Clock } from '../util/clock.ts'

/** Reads whose times are remembered; how many there must be before they mean anything; and after how many new ones the quantile is taken anew. */
const WINDOW = 256
const MEASURED_MIN = 32
const REFRESH = 16
const QUANTILE = 0.95
const AFTER_MIN_MS = 1

/** One second try in twenty reads, 5 %, and at most ten of them in a burst. */
const READS_PER_HEDGE = 20
const SAVED_READS_MAX = 10 * READS_PER_HEDGE

/** When a second try is due, by the times of the last reads, and how many are allowed, by their number. */
export class HedgeBudget {
  readonly #window = new Float64Array(WINDOW)
  #measured = 0
  #savedReads = 0
  #afterMs: number | undefined

  /** The time that all but a twentieth of the last reads took; undefined while too few are known. */
  get afterMs(): number | undefined {
    return this.#afterMs
  }

  /** Whether there is a second try left. */
  get allows(): boolean {
    return this.#savedReads >= READS_PER_HEDGE
  }

  /** A read begins. */
  earn(): void {
    this.#savedReads = Math.min(this.#savedReads + 1, SAVED_READS_MAX)
  }

  /** A second try begins. */
  spend(): void {
    this.#savedReads -= READS_PER_HEDGE
  }

  /** A read succeeded in that time. */
  record(ms: number): void {
    this.#window[this.#measured++ % WINDOW] = ms
    if (this.#measured >= MEASURED_MIN && this.#measured % REFRESH === 0) this.#afterMs = Math.max(AFTER_MIN_MS, this.#quantile())
  }

  #quantile(): number {
    const sorted = this.#window.slice(0, this.#measured).sort()
    return sorted[Math.ceil(QUANTILE * sorted.length) - 1]!
  }
}

export interface Tries<T> {
  /** Starts the first try. The signal aborts when its answer is not wanted any more. */
  readonly first: (signal: AbortSignal) => Promise<T>
  /** Starts the second one; undefined: not now. */
  readonly second: (signal: AbortSignal) => Promise<T> | undefined
  /** When the second is due; undefined: never. */
  readonly afterMs: number | undefined
  /** Takes a good answer that nobody wants any more. */
  readonly discard: (answer: T) => void
}

/** Why the slower try is aborted. Its caller is gone: nobody gets to see it. */
const OUTRUN = new Error('the other try was faster')

/**
 * The first good answer of two tries; the other one is aborted. Fails as the first try does, if the second gives no answer either. Rejects with the signal's reason as soon
 * as it aborts. Every good answer comes out once: here, or at `discard`.
 */
export function firstAnswer<T>({ first, second, afterMs, discard }: Tries<T>, clock: Clock, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const ending = new AbortController()
    const end = (reason: unknown): void => {
      callOff?.()
      signal.removeEventListener('abort', onAbort)
      ending.abort(reason)
    }
    const fail = (error: unknown): void => {
      end(error)
      reject(error)
    }
    const onAbort = (): void => fail(signal.reason)
    const succeed = (answer: T): void => {
      if (ending.signal.aborted) discard(answer)
      else {
        end(OUTRUN)
        resolve(answer)
      }
    }

    let hedge: Promise<void> | undefined
    const startSecond = (): void => {
      hedge = second(ending.signal)?.then(succeed, () => undefined)
    }
    const callOff = afterMs === undefined ? undefined : clock.after(afterMs, startSecond)
    signal.addEventListener('abort', onAbort)
    if (signal.aborted) onAbort()
    first(ending.signal).then(succeed, async error => {
      await hedge
      fail(error)
    })
  })
}
