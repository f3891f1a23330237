/**
 * The descriptors that the front ends of a pager have open, a bit each in shared memory. Should the thread end without closing them, however that comes, main does: whoever waits
 * at the other end must not wait for ever.
 *
 * The thread marks one after it was opened, and takes the mark off before it closes it, so none is closed twice. One that was between the two when the thread ended is lost.
 */
import type { OwnedDescriptors } from '../pager.ts'

/** Linux lets a process have 2²⁰ unless it is told otherwise (/proc/sys/fs/nr_open). One beyond is not known here. */
const FDS_MAX = 2 ** 20
const WORD_BITS = 32

export class OpenDescriptors implements OwnedDescriptors {
  readonly #words: Int32Array
  readonly #close: (fd: number) => void

  /** @param memory of `allocate`: 128 KiB. @param close closes one, on this thread */
  constructor(memory: SharedArrayBuffer, close: (fd: number) => void) {
    this.#words = new Int32Array(memory)
    this.#close = close
  }

  static allocate(): SharedArrayBuffer {
    return new SharedArrayBuffer(FDS_MAX / 8)
  }

  own(fd: number): number {
    Atomics.or(this.#words, fd >>> 5, 1 << fd)
    return fd
  }

  close(fd: number): void {
    Atomics.and(this.#words, fd >>> 5, ~(1 << fd))
    this.#close(fd)
  }

  /** For when the thread has ended. */
  closeAll(): void {
    this.#words.forEach((word, index) => {
      if (word === 0) return
      for (let bit = 0; bit < WORD_BITS; bit++) if ((word & (1 << bit)) !== 0) this.close(index * WORD_BITS + bit)
    })
  }
}
