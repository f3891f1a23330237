/**
 * A disk cache on disks that are full, read-only, hung or spoilt, and with processes that are killed: what it gives is whole or nothing or for the hash to find,
 * the bound holds again, and filling goes on when the fault ends.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process'
import { hash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import fs from 'node:fs'
import { chmod, mkdir, mkdtemp, open as openFile, readdir, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { type DiskCacheOptions, openDiskCache } from '../../src/cache/disk.ts'
import type { SealedCache } from '../../src/cache.ts'
import { bytesIn, entriesIn, entryPath, eventually, roleOf, TurnClock } from '../cache/disk-folder.ts'
import { codeOfAsync } from '../code-of.ts'
import { badSectors } from './bad-sectors.ts'
import { mountTmpfs, type Tmpfs } from './tmpfs.ts'

const CHILD = join(import.meta.dirname, 'disk-cache-child.ts')
const MIB = 2 ** 20
const ENTRY_BYTES = 256 * 1024
const OFF_MS = 30_000

let path: string
let clock: TurnClock
let opened: SealedCache[]
let mounted: Tmpfs | undefined

beforeEach(async () => {
  path = await mkdtemp(join(tmpdir(), 'thaw-disk-fault-'))
  clock = new TurnClock()
  opened = []
})
afterEach(async () => {
  for (const cache of opened) await cache.close()
  mounted?.[Symbol.dispose]()
  mounted = undefined
  await rm(path, { recursive: true, force: true })
})

async function open(options: Partial<DiskCacheOptions> = {}): Promise<SealedCache> {
  const cache = await clock.opened(openDiskCache({ path, sizeBytes: 64 * MIB, clock, ...options }))
  opened.push(cache)
  return cache
}

/** Keeps a new entry; its id, or undefined if it was not kept. */
async function putNew(cache: SealedCache, sizeBytes = ENTRY_BYTES): Promise<string | undefined> {
  const sealed = randomBytes(sizeBytes)
  const id = hash('sha256', sealed)
  return (await cache.put(id, sealed)) ? id : undefined
}

const get = (cache: SealedCache, id: string) => cache.get(id, sizeBytes => Buffer.alloc(sizeBytes))

/** Whether the right bytes come. */
async function serves(cache: SealedCache, id: string): Promise<boolean> {
  const found = await get(cache, id)
  return found !== undefined && hash('sha256', found) === id
}

/** Bytes of the disk that nobody uses, as `df` says. */
function availableBytes(): number {
  return Number(execFileSync('df', ['--output=avail', '-B1', path], { encoding: 'utf8' }).split('\n')[1])
}

describe('a small disk', () => {
  it('keeps 5 % free, and gives way to others', async () => {
    mounted = mountTmpfs(path, 'size=16m')
    const cache = await open()
    for (let count = 0; count < 100; count++) expect(await putNew(cache)).toBeDefined()
    expect(availableBytes()).toBeGreaterThanOrEqual(0.05 * 16 * MIB)
    expect(await bytesIn(path)).toBeGreaterThan(14 * MIB)
    await writeFile(join(path, 'other'), randomBytes(0.7 * MIB))
    await clock.advance(OFF_MS)
    await eventually(() => availableBytes() >= 0.05 * 16 * MIB)
    await rm(join(path, 'other'))
    await clock.advance(OFF_MS)
    expect(await putNew(cache)).toBeDefined()
  })

  it('that others filled up takes nothing, keeps serving, and is filled again once there is room', async () => {
    mounted = mountTmpfs(path, 'size=16m')
    const cache = await open()
    const ids = [await putNew(cache), await putNew(cache)].map(id => id!)
    await fillUp(join(path, 'other'))
    const late = []
    for (let count = 0; count < 70; count++) late.push(await putNew(cache))
    expect(late.filter(id => id === undefined).length).toBeGreaterThan(0)
    expect((await cache.describe()).details.fill).toBe('off')
    expect(await readdir(join(path, 'v1', 'tmp'))).toEqual([])
    for (const id of ids) expect(await serves(cache, id)).toBe(true)
    await rm(join(path, 'other'))
    expect(await putNew(cache)).toBeUndefined()
    await clock.advance(OFF_MS)
    const id = await putNew(cache)
    expect(id !== undefined && (await serves(cache, id))).toBe(true)
    expect(await cache.describe()).toMatchObject({ remark: undefined, details: { fill: 'on' } })
  })

  it('that is full when it is opened takes nothing', async () => {
    mounted = mountTmpfs(path, 'size=16m')
    await (await open()).close()
    await fillUp(join(path, 'other'))
    const cache = await open()
    expect(await putNew(cache)).toBeUndefined()
    expect((await cache.describe()).state).toBe('up')
  })
})

