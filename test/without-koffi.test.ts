/** Where koffi cannot be loaded (a C library or a processor that it does not know), what needs no system call of its own works, and what does says so. */
import { mkdtemp, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it, vi } from 'vitest'
import {
  createCache,
  createFileKeyring,
  initStore,
  mount,
  openStore,
  type Restore,
  type SnapshotStore,
  serveNbd,
  serveUffd,
} from '../src/index.ts'
import { codeOfAsync } from './code-of.ts'
import { randomImage } from './small-store.ts'

vi.mock('koffi', () => {
  throw new Error('no build of it for this machine')
})

const bytes = randomImage(200)
let dir: string
let store: SnapshotStore
let id: string

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'thaw-without-koffi-'))
  const keyring = await createFileKeyring(join(dir, 'keys'))
  await initStore(join(dir, 'store'), { keyring })
  store = await openStore(join(dir, 'store'), { keyring })
  const path = join(dir, 'sparse')
  await writeFile(path, bytes)
  await truncate(path, 400 * 4096)
  id = (await store.push({ layer: 'os', images: { memory: { path } } })).id
})
afterAll(async () => {
  await store.close()
  await rm(dir, { recursive: true, force: true })
})

it('a file with holes is pushed and read', async () => {
  await using snapshot = await store.open(id)
  const read = await snapshot.image('memory').read(0, 400 * 4096)
  expect(bytes.equals(read.subarray(0, bytes.length))).toBe(true)
  expect(read.subarray(bytes.length).every(byte => byte === 0)).toBe(true)
})

it.each([
  ['a mount', (restore: Restore, path: string) => mount(restore, path)],
  ['NBD', (restore: Restore, socket: string) => serveNbd(restore, 'memory', { socket })],
  ['userfaultfd', (restore: Restore, socket: string) => serveUffd(restore, 'memory', { socket })],
])('%s is unsupported', async (_what, serve) => {
  await using snapshot = await store.open(id)
  await using restore = await snapshot.restore({ overlay: { dir: join(dir, 'overlays') } })
  expect(await codeOfAsync(() => serve(restore, join(dir, 'place')))).toBe('UNSUPPORTED')
})

it('a line that wakes by a descriptor is unsupported', async () => {
  await using cache = await createCache({ memoryBytes: 2 ** 24, thread: 'main' })
  expect(await codeOfAsync(() => cache.engine.openLine('eventfd'))).toBe('UNSUPPORTED')
})
