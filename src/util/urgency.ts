/**
 * How urgently a piece of work is wanted, which can change while it waits: a prefetched chunk is demanded the moment somebody asks for it, and then overtakes
 * what is only prefetched.
 */
export type Priority = 'demand' | 'prefetch'

export class Urgency {
  #priority: Priority
  readonly #onRaise = new Set<() => void>()

  constructor(priority: Priority = 'demand') {
    this.#priority = priority
  }

  get priority(): Priority {
    return this.#priority
  }

  /** Makes it a demand. Nothing makes it less again. */
  raise(): void {
    if (this.#priority === 'demand') return
    this.#priority = 'demand'
    for (const call of this.#onRaise) call()
    this.#onRaise.clear()
  }

  /** Calls `call` once if the work becomes a demand, unless the function that is returned was called before. */
  onRaise(call: () => void): () => void {
    if (this.#priority === 'demand') return () => undefined
    this.#onRaise.add(call)
    return () => this.#onRaise.delete(call)
  }
}

/** Those who wait for something, first come, first served, but demands before the rest. */
export class WaitingLine<T> {
  readonly #demanded = new Set<T>()
  readonly #others = new Set<T>()

  get size(): number {
    return this.#demanded.size + this.#others.size
  }

  /** Whose turn it is. */
  first(): T | undefined {
    for (const item of this.#demanded) return item
    for (const item of this.#others) return item
    return undefined
  }

  /** Puts an item at the end of its line. The function that is returned takes it out again, wherever it is by then. */
  join(item: T, urgency: Urgency | undefined): () => void {
    if (urgency === undefined || urgency.priority === 'demand') this.#demanded.add(item)
    else this.#others.add(item)
    const stop = urgency?.onRaise(() => {
      if (this.#others.delete(item)) this.#demanded.add(item)
    })
    return () => {
      stop?.()
      this.#demanded.delete(item)
      this.#others.delete(item)
    }
  }
}
