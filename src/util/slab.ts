/**
 * Shared memory in a fixed number of slots of one size, for bytes on their way. It is the bound on memory: whoever wants to move more waits for a slot.
 */
import { type Urgency, WaitingLine } from './urgency.ts'

/** A loan of one slot. Its bytes are the holder's until `release()`, which is called exactly once. */
export interface Slot {
  readonly index: number
  /** All of the slot: shared memory; crypto, zlib, fs and net take such views. */
  readonly bytes: Buffer
  release(): void
}

/** A slab as other threads see it. Posting it copies nothing. */
export interface SlabMemory {
  readonly memory: SharedArrayBuffer
  readonly slotBytes: number
}

export interface AcquireOptions {
  /** Default: a demand. */
  readonly urgency?: Urgency | undefined
  readonly signal?: AbortSignal | undefined
}

export class Slab implements SlabMemory {
  readonly memory: SharedArrayBuffer
  readonly slotBytes: number
  readonly slots: number
  readonly #free: number[]
  readonly #waiting = new WaitingLine<(slot: Slot) => void>()

  constructor(slots: number, slotBytes: number) {
    this.memory = new SharedArrayBuffer(slots * slotBytes)
    this.slotBytes = slotBytes
    this.slots = slots
    this.#free = Array.from({ length: slots }, (_, index) => slots - 1 - index)
  }

  /** Whether no slot is lent. */
  get isIdle(): boolean {
    return this.#free.length === this.slots
  }

  /** The view of a slot, on any thread. */
  static view({ memory, slotBytes }: SlabMemory, index: number): Buffer {
    return Buffer.from(memory, index * slotBytes, slotBytes)
  }

  /** A free slot, now or not at all. */
  tryAcquire(): Slot | undefined {
    const index = this.#waiting.size === 0 ? this.#free.pop() : undefined
    return index === undefined ? undefined : this.#lend(index)
  }

  /** The next free slot; first come, first served, demands first. Rejects with the signal's reason when it aborts. */
  acquire({ urgency, signal }: AcquireOptions = {}): Promise<Slot> {
    const slot = this.tryAcquire()
    if (slot !== undefined) return Promise.resolve(slot)
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted()
      const done = (): void => {
        leave()
        signal?.removeEventListener('abort', onAbort)
      }
      const leave = this.#waiting.join(slot => {
        done()
        resolve(slot)
      }, urgency)
      const onAbort = (): void => {
        done()
        reject(signal!.reason)
      }
      signal?.addEventListener('abort', onAbort)
    })
  }

  #lend(index: number): Slot {
    return {
      index,
      bytes: Slab.view(this, index),
      release: () => {
        const next = this.#waiting.first()
        if (next === undefined) this.#free.push(index)
        else next(this.#lend(index))
      },
    }
  }
}
