/** The disk cache: what it keeps, in what order it forgets, and who looks after the folder. Faults of the disk: test/fault/disk-cache.test.ts. */
import { hash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, unlink, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type DiskCacheOptions, diskCacheBound, openDiskCache, resizeDiskCache } from '../../src/cache/disk.ts'
import type { SealedCache } from '../../src/cache.ts'
import { type LockFile, tryLockFile } from '../../src/util/lock-file.ts'
import { sealedCacheContract } from '../contract/sealed-cache.ts'
import { bytesIn, entriesIn, entryPath, eventually, roleOf, TurnClock } from './disk-folder.ts'

const BLOCK = 4096

let path: string
let clock: TurnClock
let opened: SealedCache[]

beforeEach(async () => {
  path = await mkdtemp(join(tmpdir(), 'thaw-disk-cache-'))
  clock = new TurnClock()
  opened = []
})
afterEach(async () => {
  for (const cache of opened) await cache.close()
  await rm(path, { recursive: true, force: true })
})

async function open(options: Partial<DiskCacheOptions> = {}): Promise<SealedCache> {
  const cache = await clock.opened(openDiskCache({ path, sizeBytes: 64 * BLOCK, clock, ...options }))
  opened.push(cache)
  return cache
}

const idOf = (number: number): string => hash('sha256', `${number}`)
const get = (cache: SealedCache, id: string) => cache.get(id, sizeBytes => Buffer.alloc(sizeBytes))

/** Keeps entries of a block each. */
async function fill(cache: SealedCache, ids: Iterable<number>): Promise<void> {
  for (const id of ids) expect(await cache.put(idOf(id), Buffer.alloc(BLOCK, id))).toBe(true)
}

async function kept(): Promise<Set<string>> {
  return new Set((await entriesIn(path)).keys())
}

/** Keeps entries of a block one after the other, as far as a guest may; how many that are of 20. */
async function fillAsGuest(guest: SealedCache, from: number): Promise<number> {
  let filled = 0
  for (const id of range(from, from + 20)) if (await guest.put(idOf(id), Buffer.alloc(BLOCK))) filled++
  return filled
}

/** Another that owns the folder, and says that it took so many turns and holds so many bytes. */
async function ownerElsewhere(turns: number, bytes: number): Promise<LockFile> {
  await mkdir(join(path, 'v1'), { recursive: true })
  const lock = (await tryLockFile(join(path, 'v1', 'owner')))!
  lock.write(`1 ${turns} ${bytes}\n`)
  return lock
}

const range = (from: number, to: number): number[] => Array.from({ length: to - from }, (_, index) => from + index)

sealedCacheContract('a disk cache', () => open({ sizeBytes: 64 * 2 ** 20 }))
sealedCacheContract('a guest of a disk cache', async () => {
  await open({ sizeBytes: 1024 * 2 ** 20 })
  return open({ sizeBytes: 1024 * 2 ** 20 })
})

describe('files', () => {
  it('hold the sealed bytes, for this user alone', async () => {
    const cache = await open()
    const sealed = randomBytes(5000)
    await cache.put(idOf(1), sealed)
    expect((await readFile(entryPath(path, idOf(1)))).equals(sealed)).toBe(true)
    expect((await stat(entryPath(path, idOf(1)))).mode & 0o777).toBe(0o600)
    for (const folder of ['v1', 'v1/tmp', `v1/${idOf(1).slice(0, 2)}`]) expect((await stat(join(path, folder))).mode & 0o777).toBe(0o700)
  })

  it('are made in folders that are not there yet', async () => {
    const cache = await open({ path: join(path, 'a', 'b') })
    await fill(cache, [1])
    expect(await bytesIn(join(path, 'a', 'b'))).toBe(BLOCK)
  })

  it('are made anew when somebody removed the folder', async () => {
    const cache = await open()
    await fill(cache, [1])
    await rm(join(path, 'v1'), { recursive: true })
    expect(await get(cache, idOf(1))).toBeUndefined()
    await fill(cache, [1, 2])
    expect((await kept()).size).toBe(2)
  })

  it('of others are left alone', async () => {
    await mkdir(join(path, 'v1', 'aa'), { recursive: true })
    const others = ['other', 'v1/other', 'v1/aa/other', `v1/aa/${'b'.repeat(64)}`, 'v1/tmp/other', `v1/tmp/${process.pid}.0123456789ab.7`]
    await mkdir(join(path, 'v1', 'tmp'))
    for (const name of others) await writeFile(join(path, name), 'x')
    const cache = await open()
    await fill(cache, range(0, 100))
    expect(await cache.clear()).toBe(64)
    await cache.close()
    for (const name of others) expect(await readFile(join(path, name), 'utf8')).toBe('x')
  })
})

