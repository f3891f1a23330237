/** The distributed cache keeps the contract of caches in all its modes, on real servers. */
import { afterAll, beforeAll } from 'vitest'
import { openRedisCache, type RedisCacheOptions } from '../../src/cache/redis.ts'
import type { SealedCache } from '../../src/cache.ts'
import { sealedCacheContract } from '../contract/sealed-cache.ts'
import { type RedisServer, startMany, startRedis, startRedisCluster } from '../servers/redis.ts'

let shards: readonly RedisServer[] = []
let cluster: readonly RedisServer[] = []

beforeAll(async () => {
  shards = await startMany(6, () => startRedis())
  cluster = await startRedisCluster()
})
afterAll(() => Promise.all([...shards, ...cluster].map(server => server.stop())))

/** Emptied: its tests share servers. */
async function open(servers: readonly RedisServer[], options: Omit<RedisCacheOptions, 'urls'>): Promise<SealedCache> {
  const cache = await openRedisCache({ ...options, urls: servers.map(({ url }) => url), timeoutMs: 5_000 })
  await cache.clear()
  return cache
}

sealedCacheContract('one server', () => open(shards.slice(0, 1), {}))
sealedCacheContract('a cluster', () => open(cluster, { mode: 'cluster' }))
sealedCacheContract('shards', () => open(shards, { mode: 'shards' }))
sealedCacheContract('shards with erasure coding', () => open(shards, { mode: 'shards', erasure: true }))
