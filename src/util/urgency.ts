/**
 * How urgently a piece of work is wanted. It can rise while the work waits: a prefetched chunk is
 * demanded the moment somebody asks for it, and overtakes what is only prefetched.
 */
export type Priority = 'demand' | 'bulk' | 'prefetch'

/** The most urgent first: somebody waits for it; a whole snapshot is moved; it may be wanted later. */
export const PRIORITIES: readonly Priority[] = ['demand', 'bulk', 'prefetch']

export class Urgency {
  #priority: Priority
  readonly #onRaise = new Set<(priority: Priority) => void>()

  constructor(priority: Priority = 'demand') {
    this.#priority = priority
  }

  get priority(): Priority {
    return this.#priority
  }

  /** Makes it at least that urgent. Nothing makes it less again. */
  raise(to: Priority = 'demand'): void {
    if (PRIORITIES.indexOf(to) >= PRIORITIES.indexOf(this.#priority)) return
    this.#priority = to
    for (const call of this.#onRaise) call(to)
    if (to === 'demand') this.#onRaise.clear()
  }

  /** Calls `call` whenever it rises, until the function that is returned is called. */
  onRaise(call: (priority: Priority) => void): () => void {
    if (this.#priority === 'demand') return () => undefined
    this.#onRaise.add(call)
    return () => this.#onRaise.delete(call)
  }
}
