/** A real cluster that loses a node, has one that hangs, and moves a slot. The tests share it and leave it whole; the last ones do not. */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { openRedisCache } from '../../src/cache/redis.ts'
import type { SealedCache } from '../../src/cache.ts'
import { type RedisServer, startRedisCluster, until } from '../servers/redis.ts'
import { type Entry, filled, outcome, outcomes, untilServing } from '../servers/redis-probe.ts'

let servers: readonly RedisServer[]
let cache: SealedCache

beforeAll(async () => {
  servers = await startRedisCluster()
})
afterAll(() => Promise.all(servers.map(server => server.stop())))
beforeEach(async () => {
  cache = await openRedisCache({ urls: [servers[0]!.url], mode: 'cluster', timeoutMs: 200 })
  await untilServing(cache)
})
afterEach(() => cache.close())

/** The server that has a value, asked one by one. */
async function holderOf({ id }: Entry): Promise<RedisServer> {
  for (const server of servers) if ((await server.command('exists', `thaw:${id}`)).trim() === '1') return server
  throw new Error('no server has it')
}

/** Values, of which each server has some. */
async function spread(): Promise<Entry[]> {
  const values = await filled(cache, 40)
  expect(new Set(await Promise.all(values.map(holderOf))).size).toBe(3)
  return values
}

describe('a cluster', () => {
  it('has nodes that are not used as servers by themselves', async () => {
    await using single = await openRedisCache({ urls: [servers[0]!.url], timeoutMs: 200 })
    expect(await single.describe()).toMatchObject({ state: 'down', remark: expect.stringMatching(/^UNSUPPORTED.*mode cluster/) })
  })

  it('loses the share of a node that dies, the others go on, and it takes it up again', async () => {
    const values = await spread()
    await servers[1]!.kill()
    await until(async () => new Set(await outcomes(cache, values)).has('UNAVAILABLE'))
    for (let round = 0; round < 5; round++) {
      const came = await outcomes(cache, values)
      expect(new Set(came)).toEqual(new Set(['hit', 'UNAVAILABLE']))
    }
    expect(await cache.describe()).toMatchObject({ state: 'up', remark: expect.stringContaining(`${servers[1]!.port}`) })
    await servers[1]!.restart()
    await until(async () => !new Set(await outcomes(cache, values)).has('UNAVAILABLE'))
    for (const { id, sealed } of values) expect(await cache.put(id, sealed)).toBe(true)
    expect(new Set(await outcomes(cache, values))).toEqual(new Set(['hit']))
  })

  it('goes on with the others while a node hangs, also the one it was opened with', async () => {
    const values = await spread()
    const holders = await Promise.all(values.map(holderOf))
    const hung = values.filter((_, index) => holders[index] === servers[0])
    const well = values.filter((_, index) => holders[index] !== servers[0])
    process.kill(servers[0]!.pid, 'SIGSTOP')
    // Some in vain, and then no more until it has a new connection.
    expect(await outcomes(cache, hung)).toContain('TIMEOUT')
    expect(new Set(await outcomes(cache, hung))).toEqual(new Set(['UNAVAILABLE']))
    expect(new Set(await outcomes(cache, well))).toEqual(new Set(['hit']))
    process.kill(servers[0]!.pid, 'SIGCONT')
    await until(async () => (await outcome(cache, hung[0]!)) === 'hit')
    expect(new Set(await outcomes(cache, values))).toEqual(new Set(['hit']))
  })

  it('moves a slot: while it moves and afterwards nothing fails', async () => {
    const [value] = await filled(cache, 1)
    const key = `thaw:${value!.id}`
    const from = await holderOf(value!)
    const to = servers.find(server => server !== from)!
    const slot = (await from.command('cluster', 'keyslot', key)).trim()
    const idOf = async (server: RedisServer): Promise<string> => (await server.command('cluster', 'myid')).trim()
    await to.command('cluster', 'setslot', slot, 'importing', await idOf(from))
    await from.command('cluster', 'setslot', slot, 'migrating', await idOf(to))
    expect(await outcome(cache, value!)).toBe('hit')
    await from.command('migrate', '127.0.0.1', `${to.port}`, key, '0', '5000')
    expect(await outcome(cache, value!)).toBe('hit')
    for (const server of [to, from]) await server.command('cluster', 'setslot', slot, 'node', await idOf(to))
    expect(await outcome(cache, value!)).toBe('hit')
    expect(await cache.put(value!.id, value!.sealed)).toBe(true)
    expect(await holderOf(value!)).toBe(to)
  })

  it('that dies altogether fails at once, and serves when it is back', async () => {
    const values = await filled(cache, 5)
    await Promise.all(servers.map(server => server.kill()))
    await until(async () => new Set(await outcomes(cache, values)).size === 1)
    expect(new Set(await outcomes(cache, values))).toEqual(new Set(['UNAVAILABLE']))
    expect(await cache.describe()).toMatchObject({ state: 'down' })
    await Promise.all(servers.map(server => server.restart()))
    await until(async () => !new Set(await outcomes(cache, values)).has('UNAVAILABLE'))
    await untilServing(cache)
  })

  it('that hangs altogether does not keep its cache from closing', async () => {
    const resources = (): number => process.getActiveResourcesInfo().filter(kind => kind === 'TCPSocketWrap').length
    const before = resources()
    const other = await openRedisCache({ urls: servers.map(({ url }) => url), mode: 'cluster', timeoutMs: 200 })
    await untilServing(other)
    for (const { pid } of servers) process.kill(pid, 'SIGSTOP')
    await other.close()
    await new Promise(resolve => setImmediate(resolve))
    expect(resources()).toBe(before)
  })
})
