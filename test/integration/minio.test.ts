/**
 * The whole of thaw on a real MinIO: what a publisher and a reader do, then what can go wrong with the server, the credentials and the objects. What the
 * S3 store alone does in trouble is tested in `test/fault/s3-store.test.ts`.
 */
import { randomBytes } from 'node:crypto'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, vi } from 'vitest'
import {
  createFileKeyring,
  type FileKeyring,
  initStore,
  openObjectStore,
  openStore,
  type PushResult,
  type SnapshotStore,
} from '../../src/index.ts'
import { openObjectStore as openWithOptions } from '../../src/store/open.ts'
import type { ObjectStore } from '../../src/store.ts'
import { codeOfAsync } from '../code-of.ts'
import { bytesOf, openOver } from '../fault/memory-store.ts'
import { readerKeys, readIndependently } from '../fault/second-reader.ts'
import { startFakeS3 } from '../servers/fake-s3.ts'
import { type Minio, startMinio } from '../servers/minio.ts'
import { pieces, randomImage, withPages } from '../small-store.ts'
import { killMinio } from './killed-minio.ts'

const MIB = 2 ** 20
const POLL_MS = 20

let minio: Minio
let dir: string
let url: string
let keyring: FileKeyring

beforeAll(async () => {
  minio = await startMinio()
  useCredentials(minio.credentials)
})
afterAll(async () => {
  vi.unstubAllEnvs()
  await minio.stop()
})

beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-minio-test-'))
  url = `s3://${await minio.createBucket()}/some/prefix?endpoint=${minio.endpoint}`
  keyring = await createFileKeyring(join(dir, 'keys'))
  await keyring.createTenant('acme')
})
afterEach(() => rm(dir, { recursive: true, force: true }))

function useCredentials({ accessKeyId, secretAccessKey }: Minio['credentials']): void {
  vi.stubEnv('AWS_ACCESS_KEY_ID', accessKeyId)
  vi.stubEnv('AWS_SECRET_ACCESS_KEY', secretAccessKey)
}

async function made(): Promise<SnapshotStore> {
  await initStore(url, { keyring })
  return openStore(url, { keyring })
}

function push(store: SnapshotStore, image: Uint8Array, tag?: string): Promise<PushResult> {
  return store.push({ layer: 'os', images: { memory: { stream: pieces(image) } }, tag })
}

/** What a pull of a snapshot's only image comes to: its bytes, or the code, and then nothing is left. */
async function pulled(store: SnapshotStore, ref: string): Promise<Buffer | string | undefined> {
  const out = join(dir, 'out')
  await using snapshot = await store.open(ref)
  const code = await codeOfAsync(() => snapshot.pull(out))
  if (code === undefined) return readFile(join(out, 'memory'))
  expect(await readdir(out)).toEqual([])
  return code
}

/** Keys of the chunks that are in the store. */
async function chunkKeys(objects: ObjectStore): Promise<string[]> {
  return (await Array.fromAsync(objects.list('roots/'))).map(({ key }) => key).filter(key => key.includes('/chunks/'))
}

