/** One real Redis that is down, hung, full, locked, or behind a bad wire: right bytes or a typed error, and it serves again when that is over. */
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { openRedisCache, type RedisCacheOptions } from '../../src/cache/redis.ts'
import type { SealedCache } from '../../src/cache.ts'
import { type RedisServer, startRedis, until } from '../servers/redis.ts'
import { entry, filled, outcome, outcomes, untilServing } from '../servers/redis-probe.ts'
import { startTcpProxy, type TcpProxy } from '../servers/tcp-proxy.ts'

const FAILURES = ['UNAVAILABLE', 'TIMEOUT']

let server: RedisServer
const opened: AsyncDisposable[] = []

beforeAll(async () => {
  server = await startRedis()
})
afterAll(() => server.stop())
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]()
})

async function open(url: string, options: Omit<RedisCacheOptions, 'urls'> = {}): Promise<SealedCache> {
  const cache = await openRedisCache({ timeoutMs: 150, ...options, urls: [url] })
  opened.push(cache)
  return cache
}

async function ownServer(...options: Parameters<typeof startRedis>): Promise<RedisServer> {
  const own = await startRedis(...options)
  opened.push({ [Symbol.asyncDispose]: () => own.stop() })
  return own
}

async function proxied(): Promise<{ proxy: TcpProxy; cache: SealedCache }> {
  const proxy = await startTcpProxy(server.port)
  opened.push({ [Symbol.asyncDispose]: () => proxy.stop() })
  const cache = await open(`redis://127.0.0.1:${proxy.port}`)
  await untilServing(cache)
  return { proxy, cache }
}

describe('a server that', () => {
  it('is not there yet: opening does not mind, calls fail at once, and it serves when it is there', async () => {
    const own = await ownServer()
    await own.kill()
    const cache = await open(own.url)
    const value = entry()
    expect(await outcome(cache, value)).toBe('UNAVAILABLE')
    expect(await cache.put(value.id, value.sealed)).toBe(false)
    expect(await cache.describe()).toMatchObject({ state: 'down', entries: undefined })
    await own.restart()
    await untilServing(cache)
    expect(await cache.describe()).toMatchObject({ state: 'up', remark: undefined })
  })

  it('dies with calls under way and comes back', async () => {
    const own = await ownServer()
    const cache = await open(own.url)
    const values = await filled(cache, 20)
    const reads = outcomes(cache, values)
    await own.kill()
    for (const came of await reads) expect(['hit', ...FAILURES]).toContain(came)
    await until(async () => (await outcome(cache, values[0]!)) === 'UNAVAILABLE')
    await own.restart()
    await untilServing(cache)
    expect(await outcome(cache, values[0]!)).toBe('miss')
  })

  it('hangs: calls time out, then fail at once, and it serves when it goes on', async () => {
    const own = await ownServer()
    const cache = await open(own.url)
    const [value] = await filled(cache, 1)
    process.kill(own.pid, 'SIGSTOP')
    try {
      expect([await outcome(cache, value!), await outcome(cache, value!), await outcome(cache, value!)]).toEqual(Array(3).fill('TIMEOUT'))
      expect(await outcome(cache, value!)).toBe('UNAVAILABLE')
      expect(await cache.put(value!.id, value!.sealed)).toBe(false)
    } finally {
      process.kill(own.pid, 'SIGCONT')
    }
    await untilServing(cache)
    expect(await outcome(cache, value!)).toBe('hit')
  })

  it('hangs from the beginning: opening and closing do not mind', async () => {
    const own = await ownServer()
    process.kill(own.pid, 'SIGSTOP')
    const cache = await open(own.url)
    expect(await outcome(cache, entry())).toBe('TIMEOUT')
    expect(await cache.describe()).toMatchObject({ state: 'down' })
    await cache.close()
  })

  it('is full: puts are not kept, reads go on', async () => {
    const own = await ownServer({ maxmemory: '1mb', policy: 'noeviction' })
    const cache = await open(own.url)
    for (let put = 0; put < 5; put++) {
      const { id, sealed } = entry(528_384)
      await cache.put(id, sealed)
    }
    const { id, sealed } = entry(528_384)
    expect(await cache.put(id, sealed)).toBe(false)
    expect(await outcome(cache, entry())).toBe('miss')
    expect((await cache.describe()).remark).toContain('maxmemory-policy')
  })

  it('has no memory limit: says so', async () => {
    const own = await ownServer({ maxmemory: '0' })
    const cache = await open(own.url)
    expect(await cache.describe()).toMatchObject({ state: 'up', bytesMax: undefined, remark: expect.stringContaining('maxmemory') })
  })

  it('keeps values for the time they are to live', async () => {
    const cache = await open(server.url, { ttlSeconds: 1000 })
    const [value] = await filled(cache, 1)
    const seconds = Number(await server.command('ttl', `thaw:${value!.id}`))
    expect(seconds).toBeGreaterThan(900)
    expect(seconds).toBeLessThanOrEqual(1000)
  })
})

