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

  /** Who comes after an item of this ring; itself if it is alone. */
  after(item: T): T {
    return item.next as T
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
    if (this.#current === item) this.#current = item.next === item ? undefined : this.after(item)
    item.previous.next = item.next
    item.next.previous = item.previous
    item.next = item
    item.previous = item
  }

  /** An item of this ring had its turn. */
  turnAfter(item: T): void {
    this.#current = this.after(item)
  }
}
