/** Reads through a real Redis that is killed, hung, full, behind a bad wire, or a cluster that loses a node and moves a slot: no read notices, the tier is blamed, and it serves again. */
import { afterAll, afterEach, beforeAll, expect, it } from 'vitest'
import type { CacheOptions } from '../../src/open-cache.ts'
import type { TierFigures } from '../../src/stats.ts'
import { type RedisServer, startRedis, startRedisCluster, until } from '../servers/redis.ts'
import { startTcpProxy } from '../servers/tcp-proxy.ts'
import type { SmallStore } from '../small-store.ts'
import { type Pushed, pushedStore, Reading } from './read-stores.ts'

/** Where a busy machine must not look like a bad server. */
const PATIENT_MS = 2_000

let store: SmallStore & Pushed
const opened: AsyncDisposable[] = []

beforeAll(async () => {
  store = await pushedStore()
})
afterAll(() => store[Symbol.asyncDispose]())
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]()
})

async function server(...options: Parameters<typeof startRedis>): Promise<RedisServer> {
  const started = await startRedis(...options)
  opened.push({ [Symbol.asyncDispose]: () => started.stop() })
  return started
}

/** Reads through L2, which has all of the snapshot. */
async function warm(l2: CacheOptions['l2'] & object): Promise<{ reading: Reading; figures: () => Promise<TierFigures> }> {
  const reading = await Reading.open(store.url, store.keyring, store, { l2: { timeoutMs: 150, ...l2 } })
  opened.push(reading)
  await reading.untilServedBy('l2')
  return { reading, figures: async () => (await reading.cache.stats()).l2! }
}

it('a server that is killed is counted, and serves when it is back', async () => {
  const redis = await server()
  const { reading, figures } = await warm({ urls: [redis.url] })
  const { errors } = await figures()
  const during = reading.all()
  await redis.kill()
  expect(await during).toBe('right')
  expect(await reading.all()).toBe('right')
  expect((await figures()).errors).toBeGreaterThan(errors)
  await redis.restart()
  await reading.untilServedBy('l2')
})

it('a server that hangs is counted, and serves when it goes on', async () => {
  const redis = await server()
  const { reading, figures } = await warm({ urls: [redis.url] })
  const { errors } = await figures()
  process.kill(redis.pid, 'SIGSTOP')
  try {
    for (let round = 0; round < 3; round++) expect(await reading.all()).toBe('right')
    expect((await figures()).errors).toBeGreaterThan(errors)
  } finally {
    process.kill(redis.pid, 'SIGCONT')
  }
  await reading.untilServedBy('l2')
})

it('a server that is full keeps nothing more, until there is room', async () => {
  const redis = await server({ maxmemory: '1mb', policy: 'noeviction' })
  const reading = await Reading.open(store.url, store.keyring, store, { l2: { urls: [redis.url], timeoutMs: 150 } })
  opened.push(reading)
  expect(await reading.all()).toBe('right')
  expect((await reading.cache.stats()).l2!.fillsDropped).toBeGreaterThan(0)
  await redis.command('config', 'set', 'maxmemory', '100mb')
  await reading.untilServedBy('l2')
})

it('a wire that flips bytes is found out each time; what lies there is good again afterwards', async () => {
  const redis = await server()
  const proxy = await startTcpProxy(redis.port)
  opened.push({ [Symbol.asyncDispose]: () => proxy.stop() })
  const { reading, figures } = await warm({ urls: [`redis://127.0.0.1:${proxy.port}`], timeoutMs: PATIENT_MS })
  let count = 0
  proxy.fault = piece => {
    const flipped = Buffer.from(piece)
    // Replies of a few bytes pass: values are what is flipped.
    if (piece.length > 1000) flipped[Math.floor(piece.length / 2)]! ^= 1 << (count++ % 8)
    return flipped
  }
  const came = new Set<string>()
  await until(async () => {
    came.add(await reading.all())
    const { corrupt, healed } = await figures()
    return corrupt > 0 && healed > 0
  })
  expect([...came]).toEqual(['right'])
  proxy.fault = undefined
  await reading.untilServedBy('l2')
})

it('a wire that carries noise, or stalls in the middle, fails no read', async () => {
  const redis = await server()
  const proxy = await startTcpProxy(redis.port)
  opened.push({ [Symbol.asyncDispose]: () => proxy.stop() })
  const { reading, figures } = await warm({ urls: [`redis://127.0.0.1:${proxy.port}`] })
  const { errors } = await figures()
  proxy.fault = piece => Buffer.alloc(piece.length, '!')
  for (let round = 0; round < 2; round++) expect(await reading.all()).toBe('right')
  let pieces = 0
  proxy.fault = piece => (pieces++ < 10 ? piece : 'stall')
  for (let round = 0; round < 2; round++) expect(await reading.all()).toBe('right')
  expect((await figures()).errors).toBeGreaterThan(errors)
  proxy.fault = undefined
  await reading.untilServedBy('l2')
})

it('a cluster that loses a node serves what the others have, and all when it is back; a slot that moves costs nothing', async () => {
  const servers = await startRedisCluster()
  opened.push({ [Symbol.asyncDispose]: async () => void (await Promise.all(servers.map(each => each.stop()))) })
  const { reading, figures } = await warm({ urls: [servers[0]!.url], mode: 'cluster', timeoutMs: PATIENT_MS })
  const [from, to] = [servers[2]!, servers[1]!]
  const key = (await from.command('--scan')).split('\n')[0]!
  const slot = (await from.command('cluster', 'keyslot', key)).trim()
  const [fromId, toId] = await Promise.all([from, to].map(async each => (await each.command('cluster', 'myid')).trim()))
  await to.command('cluster', 'setslot', slot, 'importing', fromId!)
  await from.command('cluster', 'setslot', slot, 'migrating', toId!)
  await from.command('migrate', '127.0.0.1', `${to.port}`, key, '0', '5000')
  const beforeMove = await figures()
  expect(await reading.all()).toBe('right')
  for (const each of [to, from]) await each.command('cluster', 'setslot', slot, 'node', toId!)
  await reading.untilServedBy('l2')
  expect((await figures()).errors).toBe(beforeMove.errors)

  await servers[1]!.kill()
  const before = await figures()
  for (let round = 0; round < 2; round++) expect(await reading.all()).toBe('right')
  const after = await figures()
  expect([after.hits > before.hits, after.errors > before.errors]).toEqual([true, true])
  await servers[1]!.restart()
  await reading.untilServedBy('l2')
})
