/**
 * Admits work while the number of works and the sum of their weights are within bounds, in the order of arrival: a heavy one at the front is not
 * overtaken, so it gets its turn. One heavier than the bound is admitted alone.
 */
import { ThawError } from '../errors.ts'

export interface TurnstileBounds {
  readonly countMax: number
  readonly weightMax: number
  /** Longest queue; an arrival beyond it is UNAVAILABLE at once. */
  readonly waitingMax: number
}

interface Waiting {
  readonly weight: number
  readonly admit: () => void
}

export class Turnstile {
  readonly #bounds: TurnstileBounds
  readonly #waiting = new Set<Waiting>()
  #count = 0
  #weight = 0

  constructor(bounds: TurnstileBounds) {
    this.#bounds = bounds
  }

  /** Resolves when admitted; every admission needs one `leave` of the same weight. An aborted signal leaves the queue and rejects with its reason. */
  async enter(weight: number, ...signals: readonly (AbortSignal | undefined)[]): Promise<void> {
    for (const signal of signals) signal?.throwIfAborted()
    if (this.#waiting.size === 0 && this.#hasRoom(weight)) return this.#take(weight)
    if (this.#waiting.size >= this.#bounds.waitingMax)
      throw new ThawError('UNAVAILABLE', `more than ${this.#bounds.waitingMax} calls wait for the store`)
    await this.#wait(weight, signals)
  }

  leave(weight: number): void {
    this.#count--
    this.#weight -= weight
    this.#admitWaiting()
  }

  #wait(weight: number, signals: readonly (AbortSignal | undefined)[]): Promise<void> {
    return new Promise((resolve, reject) => {
      const done = (): void => {
        this.#waiting.delete(waiting)
        for (const signal of signals) signal?.removeEventListener('abort', onAbort)
      }
      const waiting: Waiting = {
        weight,
        admit: () => {
          done()
          this.#take(weight)
          resolve()
        },
      }
      const onAbort = (): void => {
        done()
        reject(signals.find(signal => signal?.aborted)?.reason)
        // It may have been the heavy one that held up the others.
        this.#admitWaiting()
      }
      this.#waiting.add(waiting)
      for (const signal of signals) signal?.addEventListener('abort', onAbort)
    })
  }

  #admitWaiting(): void {
    for (const waiting of this.#waiting) {
      if (!this.#hasRoom(waiting.weight)) return
      waiting.admit()
    }
  }

  #hasRoom(weight: number): boolean {
    if (this.#count === 0) return true
    return this.#count < this.#bounds.countMax && this.#weight + weight <= this.#bounds.weightMax
  }

  #take(weight: number): void {
    this.#count++
    this.#weight += weight
  }
}