describe('a read-only disk', () => {
  it('is read, and filled again when it can be written', async () => {
    mounted = mountTmpfs(path, 'size=16m')
    const cache = await open()
    const id = (await putNew(cache))!
    mounted.remount('ro')
    expect(await putNew(cache)).toBeUndefined()
    expect((await cache.describe()).remark).toContain('EROFS')
    expect(await serves(cache, id)).toBe(true)
    await expect(cache.evict(id)).rejects.toMatchObject({ code: 'DENIED', tier: 'disk' })
    mounted.remount('rw')
    expect(await putNew(cache)).toBeUndefined()
    await clock.advance(OFF_MS)
    expect(await putNew(cache)).toBeDefined()
  })

  it('is opened and closed', async () => {
    mounted = mountTmpfs(path, 'size=16m')
    const before = await open()
    const id = (await putNew(before))!
    await before.close()
    mounted.remount('ro')
    const cache = await open()
    expect(await serves(cache, id)).toBe(true)
    expect(await putNew(cache)).toBeUndefined()
    await cache.close()
    mounted.remount('rw')
    expect(await serves(await open(), id)).toBe(true)
  })

  it('cannot get a folder', async () => {
    mounted = mountTmpfs(path, 'size=1m,ro')
    await expect(open({ path: join(path, 'cache') })).rejects.toMatchObject({ code: 'DENIED', tier: 'disk' })
  })
})

