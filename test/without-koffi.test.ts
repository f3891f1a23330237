/** Where koffi cannot be loaded (a C library or a processor that it does not know), what needs no system call of its own works, and what does says so. */
import { truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it, vi } from 'vitest'
import { createCache, mount, type Restore, serveNbd, serveUffd } from '../src/index.ts'
import { codeOfAsync } from './code-of.ts'
import { randomImage, type SmallStore, smallStore } from './small-store.ts'

vi.mock('koffi', () => {
  throw new Error('no build of it for this machine')
})

const bytes = randomImage(200)
let small: SmallStore
let id: string

beforeAll(async () => {
  small = await smallStore()
  const path = join(small.dir, 'sparse')
  await writeFile(path, bytes)
  await truncate(path, 400 * 4096)
  id = (await small.store.push({ layer: 'os', images: { memory: { path } } })).id
})
afterAll(() => small[Symbol.asyncDispose]())

it('a file with holes is pushed and read', async () => {
  await using snapshot = await small.store.open(id)
  const read = await snapshot.image('memory').read(0, 400 * 4096)
  expect(bytes.equals(read.subarray(0, bytes.length))).toBe(true)
  expect(read.subarray(bytes.length).every(byte => byte === 0)).toBe(true)
})

it.each([
  ['a mount', (restore: Restore, path: string) => mount(restore, path)],
  ['NBD', (restore: Restore, socket: string) => serveNbd(restore, 'memory', { socket })],
  ['userfaultfd', (restore: Restore, socket: string) => serveUffd(restore, 'memory', { socket })],
])('%s is unsupported', async (_what, serve) => {
  await using snapshot = await small.store.open(id)
  await using restore = await snapshot.restore({ overlay: { dir: join(small.dir, 'overlays') } })
  expect(await codeOfAsync(() => serve(restore, join(small.dir, 'place')))).toBe('UNSUPPORTED')
})

it('a line that wakes by a descriptor is unsupported', async () => {
  await using cache = await createCache({ memoryBytes: 2 ** 24, thread: 'main' })
  expect(await codeOfAsync(() => cache.engine.openLine('eventfd'))).toBe('UNSUPPORTED')
})
