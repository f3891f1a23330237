/**
 * One server as it is asked: by a call that has a deadline, through a breaker, and with ThawErrors for what goes wrong.
 *
 * The breaker is for a server that is connected and bad (slow, hung, refusing). One that is not connected costs nothing to ask, so it is asked the moment it is
 * back. When the breaker opens, the connection is made anew: whatever state the old one was in is gone with it, and so are the puts it held.
 */
import { ThawError } from '../errors.ts'
import type { Breaker, Pass } from '../util/breaker.ts'
import type { Clock } from '../util/clock.ts'
import { Deadline } from '../util/deadline.ts'
import type { RedisConnection } from './redis-connection.ts'
import { asThawError, notConnected } from './redis-errors.ts'

export interface CallLimits {
  readonly clock: Clock
  /** Of one command, the wait for the first connection included. */
  readonly timeoutMs: number
  /** Aborts when the cache closes. */
  readonly closing: AbortSignal
}

/** One command as its caller knows it. */
export class Call implements Disposable {
  /** What is tried, for messages: "read a key". */
  readonly what: string
  readonly #signals: readonly (AbortSignal | undefined)[]
  readonly #deadline: Deadline

  constructor(name: string, what: string, { clock, timeoutMs, closing }: CallLimits, signal: AbortSignal | undefined) {
    this.what = what
    this.#signals = [signal, closing]
    const late = (): ThawError => new ThawError('TIMEOUT', `L2 node ${name} did not ${what} within ${timeoutMs} ms`, { tier: 'l2' })
    this.#deadline = new Deadline(timeoutMs, late, { clock, signals: this.#signals })
  }

  /** Whether its caller does not want it any more, or the cache closes. */
  get isGivenUp(): boolean {
    return this.#signals.some(signal => signal?.aborted)
  }

  race<T>(work: Promise<T>): Promise<T> {
    return this.#deadline.race(work)
  }

  [Symbol.dispose](): void {
    this.#deadline[Symbol.dispose]()
  }
}

export class RedisNode {
  readonly connection: RedisConnection
  readonly #breaker: Breaker

  constructor(connection: RedisConnection, breaker: Breaker) {
    this.connection = connection
    this.#breaker = breaker
  }

  get name(): string {
    return this.connection.name
  }

  /** Makes one call, if the server is connected and the breaker allows it; UNAVAILABLE at once otherwise. */
  async ask<T>(call: Call, command: () => Promise<T>): Promise<T> {
    if (!this.connection.isReady) await call.race(this.connection.attempted)
    if (!this.connection.isReady) throw notConnected(this.name, this.connection.lastError)
    const pass = this.#breaker.enter()
    if (pass === undefined)
      throw new ThawError('UNAVAILABLE', `L2 node ${this.name} failed several times in a row and is left alone for a while`, { tier: 'l2' })
    try {
      const result = await call.race(command())
      this.#breaker.succeeded()
      return result
    } catch (error) {
      throw this.#failed(call, pass, error)
    }
  }

  #failed(call: Call, pass: Pass, error: unknown): unknown {
    if (call.isGivenUp) {
      this.#breaker.abandoned(pass)
      return error
    }
    const failure = asThawError(error, `L2 node ${this.name} could not ${call.what}`)
    // A full server is well: it can still be read.
    if (failure.code === 'NO_SPACE') this.#breaker.succeeded()
    else if (this.#breaker.failed(pass)) this.connection.drop()
    return failure
  }
}
