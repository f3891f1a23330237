/**
 * The memory of an engine: its arena and its slab, 65 MB of address space for the smallest. Mapping that, and having the collector find out that it is free, takes longer
 * than opening a store: so the memory of an engine that closed is kept for the next one of its size.
 */
import { Arena, type ArenaMemory } from '../arena.ts'
import { SEALED_BYTES_MAX } from '../seal.ts'
import { Slab } from '../util/slab.ts'

/** Slots for chunks on their way; 33 MiB, committed as they are used. Twice what a store wants under way at a time. */
const SLAB_SLOTS = 64
/** Larger arenas are given back to the system: 32 MiB. */
const KEPT_SLOTS_MAX = 64

export interface EngineMemory {
  readonly arena: ArenaMemory
  readonly slab: Slab
}

let kept: EngineMemory | undefined

/** Memory with nothing in it. */
export function takeMemory(slots: number): EngineMemory {
  const found = kept
  if (found?.arena.slots !== slots)
    return { arena: Arena.allocate(slots), slab: new Slab(SLAB_SLOTS, SEALED_BYTES_MAX, { keepsFree: true }) }
  kept = undefined
  return found
}

/** Keeps memory for the next engine, if nobody can be using it: no chunk is in the arena, no slot pinned or lent. */
export function giveBackMemory(memory: EngineMemory): void {
  const { arena, slab } = memory
  if (arena.slots > KEPT_SLOTS_MAX || !slab.isIdle || new Int32Array(arena.pins).some(pins => pins !== 0)) return
  kept = memory
}
