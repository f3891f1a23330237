import type { Socket } from 'node:net'
import { setImmediate, setTimeout } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import { checkStore, requireConditionalPut } from '../../src/store/check.ts'
import { openObjectStore } from '../../src/store/open.ts'
import { openS3Store, type S3StoreOptions } from '../../src/store/s3.ts'
import type { ObjectStore } from '../../src/store.ts'
import { type Clock, systemClock } from '../../src/util/clock.ts'
import { type FakeS3, fail, startFakeS3 } from '../servers/fake-s3.ts'
import { type Minio, startMinio, withCredentials } from '../servers/minio.ts'

const SECRET = 'a-secret-that-must-not-show'

/** Waits for nothing. */
const hasty: Clock = {
  now: () => 0,
  sleep: async (_, signal) => signal?.throwIfAborted(),
  after: systemClock.after,
  random: () => 0.5,
}

/** The credentials stay in the environment until the test ends: the chain looks there again when a server refuses them. */
async function openAs(credentials: Minio['credentials'], url: string, options?: S3StoreOptions): Promise<ObjectStore> {
  vi.stubEnv('AWS_ACCESS_KEY_ID', credentials.accessKeyId)
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', credentials.secretAccessKey)
  const store = await openS3Store(url, options)
  // The default chain reads the environment at the first call, whatever that comes to.
  await store.head('first').catch(() => undefined)
  return store
}

afterEach(() => void vi.unstubAllEnvs())