describe('on MinIO', () => {
  it('three layers are pushed, listed, verified, pulled, and read by the second reader', async () => {
    expect(await initStore(url, { keyring })).toMatchObject({ created: true })
    expect(await initStore(url, { keyring })).toMatchObject({ created: false })
    await using store = await openStore(url, { keyring })
    const os = randomImage(300)
    const runtime = withPages(os, [
      [5, 1],
      [200, 2],
    ])
    const fn = Buffer.concat([withPages(runtime, [[7, 3]]), randomBytes(1_000)])
    const ids = [
      (await push(store, os, 'os')).id,
      (await store.push({ layer: 'runtime', parent: 'os', images: { memory: { stream: pieces(runtime) } }, tag: 'runtime' })).id,
      (
        await store.push({
          layer: 'function',
          tenant: 'acme',
          parent: 'runtime',
          images: { memory: { stream: pieces(fn) } },
          tag: 'resize:7',
        })
      ).id,
    ]
    const listed = await Array.fromAsync(store.list())
    expect(new Set(listed.map(({ id }) => id))).toEqual(new Set(ids))
    const tags = (await Array.fromAsync(store.tags())).map(({ tenant, name }) => [tenant, name])
    expect(tags).toEqual(
      expect.arrayContaining([
        [undefined, 'os'],
        [undefined, 'runtime'],
        ['acme', 'resize:7'],
      ]),
    )
    for (const [index, image] of [os, runtime, fn].entries()) {
      expect(await store.verify(ids[index]!)).toMatchObject({ opened: true, bad: [] })
      expect(image.equals((await pulled(store, ids[index]!)) as Buffer)).toBe(true)
    }
    await using objects = await openObjectStore(url)
    const read = await readIndependently(objects, await readerKeys(keyring.name), 'acme', 'resize:7')
    expect(read.get('memory')?.equals(fn)).toBe(true)
  })

  it('a second push of an image finds every chunk and sends none', async () => {
    await using store = await made()
    const image = randomImage(1_000)
    const first = await push(store, image)
    expect(first.counts).toMatchObject({ storedChunks: first.chunks, foundChunks: 0 })
    const again = await push(store, image)
    expect(again.counts).toMatchObject({ storedChunks: 0, storedBytes: 0, foundChunks: first.chunks })
  })

  it('two pushes at once both succeed, with one copy', async () => {
    await using store = await made()
    await using other = await openStore(url, { keyring })
    const image = randomImage(1_000)
    const [a, b] = await Promise.all([push(store, image), push(other, image)])
    await using objects = await openObjectStore(url)
    expect((await chunkKeys(objects)).length).toBe(a.chunks)
    for (const { id } of [a, b]) expect(await store.verify(id)).toMatchObject({ opened: true, bad: [] })
  })

  it('two tag updates at once: one wins, the other is told', async () => {
    await using store = await made()
    await using other = await openStore(url, { keyring })
    const { id } = await push(store, randomImage(10))
    const codes = await Promise.all(
      [store, other].map(each => codeOfAsync(() => each.tag(id, { tenant: undefined, name: 'contested' }, { ifAbsent: true }))),
    )
    expect(new Set(codes)).toEqual(new Set([undefined, 'CONFLICT']))
  })
})

describe('refused', () => {
  it('wrong credentials: DENIED', async () => {
    const store = await made()
    await store.close()
    try {
      useCredentials({ ...minio.credentials, secretAccessKey: 'a-wrong-secret-key' })
      expect(await codeOfAsync(() => openStore(url, { keyring }))).toBe('DENIED')
      expect(await codeOfAsync(() => initStore(url, { keyring }))).toBe('DENIED')
      useCredentials({ accessKeyId: 'nobody', secretAccessKey: 'a-wrong-secret-key' })
      expect(await codeOfAsync(() => openStore(url, { keyring }))).toBe('DENIED')
    } finally {
      useCredentials(minio.credentials)
    }
  })

  it('a bucket that does not exist, and a prefix that is no store: NOT_FOUND', async () => {
    const bucket = `s3://no-such-bucket?endpoint=${minio.endpoint}`
    expect(await codeOfAsync(() => openStore(bucket, { keyring }))).toBe('NOT_FOUND')
    expect(await codeOfAsync(() => initStore(bucket, { keyring }))).toBe('NOT_FOUND')
    expect(await codeOfAsync(() => openStore(url, { keyring }))).toBe('NOT_FOUND')
  })

  it('a second init with another keyring: WRONG_KEY', async () => {
    await initStore(url, { keyring })
    const other = await createFileKeyring(join(dir, 'other-keys'))
    expect(await codeOfAsync(() => initStore(url, { keyring: other }))).toBe('WRONG_KEY')
    expect(await codeOfAsync(() => openStore(url, { keyring: other }))).toBe('WRONG_KEY')
  })

  it('a provider that ignores conditional writes: UNSUPPORTED, and left empty', async () => {
    const fake = await startFakeS3()
    fake.conditional = false
    const lax = `s3://bucket?endpoint=${fake.endpoint}`
    expect(await codeOfAsync(() => initStore(lax, { keyring }))).toBe('UNSUPPORTED')
    expect([...fake.objects.keys()]).toEqual([])
    await fake.stop()
  })
})

