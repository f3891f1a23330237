/**
 * Shared memory in a fixed number of slots of one size, for bytes on their way. It is the bound on
 * memory: whoever wants to move more waits at its gate.
 */
import { Gate, type GateRequest, type Place } from './gate.ts'

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

export interface AcquireOptions extends Pick<GateRequest, 'urgency' | 'owner'> {
  readonly signal?: AbortSignal | undefined
}

export class Slab implements SlabMemory {
  readonly memory: SharedArrayBuffer
  readonly slotBytes: number
  readonly slots: number
  readonly #free: number[]
  readonly #gate: Gate

  /** `keepsFree` as of a gate: for slots that several tenants share. */
  constructor(slots: number, slotBytes: number, { keepsFree = false }: { readonly keepsFree?: boolean } = {}) {
    this.memory = new SharedArrayBuffer(slots * slotBytes)
    this.slotBytes = slotBytes
    this.slots = slots
    this.#free = Array.from({ length: slots }, (_, index) => slots - 1 - index)
    this.#gate = new Gate({ countMax: slots, keepsFree })
  }

  /** Whether no slot is lent. */
  get isIdle(): boolean {
    return this.#gate.admitted === 0
  }

  /** The view of a slot, on any thread. */
  static view({ memory, slotBytes }: SlabMemory, index: number): Buffer {
    return Buffer.from(memory, index * slotBytes, slotBytes)
  }

  /** A free slot, now or not at all. */
  tryAcquire(request: GateRequest = {}): Slot | undefined {
    const place = this.#gate.tryEnter(request)
    return place === undefined ? undefined : this.#lend(place)
  }

  /** A slot when it is this one's turn. Rejects with the signal's reason when it aborts. */
  acquire({ signal, ...request }: AcquireOptions = {}): Promise<Slot> {
    return this.#gate.admitTo(this.#lend, request, signal)
  }

  readonly #lend = (place: Place): Slot => {
    // Not more are admitted than there are slots.
    const index = this.#free.pop()!
    return {
      index,
      bytes: Slab.view(this, index),
      release: () => {
        this.#free.push(index)
        place.leave()
      },
    }
  }
}
