/**
 * What was read and written of one image in one restore, counted by its pager in shared memory and read by anybody. Only the pager writes: plain numbers will do, and a
 * reader may see one of two that belong together earlier than the other.
 */
import type { Tier } from '../errors.ts'
import { type Distribution, Histogram } from '../util/histogram.ts'

/** Since the restore began. */
export interface ServedFigures {
  /** Reads and faults that were answered from memory at once; those that had to wait; those of zeros alone. */
  readonly hits: number
  readonly misses: number
  readonly zeros: number
  /** Reads and faults that ended with an error. */
  readonly failures: number
  /** Bytes given to the guest, zeros included. */
  readonly readBytes: number
  readonly writes: number
  readonly writtenBytes: number
  /** Chunks that came from each tier, for reads that had to wait. */
  readonly chunks: Readonly<Record<Tier, number>>
  /** How long the misses waited. */
  readonly waits: Distribution
}

const HITS = 0
const MISSES = 1
const ZEROS = 2
const FAILURES = 3
const READ_BYTES = 4
const WRITES = 5
const WRITTEN_BYTES = 6
const CHUNKS = 7
const TIERS: readonly Tier[] = ['memory', 'disk', 'l2', 'origin']
const COUNTS = CHUNKS + TIERS.length
const FLOAT_BYTES = Float64Array.BYTES_PER_ELEMENT

/** Memory for the figures of an image. */
export function allocateFigures(): SharedArrayBuffer {
  return new SharedArrayBuffer(COUNTS * FLOAT_BYTES + Histogram.sizeBytes)
}

/** The pager's hand on them. */
export class ImageCounters {
  readonly #counts: Float64Array
  readonly #waits: Histogram

  constructor(memory: SharedArrayBuffer) {
    this.#counts = new Float64Array(memory, 0, COUNTS)
    this.#waits = new Histogram(memory, COUNTS * FLOAT_BYTES)
  }

  hit(bytes: number): void {
    this.#counts[HITS]!++
    this.#counts[READ_BYTES]! += bytes
  }

  zeros(bytes: number): void {
    this.#counts[ZEROS]!++
    this.#counts[READ_BYTES]! += bytes
  }

  miss(bytes: number, waitedMs: number): void {
    this.#counts[MISSES]!++
    this.#counts[READ_BYTES]! += bytes
    this.#waits.record(waitedMs)
  }

  failure(): void {
    this.#counts[FAILURES]!++
  }

  chunk(tier: Tier): void {
    this.#counts[CHUNKS + TIERS.indexOf(tier)]!++
  }

  write(bytes: number): void {
    this.#counts[WRITES]!++
    this.#counts[WRITTEN_BYTES]! += bytes
  }
}

export function readFigures(memory: SharedArrayBuffer): ServedFigures {
  const counts = new Float64Array(memory, 0, COUNTS)
  const at = (index: number): number => counts[index]!
  const [inMemory, disk, l2, origin] = [at(CHUNKS), at(CHUNKS + 1), at(CHUNKS + 2), at(CHUNKS + 3)]
  return {
    hits: at(HITS),
    misses: at(MISSES),
    zeros: at(ZEROS),
    failures: at(FAILURES),
    readBytes: at(READ_BYTES),
    writes: at(WRITES),
    writtenBytes: at(WRITTEN_BYTES),
    chunks: { memory: inMemory, disk, l2, origin },
    waits: new Histogram(memory, COUNTS * FLOAT_BYTES).read(),
  }
}