describe('credentials', () => {
  const password = 'p@ss/wörd'

  it('come from the URL, an option or a file', async () => {
    const own = await ownServer({ password })
    const folder = await mkdtemp(join(tmpdir(), 'thaw-redis-test-'))
    opened.push({ [Symbol.asyncDispose]: () => rm(folder, { recursive: true }) })
    await writeFile(join(folder, 'password'), `${password}\n`)
    const plain = `redis://127.0.0.1:${own.port}`
    for (const cache of [
      await open(own.url),
      await open(plain, { password }),
      await open(plain, { passwordFile: join(folder, 'password') }),
      await open(`redis://default:wrong@127.0.0.1:${own.port}`, { password }),
    ])
      await filled(cache, 1)
  })

  it.each(['', ':not-this-one@'])('that are wrong (%j) are said in the description, and nothing else happens', async wrong => {
    const own = await ownServer({ password })
    const cache = await open(`redis://${wrong}127.0.0.1:${own.port}`)
    const { state, remark } = await cache.describe()
    expect({ state, remark }).toEqual({ state: 'down', remark: expect.stringMatching(/^DENIED/) })
    expect(remark).not.toContain('not-this-one')
    expect(await outcome(cache, entry())).toBe('DENIED')
  })

  it.each([':secret@', 'somebody:secret@'])('that nobody asked for (%j): the cache is not used, and nothing is printed', async given => {
    const warned = vi.spyOn(console, 'warn')
    opened.push({ [Symbol.asyncDispose]: async () => warned.mockRestore() })
    const cache = await open(`redis://${given}127.0.0.1:${server.port}`)
    expect(await cache.describe()).toMatchObject({ state: 'down', remark: expect.stringMatching(/^DENIED/) })
    expect(await outcome(cache, entry())).toBe('DENIED')
    expect(warned).not.toHaveBeenCalled()
  })

  it('include a CA: TLS works with the right one, and not at all with another', async () => {
    const own = await ownServer({ tls: true })
    await filled(await open(own.url, { caFile: own.caFile }), 1, 528_384)
    expect(await outcome(await open(own.url), entry())).toBe('UNAVAILABLE')
  })
})

