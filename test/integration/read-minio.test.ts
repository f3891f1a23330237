/** Reads from a real MinIO that is killed, hung, slow, busy, or behind a bad wire: right bytes or a typed error of the origin in time, and right bytes again when it is over. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest'
import { LocalEngine } from '../../src/engine/local.ts'
import { createFileKeyring, type FileKeyring, initStore, openObjectStore, openStore } from '../../src/index.ts'
import type { CacheOptions } from '../../src/open-cache.ts'
import { countingStore } from '../fault/counting-store.ts'
import { openThrough } from '../fault/read-path.ts'
import { type Minio, startMinio } from '../servers/minio.ts'
import { startTcpProxy, type TcpProxy } from '../servers/tcp-proxy.ts'
import { killMinio } from './killed-minio.ts'
import { type Pushed, pushTo, Reading } from './read-stores.ts'

const TIMEOUT_MS = 1_000
/** A few attempts. */
const READ_TIMEOUT_MS = 4_000
/** What reads may come to while nothing can be had: some chunks are in memory, and some wait for a turn in vain. */
const FAILURES = /^TIMEOUT origin(, TIMEOUT undefined)?(, right)?$/

let minio: Minio
let proxy: TcpProxy
let dir: string
let keyring: FileKeyring
let pushed: Pushed
let urlOf: (port: number) => string
const opened: AsyncDisposable[] = []

beforeAll(async () => {
  minio = await startMinio()
  vi.stubEnv('AWS_ACCESS_KEY_ID', minio.credentials.accessKeyId)
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', minio.credentials.secretAccessKey)
  const bucket = await minio.createBucket()
  urlOf = port => `s3://${bucket}/prefix?endpoint=http://127.0.0.1:${port}`
  const port = Number(new URL(minio.endpoint).port)
  proxy = await startTcpProxy(port)
  dir = await mkdtemp(join(tmpdir(), 'thaw-read-minio-'))
  keyring = await createFileKeyring(join(dir, 'keys'))
  await initStore(urlOf(port), { keyring })
  await using store = await openStore(urlOf(port), { keyring })
  pushed = await pushTo(store)
})
afterAll(async () => {
  vi.unstubAllEnvs()
  await proxy.stop()
  await minio.stop()
  await rm(dir, { recursive: true })
})
afterEach(async () => {
  proxy.fault = undefined
  proxy.delayMs = 0
  for (const each of opened.splice(0).reverse()) await each[Symbol.asyncDispose]()
})

/** Reads through the proxy. */
async function open(options: CacheOptions = {}): Promise<Reading> {
  const reading = await Reading.open(urlOf(proxy.port), keyring, pushed, {
    origin: { timeoutMs: TIMEOUT_MS, hedge: false },
    readTimeoutMs: READ_TIMEOUT_MS,
    ...options,
  })
  opened.push(reading)
  return reading
}

const isHead = (piece: Buffer): boolean => piece.subarray(0, 5).toString('latin1') === 'HTTP/'
/** Where the body begins in a piece. */
const bodyAt = (piece: Buffer): number => (isHead(piece) ? piece.indexOf('\r\n\r\n') + 4 : 0)

const BUSY = Buffer.from('HTTP/1.1 503 Slow Down\r\ncontent-length: 0\r\n\r\n')

describe('an engine on a thread of its own', () => {
  it('opens the bucket by its URL, and names the origin when the wire stalls', async () => {
    const reading = await open({ thread: 'worker' })
    expect(await reading.all()).toBe('right')
    proxy.fault = () => 'stall'
    expect(await reading.all()).toMatch(FAILURES)
    proxy.fault = undefined
    await reading.untilRight()
  })
})

