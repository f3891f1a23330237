/**
 * Shared memory for chunks on their way through a push or a pull: a fixed number of slots, each large enough for a sealed chunk or its pages. It is the bound
 * on memory: whoever wants to move another chunk waits for a slot.
 */
import { SEALED_BYTES_MAX } from '../seal.ts'

/** A loan of one slot. Its bytes are the holder's until `release()`, which is called exactly once. */
export interface Slot {
  readonly index: number
  /** SEALED_BYTES_MAX bytes of shared memory; crypto, zlib, fs and net take such views. */
  readonly bytes: Buffer
  release(): void
}

export class Slab {
  readonly memory: SharedArrayBuffer
  readonly #free: number[]
  readonly #waiting: ((slot: Slot) => void)[] = []

  constructor(slots: number) {
    this.memory = new SharedArrayBuffer(slots * SEALED_BYTES_MAX)
    this.#free = Array.from({ length: slots }, (_, index) => slots - 1 - index)
  }

  /** The view of a slot, on any thread. */
  static view(memory: SharedArrayBuffer, index: number): Buffer {
    return Buffer.from(memory, index * SEALED_BYTES_MAX, SEALED_BYTES_MAX)
  }

  /** The next free slot; first come, first served. */
  acquire(): Promise<Slot> {
    const index = this.#free.pop()
    if (index !== undefined) return Promise.resolve(this.#lend(index))
    return new Promise(resolve => this.#waiting.push(resolve))
  }

  #lend(index: number): Slot {
    return {
      index,
      bytes: Slab.view(this.memory, index),
      release: () => {
        const next = this.#waiting.shift()
        if (next === undefined) this.#free.push(index)
        else next(this.#lend(index))
      },
    }
  }
}
