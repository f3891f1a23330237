/** The engine on a worker, as users of the library get it: through a cache, a store and a snapshot that was really pushed. */
import { execFile } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { Worker } from 'node:worker_threads'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { openStore } from '../../src/index.ts'
import { createCache } from '../../src/open-cache.ts'
import { wantsNice } from '../../src/seal/threads.ts'
import { VirtualClock } from '../../src/util/virtual-clock.ts'
import { codeOfAsync } from '../code-of.ts'
import { pieces, randomImage, type SmallStore, smallStore } from '../small-store.ts'
import type { BusyMainOptions } from './busy-main-thread.ts'

const PAGES = 1000
const image = randomImage(PAGES)

let small: SmallStore
let id: string

beforeAll(async () => {
  small = await smallStore()
  id = (await small.store.push({ layer: 'os', images: { memory: { kind: 'memory', stream: pieces(image) } } })).id
})

afterAll(() => small[Symbol.asyncDispose]())

it.each(['main', 'worker'] as const)('reads with the engine on %s', async thread => {
  await using cache = await createCache({ memoryBytes: 0, thread })
  await using store = await openStore(small.url, { cache, keyring: small.keyring })
  await using snapshot = await store.open(id)
  const bytes = await snapshot.image('memory').read(0, image.length)
  expect(image.equals(bytes)).toBe(true)
  expect((await store.verify(id)).bad).toEqual([])
  const { images } = await snapshot.pull(join(small.dir, thread))
  expect(images.map(({ sizeBytes }) => sizeBytes)).toEqual([image.length])
  expect(wantsNice()).toBe(thread === 'worker')
})

it('serves another thread while this one stands still', async () => {
  await using cache = await createCache({ memoryBytes: 2 ** 26 })
  await using store = await openStore(small.url, { cache, keyring: small.keyring })
  await using snapshot = await store.open(id)
  const shared = snapshot.image('memory').share()
  expect(snapshot.image('memory').share()).toBe(shared)
  await using line = await cache.engine.openLine('message')
  const done = new Int32Array(new SharedArrayBuffer(4))
  const target = new SharedArrayBuffer(image.length)
  const workerData: BusyMainOptions = { arena: cache.engine.arena.memory, end: line.end, image: shared, done, target }
  const reader = new Worker(new URL('./busy-main-thread.ts', import.meta.url), { workerData, transferList: [line.end.port] })
  await once(reader, 'message')
  reader.postMessage('go')
  // The event loop of this thread does not turn until the other has read everything; nothing is in the arena when it begins.
  expect(Atomics.wait(done, 0, 0, 30_000)).not.toBe('timed-out')
  expect(Atomics.load(done, 0)).toBeGreaterThan(PAGES / 128)
  expect(image.equals(Buffer.from(target))).toBe(true)
  await reader.terminate()
})

it('lets a program end that forgot to close', async () => {
  const child = new URL('./forgetful-child.ts', import.meta.url)
  const args = [fileURLToPath(child), small.url, join(small.dir, 'keys'), id]
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 30_000, killSignal: 'SIGKILL' })
  expect(stdout.trim()).toBe(image.subarray(4096, 4112).toString('hex'))
})

it('refuses a clock of one’s own on another thread', async () => {
  const clock = new VirtualClock(1)
  expect(await codeOfAsync(() => createCache({ clock }))).toBe('TypeError')
  expect(await codeOfAsync(async () => (await createCache({ clock, memoryBytes: 0, thread: 'main' })).close())).toBe(undefined)
})