describe('a wire to the store that', () => {
  it('answers 503: TIMEOUT of the origin, and then the bytes', async () => {
    const reading = await open()
    proxy.fault = piece => (isHead(piece) ? BUSY : Buffer.alloc(0))
    expect(await reading.all()).toMatch(FAILURES)
    expect((await reading.cache.stats()).origin.errors).toBeGreaterThan(0)
    proxy.fault = undefined
    await reading.untilRight()
  })

  it('answers 503 now and then: nobody notices', async () => {
    const reading = await open({ origin: { timeoutMs: 10_000 } })
    let answers = 0
    // What comes behind a busy answer is noise to the client, and ends the connection.
    proxy.fault = piece => (isHead(piece) && ++answers % 4 === 0 ? BUSY : piece)
    expect(await reading.all()).toBe('right')
    expect(answers).toBeGreaterThan(40)
  })

  it('flips a bit in every body: CORRUPT of the origin, never other bytes', async () => {
    const reading = await open()
    proxy.fault = piece => {
      const flipped = Buffer.from(piece)
      const at = bodyAt(piece)
      if (piece.length - at > 1000) flipped[at + Math.floor((piece.length - at) / 2)]! ^= 16
      return flipped
    }
    expect(await reading.all()).toMatch(/^CORRUPT origin(, TIMEOUT origin)?$/)
    expect((await reading.cache.stats()).origin.corrupt).toBeGreaterThan(0)
    proxy.fault = undefined
    await reading.untilRight()
  })

  it.each(['stall', 'cut'] as const)('truncates bodies, then %ss', async then => {
    const reading = await open()
    proxy.fault = piece => (isHead(piece) ? piece.subarray(0, bodyAt(piece) + 100) : then)
    expect(await reading.all()).toMatch(FAILURES)
    proxy.fault = undefined
    await reading.untilRight()
  })

  it('says that bodies are shorter than they are: CORRUPT or another error of the origin', async () => {
    const reading = await open()
    proxy.fault = piece =>
      isHead(piece) ? Buffer.from(piece.toString('latin1').replace(/content-length: \d+/i, 'Content-Length: 100'), 'latin1') : 'cut'
    expect(await reading.all()).toMatch(/^((CORRUPT|TIMEOUT|UNAVAILABLE) (origin|undefined)(, )?)+(right)?$/)
    proxy.fault = undefined
    await reading.untilRight()
  })

  it('is slow by 50 ms: right; by 5 s: TIMEOUT of the origin within the deadline that was set', async () => {
    const reading = await open({ origin: { timeoutMs: 3_000, hedge: false } })
    proxy.delayMs = 50
    expect(await reading.all()).toBe('right')
    const slow = await open()
    proxy.delayMs = 5_000
    expect(await slow.all()).toMatch(FAILURES)
    proxy.delayMs = 0
    await slow.untilRight()
  })
})

describe('a server that', () => {
  it('hangs in the middle of bodies: TIMEOUT of the origin, what a cache has is served, and then the bytes', async () => {
    const cached = await open({ disk: { path: join(dir, 'disk'), sizeBytes: 2 ** 30 } })
    await cached.untilServedBy('disk')
    const reading = await open()
    let answers = 0
    proxy.fault = piece => {
      if (++answers === 5) process.kill(minio.pid, 'SIGSTOP')
      return piece
    }
    try {
      expect(await reading.all()).toMatch(FAILURES)
      expect(await cached.all()).toBe('right')
    } finally {
      process.kill(minio.pid, 'SIGCONT')
    }
    proxy.fault = undefined
    await reading.untilRight()
  })

  it('has 64 cold readers: each chunk is fetched once', async () => {
    await using inner = await openObjectStore(urlOf(proxy.port))
    const { objects, reads } = countingStore(inner)
    await using engine = new LocalEngine({ memoryBytes: 2 * pushed.image.length, caches: [], origin: { hedge: false } })
    await using store = await openThrough(objects, keyring, engine)
    const snapshots = await Promise.all(Array.from({ length: 64 }, () => store.open(pushed.id)))
    reads.clear()
    const offset = pushed.image.length / 2
    const images = await Promise.all(snapshots.map(snapshot => snapshot.image('memory').read(offset, offset)))
    for (const image of images) expect(pushed.image.subarray(offset).equals(image)).toBe(true)
    expect(new Set(reads.values())).toEqual(new Set([1]))
    const { underWayMax } = (await engine.figures()).origin
    expect(underWayMax).toBeLessThanOrEqual(inner.concurrency)
  })

  it('is killed under its readers: TIMEOUT of the origin, and right bytes when it is back', async () => {
    const reading = await open()
    const reads = reading.all()
    const killed = await killMinio(minio)
    expect(await reads).toMatch(/^(TIMEOUT origin(, )?)?(TIMEOUT undefined(, )?)?(right)?$/)
    expect(await reading.all()).toMatch(FAILURES)
    await using _ = await killed.restart()
    await reading.untilRight()
  })
})
