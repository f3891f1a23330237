/** Several real servers by rendezvous hashing, whole values and erasure-coded ones, while nodes die, hang and come back. */
import { Redis } from 'ioredis'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { openRedisCache } from '../../src/cache/redis.ts'
import { split } from '../../src/cache/stripes.ts'
import type { SealedCache } from '../../src/cache.ts'
import { type RedisServer, startMany, startRedis, until } from '../servers/redis.ts'
import { entry, filled, outcome, outcomes, untilServing } from '../servers/redis-probe.ts'

const HITS = new Set(['hit'])

let servers: RedisServer[]
let cache: SealedCache

async function open(count: number, erasure: boolean): Promise<SealedCache> {
  return openRedisCache({ urls: servers.slice(0, count).map(({ url }) => url), mode: 'shards', erasure, timeoutMs: 200 })
}

describe('shards', () => {
  beforeEach(async () => {
    servers = await startMany(4, () => startRedis())
    cache = await open(3, false)
  })
  afterEach(async () => {
    await cache.close()
    await Promise.all(servers.map(server => server.stop()))
  })

  it('lose the share of a node that dies, and take it up again when it is back', async () => {
    const values = await filled(cache, 40)
    await servers[0]!.kill()
    await until(async () => (await cache.describe()).remark !== undefined)
    const came = await outcomes(cache, values)
    expect(new Set(came)).toEqual(new Set(['hit', 'UNAVAILABLE']))
    expect(await cache.describe()).toMatchObject({ state: 'up', details: { [`127.0.0.1:${servers[0]!.port}`]: 'down: UNAVAILABLE' } })
    await servers[0]!.restart()
    await until(async () => (await cache.describe()).remark === undefined)
    expect(new Set(await outcomes(cache, values))).toEqual(new Set(['hit', 'miss']))
    await untilServing(cache)
  })

  it('move only the share of a node that is added', async () => {
    const values = await filled(cache, 60, 100)
    await using more = await open(4, false)
    const came = await outcomes(more, values)
    expect(new Set(came)).toEqual(new Set(['hit', 'miss']))
    expect(came.filter(each => each === 'hit').length).toBeGreaterThan(30)
  })
})

describe('shards with erasure coding', () => {
  beforeEach(async () => {
    servers = await startMany(6, () => startRedis())
    cache = await open(5, true)
  })
  afterEach(async () => {
    await cache.close()
    await Promise.all(servers.map(server => server.stop()))
  })

  it('lose nothing when any one node dies, and say which', async () => {
    const values = await filled(cache, 20, 528_384)
    await servers[2]!.kill()
    expect(new Set(await outcomes(cache, values))).toEqual(HITS)
    expect(await cache.describe()).toMatchObject({ state: 'up', remark: expect.stringContaining(`${servers[2]!.port}`) })
    await filled(cache, 5)
  })

  it('lose nothing while a node hangs, write meanwhile, and lose nothing when it goes on', async () => {
    const values = await filled(cache, 20)
    process.kill(servers[1]!.pid, 'SIGSTOP')
    for (let round = 0; round < 3; round++) expect(new Set(await outcomes(cache, values))).toEqual(HITS)
    const more = await filled(cache, 20)
    process.kill(servers[1]!.pid, 'SIGCONT')
    expect(new Set(await outcomes(cache, [...values, ...more]))).toEqual(HITS)
    await until(async () => (await cache.describe()).remark === undefined)
  })

  it('fail with an error while two nodes are lost, and hit again with one of them back', async () => {
    const [value] = await filled(cache, 1)
    process.kill(servers[0]!.pid, 'SIGSTOP')
    process.kill(servers[1]!.pid, 'SIGSTOP')
    expect(await outcome(cache, value!)).toBe('TIMEOUT')
    expect(await cache.put(value!.id, value!.sealed)).toBe(false)
    await until(async () => (await cache.describe()).state === 'down')
    process.kill(servers[0]!.pid, 'SIGCONT')
    await until(async () => (await outcome(cache, value!)) === 'hit')
    process.kill(servers[1]!.pid, 'SIGCONT')
  })

  it('lose nothing when a node is added', async () => {
    const values = await filled(cache, 60, 100)
    await using more = await open(6, true)
    expect(new Set(await outcomes(more, values))).toEqual(HITS)
  })

  it('miss what has too few stripes, and what was evicted', async () => {
    const [lost, evicted] = await filled(cache, 2)
    for (const server of servers.slice(0, 2)) await server.command('flushall')
    expect(await outcome(cache, lost!)).toBe('miss')
    await cache.evict(evicted!.id)
    const left = await Promise.all(servers.map(server => server.command('exists', `thaw:${evicted!.id}:stripe`)))
    expect(left.map(Number)).toEqual(Array(6).fill(0))
  })

  it('read around a stripe that is none', async () => {
    const [value] = await filled(cache, 1)
    await servers[3]!.command('set', `thaw:${value!.id}:stripe`, 'something else')
    expect(await outcome(cache, value!)).toBe('hit')
  })

  it('hit with one stripe twice, and miss with one three times: none is taken for another', async () => {
    const [value] = await filled(cache, 1)
    const stripes = split(value!.sealed)
    await rewriteStripes(servers, value!.id, index => (index === 0 ? stripes[1] : undefined))
    expect(await outcome(cache, value!)).toBe('hit')
    await rewriteStripes(servers, value!.id, index => (index === 2 ? stripes[1] : undefined))
    expect(await outcome(cache, value!)).toBe('miss')
  })

  it('miss a value whose stripes contradict each other, and evict it', async () => {
    const [value] = await filled(cache, 1)
    const key = `thaw:${value!.id}:stripe`
    const other = split(entry(500).sealed)
    await rewriteStripes(servers.slice(0, 2), value!.id, index => other[index])
    expect(await outcome(cache, value!)).toBe('miss')
    expect((await Promise.all(servers.map(server => server.command('exists', key)))).map(Number)).toEqual(Array(6).fill(0))
  })
})

/** Puts another stripe in the place of each for which `change` gives one. */
async function rewriteStripes(servers: readonly RedisServer[], id: string, change: (index: number) => Buffer | undefined): Promise<void> {
  const key = `thaw:${id}:stripe`
  for (const { port } of servers) {
    const client = new Redis(port, '127.0.0.1')
    const stripe = await client.getBuffer(key)
    const changed = stripe === null ? undefined : change(stripe[1]!)
    if (changed !== undefined) await client.set(key, changed)
    client.disconnect()
  }
}
