/**
 * Figures of the read path, per tier: what is counted, and in which units. Plain data, so that they cross threads and processes.
 */
import type { Tier } from './errors.ts'
import { type Distribution, Histogram } from './util/histogram.ts'

/**
 * Everything since the cache was made. Of memory, the caches and the origin alike, hits and misses are
 * counted in chunks (and manifests), not in reads: a read of two chunks looks for two.
 */
export interface TierFigures {
  /** Times that one was there, and its bytes good. */
  readonly hits: number
  /** Times that one was not there, and was looked for in the next tier: once for all who waited for it. */
  readonly misses: number
  /** Bytes served: of pages for `memory`, sealed ones for the others. */
  readonly bytes: number
  /** Calls that failed: down, too slow, refused. For the origin: reads that failed for good. */
  readonly errors: number
  /** Bytes that were not those of their id. */
  readonly corrupt: number
  /** Bad copies that were replaced by good ones. */
  readonly healed: number
  /** Copies written here after another tier served. */
  readonly fills: number
  /** Copies not written: too many on their way, no room, down. */
  readonly fillsDropped: number
  /** From the question to the bytes; hits only. */
  readonly latency: Distribution
}

export interface OriginFigures extends TierFigures {
  /** Second requests sent because the first was slow, and how many of them answered first. */
  readonly hedges: number
  readonly hedgesWon: number
  /** Reads under way now, and the most there ever were at a time. */
  readonly underWay: number
  readonly underWayMax: number
  /** Time reads waited for their turn. */
  readonly queue: Distribution
}

/** Without a latency: what is in memory is not waited for. */
export interface MemoryFigures extends Omit<TierFigures, 'latency'> {
  readonly chunks: number
  readonly chunksMax: number
  readonly evictions: number
}

/** Of the thread that serves misses. */
export interface EngineFigures {
  /** How late it got to what was due, since its figures were first read: what a miss may have waited before anybody looked at it. */
  readonly delay: Distribution
}

/** Tiers that were left out are undefined. */
export interface ReadFigures {
  readonly memory: MemoryFigures
  readonly disk: TierFigures | undefined
  readonly l2: TierFigures | undefined
  readonly origin: OriginFigures
  readonly engine: EngineFigures
}

/** The counters of one tier. Whoever serves from it counts. */
export class TierCounters {
  readonly tier: Tier
  hits = 0
  misses = 0
  bytes = 0
  errors = 0
  corrupt = 0
  healed = 0
  fills = 0
  fillsDropped = 0
  readonly latency: Histogram = new Histogram()

  constructor(tier: Tier) {
    this.tier = tier
  }

  hit(bytes: number, ms: number): void {
    this.hits++
    this.bytes += bytes
    this.latency.record(ms)
  }

  read(): TierFigures {
    const { hits, misses, bytes, errors, corrupt, healed, fills, fillsDropped } = this
    return { hits, misses, bytes, errors, corrupt, healed, fills, fillsDropped, latency: this.latency.read() }
  }
}