describe('a file', () => {
  it('that was deleted under a reader is a miss, and can be filled again', async () => {
    const cache = await open()
    const sealed = randomBytes(5000)
    const id = hash('sha256', sealed)
    await cache.put(id, sealed)
    await rm(entryPath(path, id))
    expect(await get(cache, id)).toBeUndefined()
    expect(await cache.describe()).toMatchObject({ entries: 0, bytes: 0 })
    expect(await cache.put(id, sealed)).toBe(true)
    expect(await serves(cache, id)).toBe(true)
  })

  it.each([0, 1, 4096, 4999])('cut to %i bytes gives no more than that, if that many are wanted', async length => {
    const cache = await open()
    const id = (await putNew(cache, 5000))!
    await truncate(entryPath(path, id), length)
    const strict = (sizeBytes: number): Uint8Array => {
      if (sizeBytes !== 5000) throw new RangeError('not the length of that chunk')
      return Buffer.alloc(sizeBytes)
    }
    expect(await codeOfAsync(() => cache.get(id, strict))).toBe('RangeError')
    expect(await get(cache, id)).toHaveLength(length)
    expect((await cache.describe()).bytes).toBe(Math.max(1, Math.ceil(length / 4096)) * 4096)
  })

  it('that grew is given as it is, in no less memory than it was asked for', async () => {
    const cache = await open()
    const id = (await putNew(cache, 5000))!
    await truncate(entryPath(path, id), 9000)
    const memory = Buffer.alloc(9500, 0xee)
    expect(await cache.get(id, () => memory)).toHaveLength(9000)
    expect(memory.subarray(9000).every(byte => byte === 0xee)).toBe(true)
    expect((await cache.describe()).bytes).toBe(3 * 4096)
  })

  it('with a flipped bit is given as it is, evicted by whoever notices, and replaced', async () => {
    const cache = await open()
    const sealed = randomBytes(5000)
    const id = hash('sha256', sealed)
    await cache.put(id, sealed)
    const file = await openFile(entryPath(path, id), 'r+')
    await file.write(Buffer.of(sealed[1234]! ^ 1), 0, 1, 1234)
    await file.close()
    expect(await serves(cache, id)).toBe(false)
    await cache.evict(id)
    expect(await get(cache, id)).toBeUndefined()
    await cache.put(id, sealed)
    expect(await serves(cache, id)).toBe(true)
  })

  it.each<[string, (file: string) => Promise<void>]>([
    ['a folder', async file => mkdir(file)],
    ['a folder with something in it', async file => void (await mkdir(join(file, 'a', 'b'), { recursive: true }))],
    ['a pipe', async file => void execFileSync('mkfifo', [file])],
    ['a link to another file', async file => symlink('/etc/passwd', file)],
    ['a link to itself', async file => symlink(file, file)],
  ])('that is %s is a bad copy, is never followed or waited for, and is replaced', async (_, make) => {
    const cache = await open()
    const sealed = randomBytes(5000)
    const id = hash('sha256', sealed)
    for (const evicts of [true, false]) {
      await cache.put(id, sealed)
      await rm(entryPath(path, id))
      await make(entryPath(path, id))
      await expect(get(cache, id)).rejects.toMatchObject({ code: 'CORRUPT', tier: 'disk' })
      await clock.turn()
      if (evicts) await cache.evict(id)
      expect(await cache.put(id, sealed)).toBe(true)
      expect(await serves(cache, id)).toBe(true)
    }
  })

  it('with a bad sector is a bad copy, and a good one takes its place', async () => {
    const cache = await open()
    const sealed = randomBytes(5000)
    const id = hash('sha256', sealed)
    await cache.put(id, sealed)
    using bad = badSectors([entryPath(path, id)])
    await expect(get(cache, id)).rejects.toMatchObject({ code: 'CORRUPT', tier: 'disk' })
    expect(bad.reads).toBe(1)
    // Nobody evicted it, and what is put is the same: it is read before it is said to be there.
    expect(await cache.put(id, sealed)).toBe(true)
    expect(await serves(cache, id)).toBe(true)
    expect(bad.reads).toBe(2)
  })

  it('that cannot even be unlinked is moved aside, so that a good copy has its name', async () => {
    const cache = await open()
    const id = (await putNew(cache, 5000))!
    const unlink = vi
      .spyOn(fs, 'unlink')
      .mockImplementation((_, done) => done(Object.assign(new Error('EIO'), { code: 'EIO', syscall: 'unlink' })))
    await cache.evict(id)
    unlink.mockRestore()
    expect(await get(cache, id)).toBeUndefined()
    expect(await readdir(join(path, 'v1', 'tmp'))).toHaveLength(1)
  })

  it('of absurd length is no entry', async () => {
    await (await open({ sizeBytes: 8 * MIB })).close()
    const id = hash('sha256', 'x')
    await mkdir(join(path, 'v1', id.slice(0, 2)))
    await writeFile(entryPath(path, id), '')
    await truncate(entryPath(path, id), 2 ** 40)
    const cache = await open({ sizeBytes: 8 * MIB })
    expect(await cache.describe()).toMatchObject({ entries: 0, bytes: 0 })
    expect(await get(cache, id)).toBeUndefined()
  })

  it('that hangs is a TIMEOUT, the disk is down until it answers, and the memory was never asked for', async () => {
    const cache = await open()
    const [id, other] = [(await putNew(cache, 5000))!, (await putNew(cache, 5000))!]
    const answers: (() => void)[] = []
    const real = fs.open
    const opening = vi.spyOn(fs, 'open').mockImplementation(((...args: Parameters<typeof fs.open>) => {
      answers.push(() => real(...args))
    }) as typeof fs.open)
    const failed = expect(cache.get(id, refuse)).rejects.toMatchObject({ code: 'TIMEOUT', tier: 'disk' })
    await clock.advance(2000)
    await failed
    opening.mockRestore()
    await expect(get(cache, other)).rejects.toMatchObject({ code: 'UNAVAILABLE', tier: 'disk' })
    expect((await cache.describe()).state).toBe('down')
    for (const answer of answers) answer()
    await eventually(async () => (await cache.describe()).state === 'up')
    expect(await serves(cache, other)).toBe(true)
  })
})

