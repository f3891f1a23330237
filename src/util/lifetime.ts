/**
 * The life of one open store: counts the calls under way, refuses calls after `close()`, and lets `close()` wait for what still runs, so that
 * nothing of a store goes on after it closed.
 */
import { setMaxListeners } from 'node:events'
import { ThawError } from '../errors.ts'

export class Lifetime {
  readonly #what: string
  readonly #closing = new AbortController()
  readonly #ended = Promise.withResolvers<void>()
  #running = 0

  /** `what` names the owner in the CLOSED error. */
  constructor(what: string) {
    this.#what = what
    setMaxListeners(0, this.#closing.signal)
  }

  /** Aborts, with the CLOSED error as its reason, when `close()` is called. */
  get signal(): AbortSignal {
    return this.#closing.signal
  }

  /** Throws CLOSED after `close()`, and the reason of an aborted signal. For the gaps between the steps of a call. */
  check(signal?: AbortSignal | undefined): void {
    this.#closing.signal.throwIfAborted()
    signal?.throwIfAborted()
  }

  /** Runs one call. CLOSED if the life ends before the call does, whatever it comes to. */
  async run<T>(signal: AbortSignal | undefined, call: () => Promise<T>): Promise<T> {
    this.check(signal)
    this.#running++
    try {
      return await call()
    } finally {
      if (--this.#running === 0 && this.signal.aborted) this.#ended.resolve()
      this.#closing.signal.throwIfAborted()
    }
  }

  /** Ends the life and resolves when no call is under way any more. Idempotent. */
  close(): Promise<void> {
    if (!this.signal.aborted) this.#closing.abort(new ThawError('CLOSED', `${this.#what} is closed`, { object: this.#what }))
    if (this.#running === 0) this.#ended.resolve()
    return this.#ended.promise
  }
}
