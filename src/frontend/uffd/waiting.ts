/** Faults that cannot be served yet, each page once. A guest has as many as it has threads that run, and KVM up to 64 a processor beside them: few enough to look through. */

/** A VMM with more is not believed. */
const WAITING_MAX = 4096

/** In place of a chunk: to be tried again soon, because the kernel is busy with that guest's memory. */
export const SOON: number = -1
/** In place of a chunk: to be served when a buffer for a huge page is free. */
export const QUEUED: number = -2

export class Waiting {
  readonly #addresses = new Float64Array(WAITING_MAX)
  /** What each waits for: a chunk, SOON or QUEUED. */
  readonly #reasons = new Int32Array(WAITING_MAX)
  readonly #since = new Float64Array(WAITING_MAX)
  #count = 0
  #taken = 0
  #takenSince = 0

  get count(): number {
    return this.#count
  }

  /** @returns false if there are too many */
  add(address: number, reason: number): boolean {
    for (let i = 0; i < this.#count; i++) {
      if (this.#addresses[i] !== address) continue
      this.#reasons[i] = reason
      return true
    }
    if (this.#count === WAITING_MAX) return false
    this.#addresses[this.#count] = address
    this.#since[this.#count] = performance.now()
    this.#reasons[this.#count++] = reason
    return true
  }

  /**
   * Takes one that waits for that out, looking from `before` down: beginning with `count`, and going on with what was returned, each is found once, whatever is added meanwhile.
   * @returns its place, for `taken`; -1: there are no more
   */
  take(reason: number, before: number): number {
    for (let i = Math.min(before, this.#count) - 1; i >= 0; i--) {
      if (this.#reasons[i] !== reason) continue
      this.#taken = this.#addresses[i]!
      this.#takenSince = this.#since[i]!
      this.#count--
      this.#addresses[i] = this.#addresses[this.#count]!
      this.#since[i] = this.#since[this.#count]!
      this.#reasons[i] = this.#reasons[this.#count]!
      return i
    }
    return -1
  }

  /** The address that was taken last. */
  get taken(): number {
    return this.#taken
  }

  /** Since when it waited: milliseconds, as performance.now tells them. */
  get takenSince(): number {
    return this.#takenSince
  }

  clear(): void {
    this.#count = 0
  }
}
