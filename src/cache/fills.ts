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

export class Fills {
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
    const filled = Promise.all(into.map(cache => keep(cache, id, copy, bad.has(cache)))).then(() => {
      this.#bytes -= copy.length
      this.#underWay.delete(filled)
    })
    this.#underWay.add(filled)
  }

  /** Settles when what is under way now has ended. */
  async settled(): Promise<void> {
    await Promise.all(this.#underWay)
  }
}

/** Puts bytes into a cache. Resolves to whether it has them now; a failure is no more than that. */
export async function keep({ cache, counters }: CountedCache, id: string, bytes: Uint8Array, heals: boolean): Promise<boolean> {
  const kept = await cache.put(id, bytes).catch(() => false)
  if (kept) counters.fills++
  else counters.fillsDropped++
  if (kept && heals) counters.healed++
  return kept
}
