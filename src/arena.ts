/**
 * L1 memory: opened chunks in shared slots of 512 KiB that any thread reads without a lock, and without asking anybody.
 *
 * Chunks have numbers (engine/numbers.ts). The engine alone writes `slotOf[number]`, the slot a chunk lies in; whoever reads *pins* the slot first:
 *
 *     reader                                    engine, to reuse a slot
 *       slot = slotOf[number]                     slotOf[number] = none
 *       pins[slot] += 1                           if pins[slot] is 0, nobody reads it and nobody will:
 *       if slotOf[number] is still slot: read       the slot is written to
 *       pins[slot] -= 1                           else it waits until pins[slot] is 0
 *
 * Both sides write before they look at what the other wrote, and all four are atomics, which have one order that all threads see: so either the reader
 * sees that the chunk is gone, or the engine sees the pin. A chunk that came back into the very slot between the reader's two looks is the chunk it wants.
 *
 * Memory is committed by the kernel when a slot is first used. The arena holds plaintext: it is shared among the threads of one process and with nobody else.
 */
import { PAGE_BYTES, RANGE_BYTES } from './chunk.ts'

export const SLOT_BYTES: number = RANGE_BYTES
/** Slots of a segment: 64 MiB. */
const SEGMENT_SLOTS = 128
/** Chunks that can have a number at a time: 2 TiB of full ones. Four bytes of address space each. */
export const NUMBERS_MAX: number = 2 ** 22
/** `pin` of a chunk that is not in the arena. */
export const ABSENT: number = -1

/** The arena as it is handed to another thread: posting it copies nothing. */
export interface ArenaMemory {
  readonly slots: number
  /** SEGMENT_SLOTS slots each, the last one fewer. */
  readonly segments: readonly SharedArrayBuffer[]
  /** i32 a chunk number: its slot + 1, or 0. */
  readonly slotOf: SharedArrayBuffer
  /** i32 a slot: how many read it now. */
  readonly pins: SharedArrayBuffer
  /** u8 a slot: 1 if somebody read it since the engine last looked. */
  readonly used: SharedArrayBuffer
}

/** An arena, as one thread sees it. */
export class Arena {
  readonly memory: ArenaMemory
  readonly slots: number
  readonly #segments: readonly Buffer[]
  protected readonly slotOf: Int32Array
  protected readonly pins: Int32Array
  protected readonly used: Uint8Array

  constructor(memory: ArenaMemory) {
    this.memory = memory
    this.slots = memory.slots
    this.#segments = memory.segments.map(segment => Buffer.from(segment))
    this.slotOf = new Int32Array(memory.slotOf)
    this.pins = new Int32Array(memory.pins)
    this.used = new Uint8Array(memory.used)
  }

  static allocate(slots: number): ArenaMemory {
    const segments: SharedArrayBuffer[] = []
    for (let left = slots; left > 0; left -= SEGMENT_SLOTS) {
      segments.push(new SharedArrayBuffer(Math.min(left, SEGMENT_SLOTS) * SLOT_BYTES))
    }
    return {
      slots,
      segments,
      slotOf: new SharedArrayBuffer(NUMBERS_MAX * Int32Array.BYTES_PER_ELEMENT),
      pins: new SharedArrayBuffer(slots * Int32Array.BYTES_PER_ELEMENT),
      used: new SharedArrayBuffer(slots),
    }
  }

  /** The slot of a chunk, which keeps its bytes until `unpin`; or ABSENT. */
  pin(number: number): number {
    for (;;) {
      const slot = Atomics.load(this.slotOf, number) - 1
      if (slot < 0) return ABSENT
      Atomics.add(this.pins, slot, 1)
      if (Atomics.load(this.slotOf, number) === slot + 1) {
        // Not written again and again: all readers of a slot would fight for its line of the processors' caches.
        if (this.used[slot] === 0) this.used[slot] = 1
        return slot
      }
      Atomics.sub(this.pins, slot, 1)
    }
  }

  /** Gives a pin back; the slot's bytes are not to be looked at any more. */
  unpin(slot: number): void {
    Atomics.sub(this.pins, slot, 1)
  }

  /** Copies bytes [from, from + sizeBytes) of a pinned slot to `offset` of `target`. */
  copy(slot: number, from: number, sizeBytes: number, target: Uint8Array, offset: number): void {
    const start = (slot % SEGMENT_SLOTS) * SLOT_BYTES + from
    // Buffer's copy: a typed array's own is several times slower on shared memory.
    this.#segments[Math.floor(slot / SEGMENT_SLOTS)]!.copy(target, offset, start, start + sizeBytes)
  }

  /** Pages of a slot as a view, for system calls that take an address: of a pinned slot to read from, of a slot that is being filled to write to. */
  pages(slot: number, first = 0, count: number = SLOT_BYTES / PAGE_BYTES): Buffer {
    const start = (slot % SEGMENT_SLOTS) * SLOT_BYTES + first * PAGE_BYTES
    return this.#segments[Math.floor(slot / SEGMENT_SLOTS)]!.subarray(start, start + count * PAGE_BYTES)
  }

  /** The memory a slot lies in: `segments[segmentOf(slot)]`, from `offsetOf(slot)` on. What a pager computes addresses from, once a segment. */
  get segments(): readonly Buffer[] {
    return this.#segments
  }

  segmentOf(slot: number): number {
    return Math.floor(slot / SEGMENT_SLOTS)
  }

  offsetOf(slot: number): number {
    return (slot % SEGMENT_SLOTS) * SLOT_BYTES
  }
}

/** The engine's hand on an arena: what only one thread may do. */
export class ArenaWriter extends Arena {
  /** Lets everybody find a chunk in a slot that was filled, with so many pins given out in advance. */
  publish(number: number, slot: number, pins: number): void {
    Atomics.add(this.pins, slot, pins)
    Atomics.store(this.slotOf, number, slot + 1)
  }

  /** From now on nobody pins the chunk; those who have keep it. */
  withdraw(number: number): void {
    Atomics.store(this.slotOf, number, 0)
  }

  has(number: number): boolean {
    return Atomics.load(this.slotOf, number) !== 0
  }

  isPinned(slot: number): boolean {
    return Atomics.load(this.pins, slot) !== 0
  }

  /** Whether the slot was read since this was last asked. */
  takeUsed(slot: number): boolean {
    const used = this.used[slot] === 1
    if (used) this.used[slot] = 0
    return used
  }
}
