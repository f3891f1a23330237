/**
 * One direction of a line: a ring of four-word entries in shared memory, with one thread that puts entries in and one that takes them out, and the word by which the second
 * says that it goes to sleep.
 *
 * The one who puts in writes the entry first and the count of entries after it, the one who takes out reads them in the other order: the counts are atomics, so whoever
 * sees the count sees the entry. Counts run over at 2³² and only their difference means anything.
 *
 * No bell is lost: the sleeper says so first and then looks whether something came, the other puts in first and then looks whether somebody sleeps.
 */

/** Words of an entry. */
export const ENTRY_WORDS = 4

/** Each on a line of its own of the processors' caches, 16 words: the two threads write different ones. */
const PUT = 0
const TAKEN = 16
const ASLEEP = 32
const ENTRIES = 48

export class Ring {
  readonly #words: Int32Array
  readonly #capacity: number

  /** @param capacity entries; a power of two */
  constructor(memory: SharedArrayBuffer, byteOffset: number, capacity: number) {
    this.#words = new Int32Array(memory, byteOffset, ENTRIES + capacity * ENTRY_WORDS)
    this.#capacity = capacity
  }

  static sizeBytes(capacity: number): number {
    return (ENTRIES + capacity * ENTRY_WORDS) * Int32Array.BYTES_PER_ELEMENT
  }

  /** Puts an entry in; false if there is no room. */
  put(a: number, b: number, c: number, d: number): boolean {
    const words = this.#words
    const count = words[PUT]!
    if (((count - Atomics.load(words, TAKEN)) | 0) === this.#capacity) return false
    const at = this.#place(count)
    words[at] = a
    words[at + 1] = b
    words[at + 2] = c
    words[at + 3] = d
    Atomics.store(words, PUT, (count + 1) | 0)
    return true
  }

  /** Whether the other side sleeps and has to be woken: true once for each time it went to sleep. For the side that puts in. */
  takeSleeper(): boolean {
    return Atomics.load(this.#words, ASLEEP) === 1 && Atomics.exchange(this.#words, ASLEEP, 0) === 1
  }

  /** Takes the oldest entry out, into `entry`; false if there is none. */
  take(entry: Int32Array): boolean {
    const words = this.#words
    const count = words[TAKEN]!
    if (Atomics.load(words, PUT) === count) return false
    const at = this.#place(count)
    for (let word = 0; word < ENTRY_WORDS; word++) entry[word] = words[at + word]!
    Atomics.store(words, TAKEN, (count + 1) | 0)
    return true
  }

  /** Says that this side, which takes out, sleeps from now on. False if there is something to take: then it does not. */
  sleep(): boolean {
    Atomics.store(this.#words, ASLEEP, 1)
    if (Atomics.load(this.#words, PUT) === this.#words[TAKEN]) return true
    this.wake()
    return false
  }

  /** Says that this side does not sleep any more, whoever woke it. */
  wake(): void {
    Atomics.store(this.#words, ASLEEP, 0)
  }

  #place(count: number): number {
    return ENTRIES + (count & (this.#capacity - 1)) * ENTRY_WORDS
  }
}
