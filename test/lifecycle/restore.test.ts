/** Restores beside each other: what throws, dies or is closed in one is none of the others' business. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, expect, it, vi } from 'vitest'
import { type Cache, createCache, openStore, type Snapshot, type SnapshotStore, serveNbd } from '../../src/index.ts'
import { PagerHandle } from '../../src/pager/handle.ts'
import * as patient from '../../src/util/settled-within.ts'
import { codeOfAsync } from '../code-of.ts'
import { runWell } from '../integration/nbd-served.ts'
import { pieces, randomImage, type SmallStore, smallStore } from '../small-store.ts'

vi.mock('../../src/util/settled-within.ts', { spy: true })

const image = randomImage(20)
let small: SmallStore
let cache: Cache
let store: SnapshotStore
let snapshot: Snapshot
let sockets = 0

beforeAll(async () => {
  small = await smallStore()
  const { id } = await small.store.push({ layer: 'os', images: { rootfs: { kind: 'disk', stream: pieces(image) } } })
  cache = await createCache({ memoryBytes: 2 ** 24, pagers: { threads: 1 } })
  store = await openStore(small.url, { keyring: small.keyring, cache })
  snapshot = await store.open(id)
})
afterAll(async () => {
  await store.close()
  await cache.close()
  await small[Symbol.asyncDispose]()
})
afterEach(() => vi.restoreAllMocks())

const socket = (): string => join(small.dir, `${++sockets}.sock`)

it('an onEvent that throws, or rejects, is a warning, once', async () => {
  const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
  for (const onEvent of [
    () => {
      throw new Error('a bug')
    },
    async () => {
      throw new Error('a bug')
    },
  ]) {
    warn.mockClear()
    const restore = await snapshot.restore({ onEvent })
    const server = await serveNbd(restore, 'rootfs', { socket: socket() })
    for (let client = 0; client < 2; client++) await runWell('nbdinfo', ['--size', server.uri])
    await restore.close()
    expect(await server.closed).toEqual({ reason: 'closed' })
    expect(warn).toHaveBeenCalledOnce()
  }
})

it('a pager that died is replaced; what it served has failed, and its restore is closed to others', async () => {
  const started: PagerHandle[] = []
  const { openRestore } = PagerHandle.prototype
  vi.spyOn(PagerHandle.prototype, 'openRestore').mockImplementation(function (this: PagerHandle, ...args) {
    started.push(this)
    return openRestore.apply(this, args)
  })
  await using restore = await snapshot.restore()
  const server = await serveNbd(restore, 'rootfs', { socket: socket() })
  await started[0]!.terminate()
  expect(await server.closed).toMatchObject({ reason: 'failed' })
  expect(await codeOfAsync(() => serveNbd(restore, 'rootfs', { socket: socket() }))).toBe('CLOSED')
  await using next = await snapshot.restore()
  await using again = await serveNbd(next, 'rootfs', { socket: socket() })
  expect(await runWell('nbdinfo', ['--size', again.uri])).toBe(`${image.length}\n`)
})

it('closing a restore refuses what is being started, and waits until nothing of it is left', async () => {
  const restore = await snapshot.restore()
  const path = socket()
  const starting = codeOfAsync(() => serveNbd(restore, 'rootfs', { socket: path }))
  await restore.close()
  expect(existsSync(path)).toBe(false)
  expect(await starting).toBe('CLOSED')
  expect(await codeOfAsync(() => serveNbd(restore, 'rootfs', { socket: path }))).toBe('CLOSED')
})

it('a request about a restore that a pager does not know is refused, and ends nothing', async () => {
  const pager = await PagerHandle.start(cache.engine, 0)
  expect(await codeOfAsync(() => pager.startFrontEnd(99, { kind: 'nbd' }, { onEvent: () => undefined, onDied: () => undefined }))).toBe(
    'CLOSED',
  )
  await pager.endRestore(98)
  const paged = await pager.openRestore(1000, [])
  await paged.end()
  expect(await codeOfAsync(() => paged.start({ kind: 'nbd' }, { onEvent: () => undefined, onDied: () => undefined }))).toBe('CLOSED')
  expect(pager.isAlive).toBe(true)
  await pager.close()
})

it('what a pager may still use is kept until it has answered, however long it hangs', async () => {
  const answered = Promise.withResolvers<void>()
  const { endRestore } = PagerHandle.prototype
  vi.spyOn(PagerHandle.prototype, 'endRestore').mockImplementation(async function (this: PagerHandle, restore) {
    await answered.promise
    await endRestore.call(this, restore)
  })
  const warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
  const restore = await snapshot.restore()
  await serveNbd(restore, 'rootfs', { socket: socket(), writable: true })
  const { folder } = restore.serving.overlay!
  const patience = vi.spyOn(patient, 'settledWithin')
  // The front end has ended, its pager gives no answer.
  patience.mockImplementationOnce(async (_ms, work) => await work.then(() => true)).mockResolvedValueOnce(false)
  await restore.close()
  expect(warn).toHaveBeenCalledOnce()
  expect(existsSync(folder)).toBe(true)
  answered.resolve()
  await vi.waitUntil(() => !existsSync(folder), { timeout: 30_000 })
})
