/**
 * Admits work while the number of works and the sum of their weights are within bounds: demands before what is prefetched, each in the order of arrival. A heavy one at
 * the front is not overtaken by its own line, so it gets its turn, and nothing prefetched passes a demand that waits. One heavier than the bound is admitted alone.
 */
import { ThawError } from '../errors.ts'
import { type Urgency, WaitingLine } from '../util/urgency.ts'

export interface TurnstileBounds {
  readonly countMax: number
  readonly weightMax: number
  /** Longest queue; an arrival beyond it is UNAVAILABLE at once. */
  readonly waitingMax: number
}

export interface EnterOptions {
  /** Default: a demand. One that is raised while it waits goes to the end of the demands. */
  readonly urgency?: Urgency | undefined
  /** When one aborts, the queue is left. */
  readonly signals?: readonly (AbortSignal | undefined)[]
}

interface Waiting {
  readonly weight: number
  readonly admit: () => void
}

export class Turnstile {
  readonly #bounds: TurnstileBounds
  readonly #waiting = new WaitingLine<Waiting>()
  #count = 0
  #weight = 0

  constructor(bounds: TurnstileBounds) {
    this.#bounds = bounds
  }

  /** Resolves when admitted; every admission needs one `leave` of the same weight. Rejects with the reason of a signal that aborted. */
  async enter(weight: number, { urgency, signals = [] }: EnterOptions = {}): Promise<void> {
    for (const signal of signals) signal?.throwIfAborted()
    if (this.tryEnter(weight)) return
    if (this.#waiting.size >= this.#bounds.waitingMax)
      throw new ThawError('UNAVAILABLE', `more than ${this.#bounds.waitingMax} calls wait for the store`)
    await this.#wait(weight, urgency, signals)
  }

  /** Admitted now or not at all: if nobody waits and there is room. */
  tryEnter(weight: number): boolean {
    if (this.#waiting.size > 0 || !this.#hasRoom(weight)) return false
    this.#take(weight)
    return true
  }

  leave(weight: number): void {
    this.#count--
    this.#weight -= weight
    this.#admitWaiting()
  }

  #wait(weight: number, urgency: Urgency | undefined, signals: readonly (AbortSignal | undefined)[]): Promise<void> {
    return new Promise((resolve, reject) => {
      const done = (): void => {
        leave()
        stop?.()
        for (const signal of signals) signal?.removeEventListener('abort', onAbort)
      }
      const admit = (): void => {
        done()
        this.#take(weight)
        resolve()
      }
      const onAbort = (): void => {
        done()
        reject(signals.find(signal => signal?.aborted)?.reason)
        // It may have been the heavy one that held up the others.
        this.#admitWaiting()
      }
      const leave = this.#waiting.join({ weight, admit }, urgency)
      // After the line's own listener: by then it stands among the demands.
      const stop = urgency?.onRaise(() => this.#admitWaiting())
      for (const signal of signals) signal?.addEventListener('abort', onAbort)
      // A demand may pass a heavy one that is only prefetched.
      this.#admitWaiting()
    })
  }

  #admitWaiting(): void {
    for (let next = this.#waiting.first(); next !== undefined && this.#hasRoom(next.weight); next = this.#waiting.first()) next.admit()
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
