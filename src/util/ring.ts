/**
 * Items in a circle that know their neighbours: a queue that any item may leave at once, and a round
 * of turns. A Set or a Map does the same until thousands have come and gone: then looking for the
 * first entry passes the remains of all before it.
 */

export abstract class RingItem {
  /** @internal */
  next: RingItem = this
  /** @internal */
  previous: RingItem = this
}

export class Ring<T extends RingItem> {
  #current: T | undefined

  /** Whose turn it is; undefined: the ring is empty. */
  get current(): T | undefined {
    return this.#current
  }

  /** Once round, from whose turn it is. Nothing may be put in or taken out meanwhile. */
  *[Symbol.iterator](): Generator<T> {
    const first = this.#current
    if (first === undefined) return
    let item = first
    do {
      yield item
      item = item.next as T
    } while (item !== first)
  }

  /** Puts an item in as the last whose turn comes. It must be in no ring. */
  add(item: T): void {
    if (this.#current === undefined) {
      this.#current = item
      return
    }
    const last = this.#current.previous
    last.next = item
    item.previous = last
    item.next = this.#current
    this.#current.previous = item
  }

  /** Takes out an item of this ring. If it was its turn, it is the next one's. */
  remove(item: T): void {
    if (this.#current === item) this.#current = item.next === item ? undefined : (item.next as T)
    item.previous.next = item.next
    item.next.previous = item.previous
    item.next = item
    item.previous = item
  }

  /** An item of this ring had its turn. */
  turnAfter(item: T): void {
    this.#current = item.next as T
  }
}