describe('objects that are not what they were', () => {
  it('garbage under the name of a chunk is found by its hash or length, and healed by a push', async () => {
    await using store = await made()
    await using objects = await openObjectStore(url)
    const image = randomImage(700)
    const { id, chunks } = await push(store, image)
    const [short, wrong, long] = (await chunkKeys(objects)) as [string, string, string]
    const bytes = await bytesOf(objects, wrong)
    await objects.put(short, bytes.subarray(0, 100))
    await objects.put(wrong, randomBytes(bytes.length))
    await objects.put(long, Buffer.concat([bytes, bytes]))
    expect(await pulled(store, id)).toBe('CORRUPT')
    const bad = (await store.verify(id)).bad.map(({ object, code }) => [object, code])
    expect(bad.sort()).toEqual([short, wrong, long].sort().map(key => [key, 'CORRUPT']))
    const healed = await push(store, image)
    expect(healed.counts).toMatchObject({ storedChunks: 3, foundChunks: chunks - 3 })
    expect(await store.verify(id)).toMatchObject({ bad: [] })
    expect(image.equals((await pulled(store, id)) as Buffer)).toBe(true)
  })

  it('a chunk that is gone: verify says which, a pull is NOT_FOUND and leaves nothing, a push brings it back', async () => {
    await using store = await made()
    await using objects = await openObjectStore(url)
    const image = randomImage(700)
    const { id } = await push(store, image)
    const gone = (await chunkKeys(objects))[1]!
    await objects.delete(gone)
    expect((await store.verify(id)).bad).toMatchObject([{ object: gone, code: 'NOT_FOUND' }])
    expect(await pulled(store, id)).toBe('NOT_FOUND')
    expect((await push(store, image)).counts).toMatchObject({ storedChunks: 1 })
    expect(await store.verify(id)).toMatchObject({ bad: [] })
  })
})

describe('a server that', () => {
  it('stands still when a pull begins: TIMEOUT or UNAVAILABLE at the deadline, nothing is left, and later the pull succeeds', async () => {
    const image = randomBytes(8 * MIB)
    const patient = await made()
    const { id } = await push(patient, image)
    await patient.close()
    // What `openStore` gives a caller has deadlines of half a minute.
    const objects = await openWithOptions(url, { s3: { timeoutMs: 2_000, bytesPerSecondMin: 64 * MIB }, retry: { attemptsMax: 2 } })
    await using store = await openOver(objects, keyring)
    await using snapshot = await store.open(id)
    const out = join(dir, 'stopped')
    process.kill(minio.pid, 'SIGSTOP')
    try {
      expect(await codeOfAsync(() => snapshot.pull(out))).toSatisfy(code => code === 'TIMEOUT' || code === 'UNAVAILABLE')
    } finally {
      process.kill(minio.pid, 'SIGCONT')
    }
    expect(await readdir(out)).toEqual([])
    await snapshot.pull(out)
    expect(image.equals(await readFile(join(out, 'memory')))).toBe(true)
  })

  it('dies during a push: UNAVAILABLE, nothing is published, and when it is back the push goes on from there', async () => {
    // A server of its own, because it does not survive.
    const mortal = await startMinio()
    try {
      useCredentials(mortal.credentials)
      url = `s3://${await mortal.createBucket()}?endpoint=${mortal.endpoint}`
      await using store = await made()
      await using objects = await openObjectStore(url)
      const image = randomBytes(24 * MIB)
      let killed: Awaited<ReturnType<typeof killMinio>> | undefined
      const from = interrupted(image, async () => {
        // The first half of the image is more than a push reads ahead of what it sends.
        while ((await chunkKeys(objects)).length < 4) await sleep(POLL_MS)
        killed = await killMinio(mortal)
      })
      const failed = store.push({ layer: 'os', images: { memory: { stream: from } }, tag: 'image:1' })
      expect(await codeOfAsync(() => failed)).toBe('UNAVAILABLE')
      await using _again = await killed!.restart()
      expect(await Array.fromAsync(store.list())).toEqual([])
      expect(await Array.fromAsync(store.tags())).toEqual([])
      const there = (await chunkKeys(objects)).length
      const { id, chunks, counts } = await push(store, image, 'image:1')
      expect(there).toBeGreaterThan(0)
      expect(counts).toMatchObject({ foundChunks: there, storedChunks: chunks - there })
      expect(await store.verify(id)).toMatchObject({ opened: true, bad: [] })
      expect(image.equals((await pulled(store, 'image:1')) as Buffer)).toBe(true)
    } finally {
      useCredentials(minio.credentials)
      await mortal.stop()
    }
  })
})

/** An image in the middle of which something happens. */
async function* interrupted(image: Uint8Array, happens: () => Promise<void>): AsyncGenerator<Uint8Array> {
  const middle = image.length / 2
  yield* pieces(image.subarray(0, middle))
  await happens()
  yield* pieces(image.subarray(middle))
}