describe('the bound', () => {
  it('is kept by forgetting what was used longest ago', async () => {
    const cache = await open()
    await fill(cache, range(0, 64))
    await get(cache, idOf(0))
    await fill(cache, [1])
    await fill(cache, range(64, 74))
    const expected = [0, 1, ...range(12, 74)].map(idOf)
    expect(await kept()).toEqual(new Set(expected))
    expect(await cache.describe()).toMatchObject({ entries: 64, bytes: 64 * BLOCK, bytesMax: 64 * BLOCK })
  })

  it('counts what files take from the disk', async () => {
    const cache = await open()
    await cache.put(idOf(1), randomBytes(1))
    await cache.put(idOf(2), randomBytes(BLOCK + 1))
    expect(await cache.describe()).toMatchObject({ entries: 2, bytes: 3 * BLOCK })
  })

  it('refuses what is larger than an eighth of it', async () => {
    const cache = await open()
    expect(await cache.put(idOf(1), randomBytes(8 * BLOCK))).toBe(true)
    expect(await cache.put(idOf(2), randomBytes(8 * BLOCK + 1))).toBe(false)
  })

  it('is kept by what is put at once', async () => {
    const cache = await open()
    await fill(cache, range(0, 64))
    const puts = await Promise.all(range(100, 148).map(id => cache.put(idOf(id), Buffer.alloc(BLOCK))))
    expect(puts).not.toContain(false)
    expect(await bytesIn(path)).toBe(64 * BLOCK)
  })

  it('is there for what is put before the folder was looked at, too', async () => {
    const cache = await openDiskCache({ path, sizeBytes: 64 * BLOCK, clock })
    opened.push(cache)
    await fill(cache, range(0, 70))
    expect(await bytesIn(path)).toBe(64 * BLOCK)
  })

  it('refuses what there is no room for beside what is being written', async () => {
    const cache = await open({ sizeBytes: 2 ** 30 })
    const puts = await Promise.all(range(0, 100).map(id => cache.put(idOf(id), Buffer.alloc(10))))
    expect(puts.filter(Boolean)).toHaveLength(64)
    const large = await Promise.all(range(200, 203).map(id => cache.put(idOf(id), Buffer.alloc(16 * 2 ** 20))))
    expect(large).toEqual([true, true, false])
  })

  it.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])('cannot be %d', async sizeBytes => {
    await expect(open({ sizeBytes })).rejects.toThrow(RangeError)
  })
})

describe('a restart', () => {
  it('keeps entries and their order', async () => {
    const before = await open()
    await fill(before, range(0, 64))
    await get(before, idOf(0))
    await before.close()
    const after = await open()
    expect(await after.describe()).toMatchObject({ entries: 64, bytes: 64 * BLOCK })
    await fill(after, [64])
    expect((await kept()).has(idOf(0))).toBe(true)
    expect((await kept()).has(idOf(1))).toBe(false)
  })

  it('without an index orders by when files were written', async () => {
    const before = await open()
    await fill(before, range(0, 64))
    await before.close()
    await rm(join(path, 'v1', 'index'))
    // From ten seconds to ten days.
    for (const id of range(0, 64)) await utimes(entryPath(path, idOf(id)), 0, Date.now() / 1000 - 10 * 1.2 ** id)
    await fill(await open(), range(64, 74))
    expect(await kept()).toEqual(new Set([...range(0, 54), ...range(64, 74)].map(idOf)))
  })

  it.each<[string, (index: Buffer) => Buffer]>([
    ['empty', () => Buffer.alloc(0)],
    ['of another kind', () => Buffer.from('not an index at all, but long enough to look like one, perhaps')],
    ['torn', index => index.subarray(0, index.length - 5)],
    ['flipped', index => index.fill(0xff, 50, 51)],
    ['with an absurd count', index => index.fill(0xff, 8, 12)],
  ])('rebuilds an index that is %s', async (_, spoil) => {
    const before = await open()
    await fill(before, range(0, 20))
    await before.close()
    const index = join(path, 'v1', 'index')
    await writeFile(index, spoil(await readFile(index)))
    const after = await open()
    expect(await after.describe()).toMatchObject({ entries: 20, bytes: 20 * BLOCK })
    expect(await get(after, idOf(7))).toEqual(Buffer.alloc(BLOCK, 7))
  })

  it('learns what came and went since the index was written', async () => {
    const before = await open()
    await fill(before, range(0, 20))
    await before.close()
    await rm(entryPath(path, idOf(3)))
    await mkdir(dirname(entryPath(path, idOf(30))), { recursive: true })
    await writeFile(entryPath(path, idOf(30)), Buffer.alloc(BLOCK + 1))
    expect(await (await open()).describe()).toMatchObject({ entries: 20, bytes: 21 * BLOCK })
  })
})

