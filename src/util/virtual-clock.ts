/**
 * Time that stands still until somebody moves it, for tests and simulations: code that takes its time, timers and randomness from a `Clock` runs the same way each
 * time for one seed, and an hour of it takes as long as its computing.
 *
 * Before time moves on, everything that can run now does: promise jobs and `setImmediate`s. Files, sockets and threads are not waited for: they have no place in
 * virtual time. Timers of the same moment are called in the order in which they were set, each after what the one before it set going.
 *
 * Timers lie in a binary heap in which each knows its place, because most are called off long before they are due (deadlines), and must not stay until then.
 */
import type { Clock } from './clock.ts'
import { randomFrom } from './random.ts'

interface Timer {
  readonly dueMs: number
  /** Of all timers ever set. */
  readonly number: number
  readonly call: () => void
  /** In the heap; -1: not in it any more. */
  index: number
}

export class VirtualClock implements Clock {
  /** Uniform in [0, 1), the same sequence for the same seed. */
  readonly random: () => number
  readonly #timers = new TimerHeap()
  #nowMs = 0
  #timersSet = 0

  /** At 0 ms. */
  constructor(seed = 1) {
    this.random = randomFrom(seed)
  }

  now(): number {
    return this.#nowMs
  }

  after(ms: number, call: () => void): () => void {
    if (Number.isNaN(ms)) throw new RangeError('a timer needs a number of milliseconds')
    const timer: Timer = { dueMs: this.#nowMs + Math.max(0, ms), number: this.#timersSet++, call, index: -1 }
    this.#timers.add(timer)
    return () => this.#timers.remove(timer)
  }

  async sleep(ms: number, signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted()
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const onAbort = (): void => reject(signal?.reason)
    signal?.addEventListener('abort', onAbort)
    const callOff = this.after(ms, resolve)
    try {
      await promise
    } finally {
      callOff()
      signal?.removeEventListener('abort', onAbort)
    }
  }

  /** Moves time on by that many milliseconds, through every timer on the way. Rejects with what a timer throws. */
  async advance(ms: number): Promise<void> {
    const endMs = this.#nowMs + ms
    await idle()
    while (this.#timers.first !== undefined && this.#timers.first.dueMs <= endMs) await this.#step()
    this.#nowMs = endMs
  }

  /** Moves time on until no timer is left, or for good if there always is one. Rejects with what a timer throws. */
  run(): Promise<void>
  /** Moves time on until `until` settles, and settles like it. Rejects if it is pending and no timer is left: it would be for ever. */
  run<T>(until: Promise<T>): Promise<T>
  async run<T>(until?: Promise<T>): Promise<T | undefined> {
    let settled = false
    const settle = (): void => {
      settled = true
    }
    until?.then(settle, settle)
    await idle()
    while (!settled && this.#timers.first !== undefined) await this.#step()
    if (until !== undefined && !settled) throw new Error(`at ${this.#nowMs} ms what is waited for is pending, and no timer is left`)
    return until
  }

  async #step(): Promise<void> {
    const timer = this.#timers.first!
    this.#timers.remove(timer)
    this.#nowMs = timer.dueMs
    timer.call()
    await idle()
  }
}

/** Settles when no promise job and no `setImmediate` is left. */
async function idle(): Promise<void> {
  do await new Promise(setImmediate)
  while (process.getActiveResourcesInfo().includes('Immediate'))
}

/** The timer that is due first is at the front; see Sedgewick and Wayne, "Algorithms", 4th edition, section 2.4. */
class TimerHeap {
  readonly #timers: Timer[] = []

  get first(): Timer | undefined {
    return this.#timers[0]
  }

  add(timer: Timer): void {
    this.#timers.push(timer)
    this.#rise(timer, this.#timers.length - 1)
  }

  /** One that is not there any more is no error. */
  remove(timer: Timer): void {
    const { index } = timer
    if (index < 0) return
    timer.index = -1
    const last = this.#timers.pop()!
    if (last === timer) return
    this.#sink(last, index)
    this.#rise(last, last.index)
  }

  #rise(timer: Timer, from: number): void {
    let index = from
    while (index > 0) {
      const parent = this.#timers[(index - 1) >> 1]!
      if (isBefore(parent, timer)) break
      this.#place(parent, index)
      index = (index - 1) >> 1
    }
    this.#place(timer, index)
  }

  #sink(timer: Timer, from: number): void {
    let index = from
    for (;;) {
      const left = 2 * index + 1
      const child = this.#firstOf(left, left + 1)
      if (child === undefined || isBefore(timer, child)) break
      const next = child.index
      this.#place(child, index)
      index = next
    }
    this.#place(timer, index)
  }

  #firstOf(left: number, right: number): Timer | undefined {
    const a = this.#timers[left]
    const b = this.#timers[right]
    return a === undefined || b === undefined || isBefore(a, b) ? a : b
  }

  #place(timer: Timer, index: number): void {
    this.#timers[index] = timer
    timer.index = index
  }
}

function isBefore(a: Timer, b: Timer): boolean {
  return a.dueMs < b.dueMs || (a.dueMs === b.dueMs && a.number < b.number)
}