describe('a server that answers the handshake, and not as it should, is not used, and says why:', () => {
  it('one without that database', async () => {
    const cache = await open(`redis://127.0.0.1:${server.port}/99`)
    const value = entry()
    expect(await cache.put(value.id, value.sealed)).toBe(false)
    expect(await cache.describe()).toMatchObject({ state: 'down', remark: expect.stringMatching(/^UNSUPPORTED.*database/) })
    expect(await outcome(cache, value)).toBe('UNSUPPORTED')
    expect(await server.command('exists', `thaw:${value.id}`)).toBe('0\n')
  })

  it('one whose user may not ask', async () => {
    const own = await ownServer()
    await own.command('acl', 'setuser', 'guest', 'on', '>secret', '~*', '+get', '+set')
    const warned = vi.spyOn(console, 'warn')
    opened.push({ [Symbol.asyncDispose]: async () => warned.mockRestore() })
    const cache = await open(`redis://guest:secret@127.0.0.1:${own.port}`)
    expect(await cache.describe()).toMatchObject({ state: 'down', remark: expect.stringMatching(/^DENIED.*INFO/) })
    expect(warned).not.toHaveBeenCalled()
  })

  it('a replica, also one that became it, until it is a primary again', async () => {
    const own = await ownServer()
    const cache = await open(own.url)
    const [value] = await filled(cache, 1)
    await own.command('replicaof', '127.0.0.1', `${server.port}`)
    await until(async () => {
      await cache.put(value!.id, value!.sealed)
      return /^UNSUPPORTED.*replica/.test((await cache.describe()).remark ?? '')
    })
    expect(await outcome(cache, value!)).toBe('UNSUPPORTED')
    await own.command('replicaof', 'no', 'one')
    await untilServing(cache)
  })
})

describe('what speaks the protocol and is no Redis', () => {
  /** Says of itself what is right, and answers everything else with one reply. */
  async function pretender(reply: string): Promise<SealedCache> {
    const info = 'role:master\r\n'
    const sockets = new Set<Socket>()
    const answer = (name: string): string => (name === 'info' ? `$${info.length}\r\n${info}\r\n` : reply)
    const listener = createServer(socket => {
      sockets.add(socket)
      socket.on('error', () => undefined)
      socket.on('data', bytes => {
        for (const [, name] of bytes.toString('latin1').matchAll(/\*\d+\r\n\$\d+\r\n(\w+)/g)) socket.write(answer(name!.toLowerCase()))
      })
    }).listen(0, '127.0.0.1')
    await once(listener, 'listening')
    opened.push({
      async [Symbol.asyncDispose]() {
        for (const socket of sockets) socket.destroy()
        listener.close()
        await once(listener, 'close')
      },
    })
    return open(`redis://127.0.0.1:${(listener.address() as AddressInfo).port}`)
  }

  it.each([':5\r\n', '*2\r\n:1\r\n:2\r\n', '*0\r\n', '$-1\r\n'])('and answers %j: never more than an error of this cache', async reply => {
    const cache = await pretender(reply)
    const value = entry()
    expect(await outcome(cache, value)).toBe(reply.startsWith('$') ? 'miss' : 'UNAVAILABLE')
    expect(await cache.put(value.id, value.sealed)).toBe(false)
    await expect(cache.clear()).rejects.toMatchObject({ tier: 'l2', code: 'UNAVAILABLE' })
    expect(['up', 'down']).toContain((await cache.describe()).state)
  })

  it('and is too busy for a password: not DENIED', async () => {
    const own = await ownServer({ password: 'secret' })
    const first = await open(own.url)
    await untilServing(first)
    await own.command('config', 'set', 'maxclients', '1')
    expect((await (await open(own.url)).describe()).remark).toMatch(/^UNAVAILABLE.*max number of clients/)
  })
})

