/**
 * Copies on their way into caches, in the background. Bounded in bytes: a cache that is slower than the readers gets fewer copies, not a queue.
 */
import type { SealedCache } from '../cache.ts'
import type { TierCounters } from '../stats.ts'

/** A cache, and what is counted of it. */
export interface CountedCache {
  readonly cache: SealedCache
  readonly counters: TierCounters
}

/** 64 MiB: some hundred chunks. */
const BYTES_MAX = 64 * 2 ** 20
/** Writes at a time into one cache: what a disk or a connection takes; the others wait their turn. */
const WRITES_AT_ONCE = 16

/** A copy on its way into one cache. */
interface Fill {
  readonly id: string
  readonly bytes: Uint8Array
  readonly heals: boolean
  readonly done: () => void
}

/** Of one cache. */
interface Line {
  readonly waiting: Fill[]
  writers: number
}

export class Fills {
  readonly #lines = new Map<CountedCache, Line>()
  readonly #underWay = new Set<Promise<void>>()
  #bytes = 0

  /** Copies `bytes`, then writes them to the caches. `bad` are those that had a bad copy: the new one heals them. Returns at once. */
  start(id: string, bytes: Uint8Array, into: readonly CountedCache[], bad: ReadonlySet<CountedCache>): void {
    if (into.length === 0) return
    if (this.#bytes + bytes.length > BYTES_MAX) {
      for (const { counters } of into) counters.fillsDropped++
      return
    }
    const copy = Buffer.from(bytes)
    this.#bytes += copy.length
    const filled = Promise.all(into.map(cache => this.#fill(cache, id, copy, bad.has(cache)))).then(() => {
      this.#bytes -= copy.length
      this.#underWay.delete(filled)
    })
    this.#underWay.add(filled)
  }

  /** Settles when what is under way now has ended. */
  async settled(): Promise<void> {
    await Promise.all(this.#underWay)
  }

  #fill(cache: CountedCache, id: string, bytes: Uint8Array, heals: boolean): Promise<void> {
    const line = this.#lines.get(cache) ?? { waiting: [], writers: 0 }
    this.#lines.set(cache, line)
    return new Promise(done => {
      line.waiting.push({ id, bytes, heals, done })
      if (line.writers < WRITES_AT_ONCE) void write(cache, line)
    })
  }
}

/** One more writer of a cache: takes what waits until nothing does. */
async function write(cache: CountedCache, line: Line): Promise<void> {
  line.writers++
  for (let fill = line.waiting.shift(); fill !== undefined; fill = line.waiting.shift()) {
    await keep(cache, fill.id, fill.bytes, fill.heals)
    fill.done()
  }
  line.writers--
}

/** Puts bytes into a cache. Resolves to whether it has them now; a failure is no more than that. */
export async function keep({ cache, counters }: CountedCache, id: string, bytes: Uint8Array, heals: boolean): Promise<boolean> {
  const kept = await cache.put(id, bytes).catch(() => false)
  if (kept) counters.fills++
  else counters.fillsDropped++
  if (kept && heals) counters.healed++
  return kept
}