const refuse = (): never => {
  throw new Error('not to be asked')
}

describe('a second user', () => {
  it('is denied a folder that is not theirs, also to look', async () => {
    await (await open()).close()
    await chmod(path, 0o755)
    process.seteuid!(65_534)
    try {
      for (const observe of [false, true]) await expect(open({ observe })).rejects.toMatchObject({ code: 'DENIED', tier: 'disk' })
    } finally {
      process.seteuid!(0)
    }
  })
})

describe('a process', () => {
  it('killed while it writes leaves no wrong entry and no rubbish, and the bound is kept', { timeout: 120_000 }, async () => {
    const sizeBytes = 8 * MIB
    for (const kill of [0, 4]) {
      const child = await startChild(sizeBytes)
      expect(child.role).toBe('owner')
      // Sometimes before the cache is full, sometimes long after, each time at another moment of writing.
      await child.puts(5 + 10 * kill)
      await new Promise(resolve => setTimeout(resolve, kill))
      await child.kill()
      await writeFile(join(path, 'v1', 'tmp', `${child.pid}.0123456789ab.0`), 'half')
      const cache = await open({ sizeBytes })
      expect(await roleOf(cache)).toBe('owner')
      expect(await readdir(join(path, 'v1', 'tmp'))).toEqual([])
      const entries = await entriesIn(path)
      expect(entries.size).toBeGreaterThan(0)
      for (const id of entries.keys()) expect(await serves(cache, id)).toBe(true)
      expect(await bytesIn(path)).toBeLessThanOrEqual(sizeBytes)
      expect(await cache.describe()).toMatchObject({ entries: entries.size, bytes: await bytesIn(path) })
      await cache.close()
    }
  })

  it('that owned the folder is replaced when it is killed', async () => {
    const child = await startChild(8 * MIB)
    const cache = await open({ sizeBytes: 8 * MIB })
    expect(await roleOf(cache)).toBe('guest')
    expect((await cache.describe()).details.ownerPid).toBe(child.pid)
    await child.puts(3)
    await child.kill()
    await clock.turn()
    expect(await roleOf(cache)).toBe('owner')
    expect(await bytesIn(path)).toBeLessThanOrEqual(8 * MIB)
  })

  it('beside another that fills keeps the bound between them', async () => {
    const owner = await open({ sizeBytes: 8 * MIB })
    const children = await Promise.all([startChild(8 * MIB), startChild(8 * MIB)])
    for (const child of children) expect(child.role).toBe('guest')
    await Promise.all([...children.map(child => child.puts(20)), ...Array.from({ length: 40 }, () => putNew(owner))])
    for (const child of children) await child.kill()
    expect(await bytesIn(path)).toBeLessThanOrEqual(10 * MIB)
    await clock.turn()
    expect(await bytesIn(path)).toBeLessThanOrEqual(8 * MIB)
    for (const id of (await entriesIn(path)).keys()) expect(await serves(owner, id)).toBe(true)
  })
})

interface Child {
  readonly pid: number
  readonly role: string
  /** Settles when so many puts were made. */
  puts(count: number): Promise<void>
  kill(): Promise<void>
}

async function startChild(sizeBytes: number): Promise<Child> {
  const child: ChildProcess = spawn(process.execPath, [CHILD, path, `${sizeBytes}`, `${ENTRY_BYTES}`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const exited = once(child, 'exit')
  let [role, done] = ['', 0]
  createInterface({ input: child.stdout! }).on('line', line => {
    const [word, value] = line.split(' ')
    if (word === 'open') role = value!
    else done = Number(value)
  })
  await eventually(() => role !== '')
  return {
    pid: child.pid!,
    role,
    puts: count => eventually(() => done >= count),
    kill: async () => {
      child.kill('SIGKILL')
      await exited
    },
  }
}

async function fillUp(file: string): Promise<void> {
  const handle = await openFile(file, 'w')
  try {
    for (;;) await handle.write(Buffer.alloc(64 * 1024))
  } catch {
    expect((await stat(file)).size).toBeGreaterThan(MIB)
  } finally {
    await handle.close()
  }
}