describe('a shared folder', () => {
  it('has one owner; the others read and fill', async () => {
    const [owner, guest] = [await open(), await open()]
    expect([await roleOf(owner), await roleOf(guest)]).toEqual(['owner', 'guest'])
    expect((await guest.describe()).details.ownerPid).toBe(process.pid)
    await fill(owner, [1])
    await fill(guest, [2])
    for (const [cache, id] of [
      [owner, 2],
      [guest, 1],
    ] as const)
      expect(await get(cache, idOf(id))).toEqual(Buffer.alloc(BLOCK, id))
    expect(await guest.describe()).toMatchObject({ entries: 2, bytes: 2 * BLOCK })
  })

  it('holds its bound once the owner has looked, whatever guests filled', async () => {
    const [owner, ...guests] = [await open(), await open(), await open()]
    await fill(owner, range(0, 64))
    for (const [index, guest] of guests.entries()) expect(await fillAsGuest(guest, 100 * (index + 1))).toBe(8)
    expect(await bytesIn(path)).toBe(80 * BLOCK)
    await clock.turn()
    expect(await bytesIn(path)).toBe(64 * BLOCK)
    expect(await owner.describe()).toMatchObject({ entries: 64 })
    expect((await kept()).has(idOf(100))).toBe(true)
    await clock.turn()
    expect(await fillAsGuest(guests[0]!, 900)).toBe(8)
  })

  it('goes to a guest when the owner leaves, with the order', async () => {
    const [owner, guest] = [await open(), await open()]
    await fill(owner, range(0, 64))
    await get(owner, idOf(0))
    await owner.close()
    await clock.turn()
    expect(await roleOf(guest)).toBe('owner')
    await fill(guest, [64])
    expect((await kept()).has(idOf(0))).toBe(true)
    expect((await kept()).size).toBe(64)
  })

  it('is not filled without end while its owner is stopped', async () => {
    using _ = await ownerElsewhere(1, 0)
    const guest = await open()
    expect(await roleOf(guest)).toBe('guest')
    expect(await fillAsGuest(guest, 0)).toBe(8)
    for (const turn of range(1, 5)) {
      await clock.turn()
      expect(await fillAsGuest(guest, 100 * turn)).toBe(0)
    }
  })

  it('is filled when the owner gives leave, and not while it holds far too much', async () => {
    using owner = await ownerElsewhere(1, 72 * BLOCK + 1)
    const guest = await open({ sizeBytes: 64 * BLOCK })
    await clock.turn()
    expect(await fillAsGuest(guest, 0)).toBe(0)
    for (const [turn, bytes, filled] of [
      [2, 72 * BLOCK, 8],
      [3, 0, 8],
      [4, 80 * BLOCK, 0],
      [0, 0, 0],
      [5, 0, 8],
    ] as const) {
      owner.write(`1 ${turn} ${bytes}\n`)
      await clock.turn()
      expect(await fillAsGuest(guest, 100 * (1 + turn))).toBe(filled)
    }
  })

  it.each([
    ['of a version that judged who is dead', '0123456789abcdef\n1\nanother-host pid:[1]\n'],
    ['that a power cut tore', ''],
  ])('is looked after at once where nobody holds the lock %s', async (_, text) => {
    await mkdir(join(path, 'v1'))
    await writeFile(join(path, 'v1', 'owner'), text)
    expect(await roleOf(await open())).toBe('owner')
  })

  it('is given up by an owner whose lock was removed, and taken again when it is free', async () => {
    const cache = await open()
    await unlink(join(path, 'v1', 'owner'))
    const other = await ownerElsewhere(1, 0)
    await clock.turn()
    expect(await roleOf(cache)).toBe('guest')
    other.release()
    await clock.turn()
    expect(await roleOf(cache)).toBe('owner')
  })
})