describe('a wire that', () => {
  it('flips bytes: nothing worse than damaged bytes or an error, and then all is well', async () => {
    const { proxy, cache } = await proxied()
    const values = await filled(cache, 10)
    let pieces = 0
    proxy.fault = piece => {
      const flipped = Buffer.from(piece)
      // In turn: the header of a reply, anywhere.
      const at = pieces++ % 2 === 0 ? pieces % Math.min(8, piece.length) : (pieces * 7919) % piece.length
      flipped[at]! ^= 1 << (pieces % 8)
      return flipped
    }
    for (let round = 0; round < 15; round++)
      for (const came of await outcomes(cache, values)) expect(['hit', 'damaged', 'miss', ...FAILURES]).toContain(came)
    proxy.fault = undefined
    await untilServing(cache)
    expect(new Set(await outcomes(cache, values))).toEqual(new Set(['hit']))
  })

  it.each([
    ['a null', '$-1\r\n'],
    ['a null of RESP 3', '_\r\n'],
    ['a push', '>1\r\n_\r\n'],
    ['a slot that moved to nowhere', '-MOVED 1\r\n'],
    ['noise', randomBytes(3000).toString('latin1')],
  ])('adds %s that nobody asked for: the connection is made anew', async (_, more) => {
    const { proxy, cache } = await proxied()
    const [value] = await filled(cache, 1)
    const before = proxy.connections
    proxy.fault = piece => Buffer.concat([piece, Buffer.from(more, 'latin1')])
    await outcome(cache, value!)
    await until(async () => proxy.connections > before)
    proxy.fault = undefined
    await untilServing(cache)
    expect(await outcome(cache, value!)).toBe('hit')
  })

  it.each(['stall', 'cut'] as const)('%ss in the middle of a reply: an error, and later the bytes', async fault => {
    const { proxy, cache } = await proxied()
    const [value] = await filled(cache, 1, 528_384)
    let pieces = 0
    proxy.fault = piece => (pieces++ < 2 ? piece : fault)
    for (let read = 0; read < 4; read++) expect(FAILURES).toContain(await outcome(cache, value!))
    proxy.fault = undefined
    await untilServing(cache)
    expect(await outcome(cache, value!)).toBe('hit')
  })

  it('is slower than the limit: errors, and then all is well', async () => {
    const { proxy, cache } = await proxied()
    const [value] = await filled(cache, 1)
    proxy.delayMs = 400
    for (let read = 0; read < 4; read++) expect(FAILURES).toContain(await outcome(cache, value!))
    proxy.delayMs = 0
    await untilServing(cache)
    expect(await outcome(cache, value!)).toBe('hit')
  })
})

describe('what is being written', () => {
  it('is bounded in number', async () => {
    const cache = await open(server.url, { timeoutMs: 5_000 })
    await untilServing(cache)
    const put = (): Promise<boolean> => {
      const { id, sealed } = entry(100)
      return cache.put(id, sealed)
    }
    const kept = await Promise.all(Array.from({ length: 300 }, put))
    expect(kept.filter(Boolean)).toHaveLength(256)
    expect(await put()).toBe(true)
  })

  it('is bounded in bytes, also when nobody reads them', async () => {
    const own = await ownServer()
    const cache = await open(own.url)
    await untilServing(cache)
    process.kill(own.pid, 'SIGSTOP')
    const { id, sealed } = entry(8 * 2 ** 20)
    const puts = await Promise.all(Array.from({ length: 6 }, () => cache.put(id, sealed)))
    expect(puts).toEqual(Array(6).fill(false))
    process.kill(own.pid, 'SIGCONT')
    await untilServing(cache)
    const again = await openRedisCache({ urls: [own.url], timeoutMs: 5_000 })
    opened.push(again)
    expect(await Promise.all(Array.from({ length: 6 }, () => again.put(id, sealed)))).toEqual([true, true, true, true, false, false])
  })
})

it('leaves neither sockets nor timers behind, even if the server hangs', async () => {
  const own = await ownServer()
  const resources = (): string[] => process.getActiveResourcesInfo().filter(kind => kind === 'TCPSocketWrap' || kind === 'TCPWrap')
  const before = resources()
  const cache = await openRedisCache({ urls: [own.url], timeoutMs: 150 })
  await filled(cache, 1)
  process.kill(own.pid, 'SIGSTOP')
  const reads = Promise.allSettled([outcome(cache, entry()), outcome(cache, entry())])
  await cache.close()
  await reads
  await new Promise(resolve => setImmediate(resolve))
  expect(resources()).toEqual(before)
})
