/** An engine with its caches, on the thread that calls: the caller's, or the worker's. */
import type { DiskCacheOptions } from '../cache/disk.ts'
import type { OriginOptions } from '../cache/origin.ts'
import type { RedisCacheOptions } from '../cache/redis.ts'
import type { SealedCache } from '../cache.ts'
import type { Clock } from '../util/clock.ts'
import { excludeFromForks } from '../util/forks.ts'
import { LocalEngine } from './local.ts'

/** Plain data: it crosses threads. */
export interface EngineOptions {
  readonly memoryBytes: number
  readonly disk?: Omit<DiskCacheOptions, 'clock'> | undefined
  readonly l2?: Omit<RedisCacheOptions, 'clock'> | undefined
  readonly origin?: Omit<OriginOptions, 'clock'> | undefined
  readonly readTimeoutMs?: number | undefined
}

/** @throws TypeError, RangeError; DENIED, NO_SPACE for the disk's folder */
export async function startEngine({ memoryBytes, disk, l2, origin, readTimeoutMs }: EngineOptions, clock?: Clock): Promise<LocalEngine> {
  const caches: SealedCache[] = []
  try {
    if (disk !== undefined) caches.push(await (await import('../cache/disk.ts')).openDiskCache({ ...disk, clock }))
    if (l2 !== undefined) caches.push(await (await import('../cache/redis.ts')).openRedisCache({ ...l2, clock }))
    const engine = new LocalEngine({ memoryBytes, caches, origin, readTimeoutMs, clock })
    await excludeFromForks(engine.sharedMemory)
    return engine
  } catch (error) {
    for (const cache of caches) await cache.close()
    throw error
  }
}