describe('an S3 provider that misbehaves', () => {
  let fake: FakeS3
  let store: ObjectStore
  const open = (options?: S3StoreOptions): Promise<ObjectStore> =>
    openAs({ accessKeyId: 'id', secretAccessKey: SECRET }, `s3://bucket/p?endpoint=${fake.endpoint}`, { clock: hasty, ...options })

  beforeEach(async () => {
    fake = await startFakeS3()
    store = await open()
    fake.requests.length = 0
  })
  afterEach(async () => {
    await store.close()
    await fake.stop()
  })

  it('ignores If-None-Match: is refused as UNSUPPORTED, and left clean', async () => {
    await requireConditionalPut(store)
    fake.conditional = false
    await expect(requireConditionalPut(store)).rejects.toMatchObject({ code: 'UNSUPPORTED' })
    expect(fake.objects.size).toBe(0)
    const failed = (await Array.fromAsync(checkStore(store))).filter(result => !result.ok).map(result => result.name)
    expect(failed).toContain('put if absent')
    expect(failed).toContain('put if absent, raced')
  })

  it('does not know conditional writes: UNSUPPORTED', async () => {
    fake.misbehave = (request, response) => {
      if (request.headers['if-none-match'] === undefined) return false
      fail(response, 501, 'NotImplemented')
      return true
    }
    await expect(store.putIfAbsent('a', Buffer.from('x'))).rejects.toMatchObject({ code: 'UNSUPPORTED' })
  })

  it('answers 409 to a conditional write: it is tried again', async () => {
    let conflicts = 3
    fake.misbehave = (request, response) => {
      if (request.method !== 'PUT' || conflicts-- <= 0) return false
      fail(response, 409, 'ConditionalRequestConflict')
      return true
    }
    expect(await store.putIfAbsent('a', Buffer.from('x'))).toBe(true)
    expect(fake.requests.filter(request => request === 'PUT /bucket/p/a')).toHaveLength(4)
  })

  it('answers 409 for ever: CONFLICT, in bounded time', async () => {
    fake.misbehave = (_, response) => {
      fail(response, 409, 'ConditionalRequestConflict')
      return true
    }
    await expect(store.putIfAbsent('a', Buffer.from('x'))).rejects.toMatchObject({ code: 'CONFLICT' })
    expect(fake.requests.length).toBeLessThan(20)
  })

  it('loses the answer of a conditional write that took effect: still true', async () => {
    let lost = 1
    fake.misbehave = (request, response, write) => {
      if (request.method !== 'PUT' || lost-- <= 0) return false
      write()
      response.destroy()
      return true
    }
    expect(await store.putIfAbsent('a', Buffer.from('mine'))).toBe(true)
    expect(await store.putIfAbsent('a', Buffer.from('other'))).toBe(false)
  })

  it('breaks off a body: UNAVAILABLE, and the retry wrapper gets over it', async () => {
    let broken = 0
    fake.objects.set('/bucket/p/a', Buffer.alloc(100_000, 7))
    fake.misbehave = (request, response) => {
      if (request.method !== 'GET' || broken++ > 0) return false
      response.writeHead(200, { 'content-length': 100_000 })
      response.write(Buffer.alloc(60_000, 7), () => response.destroy())
      return true
    }
    await expect(store.get('a', { sizeMax: 100_000 })).rejects.toMatchObject({ code: 'UNAVAILABLE', retryable: true })
    broken = 0
    const patient = await withCredentials({ accessKeyId: 'id', secretAccessKey: SECRET }, async () => {
      const opened = await openObjectStore(`s3://bucket/p?endpoint=${fake.endpoint}`, { retry: { clock: hasty } })
      expect(await opened.get('a', { sizeMax: 100_000 })).toHaveLength(100_000)
      return opened
    })
    await patient.close()
  })

  it('stalls within a body: TIMEOUT, or the reason of an abort, and the target is left alone after', async () => {
    fake.misbehave = (request, response) => {
      if (request.method !== 'GET') return false
      response.writeHead(200, { 'content-length': 100_000 })
      response.write(Buffer.alloc(60_000, 7))
      return true
    }
    const quick = await open({ timeoutMs: 150 })
    const target = Buffer.alloc(100_000)
    await expect(quick.getInto('a', target)).rejects.toMatchObject({ code: 'TIMEOUT' })
    await quick.close()
    const reason = new Error('enough')
    const abort = new AbortController()
    target.fill(0)
    const call = store.getInto('a', target, { signal: abort.signal })
    while (target[0] === 0) await setImmediate()
    abort.abort(reason)
    await expect(call).rejects.toBe(reason)
  })

  it('never answers: close rejects what waits, as CLOSED', async () => {
    fake.misbehave = () => true
    const call = store.get('a', { sizeMax: 10 })
    const rejected = expect(call).rejects.toMatchObject({ code: 'CLOSED' })
    while (fake.requests.length === 0) await setImmediate()
    await store.close()
    await rejected
  })

  it('sends nothing on an idle connection: UNAVAILABLE', async () => {
    fake.misbehave = () => true
    const quick = await open({ idleTimeoutMs: 60 })
    await expect(quick.get('a', { sizeMax: 10 })).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    await quick.close()
  })

  it('forgets the connections that it keeps, and says nothing: what was idle is not used again', async () => {
    const forgotten = new Set<Socket>()
    const quick = await open({ idleTimeoutMs: 100 })
    fake.misbehave = request => {
      forgotten.add(request.socket)
      return false
    }
    await Promise.all(Array.from({ length: 8 }, (_, index) => quick.put(`a/${index}`, Buffer.from('x'))))
    fake.misbehave = request => forgotten.has(request.socket)
    await setTimeout(300)
    expect(await quick.get('a/1', { sizeMax: 1 })).toHaveLength(1)
    await quick.close()
  })

  it.each([
    [503, 'SlowDown', 'UNAVAILABLE'],
    [500, 'InternalError', 'UNAVAILABLE'],
    [429, 'TooManyRequests', 'UNAVAILABLE'],
    [400, 'BadDigest', 'CORRUPT'],
    [400, 'ExpiredToken', 'DENIED'],
    [403, 'AccessDenied', 'DENIED'],
    [404, 'NoSuchBucket', 'NOT_FOUND'],
    [507, 'XMinioStorageFull', 'NO_SPACE'],
    [405, 'MethodNotAllowed', 'UNSUPPORTED'],
  ])('answers %i %s: %s', async (status, name, code) => {
    fake.misbehave = (_, response) => {
      fail(response, status, name)
      return true
    }
    const error: unknown = await store.put('a', Buffer.from('x')).catch((failure: unknown) => failure)
    expect(error).toMatchObject({ code, object: 'a' })
    expect(String(error)).not.toContain(SECRET)
  })

  it.each(['', '<html><body>Log in</body></html>'])('is not there, and something else says 200 (%j): UNAVAILABLE', async page => {
    fake.misbehave = (_, response) => {
      response.writeHead(200, { 'content-type': 'text/html', 'content-length': page.length }).end(page)
      return true
    }
    await expect(store.put('a', Buffer.from('x'))).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    await expect(store.putIfAbsent('a', Buffer.from('x'))).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    await expect(Array.fromAsync(store.list(''))).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    await expect(Array.fromAsync(store.listFolders(''))).rejects.toMatchObject({ code: 'UNAVAILABLE' })
  })

  it('does not trust the checksum of a multipart upload', async () => {
    fake.objects.set('/bucket/p/a', Buffer.alloc(10))
    expect((await store.head('a'))?.sha256).toHaveLength(32)
    fake.misbehave = (_, response) => {
      response.writeHead(200, { 'content-length': 10, 'x-amz-checksum-sha256': `${Buffer.alloc(32).toString('base64')}-2` }).end()
      return true
    }
    expect(await store.head('a')).toEqual({ sizeBytes: 10, sha256: undefined })
  })

  it('is gone: UNAVAILABLE', async () => {
    await fake.stop()
    await expect(store.get('a', { sizeMax: 10 })).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    await expect(store.put('a', Buffer.alloc(1))).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    await expect(Array.fromAsync(store.list(''))).rejects.toMatchObject({ code: 'UNAVAILABLE' })
    fake = await startFakeS3()
  })
})

