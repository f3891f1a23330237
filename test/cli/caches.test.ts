/** Caches on the command line, by real processes over a directory store with a disk cache. */
import { readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { errorLine, Workplace } from './program.ts'

const CHUNKS = 4
const DISK = ['--cache-dir', 'cache'] as const

let place: Workplace
let image: Buffer
let id: string
/** Sealed bytes of all chunks. */
let sealedBytes: number

beforeAll(async () => {
  place = await Workplace.create()
  await place.mustRun('init')
  image = await place.writeImage('a.img', CHUNKS)
  id = await place.mustRun('push', '--layer', 'os', '--tag', 'a', 'memory=a.img')
  sealedBytes = Number((await place.document('verify', id)).bytes)
})

beforeEach(async () => {
  await rm(place.path('cache'), { recursive: true, force: true })
})

afterAll(() => place[Symbol.asyncDispose]())

const tiersOf = async (...args: readonly string[]) => (await place.document('cache', 'ls', ...args)).tiers

describe('pull through a disk cache', () => {
  it('says from where its bytes came, and brings the image back', async () => {
    expect(await place.document('pull', 'a', 'out', ...DISK)).toMatchObject({ servedBytes: { disk: 0, l2: 0, origin: sealedBytes } })
    expect(await place.document('pull', 'a', 'out', ...DISK)).toMatchObject({ servedBytes: { disk: sealedBytes, l2: 0, origin: 0 } })
    expect(await readFile(place.path('out/memory'))).toEqual(image)
    const { stderr } = await place.run('pull', 'a', 'out', ...DISK, '--verbose')
    expect(stderr).toContain('from disk')
  })

  it('takes the flag after and before the command', async () => {
    await place.mustRun(...DISK, 'pull', 'a', 'out')
    expect(await place.document(...DISK, 'pull', 'a', 'out')).toMatchObject({ servedBytes: { disk: sealedBytes } })
  })

  it('does without one that cannot be opened, and says so', async () => {
    await writeFile(place.path('a-file'), '')
    const withoutCache = await place.run('pull', 'a', 'out', '--cache-dir', 'a-file/cache')
    expect(withoutCache.code).toBe(0)
    expect(errorLine(withoutCache)).toMatch(/^thaw: warning: /)
    expect(await tiersOf('--cache-dir', 'a-file/cache')).toMatchObject([{ tier: 'disk', state: 'down', remark: expect.any(String) }])
  })
})

describe('verify through a disk cache', () => {
  it('reads what the store has', async () => {
    await using spoiled = await Workplace.create()
    await spoiled.mustRun('init')
    await spoiled.writeImage('x.img', 1)
    const ref = await spoiled.mustRun('push', '--layer', 'os', 'x=x.img')
    await spoiled.mustRun('cache', 'warm', ref, ...DISK)
    const names = await readdir(spoiled.path('thaw-store'), { recursive: true })
    const chunk = join('thaw-store', names.find(name => /\/chunks\/.*[0-9a-f]{64}$/.test(name))!)
    const bytes = await readFile(spoiled.path(chunk))
    bytes[0]! ^= 1
    await writeFile(spoiled.path(chunk), bytes)
    expect((await spoiled.run('verify', ref, ...DISK)).code).toBe(1)
  })
})

describe('cache ls', () => {
  it('shows each tier, for people and as JSON', async () => {
    expect(await tiersOf(...DISK, '--cache-disk', '1G')).toMatchObject([
      { tier: 'disk', name: place.path('cache'), state: 'up', entries: 0, bytes: 0, bytesMax: 2 ** 30, remark: null },
    ])
    const [titles, row] = (await place.mustRun('cache', 'ls', ...DISK)).split('\n')
    expect(titles).toMatch(/^TIER +STATE/)
    expect(row).toMatch(/^disk +up +0 +0 B +10 GiB/)
  })

  it('makes no folder, and deletes nothing, whatever size it is given', async () => {
    await tiersOf(...DISK)
    expect(await readdir(place.path('.'))).not.toContain('cache')
    await place.mustRun('cache', 'warm', 'a', ...DISK)
    for (const size of ['4K', '1T']) {
      expect(await tiersOf(...DISK, '--cache-disk', size)).toMatchObject([{ entries: CHUNKS + 1, bytesMax: 10 * 2 ** 30 }])
    }
  })

  it('is empty where no cache is set, and says how to set one', async () => {
    const { code, stdout, stderr } = await place.run('cache', 'ls')
    expect({ code, stdout }).toEqual({ code: 0, stdout: '' })
    expect(stderr).toContain('--cache-dir')
  })

  it('goes on where L2 is down', async () => {
    expect(await tiersOf(...DISK, '--l2', 'redis://user:s3cret@127.0.0.1:1')).toMatchObject([
      { tier: 'disk', state: 'up' },
      { tier: 'l2', name: '127.0.0.1:1', state: 'down', remark: expect.not.stringContaining('s3cret') },
    ])
  })
})

describe('the bound of a folder', () => {
  it('is raised by a size, and lowered by cache resize alone', async () => {
    await place.mustRun('cache', 'warm', 'a', ...DISK, '--cache-disk', '1G')
    await place.mustRun('pull', 'a', 'out', ...DISK)
    await place.mustRun('pull', 'a', 'out', ...DISK, '--cache-disk', '4K')
    expect(await tiersOf(...DISK)).toMatchObject([{ entries: CHUNKS + 1, bytesMax: 2 ** 30 }])
    await place.mustRun('pull', 'a', 'out', ...DISK, '--cache-disk', '2G')
    expect(await tiersOf(...DISK)).toMatchObject([{ bytesMax: 2 * 2 ** 30 }])
    expect(await place.document('cache', 'resize', '4K', ...DISK)).toMatchObject({ entries: 0, bytes: 0, bytesMax: 4096 })
    expect(await tiersOf(...DISK)).toMatchObject([{ entries: 0, bytesMax: 4096 }])
  })

  it.each([[['4Q', ...DISK]], [['0', ...DISK]], [['1G']]])('is not set by cache resize %j', async args => {
    expect((await place.run('cache', 'resize', ...args)).code).toBe(2)
  })
})

describe('cache warm and cache clear', () => {
  it('fill and empty', async () => {
    const warmed = await place.document('cache', 'warm', 'a', ...DISK)
    expect(warmed).toMatchObject({
      schema: 1,
      id,
      tiers: ['disk'],
      chunks: CHUNKS,
      bytes: sealedBytes,
      primed: CHUNKS + 1,
      primeFailures: 0,
    })
    expect(await tiersOf(...DISK)).toMatchObject([{ entries: CHUNKS + 1 }])
    expect(await place.document('pull', 'a', 'out', ...DISK)).toMatchObject({ servedBytes: { origin: 0 } })
    expect(await place.document('cache', 'clear', '--tier', 'disk', ...DISK)).toMatchObject({
      cleared: [{ tier: 'disk', entries: CHUNKS + 1 }],
    })
    expect(await tiersOf(...DISK)).toMatchObject([{ entries: 0 }])
  })

  it('say where a snapshot is larger than a cache may be', async () => {
    await place.mustRun('cache', 'resize', `${sealedBytes - 1}`, ...DISK)
    expect((await place.run('cache', 'warm', 'a', ...DISK)).stderr).toContain('a part of it is not there')
    await place.mustRun('cache', 'resize', '1G', ...DISK)
    expect((await place.run('cache', 'warm', 'a', ...DISK)).stderr).toBe('')
  })

  it('need no key for an id', async () => {
    expect((await place.run('cache', 'warm', id, '--no-keyring', ...DISK)).code).toBe(0)
  })

  it('fail where nothing is kept', async () => {
    const down = await place.run('cache', 'warm', id, '--l2', 'redis://127.0.0.1:1', '--json')
    expect(down).toMatchObject({ code: 1, stdout: '' })
    expect(JSON.parse(errorLine(down)).error).toMatchObject({ code: 'UNAVAILABLE', object: id })
  })
})

describe('wrong usage', () => {
  it.each<readonly [readonly string[]]>([
    [['cache', 'warm', 'a']],
    [['cache', 'clear']],
    [['cache', 'clear', '--tier', 'l2', ...DISK]],
    [['cache', 'warm', 'a', '--tier', 'l2', ...DISK]],
    [['cache', 'warm', 'a', '--tier', 'memory', ...DISK]],
    [['cache', 'warm', ...DISK]],
    [['push', '--layer', 'os', '--prime', ...DISK, 'memory=a.img']],
    [['pull', 'a', 'out', '--cache-disk', 'huge', ...DISK]],
    [['pull', 'a', 'out', '--l2', 'redis://a', '--l2', 'redis://b']],
    [['pull', 'a', 'out', '--l2', 'redis://a', '--l2-mode', 'ring']],
    [['pull', 'a', 'out', '--l2', 'redis://a', '--l2-erasure']],
    [['pull', 'a', 'out', '--l2', 'redis://user:s3cret@a/x']],
    [['stats', 'surplus']],
  ])('thaw %j', async args => {
    const wrong = await place.run('--json', ...args)
    expect(wrong).toMatchObject({ code: 2, stdout: '' })
    expect(JSON.parse(errorLine(wrong)).error.code).toBe('USAGE')
    expect(wrong.stderr).not.toContain('s3cret')
  })
})

describe('help', () => {
  it('has the options of caches in a group of their own', async () => {
    const [, group = ''] = (await place.mustRun('--help')).split('\nCaches:\n')
    const [options = ''] = group.split('\n\n')
    for (const option of ['--cache-dir', '--cache-disk', '--cache-memory', '--l2 ', '--metrics', '--state-dir'])
      expect(options).toContain(option)
    expect(options).not.toContain('--version')
  })

  it('has examples for each command', async () => {
    for (const args of [['stats'], ['cache', 'ls'], ['cache', 'clear'], ['cache', 'warm']])
      expect(await place.mustRun(...args, '--help')).toContain('$ thaw')
  })

  it('is completed', async () => {
    const words = (await place.mustRun('complete', '--', 'cache', '')).split('\n').map(line => line.split('\t')[0])
    expect(words).toEqual(expect.arrayContaining(['ls', 'clear', 'warm']))
  })
})
