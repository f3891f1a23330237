/**
 * Single flight: however many ask for the same thing at a time, it is done once, and all get what
 * came of it.
 *
 * The work is nobody's own: it goes on when the first who asked goes away, and ends early only when
 * the last one did. It is as urgent as the most urgent of those who wait, and has the turns of all of
 * them. Deadlines are the waiters', by their signals: nobody has what is left of another's.
 */
import type { Owner } from './gate.ts'
import { Owners } from './owners.ts'
import { Urgency } from './urgency.ts'

/** Who asks. */
export interface FlightWaiter {
  /** Default: a demand. */
  readonly urgency?: Urgency | undefined
  readonly owner?: Owner | Owners | undefined
  readonly signal?: AbortSignal | undefined
}

/** What the work is given. */
export interface Flight {
  readonly urgency: Urgency
  /** All who asked. */
  readonly owner: Owners
  /** Aborts when nobody waits any more. */
  readonly signal: AbortSignal
}

interface UnderWay<V> extends Flight {
  readonly controller: AbortController
  readonly waiting: Set<Waiting<V>>
}

interface Waiting<V> {
  readonly resolve: (value: V) => void
  readonly reject: (error: unknown) => void
  readonly stop: () => void
}

export class SingleFlight<K, V> {
  readonly #underWay = new Map<K, UnderWay<V>>()
  readonly #onDone: (value: V, waiters: number) => void

  /** `onDone` is told, before anybody gets a value, how many will: 0 if all went away meanwhile. */
  constructor(onDone: (value: V, waiters: number) => void = () => undefined) {
    this.#onDone = onDone
  }

  get size(): number {
    return this.#underWay.size
  }

  /** What `work` comes to, which is begun unless the same key is under way. Rejects with the signal's reason when it aborts. */
  join(key: K, work: (flight: Flight) => Promise<V>, waiter: FlightWaiter = {}): Promise<V> {
    waiter.signal?.throwIfAborted()
    const flight = this.#underWay.get(key) ?? this.#begin(key, work, waiter)
    return this.#wait(key, flight, waiter)
  }

  /** Ends everything: all who wait get `reason`. */
  close(reason: unknown): void {
    for (const [key, flight] of this.#underWay) {
      for (const { reject } of this.#end(key, flight)) reject(reason)
      flight.controller.abort(reason)
    }
  }

  #begin(key: K, work: (flight: Flight) => Promise<V>, { urgency, owner }: FlightWaiter): UnderWay<V> {
    const [first] = Owners.of(owner).all
    const controller = new AbortController()
    const flight = {
      controller,
      signal: controller.signal,
      urgency: new Urgency(urgency?.priority),
      owner: new Owners(first),
      waiting: new Set<Waiting<V>>(),
    }
    const working = work(flight)
    this.#underWay.set(key, flight)
    working.then(
      value => {
        const waiting = this.#end(key, flight)
        this.#onDone(value, waiting.length)
        for (const { resolve } of waiting) resolve(value)
      },
      error => {
        for (const { reject } of this.#end(key, flight)) reject(error)
      },
    )
    return flight
  }

  #wait(key: K, flight: UnderWay<V>, { urgency, owner, signal }: FlightWaiter): Promise<V> {
    return new Promise((resolve, reject) => {
      flight.urgency.raise(urgency?.priority)
      const stopRaises = urgency?.onRaise(priority => flight.urgency.raise(priority))
      const stopFollowing = flight.owner.follow(Owners.of(owner))
      const stop = (): void => {
        flight.waiting.delete(waiting)
        stopRaises?.()
        stopFollowing()
        signal?.removeEventListener('abort', onAbort)
      }
      const onAbort = (): void => {
        stop()
        reject(signal!.reason)
        if (flight.waiting.size > 0) return
        // Whoever asks from now on begins anew: this one is ending.
        if (this.#underWay.get(key) === flight) this.#underWay.delete(key)
        flight.controller.abort()
      }
      const waiting: Waiting<V> = { resolve, reject, stop }
      flight.waiting.add(waiting)
      signal?.addEventListener('abort', onAbort)
    })
  }

  #end(key: K, flight: UnderWay<V>): Waiting<V>[] {
    if (this.#underWay.get(key) === flight) this.#underWay.delete(key)
    const waiting = [...flight.waiting]
    for (const { stop } of waiting) stop()
    return waiting
  }
}
