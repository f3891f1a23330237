/** What a read found, as stretches of memory: slots of the arena that it pinned, zeros, and bytes that were copied for it. Used again and again. */
import type { Arena } from '../arena.ts'
import type { Gathered } from '../pager.ts'
import type { Native } from '../util/native.ts'

const VECTOR_BYTES = 16
const WORD = 2 ** 32

/** Memory whose address is known. */
export interface PlacedMemory {
  readonly bytes: Buffer
  /** 0 if there is nobody who could tell. */
  readonly address: number
}

export function placed(bytes: Buffer, native: Native | undefined): PlacedMemory {
  return { bytes, address: native?.addressOf(bytes) ?? 0 }
}

export class GatheredBytes implements Gathered {
  readonly vectors: Buffer
  readonly #words: Uint32Array
  readonly #arena: Arena
  readonly #sources: Buffer[] = []
  readonly #offsets: Float64Array
  readonly #sizes: Float64Array
  /** Slots that are pinned until `release`. */
  readonly #slots: Int32Array
  #slotCount = 0
  #chunkCount = 0
  #pieces = 0
  sizeBytes = 0
  /** Whether nothing but zeros was added. */
  isZero = true

  /** @param piecesMax of one read */
  constructor(arena: Arena, piecesMax: number) {
    this.#arena = arena
    // On a buffer of its own: its address must not move, and its words be aligned.
    this.vectors = Buffer.from(new ArrayBuffer((piecesMax + 1) * VECTOR_BYTES))
    this.#words = new Uint32Array(this.vectors.buffer)
    this.#offsets = new Float64Array(piecesMax)
    this.#sizes = new Float64Array(piecesMax)
    this.#slots = new Int32Array(piecesMax)
  }

  /** How many chunks it reads. */
  get chunkCount(): number {
    return this.#chunkCount
  }

  get vectorCount(): number {
    return this.#pieces + 1
  }

  setHeader(address: number, sizeBytes: number): void {
    this.#setVector(0, address, sizeBytes)
  }

  add(memory: PlacedMemory, offset: number, sizeBytes: number): void {
    this.#add(memory, offset, sizeBytes)
    this.isZero = false
  }

  addZeros(zeros: PlacedMemory, sizeBytes: number): void {
    this.#add(zeros, 0, sizeBytes)
  }

  #add({ bytes, address }: PlacedMemory, offset: number, sizeBytes: number): void {
    const piece = this.#pieces++
    this.#sources[piece] = bytes
    this.#offsets[piece] = offset
    this.#sizes[piece] = sizeBytes
    this.#setVector(piece + 1, address + offset, sizeBytes)
    this.sizeBytes += sizeBytes
  }

  /** Takes over a pin. */
  holdSlot(slot: number): void {
    if (this.#slotCount === 0 || this.#slots[this.#slotCount - 1] !== slot) this.#chunkCount++
    this.#slots[this.#slotCount++] = slot
  }

  /** Empties it, and gives the pins back. */
  release(): void {
    for (let i = 0; i < this.#slotCount; i++) this.#arena.unpin(this.#slots[i]!)
    this.#slotCount = 0
    this.#chunkCount = 0
    this.#pieces = 0
    this.sizeBytes = 0
    this.isZero = true
  }

  copyTo(target: Uint8Array, from = 0): number {
    let at = 0
    let skip = from
    for (let piece = 0; piece < this.#pieces && at < target.length; piece++) {
      const sizeBytes = this.#sizes[piece]!
      if (skip >= sizeBytes) {
        skip -= sizeBytes
        continue
      }
      const start = this.#offsets[piece]! + skip
      const end = Math.min(this.#offsets[piece]! + sizeBytes, start + target.length - at)
      this.#sources[piece]!.copy(target, at, start, end)
      at += end - start
      skip = 0
    }
    return at
  }

  #setVector(index: number, address: number, sizeBytes: number): void {
    const at = index * 4
    this.#words[at] = address % WORD
    this.#words[at + 1] = address / WORD
    this.#words[at + 2] = sizeBytes
  }
}