describe('the bound of a folder', () => {
  const boundOf = async (cache: SealedCache) => (await cache.describe()).bytesMax

  it('stays when it is opened with a smaller one, or none', async () => {
    const before = await open()
    await fill(before, range(0, 64))
    await before.close()
    for (const sizeBytes of [10 * BLOCK, undefined]) {
      const after = await open({ sizeBytes })
      expect(await boundOf(after)).toBe(64 * BLOCK)
      await clock.turn()
      await fill(after, [1])
      await after.close()
    }
    expect((await kept()).size).toBe(64)
  })

  it('is raised by whoever asks for more, for all who have it open', async () => {
    const [owner, guest] = [await open(), await open({ sizeBytes: 100 * BLOCK })]
    await clock.turn()
    await fill(owner, range(0, 100))
    expect((await kept()).size).toBe(100)
    expect(await boundOf(guest)).toBe(100 * BLOCK)
  })

  it('is the larger one of two who open a new folder at once', async () => {
    opened = await Promise.all([10, 90, 50].map(blocks => openDiskCache({ path, sizeBytes: blocks * BLOCK, clock })))
    await eventually(async () => {
      await clock.turn()
      return (await diskCacheBound(path)) === 90 * BLOCK
    })
  })

  it.each([
    ['is not there', ''],
    ['was torn', '12'],
    ['cannot be', `${'9'.repeat(17)}\n`],
  ])('that %s is no less than the folder holds', async (_, text) => {
    const before = await open()
    await fill(before, range(0, 64))
    await before.close()
    await writeFile(join(path, 'v1', 'bound'), text)
    const after = await open({ sizeBytes: 10 * BLOCK })
    expect(await boundOf(after)).toBe(64 * BLOCK)
    expect((await kept()).size).toBe(64)
  })

  it('is lowered on purpose, and what was used longest ago goes', async () => {
    await (await open()).close()
    const cache = await open()
    await fill(cache, range(0, 64))
    await cache.close()
    expect(await resizeDiskCache({ path, sizeBytes: 10 * BLOCK })).toMatchObject({ entries: 10, bytesMax: 10 * BLOCK })
    expect(await kept()).toEqual(new Set(range(54, 64).map(idOf)))
    expect(await boundOf(await open({ sizeBytes: undefined }))).toBe(10 * BLOCK)
  })

  it('is lowered under an owner too, which does not raise it again', async () => {
    const owner = await open()
    await fill(owner, range(0, 64))
    await resizeDiskCache({ path, sizeBytes: 10 * BLOCK })
    await clock.turn()
    expect((await kept()).size).toBe(10)
    expect(await boundOf(owner)).toBe(10 * BLOCK)
  })

  it.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY])('cannot be %d', async sizeBytes => {
    await expect(resizeDiskCache({ path, sizeBytes })).rejects.toThrow(RangeError)
  })
})

describe('who only looks', () => {
  it('makes no folder, and finds nothing', async () => {
    const cache = await open({ path: join(path, 'none'), observe: true })
    expect(await cache.describe()).toMatchObject({ state: 'up', entries: 0, bytes: 0, details: { role: 'observer', fill: 'off' } })
    expect(await get(cache, idOf(1))).toBeUndefined()
    expect(await cache.put(idOf(1), Buffer.alloc(1))).toBe(false)
    expect(await cache.clear()).toBe(0)
    await cache.close()
    expect(await readdir(path)).toEqual([])
  })

  it('changes nothing in a folder that nobody owns, and tells its bound', async () => {
    const before = await open()
    await fill(before, range(0, 64))
    await before.close()
    const files = async () => (await readdir(path, { recursive: true })).sort()
    const there = await files()
    const cache = await open({ sizeBytes: BLOCK, observe: true })
    expect(await cache.describe()).toMatchObject({ entries: 64, bytes: 64 * BLOCK, bytesMax: 64 * BLOCK })
    expect(await get(cache, idOf(7))).toEqual(Buffer.alloc(BLOCK, 7))
    await cache.close()
    expect(await files()).toEqual(there)
  })

  it('may clear what another owns', async () => {
    const owner = await open()
    await fill(owner, range(0, 64))
    const cache = await open({ observe: true })
    expect((await cache.describe()).details).toMatchObject({ role: 'observer', ownerPid: process.pid })
    expect(await cache.clear()).toBe(64)
    await clock.turn()
    expect(await owner.describe()).toMatchObject({ entries: 0, bytes: 0 })
    await fill(owner, range(0, 64))
  })
})

it('writes the order now and then, so that a crash does not forget it', async () => {
  const cache = await open()
  await fill(cache, range(0, 10))
  for (let turn = 0; turn < 20; turn++) await clock.turn()
  expect((await stat(join(path, 'v1', 'index'))).isFile()).toBe(true)
})

it('leaves nothing behind but entries, the index and the bound', async () => {
  const cache = await open()
  await cache.close()
  await clock.run()
  expect((await readdir(join(path, 'v1'))).sort()).toEqual(['bound', 'index', 'tmp'])
})
