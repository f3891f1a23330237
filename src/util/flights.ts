/**
 * Single flight: however many ask for the same thing at a time, it is done once, and all get what came of it.
 *
 * The work is nobody's own: it goes on when the first who asked goes away, and ends early only when the last one did. It is as urgent as the most urgent
 * of those who wait.
 */
import { Urgency } from './urgency.ts'

export interface Passenger {
  /** Default: a demand. */
  readonly urgency?: Urgency | undefined
  readonly signal?: AbortSignal | undefined
}

/** What the work is given. */
export interface Flight {
  readonly urgency: Urgency
  /** Aborts when nobody waits any more. */
  readonly signal: AbortSignal
}

interface UnderWay<V> extends Flight {
  readonly controller: AbortController
  readonly waiting: Set<Seat<V>>
}

interface Seat<V> {
  readonly resolve: (value: V) => void
  readonly reject: (error: unknown) => void
  readonly done: () => void
}

export class Flights<K, V> {
  readonly #underWay = new Map<K, UnderWay<V>>()
  readonly #share: (value: V, passengers: number) => void

  /** `share` is told, before anybody gets a value, how many will: 0 if all went away just then. */
  constructor(share: (value: V, passengers: number) => void = () => undefined) {
    this.#share = share
  }

  get size(): number {
    return this.#underWay.size
  }

  /** What `work` comes to, which is begun unless the same key is under way. Rejects with the signal's reason when it aborts. */
  join(key: K, work: (flight: Flight) => Promise<V>, passenger: Passenger = {}): Promise<V> {
    passenger.signal?.throwIfAborted()
    const flight = this.#underWay.get(key) ?? this.#begin(key, work, passenger)
    return this.#board(key, flight, passenger)
  }

  /** Ends everything: all who wait get `reason`. */
  close(reason: unknown): void {
    for (const [key, flight] of this.#underWay) {
      for (const { reject } of this.#land(key, flight)) reject(reason)
      flight.controller.abort(reason)
    }
  }

  #begin(key: K, work: (flight: Flight) => Promise<V>, { urgency }: Passenger): UnderWay<V> {
    const controller = new AbortController()
    const flight = { controller, signal: controller.signal, urgency: new Urgency(urgency?.priority), waiting: new Set<Seat<V>>() }
    const working = work(flight)
    this.#underWay.set(key, flight)
    working.then(
      value => {
        const seats = this.#land(key, flight)
        this.#share(value, seats.length)
        for (const { resolve } of seats) resolve(value)
      },
      error => {
        for (const { reject } of this.#land(key, flight)) reject(error)
      },
    )
    return flight
  }

  #board(key: K, flight: UnderWay<V>, { urgency, signal }: Passenger): Promise<V> {
    return new Promise((resolve, reject) => {
      flight.urgency.raise(urgency?.priority)
      const stop = urgency?.onRaise(priority => flight.urgency.raise(priority))
      const done = (): void => {
        flight.waiting.delete(seat)
        stop?.()
        signal?.removeEventListener('abort', onAbort)
      }
      const onAbort = (): void => {
        done()
        reject(signal!.reason)
        if (flight.waiting.size > 0) return
        // Whoever asks from now on begins anew: this one is ending.
        if (this.#underWay.get(key) === flight) this.#underWay.delete(key)
        flight.controller.abort()
      }
      const seat: Seat<V> = { resolve, reject, done }
      flight.waiting.add(seat)
      signal?.addEventListener('abort', onAbort)
    })
  }

  #land(key: K, flight: UnderWay<V>): Seat<V>[] {
    if (this.#underWay.get(key) === flight) this.#underWay.delete(key)
    const seats = [...flight.waiting]
    for (const { done } of seats) done()
    return seats
  }
}
