import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { type CacheSettings, readCacheSettings } from '../../src/cli/cache-settings.ts'
import { UsageError } from '../../src/cli/exit.ts'
import type { CacheFlags } from '../../src/cli/flags.ts'
import { parseSize } from '../../src/cli/size.ts'

const GIB = 2 ** 30
const ONE = 'redis://cache:6379'
const TWO = 'rediss://user:s3cret@cache-2:6380'

let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'thaw-cache-settings-'))
})

afterEach(() => {
  rmSync(folder, { recursive: true })
})

const configure = (members: object, name = 'thaw.json') => writeFileSync(join(folder, name), JSON.stringify(members))

const read = (flags: CacheFlags & { config?: string } = {}, environment: Record<string, string> = {}) =>
  readCacheSettings(flags, { environment, folder })

/** What is said when it is refused. */
function refusal(...given: Parameters<typeof read>): string {
  try {
    read(...given)
  } catch (error) {
    if (error instanceof UsageError) return error.message
    throw error
  }
  throw new Error('nothing was refused')
}

describe('sizes', () => {
  it.each([
    ['512M', 512 * 2 ** 20],
    ['512MiB', 512 * 2 ** 20],
    ['536870912', 512 * 2 ** 20],
    ['536870912B', 512 * 2 ** 20],
    ['4k', 4096],
    ['1.5G', 1.5 * GIB],
    ['2T', 2 * 2 ** 40],
    ['0', 0],
  ])('%s is %d bytes', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes)
  })

  it.each(['', 'M', '-1', '1e3', '1 G', '1GB', '1.G', '0x10', 'none', '99999999T'])('%j is none', text => {
    expect(parseSize(text)).toBeUndefined()
  })
})

describe('cache settings', () => {
  it('are memory alone unless more is said', () => {
    const nothing = { disk: undefined, l2: undefined, metrics: undefined, stateDir: undefined }
    expect(read()).toEqual({ memoryBytes: undefined, ...nothing })
    expect(read({}, { THAW_CACHE_DIR: '', THAW_L2: '' })).toMatchObject(nothing)
  })

  it('come from flags, then the environment, then the config, each alone', () => {
    configure({ cacheDir: 'c', cacheDisk: '3G', cacheMemory: 4096, metrics: ':1' })
    expect(read()).toMatchObject({ disk: { path: join(folder, 'c'), sizeBytes: 3 * GIB }, memoryBytes: 4096, metrics: { port: 1 } })
    expect(read({}, { THAW_CACHE_DISK: '2G', THAW_METRICS: ':2' })).toMatchObject({
      disk: { path: join(folder, 'c'), sizeBytes: 2 * GIB },
      metrics: { port: 2 },
    })
    expect(read({ cacheDir: 'f', metrics: 'none' }, { THAW_CACHE_DIR: '/e', THAW_CACHE_DISK: '2G' })).toMatchObject({
      disk: { path: join(folder, 'f'), sizeBytes: 2 * GIB },
      metrics: undefined,
    })
  })

  it('take paths from where they stand', () => {
    mkdirSync(join(folder, 'etc'))
    configure({ cacheDir: '../c', stateDir: 's', l2: ONE, l2Ca: 'ca.pem', l2PasswordFile: 'p' }, 'etc/thaw.json')
    expect(read({ config: 'etc/thaw.json' })).toMatchObject({
      disk: { path: join(folder, 'c') },
      stateDir: join(folder, 'etc/s'),
      l2: { caFile: join(folder, 'etc/ca.pem'), passwordFile: join(folder, 'etc/p') },
    })
    expect(read({}, { THAW_STATE_DIR: 's' }).stateDir).toBe(join(folder, 's'))
  })

  it('leave the size of a disk to its folder, and give none without a folder', () => {
    expect(read({ cacheDir: '/c' }).disk).toEqual({ path: '/c', sizeBytes: undefined })
    expect(read({ cacheDisk: '1G' }).disk).toBeUndefined()
  })

  it.each<[CacheFlags, Partial<CacheSettings>]>([
    [{ cacheDir: 'none' }, { disk: undefined }],
    [{ cacheDir: '0' }, { disk: undefined }],
    [{ cacheDisk: '0' }, { disk: undefined }],
    [{ l2: ['none'] }, { l2: undefined }],
    [{ l2: ['0'] }, { l2: undefined }],
    [{ cacheMemory: '0' }, { memoryBytes: 0 }],
    [{ cacheMemory: 'none' }, { memoryBytes: 0 }],
  ])('leave out what %j says', (flags, expected) => {
    configure({ cacheDir: 'c', l2: ONE, cacheMemory: '1G' })
    expect(read(flags)).toMatchObject(expected)
  })

  it('take one L2 node for a server, and ask what several are', () => {
    const standalone = { mode: 'standalone', erasure: false, password: undefined, passwordFile: undefined, caFile: undefined }
    expect(read({ l2: [ONE] }).l2).toEqual({ urls: [ONE], ...standalone })
    expect(read({ l2: [ONE, TWO], l2Mode: 'cluster' }).l2).toMatchObject({ urls: [ONE, TWO], mode: 'cluster' })
    for (const mode of ['standalone', 'cluster', 'shards']) expect(refusal({ l2: [ONE, TWO] })).toContain(mode)
  })

  it('take several nodes from the environment and the config', () => {
    expect(read({}, { THAW_L2: `${ONE}, ${TWO}`, THAW_L2_MODE: 'shards', THAW_L2_ERASURE: 'yes' }).l2).toMatchObject({
      urls: [ONE, TWO],
      mode: 'shards',
      erasure: true,
    })
    configure({ l2: [ONE, TWO], l2Mode: 'shards', l2Erasure: true })
    expect(read({}, { THAW_L2_ERASURE: '0' }).l2).toMatchObject({ urls: [ONE, TWO], mode: 'shards', erasure: false })
  })

  it('take the password from the nearest source', () => {
    configure({ l2: ONE, l2PasswordFile: 'file' })
    const secret = { THAW_L2_PASSWORD: 's3cret' }
    expect(read({}, secret).l2).toMatchObject({ password: 's3cret', passwordFile: undefined })
    expect(read({ l2PasswordFile: '/p' }, secret).l2).toMatchObject({ password: undefined, passwordFile: '/p' })
    const message = refusal({}, { ...secret, THAW_L2_PASSWORD_FILE: '/p' })
    expect(message).toContain('THAW_L2_PASSWORD_FILE')
    expect(message).not.toContain('s3cret')
  })

  it.each([
    [':9400', { host: '127.0.0.1', port: 9400 }],
    ['0.0.0.0:9400', { host: '0.0.0.0', port: 9400 }],
    ['[::1]:0', { host: '::1', port: 0 }],
  ])('read the address %s', (metrics, expected) => {
    expect(read({ metrics }).metrics).toEqual(expected)
  })
})

