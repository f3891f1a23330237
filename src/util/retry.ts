/**
 * The one rule for asking again: what may pass, how long to wait, and until when.
 *
 * UNAVAILABLE and TIMEOUT are transient: a store that cannot be reached and a network that swallows
 * packets look the same to whoever waits, and both may be over at the next attempt.
 * `ThawError.retryable` says less (UNAVAILABLE alone), because it speaks of a whole call that ended:
 * its TIMEOUT is the caller's deadline, and to call again is to set a new one.
 *
 * Waits grow exponentially and are random from zero up ("full jitter": Brooker, "Exponential Backoff
 * and Jitter", AWS Architecture Blog, 2015), so that the many clients of a store that comes back do
 * not come back together.
 */
import { type ErrorCode, isThawError } from '../errors.ts'
import { type Clock, systemClock } from './clock.ts'
import { raceSignal } from './deadline.ts'

/** Whether a failed attempt may succeed if it is made again. */
export function isTransient(code: ErrorCode | undefined): boolean {
  return code === 'UNAVAILABLE' || code === 'TIMEOUT'
}

export interface Backoff {
  /** Upper bound of the first wait, doubled for each one after it. */
  readonly firstMs: number
  /** Upper bound of every wait. */
  readonly maxMs: number
}

/** 100, 200, 400, 800, 1,600, 2,000 ms: whoever waits for a page notices soon that the store is back. */
export const BACKOFF: Backoff = { firstMs: 100, maxMs: 2_000 }

/** How long to wait after the `attempt`-th failure in a row, counted from 1. */
export function backoffMs(attempt: number, clock: Pick<Clock, 'random'>, { firstMs, maxMs }: Backoff = BACKOFF): number {
  return clock.random() * Math.min(maxMs, firstMs * 2 ** (attempt - 1))
}

export interface RetryBounds {
  /** Attempts in a row, the first included; default: no bound. */
  readonly attemptsMax?: number | undefined
  /** No attempt begins so long after the first; default: no bound. */
  readonly withinMs?: number | undefined
  readonly backoff?: Backoff | undefined
  readonly clock?: Clock | undefined
}

/** The failures in a row of one call. */
export class Retries {
  readonly #attemptsMax: number
  readonly #withinMs: number
  readonly #backoff: Backoff
  readonly #clock: Clock
  #failures = 0
  #startedMs: number

  constructor({ attemptsMax = Infinity, withinMs = Infinity, backoff = BACKOFF, clock = systemClock }: RetryBounds = {}) {
    this.#attemptsMax = attemptsMax
    this.#withinMs = withinMs
    this.#backoff = backoff
    this.#clock = clock
    this.#startedMs = clock.now()
  }

  /** The call got on: attempts and time count anew. */
  reset(): void {
    this.#failures = 0
    this.#startedMs = this.#clock.now()
  }

  /**
   * Waits before the next attempt. Throws `error` itself if there is to be none, and the reason of the
   * first signal that aborts.
   */
  async waitAfter(error: unknown, ...signals: readonly (AbortSignal | undefined)[]): Promise<void> {
    for (const signal of signals) signal?.throwIfAborted()
    if (!isThawError(error) || !isTransient(error.code) || ++this.#failures >= this.#attemptsMax) throw error
    const waitMs = backoffMs(this.#failures, this.#clock, this.#backoff)
    if (this.#clock.now() + waitMs - this.#startedMs >= this.#withinMs) throw error
    const [first, ...others] = signals
    await others.reduce(raceSignal, this.#clock.sleep(waitMs, first))
    for (const signal of signals) signal?.throwIfAborted()
  }
}

/** Makes a call until it succeeds, fails for good, a bound is reached, or a signal aborts. */
export async function retry<T>(call: () => Promise<T>, bounds: RetryBounds, ...signals: readonly (AbortSignal | undefined)[]): Promise<T> {
  const retries = new Retries(bounds)
  for (;;) {
    try {
      return await call()
    } catch (error) {
      await retries.waitAfter(error, ...signals)
    }
  }
}
