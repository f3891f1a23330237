/**
 * The cache as its users see it: made once a process, given to every store that is opened, closed last. Behind it stands the engine with its tiers.
 */

import type { CacheDescription } from './cache.ts'
import type { EngineOptions } from './engine/start.ts'
import type { ClearedCache, Engine } from './engine.ts'
import type { Tier } from './errors.ts'
import { type PagerOptions, Pagers } from './pager/threads.ts'
import type { ReadFigures } from './stats.ts'
import type { Clock } from './util/clock.ts'
import { memoryLimitBytes } from './util/memory-limit.ts'

export interface CacheOptions {
  /** Opened chunks in L1 memory, in bytes; default 512 MiB, or a quarter of what the process may use if that is less. With 0 only chunks that are being read are in memory (8 MiB). Committed as it fills. */
  readonly memoryBytes?: number | undefined
  /** Sealed chunks on a local disk; default: none. */
  readonly disk?: EngineOptions['disk']
  /** Sealed chunks in Redis or Valkey; default: none. */
  readonly l2?: EngineOptions['l2']
  /** What may go to each store. */
  readonly origin?: EngineOptions['origin']
  /**
   * How long a read waits for a chunk, in milliseconds, while the store is asked again; then it is
   * TIMEOUT. Default and most: 60,000. Guests have deadlines of their own (`pageDeadlineMs`).
   */
  readonly readTimeoutMs?: number | undefined
  /**
   * Where misses are served; default `worker`: on a thread of their own (30 ms to start, 10 MB), so that a caller who is busy holds up nobody else's. It opens stores by their
   * URLs. `main`: on the caller's.
   */
  readonly thread?: 'main' | 'worker' | undefined
  /** The threads that serve guests; they start with the first restore. */
  readonly pagers?: PagerOptions | undefined
  /** For tests and simulations: time, timers and randomness of all tiers. Needs `thread: 'main'`. */
  readonly clock?: Clock | undefined
}

const MEMORY_BYTES_DEFAULT = 512 * 2 ** 20
/** Of what the process may use, the rest being for bytes on their way, copies, and guests' writes. */
const MEMORY_SHARE_DEFAULT = 1 / 4

/** Opens the tiers. Those across the network connect in the background: one that is down costs nothing but its hits. @throws TypeError, RangeError; DENIED, NO_SPACE for the disk's folder */
export async function createCache({ thread = 'worker', clock, pagers, ...options }: CacheOptions = {}): Promise<Cache> {
  const { memoryBytes = defaultMemoryBytes(), disk, l2, origin, readTimeoutMs } = options
  if (!Number.isSafeInteger(memoryBytes) || memoryBytes < 0) throw new RangeError(`memoryBytes ${memoryBytes} is not a number of bytes`)
  if (clock !== undefined && thread !== 'main') throw new TypeError("a clock of one's own needs thread: 'main': it does not cross threads")
  return new Cache(await openEngine(thread, { memoryBytes, disk, l2, origin, readTimeoutMs }, clock), pagers)
}

function defaultMemoryBytes(): number {
  return Math.min(MEMORY_BYTES_DEFAULT, Math.floor(memoryLimitBytes() * MEMORY_SHARE_DEFAULT))
}

async function openEngine(thread: 'main' | 'worker', options: EngineOptions, clock: Clock | undefined): Promise<Engine> {
  if (thread === 'main') return await (await import('./engine/start.ts')).startEngine(options, clock)
  const { RemoteEngine, startThread } = await import('./engine/remote.ts')
  return await RemoteEngine.over(startThread(options))
}

/** Made by `createCache`. */
export class Cache implements AsyncDisposable {
  /** @internal */
  readonly engine: Engine
  /** @internal */
  readonly pagers: Pagers

  /** @internal */
  constructor(engine: Engine, pagers?: PagerOptions) {
    this.engine = engine
    this.pagers = new Pagers(engine, pagers)
  }

  /** What was read since the cache was made, tier by tier. */
  stats(): Promise<ReadFigures> {
    return this.engine.figures()
  }

  /** The tiers behind memory: what they hold, and whether they serve. */
  describe(): Promise<readonly CacheDescription[]> {
    return this.engine.describe()
  }

  /** Forgets what lies on disk or in L2, for everybody who shares it; default: both. */
  clear(tiers: readonly Extract<Tier, 'disk' | 'l2'>[] = ['disk', 'l2']): Promise<readonly ClearedCache[]> {
    return this.engine.clear(tiers)
  }

  /** Settles when the copies to disk and L2 that are on their way have arrived, or failed. */
  settled(): Promise<void> {
    return this.engine.settled()
  }

  /** Reads under way reject with CLOSED. Stores that read through it are of no use any more: close them first. Idempotent. */
  async close(): Promise<void> {
    await this.pagers.close()
    await this.engine.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}