describe('a real MinIO in trouble', () => {
  let minio: Minio
  let bucket = ''
  const url = (): string => `s3://${bucket}/p?endpoint=${minio.endpoint}`

  beforeAll(async () => {
    minio = await startMinio()
    bucket = await minio.createBucket()
  }, 60_000)
  afterAll(() => minio.stop())

  it('refuses wrong credentials: DENIED, and they show nowhere', async () => {
    await using store = await openAs({ accessKeyId: 'nobody', secretAccessKey: SECRET }, url())
    const calls = [
      () => store.get('a', { sizeMax: 1 }),
      () => store.put('a', Buffer.from('x')),
      () => store.head('a'),
      () => Array.fromAsync(store.list('')),
    ]
    for (const call of calls) {
      const error: unknown = await call().catch((failure: unknown) => failure)
      expect(error).toMatchObject({ code: 'DENIED' })
      expect(String(error)).not.toContain(SECRET)
    }
    expect(store.url).not.toContain(SECRET)
  })

  it('has no such bucket: NOT_FOUND', async () => {
    await using store = await openAs(minio.credentials, `s3://no-such-bucket?endpoint=${minio.endpoint}`)
    await expect(store.get('a', { sizeMax: 1 })).rejects.toMatchObject({ code: 'NOT_FOUND' })
    await expect(store.put('a', Buffer.from('x'))).rejects.toMatchObject({ code: 'NOT_FOUND' })
    await expect(Array.fromAsync(store.list(''))).rejects.toMatchObject({ code: 'NOT_FOUND' })
  })

  it('refuses a body that was damaged on the way: CORRUPT', async () => {
    await using store = await openAs(minio.credentials, url())
    await expect(store.put('damaged', Buffer.from('sent'), { sha256: Buffer.alloc(32) })).rejects.toMatchObject({ code: 'CORRUPT' })
    expect(await store.head('damaged')).toBeUndefined()
  })

  it('passes the check of a provider', async () => {
    await using store = await openAs(minio.credentials, url())
    expect((await Array.fromAsync(checkStore(store))).filter(result => !result.ok)).toEqual([])
    expect(await Array.fromAsync(store.listFolders(''))).toEqual([])
  }, 30_000)

  it('stops within a body: TIMEOUT at the deadline; is killed: UNAVAILABLE', async () => {
    const length = 32 * 2 ** 20
    await using store = await openAs(minio.credentials, url(), { timeoutMs: 2_000, bytesPerSecondMin: 2 ** 30 })
    await store.put('large', Buffer.alloc(length, 1))
    const target = Buffer.alloc(length)
    const call = store.getInto('large', target).catch((error: unknown) => error)
    while (target[0] === 0) await setImmediate()
    process.kill(minio.pid, 'SIGSTOP')
    expect(await call).toMatchObject({ code: 'TIMEOUT' })
    process.kill(minio.pid, 'SIGCONT')
    expect(await store.getInto('large', target)).toBe(length)
    await minio.stop()
    await expect(store.getInto('large', target)).rejects.toMatchObject({ code: 'UNAVAILABLE' })
  }, 30_000)
})