describe('a wrong setting', () => {
  it.each<[CacheFlags, Record<string, string>, string]>([
    [{ cacheMemory: 'lots' }, {}, '--cache-memory'],
    [{ cacheDir: 'c', cacheDisk: '10GB' }, {}, '--cache-disk'],
    [{ cacheDir: '' }, {}, '--cache-dir'],
    [{ l2: ['cache:6379'] }, {}, '--l2'],
    [{ l2: [ONE, 'none'] }, {}, '--l2'],
    [{ metrics: '9400' }, {}, '--metrics'],
    [{ metrics: ':99999' }, {}, '--metrics'],
    [{}, { THAW_CACHE_MEMORY: '-1' }, 'THAW_CACHE_MEMORY'],
    [{}, { THAW_L2: `${ONE} http://x` }, 'THAW_L2'],
    [{ l2: [ONE] }, { THAW_L2_MODE: 'ring' }, 'THAW_L2_MODE'],
    [{ l2: [ONE] }, { THAW_L2_ERASURE: 'perhaps' }, 'THAW_L2_ERASURE'],
  ])('is refused by the name of its source: %j %j', (flags, environment, source) => {
    expect(refusal(flags, environment)).toMatch(new RegExp(`^${source}\\b`))
  })

  it.each([
    ['cacheDisk', { cacheDir: 'c', cacheDisk: 'x' }],
    ['cacheDisk', { cacheDisk: true }],
    ['cacheDir', { cacheDir: 1 }],
    ['l2', { l2: [] }],
    ['l2', { l2: [1] }],
    ['l2', { l2: 'http://x' }],
    ['l2Mode', { l2: ONE, l2Mode: 'ring' }],
    ['l2Erasure', { l2Erasure: 'true' }],
    ['cacheSize', { cacheSize: 1 }],
  ])('in the config is refused by its member: %s of %j', (member, members) => {
    configure(members)
    const message = refusal()
    expect(message).toContain(join(folder, 'thaw.json'))
    expect(message).toContain(member)
  })

  it('does not show a password', () => {
    expect(refusal({ l2: ['redis://user:s3cret@cache', 'http://user:s3cret@cache'] })).not.toContain('s3cret')
    expect(refusal({ l2: [TWO, ONE] })).not.toContain('s3cret')
    configure({ l2: { url: TWO } })
    expect(refusal()).not.toContain('s3cret')
  })
})
