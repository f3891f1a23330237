/** Reads through a disk cache that is full, read-only, damaged, deleted under the reader, or was being written when its process was killed; and a clock that jumps. */
import { spawn } from 'node:child_process'
import { hash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtemp, readFile, rm, truncate, unlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest'
import { openDiskCache } from '../../src/cache/disk.ts'
import { LocalEngine } from '../../src/engine/local.ts'
import { type Clock, memoryStore } from '../../src/testing.ts'
import { systemClock } from '../../src/util/clock.ts'
import { entriesIn, entryPath } from '../cache/disk-folder.ts'
import { badSectors } from '../fault/bad-sectors.ts'
import { mountTmpfs } from '../fault/tmpfs.ts'
import type { SmallStore } from '../small-store.ts'
import { type Pushed, pushedStore, Reading } from './read-stores.ts'

const SIZE_BYTES = 2 ** 30
const HOUR_MS = 3_600_000

let store: SmallStore & Pushed
let path: string
const opened: (Disposable | AsyncDisposable)[] = []

beforeAll(async () => {
  store = await pushedStore()
})
afterAll(() => store[Symbol.asyncDispose]())
beforeEach(async () => {
  path = await mkdtemp(join(tmpdir(), 'thaw-read-disk-'))
})
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await (Symbol.asyncDispose in each ? each[Symbol.asyncDispose]() : each[Symbol.dispose]())
  await rm(path, { recursive: true })
})

/** System time, but for jumps ahead. */
function jumpingClock(): { readonly clock: Clock; jump(ms: number): void } {
  let aheadMs = 0
  const jump = (ms: number): void => {
    aheadMs += ms
  }
  return { clock: { ...systemClock, now: () => systemClock.now() + aheadMs }, jump }
}

async function flipBit(file: string): Promise<void> {
  const bytes = await readFile(file)
  bytes[Math.floor(bytes.length / 3)]! ^= 4
  await writeFile(file, bytes)
}

async function open(clock?: Clock): Promise<Reading> {
  const reading = await Reading.open(store.url, store.keyring, store, { disk: { path, sizeBytes: SIZE_BYTES }, clock })
  opened.push(reading)
  return reading
}

it('a disk that is full keeps nothing more, and fills again when there is room', async () => {
  const tmpfs = mountTmpfs(path, 'size=512k')
  opened.push(tmpfs)
  await writeFile(join(path, 'other'), Buffer.alloc(500 * 1024))
  const { clock, jump } = jumpingClock()
  const reading = await open(clock)
  expect(await reading.all()).toBe('right')
  expect((await reading.cache.stats()).disk!.fillsDropped).toBeGreaterThan(0)
  tmpfs.remount('size=64m')
  jump(HOUR_MS)
  await reading.untilServedBy('disk')
})

it('a disk that is read-only serves what it has, and is filled again when it is not', async () => {
  const tmpfs = mountTmpfs(path, 'size=64m')
  opened.push(tmpfs)
  const { clock, jump } = jumpingClock()
  const reading = await open(clock)
  await reading.untilServedBy('disk')
  const [id] = (await entriesIn(path)).keys()
  await unlink(entryPath(path, id!))
  tmpfs.remount('ro')
  for (let round = 0; round < 3; round++) expect(await reading.all()).toBe('right')
  expect((await reading.cache.stats()).disk!.fillsDropped).toBeGreaterThan(0)
  tmpfs.remount('rw')
  jump(HOUR_MS)
  await reading.untilServedBy('disk')
})

