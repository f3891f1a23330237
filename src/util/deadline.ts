/**
 * A deadline over a whole call: one signal that aborts when time is up or when any of the signals given aborts, whichever is first, and
 * whose `reason` says which. Unlike `AbortSignal.any` it lets go of everything at `dispose`, so long-lived signals collect no
 * listeners and no timer outlives its call.
 */
import { type Clock, systemClock } from './clock.ts'

export class Deadline implements Disposable {
  readonly #controller = new AbortController()
  readonly #sources: readonly AbortSignal[]
  readonly #callOff: () => void

  /** `onTimeout` makes the reason for a passed deadline. Signals that are undefined are left out. */
  constructor(
    timeoutMs: number,
    onTimeout: () => unknown,
    { clock = systemClock, signals = [] }: { readonly clock?: Clock; readonly signals?: readonly (AbortSignal | undefined)[] } = {},
  ) {
    this.#sources = signals.filter(signal => signal !== undefined)
    this.#callOff = clock.after(timeoutMs, () => this.#controller.abort(onTimeout()))
    for (const source of this.#sources) source.addEventListener('abort', this.#onAbort)
    this.#onAbort()
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** Settles as `work` does, or rejects with the reason as soon as the signal aborts; `work` should stop by the signal itself. */
  race<T>(work: Promise<T>): Promise<T> {
    return raceSignal(work, this.signal)
  }

  [Symbol.dispose](): void {
    this.#callOff()
    for (const source of this.#sources) source.removeEventListener('abort', this.#onAbort)
  }

  readonly #onAbort = (): void => {
    const aborted = this.#sources.find(source => source.aborted)
    if (aborted !== undefined) this.#controller.abort(aborted.reason)
  }
}

/** Settles as `work` does, or rejects with `signal.reason` as soon as it aborts. What `work` comes to afterwards is ignored. */
export function raceSignal<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return work
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason)
    if (signal.aborted) onAbort()
    signal.addEventListener('abort', onAbort, { once: true })
    const settled = (): void => signal.removeEventListener('abort', onAbort)
    work.then(resolve, reject).then(settled, settled)
  })
}
