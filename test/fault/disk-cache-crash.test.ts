/**
 * A disk cache whose process is gone at any moment: the folder as it lies before every call that changes
 * a file is copied and opened. What it gives is right, its bound holds, and it is filled again.
 *
 * That the lock is free when its holder is killed is the kernel's work: test/util/lock-file.test.ts.
 */
import { hash } from 'node:crypto'
import fs from 'node:fs'
import { mkdtemp, readdir, rename, rm, writeFile } from 'node:fs/promises'
import { syncBuiltinESMExports } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { openDiskCache, resizeDiskCache } from '../../src/cache/disk.ts'
import type { SealedCache } from '../../src/cache.ts'
import { bytesIn, entriesIn, entryPath, TurnClock } from '../cache/disk-folder.ts'

const BLOCK = 4096
/** Of those by which the cache changes files. */
const CHANGES = ['open', 'write', 'rename', 'unlink', 'openSync', 'writeSync', 'ftruncateSync', 'rmSync', 'mkdir'] as const
/** Above all that Linux gives. */
const DEAD_PID = 4_194_305

let folder: string
let path: string

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'thaw-disk-crash-'))
  path = join(folder, 'cache')
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const bodyOf = (number: number): Buffer => Buffer.alloc(BLOCK, number)
const idOf = (number: number): string => hash('sha256', bodyOf(number))
const put = (cache: SealedCache, number: number): Promise<boolean> => cache.put(idOf(number), bodyOf(number))

/** Runs `work`; the folder as it is before each change is copied to one of its own. */
async function copiesDuring(work: () => Promise<void>): Promise<string[]> {
  const copies: string[] = []
  let copying = false
  const copy = (): void => {
    if (copying) return
    copying = true
    copies.push(join(folder, `${copies.length}`))
    if (fs.existsSync(path)) fs.cpSync(path, copies.at(-1)!, { recursive: true })
    copying = false
  }
  const patched = [fs, fs.promises].flatMap(calls => CHANGES.filter(name => name in calls).map(name => [calls, name] as const))
  const undo = patched.map(([calls, name]) => {
    const real = Reflect.get(calls, name)
    Reflect.set(calls, name, (...args: unknown[]) => {
      const readsOnly = name === 'open' && args[1] !== 'wx'
      if (!readsOnly) copy()
      return Reflect.apply(real, calls, args)
    })
    return () => Reflect.set(calls, name, real)
  })
  syncBuiltinESMExports()
  try {
    await work()
  } finally {
    for (const one of undo) one()
    syncBuiltinESMExports()
  }
  return copies
}

it('serves what it has, within a bound, and goes on', { timeout: 120_000 }, async () => {
  const copies = await copiesDuring(async () => {
    const clock = new TurnClock()
    const first = await clock.opened(openDiskCache({ path, sizeBytes: 16 * BLOCK, clock }))
    for (let number = 0; number < 20; number++) expect(await put(first, number)).toBe(true)
    await first.evict(idOf(18))
    await writeFile(entryPath(path, idOf(17)), 'bad')
    expect(await put(first, 17)).toBe(true)
    await resizeDiskCache({ path, sizeBytes: 8 * BLOCK })
    await clock.turn()
    await first.close()
    const second = await clock.opened(openDiskCache({ path, sizeBytes: 12 * BLOCK, clock }))
    await clock.turn()
    expect(await put(second, 30)).toBe(true)
    await second.close()
  })
  expect(copies.length).toBeGreaterThan(100)
  const bounds = new Set<number | undefined>()
  for (const copy of copies) bounds.add(await look(copy))
  // Before the first bound was written it is the default.
  expect(bounds).toEqual(new Set([10 * 2 ** 30, 16 * BLOCK, 8 * BLOCK, 12 * BLOCK]))
})

/** Opens what a crash left; its bound. */
async function look(copy: string): Promise<number | undefined> {
  const clock = new TurnClock()
  const temporary = join(copy, 'v1', 'tmp')
  for (const name of await readdir(temporary).catch(() => []))
    await rename(join(temporary, name), join(temporary, name.replace(/^\d+/, `${DEAD_PID}`)))
  const cache = await clock.opened(openDiskCache({ path: copy, clock }))
  try {
    const { entries, bytes, bytesMax, details } = await cache.describe()
    expect(details.role).toBe('owner')
    expect([entries, bytes]).toEqual([(await entriesIn(copy)).size, await bytesIn(copy)])
    expect(bytes).toBeLessThanOrEqual(bytesMax!)
    for (const id of (await entriesIn(copy)).keys()) {
      const found = await cache.get(id, sizeBytes => Buffer.alloc(sizeBytes))
      // What somebody else wrote there is found by its hash.
      if (String(found) !== 'bad') expect(hash('sha256', found!)).toBe(id)
    }
    for (let number = 40; number < 43; number++) expect(await put(cache, number)).toBe(true)
    expect(await bytesIn(copy)).toBeLessThanOrEqual(bytesMax!)
    return bytesMax
  } finally {
    await cache.close()
    expect(await readdir(temporary)).toEqual([])
    // The lock is an empty file where its holder was killed.
    const others = (await readdir(join(copy, 'v1'))).filter(name => name.length > 2 && name !== 'bound.lock')
    expect(others.sort()).toEqual(['bound', 'index', 'tmp'])
  }
}
