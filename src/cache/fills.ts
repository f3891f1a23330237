/**
 * Copies on their way into caches, in the background. Bounded in bytes: a cache that is slower than the readers gets fewer copies, not a queue.
 */
import type { SealedCache } from '../cache.ts'
import { TierCounters } from '../stats.ts'
import { Gate } from '../util/gate.ts'

/**
 * Reads of a cache under way at a time. A disk's are calls of libuv, which has four threads: twice as
 * many keep them busy, and a demand is never behind more. An L2 answers some hundred kilobytes in a
 * millisecond, so that many keep its connection full.
 */
const READS_MAX: Readonly<Record<SealedCache['tier'], number>> = { disk: 8, l2: 16 }

/** A cache, what is counted of it, and the gate that its readers pass. */
export interface CountedCache {
  readonly cache: SealedCache
  readonly counters: TierCounters
  readonly gate: Gate
}

export function countedCache(cache: SealedCache): CountedCache {
  return { cache, counters: new TierCounters(cache.tier), gate: new Gate({ countMax: READS_MAX[cache.tier] }) }
}

/** On their way into one cache. 64 MiB: some hundred chunks. */
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

/** Of one cache: one that is slow drops its own copies, and no other's. */
interface Queue {
  readonly waiting: Fill[]
  writers: number
  /** Waiting, or being written. */
  bytes: number
}

export class Fills {
  readonly #queues = new Map<CountedCache, Queue>()
  readonly #underWay = new Set<Promise<void>>()

  /** Copies `bytes`, then writes them to the caches. `bad` are those that had a bad copy: the new one heals them. Returns at once. */
  start(id: string, bytes: Uint8Array, into: readonly CountedCache[], bad: ReadonlySet<CountedCache>): void {
    let copy: Uint8Array | undefined
    for (const cache of into) {
      const queue = this.#queueOf(cache)
      if (queue.bytes + bytes.length > BYTES_MAX) {
        cache.counters.fillsDropped++
        continue
      }
      copy ??= Buffer.from(bytes)
      this.#add(cache, queue, id, copy, bad.has(cache))
    }
  }

  /** Settles when what is under way now has ended. */
  async settled(): Promise<void> {
    await Promise.all(this.#underWay)
  }

  #add(cache: CountedCache, queue: Queue, id: string, bytes: Uint8Array, heals: boolean): void {
    queue.bytes += bytes.length
    const filled = new Promise<void>(done => {
      queue.waiting.push({ id, bytes, heals, done })
      if (queue.writers < WRITES_AT_ONCE) void write(cache, queue)
    }).then(() => {
      queue.bytes -= bytes.length
      this.#underWay.delete(filled)
    })
    this.#underWay.add(filled)
  }

  #queueOf(cache: CountedCache): Queue {
    const queue = this.#queues.get(cache) ?? { waiting: [], writers: 0, bytes: 0 }
    this.#queues.set(cache, queue)
    return queue
  }
}

/** One more writer of a cache: takes what waits until nothing does. */
async function write(cache: CountedCache, queue: Queue): Promise<void> {
  queue.writers++
  for (let fill = queue.waiting.shift(); fill !== undefined; fill = queue.waiting.shift()) {
    await keep(cache, fill.id, fill.bytes, fill.heals)
    fill.done()
  }
  queue.writers--
}

/** Puts bytes into a cache. Resolves to whether it has them now; a failure is no more than that. */
export async function keep({ cache, counters }: CountedCache, id: string, bytes: Uint8Array, heals: boolean): Promise<boolean> {
  const kept = await cache.put(id, bytes).catch(() => false)
  if (kept) counters.fills++
  else counters.fillsDropped++
  if (kept && heals) counters.healed++
  return kept
}
