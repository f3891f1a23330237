/**
 * A disk cache in whose folder something else lies than it put there, or nothing any more: it is looked
 * after all the same, filled beyond a guest's share, within its bound, and its owner lets go of it.
 */
import { execFileSync } from 'node:child_process'
import { hash } from 'node:crypto'
import fs from 'node:fs'
import { chown, mkdir, mkdtemp, readdir, rename, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { openDiskCache, resizeDiskCache } from '../../src/cache/disk.ts'
import type { SealedCache } from '../../src/cache.ts'
import { bytesIn, entriesIn, entryPath, TurnClock } from '../cache/disk-folder.ts'
import { badSectors } from './bad-sectors.ts'
import { mountTmpfs } from './tmpfs.ts'

const BLOCK = 4096
const BLOCKS_MAX = 32
const USER = 1000

let folder: string
let path: string
let clock: TurnClock
let opened: SealedCache[]

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'thaw-disk-folder-'))
  path = join(folder, 'cache')
  clock = new TurnClock()
  opened = []
})
afterEach(async () => {
  for (const cache of opened) await cache.close()
  await rm(folder, { recursive: true, force: true })
})

async function open(): Promise<SealedCache> {
  const cache = await clock.opened(openDiskCache({ path, sizeBytes: BLOCKS_MAX * BLOCK, clock }))
  opened.push(cache)
  return cache
}

/** All begin with these digits, so that they lie in one folder. */
const idIn = (digits: string, number: number): string => digits + hash('sha256', `${number}`).slice(digits.length)

/** How many of so many entries of a block are kept. */
async function fill(cache: SealedCache, count: number, digits = ''): Promise<number> {
  let kept = 0
  for (let number = 0; number < count; number++) if (await cache.put(idIn(digits, number), Buffer.alloc(BLOCK, number))) kept++
  return kept
}

async function expectWhole(cache: SealedCache): Promise<void> {
  await clock.turn()
  expect(await fill(cache, BLOCKS_MAX + 10)).toBe(BLOCKS_MAX + 10)
  expect(await fill(cache, 3, '7d')).toBe(3)
  await clock.turn()
  expect(await cache.describe()).toMatchObject({
    entries: BLOCKS_MAX,
    bytes: BLOCKS_MAX * BLOCK,
    remark: undefined,
    details: { role: 'owner', fill: 'on' },
  })
  expect(await bytesIn(path)).toBe(BLOCKS_MAX * BLOCK)
}

const KINDS: Readonly<Record<string, (file: string) => Promise<void>>> = {
  'a file': file => writeFile(file, 'x'),
  'a folder with something in it': async file => void (await mkdir(join(file, 'a', 'b'), { recursive: true })),
  'a pipe': async file => void execFileSync('mkfifo', [file]),
  'a link to a folder': async file => symlink(await mkdtemp(join(folder, 'elsewhere-')), file),
  'a link to nothing': file => symlink(join(folder, 'nothing'), file),
}

describe.each(Object.entries(KINDS))('%s', (_, make) => {
  it.each(['index', 'bound', 'owner', 'tmp', '7d'])('in place of %s', async name => {
    const before = await open()
    await fill(before, 5)
    await before.close()
    await rm(join(path, 'v1', name), { recursive: true, force: true })
    await make(join(path, 'v1', name))
    await expectWhole(await open())
    for (const elsewhere of await readdir(folder)) {
      if (elsewhere.startsWith('elsewhere-')) expect(await readdir(join(folder, elsewhere))).toEqual([])
    }
  })
})

describe('a folder', () => {
  it.each(['', 'v1'])('that was removed is made anew, by the owner and by what is put: %j', async name => {
    const cache = await open()
    await fill(cache, 5)
    await rm(join(path, name), { recursive: true })
    await clock.advance(2000)
    expect(await fill(cache, 1)).toBe(1)
    await rm(join(path, name), { recursive: true })
    await clock.turn()
    await expectWhole(cache)
  })

  it('that was moved away belongs to whoever opens it there, once its owner has looked', async () => {
    const cache = await open()
    await fill(cache, 5)
    await rename(path, join(folder, 'moved'))
    await clock.turn()
    const moved = await clock.opened(openDiskCache({ path: join(folder, 'moved'), clock }))
    opened.push(moved)
    expect(await moved.describe()).toMatchObject({ entries: 5, details: { role: 'owner' } })
    await expectWhole(cache)
  })

  it('that became read-only is let go of', async () => {
    await mkdir(path)
    using mounted = mountTmpfs(path, 'size=16m')
    const cache = await open()
    await fill(cache, 5)
    mounted.remount('ro')
    await cache.close()
    mounted.remount('rw')
    await expectWhole(await open())
    for (const each of opened) await each.close()
  })

  it('of entries that cannot be read is moved aside', async () => {
    const before = await open()
    await fill(before, 5, '7d')
    await before.close()
    const bad = fs.statSync(join(path, 'v1', '7d')).ino
    const real = fs.readdir
    const reading = vi.spyOn(fs, 'readdir').mockImplementation(((name: string, ...rest: unknown[]) => {
      if (fs.statSync(name, { throwIfNoEntry: false })?.ino !== bad) return Reflect.apply(real, fs, [name, ...rest])
      setImmediate(rest.at(-1) as (error: Error) => void, Object.assign(new Error('EIO'), { code: 'EIO' }))
    }) as typeof fs.readdir)
    try {
      await expectWhole(await open())
    } finally {
      reading.mockRestore()
    }
  })
})

it('nothing of root is left in the way of the user whose folder it is', async () => {
  await mkdir(path)
  for (const each of [folder, path]) await chown(each, USER, USER)
  const asUser = async (): Promise<SealedCache> => {
    process.seteuid!(USER)
    return await open()
  }
  try {
    const before = await asUser()
    expect(await fill(before, 20)).toBe(20)
    await before.close()
    process.seteuid!(0)
    const root = await open()
    expect(await fill(root, 21)).toBe(20)
    expect((await root.describe()).remark).toContain(`${USER}`)
    await root.close()
    await expect(resizeDiskCache({ path, sizeBytes: BLOCK })).rejects.toMatchObject({ code: 'DENIED', tier: 'disk' })
    await writeFile(join(path, 'v1', 'owner'), 'of a process of root that was killed', { mode: 0o600 })
    const after = await asUser()
    await expectWhole(after)
    await after.close()
  } finally {
    process.seteuid!(0)
  }
})

it('an index with a bad sector costs a look at the files', async () => {
  const before = await open()
  await fill(before, 5)
  await before.close()
  using _ = badSectors([join(path, 'v1', 'index')])
  await expectWhole(await open())
})

it('an entry that cannot be removed keeps no other, and does not end the filling', async () => {
  const cache = await open()
  await fill(cache, 20)
  const file = entryPath(path, idIn('', 7))
  execFileSync('mount', ['--bind', file, file])
  try {
    await expect(cache.clear()).rejects.toMatchObject({ code: 'UNAVAILABLE', tier: 'disk' })
    expect([...(await entriesIn(path)).keys()]).toEqual([idIn('', 7)])
    await clock.turn()
    for (let round = 0; round < 3; round++) expect(await fill(cache, BLOCKS_MAX, `${round}`)).toBe(BLOCKS_MAX)
    expect(await bytesIn(path)).toBe(BLOCKS_MAX * BLOCK)
  } finally {
    execFileSync('umount', [file])
  }
})
