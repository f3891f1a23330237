/**
 * Counts of durations in buckets that grow by the square root of two, from one microsecond to an hour: 64 numbers, whatever happens. Adding is cheap enough for
 * every read, two histograms of different threads add up, and Prometheus takes the buckets as they are. A quantile is off by a fifth at most.
 */

/** Upper bounds of the buckets in milliseconds, the last one open: 1 µs × 2^(k/2). */
export const BUCKETS_MS: readonly number[] = Array.from({ length: 64 }, (_, k) => 0.001 * 2 ** (k / 2))

/** Figures of a histogram; plain data. */
export interface Distribution {
  readonly count: number
  readonly sumMs: number
  readonly maxMs: number
  /** Durations at most BUCKETS_MS[k] and more than the bound before; longer ones are in the last. */
  readonly buckets: readonly number[]
}

/** Behind the buckets. */
const COUNT = BUCKETS_MS.length
const SUM_MS = COUNT + 1
const MAX_MS = COUNT + 2
const NUMBERS = COUNT + 3

export class Histogram {
  /** Memory that one takes. */
  static readonly sizeBytes: number = NUMBERS * Float64Array.BYTES_PER_ELEMENT
  readonly #numbers: Float64Array

  /** @param memory shared with other threads, that read what one of them records; default: the histogram's own */
  constructor(memory: ArrayBufferLike = new ArrayBuffer(Histogram.sizeBytes), byteOffset = 0) {
    this.#numbers = new Float64Array(memory, byteOffset, NUMBERS)
  }

  get count(): number {
    return this.#numbers[COUNT]!
  }

  record(ms: number): void {
    const bucket = ms <= 0.001 ? 0 : Math.min(Math.ceil(2 * Math.log2(ms * 1000)), BUCKETS_MS.length - 1)
    this.#numbers[bucket]!++
    this.#numbers[COUNT]!++
    this.#numbers[SUM_MS]! += ms
    if (ms > this.#numbers[MAX_MS]!) this.#numbers[MAX_MS] = ms
  }

  read(): Distribution {
    const numbers = this.#numbers
    return { count: this.count, sumMs: numbers[SUM_MS]!, maxMs: numbers[MAX_MS]!, buckets: [...numbers.subarray(0, COUNT)] }
  }
}

/** The duration in milliseconds that a share `q` in [0, 1] of all does not exceed: a bucket's bound, and never more than the longest; NaN of nothing. */
export function quantileOf({ count, maxMs, buckets }: Distribution, q: number): number {
  if (count === 0) return Number.NaN
  let left = Math.max(1, Math.ceil(q * count))
  const bucket = buckets.findIndex(inBucket => {
    left -= inBucket
    return left <= 0
  })
  return Math.min(BUCKETS_MS[bucket]!, maxMs)
}
