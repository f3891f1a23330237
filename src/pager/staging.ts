/**
 * Buffers for reads whose chunks do not stay in the arena together: what has come is copied, so that the
 * read gets on however small the arena is. So many and no more, 32 MiB a pager. Tenants and their
 * restores take turns, and none holds so many that the next one finds none.
 */
import { TRANSFER_BYTES_MAX } from '../pager.ts'
import { Gate, type Owner, type Place } from '../util/gate.ts'
import type { Native } from '../util/native.ts'
import { type PlacedMemory, placed } from './gathered.ts'

const BUFFERS_MAX = 32

export class Staging {
  readonly #native: Native | undefined
  readonly #gate = new Gate({ countMax: BUFFERS_MAX, keepsFree: true })
  readonly #free: PlacedMemory[] = []

  constructor(native: Native | undefined) {
    this.#native = native
  }

  /**
   * Calls back once with a buffer of TRANSFER_BYTES_MAX, perhaps before this returns. What is returned is
   * the buffer, or the place in the queue for one.
   * @throws UNAVAILABLE if too many reads of that restore wait
   */
  take(owner: Owner, onBuffer: (buffer: StagingBuffer) => void): StagingBuffer {
    const buffer = new StagingBuffer(this.#free)
    buffer.place = this.#gate.enter({ owner }, place => {
      buffer.place = place
      buffer.memory = this.#free.pop() ?? placed(Buffer.from(new ArrayBuffer(TRANSFER_BYTES_MAX)), this.#native)
      onBuffer(buffer)
    })
    return buffer
  }
}

export class StagingBuffer {
  readonly #free: PlacedMemory[]
  place: Place | undefined
  memory: PlacedMemory | undefined

  constructor(free: PlacedMemory[]) {
    this.#free = free
  }

  /** Gives it back, or stops waiting for it. Idempotent. */
  leave(): void {
    if (this.memory !== undefined) this.#free.push(this.memory)
    this.memory = undefined
    this.place?.leave()
  }
}