it.each<[string, (file: string, sizeBytes: number) => Promise<void>]>([
  ['truncated', (file, sizeBytes) => truncate(file, Math.floor(sizeBytes / 2))],
  ['empty', file => truncate(file, 0)],
  ['overwritten', (file, sizeBytes) => writeFile(file, Buffer.alloc(sizeBytes, 7))],
  ['flipped in one bit', file => flipBit(file)],
])('files that are %s are found out, blamed on the disk and healed', async (_, damage) => {
  const reading = await open()
  await reading.untilServedBy('disk')
  for (const [id, sizeBytes] of await entriesIn(path)) await damage(entryPath(path, id), sizeBytes)
  for (let round = 0; round < 3; round++) expect(await reading.all()).toBe('right')
  const { corrupt, healed } = (await reading.cache.stats()).disk!
  expect([corrupt > 0, healed > 0]).toEqual([true, true])
  await reading.untilServedBy('disk')
})

it('files with bad sectors are read once more, and healed', async () => {
  const reading = await open()
  await reading.untilServedBy('disk')
  const files = [...(await entriesIn(path)).keys()].map(id => entryPath(path, id))
  using bad = badSectors(files)
  for (let round = 0; round < 3; round++) expect(await reading.all()).toBe('right')
  await reading.untilServedBy('disk')
  const { corrupt, healed, fillsDropped } = (await reading.cache.stats()).disk!
  expect(bad.reads).toBe(corrupt)
  expect(corrupt).toBeLessThanOrEqual(files.length)
  expect([healed, fillsDropped]).toEqual([corrupt, 0])
})

it('a copy that cannot be read, or is bad, is not said to be there by whoever gives the disk a good one', async () => {
  const sealed = randomBytes(20_000)
  const id = hash('sha256', sealed)
  await using engine = new LocalEngine({ memoryBytes: 0, caches: [await openDiskCache({ path, sizeBytes: SIZE_BYTES })] })
  await using source = await engine.openStore(memoryStore())
  const found = () => source.withSealed({ id, objectKey: id, sizeBytes: sealed.length }, ({ bytes }) => sealed.equals(bytes))
  expect(await source.prime(id, sealed, ['disk'])).toBe(true)
  await flipBit(entryPath(path, id))
  expect(await source.prime(id, sealed, ['disk'])).toBe(true)
  expect(await found()).toBe(true)
  using bad = badSectors([entryPath(path, id)])
  expect(await source.prime(id, sealed, ['disk'])).toBe(true)
  expect([await found(), bad.reads]).toEqual([true, 1])
})

it('files that are deleted under a reader are misses, and come back', async () => {
  const reading = await open()
  await reading.untilServedBy('disk')
  for (let round = 0; round < 3; round++) {
    const reads = reading.all()
    for (const id of (await entriesIn(path)).keys()) await unlink(entryPath(path, id)).catch(() => undefined)
    expect(await reads).toBe('right')
  }
  const { corrupt, errors } = (await reading.cache.stats()).disk!
  expect([corrupt, errors]).toEqual([0, 0])
  await reading.untilServedBy('disk')
})

it('a process that was killed while it filled leaves nothing that harms the next', async () => {
  for (let turn = 0; turn < 3; turn++) {
    const script = join(import.meta.dirname, '../fault/read-child.ts')
    const child = spawn(process.execPath, [script, store.url, join(store.dir, 'keys'), store.id, path], {
      stdio: ['ignore', 'pipe', 'inherit'],
    })
    const exited = once(child, 'exit')
    for (let line = 0; line <= turn; line++) await once(child.stdout, 'data')
    child.kill('SIGKILL')
    await exited
    await using reading = await Reading.open(store.url, store.keyring, store, { disk: { path, sizeBytes: SIZE_BYTES } })
    expect(await reading.all()).toBe('right')
    expect((await reading.cache.stats()).disk!.corrupt).toBe(0)
    await reading.untilServedBy('disk')
    if (turn < 2) await reading.cache.clear()
  }
})

it('a clock that jumps by hours, while chunks are on their way and between, fails no read', async () => {
  const { clock, jump } = jumpingClock()
  const reading = await open(clock)
  for (let round = 0; round < 4; round++) {
    const reads = reading.all()
    jump(5 * HOUR_MS)
    expect(await reads).toBe('right')
  }
  await reading.untilServedBy('disk')
})
