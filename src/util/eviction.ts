/**
 * Which entry leaves next, behind one small interface: the arena and the disk cache choose alike.
 *
 * Entries are rows: small integers that their owner hands out and uses again, such as the slots of
 * an arena. So a policy is a few typed arrays: a use allocates nothing, every call is O(1), and
 * nothing is ever rehashed. lru-cache keeps its keys in one Map, and growing a Map of 400,000 keys
 * stops the thread for 20 ms.
 */

export interface EvictionPolicy {
  /** A row comes in, as one that was used just now. It must not be in already. */
  insert(row: number): void
  /** A row that is in was used. */
  touched(row: number): void
  /**
   * The row that should leave next; undefined: none is in. It stays in until `remove`. Who cannot
   * let it go now says `touched`, or takes it out and in again, and asks once more.
   */
  victim(): number | undefined
  /** Takes out a row that is in, whether it was the victim or not. */
  remove(row: number): void
}

/** The one that was used longest ago leaves first. */
export class LeastRecentlyUsed implements EvictionPolicy {
  readonly #rows = new RowList()

  insert(row: number): void {
    this.#rows.append(row)
  }

  touched(row: number): void {
    this.#rows.remove(row)
    this.#rows.append(row)
  }

  victim(): number | undefined {
    return this.#rows.first
  }

  remove(row: number): void {
    this.#rows.remove(row)
  }

  /** All rows as they stand at the first step, the next victim first; what happens meanwhile is not seen. */
  victimsFirst(): Generator<number> {
    return this.#rows.snapshot()
  }
}

/** A list of rows, linked both ways. Node 0 is the end and the beginning; row r is node r + 1. */
class RowList {
  #next = new Int32Array(64)
  #previous = new Int32Array(64)

  get first(): number | undefined {
    return this.#next[0] === 0 ? undefined : this.#next[0]! - 1
  }

  append(row: number): void {
    const node = row + 1
    if (node >= this.#next.length) {
      this.#next = grown(this.#next, node)
      this.#previous = grown(this.#previous, node)
    }
    this.#link(this.#previous[0]!, node)
    this.#link(node, 0)
  }

  remove(row: number): void {
    this.#link(this.#previous[row + 1]!, this.#next[row + 1]!)
  }

  *snapshot(): Generator<number> {
    const next = this.#next.slice()
    for (let node = next[0]!; node !== 0; node = next[node]!) yield node - 1
  }

  #link(node: number, next: number): void {
    this.#next[node] = next
    this.#previous[next] = node
  }
}

/** The same in more room: a power of two above `index`. */
function grown(from: Int32Array, index: number): Int32Array<ArrayBuffer> {
  const to = new Int32Array(2 ** (32 - Math.clz32(index)))
  to.set(from)
  return to
}
