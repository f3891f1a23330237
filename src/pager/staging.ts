/**
 * Buffers for reads and writes that wait for a chunk, in two sizes, so many and no more: 32 MiB a pager at most. Whoever finds none waits for his turn.
 */
import { PAGE_BYTES } from '../chunk.ts'
import { TRANSFER_BYTES_MAX } from '../pager.ts'
import type { Native } from '../util/native.ts'
import { type PlacedMemory, placed } from './gathered.ts'

/** Most reads are a page or a few: 16 MiB of these. */
const SMALL_BYTES = 16 * PAGE_BYTES
const SMALL_MAX = 256
/** 16 MiB of these. */
const LARGE_MAX = 16

type Taker = (memory: PlacedMemory) => void

class Pool {
  readonly #sizeBytes: number
  readonly #native: Native | undefined
  readonly #free: PlacedMemory[] = []
  readonly #line = new Set<Taker>()
  #left: number

  constructor(sizeBytes: number, countMax: number, native: Native | undefined) {
    this.#sizeBytes = sizeBytes
    this.#left = countMax
    this.#native = native
  }

  take(taker: Taker): void {
    const memory = this.#free.pop() ?? this.#make()
    if (memory === undefined) this.#line.add(taker)
    else taker(memory)
  }

  #make(): PlacedMemory | undefined {
    if (this.#left === 0) return undefined
    this.#left--
    return placed(Buffer.from(new ArrayBuffer(this.#sizeBytes)), this.#native)
  }

  giveBack(memory: PlacedMemory): void {
    const [next] = this.#line
    if (next === undefined) {
      this.#free.push(memory)
      return
    }
    this.#line.delete(next)
    next(memory)
  }

  leave(taker: Taker): void {
    this.#line.delete(taker)
  }
}

export class Staging {
  readonly #small: Pool
  readonly #large: Pool

  constructor(native: Native | undefined) {
    this.#small = new Pool(SMALL_BYTES, SMALL_MAX, native)
    this.#large = new Pool(TRANSFER_BYTES_MAX, LARGE_MAX, native)
  }

  /** Gives `taker` a buffer of at least that size: at once, or when one is given back. */
  take(sizeBytes: number, taker: Taker): void {
    this.#poolOf(sizeBytes).take(taker)
  }

  giveBack(memory: PlacedMemory): void {
    this.#poolOf(memory.bytes.length).giveBack(memory)
  }

  /** For a taker that waits: it does not want one any more. */
  leave(taker: Taker): void {
    this.#small.leave(taker)
    this.#large.leave(taker)
  }

  #poolOf(sizeBytes: number): Pool {
    return sizeBytes <= SMALL_BYTES ? this.#small : this.#large
  }
}
